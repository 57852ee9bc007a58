"""The memories that benchmarks look at: one that real use gives, and a random one without any structure."""

from __future__ import annotations

import math

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, MemoryBlock, lift

SIZE = (44, 80)  # latent cells of 704 x 1280
_ROOM = torch.tensor([[-6.0, -3.0, -6.0], [6.0, 1.5, 6.0]], dtype=torch.float64)


def walk(frames: int, *, start: float = 0.0, turns: float = 2.0) -> Cameras:
    """A walk on a circle through the room that looks all around; `turns` of the view per round."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    for frame in range(frames):
        round_ = start + frame / max(frames, 1)
        heading = 2 * math.pi * turns * round_
        cosine, sine = math.cos(heading), math.sin(heading)
        cam2world[frame, :3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        angle = 2 * math.pi * round_
        cam2world[frame, :3, 3] = torch.tensor([3 * math.cos(angle), 0, 3 * math.sin(angle)])
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).repeat(frames, 1, 1), SIZE)


def target_cameras(frames: int = 9) -> Cameras:
    """The cameras of one segment: 9 neighbours on the walk."""
    return walk(360, start=0.1)[list(range(0, frames))]


def walked_memory(count: int) -> LatentMemory:
    """`count` points as real use gives them: every frame of a walk lifted, one block per latent frame.

    Depth is wrong by 1 % of its own in every frame, smoothly over the image, as that of a network is.
    """
    generator = torch.Generator().manual_seed(0)
    cells = SIZE[0] * SIZE[1]
    cameras, memory = walk(math.ceil(count / cells)), LatentMemory.empty(WAN22)
    for frame in range(len(cameras)):
        error = torch.randn(1, 1, 4, 7, generator=generator, dtype=torch.float64) * 0.01
        error = torch.nn.functional.interpolate(error, SIZE, mode="bicubic")[0]
        depth = _room_depth(cameras[frame]) * (1 + error)
        is_static = torch.ones(1, *SIZE, dtype=torch.bool)
        is_static.view(-1)[count - memory.count :] = False
        latents = torch.randn(WAN22.channels, 1, *SIZE, generator=generator)
        memory = memory.extended(
            lift(latents, depth.float(), cameras[frame], WAN22, is_static=is_static, first_latent_index=frame)
        )
    return memory


def random_memory(count: int) -> LatentMemory:
    """`count` points anywhere in the room, each a randomly turned patch, in one block."""
    generator = torch.Generator().manual_seed(0)
    low, high = _ROOM.float()
    sides = torch.randn(count, 2, 3, generator=generator) * 0.05
    block = MemoryBlock(
        points=low + (high - low) * torch.rand(count, 3, generator=generator),
        latents=torch.randn(count, WAN22.channels, generator=generator),
        latent_index=torch.zeros(count, dtype=torch.int32),
        confidence=torch.ones(count),
        footprints=sides.norm(dim=-1).amax(dim=-1),
        sides=sides,
    )
    return LatentMemory.empty(WAN22).extended(block)


def _room_depth(camera: Cameras) -> torch.Tensor:
    """[1 rows columns] float64 depth of the room's walls from inside."""
    rows, columns = SIZE
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    rays = pixels @ torch.linalg.inv(camera.intrinsics[0]).T @ camera.cam2world[0, :3, :3].T
    walls = torch.where(rays > 0, _ROOM[1], _ROOM[0])
    return ((walls - camera.centers[0]) / rays).amin(dim=-1)[None]
