"""Camera Path: where the camera goes, for how long, at what size."""

from __future__ import annotations

from comfy_api.latest import io

from ..mirage_core.camera import pinhole_intrinsics
from ..mirage_core.camera_path import CameraPath, Easing
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.path_presets import PRESETS, preset
from ..mirage_core.rollout import Shot
from ..mirage_core.segments import plan_segments
from .pictures import path_from_above
from .sockets import MiragePath

_PREVIEW_FOV = 55.0  # only for the drawing, when the geometry model will tell the real one


class CameraPathNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        moves = [name for name in PRESETS if name not in ("out_and_back", "static")]
        return io.Schema(
            node_id="MirageCameraPath",
            display_name="Camera Path",
            category="Mirage",
            description="Where the camera goes: a move in film words, or your own keyframes.",
            search_aliases=["camera", "trajectory", "pan", "dolly", "orbit", "flythrough", "keyframes"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="out_and_back",
                    tooltip="Pan, tilt and roll turn the camera; truck, pedestal and dolly move it; orbit circles the middle "
                    "of the scene; out_and_back makes a move and returns to the first picture; look_around turns all the way.",
                ),
                io.Float.Input(
                    "amount",
                    default=0.0,
                    min=-3600.0,
                    max=3600.0,
                    step=0.05,
                    tooltip="How far over the whole path: degrees for turns and orbits, median depths of the scene for moves "
                    "(0.3 = a third of the way to the middle of the scene). Negative goes the other way. 0 = the preset's usual amount.",
                ),
                io.Combo.Input(
                    "out_move",
                    options=moves,
                    default="truck_right",
                    tooltip="What out_and_back does on its way out. Other presets ignore this.",
                ),
                io.Int.Input(
                    "length",
                    default=97,
                    min=5,
                    max=4097,
                    step=4,
                    tooltip="Length of the film in frames, 4n+1. 33 frames are one segment, every further segment adds 32: 33, 65, 97, 129 ...",
                ),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=0.05,
                    max=20.0,
                    step=0.05,
                    tooltip="1 walks the whole path in the film; 0.5 walks its first half, slower; 2 is there after half the film and rests.",
                ),
                io.Combo.Input(
                    "easing",
                    options=["ease", "linear", "ease_in", "ease_out"],
                    default="ease",
                    tooltip="How the camera starts and stops over the whole path: ease does both softly, linear not at all.",
                ),
                io.Float.Input(
                    "fov",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.5,
                    tooltip="Horizontal field of view of the first frame in degrees. 0 takes the one the depth model finds in "
                    "the picture (MoGe, Depth Anything 3 multiview); with other depth set it: 55 fits most phone pictures.",
                ),
                io.Int.Input("width", default=1280, min=64, max=4096, step=32, tooltip="Width of the film in pixels, a multiple of 32."),
                io.Int.Input("height", default=704, min=64, max=4096, step=32, tooltip="Height of the film in pixels, a multiple of 32."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=1.0, tooltip="Frames per second of the film."),
                io.String.Input(
                    "keyframes",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Your own path as Mirage camera path JSON. When it is not empty, preset, amount, out_move and easing are not used.",
                ),
            ],
            outputs=[
                MiragePath.Output(display_name="path", tooltip="The path with its length and picture size; connect to Init Latent Memory."),
                io.Image.Output(display_name="preview", tooltip="The path from above: camera positions, view cones, segment starts."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, preset, amount, out_move, length, speed, easing, fov, width, height, fps, keyframes=""
    ) -> io.NodeOutput:  # fmt: skip
        shot = ordered_shot(preset, amount, out_move, length, speed, easing, fov, width, height, fps, keyframes)
        intrinsics = pinhole_intrinsics(fov or _PREVIEW_FOV, shot.image_size)
        cameras = shot.cameras(intrinsics=intrinsics, unit_length=1.0)
        starts = [segment.target_frames[0] for segment in plan_segments(length, WAN22)]
        return io.NodeOutput(shot, path_from_above(cameras, starts))


def ordered_shot(
    preset, amount, out_move, length, speed, easing, fov, width, height, fps, keyframes=""
) -> Shot:  # fmt: skip
    """The shot that the node's inputs order. Raises ValueError for a path or a size that cannot be filmed."""
    path = _path(preset, amount, out_move, easing, keyframes)
    return Shot(path, length, (height, width), fps=fps, speed=speed, fov_degrees=fov or None)


def _path(name: str, amount: float, out_move: str, easing: Easing, keyframes: str) -> CameraPath:
    if keyframes and keyframes.strip():
        return CameraPath.from_json(keyframes)
    return preset(name, amount=amount or None, easing=easing, move=out_move)
