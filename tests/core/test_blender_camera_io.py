"""The Blender script in a real Blender (the bpy wheel), and its matrices by Blender's own projection.

Blender is an executable or a wheel of some hundred MB: the tests run where `import bpy` works in this Python, or in the
one named by $MIRAGE_BPY_PYTHON, and skip elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mirage_core.camera import Cameras
from mirage_core.path_formats import CameraTrack, decode, encode
from tests.core.camera_tracks import (
    SIZE,
    left_looking_track,
    lens_between,
    random_track,
    shift_between,
    turn_between,
)

SCRIPT = Path(__file__).parents[2] / "workflows" / "blender" / "mirage_camera_io.py"

# Runs inside Blender: import every file, say where a point lands by Blender's own projection, export it again.
DRIVER = """
import importlib.util, json, os, sys
import bpy
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector

spec = importlib.util.spec_from_file_location("mirage_camera_io", sys.argv[1])
io = importlib.util.module_from_spec(spec)
spec.loader.exec_module(io)
io.register()
folder, count = sys.argv[2], int(sys.argv[3])
seen = []
for index in range(count):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    io.import_camera(f"{folder}/in_{index}.json")
    scene, views = bpy.context.scene, []
    for frame in range(scene.frame_start, scene.frame_end + 1):
        scene.frame_set(frame)
        point = io.WORLD @ Vector((0.3, -0.2, 4.0))
        views.append(list(world_to_camera_view(scene, scene.camera, point)))
    seen.append(views)
    io.export_camera(f"{folder}/out_{index}.json")
with open(f"{folder}/seen.json", "w") as file:
    json.dump(seen, file)
if count == 1:
    lens, fits = scene.camera.data, []
    for fit in ("AUTO", "HORIZONTAL", "VERTICAL"):
        for size in ((200, 120), (120, 200)):
            lens.animation_data_clear()
            lens.sensor_fit, lens.sensor_width, lens.sensor_height, lens.lens = fit, 30, 20, 28
            lens.shift_x, lens.shift_y = 0.1, -0.2
            scene.render.resolution_x, scene.render.resolution_y = size
            path = f"{folder}/fit_{len(fits)}.json"
            io.export_camera(path)
            scene.frame_set(scene.frame_start)
            fits.append(list(world_to_camera_view(scene, scene.camera, io.WORLD @ Vector((0.1, -0.2, 4.0)))))
    with open(f"{folder}/fits.json", "w") as file:
        json.dump(fits, file)
    scene.render.resolution_x, scene.render.resolution_y = 200, 120
    parent = bpy.data.objects.new("Parent", None)
    scene.collection.objects.link(parent)
    parent.location, parent.scale = (0, 0, 2), (3, 3, 3)
    scene.camera.parent = parent
    io.export_camera(f"{folder}/parent.json")
    scene.camera.data.type = "ORTHO"
    try:
        io.export_camera(f"{folder}/ortho.json")
    except ValueError as error:
        with open(f"{folder}/error.txt", "w") as file:
            file.write(str(error))
