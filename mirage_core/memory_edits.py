"""Choosing points of a memory, and forgetting, locking or moving them.

A choice is one bool tensor [n] per block. Every edit gives a new memory; blocks without a chosen point are shared with
the old one, and of the others all tensors that stay the same are. Locked points are never forgotten.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from .camera import Cameras, projection_matrices
from .memory import LatentMemory, MemoryBlock
from .sight import image_positions
from .zbuffer import project

Choice = tuple[torch.Tensor, ...]

_FIELDS = tuple(one.name for one in fields(MemoryBlock))
_ONE_SURFACE = 1.03  # points up to this share deeper than what shows are samples of the same surface


def everything(memory: LatentMemory) -> Choice:
    """All points."""
    return tuple(torch.ones(len(block), dtype=torch.bool, device=block.points.device) for block in memory.blocks)


def in_box(memory: LatentMemory, low: torch.Tensor, high: torch.Tensor) -> Choice:
    """Points in the box between two corners [3] in the world, its faces included.

    Raises ValueError when a corner is not finite or `low` is above `high`.
    """
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()) or (low > high).any():
        raise ValueError(
            f"The box goes from {low.tolist()} to {high.tolist()}; each number of the first corner is at most "
            "that of the second."
        )
    return tuple(
        ((block.points >= low.to(block.points)) & (block.points <= high.to(block.points))).all(dim=1)
        for block in memory.blocks
    )


def of_latent_frames(memory: LatentMemory, first: int, last: int) -> Choice:
    """Points remembered from latent frames `first` to `last` of the film, both included. Those of earlier films have
    numbers below 0."""
    return tuple((block.latent_index >= first) & (block.latent_index <= last) for block in memory.blocks)


def less_sure_than(memory: LatentMemory, confidence: float) -> Choice:
    """Points whose confidence is below this, in [0, 1]."""
    return tuple(block.confidence < confidence for block in memory.blocks)


def under_mask(memory: LatentMemory, camera: Cameras, is_masked: torch.Tensor, *, with_hidden: bool = False) -> Choice:
    """Points that a camera shows in masked cells, and all samples of the surfaces that show there.

    camera: one.  is_masked: [rows columns] bool, on any grid of cells over the camera's picture.
    with_hidden: also everything behind, as far as the memory goes.
    Raises ValueError for several cameras, or a mask of another shape.
    """
    if len(camera) != 1 or is_masked.ndim != 2:
        raise ValueError(
            f"There are {len(camera)} cameras and a mask of shape {list(is_masked.shape)}; one camera and "
            "a mask [rows columns] are needed."
        )
    rows, columns = is_masked.shape
    view = project(memory, camera, (rows, columns))
    shown = view.point_index[0][is_masked.to(view.point_index.device)]
    matrix = projection_matrices(camera, (rows, columns), memory.grid)[0]
    # What shows in a cell ends there; behind an empty cell there is nothing to keep.
    deepest = torch.where(view.is_covered[0], view.depth[0] * _ONE_SURFACE, 0.0)
    if with_hidden:
        deepest = torch.full_like(deepest, torch.inf)
    choice, first = [], 0
    for block in memory.blocks:
        u, v, z = image_positions(block.points.T.clone(), matrix)
        in_picture = (z > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
        row, column = v.clamp(0, rows - 1).long(), u.clamp(0, columns - 1).long()
        is_chosen = in_picture & is_masked.to(z.device)[row, column] & (z <= deepest.to(z)[row, column])
        own = shown[(shown >= first) & (shown < first + len(block))] - first
        is_chosen[own] = True
        choice.append(is_chosen)
        first += len(block)
    return tuple(choice)


def count(choice: Choice) -> int:
    """Number of chosen points."""
    return sum(int(one.sum()) for one in choice)


def inverted(choice: Choice) -> Choice:
    """The points that are not chosen."""
    return tuple(~one for one in choice)


def forgotten(memory: LatentMemory, choice: Choice) -> LatentMemory:
    """The memory without the chosen points, except for locked ones. Blocks that lose all points go."""
    blocks = []
    for block, is_chosen in _checked(memory, choice):
        is_dropped = is_chosen if block.is_locked is None else is_chosen & ~block.is_locked
        if is_dropped.all():
            continue
        blocks.append(_rows(block, ~is_dropped) if is_dropped.any() else block)
    return LatentMemory(memory.grid, tuple(blocks))


def locked(memory: LatentMemory, choice: Choice) -> LatentMemory:
    """The memory with the chosen points locked: they are neither forgotten nor dropped to save space."""
    return _relocked(memory, choice, True)


def unlocked(memory: LatentMemory, choice: Choice) -> LatentMemory:
    """The memory with the chosen points no longer locked."""
    return _relocked(memory, choice, False)


def moved(memory: LatentMemory, motion: torch.Tensor, *, scale: float = 1.0, later: int = 0) -> LatentMemory:
    """The memory in another world: points become motion @ (scale * point).

    motion: [4 4] rigid.  later: added to each point's latent frame.
    Latents, confidence and locks are shared with the old memory. The identity gives the memory itself.
    """
    if later == 0 and scale == 1 and torch.equal(motion.double(), torch.eye(4, dtype=torch.float64)):
        return memory
    blocks = []
    for block in memory.blocks:
        rotation = motion[:3, :3].double().to(block.points.device) * scale
        points = block.points.double() @ rotation.T + motion[:3, 3].double().to(block.points.device)
        blocks.append(
            replace(
                block,
                points=points.to(block.points.dtype),
                sides=(block.sides.double() @ rotation.T).to(block.sides.dtype),
                footprints=(block.footprints.double() * scale).to(block.footprints.dtype),
                latent_index=block.latent_index + later,
            )
        )
    return LatentMemory(memory.grid, tuple(blocks))


def _relocked(memory: LatentMemory, choice: Choice, is_locked: bool) -> LatentMemory:
    blocks = []
    for block, is_chosen in _checked(memory, choice):
        before = torch.zeros_like(is_chosen) if block.is_locked is None else block.is_locked
        after = before | is_chosen if is_locked else before & ~is_chosen
        if torch.equal(before, after):
            blocks.append(block)
            continue
        changed = replace(block, is_locked=after if after.any() else None)
        if "tiles" in vars(block):  # made from points and sides, which stay
            vars(changed)["tiles"] = block.tiles
        blocks.append(changed)
    return LatentMemory(memory.grid, tuple(blocks))


def _rows(block: MemoryBlock, is_kept: torch.Tensor) -> MemoryBlock:
    values = {name: getattr(block, name) for name in _FIELDS}
    return replace(block, **{name: value[is_kept] for name, value in values.items() if value is not None})


def _checked(memory: LatentMemory, choice: Choice) -> list[tuple[MemoryBlock, torch.Tensor]]:
    if [len(one) for one in choice] != [len(block) for block in memory.blocks]:
        raise ValueError("The choice was made for another memory. Choose the points of the very memory that is edited.")
    return list(zip(memory.blocks, choice, strict=True))
