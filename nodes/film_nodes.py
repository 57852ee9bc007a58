"""Decode Film and Film Report: from the finished latents to a video file and to pictures that judge it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from fractions import Fraction

import av
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from ..mirage_core.rollout import Rollout
from .host_latents import to_host
from .pictures import contact_sheet, coverage_plot
from .sockets import MirageMemory

_CONTEXT = 3  # latent frames decoded again before each segment, to warm up the VAE's memory of past frames


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
        os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)
        path = os.path.join(folder_paths.get_temp_directory(), f"mirage_film_{uuid.uuid4().hex}.mp4")
        height, width = memory.cameras.image_size
        with av.open(path, mode="w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("h264", rate=Fraction(round(memory.fps * 1000), 1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(crf)}
            for frames in decoded_segments(memory, vae, tile_size=tile_size):
                for frame in (frames * 255).round().clamp(0, 255).byte().numpy():
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return io.NodeOutput(InputImpl.VideoFromFile(path))


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
        filmed = memory.grid.frames(memory.film.shape[1])
        wanted = sorted({round(i * (filmed - 1) / (pictures - 1)) for i in range(pictures)})
        frames = [(f"frame {at}", frame) for at, frame in picked_frames(video, wanted)]
        shares = [list(one) for one in memory.coverage] or [[1.0]]
        lines = [
            f"segment {i + 1}: {sum(one) / len(one):.0%} known from memory; {note}"
            for i, (one, note) in enumerate(zip(memory.coverage, memory.notes, strict=True))
        ]
        return io.NodeOutput(contact_sheet(frames), coverage_plot(shares), "\n".join(lines))


def decoded_segments(memory: Rollout, vae, *, tile_size: int = 0) -> Iterator[torch.Tensor]:
    """The film's frames, [frames height width 3] in [0, 1], one finished segment at a time.

    Each segment is decoded together with the latent frames before it, whose frames are thrown away again: a causal VAE
    that starts cold shows a seam at the join.
    """
    grid = memory.grid
    bar = comfy.utils.ProgressBar(memory.segments_done)
    film, at = memory.film, 1
    if memory.segments_done == 0:
        yield _decoded(vae, film, tile_size)
    for index, latents in enumerate(memory.latents[1:]):
        stop = at + latents.shape[1]
        if index == 0:
            yield _decoded(vae, film[:, :stop], tile_size)
        else:
            start = max(0, at - _CONTEXT)
            yield _decoded(vae, film[:, start:stop], tile_size)[-latents.shape[1] * grid.temporal_stride :]
        at = stop
        bar.update_absolute(index + 1, memory.segments_done)


def picked_frames(video, wanted: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """(index, frame [height width 3] in [0, 1]) of some frames of a VIDEO, read one at a time."""
    with av.open(video.get_stream_source()) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                yield index, torch.from_numpy(frame.to_ndarray(format="rgb24")).float() / 255


def _decoded(vae, latents: torch.Tensor, tile_size: int) -> torch.Tensor:
    samples = to_host(latents)
    if tile_size:
        stride = 16
        tile = max(2, tile_size // stride)
        frames = vae.decode_tiled(samples, tile_x=tile, tile_y=tile, overlap=max(1, tile // 4))
    else:
        frames = vae.decode(samples)
    return frames[0].cpu().float()
