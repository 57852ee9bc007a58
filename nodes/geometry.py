"""Reading the host's geometry packets: one type for MoGe, Depth Anything 3 and Simple Depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..mirage_core.alignment import DepthKind
from ..mirage_core.camera import pinhole_intrinsics
from .host_latents import fit_box, fit_maps


@dataclass(frozen=True)
class Geometry:
    """What a depth model says about pictures.

    depth: [frames height width] z-depth; not finite or <= 0 where unknown.
    intrinsics: [frames 3 3] for a picture of size 1 x 1 (so that any crop and size can be derived), or None.
    sky: [frames height width] probability of sky in [0, 1], or None when the model has no sky.
    confidence: [frames height width], larger is surer, or None.
    kind: what the model leaves open.  is_one_scale: True when that is the same for all frames.
    """

    depth: torch.Tensor
    intrinsics: torch.Tensor | None
    sky: torch.Tensor | None
    confidence: torch.Tensor | None
    kind: DepthKind = "scale"
    is_one_scale: bool = False

    def fitted(self, target: tuple[int, int]) -> Geometry:
        """The geometry of the picture after cutting it to the aspect of `target` (height, width) around the middle."""
        height, width = self.depth.shape[1:]
        top, left, new_height, new_width = fit_box((height, width), target)
        intrinsics = self.intrinsics
        if intrinsics is not None:
            to_cut = torch.tensor(
                [[width / new_width, 0, -left / new_width], [0, height / new_height, -top / new_height], [0, 0, 1]],
                dtype=torch.float64,
            )
            intrinsics = to_cut @ intrinsics
        return Geometry(
            fit_maps(self.depth, target),
            intrinsics,
            None if self.sky is None else fit_maps(self.sky, target),
            None if self.confidence is None else fit_maps(self.confidence, target),
        )

    def frames(self, index: slice | list[int]) -> Geometry:
        """The geometry of some of the frames."""
        return Geometry(
            self.depth[index],
            None if self.intrinsics is None else self.intrinsics[index],
            None if self.sky is None else self.sky[index],
            None if self.confidence is None else self.confidence[index],
        )


def read_geometry(packet: Any) -> Geometry:
    """A MOGE_GEOMETRY or DA3_GEOMETRY packet as a Geometry, on the CPU in float32.

    Raises ValueError when there is no depth, or no valid depth at all.
    Source: ComfyUI v0.30 comfy_extras/nodes_moge.py and nodes_depth_anything_3.py (what the packets hold).
    """
    if not isinstance(packet, dict) or "depth" not in packet:
        raise ValueError(
            "The geometry has no depth map. Connect Run MoGe Inference, Run Depth Anything 3 or Simple Depth."
        )
    depth = packet["depth"].detach().float().cpu()
    if not (torch.isfinite(depth) & (depth > 0)).any():
        raise ValueError(
            "The depth map has no valid pixel (all are 0, infinite or NaN). Check the depth model and its precision; "
            "MoGe marks sky as infinite, so a picture of nothing but sky cannot be remembered."
        )
    sky = None
    if "sky" in packet:
        sky = packet["sky"].detach().float().cpu().clamp(0, 1)
    elif "mask" in packet:  # MoGe: True where there is a surface
        sky = (~packet["mask"].cpu().bool()).float()
    confidence = packet["confidence"].detach().float().cpu() if "confidence" in packet else None
    return Geometry(depth, _unit_intrinsics(packet), sky, confidence)


def _unit_intrinsics(packet: dict) -> torch.Tensor | None:
    if "intrinsics" not in packet:
        return None
    intrinsics = packet["intrinsics"].detach().double().cpu()
    if intrinsics.ndim == 4:  # Depth Anything 3: [1 views 3 3], pixels of the resolution the model ran at
        intrinsics = intrinsics[0]
        if torch.equal(intrinsics[0], torch.eye(3, dtype=torch.float64)):
            return None  # what the host fills in when the model has no camera decoder
        # The principal point is always the middle there, which tells the resolution.
        size = torch.stack([2 * intrinsics[:, 0, 2], 2 * intrinsics[:, 1, 2], torch.ones(len(intrinsics))], dim=-1)
        intrinsics = intrinsics / size[..., None]
    return intrinsics


def picture_intrinsics(geometry: Geometry, image_size: tuple[int, int], fov_degrees: float | None) -> torch.Tensor:
    """[3 3] intrinsics of the first frame, in pixels of image_size (height, width).

    fov_degrees: horizontal field of view the user asks for; None takes the geometry's.
    Raises ValueError when nobody knows the field of view.
    """
    if fov_degrees is not None:
        return pinhole_intrinsics(fov_degrees, image_size)
    if geometry.intrinsics is None:
        raise ValueError(
            "The depth model gives no field of view. Set fov on the Camera Path node (55 fits most phone and film "
            "pictures), or use MoGe or the multiview mode of Depth Anything 3."
        )
    return torch.diag(torch.tensor([image_size[1], image_size[0], 1.0], dtype=torch.float64)) @ geometry.intrinsics[0]
