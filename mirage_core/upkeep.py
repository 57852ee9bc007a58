"""Keeping a memory small: half precision, few blocks, a budget. All of it deterministic; old blocks are shared.

What a memory costs is counted by resident_bytes(): every tensor once, what is derived for drawing included.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .memory import LatentMemory, MemoryBlock

BLOCK_POINTS = 8192  # neighbours in time are joined up to so many points
_MARGIN = 0.9  # of the budget is left once it is exceeded, so that not every segment has to make room
_CROWD = 2.0  # footprints; points in a voxel as wide repeat each other
_FIELDS = ("points", "latents", "latent_index", "confidence", "footprints", "sides")


def compacted(block: MemoryBlock, features: torch.dtype | None) -> MemoryBlock:
    """The block with latents as `features`, and confidence, footprints and sides in 2 bytes each; None changes nothing.

    Half a percent of a cell is finer than any depth; bfloat16 holds it for world units of any size.
    """
    if features is None:
        return block
    return replace(
        block,
        latents=block.latents.to(features),
        confidence=block.confidence.half(),
        footprints=block.footprints.bfloat16(),
        sides=block.sides.bfloat16(),
    )


def resident_bytes(memory: LatentMemory) -> int:
    """Bytes of all that the memory keeps, with the tiles that projection makes of it; what is shared counts once."""
    storages = {}
    for block in memory.blocks:
        for tensor in [*vars(block).values(), *vars(block.tiles).values()]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def gathered(memory: LatentMemory, index: torch.Tensor) -> MemoryBlock:
    """Points of a memory, which has some, by their index in it; index: [m] ascending."""
    parts = [block.chosen(rows) for block, rows, _ in _rows_by_block(memory, index)]
    return joined(parts or [memory.blocks[0].chosen(slice(0))])


def changed(
    memory: LatentMemory,
    index: torch.Tensor,
    confidence: torch.Tensor,
    is_dropped: torch.Tensor,
    points: torch.Tensor | None = None,
) -> LatentMemory:
    """The memory with other confidence [m], and points [m 3] if given, at `index` [m] ascending, without those points
    that are dropped.

    Blocks in which nothing changes are the same objects, and those in which only confidence does share all else.
    """
    blocks = {id(block): block for block in memory.blocks}
    for block, rows, part in _rows_by_block(memory, index):
        new = block.with_confidence(_with_rows(block.confidence, rows, confidence[part]))
        places = block.points if points is None else _with_rows(block.points, rows, points[part])
        if is_dropped[part].any():
            is_kept = torch.ones(len(block), dtype=torch.bool, device=rows.device)
            is_kept[rows[is_dropped[part]]] = False
            new = replace(new, points=places).chosen(is_kept)
        else:
            new = new.moved(places)
        blocks[id(block)] = new
    return LatentMemory(memory.grid, tuple(block for block in blocks.values() if len(block)))


def _with_rows(values: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`values` with others at `rows`; the same tensor if that changes nothing."""
    new = values.clone()
    new[rows] = others.to(values.dtype)
    return values if torch.equal(new, values) else new


def tidied(memory: LatentMemory, *, budget_mib: float = 0.0) -> tuple[LatentMemory, int]:
    """The memory within its budget and in few blocks, and how many points were forgotten for that.

    budget_mib: 0 = anything. Once it is exceeded, the least useful points go until a tenth is free: first those that
        share a place with a surer one, then the least sure, and of equally sure ones the oldest. Locked points stay,
        also where they alone take more than the budget.
    Raises ValueError for a negative budget.
    """
    if not budget_mib >= 0:
        raise ValueError(f"The budget is {budget_mib} MiB; give a size above 0, or 0 for no limit.")
    forgotten = 0
    memory = LatentMemory(memory.grid, tuple(_merged(memory.blocks)))
    budget = budget_mib * 2**20
    if budget and memory.count:
        size = resident_bytes(memory)
        if size > budget:
            count = min(memory.count, int(memory.count * (1 - _MARGIN * budget / size)) + 1)
            index, forgotten = _least_useful(memory, count)
            keep = torch.zeros(len(index), device=index.device)
            memory = changed(memory, index, keep, torch.ones_like(index, dtype=torch.bool))
            memory = LatentMemory(memory.grid, tuple(_merged(memory.blocks)))
    return memory, forgotten


