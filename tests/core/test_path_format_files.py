"""One camera per format that can be checked by hand, and one sentence for everything that is damaged or ambiguous.

The camera: the second frame stands one unit to the right of the first and looks left, back at it (camera_tracks.py).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import math
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core import path_formats
from mirage_core.camera import Cameras
from mirage_core.path_formats import CameraTrack, ReadOptions, decode, encode, read_colmap, read_spatia_intrinsics
from tests.core.camera_tracks import LEFT_LOOKING, SIZE, VERTICAL_FOV, K, left_looking_track, said

HALF = math.sqrt(0.5)
SAID = said(left_looking_track())
EYE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
NERF = {"w": 200, "h": 120, "fl_x": 150, "fl_y": 150, "cx": 100, "cy": 60}
NERF_FRAMES = [
    {"file_path": "b_2.png", "transform_matrix": [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]},
    # columns: right is where "ahead" was, up is -y, back is +x
    {"file_path": "b_10.png", "transform_matrix": [[0, 0, 1, 1], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]},
]
COLMAP_CAMERAS = b"# comment\n7 PINHOLE 200 120 150 150 100 60\n"
COLMAP_IMAGES = (
    "# comment\n"
    f"2 {HALF!r} 0 {HALF!r} 0 0 0 1 7 b_10.png\n1.5 2.5 -1 3 4 17\n"  # a quarter turn about y; the first is 1 ahead
    "5 1 0 0 0 0 0 0 7 b_2.png\n\n"
).encode()
RE10K = (
    "https://www.youtube.com/watch?v=x\n"
    "0 0.75 1.25 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n"
    "41667 0.75 1.25 0.5 0.5 0 0 0 0 1 0 0 1 0 0 -1 0 0 1\n"
)
SPATIA = "[[1,0,0,0],[0,1,0,0],[0,0,1,0]]\n[[0,0,1,0],[0,1,0,0],[-1,0,0,1],[0,0,0,1]]\n"
CHAN = f"# made by hand\n1001 0 0 0 0 0 0 {VERTICAL_FOV!r}\n1002\t1 0 0 0 90 0 {VERTICAL_FOV!r}\n"
# Unreal: rows are where its forward, right and up axes point, then the place in centimetres (forward, right, up).
RECAM = {
    "frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "},
    "frame1": {"cam01": "[0 -1 0 0] [1 0 0 0] [0 0 1 0] [0 100 0 1] "},
}
OMNI_KEYS = [
    {"frame": 0, "camera": {"position": [0, 0, 0], "target": [0, 0, -3], "fov": VERTICAL_FOV}},
    {"frame": 1, "camera": {"position": [1, 0, 0], "target": [0, 0, 0], "fov": VERTICAL_FOV}},
]
OMNI = {"schema_version": 1, "fps": 24, "duration_frames": 2, "width": 200, "height": 120, "keyframes": OMNI_KEYS}
WORLDSCORE = {
    "focal_length": 150,
    "scale": 1,
    "cameras_interp": [  # its world has x to the left, y up, z ahead
        [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]],
        [[0, 0, -1, -1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    ],
}


def _gltf(**changes) -> dict:
    blob = struct.pack("<2f", 0, 1 / 24) + struct.pack("<6f", 0, 0, 0, 1, 0, 0)
    blob += struct.pack("<8f", 0, 0, 0, 1, 0, HALF, 0, HALF)  # a quarter turn to the left about +y
    uri = "data:application/gltf-buffer;base64," + base64.b64encode(blob).decode()
    accessors = [(0, 2, "SCALAR", 0), (0, 2, "VEC3", 8), (0, 2, "VEC4", 32)]
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"name": "Camera", "camera": 0}],
        "cameras": [{"type": "perspective", "perspective": {"yfov": math.radians(VERTICAL_FOV), "znear": 0.1}}],
        "animations": [
            {
                "samplers": [{"input": 0, "output": 1}, {"input": 0, "output": 2}],
                "channels": [
                    {"sampler": 0, "target": {"node": 0, "path": "translation"}},
                    {"sampler": 1, "target": {"node": 0, "path": "rotation"}},
                ],
            }
        ],
        "accessors": [
            {"bufferView": view, "componentType": 5126, "count": count, "type": kind, "byteOffset": offset}
            for view, count, kind, offset in accessors
        ],
        "bufferViews": [{"buffer": 0, "byteLength": len(blob)}],
        "buffers": [{"byteLength": len(blob), "uri": uri}],
    }
    return {**document, **changes}


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


BY_HAND = {
    "realestate10k": RE10K,
    "nerfstudio": json.dumps({**NERF, "frames": NERF_FRAMES}),
    "npy": _npy(np.array([EYE, LEFT_LOOKING])),
    "chan": CHAN,
    "gltf": json.dumps(_gltf()),
    "recammaster": json.dumps(RECAM),
    "spatia": SPATIA,
    "omnicam": json.dumps(OMNI),
    "worldscore": json.dumps(WORLDSCORE),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_camera_one_unit_to_the_right_that_looks_left_is_read_as_that(name: str):
    cameras = decode(BY_HAND[name], "auto", SAID).cameras
    assert torch.allclose(cameras.cam2world[0], torch.eye(4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(cameras.cam2world[1], torch.tensor(LEFT_LOOKING, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(cameras.intrinsics, K.expand(2, 3, 3), atol=1e-4)
    assert cameras.image_size == SIZE


def test_a_colmap_camera_one_unit_to_the_right_that_looks_left_is_read_as_that():
    track = read_colmap(COLMAP_CAMERAS, COLMAP_IMAGES, SAID)
    assert track.names == ("b_2.png", "b_10.png")  # by number, not by letter
    assert torch.allclose(track.cameras.cam2world[1], torch.tensor(LEFT_LOOKING, dtype=torch.float64))
    assert torch.equal(track.cameras.intrinsics[0], K)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("realestate10k", "41667 0.75 1.25 0.5 0.5 0 0 0 0 1 0 0 1 0 0 -1 0 0 1"),
        ("chan", f"2 1 0 0 0 90 0 {VERTICAL_FOV!r}"),
    ],
)
def test_the_hand_checked_camera_is_written_in_the_columns_of_the_format(name: str, expected: str):
    line = next(iter(encode(left_looking_track(), name).values())).decode().splitlines()[2]
    assert [float(word) for word in line.split()] == pytest.approx([float(word) for word in expected.split()], abs=1e-9)


def test_the_hand_checked_camera_is_written_in_the_fields_of_the_format():
    track = left_looking_track()
    nerf = json.loads(encode(track, "nerfstudio")["camera.json"])
    assert nerf["frames"][1]["transform_matrix"] == NERF_FRAMES[1]["transform_matrix"] and nerf["fl_x"] == 150.0
    recam = json.loads(encode(track, "recammaster")["camera.json"])["frame1"]["cam01"]
    assert recam.replace(".0", "").replace("-0 ", "0 ") == RECAM["frame1"]["cam01"]
    images = encode(track, "colmap")["images.txt"].decode().splitlines()[4].split()
    assert [float(word) for word in images[:9]] == pytest.approx([2, HALF, 0, HALF, 0, 0, 0, 1, 1])
    omni = json.loads(encode(track, "omnicam")["camera.json"])["cameras"][0]["track"]["keyframes"][1]["camera"]
    assert (omni["position"], omni["target"]) == ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert encode(track, "spatia")["intrinsics.txt"] == b"[0.75 1.25 0.5 0.5]"


# Variants that are right


def test_nerf_camera_angle_and_shared_intrinsics_are_read():
    document = {"camera_angle_x": 2 * math.atan(100 / 150), "frames": NERF_FRAMES}
    assert torch.allclose(decode(json.dumps(document), "nerfstudio", SAID).cameras.intrinsics[0], K)


def test_the_width_and_height_some_tools_write_into_columns_6_and_7_are_believed():
    text = RE10K.replace(" 0.5 0.5 0 0 ", " 0.5 0.5 400 240 ")
    cameras = decode(text, "realestate10k").cameras
    assert cameras.image_size == (240, 400) and cameras.intrinsics[0, 0, 0] == 300


def test_a_chan_states_its_rotation_order_in_a_comment():
    text = "# axes: +Y up; rotation order XYZ (degrees)\n1 0 0 0 30 40 50 45\n"
    stated = decode(text, "chan", SAID).cameras
    chosen = decode(text[text.index("\n") :], "chan", dataclasses.replace(SAID, rotation_order="XYZ")).cameras
    other = decode(text[text.index("\n") :], "chan", SAID).cameras
    assert torch.equal(stated.cam2world, chosen.cam2world) and not torch.allclose(stated.cam2world, other.cam2world)


def test_a_chan_without_field_of_view_takes_the_one_the_user_gives():
    assert torch.equal(decode("1 0 0 0 0 0 0\n", "chan", SAID).cameras.intrinsics[0], K)


def test_a_camera_under_a_moving_turned_and_scaled_parent_is_placed_in_the_world():
    document = _gltf(
        nodes=[
            {"name": "Camera", "camera": 0, "translation": [0, 0, 1]},
            {"children": [0], "scale": [2, 2, 2], "rotation": [0, HALF, 0, HALF], "translation": [5, 0, 0]},
        ]
    )
    document["animations"][0]["channels"] = [{"sampler": 0, "target": {"node": 1, "path": "translation"}}]
    cameras = decode(json.dumps(document), "gltf", SAID).cameras
    # the parent's quarter turn puts (0 0 1), doubled, onto +x; the animation replaces the parent's rest place
    assert torch.allclose(cameras.centers, torch.tensor([[2.0, 0, 0], [3, 0, 0]], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(cameras.cam2world[0, :3, 2], torch.tensor([-1.0, 0, 0], dtype=torch.float64), atol=1e-6)


def test_a_gltf_is_sampled_at_the_rate_the_user_asks_for():
    cameras = decode(json.dumps(_gltf()), "gltf", dataclasses.replace(SAID, fps=96)).cameras
    assert len(cameras) == 5
    assert cameras.centers[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-5)
    assert cameras.cam2world[2, :3, 2].tolist() == pytest.approx([-HALF, 0, HALF], abs=1e-5)


def test_step_and_cubic_curves_are_read():
    document = _gltf()
    for sampler in document["animations"][0]["samplers"]:
        sampler["interpolation"] = "STEP"
    stepped = decode(json.dumps(document), "gltf", dataclasses.replace(SAID, fps=96)).cameras
    assert stepped.centers[:, 0].tolist() == [0, 0, 0, 0, 1]
    spline = struct.pack("<2f", 0, 1) + struct.pack("<18f", *[0] * 12, 1, 0, 0, 0, 0, 0)
    uri = "data:;base64," + base64.b64encode(spline).decode()
    document = _gltf(buffers=[{"byteLength": len(spline), "uri": uri}])
    document["animations"][0]["samplers"] = [{"input": 0, "output": 1, "interpolation": "CUBICSPLINE"}]
    document["animations"][0]["channels"] = document["animations"][0]["channels"][:1]
    document["accessors"][1]["count"] = 6
    smooth = decode(json.dumps(document), "gltf", dataclasses.replace(SAID, fps=4)).cameras
    assert smooth.centers[:, 0].tolist() == pytest.approx([0, 0.15625, 0.5, 0.84375, 1])  # 3 t^2 - 2 t^3


def test_a_glb_and_a_bin_beside_the_gltf_are_read(tmp_path: Path):
    document = _gltf()
    blob = base64.b64decode(document["buffers"][0]["uri"].partition(",")[2])
    (tmp_path / "camera.bin").write_bytes(blob)
    (tmp_path / "camera.gltf").write_text(json.dumps(_gltf(buffers=[{"byteLength": 64, "uri": "camera.bin"}])))
    text = json.dumps(_gltf(buffers=[{"byteLength": len(blob)}])).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    (tmp_path / "camera.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
    for name in ("camera.gltf", "camera.glb"):
        cameras = path_formats.read(tmp_path / name, "auto", SAID).cameras
        assert torch.allclose(cameras.cam2world[1], torch.tensor(LEFT_LOOKING, dtype=torch.float64), atol=1e-6)


def test_recammaster_matrices_are_read_as_text_too():
    text = "\n".join(frame["cam01"] for frame in RECAM.values())
    assert decode(text, "auto", SAID).cameras.centers[1].tolist() == pytest.approx([1, 0, 0])


def test_an_omnicam_scene_uses_its_playblast_camera_and_its_easing():
    far = {**OMNI, "keyframes": [{"frame": 0, "camera": {"position": [9, 9, 9], "target": [0, 0, 0]}}]}
    near = {**OMNI, "duration_frames": 5, "keyframes": [OMNI_KEYS[0], dict(OMNI_KEYS[1], frame=4)]}
    scene = {
        "version": 1,
        "timeline": {},
        "cameras": [{"id": "a", "label": "Far", "track": far}, {"id": "b", "label": "Near", "track": near}],
        "playblast_camera_id": "b",
    }
    cameras = decode(json.dumps(scene), "auto", SAID).cameras
    assert cameras.centers[:, 0].tolist() == pytest.approx([0, 0.15625, 0.5, 0.84375, 1])  # t^2 (3 - 2 t)
    chosen = decode(json.dumps(scene), "auto", dataclasses.replace(SAID, camera="Far")).cameras
    assert chosen.centers[0].tolist() == [9, -9, -9]


def test_zoom_multiplies_the_focal_length():
    document = {**OMNI, "keyframes": [{"frame": 0, "camera": {**OMNI_KEYS[0]["camera"], "zoom": 2}}]}
    assert decode(json.dumps(document), "omnicam").cameras.intrinsics[0, 0, 0] == pytest.approx(300)


def test_spatia_intrinsics_beside_the_poses_are_used(tmp_path: Path):
    (tmp_path / "w2c.txt").write_text(SPATIA)
    (tmp_path / "intrinsics.txt").write_text("[0.75 1.25 0.5 0.5]")
    cameras = path_formats.read(tmp_path / "w2c.txt", "auto", ReadOptions(image_size=SIZE)).cameras
    assert torch.equal(cameras.intrinsics[0], K)
    assert torch.equal(read_spatia_intrinsics(b"0.75, 1.25, 0.5, 0.5", SIZE), K)


# What is damaged or ambiguous


def _chan(row: str) -> str:
    return CHAN + row + "\n"


def _nerf(**fields) -> str:
    return json.dumps({**NERF, "frames": NERF_FRAMES, **fields})


def _nerf_matrix(matrix) -> str:
    return _nerf(frames=[NERF_FRAMES[0], {"transform_matrix": matrix}])


def _omni_key(camera: dict, **fields) -> str:
    return json.dumps({**OMNI, "keyframes": [{"frame": 0, "camera": {**OMNI_KEYS[0]["camera"], **camera}, **fields}]})


OWN = json.loads(encode(left_looking_track(), "json")["camera.json"])
MIRRORED = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
TRANSPOSED = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [4, 5, 6, 1]]
DAMAGED = [
    ("realestate10k", RE10K + "1 2 3\n", "line 4 has 3 columns; RealEstate10K has 19"),
    ("realestate10k", RE10K.replace("41667 0.75", "41667 nan"), "line 3 is 'nan'; NaN"),
    ("realestate10k", RE10K.replace("41667 0.75", "41667 inf"), "line 3 is 'inf'; NaN"),
    ("realestate10k", RE10K.replace("41667 0.75", "41667 x"), "line 3 is 'x'; a number"),
    ("realestate10k", RE10K.replace("41667 0.75", "41667 0"), "line 3: the focal lengths are 0"),
    ("realestate10k", RE10K.replace(" 0.75 1.25 0.5 0.5", " 150 150 100 60"), "line 2: .* look like pixels"),
    ("realestate10k", RE10K.replace(" 0.5 0.5 0 0 ", " 0.5 0.5 0.1 0 "), "line 2: columns 6 and 7 .* distortion"),
    ("realestate10k", RE10K.replace("-1 0 0 1\n", "1 0 0 1\n"), "line 3 mirrors space .* choose axes opengl"),
    ("realestate10k", RE10K.replace("-1 0 0 1\n", "-2 0 0 1\n"), "line 3 is not a rotation"),
    ("realestate10k", "only a title\n", "no line of 19 columns"),
    ("nerfstudio", _nerf(k1=0.1), r"frame 0 \(b_2.png\) has lens distortion \(k1"),
    ("nerfstudio", _nerf(camera_model="OPENCV_FISHEYE"), "has a OPENCV_FISHEYE camera"),
    ("nerfstudio", _nerf_matrix(MIRRORED), "frame 1: transform_matrix mirrors space"),
    ("nerfstudio", _nerf_matrix(TRANSPOSED), "frame 1: transform_matrix has its translation in the last row"),
    ("nerfstudio", _nerf_matrix([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), "scales space by 2"),
    ("nerfstudio", _nerf_matrix([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "frame 1: transform_matrix is .*4 numbers"),
    ("nerfstudio", _nerf_matrix("none"), "a matrix of 3 or 4 rows"),
    ("nerfstudio", _nerf(frames=[{**NERF_FRAMES[0], "w": 10}, NERF_FRAMES[1]]), "different image sizes"),
    ("nerfstudio", _nerf(frames=[]), '"frames" is empty'),
    ("nerfstudio", _nerf(frames=[3]), '"frames" 0 is 3'),
    ("nerfstudio", _nerf(fl_x=0), "focal lengths are 0"),
    ("nerfstudio", _nerf(fl_x=True), "fl_x is True; a number"),
    ("nerfstudio", _nerf(w=1.5), "image width is 1.5; a whole number"),
    ("nerfstudio", _nerf(w=10**9), "the image is 1000000000x120"),
    ("nerfstudio", _nerf(fps=0), "frame rate is 0"),
    ("nerfstudio", json.dumps({"w": 9, "h": 9, "frames": NERF_FRAMES}), "neither fl_x nor camera_angle_x"),
    ("nerfstudio", json.dumps({"w": 9, "h": 9, "camera_angle_x": 9, "frames": NERF_FRAMES}), "between 0 and 3.14"),
    ("nerfstudio", json.dumps(NERF), '"frames" is missing'),
    ("nerfstudio", '{"frames": [\n{"w": NaN}]}', "holds NaN"),
    ("nerfstudio", '{"frames": [\n{"w": }]}', "line 2, column 7"),
    ("nerfstudio", "[" * 100_000, "nested too deeply"),
    ("nerfstudio", "[1]", "JSON list"),
    ("nerfstudio", _nerf(fl_x="1" * 400), "fl_x is"),
    ("nerfstudio", b"\xff\xfe\x00", "not a text file"),
    ("npy", b"no array", "not a .npy file"),
    ("npy", _npy(np.zeros((4, 4, 9))), r"shape \[4, 4, 9\].*np.moveaxis"),
    ("npy", _npy(np.zeros((9, 7))), "positions and quaternions"),
    ("npy", _npy(np.zeros((9, 17))), "poses_bounds"),
    ("npy", _npy(np.zeros((0, 4, 4))), "holds no matrix"),
    ("npy", _npy(np.full((2, 4, 4), np.nan)), "matrix 0 holds NaN"),
    ("npy", _npy(np.array([EYE, TRANSPOSED], dtype=float)), "matrix 1 has its translation in the last row"),
    ("npy", _npy(np.zeros((2, 4, 4))), "matrix 0 is not a rotation"),
    ("npy", _npy(np.array([EYE]))[:-8], "is damaged"),
    ("npy", _npy(np.array([{"a": 1}], dtype=object)), "pickled objects are never read"),
    ("chan", _chan("1003 1 2 3"), "line 4 has 4 columns"),
    ("chan", _chan("1003 1 2 3 4 5 6"), "line 4 has a different number of columns than line 2"),
    ("chan", _chan("1002 1 2 3 4 5 6 7"), "line 4: frame 1002 comes after frame 1002"),
    ("chan", _chan("1003 1 2 3 4 5 6 180"), "field of view of camera 2 is 180"),
    ("chan", _chan("1003 1 2 3 4 5 nan 45"), "line 4 is 'nan'"),
    ("chan", "# nothing\n", "has no frame"),
    ("gltf", _gltf(nodes=[{"name": "Mesh"}]), "has no camera"),
    ("gltf", _gltf(nodes=[{"camera": 0, "name": "A"}, {"camera": 0, "name": "B"}]), "cameras A, B. Choose one"),
    ("gltf", _gltf(nodes=[{"camera": 3}]), "points to camera 3"),
    ("gltf", _gltf(nodes=[{"camera": 0, "children": [0]}]), "each other's parents"),
    ("gltf", _gltf(nodes=[{"camera": 0, "scale": [1, 1, -1]}]), "mirrors space"),
    ("gltf", _gltf(nodes=[{"camera": 0, "scale": [1, 1, 2]}]), "is not a rotation"),
    ("gltf", _gltf(nodes=[{"camera": 0, "scale": [0, 0, 0]}]), "world scale is 0"),
    ("gltf", _gltf(animations=[], nodes=[{"camera": 0, "rotation": [0, 0, 0, 0]}]), "rotation of length 0"),
    ("gltf", _gltf(cameras=[{"type": "orthographic"}]), "camera 0 is 'orthographic'"),
    ("gltf", _gltf(cameras=[{"perspective": {"yfov": 4}}]), "field of view of camera 0"),
    ("gltf", _gltf(buffers=[{"uri": "../secret.bin"}]), "only a .bin in the same folder"),
    ("gltf", _gltf(buffers=[{"uri": "http://host/a.bin"}]), "only a .bin in the same folder"),
    ("gltf", _gltf(buffers=[{"uri": "data:text/plain,hello"}]), "without base64"),
    ("gltf", _gltf(buffers=[{"uri": "data:;base64,???"}]), "damaged base64"),
    ("gltf", _gltf(buffers=[{"uri": "data:;base64,AAAA"}]), "lies outside its buffer"),
    ("gltf", _gltf(bufferViews=[{"buffer": 5}]), "points to buffer 5"),
    ("gltf", _gltf(accessors=[]), "points to accessor 0"),
    ("gltf", b"glTF\x01\x00", "not version 2, or is cut off"),
    ("gltf", b"glTF" + struct.pack("<IIII", 2, 99, 99, 0) + b"abcd", "cut off in the middle"),
    ("gltf", b"glTF" + struct.pack("<III4s", 2, 20, 0, b"BIN\0"), "no JSON chunk"),
    ("recammaster", {"frame0": {"cam01": "[1 0 0]"}}, "frame0, cam01: ReCamMaster writes four rows"),
    ("recammaster", {"frame0": {"cam01": 3}}, "frame0 has no matrix for cam01"),
    ("recammaster", {"frame0": {"cam01": "", "cam02": ""}}, "cameras cam01, cam02. Choose one"),
    ("recammaster", {"frame": 3}, 'no "frame0"'),
    ("recammaster", "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 x 1]", "line 1 is 'x'"),
    ("spatia", SPATIA + "[[1, 2\n", "line 3 is no JSON matrix"),
    ("spatia", SPATIA + "[[1,0,0,0],[0,1,0,0],[0,0,1,NaN]]\n", "line 3 is nan"),
    ("spatia", SPATIA + f"{TRANSPOSED}\n", "line 3 has its translation in the last row"),
    ("spatia", "\n", "holds no matrix"),
    ("omnicam", {**OMNI, "keyframes": []}, "has no keyframes"),
    ("omnicam", {**OMNI, "schema_version": 2}, "version 2"),
    ("omnicam", {**OMNI, "constraints": {"look_at": "x"}}, "Bake it in OmniCam"),
    ("omnicam", {**OMNI, "width": None}, "image width is None"),
    ("omnicam", _omni_key({}, interpolation="bezier"), "frame 0 uses 'bezier' curves"),
    ("omnicam", _omni_key({"camera_type": "orthographic"}), "frame 0 is orthographic"),
    ("omnicam", _omni_key({"target": [0, 0, 0]}), "looks at its own position"),
    ("omnicam", _omni_key({"zoom": 0}), "zoom is 0"),
    ("omnicam", _omni_key({"position": [0, 0]}), "frame 0: position is"),
    ("omnicam", {"cameras": [{"id": "a", "label": "A"}], "playblast_camera_id": "b"}, "no camera 'b'; it has A"),
    ("omnicam", {"cameras": [], "cuts": [{"camera_id": "a"}, {"camera_id": "b"}]}, "cuts between several cameras"),
    ("worldscore", {**WORLDSCORE, "focal_length": 0}, "focal_length is 0"),
    ("worldscore", {**WORLDSCORE, "cameras_interp": []}, '"cameras_interp" is empty'),
    ("worldscore", {**WORLDSCORE, "cameras_interp": [MIRRORED]}, "cameras_interp 0 mirrors space"),
    ("json", {**OWN, "version": 2}, "has version 2; this Mirage reads version 1"),
    ("json", {**OWN, "format": "other"}, 'does not say "format"'),
    ("json", {**OWN, "image_size": [0, 5]}, "5x0 pixels"),
    ("json", {**OWN, "frames": [{}]}, "frame 0: cam2world is missing"),
    ("json", {**OWN, "frames": []}, "has no cameras"),
    ("json", {**OWN, "frames": [{**OWN["frames"][0], "cam2world": MIRRORED}]}, "frame 0: cam2world mirrors space"),
]


@pytest.mark.parametrize("name, content, message", DAMAGED, ids=[f"{n}-{m[:30]}" for n, _, m in DAMAGED])
def test_what_is_wrong_is_said_in_a_sentence_that_names_the_place(name: str, content: str | bytes | dict, message: str):
    data = json.dumps(content) if isinstance(content, dict) else content
    with pytest.raises(ValueError, match=message) as caught:
        decode(data, name, SAID)
    assert str(caught.value).startswith(f"[{name}] ") and str(caught.value).endswith((".", "?"))


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with one to three bytes, words or numbers changed, or its end missing."""
    words = (b"NaN", b"null", b"-1", b"1e999", b"[]", b"{}", b'"x"', b"9" * 30, b"true", b"", b"0")
    for _ in range(chance.randint(1, 3)):
        tokens = list(re.finditer(rb'-?\d+\.?\d*|"[^"]*"', data))
        at = chance.randrange(len(data) + 1)
        if tokens and chance.random() < 0.6:
            token = chance.choice(tokens)
            data = data[: token.start()] + chance.choice(words) + data[token.end() :]
        elif chance.random() < 0.8:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        else:
            data = data[:at]
    return data


