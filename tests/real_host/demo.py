"""The demo: fly a shipped workflow through a running ComfyUI and bring back film, pictures and the revisit score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Client, Event, Finished, Prompt, made_files

SEGMENT_FRAMES = 32  # frames that each segment adds to the first one
SCENE_FOV = 4  # output of Example Scene
RESULTS = (
    "film",
    "contact_sheet",
    "coverage",
    "revisit",
)  # last part of filename_prefix where they are saved


@dataclass(frozen=True)
class Flight:
    """What to fly. None keeps the workflow's own value.

    size: (width, height) in pixels, multiples of 32.  fov: horizontal field of view of `image` in degrees.
    """

    image: Path | None = None
    segments: int = 3
    size: tuple[int, int] | None = None
    path: str | None = None
    prompt: str | None = None
    seed: int | None = None
    fov: float | None = None

    def __post_init__(self) -> None:
        if self.image is not None and not self.image.is_file():
            raise ValueError(f"There is no picture {self.image}. Give --image the path of a PNG or JPEG file.")
        if self.segments < 1:
            raise ValueError(f"{self.segments} segments make no film. Give --segments 1 or more.")
        if any(side < 64 or side % 32 for side in self.size or ()):
            width, height = self.size or (0, 0)
            raise ValueError(f"A film of {width}x{height} is not possible. Use multiples of 32 from 64 on.")


@dataclass(frozen=True)
class Flown:
    """What a flight brought back. score: the lines of Revisit Score, none where the workflow has no such node."""

    written: list[Path]
    score: list[str]


def fly(client: Client, workflow: Path, flight: Flight, output: Path) -> Flown:
    """Run the workflow as `flight` says, print its progress, write the results into `output`.

    Raises ValueError for a move that does not exist or a workflow that lacks a node the flight needs, and what
    Client.run raises.
    """
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    _check_move(client, flight.path)
    _set_up(prompt, flight)
    if flight.image is not None:
        _set_picture(prompt, client.upload_image(flight.image), flight.fov)
    finished = client.run(prompt, on_event=ProgressLines().show, timeout=24 * 3600)
    return Flown(_bring_back(client, prompt, finished, output), _score(prompt, finished))


class ProgressLines:
    """Prints what the nodes say about themselves, once each, e.g. "segment 2/3, step 5/8"."""

    def __init__(self) -> None:
        self.last = ""

    def show(self, event: Event) -> None:
        if event.kind == "text" and event.data["text"] != self.last:
            self.last = event.data["text"]
            print(f"  {self.last}", flush=True)


def _check_move(client: Client, move: str | None) -> None:
    listed = client.get("/object_info/MirageCameraPath")
    if not listed:
        raise ValueError("ComfyUI did not load the Mirage nodes; its log says why.")
    options = listed["MirageCameraPath"]["input"]["required"]["preset"]
    moves = options[0] if isinstance(options[0], list) else options[1]["options"]
    if move is not None and move not in moves:
        raise ValueError(f"There is no camera move {move}. The moves are {', '.join(moves)}.")


def _set_up(prompt: Prompt, flight: Flight) -> None:
    width, height = flight.size or (None, None)
    length = SEGMENT_FRAMES * flight.segments + 1
    _set_inputs(prompt, "MirageCameraPath", preset=flight.path, length=length, width=width, height=height)
    _set_inputs(prompt, "MirageLoopStart", seed=flight.seed, prompts=flight.prompt)


def _set_picture(prompt: Prompt, image: str, fov: float | None) -> None:
    """Fly another picture than the workflow's; an example scene gives way, and with it what only a scene knows."""
    for key, node in prompt.items():
        if node["class_type"] == "MirageExampleScene":
            node |= {"class_type": "LoadImage", "inputs": {}}
            for other in prompt.values():
                known = {name: fov or 0.0 for name, value in other["inputs"].items() if value == [key, SCENE_FOV]}
                other["inputs"].update(known)
    _set_inputs(prompt, "LoadImage", image=image)


def _set_inputs(prompt: Prompt, class_type: str, **inputs: Any) -> None:
    nodes = [node for node in prompt.values() if node["class_type"] == class_type]
    if not nodes:
        raise ValueError(f"The workflow has no {class_type} node, so the demo cannot set {', '.join(inputs)} on it.")
    for node in nodes:
        node["inputs"].update({name: value for name, value in inputs.items() if value is not None})


def _bring_back(client: Client, prompt: Prompt, finished: Finished, output: Path) -> list[Path]:
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for node_id, node in prompt.items():
        name = _result_name(node)
        for made in made_files(finished.outputs.get(node_id, {})) if name else []:
            path = output / f"{name}{Path(made['filename']).suffix}"
            path.write_bytes(client.fetch(made))
            written.append(path)
    return written


def _score(prompt: Prompt, finished: Finished) -> list[str]:
    told = [finished.outputs.get(key, {}) for key, node in prompt.items() if node["class_type"] == "MirageRevisitScore"]
    return [line for outputs in told for text in outputs.get("text", ()) for line in text.splitlines()]


def _result_name(node: dict[str, Any]) -> str | None:
    prefix = str(node["inputs"].get("filename_prefix", "")).rsplit("/", 1)[-1]
    return prefix if prefix in RESULTS else None
