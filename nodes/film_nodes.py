"""Decode Film and Film Report: from the finished latents to a video file and to pictures that judge it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import av
import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from ..mirage_core.rollout import Rollout
from .film_writing import film_at, write_film
from .pictures import contact_sheet, coverage_plot
from .sockets import MirageMemory


class DecodeFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageDecodeFilm",
            display_name="Decode Film",
            category="Mirage",
            description="Decodes a film segment by segment straight into a video, so that its frames are never all in memory.",
            search_aliases=["vae decode", "video", "film", "export"],
            inputs=[
                MirageMemory.Input("memory", tooltip="From Segment Loop End or the last Write Memory."),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE."),
                io.Int.Input("crf", default=16, min=0, max=51, advanced=True, tooltip="Quality of the video: lower is better and larger; 0 is lossless, 16 looks it."),
                io.Int.Input("tile_size", default=0, min=0, max=4096, step=64, advanced=True, tooltip="0 decodes whole frames (the host tiles by itself when memory runs out); else tiles of so many pixels."),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The film; connect to Save Video.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, vae, crf=16, tile_size=0) -> io.NodeOutput:
        path = Path(folder_paths.get_temp_directory()) / f"mirage_{uuid.uuid4().hex}_1.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        done = write_film(memory, vae, lambda place: film_at(place, memory, crf=crf), path, tile_size=tile_size)
        if done.problem:
            raise ValueError(done.problem)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))


class FilmReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFilmReport",
            display_name="Film Report",
            category="Mirage",
            description="A contact sheet of the film and a plot of how much of each frame the memory knew.",
            search_aliases=["contact sheet", "coverage", "statistics", "report"],
            inputs=[
                MirageMemory.Input("memory", tooltip="From Segment Loop End or the last Write Memory."),
                io.Video.Input("video", tooltip="From Decode Film."),
                io.Int.Input("pictures", default=12, min=2, max=64, tooltip="How many frames the contact sheet shows, first and last included."),
            ],
            outputs=[
                io.Image.Output(display_name="contact_sheet", tooltip="Frames of the film in order, with frame numbers."),
                io.Image.Output(display_name="coverage", tooltip="Share of each filmed frame that was known from memory, over time."),
                io.String.Output(display_name="report", tooltip="One line per segment: coverage and what was written."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, video, pictures=12) -> io.NodeOutput:
        filmed = memory.grid.frames(sum(latents.shape[1] for latents in memory.latents))
        wanted = sorted({round(i * (filmed - 1) / (pictures - 1)) for i in range(pictures)})
        frames = [(f"frame {at}", frame) for at, frame in picked_frames(video, wanted)]
        shares = [list(one) for one in memory.coverage] or [[1.0]]
        lines = [
            f"segment {i + 1}: {sum(one) / len(one):.0%} known from memory; {note}"
            for i, (one, note) in enumerate(zip(memory.coverage, memory.notes, strict=True))
        ]
        return io.NodeOutput(contact_sheet(frames), coverage_plot(shares), "\n".join(lines))


def picked_frames(video, wanted: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """(index, frame [height width 3] in [0, 1]) of some frames of a VIDEO, read one at a time."""
    with av.open(video.get_stream_source()) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                yield index, torch.from_numpy(frame.to_ndarray(format="rgb24")).float() / 255
