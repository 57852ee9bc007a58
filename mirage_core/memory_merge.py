"""Two memories as one: where the second lies in the first's world, and joining them without storing places twice.

align() is an iterative closest point search on the patches of surface that points stand for: point to plane, trimmed,
from a first guess, the same on every run. It knows geometry only; it does not find a place without a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .known_patches import on_patches_of
from .memory import LatentMemory, planes
from .memory_edits import Choice, forgotten, moved
from .rgb_memory import is_rgb, voxel_keys

_SOURCE, _TARGET = 1500, 12000  # points that are compared, evenly taken
_ROUNDS = 40
_KEPT_SHARE = 0.8  # of the pairs; the worst are movers, noise and what only one memory knows
# Farthest pair, as a share of the first memory's extent: both starts are tried, as a far reach mends larger errors and
# a near one is not led astray by what only one memory has seen.
_START_REACHES, _END_REACH = (0.15, 0.04), 0.02
_ON_SURFACE = 1.0  # footprints from a patch's plane within which a point lies on it
_ALIKE = 0.7  # cosine between normals of one surface
_RANK = 1e-5  # directions that surfaces leave open, as along one flat wall, are not moved in
_STILL = 1e-7


@dataclass(frozen=True)
class Alignment:
    """Where the second memory lies in the first's world: motion @ (scale * point).

    motion: [4 4] float64 rigid.  scale: above 0.
    residual: root mean square distance of those points that lie on the first's surfaces from these, in world units.
    overlap: share of its points, as far as the first memory reaches, that lie on the first's surfaces.
    """

    motion: torch.Tensor
    scale: float
    residual: float
    overlap: float


@dataclass(frozen=True)
class _Surface:
    """points: [n 3], normals: [n 3], footprints: [n], float64, on the CPU."""

    points: torch.Tensor
    normals: torch.Tensor
    footprints: torch.Tensor


def align(
    first: LatentMemory,
    second: LatentMemory,
    *,
    guess: torch.Tensor | None = None,
    with_scale: bool = False,
    min_overlap: float = 0.25,
) -> Alignment:
    """The rigid motion, and the scale if asked for, that lays the second memory's surfaces on the first's.

    guess: [4 4] rigid, from the second world to the first; default the same world. It has to be right within some
        tenth of the scene and some 20 degrees.
    Raises ValueError when a memory is empty, or when less than `min_overlap` of the second comes to lie on the first.
    """
    target, source = _surface(first, _TARGET), _surface(second, _SOURCE)
    motion = torch.eye(4, dtype=torch.float64) if guess is None else guess.detach().cpu().double()
    tries = [_descended(target, source, motion, start, with_scale=with_scale) for start in _START_REACHES]
    found = max(tries, key=lambda one: one.overlap)
    if not found.overlap >= min_overlap:
        raise ValueError(
            f"The memories do not fit: {found.overlap:.0%} of the second lies on the first's surfaces; "
            f"{min_overlap:.0%} are needed. Give a first guess with offset and turn, or merge by shared frame."
        )
    return found


def compared(first: LatentMemory, second: LatentMemory, motion: torch.Tensor, *, scale: float = 1.0) -> Alignment:
    """How well the memories fit as they are told to lie, without moving anything.  Raises ValueError for empty ones."""
    motion = motion.detach().cpu().double()
    return _judged(
        _surface(first, _TARGET), _moved(_surface(second, _SOURCE), motion, scale), motion, scale
    )  # fmt: skip


def merged(
    first: LatentMemory, second: LatentMemory, motion: torch.Tensor, *, scale: float = 1.0
) -> tuple[LatentMemory, int]:
    """Both memories in the first's world, and how many points of the second were left out.

    A point of the second is left out, unless it is locked, where the first knows its place, see known_patches.py; one
    of an RGB memory, where the first has one of the same size in its voxel.
    Its latent frames are numbered before all of the first's, in their order. Blocks of the first are shared.
    Raises ValueError when the two hold other things: another kind, cell rule, or number of channels.
    """
    check_alike(first, second)
    if not second.blocks:
        return first, 0
    own, other = (torch.cat([block.latent_index.cpu() for block in one.blocks]) for one in (first, second)) if (
        first.blocks
    ) else (torch.zeros(1, dtype=torch.int32), second.latent_index)  # fmt: skip
    later = int(own.min()) - 1 - int(other.max())
    placed = moved(second, motion, scale=scale, later=later)
    known = _in_voxels_of(first, placed) if is_rgb(first) else on_patches_of(first, placed)
    rest = forgotten(placed, known)
    return LatentMemory(first.grid, (*first.blocks, *rest.blocks)), second.count - rest.count


def check_alike(first: LatentMemory, second: LatentMemory) -> None:
    """Raise ValueError, one sentence, when two memories hold things that cannot be in one."""
    for name, meaning in (
        ("spatial_stride", "pixels per point, so one holds latents and the other colours"),
        ("channels", "channels, so they are latents of different VAEs"),
        ("temporal_stride", "frames per latent, so they are latents of different VAEs"),
        ("cell_rule", "cell rule (center or corner), so their points lie half a cell apart"),
    ):
        ours, theirs = getattr(first.grid, name), getattr(second.grid, name)
        if ours != theirs:
            raise ValueError(
                f"The memories differ in {meaning}: {ours} and {theirs}. Merge memories that were started alike."
            )


def _descended(
    target: _Surface, source: _Surface, motion: torch.Tensor, start_reach: float, *, with_scale: bool
) -> Alignment:
    extent = float((target.points.amax(0) - target.points.amin(0)).norm())
    scale = 1.0
    for turn in range(_ROUNDS):
        reach = extent * max(_END_REACH, start_reach * 0.92**turn)
        step, growth = _step(target, _moved(source, motion, scale), reach, with_scale)
        motion, scale = _rigid(step @ motion, growth), scale * growth
        if reach <= extent * _END_REACH and (step - torch.eye(4, dtype=torch.float64)).abs().max() < _STILL:
            break
    return _judged(target, _moved(source, motion, scale), motion, scale)


def _in_voxels_of(first: LatentMemory, second: LatentMemory) -> Choice:
    """Points of the second in whose voxel, as wide as the point's own cell, the first has a point."""
    if not first.blocks:
        return tuple(torch.zeros(len(block), dtype=torch.bool) for block in second.blocks)
    places = torch.cat([voxel_keys(block).cpu() for block in first.blocks]).unique()
    known = []
    for block in second.blocks:
        keys = voxel_keys(block).cpu()
        at = torch.searchsorted(places, keys).clamp_(max=len(places) - 1)
        known.append((places[at] == keys).to(block.points.device))
    return tuple(known)


