"""Writing a segment into the memory: what is new is stored, what is known is confirmed, what contradicts is refused.

The latent frames of a segment are taken one after the other. The memory as it has grown so far is projected into the
frame's camera, and every cell that has a depth gets a verdict, see Verdict. Keeping the memory small enough is
upkeep.py; deciding which cells are static, and what their depth is, comes before.

Confidence counts sightings: the doubt 1 - confidence of a point halves whenever it is seen again (less for a cell of
less confidence itself), grows by half whenever a camera looks through it, and at 1 the point is dropped. A point seen
once by a cell of confidence 1 has 0.5. Where a point lies is the weighted mean of its sightings, of which the last five
or so count (settling.py). What it shows is the latent of its first sighting: the mean of two latents is no picture's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch

from .camera import Cameras, projection_matrices
from .free_space import FreeSpace, neighbours_least
from .memory import HALF_SIDE, LatentMemory, LiftedCells, MemoryBlock, lift_cells, planes
from .settling import Filmed, Sightings, settled
from .upkeep import changed, compacted, gathered, tidied
from .zbuffer import project

TOLERANCE = 0.06  # share of the depth: what depth models and the patches of project() leave open
FINER = 1.4  # a cell replaces what is known only where that is so much coarser: twice the points per area
_REPLACED_SHARE = 0.9  # of the cells around a coarse patch that finer points must represent before it goes
_WIDER = 0.5  # cells on each side of a patch's image, where its loss might open a hole
_SEAM = 0.05  # of a cell that may stay uncovered
_PARALLEL = 0.8  # least cosine between normals of one surface, as far as they are known
_SEEN = 0.5  # of the doubt that a sighting leaves
_THROUGH = 1.5  # times the doubt, for a point that a camera looked through
_HIDDEN = 1.1  # times the doubt, for an unconfirmed point that something in front of it contradicts
_UNCONFIRMED = 0.25  # doubt above which a point counts as seen once only
_LEAST_DOUBT = 1 / 32  # five sightings: nine looks through the point take it away


class Verdict(IntEnum):
    """What became of a cell of a written segment."""

    SKIPPED = 0  # has no depth, or may not be remembered
    NEW = 1  # stored: nothing was known there, or something that it hides
    KNOWN = 2  # not stored: confirms the point that shows there
    FINER = 3  # stored: replaces coarser points
    EDGE = 4  # not stored: within a cell of a depth edge of the memory, where neither can be trusted
    IN_FRONT = 5  # not stored: in space that a camera has looked through; a mover
    BEHIND = 6  # not stored: the memory has something before it, which this contradicts


@dataclass(frozen=True)
class Fusion:
    """A memory with a segment written into it.

    memory: the grown memory; blocks nothing has happened to are those of the old one.
    verdicts: [frames rows columns] uint8, a Verdict for each cell.
    replaced, refuted: points, of the old memory or of the segment's earlier frames, that finer ones took the place of,
        and that cameras looked through until nobody believed in them.  forgotten: points that gave way to the budget.
    """

    memory: LatentMemory
    verdicts: torch.Tensor
    replaced: int = 0
    refuted: int = 0
    forgotten: int = 0

    @cached_property
    def counts(self) -> dict[Verdict, int]:
        """Cells per verdict."""
        counts = torch.bincount(self.verdicts.flatten().long(), minlength=len(Verdict)).tolist()
        return {verdict: counts[verdict] for verdict in Verdict}

    @property
    def stored(self) -> int:
        """Cells that became points."""
        return self.counts[Verdict.NEW] + self.counts[Verdict.FINER]


def fused(
    memory: LatentMemory,
    latents: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    *,
    is_static: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    first_latent_index: int = 0,
    filmed_cameras: Cameras | None = None,
    features: torch.dtype | None = torch.float16,
    tolerance: float = TOLERANCE,
    budget_mib: float = 0.0,
) -> Fusion:
    """The memory after a segment, each place remembered once at the finest it was seen.

    latents: [channels frames rows columns] normalised.  depth: [frames rows columns] z-depth, as for lift().
    cameras: one per frame.  is_static, confidence, first_latent_index: as for lift().
    filmed_cameras: of the film's latent frames, so that latent_index finds the camera a point was seen by. Without it
        only this segment's own frames tell which space they looked through.
    features: how latents are kept; sides, footprints and confidence then take 2 bytes each too. None keeps all as
        lifted.  tolerance: share of the depth within which two surfaces are one.
    budget_mib: what the memory may take, see upkeep.resident_bytes(); 0 = anything.

    Depends on the order of the frames, and on no thread count. Nothing given is changed.
    Raises ValueError as lift() does, and for a tolerance outside (0, 1/2) or a negative budget.
    """
    if not 0 < tolerance < 0.5:
        raise ValueError(f"tolerance is {tolerance}; it is a share of the depth above 0 and below 0.5, such as 0.06.")
    cells = lift_cells(
        latents,
        depth,
        cameras,
        memory.grid,
        is_static=is_static,
        confidence=confidence,
        first_latent_index=first_latent_index,
    )
    size = (int(depth.shape[1]), int(depth.shape[2]))
    free_space = FreeSpace(memory.grid, size, filmed_cameras)
    filmed = Filmed.of(filmed_cameras, cameras, first_latent_index, memory.grid, size)
    verdicts, replaced, refuted = [], 0, 0
    for frame, block in enumerate(_by_frame(cells)):
        one = _Frame(memory, block, cells.is_lifted[frame], depth[frame].to(block.points), cameras[frame], tolerance)
        verdict = one.verdicts(free_space)
        memory, gone, wrong = one.written(verdict, features, filmed)
        replaced, refuted = replaced + gone, refuted + wrong
        free_space.looked(cameras[frame], torch.where(one.is_lifted, one.depth_map, 0.0))
        verdicts.append(one.on_grid(verdict))
    tidy, forgotten = tidied(memory, budget_mib=budget_mib)
    return Fusion(tidy, torch.stack(verdicts), replaced, refuted, forgotten)


def _by_frame(cells: LiftedCells) -> Sequence[MemoryBlock]:
    """The points of each frame; blocks may be empty."""
    ends = cells.is_lifted.flatten(1).sum(1).cumsum(0).tolist()
    return [cells.block.chosen(slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


class _Frame:
    """One latent frame against the memory. All tensors are over its n lifted cells, row by row."""

    def __init__(
        self,
        memory: LatentMemory,
        block: MemoryBlock,
        is_lifted: torch.Tensor,
        depth: torch.Tensor,
        camera: Cameras,
        tolerance: float,
    ) -> None:
        """block: the frame's points.  is_lifted: [rows columns] their cells.  depth: [rows columns]."""
        self.memory, self.block, self.is_lifted, self.camera = memory, block, is_lifted, camera
        self.tolerance = tolerance
        self.size = (int(depth.shape[0]), int(depth.shape[1]))
        self.cell = is_lifted.flatten().nonzero()[:, 0]
        self.depth = depth.flatten()[self.cell]
        self.depth_map = torch.where(is_lifted, depth, torch.inf)
        view = project(memory, camera, self.size)
        self.index = view.point_index[0].flatten()[self.cell]
        self.shown_depth = view.depth[0].flatten()[self.cell].to(depth)
        self.points, self.point = self.index.clamp(min=0).unique(return_inverse=True)
        self.shown = gathered(memory, self.points) if memory.blocks else block.chosen(slice(0, 0))
        self.matrix = projection_matrices(camera, self.size, memory.grid)[0].to(depth.device)

    @cached_property
    def is_shown(self) -> torch.Tensor:
        """Cells in which the memory shows the front of a surface: what is seen from its back is another surface."""
        if not len(self.shown):
            return torch.zeros_like(self.index, dtype=torch.bool)
        center = self.camera.centers[0].to(self.shown.points)
        is_front = (self._normals * (self.shown.points - center)).sum(1) >= 0
        return (self.index >= 0) & is_front[self.point]

    @cached_property
    def _normals(self) -> torch.Tensor:
        """[shown points 3]."""
        return planes(self.shown.sides.to(self.shown.points))[:, :3]

    @property
    def _is_parallel(self) -> torch.Tensor:
        """Cells whose surface lies as that of the point that shows; in a corner another wall shows as often as not."""
        normals = planes(self.block.sides)[:, :3].to(self._normals)
        return (normals * self._normals[self.point]).sum(1) >= _PARALLEL

    @cached_property
    def slack(self) -> torch.Tensor:
        """How far apart in depth two samples of one surface may be: noise, and the slope of the cell itself."""
        forward = self.camera.cam2world[0, :3, 2].to(self.block.sides)
        across = (self.block.sides * forward).sum(2).abs().sum(1) / 2
        return self.tolerance * torch.minimum(self.depth, self.shown_depth) + across

    def verdicts(self, free_space: FreeSpace) -> torch.Tensor:
        """[n] uint8."""
        verdict = torch.full_like(self.index, Verdict.NEW, dtype=torch.uint8)
        if not len(self.shown):
            return verdict
        is_known = self.is_shown & ((self.depth - self.shown_depth).abs() <= self.slack)
        is_behind = self.is_shown & (self.depth > self.shown_depth + self.slack)
        is_known &= ~self._is_seam(self.index < 0)
        is_new = ~(is_known | is_behind)
        verdict[is_known] = Verdict.KNOWN
        around = neighbours_least(self.depth_map)[self.cell_places]
        is_clear = around > self.shown_depth + self.slack
        verdict[is_behind] = Verdict.EDGE
        verdict[is_behind & is_clear] = Verdict.BEHIND
        creators = self.shown.latent_index[self.point[self.index >= 0]]
        through, clear = free_space.is_free(self.memory, self.block.points, creators, 2 * self.tolerance)
        verdict[is_new & through & self.is_shown] = Verdict.EDGE
        verdict[is_new & clear] = Verdict.IN_FRONT
        is_coarse = is_known & self._is_parallel & (self._footprint_shown > FINER * self.block.footprints)
        # All that such a point shows in is stored, also where this frame is hardly finer: else it would leave cracks.
        verdict[is_known & self._is_replaced(verdict, is_coarse)[self.point]] = Verdict.FINER
        return verdict

    @property
    def cell_places(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cell // self.size[1], self.cell % self.size[1]

    @property
    def _footprint_shown(self) -> torch.Tensor:
        return self.shown.footprints.to(self.block.footprints)[self.point]

    def _is_replaced(self, verdict: torch.Tensor, is_coarse: torch.Tensor) -> torch.Tensor:
        """[shown points] bool, True for coarse points in whose image nearly every cell will have a finer point."""
        is_candidate = torch.zeros(len(self.shown), dtype=torch.bool, device=verdict.device)
        is_candidate[self.point[is_coarse]] = True
        if self.shown.is_locked is not None:
            is_candidate &= ~self.shown.is_locked
        is_represented = torch.zeros(self.size, dtype=torch.float64, device=verdict.device)
        is_kept = (verdict == Verdict.NEW) | ((verdict == Verdict.KNOWN) & self._is_parallel)
        is_represented.view(-1)[self.cell] = is_kept.double()
        sums = torch.nn.functional.pad(is_represented.cumsum(0).cumsum(1), [1, 0, 1, 0])
        low, high = self._windows
        end = torch.tensor(self.size, device=high.device)
        inside_low = torch.minimum(low.clamp(min=0), end)
        inside_high = torch.minimum(high, end).maximum(inside_low)
        (top, left), (bottom, right) = inside_low.unbind(1), inside_high.unbind(1)
        count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return is_candidate & (count >= _REPLACED_SHARE * (high - low).prod(1))

    def _is_seam(self, is_open: torch.Tensor) -> torch.Tensor:
        """[n] bool, cells that are covered only in part, at the border of what nothing covers, on the same surface.

        Stored with it they leave no crack between what two frames have stored. A hole one cell wide has no border.
        """
        row, column = (place + 2 for place in self.cell_places)
        depth = self.depth.new_full((self.size[0] + 4, self.size[1] + 4), torch.inf)
        depth[row[is_open], column[is_open]] = self.depth[is_open]
        goes_on = depth.new_ones(depth.shape, dtype=torch.bool)  # out of the image too
        goes_on[row[~is_open], column[~is_open]] = False
        low, high = (extent[self.point].T for extent in self._extents)
        is_seam = torch.zeros_like(is_open)
        for step_row, step_column, ends_before in (
            (0, 1, high[1] < column - 1 - _SEAM),
            (0, -1, low[1] > column - 2 + _SEAM),
            (1, 0, high[0] < row - 1 - _SEAM),
            (-1, 0, low[0] > row - 2 + _SEAM),
        ):
            beside = depth[row + step_row, column + step_column]
            is_wide = goes_on[row + 2 * step_row, column + 2 * step_column]
            is_seam |= is_wide & ends_before & ((beside - self.depth).abs() <= 2 * self.slack)
        return is_seam

    @cached_property
    def _windows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """First and one past the last (row, column) [shown points 2] of the cells that the shown patches touch."""
        low, high = self._extents
        low = (low - _WIDER).round().long()
        return low, torch.maximum((high + _WIDER).round().long(), low + 1)

    @cached_property
    def _extents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest (row, column) [shown points 2] in the image of the shown points' patches."""
        points, sides = self.shown.points.double(), self.shown.sides.double()
        halves = (-HALF_SIDE, HALF_SIDE)
        corners = torch.stack([points + a * sides[:, 0] + b * sides[:, 1] for a in halves for b in halves])
        x, y, z = ((corners[..., None, :] * self.matrix[:, :3]).sum(-1) + self.matrix[:, 3]).unbind(-1)
        z = z.clamp(min=1e-9)
        places = torch.stack([y / z, x / z], dim=-1).clamp(-1e6, 1e6)
        return places.amin(0), places.amax(0)

    def written(
        self, verdict: torch.Tensor, features: torch.dtype | None, filmed: Filmed
    ) -> tuple[LatentMemory, int, int]:
        """The memory after this frame, and how many of its points were replaced and refuted."""
        is_stored = (verdict == Verdict.NEW) | (verdict == Verdict.FINER)
        weight = self.block.confidence.float()
        doubt = 1 - weight * _SEEN
        replaced = refuted = 0
        memory = self.memory
        if len(self.shown):
            # The first picture is lifted, not fused: without any doubt its points could never be refuted.
            old_doubt = (1 - self.shown.confidence.float()).clamp(_LEAST_DOUBT, 1)
            is_finer = verdict == Verdict.FINER
            doubt = torch.where(is_finer, doubt * old_doubt[self.point], doubt).clamp(min=_LEAST_DOUBT)
            new_doubt = self._doubt(verdict, old_doubt, weight)
            is_replaced = torch.zeros_like(new_doubt, dtype=torch.bool)
            is_replaced[self.point[is_finer]] = True
            is_refuted = (new_doubt >= 1) & ~is_replaced
            if self.shown.is_locked is not None:
                is_refuted &= ~self.shown.is_locked
            replaced, refuted = int(is_replaced.sum()), int(is_refuted.sum())
            points = settled(self.shown, self._sightings(verdict), -old_doubt.log2(), filmed, self.tolerance)
            # Locked points are doubted without end, and stay.
            sure = (1 - new_doubt).clamp(min=0)
            memory = changed(memory, self.points, sure, is_replaced | is_refuted, points)
        block = self.block.chosen(is_stored)
        block = MemoryBlock(
            block.points, block.latents, block.latent_index, 1 - doubt[is_stored], block.footprints, block.sides
        )
        return memory.extended(compacted(block, features)), replaced, refuted

    def _sightings(self, verdict: torch.Tensor) -> Sightings:
        """The cells that see a surface which the memory knows, as it knows it."""
        at = ((verdict == Verdict.KNOWN) & self._is_parallel).nonzero()[:, 0]
        center = self.camera.centers[0].to(self.block.points.device)
        seen, share = self.block.points[at].double(), (self.shown_depth[at] / self.depth[at]).double()
        known = center + (seen - center) * share[:, None]
        # How wide its cells are where the memory knows the surface: else what seems nearer would count for more.
        footprints = self.block.footprints[at] * share.to(self.block.footprints)
        return Sightings(self.point[at], seen, known, footprints, self.block.confidence[at])

    def _doubt(self, verdict: torch.Tensor, doubt: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """[shown points] the doubt after this frame."""
        seen = torch.zeros_like(doubt).scatter_reduce(
            0, self.point, weight * (verdict == Verdict.KNOWN), "amax", include_self=True
        )
        is_through = self._has_own(verdict == Verdict.BEHIND)
        is_hidden = self._has_own(verdict == Verdict.IN_FRONT) & (doubt > _UNCONFIRMED)
        after = (doubt * (1 - seen * _SEEN)).clamp(min=_LEAST_DOUBT)
        after = torch.where(is_through, after * _THROUGH, after)
        return torch.where(is_hidden & ~is_through, after * _HIDDEN, after)

    def _has_own(self, is_one: torch.Tensor) -> torch.Tensor:
        """[shown points] bool, whether the cell that a point itself falls in is one of these and shows the point."""
        x, y, z = ((self.shown.points.double()[:, None] * self.matrix[:, :3]).sum(2) + self.matrix[:, 3]).unbind(1)
        own = (y / z).floor() * self.size[1] + (x / z).floor()
        is_own = is_one & self.is_shown & (own[self.point] == self.cell)
        has = torch.zeros(len(self.shown), dtype=torch.bool, device=is_one.device)
        has[self.point[is_own]] = True
        return has

    def on_grid(self, verdict: torch.Tensor) -> torch.Tensor:
        """[rows columns] uint8 of [n]."""
        grid = torch.zeros(self.size, dtype=torch.uint8, device=verdict.device)
        grid.view(-1)[self.cell] = verdict
        return grid
