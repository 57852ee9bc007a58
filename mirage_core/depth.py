"""Depth at latent resolution without flying points, and depth of simple rooms.

Depth is z-depth in world units; 0, negative, infinite and NaN are unknown. Depth maps may have any size: they are
stretched over the image, like the latent grid. Running a depth model is not done here, nor deciding what is static;
fitting new depth to what is known is alignment.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from .camera import Cameras

MAX_RESIDUAL = 0.01  # a pixel within 1 % of a plane's depth is on it; half of what a lifted point may be off

_MIN_WINDOW = 4  # pixels; a plane needs three points, and an edge some pixels on both sides
_FARTHEST = 1e18  # beyond, float32 loses the inverse
_RIDGE = 1e-6  # keeps the slope across a one-pixel strip at 0 instead of undefined
_STEEP = 0.04  # relative change of depth from cell to cell; a flatter ramp lies within 2 % of its two surfaces
_SMOOTH = 0.01  # relative change of depth from pixel to pixel; smeared edges of depth models rise faster
_GROWTH = (0.1, 0.03, MAX_RESIDUAL, MAX_RESIDUAL)  # residuals while a surface grows from its start


def latent_depth(
    depth: torch.Tensor, size: tuple[int, int], *, min_share: float = 0.5, min_known: float = 0.5
) -> torch.Tensor:
    """Depth of each latent cell's centre ray on the cell's dominant surface, or 0.

    A surface is what one plane explains within MAX_RESIDUAL; a plane is linear in inverse depth, so slanted floors
    and walls come out exact. The dominant surface holds at least `min_share` of the cell's known pixels. A cell
    without one is 0: two depths must never be mixed into a third, where nothing is (a flying point).

    depth: [frames H W], any size, of exactly the picture that the latents show: where the VAE cuts off pixels beyond
        the last whole cell, cut the depth too. Not finite or <= 0 is unknown.  size: (rows, columns) of the grid.
    min_known: share of a cell's pixels that must be known.
    Returns [frames rows columns] of the dtype and on the device of `depth`; 0 = no dominant surface.

    Raises ValueError when depth is not [frames H W] or size is empty.
    """
    _check_depth(depth)
    if min(size) < 1:
        raise ValueError(f"The latent grid is {size[0]}x{size[1]}; it has at least one row and one column.")
    frames = [_frame_depth(frame.float(), size, min_share, min_known) for frame in depth]
    return torch.stack(frames).to(depth.dtype)


def bilinear_depth(depth: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Depth at the cell centres from the four nearest pixels, as the release takes it; mixes surfaces at edges.

    depth: [frames H W], finite.  Returns [frames rows columns].
    Source: microsoft/LatentSpatialMemory@b2cd738, src/mirage/latent_point_cloud.py (align_corners=False, no antialias).
    """
    _check_depth(depth)
    return functional.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def median_depth(depth: torch.Tensor) -> float:
    """The median of all known depths, the scene's unit of length for camera paths.

    Raises ValueError when no pixel is known.
    """
    known = depth[_is_known(depth)]
    if known.numel() == 0:
        raise ValueError(
            "No pixel of the depth is known (all are 0, negative, infinite or NaN). Check the depth model, or use "
            "Simple Depth."
        )
    return float(known.median())


def plane_depth(
    cameras: Cameras, *, camera_height: float = 1.6, wall_distance: float = 8.0, tilt_degrees: float = 0.0
) -> torch.Tensor:
    """Depth of a flat floor that ends at a wall: the prior for open scenes without a depth model.

    cameras: relative to the first camera of the film, which stands level but for `tilt_degrees`.
    camera_height: of the first camera above the floor, in the world units that the depth shall have.
    wall_distance: from the first camera to the wall along the floor, in the same units.
    tilt_degrees: upward tilt of the first camera (negative looks down at the floor).
    Returns [frames H W] float32 for the cameras' image_size; pixels that see neither are 0.
    """
    _check_lengths(camera_height=camera_height, wall_distance=wall_distance)
    planes = [((0.0, 1.0, 0.0), camera_height), ((0.0, 0.0, 1.0), wall_distance)]
    return _nearest_plane_depth(planes, cameras, tilt_degrees)


