"""Exact resume does not depend on how the host keeps the outputs of nodes."""

from __future__ import annotations

import pytest

from real_host.client import Client
from real_host.resume import kept_files, loop_prompt, own_server, rendered, report_of

SEGMENTS = 3


@pytest.fixture(scope="module")
def expected(server, base_directory) -> dict[int, str]:
    """Checksums of the film's segments by number, as a server with the default cache makes them."""
    prompt = loop_prompt(segments=SEGMENTS, MirageLoopStart={"run": "of_the_default_cache"})
    report_of(Client(server.url), prompt)
    output = base_directory / "output"
    files = [file for file in kept_files(output) if file.path.parent.name == "of_the_default_cache"]
    return {file.number: file.checksum for file in files}


@pytest.mark.parametrize(
    "options, note",
    [
        (("--cache-none",), ""),
        (("--cache-lru", "3"), "\nComfyUI runs with --cache-lru: it keeps the decoded pictures of all segments"),
        (("--cache-classic",), "\nComfyUI runs with --cache-classic: it keeps the decoded pictures of all segments"),
    ],
)
def test_with_any_cache_a_film_is_the_same_and_no_segment_is_made_twice(
    comfyui, base_directory, expected, tmp_path, options, note
):
    log = tmp_path / "server.log"
    with own_server(comfyui, base_directory, tmp_path, log, *options) as server:
        client = Client(server.url)
        first = report_of(client, loop_prompt(segments=SEGMENTS, MirageLoopStart={"segments": 2}))
        assert first.startswith("rendering 1-2" + note) and first.count("\n") == (1 if note else 0)
        assert report_of(client, loop_prompt(segments=SEGMENTS)).startswith("reused 1-2, rendering 3" + note)
        assert report_of(client, loop_prompt(segments=SEGMENTS, MirageLoopStart={"quota": 19.0})) == "reused 1-3"
    assert rendered(log) == [1, 2, 3]
    assert {file.number: file.checksum for file in kept_files(tmp_path)} == expected
