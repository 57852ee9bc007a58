"""The folder of kept segments: what is deleted when, and which part of a path belongs to which segment."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

SIZE, CELLS = (64, 64), (4, 4)
OTHER_MACHINE = "0123abcd-1-01234567"


@pytest.fixture
def core(pack):
    """core("camera"): mirage_core as the pack has it, whose types are its own."""
    pack("segment_store")
    return lambda name: importlib.import_module(f"mirage_pack.mirage_core.{name}")


@pytest.fixture
def started(core):
    """A film of three segments to make, without a memory."""
    memory = core("memory").LatentMemory.empty(core("latent_grid").WAN22)
    return core("rollout").Rollout.started(memory, torch.zeros(48, 1, *CELLS), path_of(core, "pan_right", 97))


def path_of(core, move, frames):
    shot = core("rollout").Shot(core("path_presets").preset(move, amount=20), frames, SIZE)
    return shot.cameras(intrinsics=core("camera").pinhole_intrinsics(60, SIZE), unit_length=4.0)


@pytest.fixture
def store(pack):
    return pack("segment_store")


@pytest.fixture
def films(store, tmp_path, started):
    return Films(store, tmp_path / "mirage", started)


class Films:
    """Films of three segments each, as their files; each used later than the one before."""

    def __init__(self, module, root, started):
        self.module, self.root, self.started, self.clock = module, root, started, 1_000_000_000

    def add(self, name):
        one = self.module.SegmentStore(self.root, self.root / name)
        kept, of = None, {}
        for number in range(4):
            rollout = self.started if kept is None else self.grown(kept.rollout)
            key = f"{hash((name, number)) % 2**64:064x}"
            kept = one.write(rollout, key=key, made_from={}, before=kept, of=of)
            of[key] = kept.file
        self.use(name)
        return [file.path for file in of.values()]

    def use(self, name):
        self.clock += 100
        for path in (self.root / name).glob("*.json"):
            os.utime(path, (self.clock, self.clock))

    @staticmethod
    def grown(rollout):
        segment = rollout.next_segment
        return rollout.extended(torch.zeros(48, segment.latent_frames, *CELLS), rollout.view(segment))

    def names(self):
        return sorted(path.relative_to(self.root).as_posix()[:13] for path in self.root.glob("*/*.json"))

    def bytes(self):
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def test_nothing_is_deleted_within_the_quota(store, films):
    films.add("one")
    assert store.prune(films.root, films.bytes()) == 0


def test_the_film_not_used_for_longest_goes_first(store, films):
    films.add("one")
    films.add("two")
    films.use("one")
    store.prune(films.root, films.bytes() // 2 + 100)
    assert [path.name for path in films.root.iterdir()] == ["one"]
    assert len(list((films.root / "one").glob("*.json"))) == 4


def test_the_end_of_a_film_goes_before_its_beginning(store, films):
    films.add("one")
    store.prune(films.root, films.bytes() - 100)
    assert [name[4:] for name in films.names()] == ["segment_0", "segment_0", "start_000"] or len(films.names()) == 3
    assert not list(films.root.glob("one/segment_0003*"))


def test_a_film_being_made_by_another_server_stays(store, films):
    films.add("one")
    (films.root / "one" / f".in_use.{OTHER_MACHINE}.mark").touch()
    films.add("two")
    store.prune(films.root, 0)
    assert [path.name for path in films.root.iterdir()] == ["one"]


def test_the_segments_of_the_film_being_made_stay(store, films):
    paths = films.add("one")
    store.SegmentStore(films.root, films.root / "one").mark_in_use()
    store.prune(films.root, 0, spared=paths[:3])
    assert sorted(films.root.glob("one/*.json")) == sorted(paths[:3])


def test_a_mark_of_a_server_long_dead_protects_nothing(store, films):
    films.add("one")
    mark = films.root / "one" / f".in_use.{OTHER_MACHINE}.mark"
    mark.touch()
    os.utime(mark, (1_000_000_000, 1_000_000_000))
    store.prune(films.root, 0)
    assert list(films.root.iterdir()) == []


def test_unfinished_files_of_a_process_that_ended_are_cleaned_up_and_others_stay(store, films, core):
    maker = core("rollout_files").maker
    films.add("one")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = maker().split("-")[0]
    old = films.root / "one" / f".segment.json.{host}-{ended.pid}-01234567.part"
    own = films.root / "one" / f".segment.json.{maker()}-01234567.part"
    others = films.root / "one" / f".segment.json.{OTHER_MACHINE}.part"
    for path in (old, own, others):
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    store.clean(films.root / "one")
    assert [path.exists() for path in (old, own, others)] == [False, True, True]


def test_files_of_the_user_are_never_deleted(store, films):
    films.add("one")
    mine = [films.root / "one" / "notes.json", films.root / "film_00001.mp4", films.root / "one" / "start_me.json"]
    for path in mine:
        path.write_text("{}")
    store.prune(films.root, 0)
    assert all(path.exists() for path in mine)


_FULL_DISK = """
import resource, sys
from pathlib import Path
from mirage_core.rollout_files import write_once
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_once(Path(sys.argv[1]) / "one", b"x" * 5000)
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.skipif(os.name == "nt", reason="no limit of file sizes on Windows")
def test_a_disk_that_ends_in_the_middle_of_a_file_leaves_nothing_behind(tmp_path):
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout.startswith("refused"), done.stderr
    assert list(tmp_path.iterdir()) == []


def parts_of(keys, rollout, index):
    graph = keys.GraphParts({}, frozenset(), False)
    turn = keys.Turn(1, "a room", 1.0)
    return keys.turn_parts(rollout, index, turn, graph)


@pytest.mark.parametrize("frame, segment", [(5, 0), (32, 0), (33, 1), (64, 1), (65, 2), (96, 2)])
def test_a_camera_belongs_to_the_segment_that_shows_its_frame(pack, core, started, frame, segment):
    keys, cameras = pack("segment_keys"), started.cameras
    moved = cameras.cam2world.clone()
    moved[frame, 0, 3] += 1.0
    other = replace(started, cameras=core("camera").Cameras(moved, cameras.intrinsics, SIZE))
    changed = [index for index in range(3) if parts_of(keys, started, index) != parts_of(keys, other, index)]
    assert changed[0] == segment


def test_a_longer_path_changes_no_earlier_segment(pack, core, started):
    keys, grown = pack("segment_keys"), started
    for _ in range(3):
        grown = Films.grown(grown)
    onward = grown.redirected(path_of(core, "pan_left", 33))
    longer = replace(started, cameras=onward.cameras, plan=onward.plan)
    assert len(longer.plan) == 4
    assert [parts_of(keys, started, index) == parts_of(keys, longer, index) for index in range(3)] == [True] * 3


def test_a_key_knows_all_keys_before_it(pack):
    keys = pack("segment_keys")
    assert keys.segment_key("a", {"seed": "1"}) != keys.segment_key("b", {"seed": "1"})
    assert keys.segment_key("a", {"seed": "1"}) != keys.segment_key("a", {"seed": "2"})
