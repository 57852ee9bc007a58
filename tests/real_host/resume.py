"""A loop in a server of its own that may be killed, and what it left on disk."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from mirage_core.rollout import Rollout
from mirage_core.rollout_files import KeptRollout, SegmentFile, check_tensors, load_rollout, read_segment

from .client import Client
from .flights import flight, node, of_type
from .server import Server, running_server

SEGMENTS = 6
FILM = "films/flight"


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


def filmed_prompt(**changes) -> dict:
    """The same loop; its film is written while it grows, and once more at its end."""
    prompt = loop_prompt(**changes)
    vae = [of_type(prompt, "VAELoader"), 0]
    for name, source in (("growing", "MirageWriteMemory"), ("whole", "MirageLoopEnd")):
        writer = node("MirageWriteFilm", memory=[of_type(prompt, source), 0], vae=vae, filename_prefix=FILM, crf=16)
        prompt[name] = writer | {"_meta": {"title": name}}
        writer["inputs"] |= {"format": "mp4", "codec": "auto"}
    return prompt


def set_inputs(prompt: dict, **changes) -> dict:
    for class_type, inputs in changes.items():
        prompt[of_type(prompt, class_type)]["inputs"].update(inputs)
    return prompt


@contextmanager
def own_server(comfyui: Path, base: Path, output: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server with all models and pictures of `base` whose output goes elsewhere. options: of the command line."""
    folders = ["--base-directory", str(base), "--output-directory", str(output), *options]
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


def film_frames(output: Path) -> list[str]:
    """A hash of each decoded frame of the film as far as it is written; none where there is no film yet."""
    path = output / f"{FILM}_00001.mp4"
    if not path.exists():
        return []
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames]


def digests(output: Path) -> dict[str, str]:
    """Every file below a folder: a hash of its bytes. Of a film's ledger, which holds the time of writing, none."""
    files = {str(path.relative_to(output)): path for path in output.rglob("*") if path.is_file()}
    return {
        name: "" if name == f"{FILM}_00001.json" else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
    }
