"""Looking at a memory from cameras: which point shows in which latent cell. No pixels, no VAE.

project() draws every point as the patch of surface it stands for, so near surfaces have no holes. project_points()
draws every point into the one cell it falls in, as the released code does.

Both keep, per camera and cell, one int64: what decides in the upper bits, the point's index in the lower 32. The least
one wins. A least value depends on no order and no thread count, and latents are fetched for winners only. All
arithmetic on points is elementwise, without matrix products, whose last bits may change with the shape of the batch.

On processors torch does arithmetic twenty times as fast as it looks values up. So points come in tiles, tiles out of
sight are skipped, and what is left is drawn without picking: whatever must not show gets a depth beyond all others or
falls into a border around the image that is cut off at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .camera import Cameras, projection_matrices
from .memory import TILE, LatentMemory

_PAIRS = 1 << 19  # large patches times cells drawn at a time
_CHUNK = 131072 // TILE  # tiles drawn at a time: bounds the memory needed, and stays in the cache
_NOTHING = torch.iinfo(torch.int64).max
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
# The upper 14 bits of a positive float32: depths are told apart in steps of 1/64 of a power of two, 0.8 to 1.6 %.
# Within one step surfaces seen from several frames are one surface, and the sharpest sample of it should show.
_DEPTH_BITS = ~((1 << 17) - 1)
_DISTANCE_SHIFT = 14  # leaves 17 bits of a positive float32
_BEYOND = 1e37  # deeper than this is nothing
_REACH = 8  # a patch covers cells at most this far from its point's cell; without it one point fills the picture
_BORDER = 5  # around the image: takes what small patches draw outside of it
_HALF_SIDE = 0.5 + 1 / 16  # patches overlap a little: on curved and noisy surfaces they do not meet exactly

Vector = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class MemoryView:
    """A memory seen by a sequence of cameras on a latent grid.

    latents: [channels frames rows columns] normalised, 0 where nothing is known.
    is_covered: [frames rows columns] bool, True where something is known.
    depth: [frames rows columns] z-depth of what shows, at the cell's centre for project() and at the point for
        project_points(); 0 where nothing is known.
    point_index: [frames rows columns] int64, index of the point in the memory, -1 where nothing is known.
    hole_latents: [channels frames rows columns] the map of the holes, encoded as a video; None for a memory of latents,
        where is_covered is all there is to know. With it, `latents` are an encoded picture, also where holes are.
    """

    latents: torch.Tensor
    is_covered: torch.Tensor
    depth: torch.Tensor
    point_index: torch.Tensor
    hole_latents: torch.Tensor | None = None


@dataclass(frozen=True)
class TileChunk:
    """Tiles of several blocks. index: [tiles TILE] of points in the memory.  in_sight: [frames tiles] bool."""

    values: torch.Tensor
    index: torch.Tensor
    in_sight: torch.Tensor


@dataclass(frozen=True)
class _Patches:
    """Patches as one camera sees them, each [m]: image position in cells, depth, and both sides in its frame."""

    index: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    ax: torch.Tensor
    ay: torch.Tensor
    az: torch.Tensor
    bx: torch.Tensor
    by: torch.Tensor
    bz: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> _Patches:
        return _Patches(*(value[chosen] for value in vars(self).values()))


@dataclass(frozen=True)
class _Axis:
    """What the rays through the centres of columns (or of rows) have to do with patches, each [m].

    The ray through x meets a patch's plane where u z + a ax + b bx = x (z + a az + b bz), or a p + b q = e with
    p = ax - x az, q = bx - x bz, e = (x - u) z; and the same for v and y.
    """

    cell: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor
    e: torch.Tensor
    distance: torch.Tensor
    is_own: torch.Tensor

    @staticmethod
    def of(cell: torch.Tensor, center: torch.Tensor, patches: _Patches, a: torch.Tensor, b: torch.Tensor) -> _Axis:
        x = cell + 0.5
        step = x - center
        return _Axis(
            cell, a - x * patches.az, b - x * patches.bz, step * patches.z, step * step, cell == center.floor()
        )


class _Canvas:
    """The least keys so far, of one camera after the other, on the image and a border around it."""

    def __init__(self, frames: int, size: tuple[int, int], device: torch.device | str) -> None:
        self.rows, self.columns = size
        self.stride = self.columns + 2 * _BORDER
        self.keys = torch.full((frames, (self.rows + 2 * _BORDER) * self.stride), _NOTHING, device=device)

    def draw(
        self, frame: int, column: torch.Tensor, row: torch.Tensor, near: torch.Tensor, index: torch.Tensor
    ) -> None:
        """Lower the keys at columns and rows, whole numbers that are at most _BORDER outside of the image."""
        cell = (row * self.stride).add_(column).add_((self.stride + 1) * _BORDER).long()
        key = near.long().bitwise_left_shift_(_INDEX_BITS).bitwise_or_(index)
        self.keys[frame].scatter_reduce_(0, cell, key, "amin")

    def image(self) -> torch.Tensor:
        """[frames rows columns] int64 keys without the border."""
        keys = self.keys.view(len(self.keys), self.rows + 2 * _BORDER, self.stride)
        return keys[:, _BORDER:-_BORDER, _BORDER:-_BORDER]

    def winners(self) -> torch.Tensor:
        """[frames rows * columns] int64 index of the point that shows, -1 where none does."""
        keys = self.image().flatten(1)
        return torch.where(keys >> _INDEX_BITS < int(_bits(torch.tensor(_BEYOND))), keys & _INDEX_MASK, -1)

    def farthest_around(
        self, frame: int, column: torch.Tensor, row: torch.Tensor, is_wide: torch.Tensor
    ) -> torch.Tensor:
        """[m] the greatest nearness, rounded down to 24 bits, at most 2 (or, if wide, _REACH) cells away.

        column, row: [m] float, at most _REACH outside of the image.  -1 where there is no image so close.
        """
        near = (self.image()[frame] >> (_INDEX_BITS + 7)).float()  # 24 bits: exact in float32
        narrow = _greatest_around(near, 2, _REACH - 2)
        around = torch.cat([narrow.flatten(), _greatest_around(near, _REACH, 0).flatten()])
        place = (row + _REACH) * narrow.shape[1] + column + _REACH + is_wide * narrow.numel()
        return around[place.long()]


def _greatest_around(values: torch.Tensor, reach: int, border: int) -> torch.Tensor:
    """[rows + 2 _REACH, columns + 2 _REACH] greatest of values [rows columns] in a square of 2 reach + 1 cells."""
    greatest = torch.nn.functional.pad(values, [2 * reach + border] * 4, value=-1.0)
    for dim in (0, 1):
        width = 1
        while width < 2 * reach + 1:
            step = min(width, 2 * reach + 1 - width)
            count = greatest.shape[dim] - step
            greatest = torch.maximum(greatest.narrow(dim, 0, count), greatest.narrow(dim, step, count))
            width += step
    return greatest


def project(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The remembered surfaces as `cameras` see them on a latent grid of `size` = (rows, columns).

    A point covers the cells whose centre lies on its patch, and always the cell it falls in; at most 8 cells far, and
    only points in front of the camera. The nearest surface shows; depths are compared at the cell's centre, in steps
    of 0.8 to 1.6 %. Within a step the point nearest to the cell's centre shows, then the one with the lowest index.
    The result is the same for any thread count, and for any order of points that are not tied in both.

    Besides the result and MemoryBlock.tiles this needs 1 byte per camera and TILE points, 8 bytes per camera and cell,
    and at most about 200 MB, however large the memory is.
    """
    matrices, canvas = _prepared(memory, cameras, size)
    for chunk in tiles_in_sight(memory, matrices, size):
        for frame, (matrix, in_sight) in enumerate(zip(matrices, chunk.in_sight, strict=True)):
            tiles = in_sight.nonzero()[:, 0]
            if len(tiles):
                patches = _patches(chunk, tiles, matrix)
                _draw_small(canvas, frame, patches)
                _draw_large(canvas, frame, patches)
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=True)