def joined(blocks: list[MemoryBlock]) -> MemoryBlock:
    """One block of all points, in order; at least one block is needed."""
    if len(blocks) == 1:
        return blocks[0]
    fields = {name: torch.cat([getattr(block, name) for block in blocks]) for name in _FIELDS}
    is_locked = None
    if any(block.is_locked is not None for block in blocks):
        is_locked = torch.cat([_locks(one) for one in blocks])
    return MemoryBlock(**fields, is_locked=is_locked)


def locked_count(memory: LatentMemory) -> int:
    """Points that no budget takes away."""
    return sum(int(block.is_locked.sum()) for block in memory.blocks if block.is_locked is not None)


def _locks(block: MemoryBlock) -> torch.Tensor:
    """[n] bool, True for locked points."""
    return torch.zeros_like(block.confidence, dtype=torch.bool) if block.is_locked is None else block.is_locked


def _merged(blocks: tuple[MemoryBlock, ...]) -> list[MemoryBlock]:
    """Neighbours of one precision joined while they stay within BLOCK_POINTS. Points keep their order."""
    groups: list[list[MemoryBlock]] = []
    for block in blocks:
        last = groups[-1] if groups else []
        has_room = last and sum(len(one) for one in last) + len(block) <= BLOCK_POINTS
        if has_room and _precision(last[0]) == _precision(block):
            last.append(block)
        else:
            groups.append([block])
    return [joined(group) for group in groups]


def _precision(block: MemoryBlock) -> list[torch.dtype]:
    return [getattr(block, name).dtype for name in _FIELDS]


def _least_useful(memory: LatentMemory, count: int) -> tuple[torch.Tensor, int]:
    """Ascending index of up to `count` points that go first, and how many they are."""
    sure = torch.cat([block.confidence.float() for block in memory.blocks])
    order = memory.latent_index.argsort(stable=True)
    order = order[sure[order].argsort(stable=True)]  # the least sure first, of those the oldest
    is_crowded = torch.zeros(memory.count, dtype=torch.bool, device=sure.device)
    is_crowded[order] = _shares_place(torch.cat([_voxels(block) for block in memory.blocks])[order])
    order = order[(~is_crowded[order]).long().argsort(stable=True)]
    order = order[~torch.cat([_locks(block) for block in memory.blocks])[order]]
    chosen = order[:count].sort().values
    return chosen, len(chosen)


def _voxels(block: MemoryBlock) -> torch.Tensor:
    """[n 4] int64, the voxel of each point, of about twice its own width, and the width."""
    width = torch.exp2((block.footprints.float() * _CROWD).log2().floor())
    return torch.cat([(block.points / width[:, None]).floor(), width.log2()[:, None]], dim=1).long()


def _shares_place(voxels: torch.Tensor) -> torch.Tensor:
    """[n] bool, True for points that are not the last of those in their voxel [n 4]."""
    _, place = voxels.unique(dim=0, return_inverse=True)
    rank = torch.arange(len(voxels), device=voxels.device)
    last = torch.zeros(int(place.max()) + 1, dtype=torch.int64, device=voxels.device)
    last.scatter_reduce_(0, place, rank, "amax")
    return rank < last[place]


def _rows_by_block(memory: LatentMemory, index: torch.Tensor) -> list[tuple[MemoryBlock, torch.Tensor, slice]]:
    """Blocks that hold points of index [m] ascending, with their rows in the block and where these are in `index`."""
    found, first, start = [], 0, 0
    ends = torch.tensor([len(block) for block in memory.blocks], device=index.device).cumsum(0)
    for block, stop in zip(memory.blocks, torch.searchsorted(index, ends).tolist(), strict=True):
        if stop > start:
            found.append((block, index[start:stop] - first, slice(start, stop)))
        first, start = first + len(block), stop
    return found
