"""Looking at a memory from cameras: which point shows in which latent cell. No pixels, no VAE.

project() draws every point as the patch of surface it stands for, so near surfaces have no holes. project_points()
draws every point into the one cell it falls in, as the released code does.

Both keep, per camera and cell, one int64: what decides in the upper bits, the point's index in the lower 32. The least
one wins. A least value depends on no order and no thread count, and latents are fetched for winners only. All
arithmetic before it is elementwise without matrix products, whose last bits may change with the shape of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .camera import Cameras, projection_matrices
from .memory import LatentMemory, MemoryBlock

_CHUNK = 1 << 18  # points drawn at a time: bounds the memory needed, and stays in the processor's cache
_NOTHING = torch.iinfo(torch.int64).max
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
# The upper 14 bits of a positive float32: depths are told apart in steps of 1/64 of a power of two, 0.8 to 1.6 %.
# Within one step surfaces seen from several frames are one surface, and the sharpest sample of it should show.
_DEPTH_SHIFT = 17
_DISTANCE_SHIFT = 14
_DISTANCE_BITS = 17
_REACH = 8  # a patch covers cells at most this far from its point's cell; without it one point fills the picture
_HALF_SIDE = 0.5 + 1 / 16  # patches overlap a little: on curved and noisy surfaces they do not meet exactly


@dataclass(frozen=True)
class MemoryView:
    """A memory seen by a sequence of cameras on a latent grid.

    latents: [channels frames rows columns] normalised, 0 where nothing is known.
    is_covered: [frames rows columns] bool, True where something is known.
    depth: [frames rows columns] z-depth of what shows, at the cell's centre for project() and at the point for
        project_points(); 0 where nothing is known.
    point_index: [frames rows columns] int64, index of the point in the memory, -1 where nothing is known.
    """

    latents: torch.Tensor
    is_covered: torch.Tensor
    depth: torch.Tensor
    point_index: torch.Tensor


@dataclass(frozen=True)
class _Seen:
    """Points of one chunk that one camera may see: rows of the chunk, image position (cells) and depth, each [m]."""

    row: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> _Seen:
        return _Seen(self.row[chosen], self.u[chosen], self.v[chosen], self.z[chosen])


def project(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The remembered surfaces as `cameras` see them on a latent grid of `size` = (rows, columns).

    A point covers the cells whose centre lies on its patch, and always the cell it falls in; at most 8 cells far, and
    only points in front of the camera. The nearest surface shows; depths are compared at the cell's centre, in steps
    of 0.8 to 1.6 %. Within a step the point nearest to the cell's centre shows, then the one with the lowest index.
    The result is the same for any thread count, and for any order of points that are not tied in both.

    Besides the result this needs 8 bytes per camera and cell and about 300 bytes per point of one chunk of 262144
    points, however large the memory is.
    """
    keys, matrices = _new_keys(memory, cameras, size), projection_matrices(cameras, size, memory.grid)
    for first, chunk in _chunks(memory):
        for frame, matrix in enumerate(matrices):
            seen = _seen(chunk.points, matrix, size, margin=_REACH)
            if len(seen.row):
                _draw_patches(keys[frame], seen, chunk.sides, matrix, size, first)
    view_index = torch.where(keys == _NOTHING, -1, keys & _INDEX_MASK)
    return _view(memory, matrices, size, view_index, at_cell_center=True)


