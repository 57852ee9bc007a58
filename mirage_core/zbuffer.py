"""Looking at a memory from cameras: which point shows in which latent cell. No pixels, no VAE.

project() draws every point as the patch of surface it stands for, so near surfaces have no holes. project_points()
draws every point into the one cell it falls in, as the released code does.

Both keep, per camera and cell, one int64: what decides in the upper bits, the point's index in the lower 32. The least
one wins. A least value depends on no order and no thread count, and latents are fetched for winners only. All
arithmetic on points is elementwise, without matrix products, whose last bits may change with the shape of the batch.

On processors torch does arithmetic twenty times as fast as it looks values up. So points come in tiles, tiles out of
sight are skipped (sight.py), and what is left is drawn without picking into the cells the points fall in: what must not
show falls into a border around the image that is cut off at the end. Only then patches (patches.py) are picked that may
show in other cells. Few are left of each camera's, and those of several cameras are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from .camera import Cameras, projection_matrices
from .memory import HALF_SIDE, LatentMemory, planes
from .patches import Patches, is_hit
from .sight import TileChunk, Vector, image_positions, tiles_in_sight, turned
from .winners import Winners

# Large patches drawn at a time: of several cameras if each has few, since small steps cost as much as larger ones.
_TOGETHER = 1 << 15
_PAIRS = 1 << 16  # of them, times cells: more would not stay in the cache
_NOTHING = torch.iinfo(torch.int64).max
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
# The upper 14 bits of a positive float32: depths are told apart in steps of 1/64 of a power of two, 0.8 to 1.6 %.
# Within one step surfaces seen from several frames are one surface, and the sharpest sample of it should show.
_DEPTH_BITS = ~((1 << 17) - 1)
_DISTANCE_MASK = ~_DEPTH_BITS
_DISTANCE_SHIFT = 14  # leaves 17 bits of a positive float32
_BEYOND = 1e37  # deeper than this is nothing
_BEYOND_BITS = int(torch.tensor(_BEYOND).view(torch.int32))
_REACH = 8  # a patch covers cells at most this far from its point's cell; without it one point fills the picture
_OUTSIDE = (2 * _REACH + 1) ** 2  # more cells than a patch covers
_BORDER = _REACH + 1  # around the image: takes points whose patches may reach into it, and in its rim all others
_WINDOWS = (1, 3, _REACH)  # cells around a point's own, of which a patch of some size may cover any
# In cells other than its point's own a patch counts as so much farther: within 5 % surfaces are one surface as far as
# depth models can tell, and a point that falls into a cell is the better sample of it.
_ELSEWHERE = 1.05
_NO_BAR = 1e30  # inverse depth that nothing exceeds
_SLACK = 1e-4  # for the rounding of bars; much less than a depth step


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


class _Canvas:
    """The least keys so far, of one camera after the other, on the image and a border around it."""

    def __init__(self, frames: int, size: tuple[int, int], device: torch.device | str) -> None:
        self.rows, self.columns = size
        self.stride = self.columns + 2 * _BORDER
        self.keys = torch.full((frames, (self.rows + 2 * _BORDER) * self.stride), _NOTHING, device=device)

    def place(self, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """[m] int32 index into one camera's keys of whole numbers that are at most _BORDER outside of the image."""
        return (row * self.stride).add_(column).add_((self.stride + 1) * _BORDER).int()

    @staticmethod
    def draw(keys: torch.Tensor, place: torch.Tensor, near: torch.Tensor, index: torch.Tensor) -> None:
        """Lower `keys`, of one camera or of all, at `place`."""
        key = near.long().bitwise_left_shift_(_INDEX_BITS).bitwise_or_(index)
        keys.scatter_reduce_(0, place.long(), key, "amin")

    def image(self) -> torch.Tensor:
        """[frames rows columns] int64 keys without the border."""
        keys = self.keys.view(len(self.keys), self.rows + 2 * _BORDER, self.stride)
        return keys[:, _BORDER:-_BORDER, _BORDER:-_BORDER]

    def winners(self) -> torch.Tensor:
        """[frames rows * columns] int64 index of the point that shows, -1 where none does."""
        keys = self.image().flatten(1)
        return torch.where(keys >> _INDEX_BITS < _BEYOND_BITS, keys & _INDEX_MASK, -1)

    def bars(self, frame: int) -> torch.Tensor:
        """[windows * cells] the least inverse depth that shows up to _WINDOWS[i] cells away, as depth steps tell it."""
        near = (self.image()[frame] >> _INDEX_BITS).int()
        # A patch that ends up in the same step may still win: it has to reach the step's far end only.
        far_end = near.bitwise_and(_DEPTH_BITS).add_(~_DEPTH_BITS + 1).view(torch.float32)
        shown = far_end.reciprocal().masked_fill_(near >= _BEYOND_BITS, 0)
        return _least_around(torch.nn.functional.pad(shown, [_BORDER] * 4, value=_NO_BAR)).flatten()