@pytest.mark.parametrize("name", [*BY_HAND, "json"])
def test_no_damage_ends_in_anything_but_a_sentence(name: str):
    chance = random.Random(name)
    content = json.dumps(OWN) if name == "json" else BY_HAND[name]
    data = content.encode() if isinstance(content, str) else content
    for _ in range(60):
        for chosen in (name, "auto"):
            with contextlib.suppress(ValueError):
                decode(_mutated(data, chance), chosen, SAID)


COLMAP_DAMAGED = [
    (COLMAP_CAMERAS, COLMAP_IMAGES.replace(b" 7 b_2.png", b" 8 b_2.png"), "images.txt line 4 uses camera 8"),
    (
        COLMAP_CAMERAS,
        COLMAP_IMAGES.replace(b"5 1 0 0 0 ", b"5 2 0 0 0 "),
        "images.txt line 4: .* has length 2",
    ),
    (COLMAP_CAMERAS, b"1 1 0 0 0 0\n", "images.txt line 1 has 6 columns"),
    (COLMAP_CAMERAS, b"1 1 0 0 0 0 0 nan 7 a.png\n\n", "images.txt line 1 is 'nan'"),
    (COLMAP_CAMERAS, b"# nothing\n", "images.txt has no image"),
    (b"7 OPENCV 200 120 150 150 100 60 0.1 0 0 0\n", COLMAP_IMAGES, "cameras.txt line 1 has lens distortion"),
    (b"7 FOV 200 120 150 150 100 60 1\n", COLMAP_IMAGES, "cameras.txt line 1 has a FOV camera"),
    (b"7 PINHOLE 200 120 150\n", COLMAP_IMAGES, "PINHOLE has at least 4 parameters, not 1"),
    (b"7 PINHOLE 200 120 0 150 100 60\n", COLMAP_IMAGES, "focal length of 0"),
    (b"7 PINHOLE 200\n", COLMAP_IMAGES, "cameras.txt line 1 has 3 columns"),
    (
        COLMAP_CAMERAS + b"8 PINHOLE 20 12 15 15 10 6\n",
        COLMAP_IMAGES.replace(b" 7 b_2.png", b" 8 b_2.png"),
        "different sizes",
    ),
]


