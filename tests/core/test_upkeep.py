"""Keeping a memory small: a budget, few blocks, half precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock
from mirage_core.upkeep import BLOCK_POINTS, changed, compacted, gathered, resident_bytes, tidied

GRID = LatentGrid(channels=4)


def block_of(count: int, *, seed: int = 0, sure: float = 0.5, frame: int = 0) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    return MemoryBlock(
        points=torch.rand(count, 3, generator=generator) * 100,
        latents=torch.randn(count, 4, generator=generator),
        latent_index=torch.full((count,), frame, dtype=torch.int32),
        confidence=torch.full((count,), sure),
        footprints=torch.full((count,), 0.01),
        sides=torch.eye(3)[:2].expand(count, 2, 3) * 0.01,
    )


def memory_of(*blocks: MemoryBlock) -> LatentMemory:
    return LatentMemory(GRID, blocks)


def test_without_a_budget_nothing_is_forgotten():
    memory = memory_of(block_of(BLOCK_POINTS), block_of(500, seed=1))
    tidy, forgotten = tidied(memory)
    assert forgotten == 0 and tidy.blocks == memory.blocks


def test_small_neighbours_become_one_block_and_keep_their_order():
    blocks = [block_of(100, seed=seed, frame=seed) for seed in range(100)]
    tidy, _ = tidied(memory_of(*blocks))
    assert [len(block) for block in tidy.blocks] == [8100, 1900]
    assert torch.equal(tidy.points, memory_of(*blocks).points)


def test_blocks_that_are_full_stay_the_same_objects():
    full = block_of(BLOCK_POINTS)
    tidy, _ = tidied(memory_of(full, block_of(10, seed=1), block_of(10, seed=2)))
    assert tidy.blocks[0] is full and len(tidy.blocks) == 2


def test_a_memory_over_its_budget_shrinks_below_it_and_has_room_for_more():
    memory = memory_of(*[block_of(BLOCK_POINTS, seed=seed) for seed in range(4)])
    budget = 0.7 * resident_bytes(memory) / 2**20
    tidy, forgotten = tidied(memory, budget_mib=budget)
    assert forgotten == memory.count - tidy.count
    assert 0.85 * budget < resident_bytes(tidy) / 2**20 < 0.95 * budget
    assert tidied(tidy, budget_mib=budget) == (tidy, 0)


def test_the_least_sure_points_go_first_and_of_those_the_oldest():
    memory = memory_of(
        block_of(BLOCK_POINTS, sure=0.5, frame=9),
        block_of(BLOCK_POINTS, seed=1, sure=0.5, frame=0),
        block_of(BLOCK_POINTS, seed=2, sure=0.9, frame=0),
    )
    tidy, forgotten = tidied(memory, budget_mib=0.9 * resident_bytes(memory) / 2**20)
    left = [len(block) for block in tidy.blocks]
    assert left == [BLOCK_POINTS, BLOCK_POINTS - forgotten, BLOCK_POINTS]


def test_points_that_repeat_a_surer_one_go_before_all_others():
    twin = block_of(BLOCK_POINTS, sure=0.8)
    memory = memory_of(replace(twin, confidence=twin.confidence + 0.1), twin, block_of(BLOCK_POINTS, seed=1, sure=0.2))
    tidy, forgotten = tidied(memory, budget_mib=0.9 * resident_bytes(memory) / 2**20)
    assert [len(block) for block in tidy.blocks] == [BLOCK_POINTS, BLOCK_POINTS - forgotten, BLOCK_POINTS]


def test_locked_points_never_go():
    locked = replace(block_of(BLOCK_POINTS, sure=0.1), is_locked=torch.ones(BLOCK_POINTS, dtype=torch.bool))
    memory = memory_of(locked, block_of(BLOCK_POINTS, seed=1, sure=0.9))
    tidy, forgotten = tidied(memory, budget_mib=0.01)
    assert tidy.count == BLOCK_POINTS and forgotten == BLOCK_POINTS
    assert all(block.is_locked is not None and block.is_locked.all() for block in tidy.blocks)


def test_only_blocks_that_change_are_new():
    memory = memory_of(block_of(50), block_of(50, seed=1), block_of(50, seed=2))
    index = torch.tensor([60, 61, 120])
    new = changed(memory, index, torch.tensor([0.5, 0.75, 0.5]), torch.tensor([False, False, True]))
    assert new.blocks[0] is memory.blocks[0]
    assert new.blocks[1].points is memory.blocks[1].points and float(new.blocks[1].confidence[11]) == 0.75
    assert len(new.blocks[2]) == 49 and float(memory.blocks[1].confidence[11]) == 0.5


def test_gathered_points_are_those_asked_for():
    memory = memory_of(block_of(50), block_of(50, seed=1))
    assert torch.equal(gathered(memory, torch.tensor([3, 50, 99])).points, memory.points[[3, 50, 99]])
    assert len(gathered(memory, torch.zeros(0, dtype=torch.int64))) == 0


def test_compacted_sides_keep_half_a_percent_in_world_units_of_any_size():
    for scale in (1e-6, 1.0, 1e6):
        block = block_of(10)
        block = replace(block, sides=block.sides * 1.2345 * scale, footprints=block.footprints * 1.2345 * scale)
        small = compacted(block, torch.float16)
        assert small.sides.element_size() == small.confidence.element_size() == small.footprints.element_size() == 2
        assert torch.allclose(small.sides.float(), block.sides, rtol=0.005, atol=0)
        assert torch.allclose(small.footprints.float(), block.footprints, rtol=0.005, atol=0)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="The budget is -1"):
        tidied(memory_of(block_of(1)), budget_mib=-1)


def test_making_room_copies_no_latents_of_points_that_stay():
    """The choice of what goes needs places and confidence alone; a copy of these latents would have 343 TB."""
    channels = 1 << 21
    blocks = [block_of(BLOCK_POINTS, seed=seed, sure=0.9) for seed in range(4)] + [block_of(BLOCK_POINTS, sure=0.1)]
    blocks = [replace(block, latents=torch.zeros(1, 1).expand(BLOCK_POINTS, channels)) for block in blocks]
    memory = LatentMemory(LatentGrid(channels=channels), tuple(blocks))
    share = 1 - (BLOCK_POINTS - 0.5) / memory.count  # of the points that are to stay: all but the last block's
    tidy, forgotten = tidied(memory, budget_mib=share / 0.9 * resident_bytes(memory) / 2**20)
    assert forgotten == BLOCK_POINTS and [id(one) for one in tidy.blocks] == [id(one) for one in blocks[:4]]
