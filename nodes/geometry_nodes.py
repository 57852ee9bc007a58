"""Simple Depth (geometry without a depth model), Frames for Depth."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mirage_core.camera import Cameras, pinhole_intrinsics
from ..mirage_core.depth import plane_depth, room_depth
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.rollout import Rollout
from .segment_errors import named_errors
from .sockets import MirageMemory, MoGeGeometry

_TILT = "How far the first camera looks up, in degrees; negative looks down."


class SimpleDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSimpleDepth",
            display_name="Simple Depth",
            category="Mirage",
            description="Depth without a depth model: a room box, a floor with a far wall, or your own depth picture.",
            search_aliases=["depth", "geometry", "room", "plane", "depth map"],
            inputs=[
                io.Image.Input("image", tooltip="The picture, or the frames of a segment, that need a depth."),
                io.DynamicCombo.Input(
                    "shape",
                    options=[
                        io.DynamicCombo.Option("room", [
                            io.Float.Input("width", default=5.0, min=0.1, max=10000.0, step=0.1, tooltip="Width of the room in metres."),
                            io.Float.Input("height", default=2.8, min=0.1, max=10000.0, step=0.1, tooltip="Height of the room in metres."),
                            io.Float.Input("length", default=6.0, min=0.1, max=10000.0, step=0.1, tooltip="From the first camera to the far wall in metres."),
                            io.Float.Input("camera_height", default=1.5, min=0.05, max=10000.0, step=0.05, tooltip="Height of the first camera above the floor in metres."),
                            io.Float.Input("tilt", default=0.0, min=-80.0, max=80.0, step=0.5, tooltip=_TILT),
                        ]),
                        io.DynamicCombo.Option("floor and wall", [
                            io.Float.Input("camera_height", default=1.6, min=0.05, max=10000.0, step=0.05, tooltip="Height of the first camera above the ground in metres."),
                            io.Float.Input("wall_distance", default=8.0, min=0.1, max=10000.0, step=0.1, tooltip="From the first camera to the wall that ends the ground, in metres."),
                            io.Float.Input("tilt", default=0.0, min=-80.0, max=80.0, step=0.5, tooltip=_TILT),
                        ]),
                        io.DynamicCombo.Option("depth map", [
                            io.Image.Input("depth_map", tooltip="A depth picture, white near and black far, one per frame or one for all."),
                            io.Float.Input("near", default=1.0, min=0.01, max=10000.0, step=0.1, tooltip="Distance of white in metres."),
                            io.Float.Input("far", default=10.0, min=0.02, max=10000.0, step=0.1, tooltip="Distance of black in metres."),
                        ]),
                    ],
                    tooltip="room: a box seen from inside; floor and wall: ground that ends at a distant wall; depth map: a picture of the depth.",
                ),
                io.Float.Input("fov", default=55.0, min=5.0, max=170.0, step=0.5, tooltip="Horizontal field of view of the picture in degrees. With memory connected, the film's own is used."),
                MirageMemory.Input("memory", optional=True, tooltip="Connect it inside the loop: the shape then stands still in the world while the camera moves."),
            ],
            outputs=[MoGeGeometry.Output(display_name="geometry", tooltip="Depth and field of view, as Run MoGe Inference gives them.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, shape, fov, memory: Rollout | None = None) -> io.NodeOutput:
        cameras = _cameras(image, fov, memory)
        if shape["shape"] == "room":
            room_size = (shape["width"], shape["height"], shape["length"])
            depth = room_depth(
                cameras, room_size=room_size, camera_height=shape["camera_height"], tilt_degrees=shape["tilt"]
            )
        elif shape["shape"] == "floor and wall":
            depth = plane_depth(
                cameras,
                camera_height=shape["camera_height"],
                wall_distance=shape["wall_distance"],
                tilt_degrees=shape["tilt"],
            )
        else:
            depth = _pictured_depth(shape.get("depth_map"), image, near=shape["near"], far=shape["far"])
        size = torch.tensor([cameras.image_size[1], cameras.image_size[0], 1.0], dtype=torch.float64)
        packet = {
            "depth": depth.float(),
            "mask": depth > 0,
            "intrinsics": (cameras.intrinsics / size[:, None]).float(),
            "image": image[..., :3].cpu(),
            "mirage_kind": "scale + disparity shift" if shape["shape"] == "depth map" else "scale",
        }
        return io.NodeOutput(packet)


class FramesForDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFramesForDepth",
            display_name="Frames for Depth",
            category="Mirage",
            description="Picks the frames of a segment that the memory needs a depth of: one per latent frame, a quarter of all.",
            search_aliases=["every nth frame", "select frames", "latent frames"],
            inputs=[io.Image.Input("images", tooltip="All frames of a decoded segment: 4n+1 of them.")],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames 0, 4, 8, ...: connect to the depth model and to Dynamic/Sky Mask.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images) -> io.NodeOutput:
        WAN22.latent_frames(images.shape[0])
        return io.NodeOutput(images[:: WAN22.temporal_stride])


def _cameras(image: torch.Tensor, fov: float, memory: Rollout | None) -> Cameras:
    frames, image_size = image.shape[0], (image.shape[1], image.shape[2])
    if memory is None:
        poses = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)
        return Cameras(poses, pinhole_intrinsics(fov, image_size).expand(frames, 3, 3), image_size)
    with named_errors(memory, "Simple Depth"):
        segment = memory.next_segment
        targets = list(segment.target_frames)
        if frames != len(targets):
            first = segment.target_frames[0]
            targets = list(range(first, first + segment.model_frames))
        if frames != len(targets):
            raise ValueError(
                f"There are {frames} frames; the segment has {segment.model_frames}. Connect the frames of this very segment."
            )
        return memory.cameras[targets].resized(image_size)


def _pictured_depth(depth_map: torch.Tensor | None, image: torch.Tensor, *, near: float, far: float) -> torch.Tensor:
    if depth_map is None:
        raise ValueError(
            "shape is depth map, but nothing is connected to depth_map. Connect a depth picture, or choose room."
        )
    if not 0 < near < far:
        raise ValueError(f"near is {near} m and far {far} m; near must be smaller than far.")
    nearness = depth_map[..., :3].float().mean(-1).cpu()
    if nearness.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"There are {nearness.shape[0]} depth pictures for {image.shape[0]} frames. Give one per frame, or one."
        )
    # Depth pictures are inverse depth, as depth models draw them.
    depth = 1 / (1 / far + nearness * (1 / near - 1 / far))
    return depth.expand(image.shape[0], -1, -1).contiguous()
