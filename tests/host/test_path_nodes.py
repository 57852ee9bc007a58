"""Path Check, interchange, Camera Receipt and exports beside the real host, on a film whose every camera is known."""

from __future__ import annotations

import importlib
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.path_formats import FORMATS, WORLDSCORE_MOVES, CameraTrack, encode, read, worldscore_cameras
from mirage_core.path_presets import preset
from mirage_core.rollout import Rollout, Shot
from tests.core.scenes import furnished_room, ray_cast

SIZE = (64, 96)
CELLS = (4, 6)
K = pinhole_intrinsics(60.0, SIZE)
DEPTH = 4.0


@pytest.fixture(scope="module")
def nodes(host, pack, tmp_path_factory):
    """The pack's nodes, in a host whose input and output folders are the test's own."""
    folders = host.folder_paths
    before = folders.get_input_directory(), folders.get_output_directory()
    folders.set_input_directory(str(tmp_path_factory.mktemp("input")))
    folders.set_output_directory(str(tmp_path_factory.mktemp("output")))
    found = {}
    for module in ("check_nodes", "path_nodes", "camera_socket_nodes", "receipt_nodes", "export_nodes", "host_files"):
        found |= vars(pack(module))
    yield types.SimpleNamespace(
        **found, input=Path(folders.get_input_directory()), output=Path(folders.get_output_directory())
    )
    folders.set_input_directory(before[0])
    folders.set_output_directory(before[1])


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def path_cameras(name="orbit_left", amount=20.0, frames=37) -> Cameras:
    return preset(name, amount=amount, easing="linear").cameras(
        frames, intrinsics=K, image_size=SIZE, unit_length=DEPTH
    )


def shot(name="orbit_left", amount=20.0, frames=37) -> Shot:
    return Shot(preset(name, amount=amount, easing="linear"), frames, SIZE, fov_degrees=60.0)


def film(cameras: Cameras | None = None) -> Rollout:
    """A finished film of random latents in a furnished room; what was remembered lies exactly on its walls."""
    cameras = cameras or path_cameras()
    torch.manual_seed(5)
    first = torch.randn(48, 1, *CELLS)
    depth = ray_cast(furnished_room(), cameras[[0]], CELLS).depth.float()
    memory = LatentMemory(WAN22).extended(lift(first, depth, cameras[[0]], WAN22))
    rollout = Rollout.started(memory, first, cameras, unit_length=DEPTH)
    while not rollout.is_finished:
        segment = rollout.next_segment
        targets = rollout.cameras_of(segment)
        latents = torch.randn(48, segment.latent_frames, *CELLS)
        depth = ray_cast(furnished_room(), targets, CELLS).depth.float()
        block = lift(latents[:, 1:], depth[1:], targets[1:], WAN22, first_latent_index=rollout.film.shape[1])
        rollout = rollout.extended(latents, rollout.view(segment), block)
    return rollout


def begun() -> Rollout:
    done = film()
    return Rollout.started(
        LatentMemory(WAN22, done.memory.blocks[:1]), done.latents[0], done.cameras, unit_length=DEPTH
    )


LOAD = {
    "file": "none", "format": "auto", "scale": "keep", "scene_depth": 1.0, "distance": 1.0, "lens": "picture",
    "length": 0, "width": SIZE[1], "height": SIZE[0], "fps": 0.0,
}  # fmt: skip


def loaded(nodes, **changes):
    return run(nodes.LoadCameraPath, **(LOAD | changes))


def in_scene(order: Shot) -> Cameras:
    return order.cameras(intrinsics=K, unit_length=DEPTH)


# Path Check


def test_the_check_tells_the_verdict_the_suggestion_and_the_estimate(nodes):
    report, strip, ok = run(nodes.PathCheck, memory=begun(), path=shot("pan_left", 90, 33))
    assert report.startswith("RED: At frame") and "slow to 0.3" in report and "PFLOP" in report and not ok
    assert strip.shape[0] == 1 and strip.shape[-1] == 3 and strip.shape[2] == 1100
    assert run(nodes.PathCheck, memory=begun(), path=shot("orbit_left", 10, 33))[2] is True


