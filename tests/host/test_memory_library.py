"""Save Memory and Load Memory beside the real host: a library of worlds that no name leads out of."""

from __future__ import annotations

import os
import types
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

from mirage_core.memory_files import save_memory
from mirage_core.path_presets import preset
from mirage_core.rollout import Shot
from mirage_core.scene_files import load_scene
from mirage_core.zbuffer import project
from tests.core.test_scene_files import IMAGE, SIZE, filmed


@pytest.fixture
def library(host, pack, tmp_path):
    """The two nodes, in a host whose output and model folders are the test's own."""
    folders = host.folder_paths
    output, models = tmp_path / "output", tmp_path / "models"
    output.mkdir(), models.mkdir()
    module, nodes = pack("memory_library"), pack("memory_file_nodes")
    before = folders.get_output_directory(), folders.folder_names_and_paths.get(module.FOLDER)
    folders.set_output_directory(str(output))
    folders.folder_names_and_paths[module.FOLDER] = ([str(models)], {".safetensors"})
    yield types.SimpleNamespace(
        output=output, models=models, library=module, save=nodes.SaveMemory, load=nodes.LoadMemory
    )
    folders.set_output_directory(before[0])
    if before[1] is not None:
        folders.folder_names_and_paths[module.FOLDER] = before[1]


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def test_a_saved_memory_is_listed_and_the_next_film_starts_where_it_ended(library):
    film = filmed()
    _, file = run(library.save, memory=film, name="house/kitchen")
    assert file == "mirage_memories/house/kitchen_00001.safetensors"
    assert library.library.listed_memories() == ["house/kitchen_00001.safetensors"]
    shot = Shot(preset("truck_right"), 33, IMAGE)
    memory, report = run(library.load, file="house/kitchen_00001.safetensors", place=-1, path=shot)
    assert torch.equal(memory.overlap, film.overlap)
    seen, expected = project(memory.memory, memory.cameras[[0]], SIZE), project(film.memory, film.cameras[[64]], SIZE)
    assert torch.equal(seen.point_index, expected.point_index)
    assert "3 places; the film starts at place 2, frame 64" in report and "ComfyUI-Mirage 0." in report
    made_at = load_scene(library.output / file).provenance["made_at"]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(str(made_at))
    assert abs(age.total_seconds()) < 600 and str(made_at) in report


def test_saving_never_overwrites(library):
    names = [run(library.save, memory=filmed(1), name="world")[1] for _ in range(3)]
    assert names == [f"mirage_memories/world_0000{number}.safetensors" for number in (1, 2, 3)]


def test_a_failed_save_leaves_no_file(library, tmp_path):
    film = filmed(1)
    broken = types.SimpleNamespace(latents=film.latents)
    with pytest.raises(AttributeError):
        library.library.keep_memory(broken, "world")
    assert not list((library.output / "mirage_memories").iterdir())


def test_a_save_that_the_disk_does_not_take_says_what_to_do_and_leaves_no_file(library, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.library, "save_scene", full)
    with pytest.raises(ValueError, match=r"world_00001\.safetensors could not be written \(No space left .* Free some"):
        run(library.save, memory=filmed(1), name="world")
    assert not list((library.output / "mirage_memories").iterdir())


def test_what_killed_saves_left_is_not_listed_and_goes_after_a_day(library):
    folder = library.output / "mirage_memories"
    folder.mkdir()
    old = [folder / "world_00001.safetensors", folder / "world_00001.safetensors.123.part"]
    running = [folder / "world_00002.safetensors", folder / "world_00002.safetensors.456.part"]
    own = folder / "notes.part"
    for path in (*old, *running, own):
        path.write_bytes(b"half" if path.suffix == ".part" else b"")
    for path in (*old, own):
        os.utime(path, (1, 1))
    assert library.library.listed_memories() == []
    run(library.save, memory=filmed(1), name="world")
    assert library.library.listed_memories() == ["world_00003.safetensors"]
    assert sorted(folder.iterdir()) == sorted([*running, own, folder / "world_00003.safetensors"])


def test_another_picture_needs_its_vae(library):
    run(library.save, memory=filmed(), name="world")
    with pytest.raises(ValueError, match="vae is not"):
        run(library.load, file="world_00001.safetensors", place=1, image=torch.rand(1, *IMAGE, 3))