def _least_around(values: torch.Tensor) -> torch.Tensor:
    """[windows rows columns] the least of values [rows columns] up to _WINDOWS[i] cells to all sides."""
    found, reach = [], 0
    for window in _WINDOWS:
        step, reach = window - reach, window
        for dim in (0, 1):
            last, values = values, values.clone()
            length = values.shape[dim] - step
            for start, other in ((0, step), (step, 0)):
                part = values.narrow(dim, start, length)
                torch.minimum(part, last.narrow(dim, other, length), out=part)
        found.append(values)
    return torch.stack(found)


def project(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The remembered surfaces as `cameras` see them on a latent grid of `size` = (rows, columns).

    A point covers the cells whose centre lies on its patch, and always the cell it falls in; at most 8 cells far, and
    only points in front of the camera. The nearest surface shows; depths are compared at the cell's centre, in steps
    of 0.8 to 1.6 %. Within a step the point nearest to the cell's centre shows, then the one with the lowest index;
    distance is the greater of that in columns and that in rows. In cells that a point does not fall in it counts as
    5 % farther: there a patch closes holes and hides what is clearly behind it, and leaves its own surface to the
    points that were sampled there. A patch that would show its back leaves the cell unknown, but hides what is behind
    it; it counts as 10 % farther, so that the other side of a thin wall shows once that has been seen. Where the ray
    through the centre of a point's own cell misses its patch, the depth is that of the patch's plane, at most as much
    before or behind the point as the patch's corners are away from it.
    The result is the same for any thread count, and for any order of points that are not tied in both.

    Besides the result and MemoryBlock.tiles this needs 1 byte per camera and TILE points, 8 bytes per camera and cell,
    and at most about 200 MB, however large the memory is.
    """
    matrices, canvas = _prepared(memory, cameras, size)
    seers = _seers(matrices, size)
    for chunk in tiles_in_sight(memory, matrices, size):
        waiting: list[_LargePatches] = []
        for frame, seer in enumerate(seers):
            waiting.append(_draw_own_cells(canvas, frame, chunk, seer))
            if frame + 1 == len(seers) or sum(len(one.frame) for one in waiting) > _TOGETHER:
                _spread(canvas, _LargePatches.joined(waiting))
                waiting.clear()
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=True)


def project_points(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The memory with one point in one cell: the one with the least float32 depth, then the lowest index (paper eq. 5).

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py project, with the duplicate writes
    it leaves to chance decided.
    """
    matrices, canvas = _prepared(memory, cameras, size)
    for chunk in tiles_in_sight(memory, matrices, size, only_points=True):
        for frame, matrix in enumerate(matrices):
            values, index = chunk.seen_by(frame)
            u, v, z = image_positions(values, matrix)
            column, row = u.floor_().clamp_(-1, size[1]), v.floor_().clamp_(-1, size[0])
            near = _bits(z.add_(z <= 0, alpha=10 * _BEYOND))
            canvas.draw(canvas.keys[frame], canvas.place(column, row), near, index)
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=False)


@dataclass(frozen=True)
class _Seer:
    """One camera. matrix [3 4]; normals [3 3] turns normals into the frame of the rays (x, y, 1).

    cells_per_length: how many cells something as long as its depth can take at most, in the image and its border.
    """

    matrix: torch.Tensor
    normals: torch.Tensor
    cells_per_length: float


def _seers(matrices: torch.Tensor, size: tuple[int, int]) -> list[_Seer]:
    x, y, z = matrices[:, :, :3].unbind(1)
    ends = [x - u * z for u in (-_BORDER, size[1] + _BORDER)] + [y - v * z for v in (-_BORDER, size[0] + _BORDER)]
    lengths = torch.stack(ends).norm(dim=-1).amax(0).clamp(min=1.0).tolist()
    # A point seen at (u, v) is z (u, v, 1) in the rays' frame, and a normal turns as the inverse's transpose.
    normals = torch.linalg.inv(matrices[:, :, :3]).mT
    return [_Seer(*one) for one in zip(matrices, normals, lengths, strict=True)]