def _surface(memory: LatentMemory, limit: int) -> _Surface:
    """At most `limit` points, evenly taken from all that is remembered; those without a patch are left out."""
    stride = max(1, -(-memory.count // limit))
    parts, first = [], 0
    for block in memory.blocks:
        rows = slice(-first % stride, None, stride)
        sides = block.sides[rows].cpu().double()
        parts.append((block.points[rows].cpu().double(), planes(sides)[:, :3], block.footprints[rows].cpu().double()))
        first += len(block)
    if parts:
        points, normals, footprints = (torch.cat(one) for one in zip(*parts, strict=True))
        has_patch = normals.norm(dim=1) > 0.5
        if has_patch.any():
            return _Surface(points[has_patch], normals[has_patch], footprints[has_patch])
    raise ValueError("A memory without surfaces cannot be laid on another. Merge it with a given offset instead.")


def _moved(surface: _Surface, motion: torch.Tensor, scale: float) -> _Surface:
    rotation = motion[:3, :3]
    points = scale * surface.points @ rotation.T + motion[:3, 3]
    return _Surface(points, surface.normals @ rotation.T, surface.footprints * scale)


def _nearest(target: _Surface, points: torch.Tensor) -> torch.Tensor:
    """[n] index of the target point that is nearest to each of points [n 3]."""
    middle = target.points.mean(0)
    there, here = (target.points - middle).float(), (points - middle).float()
    squares = there.square().sum(1)
    return torch.cat([(squares - 2 * part @ there.T).argmin(1) for part in here.split(512)])


def _step(target: _Surface, source: _Surface, reach: float, with_scale: bool) -> tuple[torch.Tensor, float]:
    """A small motion [4 4] towards the planes of the nearest patches, and a growth; nothing without enough pairs."""
    index = _nearest(target, source.points)
    points, normals = target.points[index], target.normals[index]
    apart = (source.points - points).norm(dim=1)
    is_pair = (apart < reach) & ((source.normals * normals).sum(1).abs() > _ALIKE)
    identity = torch.eye(4, dtype=torch.float64)
    if int(is_pair.sum()) < 12:
        return identity, 1.0
    distance = ((source.points - points) * normals).sum(1)
    is_pair &= distance.abs() <= distance[is_pair].abs().quantile(_KEPT_SHARE)
    middle = source.points[is_pair].mean(0)
    arms, normals, distance = source.points[is_pair] - middle, normals[is_pair], distance[is_pair]
    size = float(arms.norm(dim=1).mean())
    columns = [torch.linalg.cross(arms, normals) / size, normals]
    if with_scale:
        columns.append((arms * normals).sum(1, keepdim=True) / size)
    matrix = torch.cat(columns, dim=1)
    solution = torch.linalg.pinv(matrix.T @ matrix, rtol=_RANK, hermitian=True) @ (matrix.T @ -distance)
    growth = 1 + float(solution[6]) / size if with_scale else 1.0
    growth = min(1.1, max(0.9, growth))
    step = identity.clone()
    step[:3, :3] = growth * torch.linalg.matrix_exp(_cross_matrix(solution[:3] / size))
    step[:3, 3] = middle + solution[3:6] - step[:3, :3] @ middle
    return step, growth


def _rigid(motion: torch.Tensor, growth: float) -> torch.Tensor:
    """A motion [4 4] without the growth, and without the rounding of many steps."""
    left, _, right = torch.linalg.svd(motion[:3, :3] / growth)
    rigid = motion.clone()
    rigid[:3, :3] = left @ right
    return rigid


def _cross_matrix(vector: torch.Tensor) -> torch.Tensor:
    x, y, z = vector.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def _judged(target: _Surface, source: _Surface, motion: torch.Tensor, scale: float) -> Alignment:
    index = _nearest(target, source.points)
    apart = source.points - target.points[index]
    distance = (apart * target.normals[index]).sum(1).abs()
    footprint = torch.maximum(target.footprints[index], source.footprints)
    # Points beyond what the first memory has seen say nothing about the fit.
    low, high = target.points.amin(0), target.points.amax(0)
    margin = 2 * footprint[:, None]
    is_within = ((source.points >= low - margin) & (source.points <= high + margin)).all(1)
    is_on = is_within & (distance <= _ON_SURFACE * footprint) & (apart.norm(dim=1) <= 2.5 * footprint)
    is_on &= (source.normals * target.normals[index]).sum(1).abs() > _ALIKE
    overlap = float(is_on.sum()) / max(1, int(is_within.sum()))
    residual = float(distance[is_on].square().mean().sqrt()) if is_on.any() else float("inf")
    return Alignment(motion, scale, residual, overlap)
