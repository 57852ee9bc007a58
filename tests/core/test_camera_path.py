"""Camera paths: laws that hold for every path, then moves one can check by hand, then everything that is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from mirage_core import camera_path, path_motion
from mirage_core.camera import Cameras, fov_degrees, pinhole_intrinsics
from mirage_core.camera_path import CameraPath, Keyframe
from mirage_core.path_presets import PRESETS, preset

SIZE = (256, 256)
INTRINSICS = pinhole_intrinsics(60, SIZE)
IDENTITY = torch.eye(4, dtype=torch.float64)
IDENTITY_ROWS = tuple(tuple(row) for row in IDENTITY.tolist())
EASINGS = ("linear", "ease", "ease_in", "ease_out")


def filmed(path: CameraPath, frames: int = 33, unit_length: float = 1.0) -> Cameras:
    return path.cameras(frames, intrinsics=INTRINSICS, image_size=SIZE, unit_length=unit_length)


def shifted(x: float, y: float, z: float) -> tuple[tuple[float, ...], ...]:
    cam2world = IDENTITY.clone()
    cam2world[:3, 3] = torch.tensor([x, y, z], dtype=torch.float64)
    return tuple(tuple(row) for row in cam2world.tolist())


def panned(degrees: float) -> tuple[tuple[float, ...], ...]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return ((cosine, 0, sine, 0), (0, 1, 0, 0), (-sine, 0, cosine, 0), (0, 0, 0, 1))


def seen_at(point: tuple[float, float, float], camera: Cameras) -> tuple[float, float]:
    """Where the last camera sees a world point, in pixels (x to the right, y down)."""
    in_camera = camera.world2cam[-1] @ torch.tensor([*point, 1.0], dtype=torch.float64)
    x, y, z = (camera.intrinsics[-1] @ in_camera[:3]).tolist()
    assert z > 0
    return x / z, y / z


def total_turn_degrees(cameras: Cameras) -> float:
    rotations = cameras.cam2world[:, :3, :3]
    traces = (rotations[:-1].mT @ rotations[1:]).diagonal(dim1=-2, dim2=-1).sum(-1)
    return float(torch.rad2deg(torch.acos(((traces - 1) / 2).clamp(-1, 1))).sum())


@some.composite
def paths(draw: some.DrawFn) -> CameraPath:
    turn = some.tuples(*[some.floats(-0.9, 0.9)] * 3)
    count = draw(some.integers(1, 5))
    keyframes = [Keyframe(0, IDENTITY_ROWS)]
    for index in range(count):
        cam2world = IDENTITY.clone()
        cam2world[:3, :3] = path_motion.rotations(torch.tensor([draw(turn)], dtype=torch.float64))[0]
        cam2world[:3, 3] = torch.tensor(draw(some.tuples(*[some.floats(-3, 3)] * 3)), dtype=torch.float64)
        fov = draw(some.none() | some.floats(20, 120))
        rows = tuple(tuple(row) for row in cam2world.tolist())
        keyframes.append(Keyframe((index + 1) / count, rows, fov))
    return CameraPath(
        tuple(keyframes),
        unit=draw(some.sampled_from(["world", "median_depth"])),
        easing=draw(some.sampled_from(EASINGS)),
        interpolation=draw(some.sampled_from(["smooth", "linear", "arc"])),
    )


@settings(max_examples=40, deadline=None)
@given(paths())
def test_every_camera_of_every_path_is_rigid_and_the_first_is_the_identity(path: CameraPath) -> None:
    cameras = filmed(path, 17)
    rotation = cameras.cam2world[:, :3, :3]
    assert torch.equal(cameras.cam2world[0], IDENTITY)
    assert (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    assert torch.linalg.det(rotation).min() > 0


@settings(max_examples=40, deadline=None)
@given(paths())
def test_a_path_survives_its_json_exactly(path: CameraPath) -> None:
    assert CameraPath.from_json(path.to_json()) == path


@settings(max_examples=30, deadline=None)
@given(paths())
def test_every_second_camera_of_a_film_is_a_film_of_half_the_frames(path: CameraPath) -> None:
    long, short = filmed(path, 33)[::2], filmed(path, 17)
    torch.testing.assert_close(long.cam2world, short.cam2world, atol=1e-12, rtol=0)
    torch.testing.assert_close(long.intrinsics, short.intrinsics, atol=1e-9, rtol=0)


@settings(max_examples=30, deadline=None)
@given(paths())
def test_a_path_passes_through_its_keyframes(path: CameraPath) -> None:
    path = CameraPath(path.keyframes, unit=path.unit, easing="linear", interpolation=path.interpolation)
    times = torch.tensor([key.time for key in path.keyframes], dtype=torch.float64)
    keys = torch.tensor([key.cam2world for key in path.keyframes], dtype=torch.float64)
    torch.testing.assert_close(path.cam2world_at(times), keys, atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(paths())
def test_smooth_positions_stay_in_the_box_of_the_two_keys_around_them(path: CameraPath) -> None:
    path = CameraPath(path.keyframes, easing="linear", interpolation="smooth")
    times = torch.linspace(0, 1, 201, dtype=torch.float64)
    positions = path.cam2world_at(times)[:, :3, 3]
    keys = torch.tensor([key.cam2world for key in path.keyframes], dtype=torch.float64)[:, :3, 3]
    at = torch.tensor([key.time for key in path.keyframes], dtype=torch.float64)
    index = (torch.searchsorted(at, times, right=True) - 1).clamp(0, len(at) - 2)
    low, high = torch.minimum(keys[index], keys[index + 1]), torch.maximum(keys[index], keys[index + 1])
    assert (positions >= low - 1e-12).all() and (positions <= high + 1e-12).all()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("easing", EASINGS)
def test_the_easing_changes_when_but_not_where_a_preset_ends(name: str, easing: camera_path.Easing) -> None:
    torch.testing.assert_close(
        filmed(preset(name, easing=easing)).cam2world[-1],
        filmed(preset(name, easing="linear")).cam2world[-1],
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("easing", EASINGS)
def test_an_eased_dolly_never_goes_backwards(easing: camera_path.Easing) -> None:
    forward = filmed(preset("dolly_in", amount=0.5, easing=easing), 65).centers[:, 2]
    assert (forward.diff() >= 0).all()
    assert forward[0] == 0 and abs(float(forward[-1]) - 0.5) < 1e-12


def test_ease_starts_slowly_ease_in_ends_fast_ease_out_starts_fast() -> None:
    steps = {easing: filmed(preset("dolly_in", amount=1, easing=easing)).centers[:, 2].diff() for easing in EASINGS}
    assert steps["ease"][0] < steps["linear"][0] / 5 and steps["ease"][-1] < steps["linear"][-1] / 5
    assert steps["ease_in"][0] < steps["linear"][0] < steps["ease_in"][-1]
    assert steps["ease_out"][0] > steps["linear"][0] > steps["ease_out"][-1]


@pytest.mark.parametrize("move", [name for name in PRESETS if name != "out_and_back"])
def test_out_and_back_ends_exactly_where_it_started(move: str) -> None:
    cameras = filmed(preset("out_and_back", move=move), 97, unit_length=3.7)
    assert (cameras.cam2world[-1] - IDENTITY).abs().max() < 1e-12


@pytest.mark.parametrize("move", [name for name in PRESETS if name != "out_and_back"])
def test_out_and_back_comes_back_the_way_it_went(move: str) -> None:
    cam2world = filmed(preset("out_and_back", move=move, easing="ease"), 97).cam2world
    torch.testing.assert_close(cam2world, cam2world.flip(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(cam2world[48], filmed(preset(move)).cam2world[-1], atol=1e-12, rtol=0)


def test_an_eased_out_and_back_pan_rests_at_the_turning_point() -> None:
    cam2world = filmed(preset("out_and_back", move="pan_left", amount=40, easing="ease"), 97).cam2world
    angles = torch.rad2deg(torch.atan2(cam2world[:, 0, 2], cam2world[:, 2, 2])).abs()
    assert float(angles.max()) == pytest.approx(40)
    assert angles.diff().abs()[47:49].max() < 0.2 * angles.diff().abs().max()


def test_look_around_turns_360_degrees_and_ends_where_it_began() -> None:
    cameras = filmed(preset("look_around"), 129)
    assert total_turn_degrees(cameras) == pytest.approx(360, abs=1e-6)
    assert (cameras.cam2world[-1] - IDENTITY).abs().max() < 1e-12
    assert cameras.centers.abs().max() == 0


def test_turns_of_more_than_one_round_go_all_the_way() -> None:
    assert total_turn_degrees(filmed(preset("pan_left", amount=800), 129)) == pytest.approx(800, abs=1e-6)


@pytest.mark.parametrize("name", ["orbit_left", "orbit_right"])
@pytest.mark.parametrize("amount", [25, 180, 360])
def test_an_orbit_keeps_the_pivot_on_the_axis_at_constant_distance(name: str, amount: float) -> None:
    cameras = filmed(preset(name, amount=amount, pivot_depth=1.5), 65, unit_length=2.0)
    pivot = torch.tensor([0, 0, 3.0, 1], dtype=torch.float64)
    in_cameras = cameras.world2cam @ pivot
    torch.testing.assert_close(in_cameras, pivot.expand_as(in_cameras), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["pan_right", "tilt_up", "roll"])
def test_turns_on_the_spot_do_not_move_the_camera(name: str) -> None:
    assert filmed(preset(name, amount=70)).centers.abs().max() == 0


def test_the_unit_length_scales_translations_and_nothing_else() -> None:
    near, far = filmed(preset("orbit_left"), unit_length=1), filmed(preset("orbit_left"), unit_length=5)
    torch.testing.assert_close(far.centers, 5 * near.centers)
    assert torch.equal(far.cam2world[:, :3, :3], near.cam2world[:, :3, :3])


# Film words in plain words: where does a point on the right of / above the middle go in the picture?

RIGHT, ABOVE, AHEAD = (0.3, 0.0, 1.0), (0.0, -0.3, 1.0), (0.0, 0.0, 1.0)
MIDDLE = 128.0


def test_pan_right_moves_a_point_on_the_right_towards_the_middle() -> None:
    before = seen_at(RIGHT, filmed(preset("static")))[0]
    assert MIDDLE < seen_at(RIGHT, filmed(preset("pan_right", amount=10)))[0] < before
    assert seen_at(RIGHT, filmed(preset("pan_left", amount=10)))[0] > before
    assert MIDDLE < seen_at(RIGHT, filmed(preset("look_around", amount=10)))[0] < before


def test_tilt_up_moves_a_point_above_towards_the_middle() -> None:
    before = seen_at(ABOVE, filmed(preset("static")))[1]
    assert before < seen_at(ABOVE, filmed(preset("tilt_up", amount=10)))[1] < MIDDLE
    assert seen_at(ABOVE, filmed(preset("tilt_down", amount=10)))[1] < before


def test_rolling_clockwise_turns_the_picture_anticlockwise() -> None:
    x, y = seen_at(RIGHT, filmed(preset("roll", amount=20)))
    assert x > MIDDLE and y < MIDDLE


def test_truck_right_moves_what_is_ahead_to_the_left() -> None:
    assert seen_at(AHEAD, filmed(preset("truck_right", amount=0.2)))[0] < MIDDLE
    assert seen_at(AHEAD, filmed(preset("truck_left", amount=0.2)))[0] > MIDDLE


def test_pedestal_up_moves_what_is_ahead_down() -> None:
    assert seen_at(AHEAD, filmed(preset("pedestal_up", amount=0.2)))[1] > MIDDLE
    assert seen_at(AHEAD, filmed(preset("pedestal_down", amount=0.2)))[1] < MIDDLE


def test_dolly_in_moves_points_away_from_the_middle() -> None:
    before = seen_at(RIGHT, filmed(preset("static")))[0]
    assert seen_at(RIGHT, filmed(preset("dolly_in", amount=0.3)))[0] > before
    assert seen_at(RIGHT, filmed(preset("dolly_out", amount=0.3)))[0] < before


def test_orbit_right_carries_the_camera_to_the_right() -> None:
    assert filmed(preset("orbit_right")).centers[-1, 0] > 0.1
    assert filmed(preset("orbit_left")).centers[-1, 0] < -0.1


def test_a_negative_amount_goes_the_other_way() -> None:
    one, other = filmed(preset("pan_right", amount=-25)), filmed(preset("pan_left", amount=25))
    torch.testing.assert_close(one.cam2world, other.cam2world, atol=1e-12, rtol=0)


def test_a_dolly_of_half_a_median_depth_of_4_moves_2() -> None:
    path = preset("dolly_in", amount=0.5)
    assert filmed(path, unit_length=4.0).centers[-1].tolist() == pytest.approx([0, 0, 2])


# Interpolation by hand.


def test_a_rotation_between_two_keys_runs_at_constant_speed() -> None:
    path = CameraPath((Keyframe(0, IDENTITY_ROWS), Keyframe(1, panned(80))), easing="linear")
    rotations = filmed(path, 9).cam2world[:, :3, :3]
    angles = torch.rad2deg(torch.atan2(rotations[:, 0, 2], rotations[:, 2, 2]))
    torch.testing.assert_close(angles, torch.arange(9).double() * 10, atol=1e-9, rtol=0)


def test_a_rotation_close_to_half_a_turn_still_follows_its_axis() -> None:
    path = CameraPath((Keyframe(0, IDENTITY_ROWS), Keyframe(1, panned(179.5))), easing="linear")
    middle = path.cam2world_at(torch.tensor([0.5], dtype=torch.float64))[0]
    torch.testing.assert_close(middle, torch.tensor(panned(89.75), dtype=torch.float64), atol=1e-10, rtol=0)


def test_two_equal_keys_hold_a_smooth_camera_still() -> None:
    keys = [Keyframe(0, IDENTITY_ROWS), Keyframe(0.4, shifted(1, 0, 0)), Keyframe(0.6, shifted(1, 0, 0))]
    path = CameraPath((*keys, Keyframe(1, shifted(3, 0, 1))), easing="linear")
    held = path.cam2world_at(torch.linspace(0.4, 0.6, 11, dtype=torch.float64))[:, :3, 3]
    torch.testing.assert_close(held, torch.tensor([[1.0, 0, 0]], dtype=torch.float64).expand(11, 3))


def test_a_smooth_camera_has_no_corner_at_a_key_where_a_linear_one_has() -> None:
    keys = (Keyframe(0, IDENTITY_ROWS), Keyframe(0.5, shifted(1, 0, 0)), Keyframe(1, shifted(4, 0, 0)))
    around = torch.tensor([0.5 - 1e-4, 0.5, 0.5 + 1e-4], dtype=torch.float64)

    def speeds(interpolation: camera_path.Interpolation) -> list[float]:
        path = CameraPath(keys, easing="linear", interpolation=interpolation)
        return (path.cam2world_at(around)[:, 0, 3].diff() / 1e-4).tolist()

    assert speeds("linear") == pytest.approx([2, 6], rel=1e-3)
    assert speeds("smooth")[0] == pytest.approx(speeds("smooth")[1], rel=1e-2)


def test_a_zoom_runs_at_constant_speed_in_the_focal_length_and_keeps_the_principal_point() -> None:
    end = fov_degrees(torch.diag(torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64)) @ INTRINSICS, SIZE)
    path = CameraPath((Keyframe(0, IDENTITY_ROWS), Keyframe(1, IDENTITY_ROWS, end)), easing="linear")
    intrinsics = filmed(path, 3).intrinsics
    torch.testing.assert_close(intrinsics[:, 0, 0], INTRINSICS[0, 0] * torch.tensor([1.0, 2, 4]).double())
    torch.testing.assert_close(intrinsics[:, 1, 1], INTRINSICS[1, 1] * torch.tensor([1.0, 2, 4]).double())
    assert torch.equal(intrinsics[:, :2, 2], INTRINSICS[:2, 2].expand(3, 2))


def test_without_fields_of_view_every_camera_has_the_scenes_intrinsics() -> None:
    skewed = torch.tensor([[200.0, 0, 120], [0, 180, 131], [0, 0, 1]], dtype=torch.float64)
    cameras = preset("orbit_left").cameras(9, intrinsics=skewed, image_size=SIZE)
    assert torch.equal(cameras.intrinsics, skewed.expand(9, 3, 3))


def test_one_frame_is_the_first_camera() -> None:
    assert torch.equal(filmed(preset("dolly_in"), 1).cam2world, IDENTITY[None])


def test_a_path_through_cameras_gives_them_back_relative_to_the_first() -> None:
    cameras = filmed(preset("orbit_left"), 17)
    motion = torch.tensor(panned(33), dtype=torch.float64)
    motion[:3, 3] = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    again = filmed(CameraPath.through(cameras.moved(motion)), 17)
    torch.testing.assert_close(again.cam2world, cameras.cam2world, atol=1e-9, rtol=0)
    torch.testing.assert_close(again.intrinsics, cameras.intrinsics)


def test_six_digit_rotations_do_not_leak_scale_into_the_cameras() -> None:
    rounded = tuple(tuple(round(value, 6) for value in row) for row in panned(33.3))
    path = CameraPath((Keyframe(0, IDENTITY_ROWS), Keyframe(1, rounded)))
    rotation = filmed(path).cam2world[:, :3, :3]
    assert (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12


# What is refused, and what the sentence says.

MIRRORED = ((-1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0))


@pytest.mark.parametrize(
    ("time", "cam2world", "fov", "says"),
    [
        (-0.1, IDENTITY_ROWS, None, "times run from 0"),
        (math.nan, IDENTITY_ROWS, None, "times run from 0"),
        (0.5, IDENTITY_ROWS[:3], None, "4 rows of 4 numbers"),
        (0.5, ((math.nan,) * 4,) * 4, None, "NaN"),
        (0.5, MIRRORED, None, "mirrored"),
        (0.5, tuple(tuple(2 * value for value in row) for row in IDENTITY_ROWS), None, "scaled"),
        (0.5, tuple(zip(*shifted(1, 2, 3), strict=True)), None, "transposed"),
        (0.5, IDENTITY_ROWS, 180, "between 0 and 180"),
        (0.5, IDENTITY_ROWS, math.nan, "between 0 and 180"),
    ],
)
def test_a_keyframe_that_makes_no_sense_is_refused(time: float, cam2world: tuple, fov: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Keyframe(time, cam2world, fov)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([], "needs at least 2"),
        ([(0, IDENTITY_ROWS)], "needs at least 2"),
        ([(0.1, IDENTITY_ROWS), (1, IDENTITY_ROWS)], "must run from 0 to 1"),
        ([(0, IDENTITY_ROWS), (0.9, IDENTITY_ROWS)], "must run from 0 to 1"),
        ([(0, IDENTITY_ROWS), (0.5, IDENTITY_ROWS), (0.5, IDENTITY_ROWS), (1, IDENTITY_ROWS)], "does not come after"),
        ([(0, IDENTITY_ROWS), (0.7, IDENTITY_ROWS), (0.5, IDENTITY_ROWS), (1, IDENTITY_ROWS)], "does not come after"),
        ([(0, shifted(1, 0, 0)), (1, IDENTITY_ROWS)], "not the identity"),
        ([(0, IDENTITY_ROWS), (1, panned(180))], "Add a keyframe between"),
    ],
)
def test_a_path_that_makes_no_sense_is_refused(keys: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CameraPath(tuple(Keyframe(*key) for key in keys))


def test_more_keyframes_than_a_film_has_frames_are_refused() -> None:
    count = camera_path.MAX_KEYFRAMES + 1
    entry = {"time": 0.0, "cam2world": IDENTITY_ROWS}
    with pytest.raises(ValueError, match="at most 10000"):
        CameraPath.from_json(json.dumps({"keyframes": [entry] * count}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unit": "miles"}, "unit is 'miles'"),
        ({"easing": "bounce"}, "easing is 'bounce'"),
        ({"easing": ["ease"]}, "easing is"),
        ({"interpolation": "spline"}, "interpolation is 'spline'"),
        ({"speed": 2}, "unknown fields: speed"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"format": "nerfstudio"}, "format 'nerfstudio'"),
        ({"keyframes": {}}, "list of keyframes"),
        ({"keyframes": [1, 2]}, "Keyframe 0 is not a JSON object"),
        ({"keyframes": [{"time": 0}, {"time": 1}]}, "Keyframe 0 lacks cam2world"),
        ({"keyframes": [{"time": 0, "cam2world": [], "eval": ""}] * 2}, "Keyframe 0 has unknown fields: eval"),
        ({"keyframes": [{"time": "0", "cam2world": IDENTITY_ROWS}] * 2}, "holds '0' where a number belongs"),
        ({"keyframes": [{"time": False, "cam2world": IDENTITY_ROWS}] * 2}, "holds False"),
        ({"keyframes": [{"time": 10**400, "cam2world": IDENTITY_ROWS}] * 2}, "too large"),
        ({"keyframes": [{"time": 0, "cam2world": 7}] * 2}, "list of 4 rows"),
        ({"keyframes": [{"time": 0, "cam2world": [[math.nan] * 4] * 4}] * 2}, "NaN"),
    ],
)
def test_json_that_is_not_a_path_says_what_is_wrong(change: dict, says: str) -> None:
    document = json.loads(preset("dolly_in").to_json()) | change
    with pytest.raises(ValueError, match=says):
        CameraPath.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON: .* line 1"),
        ("{'keyframes': []}", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "lacks keyframes"),
        ('{"keyframes": [], "keyframes": []}', "twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_text_that_is_not_a_path_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CameraPath.from_json(text)


def test_json_by_hand_needs_only_keyframes() -> None:
    entries = [{"time": 0, "cam2world": IDENTITY_ROWS}, {"time": 1, "cam2world": shifted(0, 0, 1)}]
    path = CameraPath.from_json(json.dumps({"keyframes": entries}))
    assert path == CameraPath((Keyframe(0, IDENTITY_ROWS), Keyframe(1, shifted(0, 0, 1))))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "crane"}, "camera move is 'crane'"),
        ({"name": "dolly_in", "easing": "bounce"}, "easing is 'bounce'"),
        ({"name": "dolly_in", "amount": math.nan}, "finite number of median depths"),
        ({"name": "orbit_left", "pivot_depth": 0}, "in front of the camera"),
        ({"name": "out_and_back", "move": "out_and_back"}, "move of out_and_back"),
        ({"name": "out_and_back", "amount": math.inf}, "finite number"),
    ],
)
def test_a_preset_that_makes_no_sense_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        preset(**arguments)


def test_a_film_without_frames_or_a_unit_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        filmed(preset("static"), 0)
    for length in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            filmed(preset("static"), unit_length=length)
    with pytest.raises(ValueError, match="outside"):
        preset("static").cam2world_at(torch.tensor([1.5]))
    with pytest.raises(ValueError, match="at least 2 cameras"):
        CameraPath.through(filmed(preset("static"), 1))
