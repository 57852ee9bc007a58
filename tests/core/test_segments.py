"""Laws of the segment plan, then the released plan."""

import itertools

import pytest

from mirage_core.latent_grid import WAN22
from mirage_core.segments import frames_of_segments, plan_segments

LENGTHS = [1, 5, 33, 37, 65, 69, 97, 161, 321]


@pytest.mark.parametrize("frames", LENGTHS)
def test_a_plan_covers_every_frame_once(frames):
    covered = [frame for segment in plan_segments(frames, WAN22) for frame in segment.output]
    assert covered == list(range(frames))


@pytest.mark.parametrize("frames", LENGTHS)
def test_each_segment_starts_on_the_last_latent_of_the_one_before(frames):
    plan = plan_segments(frames, WAN22)
    for before, segment in itertools.pairwise(plan):
        assert segment.target_frames[0] == before.target_frames[-1]
        assert segment.model_frames == len(segment.output) + 1
    assert all(WAN22.latent_frames(segment.model_frames) == segment.latent_frames for segment in plan)


def test_two_full_segments_make_65_frames():
    plan = plan_segments(frames_of_segments(2, WAN22), WAN22)
    assert [segment.output for segment in plan] == [range(33), range(33, 65)]
    assert plan[1].target_frames == (32, 36, 40, 44, 48, 52, 56, 60, 64)


def test_the_plan_is_the_released_one(golden):
    cases, _ = golden("iteration_plan")
    for case in cases["cases"]:
        plan = plan_segments(case["num_frames"], WAN22)
        assert len(plan) == len(case["plan"])
        for segment, expected in zip(plan, case["plan"], strict=True):
            assert segment.output == range(expected["output_start"], expected["output_end"])
            assert segment.model_frames == expected["model_frames"]
            assert segment.latent_frames == expected["num_latents"]
            targets = [case["start_frame"] + frame for frame in segment.target_frames]
            assert targets == expected["target_pose_indices"]


@pytest.mark.parametrize("frames", [0, -3, 2, 80])
def test_frame_counts_the_model_cannot_pack_are_refused(frames):
    with pytest.raises(ValueError, match="4n\\+1"):
        plan_segments(frames, WAN22)


def test_a_segment_that_adds_nothing_is_refused():
    with pytest.raises(ValueError, match="adds nothing"):
        plan_segments(33, WAN22, segment_frames=1)


def test_zero_segments_are_refused():
    with pytest.raises(ValueError, match="at least 1 segment"):
        frames_of_segments(0, WAN22)
