"""Where a remembered point lies: the mean of all depths that it was seen at, weighted by how much each can tell.

A point moves on the ray on which it was first seen. So the camera that saw it first sees it in the same cell, however
wrong its depth was, and that ray still tells what this camera looked through (free_space.py). A later sighting, from
anywhere, says where on the ray the point's surface is met. Points of which the ray is not known stay: those of another
film, and those written by cameras that were corrected afterwards. Patches keep their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .camera import Cameras, projection_matrices
from .free_space import is_cell_center
from .latent_grid import LatentGrid
from .memory import MemoryBlock, planes

_MET = 0.2  # least cosine between a point's ray and its normal: along a surface no ray says where it is met
_STILL = 1e-4  # of the distance: to less than this two depths of one surface agree by chance only


@dataclass(frozen=True)
class Filmed:
    """The cameras that points of a film were seen by first.

    matrices: [cameras 3 4] of projection_matrices().  centers: [cameras 3] float64.
    first_new: latent_index from which on it counts the cameras of the segment that is being written.
    earlier: how many cameras of before come first.
    """

    matrices: torch.Tensor
    centers: torch.Tensor
    first_new: int
    earlier: int

    @staticmethod
    def of(earlier: Cameras | None, new: Cameras, first_new: int, grid: LatentGrid, size: tuple[int, int]) -> Filmed:
        """earlier: those of the film's latent frames 0, 1, ... as far as they are known.  size: (rows, columns)."""
        parts = [new] if earlier is None else [earlier, new]
        return Filmed(
            torch.cat([projection_matrices(part, size, grid) for part in parts]),
            torch.cat([part.centers for part in parts]),
            first_new,
            0 if earlier is None else len(earlier),
        )

    def rays(self, block: MemoryBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """[n 3] float64 from the camera that saw a point first to the point, and [n] bool, whether it is known."""
        index, points = block.latent_index.long(), block.points.double()
        is_new = index >= self.first_new
        place = torch.where(is_new, index - self.first_new + self.earlier, index)
        is_known = (index >= 0) & (place < torch.where(is_new, len(self.centers), self.earlier))
        place = place.where(is_known, 0)
        matrices, centers = (
            values.to(points.device).index_select(0, place) for values in (self.matrices, self.centers)
        )
        x, y, z = ((points[:, None] * matrices[..., :3]).sum(2) + matrices[..., 3]).unbind(1)
        in_front = z.clamp(min=1e-9)
        return points - centers, is_known & (z > 0) & is_cell_center(x / in_front, y / in_front)


@dataclass(frozen=True)
class Sightings:
    """Cells of one frame that show points which the memory has: [n] each, of m points.

    point: int64, the point that a cell shows.  seen: [n 3] where this frame sees the surface in a cell, and known:
    [n 3] where the memory does, on the same ray.  footprints: of the cells, there.  confidence: of the cells.
    """

    point: torch.Tensor
    seen: torch.Tensor
    known: torch.Tensor
    footprints: torch.Tensor
    confidence: torch.Tensor


def settled(
    block: MemoryBlock, sightings: Sightings, times_seen: torch.Tensor, filmed: Filmed, tolerance: float
) -> torch.Tensor:
    """[m 3] where the points of a block lie after these sightings; those that stay keep their bits.

    times_seen: [m] how often each was seen before, the weight of where it lies.  tolerance: share of its distance that
    one sighting can be off; what is farther off counts as this far.
    The sightings of a point in one frame are one, of the weight of their mean confidence; less if its cells are coarser
    than the point, by the ratio of their areas. Locked points stay.
    """
    away, can_move = filmed.rays(block)
    normals = planes(block.sides.to(block.points))[:, :3].double()
    met = (away * normals).sum(1)
    can_move &= met.abs() >= _MET * away.norm(dim=1)
    if block.is_locked is not None:
        can_move &= ~block.is_locked
    point = sightings.point
    off = ((sightings.seen - sightings.known).double() * normals[point]).sum(1)
    off = (off / met.where(can_move, 1.0)[point]).clamp(-tolerance, tolerance)
    finer = (block.footprints.to(sightings.footprints)[point] / sightings.footprints).double()
    weight = sightings.confidence.double() * finer.square().clamp(max=1)
    total, cells, shift = torch.zeros(3, len(block), dtype=torch.float64, device=away.device).unbind()
    total = total.index_add(0, point, weight)
    cells = cells.index_add(0, point, torch.ones_like(weight))
    mean = shift.index_add(0, point, weight * off) / total.clamp(min=1e-12)
    weight = total / cells.clamp(min=1)
    step = mean * weight / (times_seen.double() + weight).clamp(min=1e-12)
    moves = can_move & (step.abs() > _STILL)
    return torch.where(moves[:, None], (block.points + away * step[:, None]).to(block.points), block.points)