@dataclass(frozen=True)
class _LargePatches:
    """Patches of any cameras that may show in other cells than their own.

    sides: ax, ay, az, bx, by, bz in their camera's frame.  index: [m] of points.  frame: [m] int64.
    """

    patches: Patches
    sides: Vector
    index: torch.Tensor
    frame: torch.Tensor

    @staticmethod
    def joined(parts: Sequence[_LargePatches]) -> _LargePatches:
        patches = zip(*(vars(part.patches).values() for part in parts), strict=True)
        sides = zip(*(part.sides for part in parts), strict=True)
        return _LargePatches(
            Patches(*(torch.cat(values) for values in patches)),
            tuple(torch.cat(values) for values in sides),
            torch.cat([part.index for part in parts]),
            torch.cat([part.frame for part in parts]),
        )


def _draw_own_cells(canvas: _Canvas, frame: int, chunk: TileChunk, seer: _Seer) -> _LargePatches:
    """Draw every point in the cell it falls in. Returns the patches that are not sure to be hidden in all others."""
    values, index = chunk.seen_by(frame)
    patches = _patches(values, seer, (canvas.rows, canvas.columns))
    column, row = patches.u.floor(), patches.v.floor()
    step_u, step_v = (column + 0.5).sub_(patches.u), (row + 0.5).sub_(patches.v)
    ratio, place = patches.ratio(step_u, step_v), canvas.place(column, row)
    distance = torch.maximum(step_u.abs_(), step_v.abs_())
    canvas.draw(canvas.keys[frame], place, _nearness(patches.depth(ratio).mul_(patches.weight), distance), index)
    chosen = _may_show(patches, place, distance, canvas.bars(frame), seer.cells_per_length).nonzero()[:, 0]
    sides = chunk.sides_seen_by(frame, chosen).to(patches.z.dtype)
    return _LargePatches(
        patches[chosen],
        (*turned(sides[:3], seer.matrix), *turned(sides[3:], seer.matrix)),
        index.index_select(0, chosen),
        torch.full_like(chosen, frame),
    )


