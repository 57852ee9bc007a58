"""Files from strangers against every loader, in a process with little memory: a sentence each, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST = 600  # letters of a sentence


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    if sys.platform != "linux":
        pytest.skip("limits of a process's memory are set here as Linux knows them")
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.core.hostile_trial", str(folder)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=1500, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    return json.loads(ended.stdout)


def test_more_than_two_hundred_files_were_shown_to_every_kind_of_loader(told):
    shown = Counter(one["loader"] for one in told["found"])
    assert sum(shown.values()) > 1500
    for loader in ("memory", "scene", "side branch", "lora", "segment", "segment 2 of a chain"):
        assert shown[loader] >= 150, loader
    for loader in ("mask rules", "COLMAP cameras.txt cameras", "COLMAP images.txt cameras", "worldscore cameras"):
        assert shown[loader] >= 80, loader
    assert sum(count for loader, count in shown.items() if loader.endswith("cameras")) > 500


def test_every_file_is_loaded_or_refused_and_nothing_crashes_or_hangs(told):
    odd = [one for one in told["found"] if one["outcome"] not in ("loaded", "refused")]
    assert odd == []


def test_every_refusal_is_a_short_sentence_that_can_be_shown(told):
    for one in told["found"]:
        if one["outcome"] == "refused":
            words = one["words"]
            assert 15 < len(words) < LONGEST and words.replace("\n", "").isprintable(), (one["loader"], one["case"])


def test_nothing_in_a_file_is_ever_run(told):
    assert not told["ran"]


def test_damaged_numbers_of_a_memory_never_pass_for_good_ones(told):
    for one in told["found"]:
        if one["loader"] in ("memory", "scene") and one["outcome"] == "loaded":
            is_of_text = "metadata" in one["case"] or "flipped" in one["case"]  # the origin, in free words
            assert is_of_text, (one["loader"], one["case"])


@pytest.mark.parametrize(
    "lie", ["with nan", "with inf", "10^12", "overlaps", "beyond the end", "12 000 empty", "pickle", "zip"]
)
def test_no_memory_with_such_a_lie_is_loaded(told, lie):
    cases = [one for one in told["found"] if one["loader"] in ("memory", "scene") and lie in one["case"]]
    assert cases and all(one["outcome"] == "refused" for one in cases)


def test_memory_and_time_stay_bounded(told):
    assert told["peak_kib"] < 1.5 * 2**20
    slowest = max(told["found"], key=lambda one: one["seconds"])
    assert slowest["seconds"] < 15, slowest
