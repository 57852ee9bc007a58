"""Floors of the masks on a procedural plaza with exact movers and sky, at half the size of the benchmark."""

from __future__ import annotations

import pytest

from benchmarks.mask_quality import Segment, filmed, found_by, ghosts, iou, segment_of
from mirage_core.mask_rules import MaskRules


@pytest.fixture(scope="module")
def segment() -> Segment:
    return segment_of(filmed("plaza", 5, (176, 320)))


def test_geometry_at_infinity_is_the_sky(segment: Segment) -> None:
    assert iou(found_by(segment, ["sky_far"]), segment.frames.is_sky) > 0.97


def test_parallax_finds_movers_though_depth_is_noisy_and_of_another_scale(segment: Segment) -> None:
    assert iou(found_by(segment, ["moving_parallax"]), segment.frames.is_mover) > 0.6


def test_a_mask_that_misses_a_frame_is_mended_by_parallax(segment: Segment) -> None:
    movers = segment.frames.is_mover[4]
    mask, both = (found_by(segment, names)[4] for names in (["moving_mask"], ["moving_mask", "moving_parallax"]))
    assert iou(mask, movers) == 0 and iou(both, movers) > 0.5


def test_what_stands_in_front_of_the_memory_is_mostly_a_mover(segment: Segment) -> None:
    found = found_by(segment, ["moving_depth"])
    assert found.any() and (found & segment.frames.is_mover).sum() / found.sum() > 0.25


def test_without_a_mask_movers_become_ghosts_and_with_it_hardly_any(segment: Segment) -> None:
    without, with_mask = ghosts(segment, None)[0], ghosts(segment, MaskRules())[0]
    assert without > 0.02 and with_mask < without / 10


def test_most_of_what_stands_still_is_still_written(segment: Segment) -> None:
    assert ghosts(segment, MaskRules())[1] > 0.4
