"""Which points of one memory another one knows already: the rule of fusion.py for memories without cameras.

A memory from a file has forgotten the cameras that made it, so nothing can be compared in their cells. What is left of
the rule: a place is known where a patch of surface lies that faces the same way and is hardly coarser. Depth noise is
taken in footprints instead of shares of the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from .fusion import FINER
from .memory import HALF_SIDE, LatentMemory, planes
from .memory_edits import Choice

_ON_SURFACE = 1.0  # footprints of the patch, off its plane
_PARALLEL = 0.8  # least cosine between normals of one surface, each away from the camera that saw it
_AXIS_BITS = 20


def on_patches_of(first: LatentMemory, second: LatentMemory) -> Choice:
    """Points of the second that lie on a patch of the first which faces the same way and is at most FINER as coarse.

    Both in the same world. Points without a patch are never chosen, and choose none.
    """
    known = torch.zeros(second.count, dtype=torch.bool)
    if first.blocks:
        patches, others = _Patches.of(first), _Patches.of(second)
        level = torch.frexp(patches.footprints).exponent
        for one in level.unique().tolist():
            # Less than 2 ** one wide, a patch holds no point that is farther than twice that from its own.
            _mark_held(known, patches[level == one], others, 2.0 ** (one + 1))
    parts = known.split([len(block) for block in second.blocks])
    return tuple(part.to(block.points.device) for part, block in zip(parts, second.blocks, strict=True))


@dataclass(frozen=True)
class _Patches:
    """What points stand for, on the CPU: points [n 3], sides [n 2 3], normals [n 3], footprints [n], float64."""

    points: torch.Tensor
    sides: torch.Tensor
    normals: torch.Tensor
    footprints: torch.Tensor

    @staticmethod
    def of(memory: LatentMemory) -> _Patches:
        points, sides, footprints = (
            torch.cat([getattr(block, name).cpu().double() for block in memory.blocks])
            for name in ("points", "sides", "footprints")
        )
        return _Patches(points, sides, planes(sides)[:, :3], footprints)

    def __getitem__(self, rows: torch.Tensor) -> _Patches:
        return _Patches(*(value[rows] for value in vars(self).values()))

    def hold(self, others: _Patches) -> torch.Tensor:
        """[n] bool, whether the point of each of as many others lies on the patch here, and is known by it."""
        apart = others.points - self.points
        is_held = (apart * self.normals).sum(1).abs() <= _ON_SURFACE * self.footprints
        is_held &= (self.normals * others.normals).sum(1) >= _PARALLEL
        is_held &= self.footprints <= FINER * others.footprints
        # Where on the patch, in sides from its point: the sides of a cell are seldom at right angles.
        first, second = self.sides.unbind(1)
        p, q, r = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
        a, b = (apart * first).sum(1), (apart * second).sum(1)
        bound = HALF_SIDE * (p * r - q * q)
        return is_held & ((a * r - b * q).abs() <= bound) & ((b * p - a * q).abs() <= bound)


def _mark_held(known: torch.Tensor, patches: _Patches, others: _Patches, width: float) -> None:
    """Set known [m] for the others that one of the patches holds; none of these reaches farther than `width`."""
    places, order = _places((patches.points / width).floor().long()).sort(stable=True)
    for step in product((0, -1, 1), repeat=3):
        asked = (~known & (others.footprints * FINER >= patches.footprints.min())).nonzero()[:, 0]
        there = _places((others.points[asked] / width).floor().long() + torch.tensor(step))
        start = torch.searchsorted(places, there)
        count = torch.searchsorted(places, there, right=True) - start
        owner = torch.arange(len(asked)).repeat_interleave(count)
        rank = torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
        is_held = patches[order[start[owner] + rank]].hold(others[asked[owner]])
        known[asked[owner[is_held]]] = True


def _places(cells: torch.Tensor) -> torch.Tensor:
    """[n] int64, one number per cell [n 3] of whole numbers; those 2^20 cells apart share it."""
    x, y, z = (cells & ((1 << _AXIS_BITS) - 1)).unbind(1)
    return (x << 2 * _AXIS_BITS) | (y << _AXIS_BITS) | z
