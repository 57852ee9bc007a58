"""Looking at a memory from cameras: which point shows in which latent cell. No pixels, no VAE.

project() draws every point as the patch of surface it stands for, so near surfaces have no holes. project_points()
draws every point into the one cell it falls in, as the released code does.

Both keep, per camera and cell, one int64: what decides in the upper bits, the point's index in the lower 32. The least
one wins. A least value depends on no order and no thread count, and latents are fetched for winners only. All
arithmetic on points is elementwise, without matrix products, whose last bits may change with the shape of the batch.

On processors torch does arithmetic twenty times as fast as it looks values up. So points come in tiles, tiles out of
sight are skipped, and what is left is drawn without picking into the cells the points fall in: what must not show falls
into a border around the image that is cut off at the end. Only then patches are picked that may show in other cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from .camera import Cameras, projection_matrices
from .memory import HALF_SIDE, TILE, LatentMemory, planes

_PAIRS = 1 << 19  # large patches times cells drawn at a time
_CHUNK = 262144 // TILE  # tiles drawn at a time: bounds the memory needed, and stays in the cache
_NOTHING = torch.iinfo(torch.int64).max
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
# The upper 14 bits of a positive float32: depths are told apart in steps of 1/64 of a power of two, 0.8 to 1.6 %.
# Within one step surfaces seen from several frames are one surface, and the sharpest sample of it should show.
_DEPTH_BITS = ~((1 << 17) - 1)
_DISTANCE_MASK = ~_DEPTH_BITS
_DISTANCE_SHIFT = 14  # leaves 17 bits of a positive float32
_BEYOND = 1e37  # deeper than this is nothing
_REACH = 8  # a patch covers cells at most this far from its point's cell; without it one point fills the picture
_BORDER = _REACH + 1  # around the image: takes points whose patches may reach into it, and in its rim all others
_WINDOWS = (1, 3, 6, _REACH)  # cells around a point's own, of which a patch of some size may cover any
# In cells other than its point's own a patch counts as so much farther: within 5 % surfaces are one surface as far as
# depth models can tell, and a point that falls into a cell is the better sample of it.
_ELSEWHERE = 1.05
_NO_BAR = 1e30  # inverse depth that nothing exceeds
# A surface seen from behind hides what is beyond it, and what it looks like from there nobody has seen. The front of a
# thin wall must lose against its back, as far as these can be told apart.
_FROM_BEHIND = 1.1
_EDGE_ON = 0.1  # cosine up to which the side a surface is seen from is left open: normals are no better than depth
_WORTH_PICKING = 0.75  # of a chunk's tiles
_SLACK = 1e-4  # for the rounding of bars; much less than a depth step

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
    """Tiles of several blocks. values: [fields tiles TILE] and sides [6 tiles TILE]: see PointTiles; sides are None if
    only points were asked for.  index: [tiles TILE] of points in the memory.  in_sight: [frames tiles] bool.
    """

    values: torch.Tensor
    sides: torch.Tensor | None
    index: torch.Tensor
    in_sight: torch.Tensor

    def seen_by(self, frame: int) -> TileChunk:
        """Without what this camera cannot see, unless that is so little that picking would cost more than drawing."""
        tiles = self.in_sight[frame].nonzero()[:, 0]
        if len(tiles) > _WORTH_PICKING * len(self.index):
            return self
        values = self.values.index_select(1, tiles)
        sides = None if self.sides is None else self.sides.index_select(1, tiles)
        return TileChunk(values, sides, self.index.index_select(0, tiles), self.in_sight[:, tiles])


@dataclass(frozen=True)
class _Patches:
    """Patches as one camera sees them, each [m]: image position in cells, depth, and the planes they lie on.

    The ray through (x, y) meets the plane at the depth z / ratio with ratio = 1 + (x - u) tilt_u + (y - v) tilt_v.
    On the patch itself the ratio is between `low` and `high`. `weight` is 1, or _FROM_BEHIND for what shows its back.
    """

    u: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    tilt_u: torch.Tensor
    tilt_v: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    weight: torch.Tensor

    @staticmethod
    def of(position: Vector, normal: Vector, reach: torch.Tensor) -> _Patches:
        """normal: in the frame of the rays (x, y, 1), changed here."""
        (u, v, z), (normal_u, normal_v, normal_z) = position, normal
        facing = (u * normal_u).add_(v * normal_v).add_(normal_z).add_(1e-30)  # never 0: edge-on, its ends decide
        least = torch.maximum(z - reach, z / 16)  # a patch through the camera's own plane would be behind it
        weight = (facing < -_EDGE_ON).to(z.dtype).mul_(_FROM_BEHIND - 1).add_(1)
        return _Patches(u, v, z, normal_u / facing, normal_v / facing, z / (z + reach), z / least, weight)

    def __getitem__(self, chosen: torch.Tensor) -> _Patches:
        return _Patches(*(value.index_select(0, chosen) for value in vars(self).values()))

    def ratio(self, step_u: torch.Tensor, step_v: torch.Tensor) -> torch.Tensor:
        """[m] the ratio at (u + step_u, v + step_v), also where the patch does not reach."""
        return (step_u * self.tilt_u).add_(step_v * self.tilt_v).add_(1)

    def depth(self, ratio: torch.Tensor) -> torch.Tensor:
        """[m] depth where the plane has this ratio, or where the patch ends before."""
        return self.z / torch.minimum(torch.maximum(ratio, self.low), self.high)


class _Canvas:
    """The least keys so far, of one camera after the other, on the image and a border around it."""

    def __init__(self, frames: int, size: tuple[int, int], device: torch.device | str) -> None:
        self.rows, self.columns = size
        self.stride = self.columns + 2 * _BORDER
        self.keys = torch.full((frames, (self.rows + 2 * _BORDER) * self.stride), _NOTHING, device=device)

    def place(self, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """[m] int32 index into `keys` of whole numbers that are at most _BORDER outside of the image."""
        return (row * self.stride).add_(column).add_((self.stride + 1) * _BORDER).int()

    def draw(self, frame: int, place: torch.Tensor, near: torch.Tensor, index: torch.Tensor) -> None:
        """Lower the keys at `place`."""
        key = near.long().bitwise_left_shift_(_INDEX_BITS).bitwise_or_(index)
        self.keys[frame].scatter_reduce_(0, place.long(), key, "amin")

    def image(self) -> torch.Tensor:
        """[frames rows columns] int64 keys without the border."""
        keys = self.keys.view(len(self.keys), self.rows + 2 * _BORDER, self.stride)
        return keys[:, _BORDER:-_BORDER, _BORDER:-_BORDER]

    def winners(self) -> torch.Tensor:
        """[frames rows * columns] int64 index of the point that shows, -1 where none does."""
        keys = self.image().flatten(1)
        return torch.where(keys >> _INDEX_BITS < int(_bits(torch.tensor(_BEYOND))), keys & _INDEX_MASK, -1)

    def bars(self, frame: int) -> torch.Tensor:
        """[windows * cells] the least inverse depth that shows up to _WINDOWS[i] cells away, as depth steps tell it."""
        near = (self.image()[frame] >> _INDEX_BITS).int()
        # A patch that ends up in the same step may still win: it has to reach the step's far end only.
        far_end = near.bitwise_and(_DEPTH_BITS).add_(~_DEPTH_BITS + 1).view(torch.float32)
        inverse = torch.where(near < int(_bits(torch.tensor(_BEYOND))), 1 / far_end, 0.0)
        least = torch.nn.functional.pad(-inverse, [_BORDER] * 4, value=-_NO_BAR)[None]
        bars, reach = [], 0
        for window in _WINDOWS:
            step, reach = window - reach, window
            for side in ((1, 2 * step + 1), (2 * step + 1, 1)):
                least = torch.nn.functional.max_pool2d(least, side, stride=1, padding=(side[0] // 2, side[1] // 2))
            bars.append(-least.flatten())
        return torch.cat(bars)


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
    for chunk in tiles_in_sight(memory, matrices, size):
        for frame, matrix in enumerate(matrices):
            _draw_patches(canvas, frame, chunk, matrix)
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=True)


def project_points(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> MemoryView:
    """The memory with one point in one cell: the one with the least float32 depth, then the lowest index (paper eq. 5).

    Source: microsoft/LatentSpatialMemory@b2cd738 src/mirage/latent_point_cloud.py project, with the duplicate writes
    it leaves to chance decided.
    """
    matrices, canvas = _prepared(memory, cameras, size)
    for chunk in tiles_in_sight(memory, matrices, size, only_points=True):
        for frame, matrix in enumerate(matrices):
            seen = chunk.seen_by(frame)
            u, v, z = image_positions(seen.values.flatten(1), matrix)
            column, row = u.floor_().clamp_(-1, size[1]), v.floor_().clamp_(-1, size[0])
            near = _bits(z.add_(z <= 0, alpha=10 * _BEYOND))
            canvas.draw(frame, canvas.place(column, row), near, seen.index.flatten())
    return _view(memory, matrices, size, canvas.winners(), at_cell_center=False)


def _draw_patches(canvas: _Canvas, frame: int, chunk: TileChunk, matrix: torch.Tensor) -> None:
    """Every point in its own cell first; then, in other cells, the patches that are not sure to be hidden there."""
    seen = chunk.seen_by(frame)
    assert seen.sides is not None
    index, sides = seen.index.flatten(), seen.sides.flatten(1)
    patches = _patches(seen.values.flatten(1), matrix, (canvas.rows, canvas.columns))
    column, row = patches.u.floor(), patches.v.floor()
    step_u, step_v = (column + 0.5).sub_(patches.u), (row + 0.5).sub_(patches.v)
    ratio, place = patches.ratio(step_u, step_v), canvas.place(column, row)
    canvas.draw(frame, place, _nearness(patches.depth(ratio).mul_(patches.weight), step_u, step_v), index)
    if len(index) > canvas.rows * canvas.columns:  # fewer leave so many cells open that the bars would not pay
        length = _cells_per_length(matrix, canvas)
        chosen = _may_show(patches, place, canvas.bars(frame), length).nonzero()[:, 0]
        patches, index, sides = patches[chosen], index.index_select(0, chosen), sides.index_select(1, chosen)
    if len(index):
        sides = sides.to(seen.values.dtype)
        turned = (*_turned(sides[:3], matrix), *_turned(sides[3:], matrix))
        _spread(canvas, frame, patches, turned, index)


def _may_show(patches: _Patches, place: torch.Tensor, bars: torch.Tensor, cells_per_length: float) -> torch.Tensor:
    """[m] bool, False where a patch is sure to be hidden in every cell but its own."""
    # high / z is one over the least depth, and `reach` is z / low - z.
    half = (patches.high / patches.low).sub_(patches.high).mul_(cells_per_length / 1.5)
    # The windows hold patches up to 1.5, 3, 6 and more cells from their points: powers of two, read off the exponent.
    window = (_bits(half) >> 23).sub_(126).clamp_(0, len(_WINDOWS) - 1)
    bar = bars.index_select(0, window.mul_(len(bars) // len(_WINDOWS)).add_(place))
    return patches.high >= bar.mul_(patches.z).mul_(_ELSEWHERE * (1 - _SLACK))


def _cells_per_length(matrix: torch.Tensor, canvas: _Canvas) -> float:
    """How many cells something as long as its depth can take at most, anywhere in the image and its border."""
    x, y, z = matrix[:, :3]
    ends = [x - u * z for u in (-_BORDER, canvas.columns + _BORDER)]
    ends += [y - v * z for v in (-_BORDER, canvas.rows + _BORDER)]
    return max(1.0, *(float(end.norm()) for end in ends))


def _spread(canvas: _Canvas, frame: int, patches: _Patches, sides: Vector, index: torch.Tensor) -> None:
    """Draw patches into all cells whose centres lie on them. sides: ax, ay, az, bx, by, bz in the camera's frame."""
    u, v = patches.u, patches.v
    ax, ay, az, bx, by, bz = sides
    # Over the patch u changes by a (ax - u az) / z' + b (bx - u bz) / z', and z' is at least this:
    least = (patches.z - az.abs().add_(bz.abs()).mul_(HALF_SIDE)).clamp_(min=1e-30)
    half_u = (ax - u * az).abs_().add_((bx - u * bz).abs_()).mul_(HALF_SIDE).div_(least)
    half_v = (ay - v * az).abs_().add_((by - v * bz).abs_()).mul_(HALF_SIDE).div_(least)
    first_column, columns = _cells_within(u, half_u, canvas.columns)
    first_row, rows = _cells_within(v, half_v, canvas.rows)
    counts = (columns * rows).long()
    ends = counts.cumsum(0)
    # A patch may cover hundreds of cells: only so many at a time that the memory needed stays bounded.
    full = torch.tensor(range(_PAIRS, int(ends[-1]), _PAIRS), dtype=ends.dtype, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, full).tolist(), len(ends)]
    for start, stop in pairwise(cuts):
        owner = torch.repeat_interleave(counts[start:stop]).add_(start)
        rank = torch.arange(len(owner), device=owner.device).add_(int(ends[start] - counts[start])).int()
        width = columns.index_select(0, owner)
        rank.sub_((ends - counts).int().index_select(0, owner))
        down = torch.div(rank, width, rounding_mode="floor")
        column = first_column.index_select(0, owner).add_(rank).sub_(down * width).to(u.dtype)
        row = first_row.index_select(0, owner).add_(down).to(u.dtype)
        ones = patches[owner]
        step_u, step_v = (column + 0.5).sub_(ones.u), (row + 0.5).sub_(ones.v)
        depth = ones.depth(ones.ratio(step_u, step_v)).mul_(ones.weight).mul_(_ELSEWHERE)
        near, place = _nearness(depth, step_u, step_v), canvas.place(column, row)
        best = (canvas.keys[frame] >> _INDEX_BITS).int().index_select(0, place)
        nearer = (near <= best).nonzero()[:, 0]
        owner, ones = owner.index_select(0, nearer), ones[nearer]
        step_u, step_v, near, place = (value.index_select(0, nearer) for value in (step_u, step_v, near, place))
        hit = _is_hit(ones, tuple(side.index_select(0, owner) for side in sides), step_u, step_v).nonzero()[:, 0]
        owner, near, place = (value.index_select(0, hit) for value in (owner, near, place))
        canvas.draw(frame, place, near, index.index_select(0, owner))


