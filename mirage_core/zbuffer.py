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

_CHUNK = 1 << 17  # points drawn at a time: bounds the memory needed, and stays in the processor's cache
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
class _Chunk:
    """Points of some blocks side by side. index: [n] in the memory.  points: [3 n].  reach: [n] radius of the patch."""

    index: torch.Tensor
    points: torch.Tensor
    sides: torch.Tensor
    reach: torch.Tensor


@dataclass(frozen=True)
class _Seen:
    """Points of a chunk that one camera may see: rows of the chunk, image position (cells) and depth, each [m]."""

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
    for chunk in _chunks(memory, matrices, size, margin=_REACH):
        for frame, matrix in enumerate(matrices):
            seen = _not_hidden(_seen(chunk, matrix, size, margin=_REACH), chunk, keys[frame], matrix, size)
            if len(seen.row):
                _draw_patches(keys[frame], seen, chunk, matrix, size)
    return _view(memory, matrices, size, keys, at_cell_center=True)


def project_points(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The memory with one point in one cell: the one with the least float32 depth, then the lowest index (paper eq. 5).

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py project, with the duplicate writes
    it leaves to chance decided.
    """
    keys, matrices = _new_keys(memory, cameras, size), projection_matrices(cameras, size, memory.grid)
    for chunk in _chunks(memory, matrices, size, margin=0):
        for frame, matrix in enumerate(matrices):
            seen = _seen(chunk, matrix, size, margin=0)
            cell = (seen.v.int() * size[1] + seen.u.int()).long()
            may_win = (_bits(seen.z) <= (keys[frame] >> _INDEX_BITS)[cell]).nonzero()[:, 0]
            seen, cell = seen[may_win], cell[may_win]
            _keep_least(keys[frame], cell, (_bits(seen.z).long() << _INDEX_BITS) | chunk.index[seen.row])
    return _view(memory, matrices, size, keys, at_cell_center=False)


def _draw_patches(keys: torch.Tensor, seen: _Seen, chunk: _Chunk, matrix: torch.Tensor, size: tuple[int, int]) -> None:
    """Lower `keys` [cells] of one camera to those of the patches of the seen points."""
    sides = chunk.sides[seen.row].flatten(1).T.contiguous()
    (ax, ay, az), (bx, by, bz) = _turned(sides[:3], matrix), _turned(sides[3:], matrix)
    u, v, z = seen.u, seen.v, seen.z
    # Over the patch u changes by a (ax - u az) / z' + b (bx - u bz) / z', and z' is at least this:
    least = (z - (az.abs() + bz.abs()) * _HALF_SIDE).clamp_(min=1e-30)
    half_u = ((ax - u * az).abs() + (bx - u * bz).abs()) / least * _HALF_SIDE
    half_v = ((ay - v * az).abs() + (by - v * bz).abs()) / least * _HALF_SIDE
    column, columns = _cells_within(u, half_u, size[1])
    row, rows = _cells_within(v, half_v, size[0])
    point, column, row = _spread(column, columns, row, rows)
    values = torch.stack([u, v, z, ax, ay, az, bx, by, bz])[:, point]
    u, v, z, ax, ay, az, bx, by, bz = values
    x, y = column + 0.5, row + 0.5
    # The cell's ray meets the patch's plane where (u z + a ax + b bx) = x (z + a az + b bz), and the same for y.
    p, q, r, s = ax - x * az, bx - x * bz, ay - y * az, by - y * bz
    x, y = x - u, y - v
    e, f = x * z, y * z
    determinant = p * s - q * r
    a, b = (e * s - q * f) / determinant, (p * f - e * r) / determinant
    is_patch = torch.maximum(a.abs(), b.abs()) <= _HALF_SIDE
    is_own = torch.maximum(x.abs(), y.abs()) <= 0.5
    depth = z + a.clamp(-_HALF_SIDE, _HALF_SIDE) * az + b.clamp(-_HALF_SIDE, _HALF_SIDE) * bz
    depth = torch.where(depth > 0, depth, z)  # also where a patch seen edge-on makes it NaN
    near = ((_bits(depth) >> _DEPTH_SHIFT).long() << _DISTANCE_BITS) | (_bits(x * x + y * y) >> _DISTANCE_SHIFT)
    cell = (row * size[1] + column).long()
    may_win = ((is_patch | is_own) & (near <= (keys >> _INDEX_BITS)[cell])).nonzero()[:, 0]
    index = chunk.index[seen.row[point[may_win]]]
    _keep_least(keys, cell[may_win], (near[may_win] << _INDEX_BITS) | index)


def _cells_within(center: torch.Tensor, half: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and number of cells along one axis whose centres are within `half` of `center`, or that hold it."""
    own = center.floor()
    low = torch.minimum((center - half - 0.5).ceil(), own).maximum(own - _REACH).clamp_(min=0)
    high = torch.maximum((center + half - 0.5).floor(), own).minimum(own + _REACH).clamp_(max=cells - 1)
    return low.int(), (high - low + 1).clamp_(min=0).int()


def _spread(
    column: torch.Tensor, columns: torch.Tensor, row: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Point, column and row of every cell of rectangles [m] given by their first column and row and their extent."""
    count = columns * rows
    single, several = (count == 1).nonzero()[:, 0], (count > 1).nonzero()[:, 0]
    count = count[several].long()
    owner = torch.repeat_interleave(count)
    rank = (torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]).int()
    point = several[owner]
    width = columns[point]
    down = rank // width
    return (
        torch.cat([single, point]),
        torch.cat([column[single], column[point] + rank - down * width]),
        torch.cat([row[single], row[point] + down]),
    )


def _not_hidden(seen: _Seen, chunk: _Chunk, keys: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int]) -> _Seen:
    """Without the points whose whole patch is behind what is already drawn in every cell it can reach."""
    radius = chunk.reach[seen.row]
    front = (seen.z - radius).clamp_(min=1e-30)
    # d(u) of a step d in the camera is (focal dx + (center - u) dz) / z', and z' is at least `front`.
    off_axis = [(matrix[axis, :3] @ matrix[2, :3]).item() for axis in range(2)]
    focal = max(float((matrix[axis, :3] - off_axis[axis] * matrix[2, :3]).norm()) for axis in range(2))
    lever = torch.maximum((seen.u - off_axis[0]).abs(), (seen.v - off_axis[1]).abs()) + focal
    is_small = radius * lever <= front
    drawn = (keys >> (_INDEX_BITS + _DISTANCE_BITS)).float().view(1, 1, *size)
    # Padding is below any depth: where a patch reaches no cell of the image, nothing is lost.
    drawn = torch.nn.functional.pad(drawn, [_REACH] * 4, value=-1.0)
    around = [_greatest_within(drawn, cells).flatten() for cells in (1, _REACH)]
    place = (seen.v.floor().int() + _REACH) * (size[1] + 2 * _REACH) + seen.u.floor().int() + _REACH
    place = torch.where(is_small, place, place + drawn.numel()).long()
    may_show = (_bits(front) >> _DEPTH_SHIFT) <= torch.cat(around)[place]
    return seen[may_show.nonzero()[:, 0]]


def _greatest_within(values: torch.Tensor, cells: int) -> torch.Tensor:
    """[1 1 rows columns] greatest value at most `cells` away along both axes."""
    across = torch.nn.functional.max_pool2d(values, (1, 2 * cells + 1), 1, (0, cells))
    return torch.nn.functional.max_pool2d(across, (2 * cells + 1, 1), 1, (cells, 0))


def _seen(chunk: _Chunk, matrix: torch.Tensor, size: tuple[int, int], margin: int) -> _Seen:
    """The points in front of the camera and at most `margin` cells outside of its image."""
    # A matrix product is quick but its last bits may differ from batch to batch: it only sorts out, with room to spare.
    bounds = _frustum(matrix, size, margin + 0.01)
    room = 1e-5 * (bounds[:, :3].abs() @ chunk.points.abs().amax(1).double().cpu() + bounds[:, 3].abs())
    bounds[:, 3] += room
    bounds = bounds.to(chunk.points)
    distances = torch.addmm(bounds[:, 3:], bounds[:, :3], chunk.points)
    row = (distances.amin(0) >= 0).nonzero()[:, 0]
    x, y, z = _turned(chunk.points[:, row], matrix)
    shift = matrix[:, 3].tolist()
    x, y, z = x + shift[0], y + shift[1], z + shift[2]
    u, v = x / z, y / z
    is_seen = (z > 0) & (u >= -margin) & (u < size[1] + margin) & (v >= -margin) & (v < size[0] + margin)
    return _Seen(row, u, v, z)[is_seen.nonzero()[:, 0]]


def _frustum(matrices: torch.Tensor, size: tuple[int, int], margin: float) -> torch.Tensor:
    """[... 4 4] linear forms of a homogeneous world point that are all above 0 inside the margined image."""
    x, y, z = matrices.unbind(-2)
    return torch.stack([x + margin * z, (size[1] + margin) * z - x, y + margin * z, (size[0] + margin) * z - y], -2)


def _turned(vectors: torch.Tensor, matrix: torch.Tensor) -> list[torch.Tensor]:
    """The linear part of matrix [3 4] applied to vectors [3 n]: three tensors [n]."""
    x, y, z = vectors
    return [x * a + y * b + z * c for a, b, c, _ in matrix.tolist()]


def _bits(values: torch.Tensor) -> torch.Tensor:
    """int32 that order positive values as their float32 do."""
    return values.float().view(torch.int32)


def _keep_least(keys: torch.Tensor, cell: torch.Tensor, key: torch.Tensor) -> None:
    """Lower keys[cell] to key where key is less."""
    keys.scatter_reduce_(0, cell, key, "amin")


def _chunks(memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], margin: int) -> Iterator[_Chunk]:
    """The points of all blocks that some camera may see, at most _CHUNK at a time."""
    parts: list[tuple[int, MemoryBlock, slice]] = []
    count = first = 0
    for block, is_visible in zip(memory.blocks, _visible_blocks(memory, matrices, size, margin), strict=True):
        for start in range(0, len(block) if is_visible else 0, _CHUNK):
            part = slice(start, min(start + _CHUNK, len(block)))
            if count + part.stop - part.start > _CHUNK:
                yield _chunk_of(parts)
                parts, count = [], 0
            parts.append((first, block, part))
            count += part.stop - part.start
        first += len(block)
    if parts:
        yield _chunk_of(parts)


def _chunk_of(parts: list[tuple[int, MemoryBlock, slice]]) -> _Chunk:
    device = parts[0][1].points.device
    indices = [torch.arange(first + part.start, first + part.stop, device=device) for first, _, part in parts]
    return _Chunk(
        index=torch.cat(indices),
        points=torch.cat([block.points[part] for _, block, part in parts]).T.contiguous(),
        sides=torch.cat([block.sides[part] for _, block, part in parts]),
        # The half diagonal of a patch is at most its longer side.
        reach=torch.cat([block.footprints[part] for _, block, part in parts]) * (2 * _HALF_SIDE),
    )


def _visible_blocks(memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], margin: int) -> list[bool]:
    """For each block whether its bounding sphere reaches into the margined image of any camera."""
    if not memory.blocks or not len(matrices):
        return [False] * len(memory.blocks)
    centers = torch.stack([block.bounds[0] for block in memory.blocks])
    radii = torch.tensor([block.bounds[1] for block in memory.blocks], dtype=torch.float64)
    bounds = _frustum(matrices, size, margin)
    distances = torch.einsum("fki,bi->bfk", bounds[..., :3], centers) + bounds[..., 3]
    is_reached = distances + radii[:, None, None] * bounds[..., :3].norm(dim=-1) >= 0
    return is_reached.all(dim=2).any(dim=1).tolist()


def _new_keys(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
    """[frames cells] int64, all empty."""
    if min(size) < 1:
        raise ValueError(
            f"A view of {size[0]} x {size[1]} cells has nothing in it; give (rows, columns) of at least 1."
        )
    device = memory.blocks[0].points.device if memory.blocks else "cpu"
    return torch.full((len(cameras), size[0] * size[1]), _NOTHING, device=device)


def _view(
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], keys: torch.Tensor, *, at_cell_center: bool
) -> MemoryView:
    """Latents and depth of the winners. keys: [frames cells]."""
    index = torch.where(keys == _NOTHING, -1, keys & _INDEX_MASK)
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
    depth = z + a.clamp(-_HALF_SIDE, _HALF_SIDE) * az + b.clamp(-_HALF_SIDE, _HALF_SIDE) * bz
    return torch.where(depth > 0, depth, z)
