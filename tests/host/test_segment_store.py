"""The folder of kept segments: what is deleted when, and which part of a path belongs to which segment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from host.segment_films import SIZE, grown, path_of

OTHER_MACHINE = "0123abcd-1-01234567"


def test_nothing_is_deleted_within_the_quota(pruning, films):
    films.add("one")
    assert pruning.prune(films.root, films.bytes()) == 0


def test_the_film_not_used_for_longest_goes_first(pruning, films):
    films.add("one")
    films.add("two")
    films.use("one")
    pruning.prune(films.root, films.bytes() // 2 + 100)
    assert [path.name for path in films.root.iterdir()] == ["one"]
    assert len(list((films.root / "one").glob("*.json"))) == 4


def test_the_end_of_a_film_goes_before_its_beginning(pruning, films):
    films.add("one")
    pruning.prune(films.root, films.bytes() - 100)
    assert [name[4:] for name in films.names()] == ["segment_0", "segment_0", "start_000"] or len(films.names()) == 3
    assert not list(films.root.glob("one/segment_0003*"))


def test_a_film_being_made_by_another_server_stays(pruning, films):
    films.add("one")
    (films.root / "one" / f".in_use.{OTHER_MACHINE}.mark").touch()
    films.add("two")
    pruning.prune(films.root, 0)
    assert [path.name for path in films.root.iterdir()] == ["one"]


def test_the_segments_of_the_film_being_made_stay(pruning, store, films):
    paths = films.add("one")
    store.SegmentStore(films.root, films.root / "one").mark_in_use()
    pruning.prune(films.root, 0, spared=paths[:3])
    assert sorted(films.root.glob("one/*.json")) == sorted(paths[:3])


def test_a_mark_of_a_server_long_dead_protects_nothing(pruning, films):
    films.add("one")
    mark = films.root / "one" / f".in_use.{OTHER_MACHINE}.mark"
    mark.touch()
    os.utime(mark, (1_000_000_000, 1_000_000_000))
    pruning.prune(films.root, 0)
    assert list(films.root.iterdir()) == []


def test_unfinished_files_of_a_process_that_ended_are_cleaned_up_and_others_stay(pruning, films, core):
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
    pruning.clean(films.root / "one")
    assert [path.exists() for path in (old, own, others)] == [False, True, True]


def test_files_of_the_user_are_never_deleted(pruning, films):
    films.add("one")
    mine = [films.root / "one" / "notes.json", films.root / "film_00001.mp4", films.root / "one" / "start_me.json"]
    for path in mine:
        path.write_text("{}")
    pruning.prune(films.root, 0)
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
    keys, film = pack("segment_keys"), started
    for _ in range(3):
        film = grown(film)
    onward = film.redirected(path_of(core, "pan_left", 33))
    longer = replace(started, cameras=onward.cameras, plan=onward.plan)
    assert len(longer.plan) == 4
    assert [parts_of(keys, started, index) == parts_of(keys, longer, index) for index in range(3)] == [True] * 3


def test_a_key_knows_all_keys_before_it(pack):
    keys = pack("segment_keys")
    assert keys.segment_key("a", {"seed": "1"}) != keys.segment_key("b", {"seed": "1"})
    assert keys.segment_key("a", {"seed": "1"}) != keys.segment_key("a", {"seed": "2"})


def test_descriptions_of_a_run_are_listed_without_their_trees_and_within_a_limit(store, films):
    paths = films.add("one")
    listed = store.kept_segments(films.root / "one")
    assert sorted(one.path for one in listed) == sorted(paths) and all(one.tree is None for one in listed)
    size = sum(path.stat().st_size for path in paths)
    assert len(store.kept_segments(films.root / "one", limit=size)) == len(paths)
    with pytest.raises(ValueError, match="The run 'one' has more than 0 MiB of descriptions"):
        store.kept_segments(films.root / "one", limit=size - 1)