def room_depth(
    cameras: Cameras,
    *,
    room_size: tuple[float, float, float] = (5.0, 2.8, 6.0),
    camera_height: float = 1.5,
    tilt_degrees: float = 0.0,
) -> torch.Tensor:
    """Depth of a box room, the first camera in the middle of its open side: the prior for interiors without a model.

    cameras: relative to the first camera of the film, which stands level but for `tilt_degrees`.
    room_size: width, height and length (from the first camera to the far wall), in the world units that the depth
        shall have. Behind the first camera the room goes on for half its length.
    camera_height: of the first camera above the floor, below the room's height.
    tilt_degrees: upward tilt of the first camera.
    Returns [frames H W] float32 for the cameras' image_size; 0 for a camera outside the room.
    """
    width, height, length = room_size
    _check_lengths(width=width, height=height, length=length, camera_height=camera_height)
    if camera_height >= height:
        raise ValueError(f"The camera is {camera_height} above the floor of a room that is {height} high. Lower it.")
    planes = [
        ((0.0, 1.0, 0.0), camera_height),
        ((0.0, -1.0, 0.0), height - camera_height),
        ((1.0, 0.0, 0.0), width / 2),
        ((-1.0, 0.0, 0.0), width / 2),
        ((0.0, 0.0, 1.0), length),
        ((0.0, 0.0, -1.0), length / 2),
    ]
    return _nearest_plane_depth(planes, cameras, tilt_degrees)


def _frame_depth(depth: torch.Tensor, size: tuple[int, int], min_share: float, min_known: float) -> torch.Tensor:
    """latent_depth of one map [H W]."""
    windows = _windows(depth, size)
    inverse, basis = windows.inverse, windows.basis
    is_known = inverse > 0
    planes = _fitted_planes(inverse, is_known.float(), basis)
    is_off = (is_known & ~_is_on(planes, inverse, basis, MAX_RESIDUAL)).any(1)
    is_enough = is_known.float().mean(1) >= max(min_known, 1e-6)
    edges = (is_enough & is_off).nonzero()[:, 0]
    if len(edges):
        planes[edges] = _dominant_planes(inverse[edges], basis, windows.centers[edges], min_share)
    at_center = (planes * windows.centers).sum(1)
    if len(edges):
        at_center[edges] = torch.where(at_center[edges] > 0, at_center[edges], _corner(windows, edges))
    at_center = torch.where(is_enough, at_center, 0.0).reshape(size)
    steps = (planes[:, 1:] * windows.cell_steps).reshape(*size, 2)
    at_center = torch.where(_is_ramp(at_center, steps[..., 0], steps[..., 1]), 0.0, at_center)
    return torch.where(at_center > 1 / _FARTHEST, 1 / at_center, 0.0)


def _corner(windows: _Windows, cells: torch.Tensor) -> torch.Tensor:
    """[cells] inverse depth seen at the cell's centre where the surface has no step, or 0.

    In the corner of a room three planes meet in one cell, none of them dominant, and yet nothing is in doubt.
    """
    inverse = windows.inverse[cells].reshape(-1, *windows.shape)
    is_smooth = (inverse > 0).flatten(1).all(1)
    for dim in (1, 2):
        nearer = torch.maximum(
            inverse.narrow(dim, 1, inverse.shape[dim] - 1), inverse.narrow(dim, 0, inverse.shape[dim] - 1)
        )
        is_smooth &= (inverse.diff(dim=dim).abs() <= _SMOOTH * nearer).flatten(1).all(1)
    distance = (windows.basis[None, :, 1:] - windows.centers[cells][:, None, 1:]).square().sum(-1)
    is_nearest = (distance <= distance.amin(1, keepdim=True) * 1.01 + 1e-9).to(inverse)
    seen = (inverse.flatten(1) * is_nearest).sum(1) / is_nearest.sum(1)
    return torch.where(is_smooth, seen, 0.0)


