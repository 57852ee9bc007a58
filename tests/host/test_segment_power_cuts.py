"""A power cut between any two writes of a segment: it is there whole or not at all, and the next write heals it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.segment_films import grown

# Writes the start and the first segment of a film again and again, each time in a folder of its own; a fork dies before
# its n-th call on the disk. What a disk may lose in a power cut is lost: contents that nobody synced, and of the names
# that nobody synced none, all, or all but the newest.
_CHILD = """
import os, sys
from pathlib import Path
import torch
from host.segment_films import CELLS, SIZE, grown, path_of
from mirage_core import camera, latent_grid, memory, path_presets, rollout, rollout_files
from mirage_core.rollout_files import load_rollout, write_segment

torch.set_num_threads(1)
modules = {"rollout": rollout, "camera": camera, "path_presets": path_presets}
started = rollout.Rollout.started(
    memory.LatentMemory.empty(latent_grid.WAN22), torch.zeros(48, 1, *CELLS), path_of(modules.get, "pan_right", 65))
KEYS = ["a" * 64, "b" * 64]
real = {name: getattr(os, name) for name in ("fsync", "link", "unlink", "open")}


class Disk:
    def __init__(self, dies_at, loses):
        self.left, self.loses = dies_at, loses
        self.unsynced, self.new_names = set(), {}

    def call(self):
        self.left -= 1
        if self.left == 0:
            self.die()

    def die(self):
        for path in self.unsynced:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)
        for names in self.new_names.values():
            for path in names[: {"none": 0, "all": None, "older": -1}[self.loses]]:
                real["unlink"](path)
        os._exit(7)

    def named(self, path):
        self.new_names.setdefault(path.parent, []).append(path)

    def link(self, source, target):
        self.call()
        real["link"](source, target)
        self.named(Path(target))
        if Path(source) in self.unsynced:
            self.unsynced.add(Path(target))

    def unlink(self, path, **options):
        self.call()
        real["unlink"](path, **options)

    def open(self, path, flags, *more, **options):
        descriptor = real["open"](path, flags, *more, **options)
        if Path(path).is_dir():
            self.call()
        return descriptor

    def fsync(self, descriptor):
        self.call()
        real["fsync"](descriptor)
        where = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.unsynced.discard(where)
        self.new_names.pop(where, None)

    def install(self):
        disk, opened = self, Path.open

        def open_(path, mode="r", *arguments, **options):
            if "x" not in mode:
                return opened(path, mode, *arguments, **options)
            disk.call()
            file = opened(path, mode, *arguments, **options)
            disk.unsynced.add(path.resolve())
            write = file.write

            class Written:
                def __enter__(self): return self
                def __exit__(self, *error): file.close()
                def write(self, content):
                    disk.call()
                    write(content[: len(content) // 2])
                    file.flush()
                    disk.call()
                    write(content[len(content) // 2 :])
                def flush(self): disk.call(); file.flush()
                def fileno(self): return file.fileno()

            return Written()

        Path.open = open_
        for name in ("fsync", "link", "unlink", "open"):
            setattr(os, name, getattr(self, name))


def write(folder):
    one = write_segment(folder / f"start_{KEYS[0][:20]}.json", started, key=KEYS[0], previous="", made_from={},
                        places={}, checksums={})
    before = load_rollout(one, file_of={}.get)
    return before, {KEYS[0]: one.checksum}


root, dies_at = Path(sys.argv[1]).resolve(), 0
while True:
    dies_at += 1
    codes = []
    for loses in ("none", "all", "older"):
        folder = root / f"{dies_at:03}_{loses}"
        folder.mkdir(parents=True)
        before, checksums = write(folder)
        child = os.fork()
        if child == 0:
            Disk(dies_at, loses).install()
            write_segment(folder / f"segment_0001_{KEYS[1][:20]}.json", grown(before.rollout), key=KEYS[1],
                          previous=KEYS[0], made_from={}, places=before.places, checksums=checksums)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if codes == [0] * 3:
        break
    assert codes == [7] * 3, codes
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A folder of films, one for each call on the disk at which the power was cut."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file a descriptor means is only told on Linux")
    root = tmp_path_factory.mktemp("cut") / "mirage"
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(root)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
    )
    assert done.returncode == 0, done.stderr
    return root


def test_every_write_was_cut(cut):
    assert len(list(cut.iterdir())) >= 3 * 15, "two files: open, two writes, flush, sync, name, tidy, folder each"


def test_after_a_power_cut_a_segment_is_whole_or_not_there_and_the_next_write_heals_it(cut, store):
    states = set()
    for folder in sorted(cut.iterdir()):
        film = store.SegmentStore(cut, folder)
        start = film.load(found(film, "a", 0, is_start=True), None, of={})
        file = found(film, "b", 1)
        states.add(file is not None)
        kept = None
        if file is not None:
            kept = film.load(file, start, of={start.file.key: start.file, file.key: file})
            assert kept is not None, f"{folder.name}: a segment that is there is whole"
        assert film.warnings == [], f"{folder.name}: nothing was damaged"
        again = written(film, start)
        assert kept is None or kept.file.checksum == again.file.checksum
        assert again.rollout.segments_done == 1 and found(film, "b", 1) is not None
    assert states == {True, False}


def test_what_a_power_cut_leaves_behind_is_tidied_up(cut, pruning, monkeypatch):
    monkeypatch.setattr(pruning, "_YOUNG_SECONDS", -1)
    assert list(cut.glob("*/.*.part"))
    for folder in cut.iterdir():
        pruning.clean(folder)
    assert not list(cut.glob("*/.*.part"))


def found(film, letter, number, **options):
    return film.find(letter * 64, number, **options)


def written(film, start):
    return film.write(
        grown(start.rollout), key="b" * 64, made_from={}, before=start, of={start.file.key: start.file},
        places=start.places,
    )  # fmt: skip
