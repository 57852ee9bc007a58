"""Load Segment Run: a kept film at any of its segments, to go on from there another way."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..mirage_core.rollout_files import (
    KeptRollout,
    SegmentFile,
    check_foreign,
    check_tensors,
    load_rollout,
    read_segment,
)
from .scenes import remember_scene
from .segment_store import SegmentStore, check_run_name, film_folder, film_root, kept_films, kept_segments
from .sockets import MirageMemory

_NONE = "none"


class LoadSegmentRun(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoadSegmentRun",
            display_name="Load Segment Run",
            category="Mirage",
            description="A film that Segment Loop has kept, at any of its segments: fork it along another path or prompt.",
            search_aliases=["fork", "resume", "restore", "branch", "load film"],
            inputs=[
                io.Combo.Input("run", options=[_NONE, *kept_films(_root())], default=_NONE, tooltip="Folder in output/mirage. Press R to see new ones."),
                io.Int.Input("segment", default=0, min=0, max=9999, tooltip="Go on after this segment. 0 is the longest film of the run."),
                io.Int.Input("take", default=0, min=0, max=999, optional=True, advanced=True, tooltip="When a segment was made several times, with other seeds or prompts: 0 is the one used last, 1 the one before."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory and the film after that segment; connect to Segment Loop Start with a new path."),
                io.String.Output(display_name="report", tooltip="The segments of the film with their seeds and prompts."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, run) -> bool | str:
        try:
            check_run_name(run)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, run, segment, take=0) -> str:
        try:
            file, files = _chosen(run, segment, take)
            # No times: a film that is made in this folder touches its files, and this one is still the same.
            return repr([file.key, *sorted((one.path.name, one.checksum, one.bytes) for one in _used(file, files))])
        except (ValueError, OSError):
            return run

    @classmethod
    def execute(cls, run, segment, take=0) -> io.NodeOutput:
        kept, chain = loaded_run(run, segment, take)
        remember_scene(kept.rollout)
        return io.NodeOutput(kept.rollout, f"{run}, {len(kept.rollout.plan)} segments planned\n" + "\n".join(chain))


def loaded_run(run: str, segment: int, take: int = 0) -> tuple[KeptRollout, list[str]]:
    """The film of a run after so many segments (0: the longest), and one line per segment of it.

    While the film is in RAM, pruning leaves the run alone. Raises ValueError when there is none, or when it is damaged,
    and OSError when it cannot be read.
    """
    file, files = _chosen(run, segment, take)
    store = SegmentStore(_root(), file.path.parent)
    store.mark_in_use()  # the folder, not its files: take goes by when those were last used
    try:
        for one in _used(file, files):
            check_tensors(one)
        kept = load_rollout(file, file_of=files.__getitem__)
        check_foreign(kept)
    except BaseException:
        store.release()
        raise
    weakref.finalize(kept.rollout, store.release)
    return kept, _chain(file, files)


def _chosen(run: str, segment: int, take: int) -> tuple[SegmentFile, dict[str, SegmentFile]]:
    """The segment that the widgets mean, and all of its folder by key, these without their trees. Raises ValueError when there is none."""
    if not run or run == _NONE:
        raise ValueError("No run is chosen. Film once with keep on Segment Loop Start, press R, and choose it.")
    files = {file.key: file for file in kept_segments(film_folder(_root(), run, ""))}
    numbers = sorted({file.number for file in files.values()})
    wanted = segment or (numbers[-1] if numbers else 0)
    takes = sorted((one for one in files.values() if one.number == wanted), key=_last_used, reverse=True)
    if len(takes) <= take:
        there = f"segments {numbers[0]} to {numbers[-1]}" if numbers else "nothing"
        what = f"segment {wanted}" + (f", take {take}" if take else "")
        raise ValueError(f"The run {run!r} has no {what}; it holds {there}. Choose another one.")
    return read_segment(takes[take].path), files


def _used(file: SegmentFile, files: dict[str, SegmentFile]) -> list[SegmentFile]:
    """A segment and those that hold tensors of it. Raises ValueError when one is missing."""
    if not file.needs.keys() <= files.keys():
        raise ValueError(f"{file.path.name} needs another segment that is not there any more. Film it again.")
    return [file, *(files[key] for key in file.needs)]


def _chain(file: SegmentFile, files: dict[str, SegmentFile]) -> list[str]:
    lines: list[str] = []
    while file.previous in files and len(lines) < len(files):
        seed, prompt = (file.made_from.get(name, "null") for name in ("seed", "prompt"))
        lines.append(f"segment {file.number}: seed {_plain(seed)}, {_plain(prompt)}")
        file = files[file.previous]
    return lines[::-1]


def _plain(text: str) -> str:
    try:
        told = json.loads(text)
    except ValueError:
        return text
    return "as wired" if told is None else str(told)


def _last_used(file: SegmentFile) -> float:
    return file.path.stat().st_mtime


def _root() -> Path:
    return film_root(os.path.realpath(folder_paths.get_output_directory()))
