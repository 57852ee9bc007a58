"""A power cut at every open, write, fsync and rename while a film grows: it plays, and the next run heals it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from host import film_fixtures
from host.film_stage import pixels

autoencoder = film_fixtures.autoencoder
films = film_fixtures.films
forks = film_fixtures.forks
memory_of = film_fixtures.memory_of
output = film_fixtures.output
write = film_fixtures.write
REDONE = (1, 7, 8)  # seeds of a film that goes on differently after its first segment

# In a process of its own: the n-th moment at which the disk is changed is the last one. A write has two such moments,
# before it and when half of it is on the disk; what lies in this process's buffers is lost.
CUT = """
import av, builtins
left = {moment}
def tick():
    global left
    left -= 1
    if not left:
        os._exit(0)

class Watched:
    def __init__(self, file):
        self.file = file
    def write(self, data):
        tick()
        half = self.file.write(data[: len(data) // 2])
        if left == 1:
            self.file.flush()
        tick()
        return half + self.file.write(data[len(data) // 2 :])
    def truncate(self, size):
        tick()
        return self.file.truncate(size)
    def __getattr__(self, name):
        return getattr(self.file, name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()

def watched_open(file, mode="r", *more, plain=builtins.open, **others):
    if set(mode) <= set("rbt"):
        return plain(file, mode, *more, **others)
    tick()
    return Watched(plain(file, mode, *more, **others))

def before_and_after(call):
    def watched(*given, **others):
        tick()
        done = call(*given, **others)
        tick()
        return done
    return watched

builtins.open = watched_open
for name in ("fsync", "replace", "truncate", "unlink"):
    setattr(os, name, before_and_after(getattr(os, name)))
films["film_mp4"].Mp4Film._remux_whole = before_and_after(films["film_mp4"].Mp4Film._remux_whole)

memory = memory_of({done}, seeds={seeds})
path = films["write_film_nodes"].output_path("mirage/film", {suffix!r}).with_stem("film_00001")
make = lambda place: films["film_writing"].film_at(place, memory, crf=16)
with torch.inference_mode():
    films["film_writing"].write_film(memory, vae, make, path, is_last={is_last}, when_redone="replace it")
print("whole", flush=True)
"""


@pytest.fixture
def stages(films, memory_of, autoencoder, output, host):
    """stages(folder, done, ...): brings the film in a folder up to date, as Write Film does in and after a loop."""
    import torch

    writing = films["film_writing"]

    def bring(root: Path, done: int, *, seeds=(1, 2, 3), suffix=".mp4", is_last=True):
        memory, path = memory_of(done, seeds=seeds), root / "mirage" / f"film_00001{suffix}"
        with torch.inference_mode():
            return writing.write_film(
                memory,
                autoencoder,
                lambda place: writing.film_at(place, memory, crf=16),
                path,
                is_last=is_last,
                when_redone="replace it",
            )

    return bring


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        (None, {"done": 0, "is_last": False}, 1),
        ({"done": 1, "is_last": False}, {"done": 2, "is_last": False}, 1),
        ({"done": 1, "is_last": True}, {"done": 2, "is_last": True}, 1),
        ({"done": 2, "is_last": False}, {"done": 2, "is_last": False, "seeds": REDONE}, 1),
        ({"done": 1, "suffix": ".frames"}, {"done": 2, "suffix": ".frames"}, 5),
    ],
    ids=["begun", "grown", "taken up again", "redone", "pictures"],
)
def test_after_a_power_cut_at_any_moment_a_film_plays_and_the_next_run_heals_it(
    forks, stages, tmp_path, before, after, step
):
    start, truth = tmp_path / "start", tmp_path / "truth"
    (start / "mirage").mkdir(parents=True)
    if before:
        stages(start, **before)
    stages(truth, **after)
    name = "film_00001" if "suffix" in after else "film_00001.mp4"
    expected, kept = pixels(truth / "mirage" / name), 1 if "seeds" in after else before and before["done"]
    same = expected[: 1 + 16 * kept] if before else []
    asked = {"seeds": (1, 2, 3), "suffix": ".mp4", "is_last": True} | after
    for moment in range(1, 10000, step):
        root = tmp_path / f"cut{moment}"
        shutil.copytree(start, root)
        said = forks(CUT.format(moment=moment, **asked), root / "mirage")[1]()
        film = root / "mirage" / name
        if before or film.exists():
            assert pixels(film)[: len(same)] == same, f"cut at moment {moment}"
        stages(root, **after)
        assert pixels(film) == expected, f"healed after a cut at moment {moment}"
        assert not list((root / "mirage").rglob(".*.part")), moment
        if "whole\n" in said:
            print(f"{moment} moments")
            break
        shutil.rmtree(root)
    assert moment > 8 * step
