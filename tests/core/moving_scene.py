"""A furnished room with texture, a box that slides through it and a gap to the sky: exact movers, sky and depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics

from .scenes import Rectangle, box, furnished_room, ray_cast


@dataclass(frozen=True)
class Filmed:
    """pictures [frames H W 3] in [0, 1], depth [frames H W] (0 where nothing is hit: the sky), exact masks, cameras."""

    pictures: torch.Tensor
    depth: torch.Tensor
    is_moving: torch.Tensor
    is_sky: torch.Tensor
    cameras: Cameras


def filmed(
    frames: int = 9,
    size: tuple[int, int] = (96, 160),
    *,
    speed: float = 0.12,
    truck: float = 0.06,
    is_open: bool = True,
) -> Filmed:
    """speed: of the box per frame, to the right; truck: of the camera, to the left, both in world units.

    is_open: the wall at the far end is missing.
    """
    room = furnished_room()
    if is_open:
        del room[1]
    shots = []
    for frame in range(frames):
        cam2world = torch.eye(4, dtype=torch.float64)[None].clone()
        cam2world[:, 0, 3] = -truck * frame
        camera = Cameras(cam2world, pinhole_intrinsics(70, size)[None], size)
        x = -0.9 + speed * frame
        mover = box((x, -0.5, 2.6), (x + 0.8, 0.5, 3.0))
        hits = ray_cast(room + mover, camera, size)
        is_moving = hits.surface >= len(room)
        shots.append((_painted(room + mover, hits.depth, hits.surface, camera, x, len(room)), hits, is_moving, camera))
    return Filmed(
        torch.cat([shot[0] for shot in shots]),
        torch.cat([shot[1].depth for shot in shots]).float(),
        torch.cat([shot[2] for shot in shots]),
        torch.cat([shot[1].surface < 0 for shot in shots]),
        Cameras.joined([shot[3] for shot in shots]),
    )


def _painted(
    scene: list[Rectangle], depth: torch.Tensor, surface: torch.Tensor, camera: Cameras, shift: float, first: int
) -> torch.Tensor:
    """[1 H W 3] a texture that sits in the world, and on the mover in the mover; a smooth sky."""
    height, width = depth.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.intrinsics[0]).T
    points = rays * depth[0][..., None] + camera.centers[0]
    points[..., 0] -= torch.where(surface[0] >= first, shift, 0.0)
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(24, 3, generator=generator).double() * 4
    phases = torch.rand(24, generator=generator).double() * 6.28
    mix = torch.randn(24, 3, generator=generator).double() / 24**0.5
    painted = 0.5 + 0.22 * (torch.sin(points @ waves.T + phases) @ mix)
    painted = painted + 0.1 * torch.sin(surface[0].double() * 2.4)[..., None]
    sky = torch.stack([0.5 + 0.3 * y / height, 0.7 + 0 * y, torch.ones_like(y)], -1)
    return torch.where(surface[0][..., None] < 0, sky, painted).clamp(0, 1)[None].float()
