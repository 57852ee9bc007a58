"""The shipped loop with a memory of colours, re-encoding and a colour anchor, over HTTP in the real server."""

from __future__ import annotations

import copy

import pytest

from real_host.client import PromptFailed
from real_host.flights import film, of_type, psnr
from real_host.flights import flight as shipped


def flight(**changes) -> dict:
    return shipped("stand_in_long_flight", LoadImage={"image": "mirage_room.jpg"}, **changes)


def test_the_same_workflow_flies_with_a_memory_of_colours(client):
    prompt = flight(MirageInitLatentMemory={"kind": "rgb"})
    frames = film(client, prompt, client.run(prompt))
    assert len(frames) == 65 and frames[0].shape == (64, 96, 3)
    assert psnr(frames[0], frames[-1]) > psnr(frames[0], frames[32]) + 3, "the way back shows the start again"


def test_a_memory_of_colours_without_images_stops_with_the_segment_named(client):
    prompt = flight(MirageInitLatentMemory={"kind": "rgb"})
    del prompt[of_type(prompt, "MirageWriteMemory")]["inputs"]["images"]
    with pytest.raises(PromptFailed, match="segment 1/2, Write Memory: This film remembers colours"):
        client.run(prompt)


def test_re_encoding_and_anchoring_fly_in_the_loop(client):
    prompt = flight(MirageWriteMemory={"update": "re-encode static regions"})
    made, memory = of_type(prompt, "MirageGenerateSegment"), of_type(prompt, "MirageLoopStart")
    anchored = copy.deepcopy(prompt)
    for node in anchored.values():
        if node["class_type"] in ("VAEDecode", "MirageWriteMemory"):
            node["inputs"] = {name: ["anchor", 0] if at == [made, 0] else at for name, at in node["inputs"].items()}
    anchored["anchor"] = {
        "class_type": "MirageColorAnchor",
        "inputs": {"segment": [made, 0], "memory": [memory, 1], "strength": 1.0},
        "_meta": {"title": "Colour Anchor"},
    }
    frames = film(client, anchored, client.run(anchored))
    assert len(frames) == 65
    assert psnr(frames[0], frames[-1]) > psnr(frames[0], frames[32]) + 3