def test_without_a_path_the_check_looks_at_what_is_left_of_the_films_own(nodes):
    whole, rest = begun(), film()
    assert "37 frames (2.3 s" in run(nodes.PathCheck, memory=whole)[0]
    half = Rollout.started(whole.memory, whole.latents[0], whole.cameras, unit_length=DEPTH)
    half = half.extended(torch.randn(48, 9, *CELLS), half.view(half.next_segment))
    assert "5 frames (0.3 s" in run(nodes.PathCheck, memory=half)[0]
    assert "37 frames" in run(nodes.PathCheck, memory=rest)[0], "a finished film is checked whole"


def test_a_new_path_is_checked_from_where_the_film_is(nodes):
    report = run(nodes.PathCheck, memory=film(), path=shot("static", 0.0, 33))[0]
    assert report.startswith("GREEN") and "33 frames" in report


def test_the_models_own_size_is_used(nodes):
    tiny = types.SimpleNamespace(
        model=types.SimpleNamespace(diffusion_model=torch.nn.Linear(10, 10)), model_size=lambda: 2**30
    )
    small = run(nodes.PathCheck, memory=begun(), model=tiny)[0]
    assert "1.0 GiB for weights" in small and "1.0 GiB" not in run(nodes.PathCheck, memory=begun())[0]


def test_a_path_of_another_size_is_refused_by_the_check(nodes):
    other = Shot(preset("static"), 33, (96, 96))
    with pytest.raises(ValueError, match=r"96x96 pixels, the film is 96x64"):
        run(nodes.PathCheck, memory=begun(), path=other)


# Load and Save Camera Path


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.write])
def test_a_saved_path_loads_as_the_same_cameras(nodes, name):
    saved = run(nodes.SaveCameraPath, format=name, filename_prefix=f"round/{name}", path=shot(), memory=begun())[0]
    assert (nodes.output / saved).exists()
    file = f"{saved}/w2c.txt" if name == "spatia" else saved
    order, report = loaded(nodes, file=f"{file} [output]", format=name, lens="file", file_fov=60.0)
    assert torch.allclose(in_scene(order).cam2world, path_cameras().cam2world, atol=2e-6)
    if "you give them" not in FORMATS[name].intrinsics:
        assert order.fov_degrees == pytest.approx(60.0, abs=1e-4)
    assert "37 cameras" in report


def test_a_memory_without_a_path_saves_its_films_cameras(nodes):
    saved = run(nodes.SaveCameraPath, format="json", filename_prefix="film", memory=film())[0]
    assert torch.equal(read(nodes.output / saved).cameras.cam2world, film().cameras.cam2world)


def test_files_get_numbers_and_never_overwrite(nodes):
    names = [run(nodes.SaveCameraPath, format="chan", filename_prefix="twice/x", path=shot())[0] for _ in range(3)]
    assert names == ["twice/x_00001.chan", "twice/x_00002.chan", "twice/x_00003.chan"]


def test_pasted_text_is_read(nodes):
    text = encode(CameraTrack(path_cameras(), 24.0), "realestate10k")["camera.txt"].decode()
    order, report = loaded(nodes, text=text)
    assert torch.allclose(in_scene(order).cam2world, path_cameras().cam2world, atol=1e-9)
    assert order.fps == pytest.approx(24.0, rel=1e-3) and "37 cameras" in report


def test_a_mirage_path_of_keyframes_is_taken_as_it_is(nodes):
    order = loaded(nodes, text=preset("dolly_in").to_json())[0]
    assert order.path.to_json() == preset("dolly_in").to_json() and order.frames == 97