def project_points(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The memory with one point in one cell: the one with the least float32 depth, then the lowest index (paper eq. 5).

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py project, with the duplicate writes
    it leaves to chance decided.
    """
    keys, matrices = _new_keys(memory, cameras, size), projection_matrices(cameras, size, memory.grid)
    for first, chunk in _chunks(memory):
        for frame, matrix in enumerate(matrices):
            seen = _seen(chunk.points, matrix, size, margin=0)
            cell = seen.v.long() * size[1] + seen.u.long()
            key = (_bits(seen.z) << _INDEX_BITS) | (seen.row + first)
            _keep_least(keys[frame], cell, key)
    view_index = torch.where(keys == _NOTHING, -1, keys & _INDEX_MASK)
    return _view(memory, matrices, size, view_index, at_cell_center=False)


def _draw_patches(
    keys: torch.Tensor, seen: _Seen, sides: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int], first: int
) -> None:
    """Lower `keys` [cells] of one camera to those of the patches of the seen points."""
    side = [_turned(sides[seen.row, axis], matrix) for axis in range(2)]
    u, v, z = seen.u, seen.v, seen.z
    # d(u) per unit of a is (x' - u z') / z with (x', y', z') the side in the camera.
    half_u, half_v = torch.zeros_like(u), torch.zeros_like(v)
    for x, y, depth in side:
        half_u += ((x - u * depth) / z).abs() * _HALF_SIDE
        half_v += ((y - v * depth) / z).abs() * _HALF_SIDE
    columns, rows = _cells_within(u, half_u, size[1]), _cells_within(v, half_v, size[0])
    count = columns[1] * rows[1]
    point = torch.repeat_interleave(count)
    rank = torch.arange(len(point), device=point.device) - (count.cumsum(0) - count)[point]
    column = columns[0][point] + rank % columns[1][point]
    row = rows[0][point] + rank // columns[1][point]
    u, v, z = u[point], v[point], z[point]
    (ax, ay, az), (bx, by, bz) = ((x[point], y[point], depth[point]) for x, y, depth in side)
    x, y = column + 0.5, row + 0.5
    # The cell's ray meets the patch's plane where (u z + a ax + b bx) = x (z + a az + b bz), and the same for y.
    p, q, r, s = ax - x * az, bx - x * bz, ay - y * az, by - y * bz
    e, f = (x - u) * z, (y - v) * z
    determinant = p * s - q * r
    a, b = (e * s - q * f) / determinant, (p * f - e * r) / determinant
    is_patch = (a.abs() <= _HALF_SIDE) & (b.abs() <= _HALF_SIDE)
    is_own = (column == u.floor()) & (row == v.floor())
    depth = z + a.clamp(-1, 1) * az + b.clamp(-1, 1) * bz
    depth = torch.where(depth > 0, depth, z)  # also where a patch seen edge-on makes it NaN
    chosen = (is_patch | is_own).nonzero()[:, 0]
    distance = ((x - u) * (x - u) + (y - v) * (y - v))[chosen]
    near = ((_bits(depth[chosen]) >> _DEPTH_SHIFT) << _DISTANCE_BITS) | (_bits(distance) >> _DISTANCE_SHIFT)
    cell = row[chosen] * size[1] + column[chosen]
    _keep_least(keys, cell, (near << _INDEX_BITS) | (seen.row[point[chosen]] + first))


def _cells_within(center: torch.Tensor, half: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and number of cells along one axis whose centres are within `half` of `center`, or that hold it."""
    own = center.floor()
    low = torch.minimum((center - half - 0.5).ceil(), own).maximum(own - _REACH).clamp(min=0)
    high = torch.maximum((center + half - 0.5).floor(), own).minimum(own + _REACH).clamp(max=cells - 1)
    return low.long(), (high - low + 1).clamp(min=0).long()


def _seen(points: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int], margin: int) -> _Seen:
    """The points [n 3] in front of the camera and at most `margin` cells outside of its image."""
    x, y, z = _turned(points, matrix)
    shift = [float(value) for value in matrix[:, 3]]
    x, y, z = x + shift[0], y + shift[1], z + shift[2]
    u, v = x / z, y / z
    is_seen = (z > 0) & (u >= -margin) & (u < size[1] + margin) & (v >= -margin) & (v < size[0] + margin)
    row = is_seen.nonzero()[:, 0]
    return _Seen(row, u[row], v[row], z[row])


def _turned(vectors: torch.Tensor, matrix: torch.Tensor) -> list[torch.Tensor]:
    """The linear part of matrix [3 4] applied to vectors [n 3]: three tensors [n]."""
    x, y, z = vectors.unbind(1)
    return [x * a + y * b + z * c for a, b, c, _ in matrix.tolist()]


def _bits(values: torch.Tensor) -> torch.Tensor:
    """int64 that order positive values as their float32 do."""
    return values.float().view(torch.int32).long()