os._exit(0)  # the bpy wheel can hang while the interpreter shuts down
"""


@pytest.fixture(scope="module")
def python_with_blender() -> str:
    python = os.environ.get("MIRAGE_BPY_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import bpy"], capture_output=True, timeout=120)
    if found.returncode:
        pytest.skip(f"no Blender: `import bpy` fails in {python} (pip install bpy, or set MIRAGE_BPY_PYTHON)")
    return python


def _through_blender(python: str, tracks: list[CameraTrack], folder: Path) -> list[CameraTrack]:
    for index, track in enumerate(tracks):
        (folder / f"in_{index}.json").write_bytes(encode(track, "json")["camera.json"])
    command = [python, "-c", DRIVER, str(SCRIPT), str(folder), str(len(tracks))]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return [decode((folder / f"out_{index}.json").read_bytes()) for index in range(len(tracks))]


def test_100_random_paths_survive_blender(python_with_blender: str, tmp_path: Path):
    tracks = []
    for seed in range(100):
        track = random_track(seed)
        intrinsics = track.cameras.intrinsics.clone()
        intrinsics[:, 1, 1] = intrinsics[:, 0, 0]  # Blender's pixels are square; the off-centre stays
        tracks.append(track.with_cameras(Cameras(track.cameras.cam2world, intrinsics, SIZE)))
    backs = _through_blender(python_with_blender, tracks, tmp_path)
    for track, back in zip(tracks, backs, strict=True):
        # Blender computes in float32: 6e-8 relative, a few products deep; a lens of 600 pixels keeps 1e-4 of one.
        assert turn_between(track.cameras, back.cameras) < 2e-6
        assert shift_between(track.cameras, back.cameras) < 1e-6
        assert lens_between(track.cameras, back.cameras) < 1e-3
        assert back.fps == pytest.approx(track.fps, rel=1e-6) and back.cameras.image_size == SIZE


def test_blender_sees_a_point_where_mirage_sees_it(python_with_blender: str, tmp_path: Path):
    track = random_track(4)
    intrinsics = track.cameras.intrinsics.clone()
    intrinsics[:, 1, 1] = intrinsics[:, 0, 0]
    track = track.with_cameras(Cameras(track.cameras.cam2world, intrinsics, SIZE))
    _through_blender(python_with_blender, [track], tmp_path)
    point = torch.tensor([0.3, -0.2, 4.0, 1.0], dtype=torch.float64)
    projected = track.cameras.intrinsics @ (track.cameras.world2cam @ point)[:, :3, None]
    pixels = (projected[:, :2] / projected[:, 2:])[..., 0]
    # Blender: shares of the picture from its lower left corner, and the depth along the view
    seen = torch.tensor(json.loads((tmp_path / "seen.json").read_text())[0], dtype=torch.float64)
    assert torch.allclose(seen[:, 2], projected[:, 2, 0], rtol=1e-4, atol=1e-4)
    in_pixels = torch.stack([seen[:, 0] * SIZE[1], (1 - seen[:, 1]) * SIZE[0]], dim=1)
    is_ahead = projected[:, 2, 0] > 0  # Blender mirrors what lies behind the camera
    assert is_ahead.any()
    assert torch.allclose(in_pixels[is_ahead], pixels[is_ahead], rtol=1e-4, atol=1e-2)


def test_blender_exports_what_parents_do_to_a_camera_and_refuses_orthographic_ones(
    python_with_blender: str, tmp_path: Path
):
    _through_blender(python_with_blender, [left_looking_track()], tmp_path)
    cameras = decode((tmp_path / "parent.json").read_bytes()).cameras
    # two up is -2 along our y; the parent triples the one unit to the right but not the camera's own axes
    assert torch.allclose(cameras.centers, torch.tensor([[0.0, -2, 0], [3, -2, 0]], dtype=torch.float64), atol=1e-5)
    assert "perspective" in (tmp_path / "error.txt").read_text()


def test_every_sensor_fit_and_shift_of_blender_becomes_the_right_intrinsics(python_with_blender: str, tmp_path: Path):
    _through_blender(python_with_blender, [left_looking_track()], tmp_path)
    point = torch.tensor([0.1, -0.2, 4.0, 1.0], dtype=torch.float64)  # the first camera is the identity
    for index, seen in enumerate(json.loads((tmp_path / "fits.json").read_text())):
        cameras = decode((tmp_path / f"fit_{index}.json").read_bytes()).cameras
        height, width = cameras.image_size
        x, y, z = (cameras.intrinsics[0] @ point[:3]).tolist()
        assert [x / z, y / z] == pytest.approx([seen[0] * width, (1 - seen[1]) * height], abs=1e-3)


def test_the_script_needs_nothing_but_blender():
    imports = [line for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["import json", "import bpy", "from mathutils import Matrix"]
