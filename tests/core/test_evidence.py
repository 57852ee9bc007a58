"""Evidence: each score is 1/2 where it says it is, says nothing of what it does not know, and fits the frames."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from mirage_core.evidence import (
    FAR,
    INFINITE,
    Evidence,
    doubt_score,
    edge_score,
    far_score,
    in_front_score,
    levels,
    mask_score,
    per_frame,
    thin_score,
    unlike_score,
    working_size,
)
from mirage_core.mask_shapes import CELL

nan, inf = math.nan, math.inf


@given(some.integers(16, 4096), some.integers(16, 4096))
def test_the_working_size_is_bounded_whole_squares_and_keeps_the_shape(height: int, width: int) -> None:
    rows, columns = working_size((height, width))
    assert rows % CELL == columns % CELL == 0 and min(rows, columns) >= CELL and max(rows, columns) <= 640
    assert abs(rows / columns - height / width) <= CELL / columns * (1 + height / width)


def test_the_working_size_of_a_film_is_half_of_it() -> None:
    assert working_size((704, 1280)) == (352, 640)
    assert working_size((64, 96)) == (64, 96)


def test_levels_are_bytes_and_the_unknown_is_certain() -> None:
    assert levels(torch.tensor([0.0, 0.5, 1.0, 7.0, -1.0, nan])).tolist() == [0, 128, 255, 255, 0, 255]


def test_infinite_depth_is_sky_and_unknown_depth_is_not() -> None:
    depth = torch.tensor([1.0, 2, 3, inf, nan, 0, 2 * FAR, 2 * INFINITE, 2 * (FAR * INFINITE) ** 0.5]).view(1, 1, 9)
    depth = torch.cat([depth, torch.full((1, 1, 20), 2.0)], dim=2)
    score = far_score(depth)[0, 0]
    assert score[:3].eq(0).all() and score[3] == 1 and score[4:6].eq(0).all()
    assert score[6] == pytest.approx(0, abs=1e-5) and score[7] == 1 and score[8] == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(some.integers(0, 2**31), some.floats(1e-3, 1e3))
def test_doubt_is_the_same_in_any_unit_and_half_for_the_worst_tenth(seed: int, unit: float) -> None:
    confidence = torch.rand(2, 50, 60, generator=torch.Generator().manual_seed(seed))
    score = doubt_score(confidence * unit)
    assert (score >= 0.5).float().mean((1, 2)).sub(0.1).abs().max() < 0.005
    assert torch.equal(score, doubt_score(confidence))


def test_a_constant_confidence_says_nothing_and_nan_is_doubted() -> None:
    confidence = torch.ones(1, 4, 4)
    assert (doubt_score(confidence) == 0).all()
    confidence[0, 1, 2] = nan
    assert doubt_score(confidence)[0, 1, 2] == 1


def test_a_step_of_a_tenth_is_as_likely_two_surfaces_as_one() -> None:
    depth = torch.ones(1, 4, 6)
    depth[..., 3:] = 1.1
    score = edge_score(depth)[0]
    assert torch.allclose(score[:, 2:4], torch.tensor(0.5), atol=1e-5)
    assert (score[:, [0, 1, 4, 5]] == 0).all()
    depth[..., 3:] = 0.0
    assert (edge_score(depth) == 0).all()


def test_only_the_narrow_is_thin() -> None:
    depth = torch.full((1, 30, 40), 2.0)
    depth[:, :, 5:7] = 1.0
    depth[:, :, 20:30] = 1.0
    score = thin_score(depth, width=4)[0]
    assert (score[:, 5:7] > 0.9).all()
    assert (score[:, :5] == 0).all() and (score[:, 8:] == 0).all()


def test_a_slanted_floor_is_not_thin() -> None:
    inverse = torch.linspace(0.1, 1.0, 40)[:, None].expand(40, 30)
    assert thin_score((1 / inverse)[None], width=4).max() < 1e-4


def test_only_what_stands_in_front_of_the_known_speaks_of_a_mover() -> None:
    known = torch.full((1, 1, 4), 2.2)
    depth = torch.tensor([[[2.0, 2.2, 3.0, 2.0]]])
    score = in_front_score(depth, known, torch.tensor([[[True, True, True, False]]]))
    assert score[0, 0].tolist() == pytest.approx([0.5, 0, 0, 0], abs=1e-5)


def test_only_what_differs_more_than_usual_is_unlike_the_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(48, 1, 6, 8, generator=generator)
    latents = known + 0.3 * torch.randn(48, 1, 6, 8, generator=generator)
    latents[:, 0, 2, 3] += 3
    is_known = torch.ones(1, 6, 8, dtype=torch.bool)
    is_known[0, 0] = False
    score = unlike_score(latents, known, is_known)[0]
    assert score[2, 3] > 0.8 and (score[0] == 0).all()
    score[2, 3] = 0
    assert score.max() < 0.2


@pytest.mark.parametrize(
    ("count", "frames", "first"),
    [(5, 5, [0, 1, 2, 3, 4]), (1, 5, [0] * 5), (2, 5, [0, 0, 1, 1, 1]), (17, 5, [0, 4, 8, 12, 16])],
)
def test_maps_are_spread_over_the_frames(count: int, frames: int, first: list[int]) -> None:
    assert per_frame(torch.arange(count), frames, name="sky_mask").tolist() == first


def test_an_empty_mask_of_any_size_says_nothing() -> None:
    assert (mask_score(torch.zeros(1, 64, 64), 5, (32, 48), name="moving") == 0).all()


def test_masks_that_do_not_fit_are_refused() -> None:
    mask = torch.full((3, 32, 48), 0.1)
    with pytest.raises(ValueError, match=r"sky_mask has 3 frames for 5 pictures\. Give 5, 1 for all, or 2"):
        mask_score(mask, 5, (32, 48), name="sky_mask")
    with pytest.raises(ValueError, match="sky_mask is 48x32 and the frames 32x32: not the same crop"):
        mask_score(mask, 3, (32, 32), name="sky_mask")
    with pytest.raises(ValueError, match="not empty"):
        mask_score(mask[:0], 3, (32, 48), name="sky_mask")
    with pytest.raises(ValueError, match="they lie between 0"):
        mask_score(mask + 2, 3, (32, 48), name="sky_mask")
    mask[0, 0, 0] = nan
    assert mask_score(mask, 3, (32, 48), name="sky_mask")[0, 0, 0] == 255


def test_what_is_remembered_one_cell_beside_is_neither_in_front_nor_unlike() -> None:
    known_latents = torch.randn(48, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    known = torch.full((1, 6, 8), 4.0)
    known[..., 4:] = 2.0
    is_known = torch.ones(1, 6, 8, dtype=torch.bool)
    assert (in_front_score(known.roll(-1, 2), known, is_known)[..., :-1] == 0).all()
    assert (unlike_score(known_latents.roll(1, 2), known_latents, is_known)[:, 1:] == 0).all()


def test_evidence_tells_what_it_found_and_what_it_lacks() -> None:
    score = torch.zeros(2, 32, 48, dtype=torch.uint8)
    score[:, :8] = 200
    evidence = Evidence(2, (32, 48), {"sky_model": score}, ("parallax: no memory is connected",))
    assert evidence.report() == "sky of the depth model: sky in 25.0% of the picture\nparallax: no memory is connected"
    assert evidence.bytes == 2 * 32 * 48
    with pytest.raises(ValueError, match="no source 'clouds'"):
        Evidence(2, (32, 48), {"clouds": score})
    with pytest.raises(ValueError, match=r"sky_model is torch.float32 \[2, 32, 48\]"):
        Evidence(2, (32, 48), {"sky_model": score.float()})
