"""A view that moves evenly: cells between remembered points show a mix of these.

project() gives a cell the one point that shows best in it, up to half a cell beside its centre. To a moving camera such
a view stands still, then jumps by a cell. A trained side branch has learnt that; a model that is merely pulled to the
view jumps along. A picture shifted by part of a pixel is a mix of neighbours; of latents a mix is at least nearer than
either of them (with the nano autoencoder 0.9 dB, decoded, over views of eight worlds).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as functional

from .camera import Cameras, projection_matrices
from .memory import LatentMemory
from .sight import image_positions
from .winners import Winners
from .zbuffer import MemoryView

_OWN = 1e-3  # weight of what a cell shows anyway, so that it stays where no point is within a cell of the centre
_SAME = 0.5  # share of its depth within which a cell that no point falls in takes those beside it


def between_cells(view: MemoryView, memory: LatentMemory, cameras: Cameras) -> MemoryView:
    """The view with its latents at the very centres of the cells; what is covered, depth and points are the same.

    Latents are mixed bilinearly from points up to one cell from the centre, each shown by the cell that it falls in. A
    point on the centre of its cell shows unmixed. A cell that shows a patch whose point falls elsewhere takes no
    point much nearer or farther than what it shows; where there is none it stays as it is, as it will from twice as
    near as the patch was filmed. So do cells that show no point of the memory, such as movers.

    view: what project() or Rollout.view() made of this memory, which holds latents, and these cameras.
    Raises ValueError when it shows points that the memory does not have.
    """
    frames, rows, columns = view.point_index.shape
    if (view.point_index >= memory.count).any():
        raise ValueError(
            f"The view shows points that this memory of {memory.count} does not have. Connect the view and the memory "
            "it was made from."
        )
    winners = Winners(memory, view.point_index.flatten(1))
    points = winners.at_cells(winners.rows("points").double()).T.reshape(3, frames, -1)
    u, v, _ = image_positions(points, projection_matrices(cameras, (rows, columns), memory.grid))
    # Where the point of a cell is, in cells right of and below its centre.
    right = (u.view(frames, rows, columns) - torch.arange(columns, device=u.device) - 0.5).float()
    below = (v.view(frames, rows, columns) - torch.arange(rows, device=v.device)[:, None] - 0.5).float()
    is_known = view.point_index >= 0
    is_sample = is_known & (right.abs() <= 0.5) & (below.abs() <= 0.5)
    counts, depth, latents = is_sample.float(), view.depth.float(), view.latents.float()
    mixed, total = latents * _OWN, torch.full_like(right, _OWN)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            is_same = (_shifted(depth, down, across) - depth).abs() <= _SAME * depth
            weight = _shifted(counts, down, across) * (is_sample | is_same)
            weight *= _weight(_shifted(right, down, across), right, across)
            weight *= _weight(_shifted(below, down, across), below, down)
            mixed.addcmul_(_shifted(latents, down, across), weight)
            total += weight
    return replace(view, latents=torch.where(is_known, mixed / total, latents).to(view.latents.dtype))


def _shifted(maps: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """What the cell so many rows below and columns to the right has; 0 outside of the picture."""
    return functional.pad(maps, (-across, across, -down, down))


def _weight(offset: torch.Tensor, own: torch.Tensor, step: int) -> torch.Tensor:
    """Of a point `offset` from the centre of the cell `step` on, for a cell whose own point is `own` from its centre.

    A neighbour counts no more than the own point is off: other frames' points never blur one that lies exactly right.
    """
    near = (1 - (offset + step).abs()).clamp_min(0)
    return torch.minimum(near, own.abs()) if step else near
