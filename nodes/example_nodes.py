"""Example Scene: a picture of a made-up world with its exact depth, for a first try without any file of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..mirage_core.camera import pinhole_intrinsics
from .nano_files import NANO_FOLDER
from .sockets import MoGeGeometry

_SCENES = NANO_FOLDER / "scenes"
_WHITE = 65535  # of the 16-bit picture of inverse depth


class ExampleScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageExampleScene",
            display_name="Example Scene",
            category="Mirage",
            description="A rendered scene that comes with the pack: picture, exact depth, sky and movers. For a first try, and to compare a depth model with the truth.",
            search_aliases=["example", "test scene", "sample", "world", "ground truth", "nano"],
            inputs=[io.Combo.Input("scene", options=_names(), tooltip="None of these worlds was used in training the nano models.")],
            outputs=[
                io.Image.Output(display_name="image", tooltip="In place of Load Image."),
                MoGeGeometry.Output(display_name="geometry", tooltip="Exact depth and field of view, as Run MoGe Inference gives them."),
                io.Mask.Output(display_name="sky", tooltip="White where sky shows; for Scene Evidence."),
                io.Mask.Output(display_name="movers", tooltip="White where something moves; for Scene Evidence."),
                io.Float.Output(display_name="fov", tooltip="Horizontal field of view in degrees, for Camera Path."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, scene) -> io.NodeOutput:
        if scene not in _names():
            raise ValueError(f"There is no example scene {scene!r}. There are: {', '.join(_names())}.")
        folder = _SCENES / scene
        image = _pixels(folder / "start.png").float()[None] / 255
        sky, movers = (_pixels(folder / f"{name}.png")[None] / 255.0 for name in ("sky", "movers"))
        about = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        inverse_far = 1 / about["far"]
        nearness = _pixels(folder / "depth.png")[None] / _WHITE
        depth = 1 / (nearness * (1 / about["near"] - inverse_far) + inverse_far)
        fov, (height, width) = float(about["fov_degrees"]), image.shape[1:3]
        size = torch.tensor([width, height, 1.0], dtype=torch.float64)
        packet = {
            "depth": depth.float(),
            "mask": sky < 0.5,
            "intrinsics": (pinhole_intrinsics(fov, (height, width)) / size[:, None]).float()[None],
            "image": image,
            "mirage_kind": "scale",
        }
        return io.NodeOutput(image, packet, sky.float(), movers.float(), fov)


def _names() -> list[str]:
    return sorted(path.parent.name for path in _SCENES.glob("*/scene.json"))


def _pixels(path: Path) -> torch.Tensor:
    """[H W] or [H W 3] float64, as the file holds them."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture).astype(np.float64))
