"""Preflight against scenes whose answers are known."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.path_presets import preset
from mirage_core.preflight import (
    KNOWN_SHARE,
    ModelSize,
    Preflight,
    TrainedRange,
    preflight,
    sampling_cost,
)
from mirage_core.rgb_memory import PIXELS, lift_pixels, pixel_depth
from mirage_core.segments import plan_segments
from mirage_core.zbuffer import project
from tests.core.scenes import Rectangle, furnished_room, ray_cast, wall

IMAGE_SIZE, SIZE = (176, 320), (11, 20)
INTRINSICS = pinhole_intrinsics(60.0, IMAGE_SIZE)


def cameras_of(name: str, amount: float, frames: int, *, unit_length: float = 1.0, easing="linear") -> Cameras:
    path = preset(name, amount=amount, easing=easing)
    return path.cameras(frames, intrinsics=INTRINSICS, image_size=IMAGE_SIZE, unit_length=unit_length)


def remembered(scene: list[Rectangle]) -> LatentMemory:
    """What a camera at the origin remembers of a scene."""
    first = cameras_of("static", 0, 1)
    depth = ray_cast(scene, first, SIZE).depth
    return LatentMemory(WAN22).extended(lift(torch.randn(48, 1, *SIZE), depth, first, WAN22))


def checked(scene: list[Rectangle], cameras: Cameras, *, unit_length: float = 1.0, **options) -> Preflight:
    return preflight(remembered(scene), cameras, SIZE, unit_length=unit_length, **options)


def test_a_camera_that_stands_still_is_green_and_nothing_is_suggested():
    report = checked([wall(4.0)], cameras_of("static", 0, 33), unit_length=4.0)
    assert (report.level, report.suggestion) == ("green", "")
    assert set(report.known) == {1.0} and set(report.speed) == {0.0} and not any(report.is_through)


def test_known_is_what_projecting_the_memory_covers():
    cameras = cameras_of("pan_left", 40, 33)
    report = checked(furnished_room(), cameras, unit_length=4.0)
    covered = project(remembered(furnished_room()), cameras[list(range(0, 33, 4))], SIZE).is_covered
    shares = covered.float().mean(dim=(1, 2)).tolist()
    assert [report.known[frame] for frame in range(0, 33, 4)] == shares
    assert [report.known[frame] for frame in range(1, 33, 4)] == shares[1:], (
        "a latent frame holds its last frame's view"
    )


def test_moving_world_and_cameras_together_changes_nothing():
    cameras = cameras_of("orbit_left", 30, 33, unit_length=4.0)
    motion = cameras_of("pan_left", 77, 2).cam2world[1]
    motion[:3, 3] = torch.tensor([1.0, -2.0, 3.0])
    scene = furnished_room()
    first = cameras_of("static", 0, 1)
    depth = ray_cast(scene, first, SIZE).depth
    moved = LatentMemory(WAN22).extended(lift(torch.zeros(48, 1, *SIZE), depth, first.moved(motion), WAN22))
    before = checked(scene, cameras, unit_length=4.0)
    after = preflight(moved, cameras.moved(motion), SIZE, unit_length=4.0)
    for name in ("speed", "turn_degrees", "clearance"):
        assert torch.allclose(torch.tensor(getattr(before, name)), torch.tensor(getattr(after, name)), atol=1e-9)
    assert before.levels == after.levels and before.is_through == after.is_through


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_unit_of_the_depth_changes_nothing(scale: float):
    def report(size: float) -> Preflight:
        cameras = cameras_of("dolly_in", 0.9, 33, unit_length=4 * size)
        return checked([wall(4 * size, half_width=50 * size, half_height=50 * size)], cameras, unit_length=4 * size)

    assert torch.allclose(torch.tensor(report(1.0).clearance), torch.tensor(report(scale).clearance), rtol=1e-9)
    assert report(1.0).levels == report(scale).levels and report(1.0).speed == pytest.approx(report(scale).speed)


def test_speed_and_turn_are_those_of_the_path():
    assert checked([wall(4.0)], cameras_of("truck_left", 0.8, 33)).speed[1:] == pytest.approx([0.8 / 32] * 32)
    assert checked([wall(4.0)], cameras_of("roll", 16, 33)).turn_degrees[1:] == pytest.approx([0.5] * 32)


def test_the_largest_trained_move_is_green_and_a_little_more_is_amber():
    assert set(checked([wall(4.0)], cameras_of("roll", 30, 33)).levels) == {"green"}
    assert set(checked([wall(4.0)], cameras_of("roll", 31, 33)).levels[1:]) == {"amber"}
    assert set(checked([wall(4.0)], cameras_of("roll", 61, 33)).levels[1:]) == {"red"}


@pytest.mark.parametrize("degrees, frames", [(45, 33), (75, 33), (200, 97), (90, 41)])
def test_the_suggested_number_of_segments_makes_the_turn_green(degrees: float, frames: int):
    report = checked([wall(4.0)], cameras_of("roll", degrees, frames))
    longer = int(report.suggestion.split("length ")[1].split(")")[0])
    assert (longer - 1) % 32 == 0
    assert not {"turn", "fast"} & set(checked([wall(4.0)], cameras_of("roll", degrees, longer)).causes)


def test_clearance_falls_to_the_distance_of_the_wall():
    report = checked([wall(4.0)], cameras_of("dolly_in", 0.75, 33, unit_length=4.0), unit_length=4.0)
    assert report.clearance[0] == pytest.approx(1.0) and report.clearance[-1] == pytest.approx(0.25)
    assert not any(report.is_through)


def test_a_camera_through_the_wall_is_red_where_it_crosses():
    report = checked([wall(4.0)], cameras_of("dolly_in", 1.3, 81, unit_length=4.0), unit_length=4.0)
    assert [frame for frame, is_through in enumerate(report.is_through) if is_through] == [62]  # 4.0 of 5.2 in 80 steps
    assert report.levels[62] == "red" and report.causes[62] == "through"
    assert "through a surface" in report.suggestion and "0.75x" in report.suggestion


def test_a_wall_behind_the_camera_is_no_danger():
    cameras = cameras_of("static", 0, 5)
    behind = lift(
        torch.zeros(48, 1, *SIZE),
        torch.full((1, *SIZE), 0.01, dtype=torch.float64),
        cameras[[0]].moved(torch.diag(torch.tensor([-1.0, 1, -1, 1]))),
        WAN22,
    )
    report = preflight(LatentMemory(WAN22).extended(behind), cameras, SIZE, unit_length=1.0)
    assert set(report.clearance) == {math.inf}


def test_what_the_film_has_seen_counts_as_expected_in_later_segments():
    report = checked([wall(4.0)], cameras_of("pan_left", 50, 65), unit_length=4.0)
    assert report.expected[:33] == report.known[:33], "the first segment has nothing but the memory"
    assert report.known[64] < KNOWN_SHARE < report.expected[64]
    assert all(later >= now for later, now in zip(report.expected, report.known, strict=True))


def test_an_empty_memory_knows_nothing_and_is_no_error():
    report = preflight(LatentMemory(WAN22), cameras_of("pan_left", 10, 33), SIZE, unit_length=1.0)
    assert set(report.known) == {0.0} and report.level == "red" and set(report.causes) == {"unknown"}


@pytest.mark.parametrize("frames, advice", [(80, "use 77 or 81"), (34, "use 33 or 37"), (3, "use 1 or 5")])
def test_frames_that_do_not_pack_are_found_and_the_nearest_lengths_named(frames: int, advice: str):
    report = checked([wall(4.0)], cameras_of("static", 0, frames))
    assert report.frames == frames == len(report.levels) and report.level == "red" and advice in report.suggestion


def test_points_and_mib_are_those_of_a_film_that_remembers_every_cell():
    memory, cameras = remembered([wall(4.0)]), cameras_of("static", 0, 65)
    report = preflight(memory, cameras, SIZE, unit_length=1.0)
    assert report.points == 17 * 11 * 20, "the start picture and 8 latent frames in each of 2 segments"
    stored = sum(
        values.numel() * values.element_size() for values in vars(memory.blocks[0]).values() if torch.is_tensor(values)
    )
    assert report.mib == pytest.approx(stored * 17 / 2**20)


def test_the_inputs_are_never_changed():
    memory = remembered([wall(4.0)])
    before = memory.points
    preflight(memory, cameras_of("pan_left", 50, 65), SIZE, unit_length=4.0)
    assert len(memory.blocks) == 1 and torch.equal(memory.points, before)


def test_the_strips_json_is_plain_and_complete():
    strip = json.loads(checked([wall(4.0)], cameras_of("dolly_out", 2.0, 65)).to_json())
    assert strip["segment_starts"] == [0, 32] and len(strip["levels"]) == 65
    assert None in strip["clearance"] and strip["level"] in ("green", "amber", "red")


def test_a_file_may_state_what_it_was_trained_on():
    trained = TrainedRange.stated(turn_degrees=3.0, speed=None)
    assert (trained.turn_degrees, trained.speed) == (3.0, TrainedRange().speed)
    assert checked([wall(4.0)], cameras_of("roll", 90, 33), trained=trained).level == "green"


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_a_trained_range_that_is_no_range_is_refused(speed: float):
    with pytest.raises(ValueError, match="a number per frame above 0"):
        TrainedRange.stated(turn_degrees=None, speed=speed)


def test_a_memory_of_colours_is_checked_through_some_of_its_points():
    first = cameras_of("static", 0, 1)
    depth = pixel_depth(ray_cast([wall(4.0)], first, IMAGE_SIZE).depth, IMAGE_SIZE)
    block = lift_pixels(torch.rand(1, *IMAGE_SIZE, 3), depth, first)
    memory = LatentMemory(PIXELS).extended(block)
    report = preflight(memory, cameras_of("pan_left", 20, 33), SIZE, unit_length=4.0)
    latent = checked([wall(4.0)], cameras_of("pan_left", 20, 33), unit_length=4.0)
    assert report.known == pytest.approx(latent.known, abs=0.08)
    assert report.points == (1 + 8) * 176 * 320


@pytest.mark.parametrize("unit_length", [0.0, -1.0, math.nan])
def test_a_scene_without_a_depth_is_refused(unit_length: float):
    with pytest.raises(ValueError, match="median depth"):
        preflight(LatentMemory(WAN22), cameras_of("static", 0, 5), SIZE, unit_length=unit_length)


def test_the_cost_is_the_formula_by_hand():
    model = ModelSize(parameters=10.0, width=2, ffn_width=3, layers=5, weight_bytes=40.0)
    plan = plan_segments(37, WAN22)  # 9 and 2 latent frames
    cost = sampling_cost(plan, (4, 6), model=model, steps=3, passes_per_step=2, teraflops=1e-12)
    by_hand = sum(20 * n + 40 * n * n for n in (54, 12)) * 6
    assert (
        cost.tokens == 54 and cost.petaflop == pytest.approx(by_hand / 1e15) and cost.seconds == pytest.approx(by_hand)
    )
    assert cost.gib == pytest.approx((40 + 2 * 54 * 17) / 2**30)


def test_references_cost_like_frames_of_the_segment():
    plan = plan_segments(33, WAN22)
    assert sampling_cost(plan, SIZE, extra_latent_frames=6).tokens == 15 * 5 * 10


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"passes_per_step": 0}, {"teraflops": 0.0}])
def test_an_estimate_for_nothing_is_refused(wrong: dict):
    with pytest.raises(ValueError, match="above 0"):
        sampling_cost(plan_segments(33, WAN22), SIZE, **wrong)