def _is_ramp(at_center: torch.Tensor, step_x: torch.Tensor, step_y: torch.Tensor) -> torch.Tensor:
    """[rows columns] True for steep planes that only lead from the surface on one side to that on the other.

    Depth models smear an edge over some pixels. Where such a ramp fills a cell it is a plane like any other, only that
    nothing is there. What is really slanted either goes on into a neighbour or ends at a step in depth.
    at_center, step_x, step_y: [rows columns] inverse depth, and its change from one cell to the next (0 = no surface).
    """
    is_across = step_x.abs() > step_y.abs()
    is_ramp = torch.zeros_like(is_across)
    for step, dim, is_steepest in ((step_x, 1, is_across), (step_y, 0, ~is_across)):
        is_bridge = is_steepest & (step.abs() > _STEEP * at_center)
        for side in (-1, 1):
            beside, step_beside = at_center.roll(-side, dim), step.roll(-side, dim)
            # Rise towards this neighbour, where 1 is what the plane itself would rise.
            rise = side * (beside - at_center) / step
            goes_on = ((rise - 1).abs() < 0.25) | (step_beside / step > 0.5)
            is_bridge &= (beside == 0) | ((rise > 0) & (rise < 1.25) & ~goes_on)
        # The border of the picture may cut off the side on which the surface goes on.
        is_bridge.select(dim, 0).fill_(False)
        is_bridge.select(dim, -1).fill_(False)
        is_ramp |= is_bridge
    return is_ramp


@dataclass(frozen=True)
class _Windows:
    """The pixels of each cell. Window coordinates x, y are in [-1, 1].

    inverse: [cells pixels] inverse depth, 0 = unknown.  shape: rows and columns of a window's pixels.
    basis: [pixels 3], (1, x, y) of each pixel of the window.  centers: [cells 3], (1, x, y) of each cell's centre.
    cell_steps: [2], the width and the height of a cell.
    """

    inverse: torch.Tensor
    shape: tuple[int, int]
    basis: torch.Tensor
    centers: torch.Tensor
    cell_steps: torch.Tensor


def _windows(depth: torch.Tensor, size: tuple[int, int]) -> _Windows:
    rows, y, center_y, step_y = _axis_windows(depth.shape[0], size[0])
    columns, x, center_x, step_x = _axis_windows(depth.shape[1], size[1])
    inverse = torch.where(_is_known(depth) & (depth < _FARTHEST), 1 / depth, 0.0)
    inverse = inverse[rows.to(depth.device)[:, :, None, None], columns.to(depth.device)]
    inverse = inverse.permute(0, 2, 1, 3).reshape(size[0] * size[1], -1)
    shape = (len(y), len(x))
    y, x = torch.meshgrid(y, x, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y], dim=-1).reshape(-1, 3)
    center_y, center_x = torch.meshgrid(center_y, center_x, indexing="ij")
    centers = torch.stack([torch.ones_like(center_x), center_x, center_y], dim=-1).reshape(-1, 3)
    return _Windows(inverse, shape, basis.to(depth), centers.to(depth), torch.tensor([step_x, step_y]).to(depth))