def test_the_three_scales_do_what_they_say(nodes):
    text = encode(CameraTrack(path_cameras("dolly_in", 0.5)), "json")["camera.json"].decode()  # 2 units long
    ends = {
        "keep": loaded(nodes, text=text, scale="keep")[0],
        "fit": loaded(nodes, text=text, scale="fit median depth", scene_depth=8.0)[0],
        "known": loaded(nodes, text=text, scale="known distance", distance=3.0)[0],
    }
    assert {name: round(float(in_scene(order).centers[-1, 2]), 9) for name, order in ends.items()} == {
        "keep": 2.0, "fit": 2.0 / 8.0 * DEPTH, "known": 3.0,
    }  # fmt: skip


def test_a_length_stretches_the_whole_move_and_0_keeps_the_frames(nodes):
    text = encode(CameraTrack(path_cameras("dolly_in", 0.5, 40)), "json")["camera.json"].decode()
    kept, report = loaded(nodes, text=text)
    stretched = loaded(nodes, text=text, length=97)[0]
    assert kept.frames == 37 and "40 cameras became 37 frames" in report
    assert torch.allclose(in_scene(kept).centers, path_cameras("dolly_in", 0.5, 40).centers[:37], atol=1e-9)
    assert stretched.frames == 97 and float(in_scene(stretched).centers[-1, 2]) == pytest.approx(2.0)


def test_lens_picture_leaves_the_field_of_view_to_the_picture(nodes):
    cameras = path_cameras()
    zoomed = cameras.intrinsics.clone()
    zoomed[:, [0, 1], [0, 1]] *= torch.linspace(1, 2, 37)[:, None]
    zoomed[:, 0, 2] += 2
    text = encode(CameraTrack(Cameras(cameras.cam2world, zoomed, SIZE)), "json")["camera.json"].decode()
    order, report = loaded(nodes, text=text, lens="picture")
    assert torch.allclose(in_scene(order).intrinsics, K.expand(37, 3, 3)) and order.fov_degrees is None
    assert "zooms" in report and "2.0 pixels off" in report
    zoom = in_scene(loaded(nodes, text=text, lens="file")[0]).intrinsics[:, 0, 0]
    assert float(zoom[-1] / zoom[0]) == pytest.approx(2.0)


def test_the_first_camera_of_an_imported_path_is_the_identity(nodes):
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = (
        path_cameras("pan_left", 70, 5).cam2world[-1, :3, :3],
        torch.tensor([3.0, 1.0, -2.0]),
    )
    text = encode(CameraTrack(path_cameras().moved(motion)), "json")["camera.json"].decode()
    assert torch.allclose(in_scene(loaded(nodes, text=text)[0]).cam2world, path_cameras().cam2world, atol=1e-9)


def test_the_menu_lists_camera_files_and_colmap_folders(nodes):
    for name, content in encode(CameraTrack(path_cameras()), "colmap").items():
        (nodes.input / "scan").mkdir(exist_ok=True)
        (nodes.input / "scan" / name).write_bytes(content)
    (nodes.input / "move.chan").write_text("x")
    (nodes.input / "holiday.png").write_text("x")
    listed = nodes.listed_input({".chan", ".txt"})
    assert "scan" in listed and "move.chan" in listed and "holiday.png" not in listed
    assert torch.allclose(in_scene(loaded(nodes, file="scan")[0]).cam2world, path_cameras().cam2world, atol=1e-6)
    assert nodes.LoadCameraPath.validate_inputs("scan") is True
    before = nodes.LoadCameraPath.fingerprint_inputs("scan", text="")
    (nodes.input / "scan" / "images.txt").write_text("changed")
    assert nodes.LoadCameraPath.fingerprint_inputs("scan", text="") != before


