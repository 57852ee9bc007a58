"""Small films with exact geometry, made in milliseconds: a camera that turns out and back in a box room."""

from __future__ import annotations

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import room_depth
from mirage_core.latent_grid import WAN22
from mirage_core.path_presets import preset
from training.nano_films import Film
from training.worlds import Frames

SIZE = (64, 64)
CELLS = WAN22.size_of(SIZE)


def cameras_of(frames: int) -> Cameras:
    path = preset("out_and_back", move="pan_left", amount=50, easing="linear")
    return path.cameras(frames, intrinsics=pinhole_intrinsics(70, SIZE), image_size=SIZE)


def film(frames: int = 97, *, seed: int = 0) -> Film:
    """A film of random latents whose places keep theirs when the camera comes back."""
    cameras = cameras_of(frames)[:: WAN22.temporal_stride]
    count = len(cameras)
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(48, count // 2 + 1, *CELLS, generator=generator)
    latents = torch.cat([out, out[:, :-1].flip(1)], dim=1)
    is_static = torch.ones(count, *CELLS, dtype=torch.bool)
    return Film(latents, room_depth(cameras.resized(CELLS)), is_static, cameras, ("room",))


def frames(count: int = 65, *, seed: int = 0) -> Frames:
    """Pictures of noise with the room's depth; a mover stands in the upper left corner of the first half."""
    cameras = cameras_of(count)
    rgb = torch.rand(count, *SIZE, 3, generator=torch.Generator().manual_seed(seed))
    is_mover = torch.zeros(count, *SIZE, dtype=torch.bool)
    is_mover[: count // 2, :24, :24] = True
    nothing = torch.zeros_like(is_mover)
    times = torch.arange(count) / 16
    return Frames(rgb, room_depth(cameras), nothing, is_mover, is_mover.long() - 1, cameras, times.double())
