"""Path Check: what a camera path will ask of the memory and the machine, before anything is sampled."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..mirage_core.camera import Cameras
from ..mirage_core.preflight import (
    WAN22_TI2V_5B,
    Cost,
    ModelSize,
    Preflight,
    TrainedRange,
    preflight,
    sampling_cost,
)
from ..mirage_core.rollout import Rollout, Shot
from .adapter import Adapter
from .path_pictures import preflight_strip
from .sockets import MirageAdapter, MirageMemory, MiragePath
from .telling import tell


class PathCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MiragePathCheck",
            display_name="Path Check",
            category="Mirage/camera",
            description="Looks at a camera path before any GPU time: what is known along it, what is too fast or too near, how long it takes.",
            search_aliases=["preflight", "coverage", "speed", "collision", "estimate", "vram", "time"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                MirageMemory.Input("memory", tooltip="From Init Latent Memory, or a film you want to go on with."),
                MiragePath.Input("path", optional=True, tooltip="The path to check, beginning where the film is now. Without it, what is left of the memory's own path."),
                io.Model.Input("model", optional=True, tooltip="Its size is used for the estimate of time and memory. Without it, Wan2.2 TI2V 5B in bf16 is taken."),
                MirageAdapter.Input("adapter", optional=True, tooltip="From Load Mirage Adapter: adds its size, and the camera speeds it was trained on where its file states them."),
                io.Int.Input("steps", default=20, min=1, max=200, optional=True, tooltip="Sampling steps you will use; only for the time."),
                io.Float.Input("cfg", default=1.0, min=1.0, max=30.0, step=0.1, optional=True, tooltip="Guidance you will use; above 1 every step takes twice as long."),
                io.Float.Input("teraflops", default=50.0, min=0.1, max=5000.0, step=1.0, optional=True, advanced=True, tooltip="What your card really reaches in half precision, about half of what its box says, in trillions of operations a second. Only for the time."),
                io.Int.Input("extra_latent_frames", default=0, min=0, max=64, optional=True, advanced=True, tooltip="References and preceding frames that go along with every segment; they cost like frames."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The verdict, one suggestion, and the figures."),
                io.Image.Output(display_name="strip", tooltip="The film as a strip: green, amber or red per frame, and why."),
                io.Boolean.Output(display_name="ok", tooltip="False when any frame is red; connect to a switch to stop before sampling."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        memory: Rollout,
        path: Shot | None = None,
        model=None,
        adapter: Adapter | None = None,
        steps=20,
        cfg=1.0,
        teraflops=50.0,
        extra_latent_frames=0,
    ) -> io.NodeOutput:
        found = preflight(
            memory.memory,
            _cameras_ahead(memory, path),
            memory.size,
            unit_length=memory.unit_length,
            trained=_trained(adapter),
            grid=memory.grid,
        )
        cost = sampling_cost(
            found.plan,
            memory.size,
            model=_size_of(model, adapter),
            steps=steps,
            passes_per_step=2 if cfg > 1 else 1,
            extra_latent_frames=extra_latent_frames,
            teraflops=teraflops,
        )
        report = _report(found, cost, memory, teraflops)
        tell(report, cls.hidden)
        return io.NodeOutput(report, preflight_strip(found), found.level != "red", ui={"text": (report,)})


def _cameras_ahead(memory: Rollout, path: Shot | None) -> Cameras:
    """The cameras still to film, the one the film is at first."""
    if path is not None:
        height, width = memory.cameras.image_size
        if path.image_size != (height, width):
            raise ValueError(
                f"The path is for {path.image_size[1]}x{path.image_size[0]} pixels, the film is {width}x{height}. Set the "
                "path to the size of the film."
            )
        here = memory.filmed_cameras().intrinsics[-1]
        cameras = path.cameras(intrinsics=here, unit_length=memory.unit_length)
        memory = memory.redirected(cameras)
    here = 0 if memory.is_finished else memory.grid.last_frame_of(memory.filmed_latents - 1)
    return memory.cameras[list(range(here, len(memory.cameras)))]


def _trained(adapter: Adapter | None) -> TrainedRange | None:
    if adapter is None or adapter.branch is None:
        return None
    stated = adapter.branch.file.stated
    return TrainedRange.stated(turn_degrees=stated.trained_turn_degrees, speed=stated.trained_speed)


def _size_of(model, adapter: Adapter | None) -> ModelSize:
    size = WAN22_TI2V_5B
    if model is not None:
        network = model.model.diffusion_model
        size = ModelSize(
            parameters=float(sum(parameter.numel() for parameter in network.parameters())),
            width=getattr(network, "dim", size.width),
            ffn_width=getattr(network, "ffn_dim", size.ffn_width),
            layers=len(getattr(network, "blocks", range(size.layers))),
            weight_bytes=float(model.model_size()),
        )
    if adapter is not None and adapter.branch is not None:
        branch = adapter.branch
        weight_bytes = size.weight_bytes + float(branch.patcher.model_size())
        parameters = size.parameters + branch.file.parameters
        size = ModelSize(parameters, size.width, size.ffn_width, size.layers + branch.file.blocks, weight_bytes)
    return size


def _report(found: Preflight, cost: Cost, memory: Rollout, teraflops: float) -> str:
    counts = {level: found.levels.count(level) for level in ("green", "amber", "red")}
    least = min(range(found.frames), key=lambda frame: found.expected[frame])
    clearance = min(found.clearance)
    near = (
        "nothing nearer than one median depth"
        if math.isinf(clearance)
        else f"nearest surface {clearance:.2f} median depths ahead"
    )
    seconds = found.frames / memory.fps
    lines = [
        f"{found.level.upper()}: {found.suggestion or 'nothing in this path asks too much.'}",
        f"{found.frames} frames ({seconds:.1f} s at {memory.fps:g} fps), {len(found.plan)} segments; "
        + ", ".join(f"{count} frames {level}" for level, count in counts.items() if count),
        f"known from memory: {found.known[0]:.0%} at the start, least {min(found.known):.0%}; with what the film itself will "
        f"have seen by then, least {found.expected[least]:.0%} at frame {least}",
        f"fastest move {max(found.speed):.3f} median depths and {max(found.turn_degrees):.2f} degrees per frame; {near}",
        f"memory at most {found.points} points, {found.mib:.1f} MiB",
        f"sampling, calculated: {cost.petaflop:.3g} PFLOP, {_duration(cost.seconds)} at {teraflops:g} TFLOP/s; "
        f"{cost.gib:.1f} GiB for weights and the largest step of {cost.tokens} tokens, less with offloading",
    ]  # fmt: skip
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