ODD_NAMES = [
    "../x.json",
    "/etc/passwd",
    "a/../../x.json",
    "\x00",
    "a\nb.json",
    "",
    "  ",
    "\u202egnp.json",
    "no such.json",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_outside_the_input_folder_are_refused_with_a_sentence(nodes, name):
    said = nodes.LoadCameraPath.validate_inputs(name)
    assert isinstance(said, str) and ("input folder" in said)
    with pytest.raises(ValueError, match="input folder"):
        loaded(nodes, file=name)


def test_a_link_that_leads_out_of_the_input_folder_is_refused(nodes, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (nodes.input / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match="outside of ComfyUI's input folder"):
        loaded(nodes, file="link.json")


@pytest.mark.parametrize("prefix", [
    "", "../out", "/tmp/out", "a//b", "a/../b", "..", "C:/x", "a\\b", "x\x00", "x\n", "n\u0430me", "\u202ex", "con",
    "x.", " x", "a/" + "x" * 201,
])  # fmt: skip
def test_names_outside_the_output_folder_and_odd_letters_are_refused(nodes, prefix):
    for node, inputs in (
        (nodes.SaveCameraPath, {"format": "json", "path": shot()}),
        (nodes.ExportMemory, {"memory": begun(), "what": "points .ply"}),
    ):
        with pytest.raises(ValueError, match="no name for a file in the output folder"):
            run(node, filename_prefix=prefix, **inputs)


def test_a_link_that_leads_out_of_the_output_folder_is_not_written_through(nodes, tmp_path):
    (nodes.output / "away").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(Exception, match="outside the output folder"):
        run(nodes.SaveCameraPath, format="json", filename_prefix="away/x", path=shot())
    assert not list(tmp_path.iterdir())


CHAN = "1 0 0 0 0 0 0 50\n2 0 0 1 0 0 0 50\n"
STILL_CHAN = "1 0 0 0 0 0 0 50\n2 0 0 0 0 0 0 50\n"


@pytest.mark.parametrize("changes, words", [
    ({"text": ""}, "no text is pasted"),
    ({"text": "hello"}, "no camera file Mirage knows"),
    ({"text": "{"}, "line 1"),
    ({"text": CHAN, "format": "chan"}, "too few for a film"),
    ({"text": CHAN, "format": "chan", "length": 30}, "4n\\+1"),
    ({"text": STILL_CHAN, "format": "chan", "scale": "known distance"}, "stand in one place"),
])  # fmt: skip
def test_paths_that_cannot_be_read_are_refused(nodes, changes, words):
    with pytest.raises(ValueError, match=words):
        loaded(nodes, **changes)


def test_there_must_be_something_to_save(nodes):
    with pytest.raises(ValueError, match="connect a path, a memory, or both"):
        run(nodes.SaveCameraPath, format="json", filename_prefix="x")


# WorldScore and the host's sockets


@pytest.mark.parametrize("move", WORLDSCORE_MOVES)
def test_the_ten_moves_are_the_benchmarks(nodes, move):
    order = run(nodes.WorldScoreMoves, move=move, frames_per_move=33, unit=0.5, width=96, height=64, fps=16.0)[0]
    asked = worldscore_cameras([move], 33, intrinsics=K, image_size=SIZE, unit=0.5 * DEPTH)
    assert torch.allclose(in_scene(order).cam2world, asked.cam2world, atol=1e-9)


def test_moves_follow_one_another(nodes):
    inputs = {"frames_per_move": 17, "unit": 1.0, "width": 96, "height": 64, "fps": 16.0}
    order = run(nodes.WorldScoreMoves, move="push_in", then="pan_left", last="pull_out", **inputs)[0]
    assert order.frames == 49
    with pytest.raises(ValueError, match="4n\\+1"):
        run(nodes.WorldScoreMoves, **(inputs | {"move": "push_in", "frames_per_move": 18}))


FILM = {"length": 0, "width": 96, "height": 64, "fps": 16.0, "lens": "file"}


def test_a_path_goes_through_the_wan_embedding_and_back(nodes):
    embedding, width, height, length = run(nodes.CameraPathToWan, path=shot(), memory=begun())
    assert (width, height, length) == (96, 64, 37) and embedding.shape == (1, 24, 10, 64, 96)
    back = run(nodes.CameraPathFromWan, camera_embedding=embedding, scene_depth=DEPTH, **FILM)[0]
    assert torch.allclose(in_scene(back).cam2world, path_cameras().cam2world, atol=1e-4)
    assert back.fov_degrees == pytest.approx(60.0, abs=1e-3)


def test_the_hosts_own_wan_cameras_become_a_path(nodes):
    trajectory = importlib.import_module("comfy_extras.nodes_camera_trajectory")
    embedding = trajectory.WanCameraEmbedding.execute("Zoom In", 96, 64, 33, fx=0.5, fy=0.8).result[0]
    order = run(nodes.CameraPathFromWan, camera_embedding=embedding, scene_depth=0.0, **FILM)[0]
    assert order.frames == 33 and float(in_scene(order).centers[-1, 2]) == pytest.approx(1.5 * 2 * 32 / 33, abs=1e-4)


def test_a_path_goes_through_the_3d_viewers_cameras_and_back(nodes):
    views = [run(nodes.CameraPathTo3D, path=shot(), memory=begun(), frame=frame)[0] for frame in (0, 12, 24, 36)]
    inputs = FILM | {"length": 37, "scale": "fit"}
    back = run(nodes.CameraPathFrom3D, first=views[0], second=views[1], third=views[2], last=views[3], **inputs)[0]
    for frame in (0, 12, 24, 36):
        assert torch.allclose(in_scene(back).cam2world[frame], path_cameras().cam2world[frame], atol=1e-6)
    assert back.fov_degrees == pytest.approx(60.0)


def test_what_the_sockets_cannot_hold_is_refused(nodes):
    with pytest.raises(ValueError, match="frames 0 to 36; frame 37"):
        run(nodes.CameraPathTo3D, path=shot(), frame=37)
    view = run(nodes.CameraPathTo3D, path=shot(), frame=0)[0]
    with pytest.raises(ValueError, match="stands on the point it looks at"):
        run(
            nodes.CameraPathFrom3D,
            first=view | {"target": view["position"]},
            last=view,
            **(FILM | {"length": 5, "scale": "fit"}),
        )
    with pytest.raises(ValueError, match="orthographic"):
        run(
            nodes.CameraPathFrom3D,
            first=view | {"cameraType": "orthographic"},
            last=view,
            **(FILM | {"length": 5, "scale": "fit"}),
        )
    with pytest.raises(ValueError, match="WanCameraEmbedding"):
        run(nodes.CameraPathFromWan, camera_embedding=torch.zeros(1, 6, 3, 8, 8), scene_depth=1.0, **FILM)


# Camera Receipt


def packet(cameras: Cameras, *, scale: float = 0.3, model_size=(140, 210)) -> dict:
    """Cameras as the host's Depth Anything 3 node gives them: float32, another scale, its own resolution."""
    at_model = cameras.resized(model_size)
    world2cam = at_model.world2cam.clone()
    world2cam[:, :3, 3] *= scale
    return {
        "depth": torch.ones(len(cameras), *SIZE), "mode": "multiview",
        "extrinsics": world2cam[None, :, :3].float(), "intrinsics": at_model.intrinsics[None].float(),
    }  # fmt: skip


def test_exact_cameras_get_a_receipt_without_errors(nodes):
    memory = film()
    report, document, plot = run(
        nodes.CameraReceipt, memory=memory, geometry=packet(memory.cameras[list(range(0, 37, 4))])
    )
    told = json.loads(document)
    assert told["frames"] == list(range(0, 37, 4)) and max(told["rotation_degrees"]) < 1e-3
    assert max(told["translation"]) < 1e-5 and told["worldscore"]["score"] > 0.999
    assert [one["frames"] for one in told["segments"]] == [9, 1]
    assert "camera control 100.0 of 100" in report and "estimated 60.0 degrees, asked 60.0" in report
    assert plot.shape[-1] == 3


def test_a_film_that_turned_too_far_gets_its_degrees_told(nodes):
    memory = film(path_cameras("pan_left", 20.0))
    report, document, _ = run(nodes.CameraReceipt, memory=memory, geometry=packet(path_cameras("pan_left", 24.0)))
    told = json.loads(document)
    assert max(told["rotation_degrees"]) == pytest.approx(2.0, abs=0.01), "4 degrees, shared out by the alignment"
    assert told["worldscore"]["rotation_degrees"] == pytest.approx(2.0, abs=0.01), "0 at the start, 4 at the end"
    assert set(told["translation"]) == {None} and "no move to compare" in report


@pytest.mark.parametrize("change, words", [
    (lambda told: told.pop("extrinsics"), "multiview"),
    (lambda told: told.update(intrinsics=torch.eye(3).expand(1, 37, 3, 3)), "estimates no cameras"),
    (lambda told: told.update(extrinsics=told["extrinsics"] * torch.nan), "NaN"),
    (lambda told: told.update(packet(path_cameras(frames=41))), "41 estimated cameras and 37 filmed"),
    (lambda told: told.update(packet(path_cameras(frames=1))), "at least 2"),
])  # fmt: skip
def test_a_geometry_without_cameras_of_the_film_is_refused(nodes, change, words):
    told = packet(path_cameras())
    change(told)
    with pytest.raises(ValueError, match=words):
        run(nodes.CameraReceipt, memory=film(), geometry=told)


def test_a_film_that_is_not_filmed_has_no_receipt(nodes):
    with pytest.raises(ValueError, match="Nothing has been filmed"):
        run(nodes.CameraReceipt, memory=begun(), geometry=packet(path_cameras()))


# Exports


def vertices(path: Path) -> np.ndarray:
    content = path.read_bytes()
    head, body = content.split(b"end_header\n", 1)
    kinds = {"float": "<f4", "uchar": "u1", "int": "<i4"}
    words = [line.split() for line in head.decode().splitlines() if line.startswith("property")]
    return np.frombuffer(body, dtype=[(name, kinds[kind]) for _, kind, name in words])


def test_everything_is_written_and_fits_together(nodes):
    memory = film()
    folder, ply = run(nodes.ExportMemory, memory=memory, what="everything", filename_prefix="out/flight")
    folder = nodes.output / folder
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "cameras.csv", "cameras.json", "colmap/sparse/0/cameras.txt", "colmap/sparse/0/images.txt",
        "colmap/sparse/0/points3D.txt", "film.json", "points.ply",
    ]  # fmt: skip
    points = vertices(nodes.output / ply)
    assert np.allclose(np.stack([points[axis] for axis in "xyz"], 1), memory.memory.points.numpy())
    assert np.array_equal(points["latent_index"], memory.memory.latent_index.numpy())
    back = read(folder / "colmap" / "sparse" / "0").cameras
    assert torch.allclose(back.cam2world, memory.cameras.cam2world, atol=1e-9)
    assert len((folder / "cameras.csv").read_text().splitlines()) == 1 + 37
    told = json.loads((folder / "film.json").read_text())
    assert (told["points"], told["filmed_frames"], told["median_depth"]) == (len(points), 37, DEPTH)
    assert [one["first_frame"] for one in told["segments"]] == [0, 33] and len(told["segments"][0]["known"]) == 9


def test_points_take_the_rough_colours_of_their_latents(nodes, pack):
    memory = begun()
    ply = run(nodes.ExportMemory, memory=memory, what="points .ply", filename_prefix="rough")[1]
    points = vertices(nodes.output / ply)
    rough = pack("host_latents").latent_preview(memory.latents[0])[0].reshape(-1, 3)
    red = np.round(rough[:, 0].numpy() * 255)
    assert np.abs(points["red"].astype(float) - red).max() <= 1


def test_points_take_the_colours_of_the_frames_they_came_from(nodes):
    """Each frame shows its number as red and the place as green and blue: every point must find its own."""
    memory = film()
    images = torch.zeros(37, *SIZE, 3)
    images[..., 0] = (torch.arange(37) / 255 * 5)[:, None, None]
    images[..., 1] = (torch.arange(SIZE[0]) + 0.5)[:, None] / SIZE[0]
    images[..., 2] = (torch.arange(SIZE[1]) + 0.5) / SIZE[1]
    ply = run(nodes.ExportMemory, memory=memory, what="points .ply", filename_prefix="true", images=images)[1]
    points = vertices(nodes.output / ply)
    assert np.array_equal(points["red"], points["latent_index"] * 20)
    first = points[points["latent_index"] == 0]
    rows, columns = np.meshgrid(np.arange(4), np.arange(6), indexing="ij")
    assert np.abs(first["green"] - (rows.ravel() + 0.5) / 4 * 255).max() <= 1
    assert np.abs(first["blue"] - (columns.ravel() + 0.5) / 6 * 255).max() <= 1


@pytest.mark.parametrize("inputs, words", [
    ({"images": torch.zeros(5, *SIZE, 3)}, "5 images; the film has 37 frames"),
    ({"min_confidence": 1.1}, "no point to export"),
])  # fmt: skip
def test_what_cannot_be_exported_is_refused(nodes, inputs, words):
    with pytest.raises(ValueError, match=words):
        run(nodes.ExportMemory, memory=film(), what="points .ply", filename_prefix="no", **inputs)


def test_an_export_that_the_disk_does_not_take_leaves_no_half_folder(nodes, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"full/x_00001 could not be written \(No space left on device\)\. Free some"):
        run(nodes.ExportMemory, memory=film(), what="everything", filename_prefix="full/x")
    assert not list((nodes.output / "full").iterdir())


@pytest.mark.parametrize("format", ["json", "colmap"])
def test_a_path_that_the_disk_does_not_take_leaves_nothing(nodes, monkeypatch, format):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"x_00001(\.json)? could not be written \(No space left"):
        run(nodes.SaveCameraPath, format=format, filename_prefix="full/x", memory=film())
    assert not list((nodes.output / "full").iterdir())


