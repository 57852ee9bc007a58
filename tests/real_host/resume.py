"""A loop in a server of its own that may be killed, and what it left on disk."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mirage_core.rollout import Rollout
from mirage_core.rollout_files import KeptRollout, SegmentFile, check_tensors, load_rollout, read_segment

from .client import Client
from .flights import flight, of_type
from .server import Server, running_server

SEGMENTS = 6


def loop_prompt(picture: str = "mirage_room.jpg", *, segments: int = SEGMENTS, **changes) -> dict:
    """The stand-in flight at 64x64 without pictures and videos; changes: {class_type: {input: value}}."""
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture}, MirageGenerateSegment={"steps": 1})
    end = of_type(prompt, "MirageLoopEnd")
    shown = {"PreviewImage", "PreviewAny", "SaveImage", "MirageWriteFilm", "MirageFilmReport", "MirageRevisitScore"}
    shown |= {"MirageSaveMemory"}
    prompt = {key: one for key, one in prompt.items() if one["class_type"] not in shown}
    prompt["report"] = {"class_type": "PreviewAny", "inputs": {"source": [end, 2]}, "_meta": {"title": "report"}}
    set_inputs(prompt, MirageCameraPath={"width": 64, "height": 64, "length": 32 * segments + 1})
    set_inputs(prompt, MirageLoopStart={"segments": segments, "prompts": "\n".join(f"room {i}" for i in range(12))})
    set_inputs(prompt, **changes)
    return prompt


def set_inputs(prompt: dict, **changes) -> dict:
    for class_type, inputs in changes.items():
        prompt[of_type(prompt, class_type)]["inputs"].update(inputs)
    return prompt


@contextmanager
def own_server(comfyui: Path, base: Path, output: Path, log: Path) -> Iterator[Server]:
    """A server with all models and pictures of `base` whose output goes elsewhere."""
    folders = ["--base-directory", str(base), "--output-directory", str(output)]
    python = Path(os.environ.get("MIRAGE_COMFYUI_PYTHON") or sys.executable)
    with running_server(python, comfyui, folders, log=log, use_cpu=True) as server:
        yield server


def kill(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(30)


def report_of(client: Client, prompt: dict) -> str:
    """What the loop says that it reused and rendered."""
    finished = client.run(prompt)
    return finished.outputs["report"]["text"][0]


def rendered(log: Path) -> list[int]:
    """Numbers of the segments that were sampled, from the server's log."""
    return [int(number) for number in re.findall(r"Mirage: segment (\d+)/\d+ made", log.read_text())]


def kept_files(output: Path) -> list[SegmentFile]:
    """All kept segments, by number; every one of them is whole."""
    files = [read_segment(path) for path in output.glob("mirage/*/*.json")]
    for file in files:
        check_tensors(file)
    return sorted(files, key=lambda file: (file.number, file.key))


def final_film(output: Path) -> Rollout:
    """The newest of the longest films on disk."""
    files = {file.key: file for file in kept_files(output)}
    last = max(files.values(), key=lambda file: (file.number, file.path.stat().st_mtime))
    loaded: KeptRollout = load_rollout(last, file_of=files.__getitem__)
    return loaded.rollout


def assert_same_film(one: Rollout, other: Rollout) -> None:
    assert torch.equal(one.film, other.film)
    assert torch.equal(one.cameras.cam2world, other.cameras.cam2world)
    assert one.coverage == other.coverage and one.notes == other.notes and one.plan == other.plan
    assert len(one.memory.blocks) == len(other.memory.blocks)
    for left, right in zip(one.memory.blocks, other.memory.blocks, strict=True):
        for name, value in vars(left).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(right, name)), name
