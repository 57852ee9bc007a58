"""Laws of every camera file format: what goes out comes back, and the table says how."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core import path_formats
from mirage_core.camera import Cameras, projection_matrices
from mirage_core.latent_grid import WAN22
from mirage_core.path_formats import (
    FORMATS,
    WORLDSCORE_MOVES,
    CameraTrack,
    ReadOptions,
    decode,
    encode,
    fit_scale,
    fitted,
    in_first_camera,
    placed_at,
    worldscore_cameras,
    write_colmap,
    write_npy,
    write_ply,
)
from mirage_core.path_formats.conventions import (
    euler_of_rotations,
    looking_at,
    quaternions_of,
    roll_of,
    rotations_of,
    rotations_of_euler,
)
from mirage_core.path_formats.nuke_chan import ROTATION_ORDERS
from tests.core.camera_tracks import (
    SIZE,
    K,
    left_looking_track,
    lens_between,
    random_track,
    said,
    shift_between,
    turn_between,
)

# Radians, share of the path's size, pixels. float64 text loses only the rounding of a few products (1e-12); a chan goes
# through degrees and sines; OmniCam's direction is the difference of two positions (up to 1000 units, target 1 away);
# glTF is float32 (2^-24 = 6e-8, three of them in a rotation). ReCamMaster multiplies by 100 and divides again.
EXACT, DOUBLE, SINGLE = (0.0, 0.0, 0.0), (1e-12, 1e-12, 1e-9), (1e-6, 3e-7, 1e-9)
ROUND_TRIPS = {
    "json": (EXACT, {}),
    "realestate10k": (DOUBLE, {}),
    "nerfstudio": (DOUBLE, {}),
    "colmap": (DOUBLE, {}),
    "npy": (DOUBLE, {"is_one_lens": True}),
    "chan": (DOUBLE, {"is_centred": True}),
    "gltf": (SINGLE, {"is_centred": True, "is_one_lens": True}),
    "recammaster": (DOUBLE, {"is_one_lens": True}),
    "spatia": (DOUBLE, {"is_one_lens": True}),
    "omnicam": ((1e-9, 1e-12, 1e-9), {"is_centred": True}),
}
HAS_FRAME_RATE = {"json", "realestate10k", "nerfstudio", "gltf", "omnicam"}


def _there_and_back(track: CameraTrack, name: str, folder: Path) -> CameraTrack:
    files = encode(track, name)
    if len(files) > 1:
        path_formats.write(track, folder, name)
        return path_formats.read(folder if name == "colmap" else folder / "w2c.txt", name, said(track))
    return decode(next(iter(files.values())), name, said(track))


def test_every_format_that_is_written_has_a_round_trip_here():
    assert set(ROUND_TRIPS) == {row.name for row in FORMATS.values() if row.write}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_100_random_paths_survive_the_round_trip(name: str, tmp_path: Path):
    (turn, shift, lens), kind = ROUND_TRIPS[name]
    for seed in range(100):
        track = random_track(seed, **kind)
        back = _there_and_back(track, name, tmp_path)
        assert turn_between(track.cameras, back.cameras) <= turn
        assert shift_between(track.cameras, back.cameras) <= shift
        assert lens_between(track.cameras, back.cameras) <= lens
        assert back.cameras.image_size == track.cameras.image_size
        assert back.fps == pytest.approx(track.fps, rel=1e-6)


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_the_format_is_recognised_by_its_content(name: str, tmp_path: Path):
    track = left_looking_track()
    paths = path_formats.write(track, tmp_path / ("model" if name == "colmap" else "camera"), name)
    back = path_formats.read(paths[0], "auto", said(track))
    assert turn_between(track.cameras, back.cameras) < 1e-6
    assert shift_between(track.cameras, back.cameras) < 1e-6


@pytest.mark.parametrize("name", sorted(HAS_FRAME_RATE))
def test_the_frame_rate_comes_from_the_file(name: str):
    track = random_track(3, is_centred=True, is_one_lens=True)
    back = decode(next(iter(encode(track, name).values())), name, ReadOptions(image_size=SIZE))
    assert back.fps == pytest.approx(16.0, rel=1e-6)


def test_names_survive_where_a_format_has_them():
    track = random_track(5)
    for name in ("json", "nerfstudio"):
        assert decode(encode(track, name)["camera.json"], name).names == track.names
    timed = CameraTrack(track.cameras, None, tuple(str(40_000 * (i + 1)) for i in range(len(track.cameras))))
    back = decode(encode(timed, "realestate10k")["camera.txt"], "realestate10k", said(timed))
    assert back.names == timed.names and back.fps == pytest.approx(25.0)


def test_every_frame_projects_to_the_same_cells_after_every_round_trip(tmp_path: Path):
    point = torch.tensor([0.3, -0.2, 4.0, 1.0], dtype=torch.float64)
    for name, (_, kind) in ROUND_TRIPS.items():
        track = random_track(11, **kind)
        back = _there_and_back(track, name, tmp_path / name)
        before, after = (projection_matrices(one.cameras, (12, 20), WAN22) @ point for one in (track, back))
        assert torch.allclose(before[:, :2] / before[:, 2:], after[:, :2] / after[:, 2:], atol=1e-3)


def test_npy_is_read_back_in_every_convention():
    track = random_track(7, is_one_lens=True)
    for axes in ("opencv", "opengl"):
        for direction in ("cam2world", "world2cam"):
            data = write_npy(track, axes=axes, direction=direction)
            options = ReadOptions(
                image_size=SIZE, intrinsics=track.cameras.intrinsics[0], axes=axes, direction=direction
            )
            assert turn_between(track.cameras, decode(data, "npy", options).cameras) < 1e-12


@pytest.mark.parametrize("order", ROTATION_ORDERS)
def test_euler_angles_of_every_order_give_the_rotation_back(order: str):
    rotations = rotations_of(torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert (rotations_of_euler(euler_of_rotations(rotations, order), order) - rotations).abs().max() < 1e-12


@pytest.mark.parametrize("order", ROTATION_ORDERS)
@pytest.mark.parametrize("lean", [0.0, 1e-9, 1e-5])
def test_euler_angles_at_the_gimbal_lock_give_the_rotation_back(order: str, lean: float):
    angles = torch.tensor([[30.0, 40.0, 50.0]], dtype=torch.float64)
    angles[0, "XYZ".index(order[1])] = 90.0 - lean
    rotations = rotations_of_euler(angles, order)
    assert (rotations_of_euler(euler_of_rotations(rotations, order), order) - rotations).abs().max() < 1e-12


def test_quaternions_give_the_rotation_back_even_at_half_turns():
    q = torch.randn(500, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    half_turns = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1e-9, 1, 1, 0]], dtype=torch.float64)
    rotations = rotations_of(torch.cat([q, half_turns]))
    assert (rotations_of(quaternions_of(rotations)) - rotations).abs().max() < 1e-12


def test_position_target_and_roll_give_the_pose_back():
    poses = torch.eye(4, dtype=torch.float64).repeat(200, 1, 1)
    poses[:, :3, :3] = rotations_of(
        torch.randn(200, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    position, forward = poses[:, :3, 3], -poses[:, :3, 2]
    assert (looking_at(position, position + forward, roll_of(poses)) - poses).abs().max() < 1e-9


def test_a_chan_has_no_jump_of_a_whole_turn():
    angles = torch.tensor([[0.0, turn, 0.0] for turn in range(0, 720, 20)], dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(angles), 1, 1)
    poses[:, :3, :3] = rotations_of_euler(angles, "ZXY")
    track = CameraTrack(Cameras(poses, K.expand(len(angles), 3, 3), SIZE), 24.0)
    text = encode(track, "chan")["camera.chan"].decode()
    pans = [float(line.split()[5]) for line in text.splitlines()[1:]]
    assert max(abs(b - a) for a, b in itertools.pairwise(pans)) == pytest.approx(20)


def test_the_help_table_has_every_format_and_every_convention():
    lines = path_formats.formats_table().splitlines()
    assert len(lines) == 2 + len(FORMATS)
    assert len({line.count("|") for line in lines}) == 1
    for row, line in zip(FORMATS.values(), lines[2:], strict=True):
        fields = [row.title, row.axes, row.direction, row.intrinsics, row.frame_rate, row.scale]
        assert all(field and field in line for field in fields)


def test_the_help_page_shows_the_table_of_the_code():
    page = Path(__file__).parents[2] / "js" / "docs" / "MirageLoadCameraPath.md"
    assert path_formats.formats_table() in page.read_text(encoding="utf-8")


# Scale and place


def test_median_depth_scales_all_distances_from_the_first_camera():
    cameras = random_track(8).cameras
    scaled = fit_scale(cameras, "median_depth", scene_median_depth=6.0, path_median_depth=2.0)
    assert torch.allclose(scaled.centers - cameras.centers[0], 3 * (cameras.centers - cameras.centers[0]))
    assert torch.equal(scaled.cam2world[:, :3, :3], cameras.cam2world[:, :3, :3])


def test_a_known_distance_is_that_distance_afterwards():
    scaled = fit_scale(random_track(9).cameras, "known_distance", distance=2.5, between=(1, -1))
    assert float((scaled.centers[1] - scaled.centers[-1]).norm()) == pytest.approx(2.5)


def test_keep_changes_nothing():
    cameras = random_track(10).cameras
    assert fit_scale(cameras, "keep") is cameras


@pytest.mark.parametrize(
    "how, options, message",
    [
        ("median_depth", {}, "needs the scene's median depth"),
        ("median_depth", {"scene_median_depth": 0.0}, "scene_median_depth is 0.0"),
        ("median_depth", {"scene_median_depth": 1.0, "path_median_depth": math.nan}, "path_median_depth is nan"),
        ("known_distance", {}, "needs that distance"),
        ("known_distance", {"distance": 1.0, "between": (0, 99)}, "no camera 99"),
        ("known_distance", {"distance": 1.0, "between": (0, 0)}, "stand in one place"),
        ("stretch", {}, "Unknown way"),
    ],
)
def test_a_scale_that_cannot_be_computed_is_refused(how: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        fit_scale(left_looking_track().cameras, how, **options)  # pyright: ignore[reportArgumentType]


def test_a_path_can_be_placed_at_any_camera_without_changing_its_shape():
    cameras, target = random_track(12).cameras, random_track(13).cameras.cam2world[0]
    placed = placed_at(cameras, target)
    assert torch.allclose(placed.cam2world[0], target)
    assert shift_between(in_first_camera(cameras), in_first_camera(placed)) < 1e-9
    assert torch.allclose(in_first_camera(cameras).cam2world[0], torch.eye(4, dtype=torch.float64))


def test_fitting_the_picture_keeps_pixels_square_and_the_middle_in_the_middle():
    cameras = left_looking_track().cameras
    square = fitted(cameras, (240, 240))
    assert square.intrinsics[0, 0, 0] == square.intrinsics[0, 1, 1] == 300.0
    assert square.intrinsics[0, :2, 2].tolist() == [120.0, 120.0]
    assert torch.allclose(fitted(cameras, (60, 100)).intrinsics, cameras.resized((60, 100)).intrinsics)


def test_the_summary_says_how_far_and_how_much():
    text = path_formats.summary(left_looking_track())
    assert "2 cameras of 200x120, 24 fps, path 1 units long, looks up to 90.0 degrees away" in text


# WorldScore's moves, by hand: one unit is the length of a push and the radius of an orbit


@pytest.mark.parametrize(
    "move, center, forward",
    [
        ("push_in", (0, 0, 1), (0, 0, 1)),
        ("pull_out", (0, 0, -1), (0, 0, 1)),
        ("move_left", (-0.5, 0, 0), (0, 0, 1)),
        ("move_right", (0.5, 0, 0), (0, 0, 1)),
        # 30 degrees on a circle about the point one unit ahead, still facing it
        ("orbit_left", (-0.5, 0, 1 - math.sqrt(0.75)), (0.5, 0, math.sqrt(0.75))),
        ("orbit_right", (0.5, 0, 1 - math.sqrt(0.75)), (-0.5, 0, math.sqrt(0.75))),
        ("pan_left", (0, 0, 0), (-0.5, 0, math.sqrt(0.75))),
        ("pan_right", (0, 0, 0), (0.5, 0, math.sqrt(0.75))),
        # 0.3 back and 0.3 aside in the axes of the turned camera
        ("pull_left", (-0.3 * (math.sqrt(0.75) - 0.5), 0, -0.3 * (math.sqrt(0.75) + 0.5)), (-0.5, 0, math.sqrt(0.75))),
        ("pull_right", (0.3 * (math.sqrt(0.75) - 0.5), 0, -0.3 * (math.sqrt(0.75) + 0.5)), (0.5, 0, math.sqrt(0.75))),
    ],
)
def test_a_worldscore_move_ends_where_the_benchmark_puts_it(move: str, center: tuple, forward: tuple):
    cameras = worldscore_cameras([move], 5, intrinsics=K, image_size=SIZE, unit=2.0)
    assert len(cameras) == 5
    assert torch.equal(cameras.cam2world[0], torch.eye(4, dtype=torch.float64))
    assert cameras.centers[-1].tolist() == pytest.approx([2 * value for value in center], abs=1e-12)
    assert cameras.cam2world[-1, :3, 2].tolist() == pytest.approx(forward, abs=1e-12)


def test_worldscore_has_ten_moves_and_joins_them_at_a_shared_frame():
    assert len(WORLDSCORE_MOVES) == 10
    cameras = worldscore_cameras(["pan_left", "pan_right", "push_in"], 9, intrinsics=K, image_size=SIZE)
    assert len(cameras) == 3 * 8 + 1
    assert torch.allclose(cameras.cam2world[16], torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert cameras.centers[-1].tolist() == pytest.approx([0, 0, 1])
    turns = torch.acos((cameras.cam2world[:8, :3, 2] * cameras.cam2world[1:9, :3, 2]).sum(1))
    assert torch.allclose(turns, turns[0].expand(8))


@pytest.mark.parametrize(
    "moves, frames, unit", [(["zoom"], 5, 1.0), ([], 5, 1.0), (["push_in"], 1, 1.0), (["push_in"], 5, 0.0)]
)
def test_a_worldscore_move_that_does_not_exist_is_refused(moves: list[str], frames: int, unit: float):
    with pytest.raises(ValueError):
        worldscore_cameras(moves, frames, intrinsics=K, image_size=SIZE, unit=unit)


# Exports


def test_a_ply_holds_the_points_and_colours_in_the_chosen_world():
    points = torch.tensor([[1.0, 2.0, 3.0], [math.nan, 0, 0], [4.0, 5.0, 6.0]])
    colors = torch.tensor([[1.0, 0.5, 0.0], [0, 0, 0], [0.0, 0.0, 1.0]])
    for world, turned in {"opencv": (1, 2, 3), "y_up": (1, -2, -3), "z_up": (1, 3, -2)}.items():
        data = write_ply(points, colors, world=world, confidence=torch.tensor([0.5, 1, 0.25]))
        header, _, body = data.partition(b"end_header\n")
        assert b"format binary_little_endian 1.0" in header and b"element vertex 2\n" in header
        assert struct.unpack_from("<3f3Bf", body) == (*turned, 255, 128, 0, 0.5)
        assert len(body) == 2 * (12 + 3 + 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda points: write_ply(points, torch.zeros(2, 3)), "3 points and colours"),
        (lambda points: write_ply(points, confidence=torch.zeros(2)), "3 points and confidence"),
        (lambda points: write_ply(points, world="maya"), "Unknown world"),
        (lambda points: write_ply(points[:, :2]), "points are"),
    ],
)
def test_a_ply_that_does_not_fit_together_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, 3))


def test_colmap_points_carry_positions_and_byte_colours():
    points = torch.tensor([[1.0, 2.0, 3.5]])
    text = write_colmap(left_looking_track(), points, torch.tensor([[255, 0, 7]], dtype=torch.uint8))["points3D.txt"]
    assert text.decode().splitlines()[1].split() == ["1", "1.0", "2.0", "3.5", "255", "0", "7", "0"]


def test_the_frame_table_has_one_line_per_frame():
    lines = path_formats.frame_table(left_looking_track()).splitlines()
    assert len(lines) == 3
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert (row["frame"], row["name"], float(row["seconds"]), float(row["x"])) == (
        "1",
        '"frame_00001.png"',
        1 / 24,
        1.0,
    )
    assert float(row["horizontal_fov_degrees"]) == pytest.approx(math.degrees(2 * math.atan(100 / 150)))


# Limits


def test_a_file_of_too_many_cameras_is_refused():
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 4, 4)})
    with pytest.raises(ValueError, match="at most 100000"):
        decode(stream.getvalue(), "npy")
    with pytest.raises(ValueError, match="at most 100000"):
        decode(json.dumps({"frames": [0] * 100_001}), "nerfstudio")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(path_formats, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="are read"):
        decode(b"0" * 11)
    (tmp_path / "long.txt").write_bytes(b"0" * 11)
    with pytest.raises(ValueError, match="are read"):
        path_formats.read(tmp_path / "long.txt")


def test_no_reader_evaluates_or_unpickles():
    folder = Path(path_formats.__file__).parent
    for file in folder.glob("*.py"):
        assert not re.search(
            r"\b(eval|exec|pickle\.loads?|torch\.load|__import__)\(|allow_pickle=True", file.read_text()
        )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"fps": 0.0}, "frame rate is 0.0"),
        ({"fps": math.nan}, "frame rate is nan"),
        ({"names": ("one",)}, "2 cameras and 1 names"),
    ],
)
def test_a_track_that_contradicts_itself_is_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CameraTrack(left_looking_track().cameras, **fields)


def test_a_track_without_cameras_is_refused():
    with pytest.raises(ValueError, match="has no cameras"):
        CameraTrack(left_looking_track().cameras[[]])