def test_what_was_found_and_written_is_told_on_the_node(nodes, pack, monkeypatch):
    from comfy_api.latest import io

    told = []
    ear = types.SimpleNamespace(send_progress_text=lambda text, node: told.append((text, node)))
    monkeypatch.setattr(pack("telling").PromptServer, "instance", ear, raising=False)
    memory = film()
    for node, inputs in (
        (nodes.ExportMemory, {"what": "points .ply", "filename_prefix": "told/x"}),
        (nodes.CameraReceipt, {"geometry": packet(path_cameras("orbit_left", 22.0))}),
    ):
        asked = {io.Hidden.unique_id, io.Hidden.dynprompt}
        assert asked <= set(node.GET_SCHEMA().hidden)
        run(node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "7"}}), memory=memory, **inputs)
    assert told[0] == (f"told/x_00001: {memory.memory.count} points, 37 cameras, 1 files", "7")
    assert told[1][0].startswith("37 frames compared") and told[1][1] == "7"


def test_the_pictures_can_be_looked_at(nodes, tmp_path):
    """Not judged here; they lie in the test's folder for a person."""
    strip = run(nodes.PathCheck, memory=begun(), path=shot("orbit_left", 70.0, 97))[1]
    plot = run(nodes.CameraReceipt, memory=film(), geometry=packet(path_cameras("orbit_left", 22.0)))[2]
    for name, picture in (("strip", strip), ("plot", plot)):
        assert picture.min() >= 0 and picture.max() <= 1
        Image.fromarray((picture[0] * 255).byte().numpy()).save(tmp_path / f"{name}.png")
