"""What the memory as a whole says about the depth of the cells of a view: what new depth and poses are held against.

A view shows the nearest point in each cell. Where many noisy frames saw a place, the nearest is nearer than the truth,
and whoever aligns with it walks towards the camera, segment by segment. Here all points around the surface that shows
have a say, each by its confidence and its age.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .camera import Cameras, projection_matrices
from .memory import LatentMemory
from .sight import image_positions, tiles_in_sight
from .zbuffer import MemoryView

_SEGMENT_LATENTS = 8  # new latent frames per segment
_DRIFT = 0.01  # error that one more segment between a point and the start picture is expected to add
_CELL_NOISE = 0.02  # of a remembered depth
_NEIGHBOURS = 16  # cells whose errors are alike
_FEW = 0.03  # share of a view's cells: what so few of an age say counts half, since single points may be far off
_BEFORE, _BEHIND = 0.04, 0.12  # share of the depth that shows within which a point is of the same surface
_STEEPEST = 0.15  # relative change of depth per cell, beyond which neighbours are taken for other surfaces


@dataclass(frozen=True)
class Anchors:
    """depth: [frames rows columns] float64 at the cells' centres, 0 where nothing is known.
    weights: [frames rows columns] float64, how much it counts, 0 where nothing is known."""

    depth: torch.Tensor
    weights: torch.Tensor


def anchors(memory: LatentMemory, view: MemoryView, cameras: Cameras) -> Anchors:
    """What `memory` says about the depth of what `view`, its view from `cameras`, shows.

    Confidence counts, and age: every segment between a point and the start picture may have added its own error, which
    is one for all its cells. So however many points of a late segment show, together they weigh no more than that error
    allows, and a loop closes on what was there first. But a few old points do not outweigh a picture full of young
    ones: one by one they may be far off, as are patches seen from much nearer than the camera that made them.
    Cells whose point_index is -1 are not of the memory: 0.
    """
    frames, rows, columns = view.depth.shape
    front = torch.where((view.point_index >= 0) & view.is_covered, view.depth, 0).double().cpu()
    sums = torch.zeros(2, frames, rows * columns, dtype=torch.float64)
    if not memory.blocks or not front.any():
        return Anchors(front, torch.zeros_like(front))
    generation = (memory.latent_index.cpu().long() + _SEGMENT_LATENTS - 1).clamp_min(0) // _SEGMENT_LATENTS
    confidence = torch.cat([block.confidence for block in memory.blocks]).double().cpu().clamp(1e-3, 1)
    shown = _shown_points(memory, front, cameras)
    counts = torch.bincount(torch.cat([generation[point] for _, point, _ in shown]), minlength=1).double() / frames
    drift = _DRIFT**2 * torch.arange(len(counts)) * counts / (_CELL_NOISE**2 * _NEIGHBOURS)
    few = _FEW * rows * columns / counts.clamp_min(1 / frames)
    weights = confidence / (1 + drift + few)[generation.clamp(max=len(counts) - 1)]
    for frame, (cell, point, log_ratio) in enumerate(shown):
        weight = weights[point]
        sums[0, frame].index_add_(0, cell, weight)
        sums[1, frame].index_add_(0, cell, weight * log_ratio)
    total, ratio = sums.view(2, frames, rows, columns)
    # A cell no point falls into shows a patch whose point lies elsewhere: one sighting, in however many cells it shows.
    index = view.point_index.cpu()
    cells = torch.stack([_times_shown(one) for one in index])
    alone = weights[index.clamp_min(0)] / cells * (front > 0)
    depth = front * torch.where(total > 0, ratio / total.clamp_min(1e-12), 0.0).exp()
    return Anchors(depth, torch.where(total > 0, total, alone))


def _times_shown(index: torch.Tensor) -> torch.Tensor:
    """In how many cells of a frame [rows columns] the point shows that shows in each."""
    _, place, counts = index.unique(return_inverse=True, return_counts=True)
    return counts[place]


def _shown_points(
    memory: LatentMemory, front: torch.Tensor, cameras: Cameras
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per frame the points on what shows: cell, index in the memory, log of the point's depth over the cell's.

    front: [frames rows columns] depth of what shows, 0 where nothing does.
    """
    _, rows, columns = front.shape
    matrices = projection_matrices(cameras, (rows, columns), memory.grid)
    slope_u, slope_v = (_log_slope(front, dim).flatten(1) for dim in (2, 1))
    front = front.flatten(1)
    found: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in matrices]
    for chunk in tiles_in_sight(memory, matrices, (rows, columns), only_points=True):
        for frame, (matrix, in_sight) in enumerate(zip(matrices, chunk.in_sight, strict=True)):
            tiles = in_sight.nonzero()[:, 0]
            index = chunk.index.index_select(0, tiles).cpu()
            values = [field.index_select(0, tiles).flatten() for field in chunk.values]
            u, v, z = (value.double().cpu() for value in image_positions(values, matrix))
            is_inside = (z > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
            # A block's last tile is filled up with its last point, which is one point all the same.
            is_inside &= torch.nn.functional.pad(index.diff(dim=1) != 0, [1, 0], value=True).flatten()
            inside = is_inside.nonzero()[:, 0]
            u, v, z = u[inside], v[inside], z[inside]
            column, row = u.floor(), v.floor()
            cell = (row * columns + column).long()
            at_point = slope_u[frame][cell] * (u - column - 0.5) + slope_v[frame][cell] * (v - row - 0.5)
            log_ratio = (z / front[frame][cell].clamp_min(1e-12)).log() - at_point
            is_same = (front[frame][cell] > 0) & (log_ratio > -_BEFORE) & (log_ratio < _BEHIND)
            found[frame].append((cell[is_same], index.flatten()[inside][is_same], log_ratio[is_same]))
    none = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))
    joined = [tuple(torch.cat(parts) for parts in zip(*one, strict=True)) if one else none for one in found]
    return [(cell, point, log_ratio) for cell, point, log_ratio in joined]


def _log_slope(front: torch.Tensor, dim: int) -> torch.Tensor:
    """Change of log depth per cell along `dim`; of those to both sides the smaller, 0 across an edge."""
    logs = torch.where(front > 0, front, torch.nan).log()
    edge = torch.full_like(logs.narrow(dim, 0, 1), torch.nan)
    before, after = torch.cat([edge, logs.diff(dim=dim)], dim), torch.cat([logs.diff(dim=dim), edge], dim)
    before, after = before.where(~before.isnan(), after), after.where(~after.isnan(), before)
    slope = torch.where(before.abs() < after.abs(), before, after).nan_to_num(0.0)
    return torch.where(slope.abs() <= _STEEPEST, slope, 0.0)