def _axis_windows(length: int, cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Along one axis: pixel indices [cells window], window coordinates [window], the cells' centres in them [cells],
    and the distance between two of these."""
    window = min(max(_MIN_WINDOW, math.ceil(length / cells)), length)
    center = (torch.arange(cells, dtype=torch.float64) + 0.5) * (length / cells) - 0.5
    start = (center - (window - 1) / 2).round().clamp(0, length - window)
    middle, half = (window - 1) / 2, max(window / 2, 1)
    offsets = torch.arange(window, dtype=torch.float64)
    indices = (start[:, None] + offsets).long()
    return indices, (offsets - middle) / half, (center - start - middle) / half, length / cells / half


def _fitted_planes(inverse: torch.Tensor, weights: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Least-squares planes [cells 3] through inverse depth [cells pixels] with weights [cells pixels]."""
    products = (basis[:, :, None] * basis[:, None, :]).reshape(-1, 9)
    normal = (weights @ products).double().reshape(-1, 3, 3)
    right = ((weights * inverse) @ basis).double()
    ridge = torch.tensor([1e-12, _RIDGE, _RIDGE], dtype=torch.float64, device=inverse.device).diag()
    normal = normal + ridge * normal[:, :1, :1].clamp_min(1)
    return torch.linalg.solve(normal, right).to(inverse.dtype)


def _is_on(planes: torch.Tensor, inverse: torch.Tensor, basis: torch.Tensor, residual: float) -> torch.Tensor:
    return (planes @ basis.T - inverse).abs() <= residual * inverse


def _dominant_planes(
    inverse: torch.Tensor, basis: torch.Tensor, centers: torch.Tensor, min_share: float
) -> torch.Tensor:
    """Plane [cells 3] of the dominant surface, zeros where there is none that can be trusted at the cell's centre."""
    is_known = inverse > 0
    count = torch.zeros_like(is_known[:, 0], dtype=torch.int64)
    planes = torch.zeros_like(centers)
    is_on = torch.zeros_like(is_known)
    for start in _starts(inverse, basis):
        candidate, grown = _fitted_planes(inverse, (start & is_known).float(), basis), is_known
        for residual in _GROWTH:
            grown = _is_on(candidate, inverse, basis, residual) & is_known
            candidate = _fitted_planes(inverse, grown.float(), basis)
        is_better = grown.sum(1) > count
        count = torch.where(is_better, grown.sum(1), count)
        planes = torch.where(is_better[:, None], candidate, planes)
        is_on = torch.where(is_better[:, None], grown, is_on)
    is_dominant = count >= min_share * is_known.sum(1)
    is_supported = _is_supported((planes * centers).sum(1), is_on, inverse, basis, centers)
    return torch.where((is_dominant & is_supported)[:, None], planes, 0.0)


def _starts(inverse: torch.Tensor, basis: torch.Tensor) -> list[torch.Tensor]:
    """Sets of pixels [cells pixels] from which a surface may grow: the middle, the quarters, the near, the far."""
    x, y = basis[:, 1], basis[:, 2]
    blocks = [(x.abs() <= 0.5) & (y.abs() <= 0.5), *((a * x > 0) & (b * y > 0) for a in (-1, 1) for b in (-1, 1))]
    starts = [block.expand_as(inverse) for block in blocks]
    nearest = inverse.amax(1, keepdim=True)
    starts.append(inverse > 0.95 * nearest)
    farthest = torch.where(inverse > 0, inverse, nearest).amin(1, keepdim=True)
    starts.append(inverse < 1.05 * farthest)
    return starts


def _is_supported(
    at_center: torch.Tensor, is_on: torch.Tensor, inverse: torch.Tensor, basis: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """[cells] True where the surface is seen at the cell's centre, or is hidden there by something nearer.

    A surface that is farther away than its extension at the centre is seen through: the extension is not there.
    """
    distance = (basis[None, :, 1:] - centers[:, None, 1:]).square().sum(-1)
    # The centre lies between pixels as a rule: all that are nearest count.
    is_nearest = distance <= distance.amin(1, keepdim=True) * 1.01 + 1e-9
    # Where two surfaces meet in a crease, either one is near enough to what is seen in the middle.
    is_close = (inverse - at_center[:, None]).abs() <= 1.5 * MAX_RESIDUAL * inverse
    is_seen = (is_nearest & (is_on | is_close)).any(1)
    is_hidden = (inverse > at_center[:, None]).logical_or(~is_nearest).all(1)
    return is_seen | is_hidden


def _nearest_plane_depth(
    planes: list[tuple[tuple[float, float, float], float]], cameras: Cameras, tilt_degrees: float
) -> torch.Tensor:
    """z-depth [frames H W] at the pixel centres of the nearest of `planes`: normal and distance along it, both in the
    level frame of the first camera, the cameras on the near side.
    """
    height, width = cameras.image_size
    y, x = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    sine, cosine = math.sin(math.radians(tilt_degrees)), math.cos(math.radians(tilt_degrees))
    level = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=torch.float64)
    maps = []
    for cam2world, intrinsics in zip(cameras.cam2world, cameras.intrinsics, strict=True):
        rays = pixels @ (level @ cam2world[:3, :3] @ torch.linalg.inv(intrinsics)).T
        center = level @ cam2world[:3, 3]
        depth = torch.full_like(x, math.inf)
        for normal, distance in planes:
            across = torch.tensor(normal, dtype=torch.float64)
            towards, left = rays @ across, distance - float(center @ across)
            # Behind a plane, out of the room, every depth is negative and so unknown below.
            depth = torch.minimum(depth, torch.where(towards > 0, left / towards, math.inf if left > 0 else -1.0))
        maps.append(torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0).float())
    return torch.stack(maps)


def _is_known(depth: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(depth) & (depth > 0)


def _check_depth(depth: torch.Tensor) -> None:
    if depth.ndim != 3 or 0 in depth.shape:
        raise ValueError(f"depth has shape {list(depth.shape)}; depth maps are [frames H W] and not empty.")


def _check_lengths(**lengths: float) -> None:
    for name, length in lengths.items():
        if not (math.isfinite(length) and length > 0):
            raise ValueError(f"{name} is {length}; it is a length above 0, in world units.")