def _may_show(
    patches: Patches, place: torch.Tensor, distance: torch.Tensor, bars: torch.Tensor, cells_per_length: float
) -> torch.Tensor:
    """[m] bool, False where a patch is sure to be hidden in every cell but its own, or to reach no other's centre.

    distance: of its point from its own cell's centre, in cells.
    """
    # high / z is one over the least depth, and `reach` is z / low - z.
    half = (patches.high / patches.low).sub_(patches.high).mul_(cells_per_length)
    # The windows hold patches up to 1.5, 3 and more cells from their points: powers of two, read off the exponent.
    window = (_bits(half / 1.5) >> 23).sub_(126).clamp_(0, len(_WINDOWS) - 1)
    bar = bars.index_select(0, window.mul_(len(bars) // len(_WINDOWS)).add_(place))
    is_nearer = patches.high >= bar.mul_(patches.z).mul_(_ELSEWHERE * (1 - _SLACK))
    return is_nearer.logical_and_(half.mul_(1 + _SLACK).add_(distance) >= 1 - _SLACK)


def _spread(canvas: _Canvas, large: _LargePatches) -> None:
    """Draw patches into all other cells whose centres lie on them."""
    all_keys, u, v = canvas.keys.view(-1), large.patches.u, large.patches.v
    ax, ay, az, bx, by, bz = large.sides
    # Over the patch u changes by a (ax - u az) / z' + b (bx - u bz) / z', and z' is at least this:
    least = (large.patches.z - az.abs().add_(bz.abs()).mul_(HALF_SIDE)).clamp_(min=1e-30)
    half_u = (ax - u * az).abs_().add_((bx - u * bz).abs_()).mul_(HALF_SIDE).div_(least)
    half_v = (ay - v * az).abs_().add_((by - v * bz).abs_()).mul_(HALF_SIDE).div_(least)
    first_column, columns = _cells_within(u, half_u, canvas.columns)
    first_row, rows = _cells_within(v, half_v, canvas.rows)
    # The cells of a patch are counted row by row; its own, if it is in the image, is left out: there it has been drawn.
    in_image = (u >= 0).logical_and_(u < canvas.columns).logical_and_(v >= 0).logical_and_(v < canvas.rows)
    own = (v.int() - first_row).mul_(columns).add_(u.int()).sub_(first_column).masked_fill_(~in_image, _OUTSIDE)
    counts = (columns * rows).sub_(in_image.int())
    several = (counts > 0).nonzero()[:, 0]
    counts = counts.index_select(0, several).long()
    ends = counts.cumsum(0)
    if not len(ends):
        return
    # A patch may cover hundreds of cells: only so many at a time that the memory needed stays bounded.
    full = torch.tensor(range(_PAIRS, int(ends[-1]), _PAIRS), dtype=ends.dtype, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, full).tolist(), len(ends)]
    for start, stop in pairwise(cuts):
        owner = torch.repeat_interleave(counts[start:stop]).add_(start)
        rank = torch.arange(len(owner), device=owner.device).add_(int(ends[start] - counts[start])).int()
        rank.sub_((ends - counts).int().index_select(0, owner))
        owner = several.index_select(0, owner)
        rank.add_(rank >= own.index_select(0, owner))
        width = columns.index_select(0, owner)
        down = torch.div(rank, width, rounding_mode="floor")
        column = first_column.index_select(0, owner).add_(rank).sub_(down * width).to(u.dtype)
        row = first_row.index_select(0, owner).add_(down).to(u.dtype)
        ones = large.patches[owner]
        step_u, step_v = (column + 0.5).sub_(ones.u), (row + 0.5).sub_(ones.v)
        depth = ones.depth(ones.ratio(step_u, step_v)).mul_(ones.weight).mul_(_ELSEWHERE)
        near = _nearness(depth, torch.maximum(step_u.abs(), step_v.abs()))
        place = large.frame.index_select(0, owner).mul_(canvas.keys.shape[1]).add_(canvas.place(column, row))
        nearer = (near <= (all_keys.index_select(0, place) >> _INDEX_BITS).int()).nonzero()[:, 0]
        owner, ones = owner.index_select(0, nearer), ones[nearer]
        step_u, step_v, near, place = (value.index_select(0, nearer) for value in (step_u, step_v, near, place))
        sides = tuple(side.index_select(0, owner) for side in large.sides)
        hit = is_hit(ones, sides, step_u, step_v).nonzero()[:, 0]
        owner, near, place = (value.index_select(0, hit) for value in (owner, near, place))
        canvas.draw(all_keys, place, near, large.index.index_select(0, owner))


def _cells_within(center: torch.Tensor, half: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and number of cells along one axis whose centres are within `half` of `center`, or that hold it."""
    own = center.floor()
    low = torch.minimum((center - half - 0.5).ceil(), own).maximum(own - _REACH).clamp_(min=0)
    high = torch.maximum((center + half - 0.5).floor(), own).minimum(own + _REACH).clamp_(max=cells - 1)
    return low.int(), (high - low + 1).clamp_(min=0).int()


def _nearness(depth: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """[m] int32 that is least for what shows: the depth step, then the distance from the cell's centre."""
    return _bits(depth).bitwise_and(_DEPTH_BITS).bitwise_or_(_bits(distance) >> _DISTANCE_SHIFT)


def _patches(values: Sequence[torch.Tensor] | torch.Tensor, seer: _Seer, size: tuple[int, int]) -> Patches:
    """Patches of points [3 m], normals [3 m] and reach [m]. What cannot reach the image is moved to the border."""
    u, v, z = image_positions(values[:3], seer.matrix)
    u = u.add_(z <= 0, alpha=_BEYOND).clamp_(-_REACH - 0.5, size[1] + _REACH + 0.5)
    v, z = v.clamp_(-_REACH - 0.5, size[0] + _REACH + 0.5), z.clamp_(min=1e-30)
    return Patches.of((u, v, z), turned(values[3:6], seer.normals), values[6])


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


def _view(
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], index: torch.Tensor, *, at_cell_center: bool
) -> MemoryView:
    """Latents and depth of the winners. index: [frames cells], -1 where nothing is known."""
    winners = Winners(memory, index)
    points = winners.at_cells(winners.rows("points").double())
    u, v, z = image_positions(_fields(points, index.shape), matrices)
    if at_cell_center:
        plane = _fields(winners.at_cells(planes(winners.rows("sides").double())), index.shape)
        patches = Patches.of((u, v, z), turned(plane[:3], torch.linalg.inv(matrices[:, :, :3]).mT), plane[3])
        z = _depth_at_centers(patches, size)
        winners.leave_out(patches.weight > 1)
    latents = winners.at_cells(winners.rows("latents").to(winners.blocks[0].latents.dtype))
    is_covered = winners.rank > 0
    shape = (len(index), *size)
    return MemoryView(
        latents=latents.view(*shape, memory.grid.channels).movedim(-1, 0),
        is_covered=is_covered.view(shape),
        depth=z.flatten().where(is_covered, 0.0).to(winners.blocks[0].points.dtype).view(shape),
        point_index=index.flatten().where(is_covered, -1).view(shape),
    )


def _fields(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[fields frames cells] of rows [frames * cells fields]."""
    return rows.T.contiguous().view(-1, *shape)


def _depth_at_centers(patches: Patches, size: tuple[int, int]) -> torch.Tensor:
    """[frames cells] depth of patches, one per cell, on the rays through the cells' centres."""
    row, column = torch.meshgrid(*(torch.arange(n, device=patches.u.device) + 0.5 for n in size), indexing="ij")
    return patches.depth(patches.ratio(column.flatten() - patches.u, row.flatten() - patches.v))
