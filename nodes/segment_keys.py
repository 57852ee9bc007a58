"""What makes a segment what it is, by name; and the key that all of it has.

A segment's key is made of the key before it, its own turn, the cameras it uses, and every node its result depends on:
their kinds, what is typed into them, how they are wired, and the files they name. Node ids, titles and positions do not
count, nor do nodes that only show or save something. What no node shows, the code and the device, is in conditions.py.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.internal import first_real_override
from comfy_execution.graph_utils import is_link

from ..mirage_core.rollout import Rollout
from ..mirage_core.rollout_files import tensor_bytes
from ..mirage_core.rollout_trees import canonical
from .conditions import CONDITIONS
from .loop_body import INDEX, LOOP, MEMORY, PROMPT, SEED, START_ID, STRENGTH, Link, class_of, links_of
from .loop_turns import Turn

ORIGIN = "origin"  # the part of a film's start that is the same when the same things made it (film_starts.py)
_KEY_VERSION = 1
_LONG = 300  # letters of a typed-in text that are kept as they are; of longer ones the hash
_OWN_FOLDER = "mirage"
_SAMPLES, _SAMPLE_BYTES = 64, 4096
# (class, output) that is one of the node's inputs as it came: how a film is written does not make its segments.
_HANDED_ON = {("MirageWriteFilm", 0): "memory"}
_START_OUTPUTS = {LOOP: "loop", MEMORY: "memory", PROMPT: "prompt", SEED: "seed", INDEX: "index", STRENGTH: "strength"}


@dataclass(frozen=True)
class GraphParts:
    """The nodes that a value depends on.

    parts: "KSampler steps" -> "20", with a number behind the class name of the second and further nodes of a kind.
    start_outputs: which outputs of the loop's Start the value depends on.
    reads_path_end: whether a node among them may do something else at the end of the path.
    """

    parts: Mapping[str, str]
    start_outputs: frozenset[int]
    reads_path_end: bool


def graph_parts(
    prompt, root: Link, *, start: str | None = None, leaving_out: Collection[tuple[str, str]] = ()
) -> GraphParts:
    """All that made the value at a link, as far as the outputs of `start`.

    leaving_out: (class, input) of nodes that do not count, with all that only they depend on.
    """
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    parts: dict[str, str] = {}
    outputs: set[int] = set()
    reads_path_end = False
    root = _behind(prompt, root)
    stack = [root[0]] if root[0] != start else []
    outputs |= {root[1]} if root[0] == start else set()
    while stack:  # depth first, inputs by name: an order that does not know ids
        node = stack.pop()
        if node in names:
            continue
        kind = prompt.get_node(node)["class_type"]
        names[node] = _named(kind, counts)
        links = sorted(
            (at, _behind(prompt, link)) for at, link in links_of(prompt, node).items() if (kind, at) not in leaving_out
        )
        reads_path_end |= any(name == "end_image" for name, _ in links)
        outputs |= {link[1] for _, link in links if link[0] == start}
        stack += [link[0] for _, link in reversed(links) if link[0] != start and link[0] not in names]
    for node, name in names.items():
        kind = prompt.get_node(node)["class_type"]
        for at, value in prompt.get_node(node)["inputs"].items():
            if (kind, at) in leaving_out:
                continue
            if is_link(value):
                source, output = _behind(prompt, value)
                parts[f"{name} {at}"] = f"{START_ID if source == start else names[source]} output {output}"
            elif value is not None:
                parts[f"{name} {at}"] = _told(value)
        parts |= {f"{name} {what}": text for what, text in _identity(prompt, node).items()}
    return GraphParts(parts, frozenset(outputs), reads_path_end)


def turn_parts(rollout: Rollout, index: int, turn: Turn, graph: GraphParts) -> dict[str, str]:
    """What makes the segment of a turn, the segments before it left out.

    rollout: the film at the loop's start, with its whole path.  index: of the turn, from 0.
    """
    segment = rollout.plan[rollout.segments_done + index]
    told = {PROMPT: turn.prompt, SEED: turn.seed, STRENGTH: turn.strength, INDEX: index}
    parts = {_START_OUTPUTS[one]: json.dumps(told[one]) for one in graph.start_outputs & told.keys()}
    output = (segment.output.start, segment.output.stop)
    parts["plan"] = json.dumps([segment.index, output, segment.model_frames, segment.target_frames])
    cameras = rollout.cameras[segment.target_frames[0] : max(segment.output.stop, segment.target_frames[-1] + 1)]
    digest = hashlib.sha256(canonical(cameras.image_size))
    for tensor in (cameras.cam2world, cameras.intrinsics):
        digest.update(tensor_bytes(tensor))
    parts["path"] = digest.hexdigest()
    if graph.reads_path_end:
        parts["being the last of the path"] = json.dumps(segment.index == len(rollout.plan) - 1)
    return parts | dict(graph.parts)


def segment_key(previous: str, parts: Mapping[str, str]) -> str:
    """sha256 of what made a segment and of the key of the one before."""
    return hashlib.sha256(canonical([_KEY_VERSION, previous, dict(parts)])).hexdigest()


def differences(parts: Mapping[str, str], others: Mapping[str, str], number: int) -> list[str]:
    """The names under which two segments with number `number` differ, as a person says them; code and device first."""
    changed = [name for name in {**others, **parts} if parts.get(name) != others.get(name) and name != ORIGIN]
    changed.sort(key=lambda name: name not in CONDITIONS)
    return [f"{name} of segment {number}" if " " not in name or name.startswith("being") else name for name in changed]


def _behind(prompt, link: Link) -> Link:
    """A link as if nodes that only hand their input on were not there."""
    while (name := _HANDED_ON.get((prompt.get_node(link[0])["class_type"], link[1]))) is not None:
        inner = prompt.get_node(link[0])["inputs"].get(name)
        if not is_link(inner):
            break
        link = inner
    return link


def _named(class_type: str, counts: dict[str, int]) -> str:
    counts[class_type] = counts.get(class_type, 0) + 1
    return class_type if counts[class_type] == 1 else f"{class_type} {counts[class_type]}"


def _told(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda one: type(one).__name__)
    if len(text) <= _LONG:
        return text
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _identity(prompt, node: str) -> dict[str, str]:
    """What a node reads besides its inputs: what its class says of itself, or the files that its inputs name."""
    says = _fingerprint(prompt, node)
    if says is not None:
        return {"content": says}
    stamps = {}
    for name, value in prompt.get_node(node)["inputs"].items():
        stamp = file_stamp(value) if isinstance(value, str) else None
        if stamp is not None:
            stamps[f"{name} (file)"] = stamp
    return stamps


def _fingerprint(prompt, node: str) -> str | None:
    """What fingerprint_inputs or IS_CHANGED of a node's class gives, or None when it has neither or cannot tell."""
    told, kind = prompt.get_node(node), class_of(prompt, node)
    says = told.get("is_changed")
    if says is None:
        literals = {name: value for name, value in told["inputs"].items() if not is_link(value)}
        if hasattr(kind, "GET_BASE_CLASS"):
            asked = first_real_override(kind, "fingerprint_inputs")
        else:
            asked = getattr(kind, "IS_CHANGED", None)
        if asked is None:
            return None
        try:
            says = kind.fingerprint_inputs(**literals) if hasattr(kind, "GET_BASE_CLASS") else asked(**literals)
        except Exception:  # a class that cannot tell: the host goes on with a warning
            return None
    if says is None or says is False or inspect.isawaitable(says):
        return None
    flat = says if isinstance(says, list) else [says]
    if any(isinstance(one, float) and math.isnan(one) for one in flat):
        return f"changes every time, {uuid.uuid4().hex}"  # not equal to itself: what the host makes of it too
    return _told(flat)


