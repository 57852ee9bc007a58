"""Exact resume: a finished segment is never made twice, and a film comes out the same whatever happened on the way."""

from __future__ import annotations

import os
import random
import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest

from real_host.client import Client
from real_host.resume import (
    SEGMENTS,
    digests,
    film_frames,
    filmed_prompt,
    kept_files,
    kill,
    own_server,
    rendered,
)
from real_host.server import Server

KILLS = 20 if os.environ.get("MIRAGE_SLOW") else 3
_WARM_UP = 3  # segments take about as long as what comes before the first and after the last


@pytest.fixture(scope="module")
def undisturbed(comfyui, base_directory, tmp_path_factory) -> tuple[Path, float]:
    """The output folder of a film made without trouble, and how long it took."""
    output = tmp_path_factory.mktemp("undisturbed")
    log = tmp_path_factory.mktemp("log") / "server.log"
    with own_server(comfyui, base_directory, output, log) as server:
        began = time.monotonic()
        Client(server.url).run(filmed_prompt())
        seconds = time.monotonic() - began
    assert rendered(log) == list(range(1, SEGMENTS + 1))
    assert len(film_frames(output)) == 1 + 32 * SEGMENTS
    return output, seconds


def test_a_film_killed_again_and_again_is_the_undisturbed_film(comfyui, base_directory, undisturbed, tmp_path):
    expected, seconds = undisturbed
    frames, moments, kills, films = film_frames(expected), random.Random(6), 0, 0
    while kills < KILLS:
        films += 1
        output = tmp_path / f"film_{films}"
        output.mkdir()
        is_whole = False
        while not is_whole:
            before = numbers_kept(output)
            log = tmp_path / f"server_{films}_{kills}.log"
            left = (_WARM_UP + SEGMENTS - len(before)) / (_WARM_UP + SEGMENTS)
            with own_server(comfyui, base_directory, output, log) as server:
                is_whole = finished_in(server, moments.random() * left * seconds if kills < KILLS else None)
            check_made(before, rendered(log), numbers_kept(output), is_whole=is_whole)
            shown = film_frames(output)
            assert shown == frames[: len(shown)], "the film so far plays, and is the beginning of the film"
            kills += not is_whole
        assert digests(output) == digests(expected), "the same files to the bit, and nothing else"
    print(f"{kills} kills in {films} films")


def numbers_kept(output: Path) -> list[int]:
    """The finished segments on disk, each of them whole."""
    return [file.number for file in kept_files(output) if file.number]


def check_made(before: list[int], made: list[int], after: list[int], *, is_whole: bool) -> None:
    """Assert that a server went on at the first segment that was missing and kept all that it made.

    Only the one that was in flight when it was killed may be missing.
    """
    assert made == list(range(len(before) + 1, len(before) + 1 + len(made))), "one after the other, none twice"
    kept = before + made
    assert after == kept or (not is_whole and after == kept[:-1] and made)


def finished_in(server: Server, seconds: float | None) -> bool:
    """Queue the film and kill the server so many seconds later, unless the film is whole by then."""
    killer = threading.Timer(seconds or 0, kill, [server])
    if seconds is not None:
        killer.start()
    try:
        Client(server.url).run(filmed_prompt())
    except (OSError, HTTPException):
        killer.join()
        assert not server.is_alive(), server.log_tail()
        return False
    finally:
        killer.cancel()
    return True
