"""Load Segment Run: what counts as another film, and that a loaded one is not deleted."""

from __future__ import annotations

import gc
import os

import pytest


@pytest.fixture
def runs(pack, films, monkeypatch):
    """The node's module, which finds the films of `films`, and one of them."""
    module = pack("run_nodes")
    monkeypatch.setattr(module, "_root", lambda: films.root)
    films.add("castle")
    return module


def stamp(runs, segment=2):
    return runs.LoadSegmentRun.fingerprint_inputs("castle", segment)


def test_a_film_that_was_only_used_again_is_the_same(runs, films):
    before = stamp(runs)
    films.use("castle")
    assert stamp(runs) == before


def test_a_film_that_grows_is_the_same_at_the_segments_it_had(runs, films):
    at_two, longest = stamp(runs, 2), stamp(runs, 0)
    for path in films.root.glob("castle/segment_0003*"):
        path.unlink()
    assert stamp(runs, 2) == at_two and stamp(runs, 0) != longest


def test_another_take_of_a_segment_is_another_film(runs, films):
    before = stamp(runs)
    (path,) = films.root.glob("castle/segment_0002*.json")
    for other in films.root.glob("castle/segment_0002*"):
        other.unlink()
    films.add("castle", take=1)
    assert stamp(runs) != before and not path.exists()


def test_a_loaded_film_is_not_deleted_until_it_is_let_go(runs, films, pruning):
    kept, _ = runs.loaded_run("castle", 2)
    pruning.prune(films.root, 0)
    assert len(list(films.root.glob("castle/*.json"))) == 4
    del kept
    gc.collect()
    assert not list(films.root.glob("castle/.in_use*"))


def test_loading_a_take_does_not_change_which_take_it_is(runs, films):
    films.add("castle", take=1)
    files = sorted(films.root.glob("castle/segment_0002*.json"))
    for age, path in enumerate(files):
        os.utime(path, (1_000 - age, 1_000 - age))
    kept = [runs.loaded_run("castle", 2, take=1)[0].file.path for _ in range(2)]
    assert kept == [files[1]] * 2


def test_a_film_that_cannot_be_loaded_is_not_marked(runs, films):
    (tensors,) = films.root.glob("castle/segment_0002*.safetensors")
    tensors.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        runs.loaded_run("castle", 2)
    assert not list(films.root.glob("castle/.in_use*"))
