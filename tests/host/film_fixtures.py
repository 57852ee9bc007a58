"""Fixtures of the tests of films on disk: films, a small VAE, the node on an empty output folder, other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.small_vaes import narrow_taehv, small_wan22
from host.film_stage import NEW, SIZE, drifting

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def autoencoder(host):
    """The host's TAEHV with a decoder of the same layers and random weights, but narrow and therefore quick."""
    return narrow_taehv(seed=0)


@pytest.fixture
def output(host, tmp_path):
    before = host.folder_paths.get_output_directory()
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path / "mirage"
    host.folder_paths.set_output_directory(before)


@pytest.fixture(scope="module")
def films(pack):
    """The modules of the pack that these tests use."""
    pack("write_film_nodes")
    core = {name: sys.modules[f"mirage_pack.mirage_core.{name}"] for name in ("camera", "rollout", "memory", "film")}
    return core | {name: pack(name) for name in ("write_film_nodes", "film_decoding", "film_mp4", "film_writing")}


@pytest.fixture
def memory_of(films):
    """memory_of(3): a film of 3 segments whose colours drift, each from a seed of its own."""

    def make(done: int, *, seeds=(1, 2, 3, 4, 5), planned: int = 4):
        frames = 1 + 4 * NEW * planned
        cameras = films["camera"].Cameras(
            torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1),
            torch.tensor([[60.0, 0, 32], [0, 60, 16], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1),
            SIZE,
        )
        latents = [drifting(0, 1)]
        for index in range(done):
            latents.append(drifting(seeds[index], NEW, start=latents[-1][:, -1:]))
        empty = films["memory"].LatentMemory(films["rollout"].WAN22)
        started = films["rollout"].Rollout.started(empty, latents[0], cameras, segment_frames=1 + 4 * NEW)
        return replace(started, latents=tuple(latents))

    return make


@pytest.fixture
def write(films, autoencoder, output):
    def call(memory, **settings):
        with torch.inference_mode():
            return films["write_film_nodes"].WriteFilm.execute(memory, settings.pop("vae", autoencoder), **settings)

    return call


@pytest.fixture(scope="module")
def wan22(host):
    """The class of the real Wan2.2 VAE, small; its random weights look back in time as far as any."""
    return small_wan22(seed=0)


# A process that loads the host once and forks for every piece of work it is told.
FORKS = """
import json, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
import host.conftest as fixtures
import host.film_fixtures as test

def plain(fixture):
    return getattr(fixture, "__wrapped__", None) or fixture.__pytest_wrapped__.obj

found = plain(fixtures.host)()
films, vae = plain(test.films)(plain(fixtures.pack)(found)), test.narrow_taehv(seed=0)
memory_of = plain(test.memory_of)(films)
for line in sys.stdin:
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        exec(json.loads(line))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture(scope="module")
def forks():
    """forks(work, output): runs Python text in a fresh process; gives its id and a function that waits for its end."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked here, which this system cannot")
    code = FORKS.format(root=str(ROOT), tests=str(ROOT / "tests"))
    stage = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert stage.stdin is not None and stage.stdout is not None
    asking, answers = stage.stdin, stage.stdout

    def call(work: str, output: Path):
        place = f"found.folder_paths.set_output_directory({str(output.parent)!r})\n"
        asking.write(json.dumps(place + work) + "\n")
        asking.flush()
        child = int(answers.readline())

        def wait() -> list[str]:
            return list(iter(answers.readline, "gone\n"))

        return child, wait

    yield call
    stage.kill()
    stage.wait()