def _keep_least(keys: torch.Tensor, cell: torch.Tensor, key: torch.Tensor) -> None:
    """Lower keys[cell] to key where key is less."""
    chosen = (key < keys[cell]).nonzero()[:, 0]
    keys.scatter_reduce_(0, cell[chosen], key[chosen], "amin")


def _chunks(memory: LatentMemory) -> Iterator[tuple[int, MemoryBlock]]:
    """Blocks cut into chunks, each with the index of its first point in the memory."""
    first = 0
    for block in memory.blocks:
        for start in range(0, len(block), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield (
                first + start,
                MemoryBlock(
                    block.points[part],
                    block.latents[part],
                    block.latent_index[part],
                    block.confidence[part],
                    block.footprints[part],
                    block.sides[part],
                ),
            )
        first += len(block)


def _new_keys(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
    """[frames cells] int64, all empty."""
    if min(size) < 1:
        raise ValueError(
            f"A view of {size[0]} x {size[1]} cells has nothing in it; give (rows, columns) of at least 1."
        )
    device = memory.blocks[0].points.device if memory.blocks else "cpu"
    return torch.full((len(cameras), size[0] * size[1]), _NOTHING, device=device)


def _view(
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], index: torch.Tensor, *, at_cell_center: bool
) -> MemoryView:
    """Latents and depth of the winners. index: [frames cells], -1 where nothing is known."""
    frames, cells = index.shape
    latents_type = memory.blocks[0].latents.dtype if memory.blocks else torch.float32
    depth_type = memory.blocks[0].points.dtype if memory.blocks else torch.float32
    latents = torch.zeros(frames * cells, memory.grid.channels, dtype=latents_type, device=index.device)
    depth = torch.zeros(frames * cells, dtype=depth_type, device=index.device)
    place = (index.flatten() >= 0).nonzero()[:, 0]
    winner, order = index.flatten()[place].sort()
    place = place[order]
    sizes = torch.tensor([len(block) for block in memory.blocks], dtype=torch.int64, device=index.device)
    ends = sizes.cumsum(0)
    cuts = torch.searchsorted(winner, ends).tolist()
    for block, end, start_cut, end_cut in zip(memory.blocks, ends.tolist(), [0, *cuts], cuts, strict=False):
        if start_cut == end_cut:
            continue
        rows, here = winner[start_cut:end_cut] - (end - len(block)), place[start_cut:end_cut]
        latents[here] = block.latents[rows].to(latents_type)
        matrix = matrices.to(index.device)[here // cells]
        point_depth = (block.points[rows].double() * matrix[:, 2, :3]).sum(1) + matrix[:, 2, 3]
        if at_cell_center:
            point_depth = _depth_at_center(block, rows, matrix, here % cells, size[1], point_depth)
        depth[here] = point_depth.to(depth_type)
    shape = (frames, *size)
    return MemoryView(
        latents=latents.view(*shape, -1).movedim(-1, 0),
        is_covered=(index >= 0).view(shape),
        depth=depth.view(shape),
        point_index=index.view(shape),
    )


def _depth_at_center(
    block: MemoryBlock, rows: torch.Tensor, matrix: torch.Tensor, cell: torch.Tensor, columns: int, z: torch.Tensor
) -> torch.Tensor:
    """[m] float64 depth of the patches `rows` of a block on the rays of their cells; matrix: [m 3 4]."""
    sides = torch.einsum("mij,msj->smi", matrix[:, :, :3], block.sides[rows].double())
    center = (matrix[:, :, :3] * block.points[rows].double()[:, None]).sum(2) + matrix[:, :, 3]
    (ax, ay, az), (bx, by, bz) = sides[0].unbind(1), sides[1].unbind(1)
    x, y = (cell % columns) + 0.5, (cell // columns) + 0.5
    p, q, r, s = ax - x * az, bx - x * bz, ay - y * az, by - y * bz
    e, f = x * z - center[:, 0], y * z - center[:, 1]
    determinant = p * s - q * r
    a, b = (e * s - q * f) / determinant, (p * f - e * r) / determinant
    depth = z + a.clamp(-1, 1) * az + b.clamp(-1, 1) * bz
    return torch.where(depth > 0, depth, z)
