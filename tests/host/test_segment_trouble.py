"""What happens to kept segments when the disk, a neighbour or another version of this pack is in the way."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

OTHER_MACHINE = "0123abcd-1-01234567"


@pytest.fixture
def one(store, films):
    """(the store of a film, the JSONs of its segments 0 to 3)."""
    paths = films.add("one")
    return store.SegmentStore(films.root, films.root / "one"), paths


def found(one, path):
    """What the store finds and loads at a path, as a later loop would."""
    key = json.loads(path.read_bytes()).get("key", "0" * 64)
    return one.find(key, int(path.name.split("_")[1]))


def refusing(error, times=99):
    """A function that raises `error` so many times, then does what `real` does."""

    def made(real):
        left = [times]

        def open_(self, *arguments, **options):
            if left[0] and self.name.startswith("segment"):
                left[0] -= 1
                raise error
            return real(self, *arguments, **options)

        return open_

    return made


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), PermissionError(13, "Permission denied")])
def test_a_segment_that_cannot_be_read_now_stays_as_it_is(monkeypatch, one, store, error):
    kept, paths = one
    monkeypatch.setattr(store, "_PATIENCE", (0.0,))
    before = sorted(kept.folder.iterdir())
    file = found(kept, paths[1])
    monkeypatch.setattr(Path, "open", refusing(error)(Path.open))
    assert kept.load(file, None, of={}) is None
    monkeypatch.undo()
    assert sorted(kept.folder.iterdir()) == before
    assert f"{paths[1].name} cannot be read now" in kept.warnings[0] and error.strerror in kept.warnings[0]


def test_a_disk_that_is_away_for_a_moment_costs_no_segment(monkeypatch, one, store):
    kept, paths = one
    monkeypatch.setattr(store, "_PATIENCE", (0.0, 0.0))
    start = kept.load(found_start(kept, paths[0]), None, of={})
    file = found(kept, paths[1])
    monkeypatch.setattr(Path, "open", refusing(OSError(5, "Input/output error"), times=2)(Path.open))
    assert kept.load(file, start, of={start.file.key: start.file, file.key: file}) is not None
    assert kept.warnings == []


def found_start(one, path):
    return one.find(json.loads(path.read_bytes())["key"], 0, is_start=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(version=99),
        lambda told: told.update(format="another program's"),
        lambda told: told["tree"]["fields"].update(unheard_of=1),
        lambda told: told["tree"]["fields"]["memory"].update(type="FutureMemory"),
    ],
)
def test_a_segment_of_another_version_is_left_alone_and_named(one, change):
    kept, paths = one
    start = kept.load(found_start(kept, paths[0]), None, of={})
    told = json.loads(paths[1].read_bytes())
    change(told)
    paths[1].write_text(json.dumps(told))
    before = {path: path.read_bytes() for path in kept.folder.iterdir()}
    file = found(kept, paths[1])
    assert file is None or kept.load(file, start, of={start.file.key: start.file, file.key: file}) is None
    assert {path: path.read_bytes() for path in kept.folder.iterdir()} == before
    assert len(kept.warnings) == 1 and paths[1].name in kept.warnings[0] and "stays as it is" in kept.warnings[0]


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04\x95pickle"])
def test_a_damaged_json_is_set_aside_and_the_user_is_told(one, content):
    kept, paths = one
    key = json.loads(paths[1].read_bytes())["key"]
    paths[1].write_bytes(content)
    assert kept.find(key, 1) is None
    assert len(list(kept.folder.glob("segment_0001*.damaged"))) == 2
    assert len(kept.warnings) == 1 and f"set aside as {paths[1].name}.damaged" in kept.warnings[0]


def test_a_flipped_bit_is_set_aside_and_the_user_is_told(one):
    kept, paths = one
    start, file = kept.load(found_start(kept, paths[0]), None, of={}), found(kept, paths[1])
    content = bytearray(file.tensors_path.read_bytes())
    content[-50] ^= 4
    replacement = file.tensors_path.with_name("replacement")
    replacement.write_bytes(content)
    os.replace(replacement, file.tensors_path)
    assert kept.load(file, start, of={start.file.key: start.file, file.key: file}) is None
    assert len(list(kept.folder.glob("segment_0001*.damaged"))) == 2 and "set aside" in kept.warnings[0]


@pytest.fixture
def marked(films, core):
    """marked(maker, age): a film with the mark of a process, touched so many seconds ago."""

    def mark(maker, age):
        films.add("one")
        path = films.root / "one" / f".in_use.{maker}-01234567.mark"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
        return films.root / "one"

    return mark


def test_the_mark_of_a_process_that_lives_protects_however_old_it_is(monkeypatch, marked, pruning, core):
    monkeypatch.setattr(pruning, "_DEAD_SECONDS", 10)
    folder = marked(core("rollout_files").maker(), 100)
    pruning.prune(folder.parent, 0)
    assert len(list(folder.glob("*.json"))) == 4


def test_a_mark_older_than_the_process_that_has_its_number_now_protects_nothing(marked, pruning, core):
    folder = marked(core("rollout_files").maker(), 365 * 24 * 3600)
    pruning.prune(folder.parent, 0)
    assert not folder.exists()


def test_a_mark_of_another_machine_outlasts_a_slow_segment(marked, pruning):
    folder = marked(OTHER_MACHINE[:10], 5 * 3600)
    pruning.prune(folder.parent, 0)
    assert len(list(folder.glob("*.json"))) == 4


@pytest.mark.parametrize("age, is_there", [(0, True), (3 * 3600, False)])
def test_tensors_whose_json_is_about_to_be_written_stay(films, pruning, age, is_there):
    paths = films.add("one")
    paths[3].unlink()
    (tensors,) = films.root.glob("one/segment_0003*.safetensors")
    os.utime(tensors, (time.time() - age,) * 2)
    pruning.prune(films.root, 0)
    assert tensors.exists() == is_there


def test_the_folder_of_all_films_may_be_a_link_to_another_disk(store, tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "output" / "mirage"
    disk.mkdir()
    root.parent.mkdir()
    root.symlink_to(disk, target_is_directory=True)
    assert store.film_folder(root, "castle", "") == root / "castle"


@pytest.mark.parametrize("target", ["elsewhere", "mirage/other"])
def test_a_film_that_is_a_link_is_refused_wherever_it_leads(store, tmp_path, target):
    root = tmp_path / "mirage"
    for folder in (root / "other", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (root / "castle").symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(ValueError, match="run is 'castle', a link to another place"):
        store.film_folder(root, "castle", "")