def project_points(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The memory with one point in one cell: the one with the least float32 depth, then the lowest index (paper eq. 5).

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py project, with the duplicate writes
    it leaves to chance decided.
    """
    matrices, canvas = _prepared(memory, cameras, size)
    for chunk in tiles_in_sight(memory, matrices, size, fields=3):
        for frame, (matrix, in_sight) in enumerate(zip(matrices, chunk.in_sight, strict=True)):
            tiles = in_sight.nonzero()[:, 0]
            if not len(tiles):
                continue
            u, v, z = image_positions(chunk.values[:, tiles].flatten(1), matrix)
            column, row = u.floor_().clamp_(-1, size[1]), v.floor_().clamp_(-1, size[0])
            near = _bits(z.add_(z <= 0, alpha=10 * _BEYOND))
            canvas.draw(frame, column, row, near, chunk.index[tiles].flatten())
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=False)


def _draw_small(canvas: _Canvas, frame: int, patches: _Patches) -> None:
    """Every patch in the two by two cells whose centres are nearest to its point: all of a patch at most so large."""
    # What is far outside lands in the border, where it is wrong and does not count.
    u, v = patches.u.clamp(-3, canvas.columns + 3), patches.v.clamp(-3, canvas.rows + 3)
    column, row = (u - 0.5).floor_(), (v - 0.5).floor_()
    columns = [_Axis.of(cell, u, patches, patches.ax, patches.bx) for cell in (column, column + 1)]
    for cell in (row, row + 1):
        down = _Axis.of(cell, v, patches, patches.ay, patches.by)
        for across in columns:
            canvas.draw(frame, across.cell, down.cell, _nearness(patches, across, down), patches.index)


def _draw_large(canvas: _Canvas, frame: int, patches: _Patches) -> None:
    """The patches that reach beyond two by two cells, in all of their cells, but for those that cannot show there."""
    u, v, z = patches.u, patches.v, patches.z
    # Over the patch u changes by a (ax - u az) / z' + b (bx - u bz) / z', and z' is at least this:
    least = z - patches.az.abs().add_(patches.bz.abs()).mul_(_HALF_SIDE)
    wide_u = (patches.ax - u * patches.az).abs_().add_((patches.bx - u * patches.bz).abs_()).mul_(_HALF_SIDE)
    wide_v = (patches.ay - v * patches.az).abs_().add_((patches.by - v * patches.bz).abs_()).mul_(_HALF_SIDE)
    outside = torch.maximum(
        (u - canvas.columns / 2).abs_().sub_(canvas.columns / 2), (v - canvas.rows / 2).abs_().sub_(canvas.rows / 2)
    )
    large = ((torch.maximum(wide_u, wide_v) > least) & (z > 0) & (outside < _REACH)).nonzero()[:, 0]
    least = least[large].clamp_(min=1e-30)
    half_u, half_v = wide_u[large].div_(least), wide_v[large].div_(least)
    # The two by two cells nearest to the point are drawn already: the others are at least one cell away.
    may_be = (_bits(least) & _DEPTH_BITS) | (_bits(torch.ones(1, device=least.device)) >> _DISTANCE_SHIFT)
    farthest = canvas.farthest_around(frame, u[large].floor_(), v[large].floor_(), torch.maximum(half_u, half_v) > 2)
    may_show = (may_be >> 7 <= farthest).nonzero()[:, 0]
    patches, half_u, half_v = patches[large[may_show]], half_u[may_show], half_v[may_show]
    first_column, columns = _cells_within(patches.u, half_u, canvas.columns)
    first_row, rows = _cells_within(patches.v, half_v, canvas.rows)
    count = columns * rows
    # A patch may cover hundreds of cells: only so many at a time that the memory needed stays bounded.
    at_once = _PAIRS // max(1, int(count.max())) if len(count) else 1
    for start in range(0, len(count), at_once):
        part = torch.arange(start, min(start + at_once, len(count)), device=count.device)
        owner = part[torch.repeat_interleave(count[part])]
        rank = torch.arange(len(owner), device=owner.device) - (count[part].cumsum(0) - count[part])[owner - start]
        down = rank // columns[owner]
        column, row = first_column[owner] + rank - down * columns[owner], first_row[owner] + down
        ones = patches[owner]
        across = _Axis.of(column.to(least.dtype), ones.u, ones, ones.ax, ones.bx)
        below = _Axis.of(row.to(least.dtype), ones.v, ones, ones.ay, ones.by)
        canvas.draw(frame, column, row, _nearness(ones, across, below), ones.index)


def _cells_within(center: torch.Tensor, half: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and number of cells along one axis whose centres are within `half` of `center`, or that hold it."""
    own = center.floor()
    low = torch.minimum((center - half - 0.5).ceil(), own).maximum(own - _REACH).clamp_(min=0)
    high = torch.maximum((center + half - 0.5).floor(), own).minimum(own + _REACH).clamp_(max=cells - 1)
    return low.long(), (high - low + 1).clamp_(min=0).long()


def _nearness(patches: _Patches, across: _Axis, down: _Axis) -> torch.Tensor:
    """[m] int32 that is least for what shows: the depth step, then the distance from the cell's centre.

    Beyond all depths where the patch does not lie on the cell's centre and the cell is not its point's own.
    """
    depth, is_patch = _depth_on_ray(patches, across, down)
    is_out = (is_patch | (across.is_own & down.is_own)).logical_not_().logical_or_(patches.z <= 0)
    step = _bits(depth.add_(is_out, alpha=10 * _BEYOND)).bitwise_and_(_DEPTH_BITS)
    return step.bitwise_or_(_bits(across.distance + down.distance) >> _DISTANCE_SHIFT)


def _depth_on_ray(patches: _Patches, across: _Axis, down: _Axis) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of patches on the rays through the centres of cells, and whether the rays hit them."""
    determinant = (across.p * down.q).sub_(across.q * down.p)
    determinant += determinant == 0  # edge-on: no place on the plane is the right one
    a = (across.e * down.q).sub_(across.q * down.e).div_(determinant)
    b = (across.p * down.e).sub_(across.e * down.p).div_(determinant)
    is_patch = torch.maximum(a.abs(), b.abs()) <= _HALF_SIDE
    a.clamp_(-_HALF_SIDE, _HALF_SIDE).mul_(patches.az)
    b.clamp_(-_HALF_SIDE, _HALF_SIDE).mul_(patches.bz)
    # A patch through the camera's own plane would be behind it here.
    return torch.maximum(a.add_(patches.z).add_(b), patches.z / 16), is_patch


def _patches(chunk: TileChunk, tiles: torch.Tensor, matrix: torch.Tensor) -> _Patches:
    values = chunk.values[:, tiles].flatten(1)
    return _Patches(
        chunk.index[tiles].flatten(),
        *image_positions(values[:3], matrix),
        *_turned(values[3:6], matrix),
        *_turned(values[6:], matrix),
    )


def image_positions(points: torch.Tensor, matrix: torch.Tensor) -> Vector:
    """(u, v, z), each [m], of points [3 m]; u and v mean nothing where z <= 0."""
    x, y, z = (value.add_(shift) for value, shift in zip(_turned(points, matrix), matrix[:, 3].tolist(), strict=True))
    in_front = z.clamp(min=1e-30)
    return x.div_(in_front), y.div_(in_front), z


def _turned(vectors: torch.Tensor, matrix: torch.Tensor) -> Vector:
    """The linear part of matrix [3 4] applied to vectors [3 m]: three tensors [m]."""
    x, y, z = vectors
    first, second, third = ((x * a).add_(y * b).add_(z * c) for a, b, c, _ in matrix.tolist())
    return first, second, third


def _bits(values: torch.Tensor) -> torch.Tensor:
    """int32 that order positive values as their float32 do."""
    return values.float().view(torch.int32)


def _prepared(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> tuple[torch.Tensor, _Canvas]:
    if min(size) < 1:
        raise ValueError(
            f"A view of {size[0]} x {size[1]} cells has nothing in it; give (rows, columns) of at least 1."
        )
    device = memory.blocks[0].points.device if memory.blocks else "cpu"
    return projection_matrices(cameras, size, memory.grid), _Canvas(len(cameras), size, device)


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


def tiles_in_sight(
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], fields: int = 9
) -> Iterator[TileChunk]:
    """The tiles that some camera may see, at most _CHUNK at a time, with the first `fields` of their values."""
    if not memory.blocks or not len(matrices):
        return
    tiles = [block.tiles for block in memory.blocks]
    spheres = torch.cat([one.centers for one in tiles]), torch.cat([one.radii for one in tiles])
    in_sight = _in_sight(*spheres, matrices, size)
    ends = torch.tensor([len(one.radii) for one in tiles]).cumsum(0)
    firsts = [0, *torch.tensor([len(block) for block in memory.blocks]).cumsum(0).tolist()]
    for chosen in in_sight.any(dim=0).nonzero()[:, 0].split(_CHUNK):
        cuts = [0, *torch.searchsorted(chosen, ends.to(chosen.device)).tolist()]
        values, index = [], []
        for one, end, first, start, stop in zip(tiles, ends.tolist(), firsts, cuts, cuts[1:], strict=False):
            if stop > start:
                rows = chosen[start:stop] - (end - len(one.radii))
                values.append(one.values[:fields, rows])
                index.append(one.index[rows] + first)
        if values:
            yield TileChunk(torch.cat(values, dim=1), torch.cat(index), in_sight[:, chosen])


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
    if len(place):
        latents[place] = _rows(memory, "latents", winner).to(latents_type)
        matrix = matrices.to(index.device)[place // cells]
        center = (matrix[:, :, :3] * _rows(memory, "points", winner).double()[:, None]).sum(2) + matrix[:, :, 3]
        u, v, z = center[:, 0] / center[:, 2], center[:, 1] / center[:, 2], center[:, 2]
        if at_cell_center:
            sides = _rows(memory, "sides", winner).double() @ matrix[:, :, :3].transpose(1, 2)
            patches = _Patches(winner, u, v, z, *sides.flatten(1).unbind(1))
            column, row = (place % cells % size[1]).double(), (place % cells // size[1]).double()
            across = _Axis.of(column, u, patches, patches.ax, patches.bx)
            z = _depth_on_ray(patches, across, _Axis.of(row, v, patches, patches.ay, patches.by))[0]
        depth[place] = z.to(depth_type)
    shape = (frames, *size)
    return MemoryView(
        latents=latents.view(*shape, -1).movedim(-1, 0),
        is_covered=(index >= 0).view(shape),
        depth=depth.view(shape),
        point_index=index.view(shape),
    )


def _rows(memory: LatentMemory, name: str, index: torch.Tensor) -> torch.Tensor:
    """Rows of one field of the memory; index: [m] ascending. Only the blocks they lie in are touched."""
    ends = torch.tensor([len(block) for block in memory.blocks]).cumsum(0)
    cuts = [0, *torch.searchsorted(index, ends.to(index.device)).tolist()]
    parts = [
        getattr(block, name)[index[start:stop] - (int(end) - len(block))]
        for block, end, start, stop in zip(memory.blocks, ends, cuts[:-1], cuts[1:], strict=True)
        if stop > start
    ]
    return torch.cat(parts)
