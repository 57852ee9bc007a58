"""The latent spatial memory: points of the world that carry the latent of the cell they were lifted from.

A memory is a tuple of frozen blocks. Growing it makes a new memory with one block more that shares all old storage, so
nothing a caller holds ever changes; fusion.py, which also moves points, copies what changes and shares the rest. Only
points that may be remembered enter; there are no flags for invalid ones. Looking at a memory from a camera is
zbuffer.py, keeping it in a file memory_files.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .camera import Cameras, unproject_cells
from .latent_grid import LatentGrid

TILE = 32
HALF_SIDE = 0.5 + 1 / 16  # patches overlap a little: on curved and noisy surfaces they do not meet exactly
_FIELDS = ("points", "latents", "latent_index", "confidence", "footprints", "sides")
# Inverse depth is linear on a plane. A step to a neighbour of at most this share is taken for the same surface ...
_SURE_SLOPE = 0.15
# ... and a larger one only where both neighbours agree on it, as on a floor towards the horizon. Beyond the second
# bound the cell would reach through the horizon.
_MAX_SLOPE = 0.5


@dataclass(frozen=True)
class MemoryBlock:
    """Points that were remembered together. `n` is the number of points.

    points: [n 3] in the world, finite.  latents: [n channels] normalised, as the VAE and the sampler use them.
    latent_index: [n] int32, the latent frame of the film a point came from.  confidence: [n] in [0, 1].
    footprints: [n] world width of the cell at its point, the longer of its sides.
    sides: [n 2 3] world vectors across the cell on its surface, one column on and one row on; a point stands for the
        patch points + a * sides[0] + b * sides[1] with a, b in [-1/2, 1/2].
    is_locked: [n] bool, True = never dropped to save space; None = no point is locked.

    Latents, confidence, footprints and sides may be in half precision. Blocks may share tensors.
    Raises ValueError when the fields disagree on n, or have other shapes.
    """

    points: torch.Tensor
    latents: torch.Tensor
    latent_index: torch.Tensor
    confidence: torch.Tensor
    footprints: torch.Tensor
    sides: torch.Tensor
    is_locked: torch.Tensor | None = None

    def __post_init__(self) -> None:
        n = self.points.shape[0]
        channels = self.latents.shape[-1] if self.latents.ndim == 2 else 0
        expected = ([n, 3], [n, channels], [n], [n], [n], [n, 2, 3], [n])
        for name, shape in zip((*_FIELDS, "is_locked"), expected, strict=True):
            if getattr(self, name) is not None and list(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} of a memory block has shape {list(getattr(self, name).shape)}; "
                    f"{shape} goes with {n} points."
                )

    def __len__(self) -> int:
        return self.points.shape[0]

    def with_confidence(self, confidence: torch.Tensor) -> MemoryBlock:
        """The same points with other confidence [n]; all else is shared, the tiles too if they have been made."""
        if confidence is self.confidence:
            return self
        block = replace(self, confidence=confidence)
        if "tiles" in vars(self):
            vars(block)["tiles"] = self.tiles
        return block

    def moved(self, points: torch.Tensor) -> MemoryBlock:
        """The same patches around other points [n 3] nearby; all else is shared, the order of the tiles too."""
        if points is self.points:
            return self
        block = replace(self, points=points)
        if "tiles" in vars(self):
            vars(block)["tiles"] = self.tiles.around(points, self.footprints)
        return block

    def chosen(self, rows: torch.Tensor | slice) -> MemoryBlock:
        """The points at `rows`: an index, a bool per point, or a slice, which shares storage."""
        fields = {name: getattr(self, name)[rows] for name in _FIELDS}
        return MemoryBlock(**fields, is_locked=None if self.is_locked is None else self.is_locked[rows])

    @cached_property
    def tiles(self) -> PointTiles:
        """The points again, sorted in space; made when first asked for, and kept: 44 bytes per point in half
        precision, 56 in float32."""
        n = len(self)
        order = _spatial_order(self.points)
        # The last tile is filled up with its last point: drawn twice, a point shows as it does drawn once.
        order = torch.cat([order, order[-1:].expand(-n % TILE)])
        points, sides = self.points[order], self.sides[order]
        values = torch.cat([points, planes(sides.to(points.dtype))], dim=1).T.contiguous().view(7, -1, TILE)
        sides = sides.flatten(1).T.contiguous().view(6, -1, TILE)
        spheres = _spheres(values[:3], self.footprints[order])
        return PointTiles(values, sides, order.view(-1, TILE).int(), *spheres)


@dataclass(frozen=True)
class PointTiles:
    """Points of a block in tiles of TILE neighbours, so that most of what a camera does not see is skipped unread.

    values: [7 tiles TILE] x, y, z of the point, of its patch's normal, the patch's reach (see planes()).
    sides: [6 tiles TILE] x, y, z of the patch's first side and of its second, in the block's own precision.
    index: [tiles TILE] int32, rows of the block.
    centers: [tiles 3] and radii: [tiles] float64, spheres around the patches of a tile.
    """

    values: torch.Tensor
    sides: torch.Tensor
    index: torch.Tensor
    centers: torch.Tensor
    radii: torch.Tensor

    def around(self, points: torch.Tensor, footprints: torch.Tensor) -> PointTiles:
        """The same patches around other points [n 3] of the block; footprints: [n] of it."""
        order = self.index.flatten().long()
        values = self.values.clone()
        values[:3] = points[order].T.view(3, -1, TILE)
        return PointTiles(values, self.sides, self.index, *_spheres(values[:3], footprints[order]))


@dataclass(frozen=True)
class LatentMemory:
    """All that is remembered, in the order it was remembered. Point i of the memory is point i of the joined blocks.

    Raises ValueError when a block's latents do not have the grid's channels.
    """

    grid: LatentGrid
    blocks: tuple[MemoryBlock, ...] = ()

    def __post_init__(self) -> None:
        for block in self.blocks:
            if block.latents.shape[1] != self.grid.channels:
                raise ValueError(
                    f"The block's latents have {block.latents.shape[1]} channels; this memory holds latents of "
                    f"{self.grid.channels} channels. Use one VAE for the whole film."
                )

    @staticmethod
    def empty(grid: LatentGrid) -> LatentMemory:
        """A memory that knows nothing yet."""
        return LatentMemory(grid)

    @property
    def count(self) -> int:
        """Number of points."""
        return sum(len(block) for block in self.blocks)

    @property
    def points(self) -> torch.Tensor:
        """[count 3] in the world; joined on demand, a copy."""
        return _joined(self.blocks, "points", torch.zeros(0, 3))

    @property
    def latents(self) -> torch.Tensor:
        """[count channels] normalised; joined on demand, a copy."""
        return _joined(self.blocks, "latents", torch.zeros(0, self.grid.channels))

    @property
    def latent_index(self) -> torch.Tensor:
        """[count] int32; joined on demand, a copy."""
        return _joined(self.blocks, "latent_index", torch.zeros(0, dtype=torch.int32))

    def extended(self, block: MemoryBlock) -> LatentMemory:
        """A memory that knows this block too and shares all storage with this one. An empty block adds nothing."""
        if len(block) == 0:
            return self
        return LatentMemory(self.grid, (*self.blocks, block))


@dataclass(frozen=True)
class LiftedCells:
    """Points, and the latent cells they come from.

    block: frame by frame, then row by row.  is_lifted: [frames rows columns] bool, True for the cells that are points.
    """

    block: MemoryBlock
    is_lifted: torch.Tensor


def lift(
    latents: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    grid: LatentGrid,
    *,
    is_static: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    first_latent_index: int = 0,
) -> MemoryBlock:
    """Latent cells as points of the world; see lift_cells()."""
    return lift_cells(
        latents,
        depth,
        cameras,
        grid,
        is_static=is_static,
        confidence=confidence,
        first_latent_index=first_latent_index,
    ).block


def lift_cells(
    latents: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    grid: LatentGrid,
    *,
    is_static: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    first_latent_index: int = 0,
) -> LiftedCells:
    """Latent cells as points of the world (paper eq. 4, 6 and 8).

    latents: [channels frames rows columns] normalised.
    depth: [frames rows columns] z-depth of each cell's ray in world units; cells whose depth is 0, negative, infinite
        or NaN do not enter.
    cameras: one per frame, any image_size.
    is_static: [frames rows columns] bool, True = may be remembered; default all.
    confidence: [frames rows columns] in [0, 1]; default 1.
    first_latent_index: the film's latent frame that latents[:, 0] is.

    Points come frame by frame, then row by row. They keep the dtype of depth, at least float32.
    Raises ValueError when the shapes do not belong together, or latents do not fit the grid or are not finite.
    """
    grid.check_latents(latents)
    shape = latents.shape[1:]
    for name, cells in (("depth", depth), ("is_static", is_static), ("confidence", confidence)):
        if cells is not None and cells.shape != shape:
            raise ValueError(
                f"{name} has shape {list(cells.shape)}; the latents have [frames rows columns] = {list(shape)}. "
                f"Bring {name} to the latent grid first."
            )
    if not depth.dtype.is_floating_point or depth.dtype.itemsize < 4:
        depth = depth.float()
    depth = depth.to(latents.device)
    is_known = depth.isfinite() & (depth > 0)
    exact_depth = torch.where(is_known, depth, 1).double()
    exact_points = unproject_cells(exact_depth, cameras, grid)
    sides = _cell_sides(exact_points, exact_depth, is_known, cameras)
    points = exact_points.to(depth.dtype)
    footprints = sides.norm(dim=-1).amax(dim=-1).to(depth.dtype)
    is_kept = is_known & points.isfinite().all(dim=-1) & footprints.isfinite()
    if is_static is not None:
        is_kept &= is_static.to(latents.device).bool()
    frame = torch.arange(shape[0], dtype=torch.int32, device=latents.device) + first_latent_index
    if confidence is None:
        confidence = torch.ones(shape, device=latents.device)
    block = MemoryBlock(
        points=points[is_kept],
        latents=latents.movedim(0, -1)[is_kept],
        latent_index=frame[:, None, None].expand(shape)[is_kept],
        confidence=confidence.to(latents.device, torch.float32)[is_kept],
        footprints=footprints[is_kept],
        sides=sides[is_kept].to(depth.dtype),
    )
    return LiftedCells(block, is_kept)


def _cell_sides(points: torch.Tensor, depth: torch.Tensor, is_known: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """[frames rows columns 2 3] float64: world vectors across each cell, on the plane its neighbours suggest."""
    rows, columns = depth.shape[1:]
    at_cells = cameras.resized((rows, columns))
    to_world = at_cells.cam2world[:, :3, :3] @ torch.linalg.inv(at_cells.intrinsics)
    from_camera = points - at_cells.centers.to(points.device)[:, None, None]
    inverse = torch.where(is_known, 1 / depth, torch.nan)
    sides = []
    for axis, dim in ((0, 2), (1, 1)):
        step = to_world[:, :, axis].to(points.device)[:, None, None]
        slope = _relative_slope(inverse, dim)
        # d(ray / inverse) = d(ray) / inverse - ray / inverse * d(inverse) / inverse
        sides.append(step * depth[..., None] - from_camera * slope[..., None])
    return torch.stack(sides, dim=-2)


def _relative_slope(inverse: torch.Tensor, dim: int) -> torch.Tensor:
    """Change of inverse depth per cell along `dim`, as a share of it; 0 where the neighbours are other surfaces.

    inverse: [frames rows columns], NaN where the depth is unknown.
    """
    unknown = torch.full_like(inverse.narrow(dim, 0, 1), torch.nan)
    step = inverse.diff(dim=dim)
    to_next = torch.cat([step, unknown], dim) / inverse
    from_last = torch.cat([unknown, step], dim) / inverse
    has_both = ~(to_next.isnan() | from_last.isnan())
    to_next, from_last = to_next.where(~to_next.isnan(), from_last), from_last.where(~from_last.isnan(), to_next)
    # Across a depth edge one of the two steps is large: the smaller one stays on the cell's own surface.
    smaller = torch.where(to_next.abs() < from_last.abs(), to_next, from_last)
    is_straight = has_both & ((to_next - from_last).abs() <= smaller.abs() / 2)
    is_surface = (smaller.abs() <= _SURE_SLOPE) | (is_straight & (smaller.abs() <= _MAX_SLOPE))
    return torch.where(is_surface, smaller, 0.0)


def planes(sides: torch.Tensor) -> torch.Tensor:
    """[n 4] of sides [n 2 3]: the patch's unit normal, 0 if it has none, and how far the patch reaches from its point.

    The reach is that to the farthest corner, in world units, with the overlap of HALF_SIDE.
    """
    first, second = sides[:, 0], sides[:, 1]
    normals = torch.nn.functional.normalize(torch.linalg.cross(first, second), dim=1, eps=torch.finfo(sides.dtype).tiny)
    reach = torch.maximum((first + second).norm(dim=1), (first - second).norm(dim=1)) * HALF_SIDE
    return torch.cat([normals, reach[:, None]], dim=1)


def _spheres(points: torch.Tensor, footprints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres [tiles 3] and radii [tiles], float64, of points [3 tiles TILE] with footprints [tiles * TILE]."""
    low, high = points.amin(-1).double(), points.amax(-1).double()
    # No patch reaches farther than its longer side, and a float32 box may be a rounding short of its points.
    radii = ((high - low).norm(dim=0) / 2 + 1.25 * footprints.to(low).view(-1, TILE).amax(1)) * 1.001
    return (low + high).T / 2, radii


def _spatial_order(points: torch.Tensor) -> torch.Tensor:
    """[n] int64: the rows of points [n 3] along a curve that stays among neighbours (Morton order, 10 bits an axis)."""
    low = points.amin(0)
    extent = (points.amax(0) - low).amax().clamp(min=torch.finfo(points.dtype).tiny)
    place = ((points - low) / extent * 1023).long()
    for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
        place = (place | place << shift) & mask
    return (place[:, 0] | place[:, 1] << 1 | place[:, 2] << 2).argsort(stable=True)


def _joined(blocks: tuple[MemoryBlock, ...], name: str, empty: torch.Tensor) -> torch.Tensor:
    return torch.cat([getattr(block, name) for block in blocks]) if blocks else empty
