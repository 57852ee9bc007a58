"""Camera Receipt: did the camera of the finished film move as the path asked? And the frames to judge it by."""

from __future__ import annotations

import json
import math

import torch
from comfy_api.latest import io

from ..mirage_core.camera import Cameras, fov_degrees
from ..mirage_core.pose_errors import PoseErrors, evenly_spaced, pose_errors
from ..mirage_core.rollout import Rollout
from .film_nodes import picked_frames
from .geometry import estimated_cameras
from .path_pictures import receipt_plot
from .sockets import DA3Geometry, MirageMemory
from .telling import tell

_UNITS = {"median depth": "median depths", "world": "world units"}


class FilmFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFilmFrames",
            display_name="Film Frames",
            category="Mirage/camera",
            description="Frames of a finished film at equal distances, first and last included, without loading all of it.",
            search_aliases=["select frames", "every nth", "sample frames"],
            inputs=[
                MirageMemory.Input("memory", tooltip="The finished film, from Segment Loop End or the last Write Memory."),
                io.Video.Input("video", tooltip="The film, from Decode Film."),
                io.Int.Input("count", default=24, min=2, max=256, tooltip="How many frames. More judge better and take longer: Depth Anything 3 looks at all of them at once."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="Connect to Run Depth Anything 3, mode multiview, for Camera Receipt.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, video, count) -> io.NodeOutput:
        wanted = evenly_spaced(count, _filmed_frames(memory))
        frames = [frame for _, frame in picked_frames(video, wanted)]
        if len(frames) != len(wanted):
            raise ValueError(
                f"The video ends before the film's {_filmed_frames(memory)} frames: {len(frames)} of {len(wanted)} were "
                "found. Connect Decode Film of this very memory."
            )
        return io.NodeOutput(torch.stack(frames))


class CameraReceipt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCameraReceipt",
            display_name="Camera Receipt",
            category="Mirage/camera",
            description="Compares the cameras that Depth Anything 3 finds in the finished film with those the path asked for.",
            search_aliases=["camera error", "pose error", "worldscore", "proof", "measure", "accuracy"],
            is_output_node=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="The finished film; its path is what was asked for."),
                DA3Geometry.Input("geometry", tooltip="Run Depth Anything 3 in mode multiview (Small or Base model) on the frames of Film Frames."),
                io.Combo.Input("unit", options=list(_UNITS), default="median depth", optional=True, tooltip="What distances are told in: median depths of the first picture, or the depth model's own units (metres for metric models)."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Rotation and translation error, for the film and per segment, and WorldScore's camera control."),
                io.String.Output(display_name="json", tooltip="The same as JSON, with the errors of every compared frame."),
                io.Image.Output(display_name="plot", tooltip="The errors over the film; dashed is where WorldScore's score becomes 0."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, geometry, unit="median depth") -> io.NodeOutput:
        estimated = estimated_cameras(geometry)
        frames = _compared_frames(len(estimated), memory)
        plan = memory.plan[: memory.segments_done]
        length = memory.unit_length if unit == "median depth" else 1.0
        errors = pose_errors(estimated, memory.cameras, frames, plan, unit=length)
        report = _report(errors, estimated, memory, _UNITS[unit])
        document = _document(errors, frames, _UNITS[unit])
        tell(report, cls.hidden)
        return io.NodeOutput(report, document, receipt_plot(errors, frames, plan), ui={"text": (report,)})


def _filmed_frames(memory: Rollout) -> int:
    return memory.filmed_frames


def _compared_frames(count: int, memory: Rollout) -> list[int]:
    """Which pixel frames of the film `count` estimates belong to: all, one per latent frame, or those of Film Frames."""
    if memory.segments_done == 0:
        raise ValueError("Nothing has been filmed yet. Connect the memory that comes out of Segment Loop End.")
    filmed = _filmed_frames(memory)
    if count > filmed:
        raise ValueError(
            f"There are {count} estimated cameras and {filmed} filmed frames. Estimate the frames that Film Frames picks "
            "from this very film."
        )
    return evenly_spaced(count, filmed)


def _report(errors: PoseErrors, estimated: Cameras, memory: Rollout, unit: str) -> str:
    score = errors.worldscore
    count = len(errors.rotation_degrees)
    fov = fov_degrees(estimated.intrinsics[count // 2], estimated.image_size)
    asked = fov_degrees(memory.cameras.intrinsics[0], memory.cameras.image_size)
    mean = _words(sum(errors.rotation_degrees) / count, sum(errors.translation) / count, unit)
    lines = [
        f"{count} frames compared, after alignment: {mean} on average",
        *(
            f"segment {one.index + 1} ({one.frames} frames): {_words(one.rotation_degrees, one.translation, unit)} on average, "
            f"at most {_words(one.max_rotation_degrees, one.max_translation, unit)}"
            for one in errors.segments
        ),
        f"WorldScore's definition: {score.rotation_degrees:.2f} degrees, {score.translation:.3f} {unit}, camera control "
        f"{100 * score.score:.1f} of 100 (its own benchmark estimates with DROID-SLAM)",
        f"field of view: estimated {fov:.1f} degrees, asked {asked:.1f}",
    ]
    return "\n".join(lines)


def _words(rotation: float, translation: float, unit: str) -> str:
    moved = "no move to compare" if math.isnan(translation) else f"{translation:.3f} {unit}"
    return f"{rotation:.2f} degrees and {moved}"


def _document(errors: PoseErrors, frames: list[int], unit: str) -> str:
    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    segments = [
        {name: plain(value) if isinstance(value, float) else value for name, value in vars(segment).items()}
        for segment in errors.segments
    ]
    return json.dumps(
        {
            "unit": unit,
            "frames": frames,
            "rotation_degrees": list(errors.rotation_degrees),
            "translation": [plain(value) for value in errors.translation],
            "segments": segments,
            "worldscore": vars(errors.worldscore),
            "scale": errors.alignment.scale,
        },
        allow_nan=False,
    )
