"""What a memory keeps of the points that show, read only from the blocks these lie in. Which show is zbuffer.py."""

from __future__ import annotations

import torch

from .memory import LatentMemory, MemoryBlock

_FEW = 16  # blocks that are looked for one by one in less time than sorting takes


class Winners:
    """The points that show in the cells of some frames.

    blocks: those of the memory, or one without points.  rank: [frames * cells] int64, the row of rows() that belongs to
    a cell; 0 where nothing shows.
    """

    def __init__(self, memory: LatentMemory, index: torch.Tensor) -> None:
        """index: [frames cells] of points of the memory, -1 where none shows."""
        self.blocks = memory.blocks or (_no_points(memory.grid.channels),)
        ends = torch.tensor([len(block) for block in self.blocks], device=index.device).cumsum(0)
        known = (index.flatten() >= 0).nonzero()[:, 0]
        winner = index.flatten().index_select(0, known)
        block_of = torch.bucketize(winner, ends, right=True)
        counts = {number: count for number, count in enumerate(torch.bincount(block_of).tolist()) if count}
        if len(counts) > _FEW:
            order = block_of.sort(stable=True).indices
        else:
            order = torch.cat([known[:0], *((block_of == number).nonzero()[:, 0] for number in counts)])
        parts = winner.index_select(0, order).split(list(counts.values()))
        self._parts = [
            (self.blocks[number], part - (ends[number] - len(self.blocks[number])))
            for number, part in zip(counts, parts, strict=True)
        ]
        self.rank = torch.zeros(index.numel(), dtype=torch.int64, device=index.device)
        self.rank[known.index_select(0, order)] = torch.arange(1, len(known) + 1, device=index.device)

    def rows(self, name: str) -> torch.Tensor:
        """[1 + m ...] of a field of the blocks: a row of zeros, and one for every cell where something shows."""
        field = getattr(self.blocks[0], name)
        rows = [getattr(block, name).index_select(0, rows) for block, rows in self._parts]
        return torch.cat([field.new_zeros(1, *field.shape[1:]), *rows])

    def at_cells(self, rows: torch.Tensor) -> torch.Tensor:
        """[frames * cells ...] such rows where they show."""
        return rows.index_select(0, self.rank)

    def leave_out(self, cells: torch.Tensor) -> None:
        """From now on nothing shows in these cells: [frames cells] bool."""
        self.rank.masked_fill_(cells.flatten(), 0)


def _no_points(channels: int) -> MemoryBlock:
    none = torch.zeros(0)
    return MemoryBlock(none.view(0, 3), none.view(0, channels), none.int(), none, none, none.view(0, 2, 3))