class Vae:
    """A VAE of random weights, as far as Load Memory looks at one."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.first_stage_model = torch.nn.Linear(8, 8)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 48, 1, *SIZE)


def test_a_picture_of_another_vae_than_the_memorys_is_warned_of(library, pack):
    ours, other = Vae(1), Vae(2)
    film = replace(filmed(1), origin=pack("vae_origin").origin_of(ours))
    run(library.save, memory=film, name="world")
    given = {"file": "world_00001.safetensors", "place": 1, "image": torch.rand(1, *IMAGE, 3)}
    assert "another VAE" not in run(library.load, **given, vae=ours)[1]
    assert "made with another VAE than the one that is connected" in run(library.load, **given, vae=other)[1]


def test_a_memory_without_places_asks_for_a_path_and_a_picture(library):
    (library.output / "mirage_memories").mkdir()
    save_memory(filmed().memory, library.output / "mirage_memories" / "bare.safetensors")
    with pytest.raises(ValueError, match=r"without its film\. Connect path, and image"):
        run(library.load, file="bare.safetensors", place=0)


def test_model_folders_are_listed_too_and_the_output_folder_goes_first(library):
    run(library.save, memory=filmed(1), name="world")
    own = library.output / "mirage_memories" / "world_00001.safetensors"
    for name in ("world_00001", "other"):
        save_memory(filmed(1).memory, library.models / f"{name}.safetensors")
    assert sorted(library.library.listed_memories()) == ["other.safetensors", "world_00001.safetensors"]
    assert library.library.memory_path("world_00001.safetensors") == own


def test_a_changed_file_is_read_again(library):
    run(library.save, memory=filmed(1), name="world")
    stamp = library.load.fingerprint_inputs("world_00001.safetensors", place=0)
    os.utime(library.output / "mirage_memories" / "world_00001.safetensors", (1, 1))
    assert library.load.fingerprint_inputs("world_00001.safetensors", place=0) != stamp


ODD = [
    "", " ", ".", "..", "../a.safetensors", "a/../../b.safetensors", "/etc/passwd", "/a.safetensors", "~/a.safetensors",
    "C:/a.safetensors", "C:a.safetensors", "a\\..\\b.safetensors", "\\\\host\\share\\a.safetensors",
    "a\x00.safetensors",
    "a\n.safetensors", "\u202esrotensetfas.a.safetensors", "\u2066a.safetensors", "\u200ba.safetensors",
    "\uff0e\uff0e/a.safetensors", "\uff0e\uff0e\uff0fa.safetensors", "\u2024\u2024/a.safetensors",
    "..\u2215a.safetensors",
    "a\uff3cb.safetensors", "\u2025/a.safetensors", "a./b.safetensors", "a /b.safetensors", " a.safetensors",
    "a.safetensors.", "a.safetensors ", "con.safetensors", "NUL.safetensors", "com1/a.safetensors", "lpt9.safetensors",
    "a//b.safetensors", "a/./b.safetensors", "x" * 300 + ".safetensors", "a/" * 2000 + "b.safetensors",
    "world.ckpt", "world.pt", "world.safetensors/", "file:///etc/passwd.safetensors", "\ud800.safetensors", "none",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD, ids=[ascii(one[:30]) for one in ODD])
def test_no_name_leads_out_of_the_folders(library, name):
    (library.output / "a.safetensors").write_bytes(b"secret")
    said = library.load.validate_inputs(name)
    assert isinstance(said, str) and len(said) < 400 and said.isprintable()
    if name != "none":
        with pytest.raises(ValueError):
            run(library.load, file=name, place=0)
    if not name.endswith("world.safetensors"):
        before = {one for one in library.output.parent.rglob("*")}
        with pytest.raises(ValueError, match="no name for a file in the output folder"):
            run(library.save, memory=filmed(1), name=name + "\x07")
        assert {one for one in library.output.parent.rglob("*")} == before


def test_links_that_lead_out_are_neither_read_nor_written_through(library, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    save_memory(filmed(1).memory, outside / "secret.safetensors")
    folder = library.output / "mirage_memories"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(outside / "secret.safetensors")
    (folder / "away").symlink_to(outside, target_is_directory=True)
    for name in ("link.safetensors", "away/secret.safetensors"):
        with pytest.raises(ValueError, match="leads out of"):
            run(library.load, file=name, place=0)
    before = list(outside.iterdir())
    with pytest.raises(ValueError, match="outside the output folder"):
        run(library.save, memory=filmed(1), name="away/new")
    assert list(outside.iterdir()) == before


def test_a_whole_folder_may_be_a_link(library, tmp_path):
    """Model folders on another disk are linked as a whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    save_memory(filmed(1).memory, disk / "big.safetensors")
    Path(library.models).rmdir()
    Path(library.models).symlink_to(disk, target_is_directory=True)
    assert library.library.memory_path("big.safetensors").is_file()