def _cells_within(center: torch.Tensor, half: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First cell and number of cells along one axis whose centres are within `half` of `center`, or that hold it."""
    own = center.floor()
    low = torch.minimum((center - half - 0.5).ceil(), own).maximum(own - _REACH).clamp_(min=0)
    high = torch.maximum((center + half - 0.5).floor(), own).minimum(own + _REACH).clamp_(max=cells - 1)
    return low.int(), (high - low + 1).clamp_(min=0).int()


def _nearness(depth: torch.Tensor, step_u: torch.Tensor, step_v: torch.Tensor) -> torch.Tensor:
    """[m] int32 that is least for what shows: the depth step, then the distance from the cell's centre."""
    distance = torch.maximum(step_u.abs(), step_v.abs())
    return _bits(depth).bitwise_and(_DEPTH_BITS).bitwise_or_(_bits(distance) >> _DISTANCE_SHIFT)


def _is_hit(patches: _Patches, sides: Vector, step_u: torch.Tensor, step_v: torch.Tensor) -> torch.Tensor:
    """[m] bool, whether the ray through (u + step_u, v + step_v) meets the patch.

    The ray through x meets the patch's plane where u z + a ax + b bx = x (z + a az + b bz), or a p + b q = e with
    p = ax - x az, q = bx - x bz, e = (x - u) z; and the same for y with r, s and f.
    """
    ax, ay, az, bx, by, bz = sides
    x, y = patches.u + step_u, patches.v + step_v
    p, q, e = ax - x * az, bx - x * bz, step_u * patches.z
    r, s, f = ay - y * az, by - y * bz, step_v * patches.z
    determinant = (p * s).sub_(q * r)
    bound = determinant.abs_().mul(HALF_SIDE)
    is_hit = (e * s).sub_(q * f).abs_() <= bound
    return is_hit.logical_and_((p * f).sub_(e * r).abs_() <= bound).logical_and_(determinant > 0)


def _patches(values: Sequence[torch.Tensor] | torch.Tensor, matrix: torch.Tensor, size: tuple[int, int]) -> _Patches:
    """Patches of points [3 m], normals [3 m] and reach [m]. What cannot reach the image is moved to the border."""
    u, v, z = image_positions(values[:3], matrix)
    u = u.add_(z <= 0, alpha=_BEYOND).clamp_(-_REACH - 0.5, size[1] + _REACH + 0.5)
    v, z = v.clamp_(-_REACH - 0.5, size[0] + _REACH + 0.5), z.clamp_(min=1e-30)
    # A point seen at (u, v) is z (u, v, 1) in the rays' frame, and a normal turns as the inverse's transpose.
    return _Patches.of((u, v, z), _turned(values[3:6], torch.linalg.inv(matrix[:, :3]).T), values[6])


def image_positions(points: Sequence[torch.Tensor] | torch.Tensor, matrix: torch.Tensor) -> Vector:
    """(u, v, z), each [m], of points [3 m]; u and v mean nothing where z <= 0."""
    x, y, z = (value.add_(shift) for value, shift in zip(_turned(points, matrix), matrix[:, 3].tolist(), strict=True))
    in_front = z.clamp(min=1e-30)
    return x.div_(in_front), y.div_(in_front), z


def _turned(vectors: Sequence[torch.Tensor] | torch.Tensor, matrix: torch.Tensor) -> Vector:
    """The linear part of matrix [3 3 or 4] applied to vectors [3 m]: three tensors [m]."""
    x, y, z = vectors
    first, second, third = ((x * a).add_(y * b).add_(z * c) for a, b, c in matrix[:, :3].tolist())
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
    memory: LatentMemory, matrices: torch.Tensor, size: tuple[int, int], *, only_points: bool = False
) -> Iterator[TileChunk]:
    """The tiles that some camera may see, at most _CHUNK at a time; only x, y, z of their points if so asked."""
    if not memory.blocks or not len(matrices):
        return
    tiles = [block.tiles for block in memory.blocks]
    spheres = torch.cat([one.centers for one in tiles]), torch.cat([one.radii for one in tiles])
    in_sight = _in_sight(*spheres, matrices, size)
    ends = torch.tensor([len(one.radii) for one in tiles]).cumsum(0)
    firsts = [0, *torch.tensor([len(block) for block in memory.blocks]).cumsum(0).tolist()]
    for chosen in in_sight.any(dim=0).nonzero()[:, 0].split(_CHUNK):
        cuts = [0, *torch.searchsorted(chosen, ends.to(chosen.device)).tolist()]
        values, sides, index, shifts = [], [], [], []
        for one, end, first, start, stop in zip(tiles, ends.tolist(), firsts, cuts, cuts[1:], strict=False):
            if stop > start:
                rows = chosen[start:stop] - (end - len(one.radii))
                values.append(one.values[: 3 if only_points else 7].index_select(1, rows))
                if not only_points:
                    sides.append(one.sides.index_select(1, rows))
                index.append(one.index.index_select(0, rows))
                shifts += [first] * len(rows)
        if values:
            joined = torch.cat(sides, dim=1) if sides else None
            shift = torch.tensor(shifts, device=chosen.device)[:, None]
            yield TileChunk(torch.cat(values, dim=1), joined, torch.cat(index) + shift, in_sight[:, chosen])


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
        latents.index_copy_(0, place, _rows(memory, "latents", winner).to(latents_type))
        points = _at(place, _rows(memory, "points", winner).double(), frames * cells)
        plane = _at(place, planes(_rows(memory, "sides", winner).double()), frames * cells) if at_cell_center else None
        for frame, matrix in enumerate(matrices):
            cut = slice(frame * cells, (frame + 1) * cells)
            u, v, z = image_positions(points[:, cut], matrix)
            if plane is not None:
                normal = _turned(plane[:3, cut], torch.linalg.inv(matrix[:, :3]).T)
                patches = _Patches.of((u, v, z), normal, plane[3, cut])
                z = _depth_at_centers(patches, size)
                is_back = (patches.weight > 1).logical_and_(index[frame] >= 0)
                index[frame, is_back] = -1
                latents[cut][is_back] = 0
            depth[cut] = torch.where(index[frame] >= 0, z, 0.0).to(depth_type)
    shape = (frames, *size)
    return MemoryView(
        latents=latents.view(*shape, -1).movedim(-1, 0),
        is_covered=(index >= 0).view(shape),
        depth=depth.view(shape),
        point_index=index.view(shape),
    )


