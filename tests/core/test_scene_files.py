"""Memories kept for later films: what the file brings back, and where a shot can start."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.latent_origin import LatentOrigin
from mirage_core.memory import LatentMemory, lift
from mirage_core.memory_edits import everything, locked
from mirage_core.memory_files import load_memory, save_memory
from mirage_core.path_presets import preset
from mirage_core.rgb_memory import PIXELS, is_rgb, lift_pixels
from mirage_core.rollout import Rollout, Shot
from mirage_core.scene_files import load_scene, save_scene
from mirage_core.zbuffer import project

IMAGE, SIZE = (64, 96), (4, 6)
FIELDS = ("points", "latents", "latent_index", "confidence", "footprints", "sides")


def filmed(segments: int = 2) -> Rollout:
    """A film that goes sideways along a wall, with every cell remembered."""
    frames = 1 + 32 * segments
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, segments, frames)
    cameras = Cameras(poses, pinhole_intrinsics(60, IMAGE).repeat(frames, 1, 1), IMAGE)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(48, 1, *SIZE, generator=generator)
    memory = LatentMemory.empty(WAN22).extended(lift(first, torch.full((1, *SIZE), 3.0), cameras[[0]], WAN22))
    film = Rollout.started(memory, first, cameras, fps=24.0, unit_length=3.0)
    for _ in range(segments):
        segment = film.next_segment
        latents = torch.cat([film.overlap, torch.randn(48, 8, *SIZE, generator=generator)], dim=1)
        block = lift(
            latents[:, 1:], torch.full((8, *SIZE), 3.0), film.cameras_of(segment)[1:], WAN22,
            first_latent_index=film.film.shape[1],
        )  # fmt: skip
        film = film.extended(latents, film.view(segment), block)
    return film


@pytest.fixture
def kept(tmp_path):
    film = filmed()
    save_scene(film, tmp_path / "wall.safetensors", provenance={"pack": "1.2.3"})
    return film, load_scene(tmp_path / "wall.safetensors")


def test_the_places_are_the_first_picture_and_the_end_of_each_segment(kept):
    film, scene = kept
    assert scene.frames == (0, 32, 64) and scene.latent_frames == 17
    assert torch.equal(scene.latents, film.film[:, [0, 8, 16]])
    assert torch.equal(scene.cameras.cam2world, film.cameras.cam2world[[0, 32, 64]])
    assert (scene.fps, scene.unit_length, scene.grid) == (24.0, 3.0, WAN22)
    assert scene.provenance["pack"] == "1.2.3"
    assert torch.equal(scene.memory.latents, film.memory.latents)


@pytest.mark.parametrize("place", [0, 1, 2, -1])
def test_a_new_film_sees_from_its_place_what_the_old_film_saw_there(kept, place):
    film, scene = kept
    started = scene.started(place)
    expected = project(film.memory, film.cameras[[scene.frames[place]]], SIZE)
    shown = project(started.memory, started.cameras[[0]], SIZE)
    assert torch.equal(shown.point_index, expected.point_index) and shown.is_covered.all()
    assert torch.equal(started.film, film.film[:, [scene.frames[place] // 4]])
    assert torch.equal(started.cameras.cam2world[0], torch.eye(4, dtype=torch.float64))


def test_points_of_an_earlier_film_have_latent_frames_below_zero_in_their_order(kept):
    film, scene = kept
    assert torch.equal(scene.started(-1).memory.latent_index, film.memory.latent_index - 17)


def test_a_shot_gives_the_new_film_its_path_and_a_film_without_one_takes_a_path_later(kept):
    _, scene = kept
    shot = Shot(preset("truck_right"), 33, IMAGE, fps=12.0)
    with_path = scene.started(1, shot=shot)
    assert len(with_path.cameras) == 33 and with_path.fps == 12.0 and len(with_path.plan) == 1
    bare = scene.started(1)
    assert len(bare.cameras) == 1 and bare.fps == 24.0
    cameras = shot.cameras(intrinsics=bare.cameras.intrinsics[0], unit_length=bare.unit_length)
    later = bare.redirected(cameras)
    assert torch.equal(later.cameras.cam2world, with_path.cameras.cam2world) and later.plan == with_path.plan


def test_another_picture_may_start_the_film(kept):
    _, scene = kept
    picture = torch.zeros(48, 1, *SIZE)
    assert torch.equal(scene.started(0, first_latents=picture).film, picture)


def test_places_and_sizes_that_do_not_fit_are_refused(kept):
    _, scene = kept
    with pytest.raises(ValueError, match=r"no place 3 in this memory; it has 0 .* to 2"):
        scene.started(3)
    with pytest.raises(ValueError, match="Set width and height of Camera Path to 96 and 64"):
        scene.started(0, shot=Shot(preset("static"), 33, (64, 64)))


def test_a_long_film_keeps_its_ends_and_evenly_spread_places(tmp_path):
    film = filmed(1)
    many = replace(film, latents=(film.latents[0], *[one[:, None] for one in film.latents[1].unbind(1)] * 10))
    many = replace(many, cameras=film.cameras[[0] * 400])
    save_scene(many, tmp_path / "long.safetensors")
    scene = load_scene(tmp_path / "long.safetensors")
    assert len(scene.frames) == 65 and scene.frames[0] == 0 and scene.frames[-1] == 4 * 80
    assert max(b - a for a, b in zip(scene.frames, scene.frames[1:], strict=False)) <= 8


def test_a_memory_of_colours_keeps_the_latent_grid_of_its_film(tmp_path):
    cameras = Cameras(torch.eye(4)[None], pinhole_intrinsics(60, IMAGE)[None], IMAGE)
    pixels = lift_pixels(torch.rand(1, *IMAGE, 3), torch.full((1, *IMAGE), 2.0), cameras)
    film = Rollout.started(
        LatentMemory.empty(PIXELS).extended(pixels), torch.zeros(48, 1, *SIZE), cameras, grid=WAN22
    )  # fmt: skip
    save_scene(film, tmp_path / "room.safetensors")
    started = load_scene(tmp_path / "room.safetensors").started(0)
    assert is_rgb(started.memory) and started.grid == WAN22 and torch.equal(started.memory.points, pixels.points)


def test_locks_of_some_blocks_survive_the_file(tmp_path):
    memory = filmed().memory
    choice = tuple(one if index == 1 else ~one for index, one in enumerate(everything(memory)))
    save_memory(locked(memory, choice), tmp_path / "locked.safetensors")
    loaded = load_memory(tmp_path / "locked.safetensors")
    assert [block.is_locked is None for block in loaded.blocks] == [True, False, True]
    assert loaded.blocks[1].is_locked is not None and loaded.blocks[1].is_locked.all()


def test_half_and_single_precision_of_one_field_are_kept_as_single(tmp_path):
    memory = filmed(1).memory
    first, second = memory.blocks
    mixed = LatentMemory(WAN22, (replace(first, latents=first.latents.half()), second))
    save_memory(mixed, tmp_path / "mixed.safetensors")
    assert torch.equal(load_memory(tmp_path / "mixed.safetensors").latents, mixed.latents)


def version_1(path, memory: LatentMemory, **metadata: str) -> None:
    """A file as the first version wrote it."""
    told = {
        "format": "mirage-memory",
        "version": "1",
        "grid": '{"channels": 48, "spatial_stride": 16, "temporal_stride": 4, "cell_rule": "center"}',
        "block_sizes": json.dumps([len(block) for block in memory.blocks]),
        "units": "points, footprints and sides in the world units of the depth; latents normalised",
    }
    tensors = {name: torch.cat([getattr(block, name) for block in memory.blocks]) for name in FIELDS}
    save_file(tensors, path, told | metadata)


def test_files_of_version_1_are_read_but_start_no_film(tmp_path):
    memory = filmed().memory
    version_1(tmp_path / "old.safetensors", memory)
    loaded = load_memory(tmp_path / "old.safetensors")
    for name in FIELDS:
        for block, other in zip(memory.blocks, loaded.blocks, strict=True):
            assert torch.equal(getattr(block, name), getattr(other, name))
    with pytest.raises(ValueError, match="holds a memory without its film"):
        load_scene(tmp_path / "old.safetensors")


def test_a_written_file_is_plain_safetensors(tmp_path):
    film = filmed(1)
    save_scene(film, tmp_path / "one.safetensors")
    tensors = load_file(tmp_path / "one.safetensors")
    assert torch.equal(tensors["points"], film.memory.points) and "film.latents" in tensors
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def rewritten(path, change) -> None:
    """Change the film's description in a saved scene."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    provenance = json.loads(header["__metadata__"]["provenance"])
    change(provenance["film"])
    header["__metadata__"]["provenance"] = json.dumps(provenance)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("frames", [0, 32], "start latents have shape"),
        ("frames", [], "no plain picture size and frames"),
        ("frames", 10**400, "no plain picture size and frames"),
        ("image_size", [64, 10**9], "no plain picture size"),
        ("image_size", [640, 960], "start latents have shape"),
        ("fps", 0, "fps is no number above 0"),
        ("unit_length", "3", "unit_length is no number"),
        ("latent_frames", -1, "cameras for 3 places"),
        ("grid", {"channels": 16}, "start latents have shape"),
        ("grid", {"spatial_stride": 0}, "another latent grid"),
    ],
)
def test_a_film_that_is_described_wrongly_is_refused(tmp_path, name, value, reason):
    path = tmp_path / "wall.safetensors"
    save_scene(filmed(), path)
    rewritten(path, lambda film: film.update({name: value}))
    with pytest.raises(ValueError, match=reason):
        load_scene(path)


