"""Metrics: laws first, then figures that one can check by hand."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.metrics import (
    Pair,
    color_drift,
    estimate,
    ghosting,
    hole_rate,
    likeness,
    lpips,
    pose_steps,
    psnr,
    same_pose_pairs,
    ssim,
)
from mirage_core.path_presets import preset

SIZE = (32, 48)


def pictures(seed: int, frames: int = 2) -> torch.Tensor:
    return torch.rand(frames, *SIZE, 3, generator=torch.Generator().manual_seed(seed))


def film(name: str, frames: int, **options) -> Cameras:
    return preset(name, **options).cameras(frames, intrinsics=pinhole_intrinsics(60, SIZE), image_size=SIZE)


def test_equal_pictures_are_infinitely_alike():
    alike = likeness(pictures(0), pictures(0))
    assert math.isinf(alike.psnr) and alike.ssim == pytest.approx(1, abs=1e-4)


def test_psnr_and_ssim_do_not_depend_on_which_is_the_truth():
    first, second = pictures(0), pictures(1)
    assert psnr(first, second) == pytest.approx(psnr(second, first))
    assert ssim(first, second) == pytest.approx(ssim(second, first), abs=1e-5)


def test_more_noise_is_never_more_alike():
    truth, noise = pictures(0) * 0.5 + 0.25, torch.randn(2, *SIZE, 3, generator=torch.Generator().manual_seed(2))
    found = [likeness(truth + level * noise, truth) for level in (0.01, 0.05, 0.2)]
    assert [one.psnr for one in found] == sorted((one.psnr for one in found), reverse=True)
    assert [one.ssim for one in found] == sorted((one.ssim for one in found), reverse=True)


def test_a_tenth_off_everywhere_is_20_decibels():
    assert psnr(torch.full((1, *SIZE, 3), 0.6), torch.full((1, *SIZE, 3), 0.5)) == pytest.approx(20, abs=1e-4)


def test_covered_and_uncovered_errors_add_up_to_the_whole():
    made, truth = pictures(0), pictures(1)
    where = torch.zeros(2, *SIZE, dtype=torch.bool)
    where[:, :, :12] = True
    errors = [10 ** (-psnr(made, truth, one) / 10) for one in (where, ~where)]
    whole = 10 ** (-psnr(made, truth) / 10)
    assert 0.25 * errors[0] + 0.75 * errors[1] == pytest.approx(whole)


def test_only_the_given_pixels_count():
    made, truth = pictures(0), pictures(0)
    made[:, :, 24:] = 0
    where = torch.zeros(2, *SIZE, dtype=torch.bool)
    where[:, :, :8] = True
    alike = likeness(made, truth, where)
    assert math.isinf(alike.psnr) and alike.ssim == pytest.approx(1, abs=1e-4)
    assert alike.share == pytest.approx(1 / 6)


def test_no_pixel_gives_no_figure():
    nowhere = torch.zeros(2, *SIZE, dtype=torch.bool)
    alike = likeness(pictures(0), pictures(1), nowhere)
    assert math.isnan(alike.psnr) and math.isnan(alike.ssim) and alike.share == 0


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
def test_without_the_package_there_is_no_lpips():
    assert lpips(pictures(0), pictures(1)) is None


def test_pictures_of_different_size_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(pictures(0), pictures(0)[:, :16])
    with pytest.raises(ValueError, match="what counts"):
        psnr(pictures(0), pictures(0), torch.ones(2, 4, 4, dtype=torch.bool))


def test_pictures_too_small_for_a_window_are_refused():
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 3))


def test_five_degrees_are_one_step_and_a_twentieth_of_the_depth_is_one():
    turned = pose_steps(film("pan_left", 2, amount=5))
    shifted = pose_steps(film("dolly_in", 2, amount=0.05))
    assert turned[0, 1] == pytest.approx(1, abs=1e-6) and shifted[0, 1] == pytest.approx(1, abs=1e-6)


def test_steps_are_the_same_when_the_whole_world_is_moved():
    cameras = film("orbit_left", 9)
    motion = film("pan_left", 2, amount=70).cam2world[1].clone()
    motion[:3, 3] = torch.tensor([3.0, -2.0, 8.0])
    # acos near 1 turns the rounding of a rotation (1e-16) into 1e-8 radians.
    assert torch.allclose(pose_steps(cameras), pose_steps(cameras.moved(motion)), atol=1e-6)


def test_out_and_back_pairs_every_frame_with_its_mirror():
    cameras = film("out_and_back", 97, move="pan_left", amount=40, easing="linear")
    pairs = same_pose_pairs(cameras, min_gap=65)
    assert pairs == [Pair(96 - again, again) for again in range(81, 97)]


def test_a_path_that_never_returns_has_no_pairs():
    assert same_pose_pairs(film("dolly_in", 97)) == []


def test_a_camera_that_rests_has_not_been_away():
    assert same_pose_pairs(film("static", 97)) == []


def test_a_whole_turn_comes_back():
    pairs = same_pose_pairs(film("look_around", 129, easing="linear"), min_gap=64)
    assert pairs == [Pair(0, 128)]


def test_hole_rate_is_the_share_of_the_unknown():
    is_covered = torch.ones(2, 4, 4, dtype=torch.bool)
    is_covered[:, 0] = False
    assert hole_rate(is_covered) == pytest.approx(0.25)


def test_a_whole_ghost_is_one_half_a_ghost_a_quarter_and_none_nothing():
    truth = torch.full((1, *SIZE, 3), 0.5)
    color, where = torch.tensor([1.0, 0.0, 0.0]), torch.ones(1, *SIZE, dtype=torch.bool)
    for share, energy in ((1.0, 1.0), (0.5, 0.25), (0.0, 0.0)):
        made = truth + share * (color - truth)
        assert ghosting(made, truth, color, where) == pytest.approx(energy)
        assert ghosting(made, truth, color.expand_as(truth), where) == pytest.approx(energy)


def test_errors_away_from_the_movers_colour_are_no_ghost():
    truth = torch.full((1, *SIZE, 3), 0.5)
    where = torch.ones(1, *SIZE, dtype=torch.bool)
    assert ghosting(truth - 0.3, truth, torch.tensor([1.0, 1.0, 1.0]), where) == 0
    assert math.isnan(ghosting(truth, truth, torch.ones(3), torch.zeros_like(where)))


def test_a_film_without_drift_has_none_and_a_tint_shows_in_its_segment_only():
    truth = torch.full((6, *SIZE, 3), 0.5)
    tinted = truth.clone()
    tinted[4:] += torch.tensor([0.1, 0.0, 0.0])
    drift = color_drift(tinted, truth, [range(0, 2), range(2, 4), range(4, 6)])
    assert drift[:2] == [0, 0] and 5 < drift[2] < 20


def test_the_interval_of_three_values_is_students():
    found = estimate([1.0, 2.0, 3.0, math.nan])
    assert found.mean == 2 and found.count == 3
    assert found.half_width == pytest.approx(4.30 / 3**0.5, abs=0.01)
    assert str(found) == "2.00 ± 2.48"


def test_one_value_has_no_interval():
    assert math.isnan(estimate([1.0]).half_width) and math.isnan(estimate([]).mean)
