"""The host's own camera sockets as paths, and paths as the host's sockets: the 3D viewer's and Wan's camera control."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..mirage_core.camera import Cameras
from ..mirage_core.path_formats import (
    CameraTrack,
    cameras_of_load3d,
    cameras_of_wan_embedding,
    fit_scale,
    load3d_of_cameras,
    wan_embedding_of_cameras,
)
from ..mirage_core.rollout import Rollout, Shot
from .path_nodes import shot_of, track_of
from .sockets import MirageMemory, MiragePath

_LENS = "picture: the film keeps the field of view of the first picture. file: it takes the camera's."


class CameraPathFrom3D(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCameraPathFrom3D",
            display_name="Camera Path from 3D Camera",
            category="Mirage/camera",
            description="A move between two or more views that you set in ComfyUI's 3D viewer.",
            search_aliases=["load 3d", "viewer", "camera_info", "keyframes"],
            inputs=[
                io.Load3DCamera.Input("first", tooltip="camera_info of Load 3D where the move begins."),
                io.Load3DCamera.Input("last", tooltip="camera_info of Load 3D where the move ends."),
                io.Load3DCamera.Input("second", optional=True, tooltip="A view on the way."),
                io.Load3DCamera.Input("third", optional=True, tooltip="A further view on the way."),
                io.Int.Input("length", default=97, min=5, max=4097, step=4, tooltip="Length of the film in frames, 4n+1. 33 frames are one segment, every further segment adds 32."),
                io.Int.Input("width", default=1280, min=64, max=4096, step=32, tooltip="Width of the film in pixels, a multiple of 32."),
                io.Int.Input("height", default=704, min=64, max=4096, step=32, tooltip="Height of the film in pixels, a multiple of 32."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=1.0, tooltip="Frames per second of the film."),
                io.Combo.Input("scale", options=["fit", "keep"], default="fit", tooltip="fit: the viewer's distance from the first camera to what it looks at becomes the distance to the middle of your picture. keep: the viewer's units are those of the depth model."),
                io.Combo.Input("lens", options=["picture", "file"], default="picture", tooltip=_LENS),
            ],
            outputs=[MiragePath.Output(display_name="path", tooltip="The move; its first camera is that of the first picture.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, first, last, length, width, height, fps, scale, lens, second=None, third=None
    ) -> io.NodeOutput:  # fmt: skip
        image_size = (height, width)
        views = [view for view in (first, second, third, last) if view is not None]
        cameras = Cameras.joined([cameras_of_load3d(view, image_size) for view in views])
        if scale == "fit":
            cameras = fit_scale(
                cameras, "median_depth", scene_median_depth=1.0, path_median_depth=_target_distance(first)
            )
        unit = "median_depth" if scale == "fit" else "world"
        return io.NodeOutput(shot_of(CameraTrack(cameras, fps), image_size, unit=unit, lens=lens, length=length))


class CameraPathTo3D(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCameraPathTo3D",
            display_name="Camera Path to 3D Camera",
            category="Mirage/camera",
            description="One camera of a path for ComfyUI's 3D viewers, to look at an exported memory from there.",
            search_aliases=["preview 3d", "viewer", "camera_info", "splat"],
            inputs=[
                MiragePath.Input("path", tooltip="The path."),
                io.Int.Input("frame", default=0, min=0, max=4096, tooltip="Which frame's camera; 0 is the first."),
                MirageMemory.Input("memory", optional=True, tooltip="Gives the scene's scale and field of view, so that the camera fits an exported memory (.ply, world y_up)."),
            ],
            outputs=[io.Load3DCamera.Output(display_name="camera_info", tooltip="Connect to Preview 3D, Preview Point Cloud or Preview Splat.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, path: Shot, frame, memory: Rollout | None = None) -> io.NodeOutput:
        cameras = track_of(path, memory).cameras
        if not 0 <= frame < len(cameras):
            raise ValueError(f"The path has frames 0 to {len(cameras) - 1}; frame {frame} was asked for.")
        distance = 1.0 if memory is None else memory.unit_length
        return io.NodeOutput(load3d_of_cameras(cameras, frame, target_distance=distance))


class CameraPathFromWan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCameraPathFromWan",
            display_name="Camera Path from Wan Camera",
            category="Mirage/camera",
            description="The cameras of a Wan camera embedding as a path.",
            search_aliases=["wan camera embedding", "camera control", "plucker"],
            inputs=[
                io.WanCameraEmbedding.Input("camera_embedding", tooltip="From WanCameraEmbedding, or any node that makes one."),
                io.Float.Input("scene_depth", default=1.0, min=0.0, max=1e6, step=0.05, tooltip="How far the middle of the scene is in the embedding's units: a larger number makes the move smaller. 0 takes the embedding's units for those of the depth model."),
                io.Int.Input("length", default=0, min=0, max=4097, step=1, tooltip="Frames of the film, 4n+1: the whole move is stretched to it. 0 keeps the embedding's own frames."),
                io.Int.Input("width", default=1280, min=64, max=4096, step=32, tooltip="Width of the film in pixels, a multiple of 32."),
                io.Int.Input("height", default=704, min=64, max=4096, step=32, tooltip="Height of the film in pixels, a multiple of 32."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=1.0, tooltip="Frames per second of the film."),
                io.Combo.Input("lens", options=["picture", "file"], default="picture", tooltip=_LENS),
            ],
            outputs=[MiragePath.Output(display_name="path", tooltip="The move; its first camera is that of the first picture.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, camera_embedding, scene_depth, length, width, height, fps, lens) -> io.NodeOutput:
        cameras = cameras_of_wan_embedding(camera_embedding)
        if scene_depth:
            cameras = fit_scale(cameras, "median_depth", scene_median_depth=1.0, path_median_depth=scene_depth)
        unit = "median_depth" if scene_depth else "world"
        track = CameraTrack(cameras, fps)
        return io.NodeOutput(shot_of(track, (height, width), unit=unit, lens=lens, length=length))


class CameraPathToWan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCameraPathToWan",
            display_name="Camera Path to Wan Camera",
            category="Mirage/camera",
            description="A path as the camera embedding that Wan's camera-control models take.",
            search_aliases=["wan camera embedding", "camera control", "plucker", "fun camera"],
            inputs=[
                MiragePath.Input("path", tooltip="The path; its length and picture size become those of the embedding."),
                MirageMemory.Input("memory", optional=True, tooltip="Gives the scene's scale and field of view. Without it one median depth is 1 unit and the field of view the path's own, or 55 degrees."),
            ],
            outputs=[
                io.WanCameraEmbedding.Output(display_name="camera_embedding", tooltip="Connect to WanCameraImageToVideo. It takes 96 bytes per pixel of every latent frame."),
                io.Int.Output(display_name="width", tooltip="Width of the film in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the film in pixels."),
                io.Int.Output(display_name="length", tooltip="Length of the film in frames."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, path: Shot, memory: Rollout | None = None) -> io.NodeOutput:
        cameras = track_of(path, memory).cameras
        height, width = cameras.image_size
        return io.NodeOutput(wan_embedding_of_cameras(cameras), width, height, len(cameras))


def _target_distance(camera_info: dict) -> float:
    position, target = (camera_info.get(name) or {} for name in ("position", "target"))
    length = math.dist([float(position.get(axis, 0)) for axis in "xyz"], [float(target.get(axis, 0)) for axis in "xyz"])
    if not length > 0:
        raise ValueError(
            "The first 3D camera stands on the point it looks at, so the scale cannot be fitted. Zoom out in the viewer, or "
            "set scale to keep."
        )
    return length
