"""The shipped workflows at tiny size, and what they made."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from .client import made_files

API = Path(__file__).resolve().parents[2] / "workflows" / "api"


def flight(name: str, **changes) -> dict:
    """A shipped workflow at 96x64 with few steps; changes: {class_type: {input: value}}."""
    prompt = json.loads((API / f"{name}.json").read_text())
    small = {
        "MirageCameraPath": {"width": 96, "height": 64, "length": 65, "fov": 60.0},
        "MirageGenerateSegment": {"steps": 2},
        "MirageFilmReport": {"pictures": 4},
    }
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
        node["inputs"].update(changes.get(node["class_type"], {}))
    return prompt


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def find(prompt: dict, title: str) -> str:
    return next(key for key, node in prompt.items() if node["_meta"]["title"] == title)


def of_type(prompt: dict, class_type: str) -> str:
    return next(key for key, node in prompt.items() if node["class_type"] == class_type)


def film_writer(prompt: dict) -> str:
    """The Write Film that has the whole film: the last one, after the loop."""
    return [key for key, node in prompt.items() if node["class_type"] == "MirageWriteFilm"][-1]


def film(client, prompt: dict, finished) -> list[np.ndarray]:
    return video(client, finished.outputs[film_writer(prompt)])


def video(client, outputs: dict) -> list[np.ndarray]:
    """The frames of the one video among a node's outputs."""
    (listed,) = made_files(outputs)
    with av.open(BytesIO(client.fetch(listed))) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.float32) for frame in container.decode(video=0)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((one - other) ** 2).mean())))


def with_tiny_models(prompt: dict) -> None:
    """Small random files in place of the real ones, and numbers in place of a text encoder; two segments."""
    prompt[of_type(prompt, "UNETLoader")]["inputs"]["unet_name"] = "mirage_random_dit.safetensors"
    prompt[of_type(prompt, "VAELoader")]["inputs"]["vae_name"] = "mirage_stand_in_vae.safetensors"
    loader = of_type(prompt, "LoadMoGeModel")
    prompt[loader]["inputs"]["model_name"] = "mirage_random_moge1.safetensors"
    prompt["precise"] = node("MirageFullPrecisionDepthModel", moge_model=[loader, 0])  # most machines here have no GPU
    prompt[of_type(prompt, "MirageCameraPath")]["inputs"] |= {"length": 37, "width": 320, "height": 192}
    del prompt[of_type(prompt, "CLIPLoader")]
    for one in prompt.values():
        if one["class_type"] == "CLIPTextEncode":
            one["class_type"] = "MirageStandInText"
            one["inputs"] = {"text": one["inputs"]["text"], "width": 64}
        if one["class_type"] == "MoGeInference":
            one["inputs"] |= {"resolution_level": 0, "moge_model": ["precise", 0]}
        if one["class_type"] == "MirageSceneEvidence":
            del one["inputs"]["geometry"]  # random weights call everything sky
