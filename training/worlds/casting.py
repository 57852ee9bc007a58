"""Exact ray casting of many pixels at once: which shape does a ray hit first, and at which depth.

Rays are p = origin + t * direction. With camera directions of z = 1 in the camera's frame, t is the z-depth. Pixels are
handled in square tiles; planes through a tile's edges tell which shapes it can see at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mirage_core.camera import Cameras

from .shapes import BOX, ELLIPSOID, FRUSTUM, POLYHEDRON, Shapes, to_own_axes

TILE = 16
_NEAR = 1e-3
_RAYS_AT_ONCE = 400_000  # ray-shape pairs per batch: their float32 temporaries stay in the cache

Rays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Hits(NamedTuple):
    """What each pixel sees: z-depth [frames H W] float32 (inf: nothing) and shape [frames H W] int64 (-1: nothing)."""

    depth: torch.Tensor
    shape: torch.Tensor


def pixel_directions(cameras: Cameras) -> torch.Tensor:
    """[frames H W 3] float32 world directions through the pixel centres, of z = 1 in the camera's frame."""
    height, width = cameras.image_size
    x, y = torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(height, dtype=torch.float64) + 0.5
    matrix = cameras.cam2world[:, :3, :3] @ torch.linalg.inv(cameras.intrinsics)
    across, down, ahead = matrix.float()[:, :, :, None, None].unbind(2)
    directions = across * x.float() + down * y.float()[:, None] + ahead
    return directions.movedim(1, -1)