def test_a_file_that_is_mostly_hole_is_refused_before_anything_is_read(tmp_path):
    """240 GB in a few kilobytes of disk: every claim of the header agrees with the size of the file."""
    if not hasattr(os, "sysconf"):
        pytest.skip("this system does not tell how much memory it has; it refuses the allocation itself")
    points = 240 * 10**9 // (48 * 4)
    shapes = {"points": ("F32", 4, [points, 3]), "latents": ("F32", 4, [points, 48]),
              "latent_index": ("I32", 4, [points]), "confidence": ("F32", 4, [points]),
              "footprints": ("F32", 4, [points]), "sides": ("F32", 4, [points, 2, 3])}  # fmt: skip
    header, end = {}, 0
    for name, (kind, width, shape) in shapes.items():
        size = width * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    metadata = {"format": "mirage-memory", "version": "2", "grid": "{}", "block_sizes": json.dumps([points])}
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    path = tmp_path / "hole.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    assert path.stat().st_blocks * 512 < 100_000
    with pytest.raises(ValueError, match=r"hole\.safetensors cannot be used .*it needs [\d.]+ GiB of memory and this"):
        load_memory(path)


def test_a_file_tells_which_vae_its_latents_are_of_and_older_files_do_not(tmp_path):
    origin = LatentOrigin("Wan22", (0.1, 0.25))
    film = replace(filmed(1), origin=origin)
    save_scene(film, tmp_path / "wall.safetensors")
    scene = load_scene(tmp_path / "wall.safetensors")
    assert scene.origin == origin and scene.started(0).origin == origin
    rewritten(tmp_path / "wall.safetensors", lambda film: film["origin"].update(vae="x"))
    with pytest.raises(ValueError, match="origin of its latents"):
        load_scene(tmp_path / "wall.safetensors")
    rewritten(tmp_path / "wall.safetensors", lambda film: film.pop("origin"))
    assert load_scene(tmp_path / "wall.safetensors").origin == LatentOrigin()
