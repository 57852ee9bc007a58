"""Which tiles of a memory cameras can see, and where in their images points lie. What shows there is zbuffer.py.

Only tiles out of the frustum are skipped here; hidden ones are a matter of what has been drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .memory import TILE, LatentMemory

Vector = tuple[torch.Tensor, ...]
_LOOKS = (1 << 20) // TILE  # tiles times cameras at a time: bounds the memory needed


@dataclass(frozen=True)
class TileChunk:
    """Tiles of several blocks. values: [fields tiles TILE] and sides [6 tiles TILE]: see PointTiles; sides are None if
    only points were asked for.  index: [tiles TILE] of points in the memory.  in_sight: [frames tiles] bool.
    """

    values: torch.Tensor
    sides: torch.Tensor | None
    index: torch.Tensor
    in_sight: torch.Tensor

    def seen_by(self, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What this camera may see: values [fields m] and index [m]."""
        tiles = self.in_sight[frame].nonzero()[:, 0]
        return self.values.index_select(1, tiles).flatten(1), self.index.index_select(0, tiles).flatten()

    def sides_seen_by(self, frame: int, chosen: torch.Tensor) -> torch.Tensor:
        """[6 k] sides of `chosen` [k] of the points that seen_by() gives."""
        assert self.sides is not None
        tiles = self.in_sight[frame].nonzero()[:, 0]
        places = tiles.index_select(0, chosen // TILE).mul_(TILE).add_(chosen % TILE)
        return self.sides.flatten(1).index_select(1, places)


def tiles_in_sight(
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], *, only_points: bool = False
) -> Iterator[TileChunk]:
    """The tiles that some camera may see, a bounded number at a time; only x, y, z of their points if so asked.

    matrices: [frames 3 4] of projection_matrices().
    """
    if not memory.blocks or not len(matrices):
        return
    tiles = [block.tiles for block in memory.blocks]
    centers, radii = torch.cat([one.centers for one in tiles]), torch.cat([one.radii for one in tiles])
    in_sight = _in_sight(centers, radii, matrices, size)
    all_chosen = in_sight.any(dim=0).nonzero()[:, 0]
    looks = in_sight.sum(dim=0).add_(1).index_select(0, all_chosen).cumsum(0)
    parts = torch.div(looks - 1, _LOOKS, rounding_mode="floor")
    ends = torch.tensor([len(one.radii) for one in tiles]).cumsum(0)
    firsts = [0, *torch.tensor([len(block) for block in memory.blocks]).cumsum(0).tolist()]
    for chosen in all_chosen.split(parts.unique_consecutive(return_counts=True)[1].tolist()):
        cuts = [0, *torch.searchsorted(chosen, ends.to(chosen.device)).tolist()]
        values, sides, index = [], [], []
        for one, end, first, start, stop in zip(tiles, ends.tolist(), firsts, cuts, cuts[1:], strict=False):
            if stop > start:
                rows = chosen[start:stop] - (end - len(one.radii))
                values.append(one.values[: 3 if only_points else 7].index_select(1, rows))
                if not only_points:
                    sides.append(one.sides.index_select(1, rows))
                index.append(one.index.index_select(0, rows).long().add_(first))
        if values:
            joined = torch.cat(sides, dim=1) if sides else None
            seen = in_sight.index_select(1, chosen)
            yield TileChunk(torch.cat(values, dim=1), joined, torch.cat(index), seen)


def _in_sight(
    centers: torch.Tensor, radii: torch.Tensor, matrices: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """[frames spheres] bool, whether a sphere (centers [spheres 3]) reaches into the image of matrices [frames 3 4]."""
    in_sight = []
    for x, y, z in matrices.to(centers.device):
        # Linear forms of a homogeneous world point that are all at least 0 inside the image.
        bounds = torch.stack([x, size[1] * z - x, y, size[0] * z - y])
        distances = torch.addmm(bounds[:, 3:], bounds[:, :3], centers.T)
        in_sight.append((distances + bounds[:, :3].norm(dim=1)[:, None] * radii >= 0).all(dim=0))
    return torch.stack(in_sight)


def image_positions(points: Sequence[torch.Tensor] | torch.Tensor, matrix: torch.Tensor) -> Vector:
    """(u, v, z), each [m], of points [3 m]; u and v mean nothing where z <= 0. With [frames 3 4], each [frames m]."""
    shifts = matrix[:, 3].tolist() if matrix.ndim == 2 else matrix[:, :, 3].T[..., None].to(points[0])
    x, y, z = (value.add_(shift) for value, shift in zip(turned(points, matrix), shifts, strict=True))
    in_front = z.clamp(min=1e-30)
    return x.div_(in_front), y.div_(in_front), z


def turned(vectors: Sequence[torch.Tensor] | torch.Tensor, matrix: torch.Tensor) -> Vector:
    """The linear part of matrix [3 3 or 4] applied to vectors [3 m]: three tensors [m].

    With a matrix for each frame, [frames 3 3 or 4], to [3 m] or [3 frames m]: three tensors [frames m].
    """
    x, y, z = vectors
    rows = matrix.tolist() if matrix.ndim == 2 else matrix.permute(1, 2, 0)[..., None].to(x)
    first, second, third = ((x * row[0]).add_(y * row[1]).add_(z * row[2]) for row in rows)
    return first, second, third
