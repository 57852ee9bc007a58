"""Rules: every slider does what it says, one frame is derived as the whole is, and wrong tuning gets one sentence."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from mirage_core.evidence import SOURCES, Evidence
from mirage_core.latent_grid import WAN22
from mirage_core.mask_rules import (
    LIMITS,
    PRESETS,
    MaskRules,
    derived_cells,
    derived_mask,
    described,
    static_mask,
)
from mirage_core.masks import latent_frame_mask, latent_mask

SIZE = (48, 64)
PLAIN = {"grow": 0, "hold": 0, "min_area": 0}


def evidence_of(**scores: torch.Tensor) -> Evidence:
    return Evidence(5, SIZE, scores)


def smooth_score(seed: int, frames: int = 5) -> torch.Tensor:
    coarse = torch.rand(frames, 1, 6, 8, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")[:, 0] * 255).byte()


def square(level: int = 255, frames: int = 5, *, at: int = 16, side: int = 8, only: int | None = None) -> torch.Tensor:
    score = torch.zeros(frames, *SIZE, dtype=torch.uint8)
    score[slice(None) if only is None else only, at : at + side, at : at + side] = level
    return score


rules_within_limits = some.builds(
    MaskRules,
    sky_threshold=some.floats(0.02, 1),
    moving_threshold=some.floats(0.02, 1),
    unsure_threshold=some.floats(0.02, 1),
    grow=some.integers(0, 12),
    feather=some.integers(0, 12),
    hold=some.integers(0, 6),
    min_area=some.floats(0, 5),
    priority=some.sampled_from(["keep first", "painted movers first", "all movers first"]),
    weights=some.dictionaries(some.sampled_from(list(SOURCES)), some.floats(0, 2)),
)


@settings(max_examples=60, deadline=None)
@given(rules_within_limits, some.integers(0, 4), some.integers(1, 3))
def test_some_frames_are_derived_as_they_are_within_the_whole(rules: MaskRules, start: int, count: int) -> None:
    evidence = evidence_of(**{name: smooth_score(seed) for seed, name in enumerate(SOURCES)})
    derive = partial(derived_mask, evidence, rules, painted=smooth_score(20), kept=smooth_score(21))
    part = range(start, min(5, start + count))
    whole, some_frames = derive(), derive(frames=part)
    for name in vars(whole):
        assert torch.equal(getattr(whole, name)[part.start : part.stop], getattr(some_frames, name)), name


@settings(max_examples=60, deadline=None)
@given(rules_within_limits)
def test_rules_survive_json(rules: MaskRules) -> None:
    assert MaskRules.of(json.loads(json.dumps(rules.to_json()))) == rules


@settings(max_examples=30, deadline=None)
@given(some.floats(0.02, 1), some.floats(0.02, 1), some.integers(0, 10))
def test_a_lower_threshold_and_more_growth_never_keep_more(one: float, other: float, grow: int) -> None:
    evidence = evidence_of(moving_parallax=smooth_score(1))
    strict, lax = (
        derived_mask(evidence, MaskRules(moving_threshold=limit, grow=by, min_area=0)).is_moving
        for limit, by in ((min(one, other), grow + 1), (max(one, other), grow))
    )
    assert not (lax & ~strict).any()


def test_a_pixel_counts_from_the_threshold_on_and_weights_scale_its_score() -> None:
    evidence = evidence_of(sky_model=square(128), sky_far=square(100, at=30))
    assert derived_mask(evidence, MaskRules.of(PLAIN | {"sky_threshold": 0.5})).is_sky.sum() == 5 * 64
    assert derived_mask(evidence, MaskRules.of(PLAIN | {"sky_threshold": 0.51})).is_sky.sum() == 0
    both = MaskRules.of(PLAIN | {"weights": {"sky_far": 1.4}})
    assert derived_mask(evidence, both).is_sky.sum() == 2 * 5 * 64
    assert derived_mask(evidence, MaskRules.of(PLAIN | {"weights": {"sky_model": 0}})).is_sky.sum() == 0


def test_what_moves_is_held_before_and_after() -> None:
    evidence = evidence_of(moving_mask=square(only=2))
    moving = derived_mask(evidence, MaskRules.of(PLAIN | {"hold": 1})).is_moving
    assert moving.flatten(1).any(1).tolist() == [False, True, True, True, False]


def test_held_frames_are_those_of_the_film_also_where_only_every_fourth_is_looked_at() -> None:
    evidence = Evidence(5, SIZE, {"moving_mask": square(only=2)}, stride=4)
    for hold, moving in ((1, [2]), (4, [1, 2, 3]), (8, [0, 1, 2, 3, 4])):
        found = derived_mask(evidence, MaskRules.of(PLAIN | {"hold": hold})).is_moving
        assert found.flatten(1).any(1).nonzero()[:, 0].tolist() == moving


def test_small_movers_go_but_small_pieces_of_sky_stay() -> None:
    evidence = evidence_of(moving_parallax=square(), sky_model=square(at=36))
    share = 100 * 64 / (48 * 64)
    rules = MaskRules.of(PLAIN | {"min_area": share + 0.1})
    mask = derived_mask(evidence, rules)
    assert not mask.is_moving.any() and mask.is_sky.any()
    assert derived_mask(evidence, MaskRules.of(PLAIN | {"min_area": share - 0.1})).is_moving.any()


@pytest.mark.parametrize(
    ("priority", "written"), [("keep first", 64 * 3), ("painted movers first", 64 * 2), ("all movers first", 64)]
)
def test_the_priority_decides_between_keeping_and_leaving_out(priority: str, written: int) -> None:
    painted, found, sky = square(at=0), square(at=16), square(at=32)
    kept = painted | found | sky
    evidence = evidence_of(moving_parallax=found, sky_model=sky)
    mask = derived_mask(evidence, MaskRules.of(PLAIN | {"priority": priority}), painted=painted, kept=kept)
    assert (mask.excluded[0] == 0).sum() == 48 * 64 - 64 * 3 + written


def test_a_painted_mover_is_taken_at_its_word() -> None:
    rules = MaskRules.of(PLAIN | {"moving_threshold": 1.0, "min_area": 5.0})
    mask = derived_mask(evidence_of(), rules, painted=square(side=1))
    assert mask.is_moving.sum() == 5


def test_nothing_is_feathered_into_what_is_kept() -> None:
    kept = 255 - square(at=8, side=8)
    rules = MaskRules.of(PLAIN | {"feather": 8})
    mask = derived_mask(evidence_of(moving_mask=square(at=8, side=8)), rules, kept=kept)
    assert (mask.excluded > 0).sum() == 5 * 64


def test_shares_tell_what_is_written_and_why_not() -> None:
    evidence = evidence_of(moving_mask=square(), sky_model=square(at=30))
    shares = derived_mask(evidence, MaskRules.of(PLAIN)).shares
    part = 64 / (48 * 64)
    assert shares == pytest.approx({"written": 1 - 2 * part, "sky": part, "moving": part, "unsure": 0})


@settings(max_examples=20, deadline=None)
@given(rules_within_limits)
def test_the_cells_are_those_that_the_memory_makes_of_the_static_mask(rules: MaskRules) -> None:
    evidence = evidence_of(**{name: smooth_score(seed) for seed, name in enumerate(SOURCES)})
    mask = derived_mask(evidence, rules)
    cells = derived_cells(mask, (3, 4))
    written = latent_mask(latent_frame_mask(1 - static_mask(mask, SIZE), WAN22), (3, 4))
    assert torch.equal(cells.is_static, written) and cells.is_static.shape == (2, 3, 4)


def test_frames_of_latent_frames_are_not_packed_again() -> None:
    mask = derived_mask(evidence_of(moving_mask=square(at=0, side=16)), MaskRules.of(PLAIN))
    cells = derived_cells(mask, (3, 4), stride=4)
    assert cells.is_static.shape == (5, 3, 4)
    # One cell is left out, and those around it by the VAE's reach.
    assert (~cells.is_static).sum() == (cells.is_moving).sum() == 5 * 4 and not cells.is_sky.any()


def test_the_static_mask_has_the_size_of_the_frames() -> None:
    mask = derived_mask(evidence_of(moving_mask=square()), MaskRules.of(PLAIN))
    for size in ((48, 64), (96, 128), (70, 100)):
        static = static_mask(mask, size)
        assert static.shape == (5, *size) and 0 <= static.min() and static.max() <= 1
        assert float(static.mean()) == pytest.approx(1 - 64 / (48 * 64), abs=1e-3)


def test_every_preset_and_default_is_told_to_the_page_as_json() -> None:
    told = json.loads(json.dumps(described()))
    assert set(told["presets"]) == set(PRESETS) and set(told["limits"]) == set(LIMITS)
    for value in told["presets"].values():
        assert MaskRules.of(value).to_json() == value


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], r"The tuning is '\[\]'; it is an object"),
        ({"glow": 3}, "The tuning has 'glow'; it knows sky_threshold"),
        ({"grow": 3.5}, "grow is 3.5; it is a whole number"),
        ({"grow": True}, "grow is 'True'; it is a number"),
        ({"grow": -1}, "grow is -1; it lies between 0 and 64"),
        ({"hold": float("nan")}, "hold is 'nan'; it is a number"),
        ({"grow": 10**400}, "grow is 10{79}; it lies between 0 and 64"),
        ({"hold": float("inf")}, "hold is inf; it lies between"),
        ({"sky_threshold": 0}, "sky_threshold is 0; it lies between 0.02 and 1.0"),
        ({"priority": "me"}, "priority is 'me'; it is one of keep first"),
        ({"weights": []}, "they are numbers by source"),
        ({"weights": {"clouds": 1}}, "no source 'clouds'"),
        ({"weights": {"sky_far": 3}}, "The weight of sky_far is 3; it lies between 0 and 2.0"),
    ],
)
def test_wrong_tuning_gets_one_sentence(value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MaskRules.of(value)
