"""Movers across the border of two segments: where what moves will be in the first frames of the next one.

Experimental. What moves never enters the memory; without a place of its own it would vanish whenever a segment ends.
Here the movers of a segment's last latent frame are kept as points with a velocity, and shown to the first frames of
the next one, of less and less size. Finding out what moves is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .camera import Cameras, unproject_cells
from .latent_grid import LatentGrid
from .memory import LatentMemory, MemoryBlock, lift_cells
from .zbuffer import MemoryView, project

SHOWN_FRAMES = 4  # latent frames, one second; by then a straight line at constant speed is a guess

_MIN_CELLS = 4  # a thing of fewer cells has no centre to speak of
_SAME_THING = 0.15  # relative step in depth between neighbouring cells of one thing
_TRACKED_FRAMES = 5  # latent frames a velocity is measured over
_MAX_GROWTH = 1.5  # a thing whose visible area changes by more is being hidden: its middle tells no velocity


@dataclass(frozen=True)
class MoverLayer:
    """What moved in one latent frame of the film.

    block: its points in the world and their latents.  velocities: [n 3] float64, world units per latent frame.
    ranks: [n] float64 in [0, 1), each thing's points from its middle outwards: the share of the thing nearer to it.
    latent_index: the latent frame of the film.  shown_frames: latent frames after it in which it is shown.
    """

    block: MemoryBlock
    velocities: torch.Tensor
    ranks: torch.Tensor
    latent_index: int
    shown_frames: int = SHOWN_FRAMES

    def share_at(self, latent_index: int) -> float:
        """How much of each thing is shown in a latent frame: all in its own, then evenly less, and before it none."""
        elapsed = latent_index - self.latent_index
        return max(0.0, 1 - elapsed / (self.shown_frames + 1)) if elapsed >= 0 else 0.0

    def block_at(self, latent_index: int) -> MemoryBlock:
        """The points shown in a latent frame, where they are by then if all goes on as it did."""
        elapsed = latent_index - self.latent_index
        points = self.block.points.double() + elapsed * self.velocities.to(self.block.points.device)
        moved = replace(self.block, points=points.to(self.block.points.dtype))
        # The outline goes first: an error of place or speed is worst there.
        return moved.chosen(self.ranks < self.share_at(latent_index))


def mover_layer(
    latents: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    is_mover: torch.Tensor,
    grid: LatentGrid,
    *,
    first_latent_index: int,
) -> MoverLayer | None:
    """The movers of the last of some latent frames, or None if nothing moves in it.

    latents: [channels frames rows columns] normalised.  depth: [frames rows columns] z-depth, unknown as for lift().
    cameras: one per frame.  is_mover: [frames rows columns] bool.
    first_latent_index: the film's latent frame that latents[:, 0] is.
    A thing is what hangs together in the image and in depth. Its velocity is that of the middle of its visible part,
    over the frames in which that part stays about as large; 0 for what was not there in the frame before.
    """
    frames = len(depth)
    points = unproject_cells(torch.where(depth.isfinite(), depth, 0).double(), cameras, grid)
    cells = lift_cells(
        latents[:, -1:],
        depth[-1:],
        cameras[-1],
        grid,
        is_static=is_mover[-1:],
        first_latent_index=first_latent_index + frames - 1,
    )
    first = max(0, frames - _TRACKED_FRAMES)
    things = [_things(points[frame], depth[frame], is_mover[frame]) for frame in range(first, frames)]
    labels = _labels(depth[-1], is_mover[-1] & cells.is_lifted[0])[cells.is_lifted[0]]
    is_kept = torch.zeros_like(labels, dtype=torch.bool)
    velocities = torch.zeros(len(labels), 3, dtype=torch.float64, device=labels.device)
    ranks = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    for thing in things[-1]:
        is_own = labels == thing.label
        is_kept |= is_own
        velocities[is_own] = _velocity(thing, things[:-1])
        ranks[is_own] = _ranks((cells.block.points[is_own] - thing.middle).norm(dim=1))
    if not is_kept.any():
        return None
    latent_index = first_latent_index + frames - 1
    return MoverLayer(cells.block.chosen(is_kept), velocities[is_kept], ranks[is_kept], latent_index)


def with_movers(
    view: MemoryView, layer: MoverLayer, cameras: Cameras, grid: LatentGrid, *, first_latent_index: int
) -> MemoryView:
    """The view with the movers in it, each where it will be by then, in front of or behind what stands still.

    view: what the memory shows to `cameras`, whose first is the film's latent frame `first_latent_index`.
    Cells that show a mover are covered and have point_index -1: they are not of the memory. Coverage is a yes or no, so
    a mover fades by covering fewer cells: from frame to frame it shrinks towards its middle, until it is gone after
    `layer.shown_frames` frames.
    """
    latents, depth = view.latents.clone(), view.depth.clone()
    is_covered, point_index = view.is_covered.clone(), view.point_index.clone()
    size = (int(depth.shape[1]), int(depth.shape[2]))
    for frame in range(len(depth)):
        at = first_latent_index + frame
        if layer.share_at(at) == 0:
            continue
        seen = project(LatentMemory(grid, (layer.block_at(at),)), cameras[frame], size)
        is_front = seen.is_covered[0] & (~is_covered[frame] | (seen.depth[0] < depth[frame]))
        latents[:, frame] = torch.where(is_front, seen.latents[:, 0].to(latents), latents[:, frame])
        depth[frame] = torch.where(is_front, seen.depth[0].to(depth), depth[frame])
        is_covered[frame] |= is_front
        point_index[frame] = torch.where(is_front, -1, point_index[frame])
    return replace(view, latents=latents, depth=depth, is_covered=is_covered, point_index=point_index)


@dataclass(frozen=True)
class _Thing:
    """One thing in one frame: its label, the middle of its visible points, and their area in units of its depth."""

    label: int
    middle: torch.Tensor
    area: float


def _things(points: torch.Tensor, depth: torch.Tensor, is_mover: torch.Tensor) -> list[_Thing]:
    labels = _labels(depth, is_mover)
    found = []
    for label in labels[labels >= 0].unique().tolist():
        is_own = labels == label
        count = int(is_own.sum())
        if count >= _MIN_CELLS:
            found.append(_Thing(label, points[is_own].mean(0), count * float(depth[is_own].double().mean()) ** 2))
    return found


def _velocity(thing: _Thing, before: list[list[_Thing]]) -> torch.Tensor:
    """[3] per frame: the slope of a line through the middles of this thing in the frames before."""
    track, now = [thing.middle], thing
    for things in reversed(before):
        alike = [one for one in things if 1 / _MAX_GROWTH < one.area / now.area < _MAX_GROWTH]
        if not alike:
            break
        # Expected where the track so far leads, which tells two things apart that pass each other.
        expected = track[-1] + (track[-1] - track[-2] if len(track) > 1 else 0)
        now = min(alike, key=lambda one: float((one.middle - expected).norm()))
        track.append(now.middle)
    if len(track) < 2:
        return torch.zeros(3, dtype=torch.float64, device=thing.middle.device)
    times = -torch.arange(len(track), dtype=torch.float64, device=thing.middle.device)
    times = times - times.mean()
    return (times[:, None] * torch.stack(track)).sum(0) / times.square().sum()


def _ranks(distances: torch.Tensor) -> torch.Tensor:
    """[n] float64: the share of `distances` that come before each in their order."""
    order = distances.argsort(stable=True)
    ranks = torch.empty(len(distances), dtype=torch.float64, device=distances.device)
    ranks[order] = torch.arange(len(distances), dtype=torch.float64, device=distances.device) / len(distances)
    return ranks


def _labels(depth: torch.Tensor, is_mover: torch.Tensor) -> torch.Tensor:
    """[rows columns] int64: one number per thing, -1 where none is. Neighbours of like depth are one thing."""
    is_own = is_mover & depth.isfinite() & (depth > 0)
    logs = torch.where(is_own, depth, 1.0).double().log()
    cells = torch.arange(is_own.numel(), device=depth.device).reshape(is_own.shape)
    labels = torch.where(is_own, cells, -1)
    links = []
    for dim in (0, 1):
        length = is_own.shape[dim] - 1
        both = is_own.narrow(dim, 0, length) & is_own.narrow(dim, 1, length)
        links.append((dim, length, both & (logs.diff(dim=dim).abs() < _SAME_THING)))
    while True:
        before = labels.clone()
        for dim, length, is_linked in links:
            one, other = labels.narrow(dim, 0, length), labels.narrow(dim, 1, length)
            greatest = torch.where(is_linked, torch.maximum(one, other), -1)
            one.copy_(torch.maximum(one, greatest))
            other.copy_(torch.maximum(other, greatest))
        if torch.equal(labels, before):
            return labels