@pytest.mark.parametrize("cameras, images, message", COLMAP_DAMAGED, ids=[m[:40] for *_, m in COLMAP_DAMAGED])
def test_what_is_wrong_with_a_colmap_model_is_said_with_file_and_line(cameras: bytes, images: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        read_colmap(cameras, images, SAID)


def test_colmap_models_without_lines_of_points_are_read():
    text = b"\n".join(line for line in COLMAP_IMAGES.splitlines() if b"png" in line)
    assert len(read_colmap(COLMAP_CAMERAS, text, SAID).cameras) == 2


def test_zero_distortion_is_a_pinhole():
    models = b"7 OPENCV 200 120 150 150 100 60 0 0 0 0\n"
    assert torch.equal(read_colmap(models, COLMAP_IMAGES, SAID).cameras.intrinsics[0], K)
    assert len(decode(_nerf(k1=0, k2=0.0, p1=0, p2=0), "nerfstudio").cameras) == 2


@pytest.mark.parametrize("name", ["realestate10k", "npy", "chan", "gltf", "recammaster", "spatia", "worldscore"])
def test_what_a_file_does_not_say_is_asked_for(name: str):
    with pytest.raises(ValueError, match=r"Give the (image size|field of view)"):
        decode(BY_HAND[name], name)


def test_a_gltf_from_a_download_cannot_reach_other_folders(tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(bytes(200))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    for uri in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "missing.bin", "..", "%2e%2e/secret.bin"):
        (inside / "camera.gltf").write_text(json.dumps(_gltf(buffers=[{"byteLength": 64, "uri": uri}])))
        with pytest.raises(ValueError, match=r"same folder|not beside"):
            path_formats.read(inside / "camera.gltf", "auto", SAID)


@pytest.mark.parametrize(
    "data, message",
    [
        ("hello", "no camera file Mirage knows"),
        ("", "no camera file Mirage knows"),
        ('{"a": 1}', "its fields: a"),
        ('{"format": "mirage camera path", "keyframes": []}', "Camera Path node"),
        ("# Camera list with one line of data per camera:\n", "give the folder"),
    ],
)
def test_a_file_of_no_known_format_says_what_was_looked_for(data: str, message: str):
    with pytest.raises(ValueError, match=message):
        decode(data)


def test_files_that_are_not_there_and_formats_that_do_not_exist_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no file 'none.txt'"):
        path_formats.read(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"neither cameras.txt and images.txt nor transforms.json"):
        path_formats.read(tmp_path)
    with pytest.raises(ValueError, match="Unknown camera format 'fbx'"):
        decode(b"", "fbx")
    with pytest.raises(ValueError, match="read but not written"):
        encode(left_looking_track(), "worldscore")
    with pytest.raises(ValueError, match="rotation order is 'XXY'"):
        decode(CHAN, "chan", dataclasses.replace(SAID, rotation_order="xxy"))


def _changed(**changes) -> CameraTrack:
    track = left_looking_track()
    intrinsics = track.cameras.intrinsics.clone()
    for (row, column), value in changes.get("entries", {}).items():
        intrinsics[1, row, column] = value
    return track.with_cameras(Cameras(track.cameras.cam2world, intrinsics, SIZE))


@pytest.mark.parametrize("name", ["chan", "gltf", "omnicam"])
@pytest.mark.parametrize("entries, message", [({(0, 2): 103.0}, "3 pixels off"), ({(1, 1): 160.0}, "not square")])
def test_a_format_refuses_a_lens_it_would_change(name: str, entries: dict, message: str):
    with pytest.raises(ValueError, match=message):
        encode(_changed(entries=entries), name)


def test_one_lens_formats_refuse_a_zoom():
    zoomed = _changed(entries={(0, 0): 300.0, (1, 1): 300.0})
    for name, message in (("gltf", "a glTF camera has one"), ("spatia", "Spatia has one")):
        with pytest.raises(ValueError, match=message):
            encode(zoomed, name)


@pytest.mark.parametrize("name", ["realestate10k", "nerfstudio", "colmap"])
def test_a_skew_is_refused(name: str):
    with pytest.raises(ValueError, match="skewed pixels"):
        encode(_changed(entries={(0, 1): 1.0}), name)
