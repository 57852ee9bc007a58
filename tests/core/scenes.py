"""Scenes of flat rectangles with exact depth: the truth that depth, memory and projection are tested against.

World axes are OpenCV's (+x right, +y down, +z forward). A scene is a list of rectangles; each is one surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mirage_core.camera import Cameras


@dataclass(frozen=True)
class Rectangle:
    """corner + a * side_a + b * side_b for a, b in [0, 1]; world coordinates."""

    corner: tuple[float, float, float]
    side_a: tuple[float, float, float]
    side_b: tuple[float, float, float]


@dataclass(frozen=True)
class RayHits:
    """depth [frames H W] float64 z-depth, 0 where nothing is hit.  surface [frames H W] int64, -1 where nothing is."""

    depth: torch.Tensor
    surface: torch.Tensor


def wall(z: float, *, half_width: float = 100.0, half_height: float = 100.0) -> Rectangle:
    """A wall across the view, seen head-on by a camera at the origin."""
    return Rectangle((-half_width, -half_height, z), (2 * half_width, 0, 0), (0, 2 * half_height, 0))


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> list[Rectangle]:
    """The six faces of an axis-aligned box: a room from inside, an object from outside."""
    (x, y, z), (u, v, w) = low, high
    across, down, deep = (u - x, 0.0, 0.0), (0.0, v - y, 0.0), (0.0, 0.0, w - z)
    return [
        Rectangle(low, across, down),
        Rectangle((x, y, w), across, down),
        Rectangle(low, deep, down),
        Rectangle((u, y, z), deep, down),
        Rectangle(low, across, deep),
        Rectangle((x, v, z), across, deep),
    ]


def furnished_room() -> list[Rectangle]:
    """A room of 6 x 3 x 9 with two boxes standing in it; a camera at the origin looks along it."""
    room = box((-3.0, -1.7, -1.0), (3.0, 1.3, 8.0))
    return room + box((-1.6, 0.1, 3.2), (-0.6, 1.3, 4.2)) + box((0.7, -0.6, 4.6), (1.9, 1.3, 5.4))


def ray_cast(scene: list[Rectangle], cameras: Cameras, image_size: tuple[int, int]) -> RayHits:
    """What each camera sees through the centres of the pixels of an image of `image_size` (or of latent cells)."""
    height, width = image_size
    at_size = cameras.resized(image_size)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    rays = torch.einsum("fij,hwj->fhwi", at_size.cam2world[:, :3, :3] @ torch.linalg.inv(at_size.intrinsics), pixels)
    depth = torch.full(rays.shape[:3], torch.inf, dtype=torch.float64)
    surface = torch.full(rays.shape[:3], -1, dtype=torch.int64)
    for index, rectangle in enumerate(scene):
        hit = _depth_of(rectangle, at_size.centers[:, None, None], rays)
        is_nearer = hit < depth
        depth = torch.where(is_nearer, hit, depth)
        surface = torch.where(is_nearer, index, surface)
    return RayHits(torch.where(depth.isfinite(), depth, 0.0), surface)


def _depth_of(rectangle: Rectangle, centers: torch.Tensor, rays: torch.Tensor) -> torch.Tensor:
    """Depth at which `rays` [frames H W 3] of z-depth 1 meet the rectangle; inf where they miss it."""
    corner, side_a, side_b = (
        torch.tensor(vector, dtype=torch.float64) for vector in (rectangle.corner, rectangle.side_a, rectangle.side_b)
    )
    normal = torch.linalg.cross(side_a, side_b)
    depth = ((corner - centers) @ normal) / (rays @ normal)
    on_plane = centers + depth[..., None] * rays - corner
    a, b = on_plane @ side_a / side_a.dot(side_a), on_plane @ side_b / side_b.dot(side_b)
    is_hit = (depth > 1e-9) & depth.isfinite() & (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
    return torch.where(is_hit, depth, torch.inf)
