"""Exact resume: a finished segment is never made twice, and a film comes out the same whatever happened on the way."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from real_host.client import Client
from real_host.resume import (
    SEGMENTS,
    assert_same_film,
    final_film,
    kept_files,
    kill,
    loop_prompt,
    own_server,
    rendered,
)

KILLS = 20 if os.environ.get("MIRAGE_SLOW") else 3


@pytest.fixture(scope="module")
def undisturbed(comfyui, base_directory, tmp_path_factory) -> tuple[Path, float]:
    """The output folder of a film made without trouble, and how long it took."""
    output = tmp_path_factory.mktemp("undisturbed")
    with own_server(comfyui, base_directory, output, output / "server.log") as server:
        began = time.monotonic()
        Client(server.url).run(loop_prompt())
        return output, time.monotonic() - began


def test_a_film_killed_again_and_again_is_the_undisturbed_film(comfyui, base_directory, undisturbed, tmp_path):
    expected, seconds = undisturbed
    moments = random.Random(6)
    made: list[int] = []
    for attempt in range(KILLS + 1):
        log = tmp_path / f"server_{attempt}.log"
        kept = {file.number for file in kept_files(tmp_path)} - {0}
        with own_server(comfyui, base_directory, tmp_path, log) as server:
            if attempt < KILLS:
                run_until_killed(server, moments.uniform(0.1, 0.45) * seconds)
            else:
                Client(server.url).run(loop_prompt())
        assert kept.isdisjoint(rendered(log)), "what was kept before is not made again"
        made += rendered(log)
        if attempt < KILLS and len(kept_files(tmp_path)) > SEGMENTS:
            for file in kept_files(tmp_path)[3:]:  # finished too early: begin again in the middle
                file.path.unlink()
                file.tensors_path.unlink()
    assert_same_film(final_film(tmp_path), final_film(expected))
    assert {file.key for file in kept_files(tmp_path)} == {file.key for file in kept_files(expected)}
    assert {file.checksum for file in kept_files(tmp_path)} == {file.checksum for file in kept_files(expected)}
    left = [path.name for path in tmp_path.glob("mirage/*/*") if path.suffix not in (".json", ".safetensors")]
    assert left == [], "nothing half-written stays"


def run_until_killed(server, seconds: float) -> None:
    """Queue the film and kill the server so many seconds later."""
    killer = threading.Timer(seconds, kill, [server])
    try:
        client = Client(server.url)
        stream = client._open_stream()
        client.queue(loop_prompt())
        killer.start()
        server.process.wait(120)
        stream.close()
    finally:
        killer.cancel()