def cast(cameras: Cameras, shapes: Shapes, centers: torch.Tensor) -> Hits:
    """First hits of all pixels.

    centers: [frames n 3] float64, where each shape is in each frame.
    """
    height, width = cameras.image_size
    padded = Cameras(cameras.cam2world, cameras.intrinsics, (-(-height // TILE) * TILE, -(-width // TILE) * TILE))
    found = [
        _cast_frames(padded[list(part)], shapes, centers[part.start : part.stop])
        for part in _parts(len(cameras), padded.image_size)
    ]
    return Hits(*(torch.cat(one)[:, :height, :width] for one in zip(*found, strict=True)))


def _parts(frames: int, image_size: tuple[int, int]) -> list[range]:
    step = max(1, int(_RAYS_AT_ONCE / (6 * image_size[0] * image_size[1])))  # about six shapes per tile
    return [range(start, min(start + step, frames)) for start in range(0, frames, step)]


def _cast_frames(cameras: Cameras, shapes: Shapes, centers: torch.Tensor) -> Hits:
    frames, (height, width) = len(cameras), cameras.image_size
    relative = (cameras.centers[:, None] - centers).float()  # the camera as seen from each shape
    tiles, members = _visible_pairs(cameras, shapes, relative)
    frame_of = tiles // ((height // TILE) * (width // TILE))
    directions = _tiled(pixel_directions(cameras))
    depth = torch.full((len(directions), TILE * TILE), torch.inf)
    shape = torch.full((len(directions), TILE * TILE), -1)
    found = torch.empty(len(tiles), TILE * TILE)
    for kind, intersect in _INTERSECT.items():
        index = (shapes.kind[members] == kind).nonzero()[:, 0]
        if len(index):
            member = members[index]
            origins = to_own_axes(relative[frame_of[index], member], shapes.yaw[member])
            rays = _turned(directions[tiles[index]], shapes.yaw[member])
            found[index] = intersect(origins, rays, shapes[member])
    for part in _by_rank(tiles):
        at, depths = tiles[part], found[part]
        known = depth[at]
        is_nearer = depths < known
        depth[at] = torch.where(is_nearer, depths, known)
        shape[at] = torch.where(is_nearer, members[part][:, None], shape[at])
    return Hits(*(_untiled(one, frames, height, width) for one in (depth, shape)))


def _visible_pairs(cameras: Cameras, shapes: Shapes, relative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(tile, shape) pairs that may meet, sorted by tile. Never leaves out a pair that does."""
    corners = shapes.corners() - relative[:, :, None]  # [frames n 8 3], from the camera
    in_camera = torch.einsum("fij,fnkj->fnki", cameras.cam2world[:, :3, :3].mT.float(), corners)
    is_ahead = in_camera[..., 2].amax(-1) > 0
    intrinsics = cameras.intrinsics.float()
    overlaps = []
    for axis, length in ((1, cameras.image_size[0]), (0, cameras.image_size[1])):
        edges = torch.arange(0, length + 1, TILE).float()
        slope = (edges - intrinsics[:, axis, 2, None]) / intrinsics[:, axis, axis, None]  # [frames edges]
        side = in_camera[..., axis][:, None] - slope[:, :, None, None] * in_camera[..., 2][:, None]
        reaches_after = side.amax(-1)[:, :-1] >= 0
        reaches_before = side.amin(-1)[:, 1:] <= 0
        overlaps.append(reaches_after & reaches_before)  # [frames tiles n]
    rows, columns = overlaps
    pairs = (rows[:, :, None] & columns[:, None] & is_ahead[:, None, None]).flatten(0, 2).nonzero()
    return pairs[:, 0], pairs[:, 1]


def _tiled(directions: torch.Tensor) -> torch.Tensor:
    """[frames H W 3] -> [tiles 3 pixels]."""
    frames, height, width, _ = directions.shape
    tiles = directions.view(frames, height // TILE, TILE, width // TILE, TILE, 3).permute(0, 1, 3, 5, 2, 4)
    return tiles.reshape(-1, 3, TILE * TILE)


def _untiled(tiles: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
    tiles = tiles.view(frames, height // TILE, width // TILE, TILE, TILE).permute(0, 1, 3, 2, 4)
    return tiles.reshape(frames, height, width)


def _turned(directions: torch.Tensor, yaw: torch.Tensor) -> Rays:
    x, y, z = directions.unbind(1)
    cosine, sine = yaw.cos()[:, None], yaw.sin()[:, None]
    return cosine * x + sine * z, y, cosine * z - sine * x


def _by_rank(tiles: torch.Tensor) -> list[torch.Tensor]:
    """Indices of the first pair of every tile, of the second, ...: within one part no tile is named twice."""
    _, counts = torch.unique_consecutive(tiles, return_counts=True)
    firsts = counts.cumsum(0) - counts
    rank = torch.arange(len(tiles)) - torch.repeat_interleave(firsts, counts)
    order = rank.argsort(stable=True)
    return list(order.split(torch.bincount(rank).tolist())) if len(tiles) else []


def intersect_boxes(origins: torch.Tensor, rays: Rays, shapes: Shapes) -> torch.Tensor:
    """Depth [pairs rays] where rays enter boxes, inf where they do not. Rays start outside."""
    near, far = None, None
    for axis in range(3):
        inverse = (1 / rays[axis]).clamp(-1e9, 1e9)  # infinite times zero would be NaN
        middle, reach = -origins[:, axis, None] * inverse, shapes.half[:, axis, None] * inverse.abs()
        enters, leaves = middle - reach, middle + reach
        near = enters if near is None else torch.maximum(near, enters)
        far = leaves if far is None else torch.minimum(far, leaves)
    assert near is not None and far is not None
    return torch.where((near < far) & (near > _NEAR), near, torch.inf)


def intersect_ellipsoids(origins: torch.Tensor, rays: Rays, shapes: Shapes) -> torch.Tensor:
    o = (origins / shapes.half)[..., None]
    d = [ray / shapes.half[:, axis, None] for axis, ray in enumerate(rays)]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[:, 0] * d[0] + o[:, 1] * d[1] + o[:, 2] * d[2]
    c = o.square().sum(1) - 1
    root = b * b - a * c
    t = (-b - root.clamp_min(0).sqrt()) / a
    return torch.where((root > 0) & (t > _NEAR), t, torch.inf)


def intersect_frusta(origins: torch.Tensor, rays: Rays, shapes: Shapes) -> torch.Tensor:
    foot, half, top = (one[:, None] for one in shapes.half.unbind(-1))
    slope = (foot - top) / (2 * half)  # of the radius along +y, which is down
    (x, y, z), (dx, dy, dz) = (one[:, None] for one in origins.unbind(-1)), rays
    radius = (foot + top) / 2 + slope * y
    a = dx * dx + dz * dz - (slope * dy).square()
    b = x * dx + z * dz - slope * dy * radius
    root = b * b - a * (x * x + z * z - radius * radius)
    spread = root.clamp_min(0).sqrt()
    best = torch.full_like(a, torch.inf)
    for sign in (-1.0, 1.0):
        t = (sign * spread - b) / a
        is_side = (root > 0) & (t > _NEAR) & ((y + t * dy).abs() <= half) & (radius + slope * t * dy >= 0)
        best = torch.where(is_side & (t < best), t, best)
        t = (sign * half - y) / dy
        is_cap = (x + t * dx).square() + (z + t * dz).square() <= (foot if sign > 0 else top).square()
        best = torch.where(is_cap & (t > _NEAR) & (t < best), t, best)
    return best


def intersect_polyhedra(origins: torch.Tensor, rays: Rays, shapes: Shapes) -> torch.Tensor:
    near = torch.full_like(rays[0], -torch.inf)
    far = torch.full_like(rays[0], torch.inf)
    for plane in shapes.planes.unbind(1):
        outside = (plane[:, :3] * origins).sum(-1, keepdim=True) - plane[:, 3:]
        along = plane[:, :1] * rays[0] + plane[:, 1:2] * rays[1] + plane[:, 2:3] * rays[2]
        t = -outside / along
        near = torch.where(along < 0, torch.maximum(near, t), near)
        far = torch.where(along > 0, torch.minimum(far, t), far)
        far = torch.where((along == 0) & (outside > 0), -torch.inf, far)  # along the plane, outside of it
    return torch.where((near < far) & (near > _NEAR), near, torch.inf)


_INTERSECT = {
    BOX: intersect_boxes,
    FRUSTUM: intersect_frusta,
    ELLIPSOID: intersect_ellipsoids,
    POLYHEDRON: intersect_polyhedra,
}


def is_blocked(points: torch.Tensor, direction: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    """True [points] where a shape lies in `direction` [3] from a point [points 3]. One shape after the other."""
    blocked = torch.zeros(len(points), dtype=torch.bool)
    for index in range(len(shapes)):
        one = shapes[slice(index, index + 1)]
        origins = to_own_axes(points - one.center, one.yaw)
        x, y, z = to_own_axes(direction[None], one.yaw)[:, :, None].unbind(1)
        blocked |= torch.isfinite(_INTERSECT[int(one.kind)](origins, (x, y, z), one))[:, 0]
    return blocked