def file_stamp(value: str) -> str | None:
    """A text that changes when the file of the host that a typed-in text names does; None when it names none.

    Files elsewhere are not looked at: a text may be anything, and on Windows a mere look at //host opens a connection.
    """
    if not value or len(value) > _LONG or "\n" in value or value.replace("\\", "/").startswith("//"):
        return None
    try:
        extension = os.path.splitext(value)[1].lower()
        for folder, (_, extensions) in folder_paths.folder_names_and_paths.items():
            if extension and (not extensions or extension in extensions):
                path = folder_paths.get_full_path(folder, value)
                if path is not None:
                    return _content_stamp(Path(path)) if folder == _OWN_FOLDER else _time_stamp(Path(path))
        named = value if os.path.isabs(value) else folder_paths.get_annotated_filepath(value)
        path = Path(os.path.normpath(named))
        return _time_stamp(path) if _is_of_host(path) and path.is_file() else None
    except (ValueError, OSError):
        return None


def _is_of_host(path: Path) -> bool:
    """Whether a path lies in the host's input, output, temp or models. A link in there may lead anywhere."""
    roots = [folder_paths.get_input_directory(), folder_paths.get_output_directory()]
    roots += [folder_paths.get_temp_directory(), folder_paths.models_dir]
    roots += [root for folders, _ in folder_paths.folder_names_and_paths.values() for root in folders]
    return any(path.is_relative_to(os.path.abspath(root)) for root in roots)


def _time_stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns}"


def _content_stamp(path: Path) -> str:
    """Size and samples from all over a file: quick for many GB, and the same after it was copied or loaded again."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(index * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return f"{size} bytes, {digest.hexdigest()}"