def _depth_at_centers(patches: _Patches, size: tuple[int, int]) -> torch.Tensor:
    """[cells] depth of patches, one per cell, on the rays through the cells' centres."""
    row, column = torch.meshgrid(*(torch.arange(n, device=patches.u.device) + 0.5 for n in size), indexing="ij")
    return patches.depth(patches.ratio(column.flatten() - patches.u, row.flatten() - patches.v))


def _at(place: torch.Tensor, rows: torch.Tensor, cells: int) -> torch.Tensor:
    """[fields cells] with rows [m fields] at `place`, 0 elsewhere."""
    placed = torch.zeros(cells, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return placed.index_copy_(0, place, rows).T.contiguous()


def _rows(memory: LatentMemory, name: str, index: torch.Tensor) -> torch.Tensor:
    """Rows of one field of the memory; index: [m] ascending. Only the blocks they lie in are touched."""
    ends = torch.tensor([len(block) for block in memory.blocks]).cumsum(0)
    cuts = [0, *torch.searchsorted(index, ends.to(index.device)).tolist()]
    parts = [
        getattr(block, name).index_select(0, index[start:stop] - (int(end) - len(block)))
        for block, end, start, stop in zip(memory.blocks, ends, cuts[:-1], cuts[1:], strict=True)
        if stop > start
    ]
    return torch.cat(parts)
