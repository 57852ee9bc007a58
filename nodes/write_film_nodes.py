"""Write Film: the film on disk, grown by each segment as it is made."""

from __future__ import annotations

import json
from pathlib import Path

from comfy.cli_args import args
from comfy_api.latest import InputImpl, io
from comfy_execution.graph_utils import ExecutionBlocker

from ..mirage_core.rollout import Rollout
from .film_pictures import PngFilm
from .film_writing import KEEP, REPLACE, Written, film_at, write_film
from .host_files import UnwritableFolder, output_name, output_path, saved
from .sockets import MirageMemory
from .telling import tell

_FORMATS = {"mp4": ".mp4", "png sequence": ".frames"}


class WriteFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageWriteFilm",
            display_name="Write Film",
            category="Mirage",
            description="Writes the film into the output folder as it grows: after each segment it plays, also after a crash.",
            search_aliases=["save video", "export", "mp4", "h264", "png", "stream", "vae decode", "film"],
            is_output_node=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="From Write Memory inside the loop, from Segment Loop End, or both with the same settings."),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE."),
                io.String.Input("filename_prefix", default="mirage/film", tooltip="Name in the output folder; a number is added. Folders with /; %year%, %month% and %day% as in Save Video."),
                io.Combo.Input("format", options=list(_FORMATS), default="mp4", tooltip="mp4: one video file. png sequence: a folder with one lossless picture per frame."),
                io.Combo.Input("codec", options=["auto", "h264"], default="auto", advanced=True, tooltip="As in Save Video; auto is h264. No effect on a png sequence."),
                io.Int.Input("crf", default=16, min=0, max=51, advanced=True, tooltip="Quality of the mp4: lower is better and larger; 16 looks lossless, 0 is, but browsers do not play it."),
                io.Combo.Input("when_redone", options=[KEEP, REPLACE], default=KEEP, optional=True, advanced=True, tooltip="When a segment comes out differently than in the film on disk: start a film with the next number, which takes over the segments before, or cut the old one there."),
                io.Int.Input("tile_size", default=0, min=0, max=4096, step=64, optional=True, advanced=True, tooltip="0 decodes whole frames (the host tiles by itself when memory runs out); else tiles of so many pixels."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The same memory, for Segment Loop End or whatever comes next."),
                io.Video.Output(display_name="video", tooltip="The film so far; for Film Report, Film Frames. Not for a png sequence."),
                io.String.Output(display_name="file", tooltip="Name of the film within the output folder."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, memory: Rollout, vae, filename_prefix="mirage/film", format="mp4", codec="auto", crf=16, when_redone=KEEP,
        tile_size=0,
    ) -> io.NodeOutput:  # fmt: skip
        if codec not in ("auto", "h264"):
            raise ValueError(f"codec is {codec!r}; a film is written as h264. Use auto or h264.")
        metadata, is_last = _metadata(cls.hidden), memory.is_finished or not _is_in_loop(cls.hidden)
        try:
            path = output_path(filename_prefix, _FORMATS[format])
        except UnwritableFolder as error:
            if is_last:
                raise
            return _unwritten(memory, f"No film was written. {error}", cls.hidden)
        done = write_film(
            memory,
            vae,
            lambda place: film_at(place, memory, crf=crf, metadata=metadata),
            path,
            tile_size=tile_size,
            when_redone=when_redone,
            is_last=is_last,
            say=lambda text: tell(text, cls.hidden),
        )
        if done.problem and is_last:
            raise ValueError(done.problem)
        shown, video = _shown(done, memory)
        if not shown.exists():
            return _unwritten(memory, done.problem, cls.hidden)
        text = done.problem or _told(done, shown)
        tell(text, cls.hidden)
        return io.NodeOutput(memory, video, output_name(shown), ui=_ui(text, shown))


def _unwritten(memory: Rollout, problem: str, hidden) -> io.NodeOutput:
    """Inside a loop a disk that takes no film does not end the film: the segments are kept, and a later run writes it."""
    tell(problem, hidden)
    return io.NodeOutput(memory, ExecutionBlocker(problem), "", ui={"text": (problem,)})


def _shown(done: Written, memory: Rollout) -> tuple[Path, object]:
    """(file or folder of the film, what the video output gives)."""
    if done.path.suffix == ".mp4":
        return done.path, InputImpl.VideoFromFile(str(done.path))
    folder = PngFilm(done.path, memory.cameras.image_size).folder
    return folder, ExecutionBlocker("A png sequence gives no video. Set format on Write Film to mp4 for this output.")


def _told(done: Written, shown: Path) -> str:
    return f"{output_name(shown)}: {done.frames} frames; {done.reused} of {done.reused + done.written} parts were there"


def _ui(text: str, shown: Path) -> dict:
    picture = shown if shown.is_file() else max(shown.glob("frame_*.png"), default=shown)
    is_video = shown.is_file()
    files = saved([picture], text=text)["files"] if picture.is_file() else []
    return {"text": (text,), "images": files, **({"animated": (True,)} if is_video else {})}


def _is_in_loop(hidden) -> bool:
    """Whether the node is a copy that Segment Loop End has made."""
    if hidden is None or hidden.dynprompt is None or hidden.unique_id is None:  # called by a program
        return False
    return hidden.dynprompt.get_parent_node_id(hidden.unique_id) is not None


def _metadata(hidden) -> dict[str, str]:
    """The workflow, as Save Video puts it into a file."""
    if hidden is None or args.disable_metadata:
        return {}
    found = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        found["prompt"] = hidden.prompt
    return {name: json.dumps(value) for name, value in found.items()}
