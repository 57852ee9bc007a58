"""The shipped loop with a memory of colours, re-encoding and a colour anchor, over HTTP in the real server."""

from __future__ import annotations

import copy
import json
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from real_host.client import PromptFailed, made_files

API = Path(__file__).resolve().parents[2] / "workflows" / "api"


def flight(**changes) -> dict:
    """The looped stand-in workflow at 96x64; changes: {class_type: {input: value}}."""
    prompt = json.loads((API / "stand_in_long_flight.json").read_text())
    small = {
        "LoadImage": {"image": "mirage_room.jpg"},
        "MirageCameraPath": {"width": 96, "height": 64, "length": 65, "fov": 60.0},
        "MirageGenerateSegment": {"steps": 2},
        "MirageFilmReport": {"pictures": 4},
    }
    for node in prompt.values():
        for settings in (small, changes):
            node["inputs"].update(settings.get(node["class_type"], {}))
    return prompt


def of_type(prompt: dict, class_type: str) -> str:
    return next(key for key, node in prompt.items() if node["class_type"] == class_type)


def film(client, prompt: dict) -> list[np.ndarray]:
    finished = client.run(prompt)
    listed = made_files(finished.outputs[of_type(prompt, "SaveVideo")])
    with av.open(BytesIO(client.fetch(listed[0]))) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.float32) for frame in container.decode(video=0)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((one - other) ** 2).mean())))


def test_the_same_workflow_flies_with_a_memory_of_colours(client):
    frames = film(client, flight(MirageInitLatentMemory={"kind": "rgb"}))
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
    frames = film(client, anchored)
    assert len(frames) == 65
    assert psnr(frames[0], frames[-1]) > psnr(frames[0], frames[32]) + 3
