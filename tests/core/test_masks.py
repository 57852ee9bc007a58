"""Masks: cells count by their area, whatever the sizes; then each score; then everything that is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from mirage_core.latent_grid import WAN22
from mirage_core.masks import (
    area_resampled,
    grown,
    is_depth_edge,
    is_least_sure,
    is_sky,
    is_unsure,
    latent_frame_mask,
    latent_mask,
    union,
)

SIZE = (4, 6)
nan, inf = math.nan, math.inf


def one_excluded_pixel(row: int, column: int) -> torch.Tensor:
    is_excluded = torch.zeros(1, 64, 96, dtype=torch.bool)
    is_excluded[0, row, column] = True
    return is_excluded


sides = some.integers(1, 40)


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides, some.integers(0, 2**31))
def test_the_mean_of_a_mask_is_the_same_at_every_size(h: int, w: int, rows: int, columns: int, seed: int) -> None:
    mask = torch.rand(2, h, w, generator=torch.Generator().manual_seed(seed))
    resampled = area_resampled(mask, (rows, columns))
    assert resampled.shape == (2, rows, columns)
    torch.testing.assert_close(resampled.mean((1, 2)), mask.mean((1, 2)), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides)
def test_an_empty_mask_keeps_and_a_full_mask_excludes_every_cell_at_any_size(h: int, w: int, rows: int, columns: int):
    assert latent_mask(torch.zeros(1, h, w), (rows, columns), max_share=0).all()
    assert not latent_mask(torch.ones(1, h, w), (rows, columns), max_share=0.99).any()


def test_resampling_a_mask_twice_is_resampling_it_once_when_the_sizes_divide() -> None:
    mask = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(area_resampled(area_resampled(mask, (16, 24)), SIZE), area_resampled(mask, SIZE))


@settings(max_examples=20, deadline=None)
@given(some.integers(0, 63), some.integers(0, 95))
def test_no_excluded_pixel_is_overlooked_wherever_it_lies_in_its_cell(row: int, column: int) -> None:
    # The release samples the upper left pixel of each cell (method.md part 2, 12.4) and would see 1 of 256 of these.
    is_static = latent_mask(one_excluded_pixel(row, column), SIZE, max_share=0, grow_cells=0)
    assert (~is_static).nonzero().tolist() == [[0, row // 16, column // 16]]


def test_a_cell_is_excluded_when_more_than_max_share_of_its_area_is() -> None:
    is_excluded = torch.zeros(1, 64, 96)
    is_excluded[0, :16, :4] = 1  # a quarter of the first cell
    assert latent_mask(is_excluded, SIZE, max_share=0.25, grow_cells=0).all()
    assert not latent_mask(is_excluded, SIZE, max_share=0.24, grow_cells=0)[0, 0, 0]


def test_a_boundary_inside_a_pixel_is_shared_by_area() -> None:
    mask = torch.tensor([[[0.0, 1, 0]]])
    assert area_resampled(mask, (1, 2))[0, 0].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_an_excluded_cell_takes_its_neighbours_along_as_far_as_the_vae_reaches() -> None:
    is_excluded = torch.zeros(1, 80, 80, dtype=torch.bool)
    is_excluded[0, 32:48, 32:48] = True
    is_static = latent_mask(is_excluded, (5, 5), grow_cells=1)[0]
    assert (~is_static).nonzero().tolist() == [[row, column] for row in (1, 2, 3) for column in (1, 2, 3)]


def test_masks_grow_by_pixels_in_both_directions_and_not_over_the_frames() -> None:
    mask = torch.zeros(2, 7, 7, dtype=torch.bool)
    mask[0, 3, 0] = True
    reached = grown(mask, 2)
    assert reached[0].nonzero().tolist() == [[row, column] for row in range(1, 6) for column in range(3)]
    assert not reached[1].any()
    assert torch.equal(grown(mask, 0), mask)


def test_unknown_mask_values_are_excluded() -> None:
    mask = torch.zeros(1, 64, 96)
    mask[0, :16, :16] = nan
    assert not latent_mask(mask, SIZE, grow_cells=0)[0, 0, 0]


def test_masks_that_each_touch_a_cell_a_little_exclude_it_together() -> None:
    sky, person = torch.zeros(1, 64, 96), torch.zeros(3, 32, 48)
    sky[:, :16, :2] = 1
    person[1:, :8, 6:8] = 1
    together = union([sky, person], (64, 96))
    assert together.shape == (3, 64, 96)
    is_static = latent_mask(together, SIZE, max_share=0.2, grow_cells=0)[:, 0, 0]
    assert is_static.tolist() == [True, False, False]
    assert latent_mask(sky, SIZE, max_share=0.2, grow_cells=0).all()


@pytest.mark.parametrize("frame", range(9))
def test_a_latent_frame_is_excluded_where_any_of_its_pixel_frames_is(frame: int) -> None:
    is_excluded = torch.zeros(9, 2, 2, dtype=torch.bool)
    is_excluded[frame, 0, 1] = True
    by_latent_frame = latent_frame_mask(is_excluded, WAN22)
    assert by_latent_frame.dtype == torch.bool
    assert by_latent_frame.nonzero().tolist() == [[(frame + 3) // 4, 0, 1]]


def test_soft_masks_keep_their_largest_value_over_time() -> None:
    soft = torch.tensor([0.1, 0.2, 0.9, 0.3, 0.0])[:, None, None]
    assert latent_frame_mask(soft, WAN22)[:, 0, 0].tolist() == pytest.approx([0.1, 0.9])


def test_sky_is_what_is_probable_enough_or_unknown() -> None:
    assert is_sky(torch.tensor([[[0.49, 0.5, 0.9, nan]]])).tolist() == [[[False, True, True, True]]]
    assert is_sky(torch.tensor([[[0.49, 0.5]]]), threshold=0.2).all()


def test_unsure_is_below_the_threshold_or_unknown() -> None:
    assert is_unsure(torch.tensor([[[1.0, 1.5, nan]]]), threshold=1.5).tolist() == [[[True, False, True]]]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_least_sure_share_does_not_depend_on_the_units_of_confidence(scale: float) -> None:
    confidence = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(1)) * scale
    assert is_least_sure(confidence, share=0.2).flatten(1).sum(1).tolist() == [20, 20]


def test_a_constant_confidence_excludes_nothing_and_an_unknown_one_everything() -> None:
    assert not is_least_sure(torch.ones(1, 4, 4), share=0.9).any()
    assert is_least_sure(torch.full((1, 4, 4), nan), share=0.1).all()
    assert not is_least_sure(torch.rand(1, 4, 4), share=0).any()


def test_both_sides_of_a_depth_step_are_its_edge_and_a_slope_is_none() -> None:
    depth = torch.tensor([[[2.0, 2.1, 2.2, 4.0, 4.1]]]).repeat(1, 3, 1)
    assert is_depth_edge(depth)[0, 1].tolist() == [False, False, True, True, False]
    assert is_depth_edge(depth.mT)[0, :, 1].tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("unknown", [0.0, -1.0, nan, inf])
def test_the_border_of_unknown_depth_is_no_edge(unknown: float) -> None:
    assert not is_depth_edge(torch.tensor([[[2.0, unknown, 2.0, 2.0]]])).any()


def test_a_step_is_measured_against_the_nearer_depth() -> None:
    assert is_depth_edge(torch.tensor([[[1.0, 1.11]]])).all()
    assert not is_depth_edge(torch.tensor([[[1.0, 1.09]]])).any()
    assert not is_depth_edge(torch.tensor([[[1.0, 1.11]]]), min_step=0.2).any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: latent_mask(torch.zeros(4, 4), SIZE), r"masks are \[frames H W\]"),
        (lambda: latent_mask(torch.zeros(0, 4, 4), SIZE), "not empty"),
        (lambda: latent_mask(torch.full((1, 4, 4), 2.0), SIZE), "between 0"),
        (lambda: latent_mask(torch.full((1, 4, 4), -0.1), SIZE), "between 0"),
        (lambda: latent_mask(torch.full((1, 4, 4), 7, dtype=torch.uint8), SIZE), "between 0"),
        (lambda: latent_mask(torch.zeros(1, 4, 4), SIZE, max_share=1.0), "share of a cell's area"),
        (lambda: latent_mask(torch.zeros(1, 4, 4), SIZE, max_share=nan), "share of a cell's area"),
        (lambda: latent_mask(torch.zeros(1, 4, 4), SIZE, grow_cells=-1), "cannot grow by -1"),
        (lambda: area_resampled(torch.zeros(1, 4, 4), (0, 4)), "at least 1"),
        (lambda: union([], (4, 4)), "at least one"),
        (lambda: union([torch.zeros(4, 4)], (4, 4)), r"\[frames H W\]"),
        (lambda: union([torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)], (4, 4)), "Give 1 or 3 frames"),
        (lambda: latent_frame_mask(torch.zeros(4, 2, 2), WAN22), "Use 1 or 5"),
        (lambda: is_least_sure(torch.zeros(1, 4, 4), share=1.0), "share of the pixels"),
        (lambda: is_depth_edge(torch.ones(1, 4, 4), min_step=0), "above 0"),
    ],
)
def test_what_is_no_mask_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
