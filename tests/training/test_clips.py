"""Exported worlds come back as they were, through the reader of real clips."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from mirage_core.camera_path import CameraPath
from mirage_core.path_formats import write
from mirage_core.path_formats.track import CameraTrack
from training import clips
from training.clips import clip_folders, read_clip_folder, read_clips
from training.pictures import read_metres, read_rgb
from training.worlds import FIRST_HELD_OUT, World, __main__, random_flight
from training.worlds.export import export_scene

SIZE = (48, 64)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    world = World.plaza(FIRST_HELD_OUT + 1, movers=2)
    flight = random_flight(world, 3, frames=5, image_size=SIZE, name="truck_right")
    export_scene(folder, world, flight, supersampling=1)
    return folder, world.render(flight.cameras, flight.times), flight


def test_an_exported_film_is_read_back_whole(scene):
    folder, frames, _ = scene
    clip = read_clip_folder(folder / "film", image_size=SIZE)
    assert (clip.rgb - frames.rgb).abs().max() <= 0.5 / 255 + 1e-6
    near = frames.depth < 60
    assert torch.allclose(clip.depth[near], frames.depth[near], atol=6e-4)
    assert torch.equal(clip.is_sky, frames.is_sky) and torch.equal(clip.is_mover, frames.is_mover)
    assert torch.allclose(clip.cameras.cam2world, frames.cameras.cam2world, atol=1e-6)
    assert torch.allclose(clip.cameras.intrinsics, frames.cameras.intrinsics, atol=1e-6)


def test_the_exported_path_flies_where_the_film_flew(scene):
    folder, frames, _ = scene
    path = CameraPath.from_json((folder / "path.json").read_text())
    cameras = path.cameras(5, intrinsics=frames.cameras.intrinsics[0], image_size=SIZE)
    back = cameras.moved(frames.cameras.cam2world[0])
    assert torch.allclose(back.cam2world, frames.cameras.cam2world, atol=1e-6)


def test_the_exported_depth_picture_holds_the_depth(scene):
    folder, frames, _ = scene
    about = json.loads((folder / "scene.json").read_text())
    nearness = read_metres(folder / "depth.png", unit=1 / 65535).nan_to_num(posinf=0.0)
    depth = 1 / (1 / about["far"] + nearness * (1 / about["near"] - 1 / about["far"]))
    seen = ~frames.is_sky[0] & (frames.depth[0] < 20)
    assert (depth / frames.depth[0] - 1)[seen].abs().max() < 2e-3
    assert (read_rgb(folder / "start.png") - frames.rgb[0]).abs().max() < 3e-3


def test_other_camera_files_say_the_same(scene, tmp_path):
    folder, frames, _ = scene
    track = CameraTrack(frames.cameras, 16.0)
    for format, name in (("json", "cameras.json"), ("realestate10k", "camera.txt")):
        clip = tmp_path / format
        shutil.copytree(folder / "film" / "images", clip / "images")
        write(track, clip / name, format)
        found = read_clip_folder(clip, image_size=SIZE)
        assert torch.allclose(found.cameras.cam2world, frames.cameras.cam2world, atol=1e-5)
        assert found.is_sky.all() and torch.isinf(found.depth).all()
    assert len(clip_folders(tmp_path)) == 2


def test_scaling_and_cropping_keep_points_where_they_are(scene):
    folder, frames, _ = scene
    clip = read_clip_folder(folder / "film", image_size=(96, 96))
    assert clip.rgb.shape == (5, 96, 96, 3)
    # The pixel (row 30, column 40) of the original, doubled, less the 16 columns that are cut off.
    assert torch.equal(clip.depth[:, 60, 64], read_clip_folder(folder / "film", image_size=SIZE).depth[:, 30, 40])
    before = torch.linalg.inv(frames.cameras.intrinsics[0]) @ torch.tensor([40.5, 30.5, 1]).double()
    after = torch.linalg.inv(clip.cameras.intrinsics[0]) @ torch.tensor([65.0, 61.0, 1]).double()
    assert torch.allclose(before, after)


def test_long_clips_are_cut_into_pieces(scene):
    folder, _, _ = scene
    pieces = list(read_clips(folder, image_size=SIZE, frames=2))
    assert [len(piece) for piece in pieces] == [2, 2]


def test_pieces_are_those_of_the_whole_clip(scene):
    folder, _, _ = scene
    whole = read_clip_folder(folder / "film", image_size=(32, 32))
    for start, piece in zip((0, 2), read_clips(folder, image_size=(32, 32), frames=2), strict=True):
        for name in ("rgb", "depth", "is_sky", "is_mover", "times"):
            assert torch.equal(getattr(piece, name), getattr(whole, name)[start : start + 2]), name
        assert torch.equal(piece.cameras.cam2world, whole.cameras.cam2world[start : start + 2])


def test_of_a_long_film_one_piece_at_a_time_is_read(scene, monkeypatch):
    folder, _, _ = scene
    seen = []
    monkeypatch.setattr(clips, "read_rgb", lambda path: seen.append(path.name) or read_rgb(path))
    pieces = read_clips(folder, image_size=SIZE, frames=2)
    next(pieces)
    assert len(seen) == 2, "no picture of the next piece yet"


def test_a_clip_without_cameras_or_pictures_is_refused(scene, tmp_path):
    folder, _, _ = scene
    with pytest.raises(ValueError, match="No clip below"):
        list(read_clips(tmp_path, image_size=SIZE, frames=2))
    with pytest.raises(ValueError, match="neither pictures"):
        read_clip_folder(tmp_path, image_size=SIZE)
    shutil.copytree(folder / "film" / "images", tmp_path / "images")
    with pytest.raises(ValueError, match="no camera file"):
        read_clip_folder(tmp_path, image_size=SIZE)
    shutil.copy(folder / "film" / "transforms.json", tmp_path)
    (tmp_path / "images" / "frame_00004.png").rename(tmp_path / "images" / "other.png")
    (tmp_path / "images" / "frame_00000.png").unlink()
    with pytest.raises(ValueError, match="4 pictures and 5 cameras"):
        read_clip_folder(tmp_path, image_size=SIZE)


def test_the_command_writes_a_scene_and_a_sheet(tmp_path, monkeypatch):
    asked = ["x", "export", str(tmp_path), "--size", "64x48", "--frames", "3", "--flight", "pan_left"]
    monkeypatch.setattr(sys, "argv", asked)
    __main__.main()
    assert (tmp_path / "film" / "depth" / "frame_00002.png").is_file()
    monkeypatch.setattr(sys, "argv", ["x", "sheet", str(tmp_path / "sheet.png"), "--size", "32x24", "--worlds", "2"])
    __main__.main()
    assert read_rgb(tmp_path / "sheet.png").shape == (24, 128, 3)


def test_a_video_takes_the_place_of_the_pictures(scene, tmp_path):
    av = pytest.importorskip("av")
    folder, frames, _ = scene
    shutil.copytree(folder / "film", tmp_path / "film", ignore=shutil.ignore_patterns("images"))
    with av.open(str(tmp_path / "film" / "shot.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=16, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv444p"
        for picture in frames.rgb:
            shown = av.VideoFrame.from_ndarray((picture * 255).round().byte().numpy(), format="rgb24")
            video.mux(stream.encode(shown))
        video.mux(stream.encode())
    clip = read_clip_folder(tmp_path / "film", image_size=SIZE)
    assert (clip.rgb - frames.rgb).abs().mean() < 0.02
    assert torch.equal(clip.is_sky, frames.is_sky), "depth and masks are still found by the frame's number"
    assert torch.allclose(clip.cameras.cam2world, frames.cameras.cam2world, atol=1e-6)
