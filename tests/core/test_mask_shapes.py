"""Shapes of masks: growing and holding are unions of moved copies; regions are those one can count by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from mirage_core.mask_shapes import CELL, feathered, grown, held, without_small


def random_mask(seed: int, *size: int, share: float = 0.1) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) < share


def moved_copies(mask: torch.Tensor, steps: tuple[int, int, int]) -> torch.Tensor:
    """The union of `mask` moved by up to so many frames, rows and columns, written out."""
    reached = torch.zeros_like(mask)
    for at in mask.nonzero().tolist():
        place = tuple(slice(max(0, here - step), here + step + 1) for here, step in zip(at, steps, strict=True))
        reached[place] = True
    return reached


@settings(max_examples=40, deadline=None)
@given(some.integers(0, 2**31), some.integers(0, 40), some.integers(0, 6))
def test_growing_and_holding_are_the_union_of_moved_copies(seed: int, steps: int, frames: int) -> None:
    mask = random_mask(seed, 4, 9, 14)
    assert torch.equal(grown(mask, steps), moved_copies(mask, (0, steps, steps)))
    assert torch.equal(held(mask, frames), moved_copies(mask, (frames, 0, 0)))


@settings(max_examples=20, deadline=None)
@given(some.integers(0, 2**31), some.integers(0, 12))
def test_a_feathered_edge_is_full_on_the_mask_and_gone_beyond_its_width(seed: int, steps: int) -> None:
    mask = random_mask(seed, 2, 12, 16, share=0.03)
    level = feathered(mask, steps)
    assert level.dtype == torch.uint8 and (level[mask] == 255).all()
    assert torch.equal(level > 0, grown(mask, steps))


def test_a_feathered_edge_falls_step_by_step() -> None:
    mask = torch.zeros(1, 1, 12, dtype=torch.bool)
    mask[..., 0] = True
    assert feathered(mask, 8)[0, 0].tolist() == [255, 204, 204, 153, 153, 102, 102, 51, 51, 0, 0, 0]


def regions_by_flooding(mask: torch.Tensor) -> list[list[tuple[int, int]]]:
    """The pixels of each region of one frame [H W], squares of CELL x CELL as neighbours."""
    squares: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in mask.nonzero().tolist():
        squares.setdefault((y // CELL, x // CELL), []).append((y, x))
    regions = []
    while squares:
        waiting, region = [next(iter(squares))], []
        while waiting:
            row, column = waiting.pop()
            if (row, column) in squares:
                region += squares.pop((row, column))
                waiting += [(row + a, column + b) for a, b in product((-1, 0, 1), repeat=2)]
        regions.append(region)
    return regions


@settings(max_examples=40, deadline=None)
@given(some.integers(0, 2**31), some.integers(0, 20), some.floats(0.002, 0.2))
def test_only_regions_below_the_least_area_go(seed: int, min_pixels: int, share: float) -> None:
    mask = random_mask(seed, 3, 32, 48, share=share)
    kept = torch.zeros_like(mask)
    for frame in range(3):
        for region in regions_by_flooding(mask[frame]):
            if len(region) >= min_pixels:
                for y, x in region:
                    kept[frame, y, x] = True
    assert torch.equal(without_small(mask, min_pixels), kept)


def test_a_region_does_not_reach_around_the_border_nor_into_the_next_frame() -> None:
    mask = torch.zeros(2, 8, 20, dtype=torch.bool)
    mask[0, 3, 19] = mask[0, 4, 0] = mask[0, 7, 9] = mask[1, 0, 9] = True
    assert not without_small(mask, 2).any()
    assert torch.equal(without_small(mask, 1), mask)


def test_what_cannot_be_shaped_is_refused() -> None:
    mask = torch.zeros(1, 8, 10, dtype=torch.bool)
    with pytest.raises(ValueError, match="grow by -1"):
        grown(mask, -1)
    with pytest.raises(ValueError, match="it is bool and"):
        held(mask.float(), 1)
    with pytest.raises(ValueError, match="10x8; regions are counted on squares of 4"):
        without_small(mask, 5)
