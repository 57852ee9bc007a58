"""Reading the host's geometry packets: one type for MoGe, Depth Anything 3 and Simple Depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..mirage_core.alignment import DepthKind
from ..mirage_core.camera import Cameras, pinhole_intrinsics
from .host_latents import fit_box, fit_maps


@dataclass(frozen=True)
class Geometry:
    """What a depth model says about pictures.

    depth: [frames height width] z-depth; not finite or <= 0 where unknown.
    intrinsics: [frames 3 3] for a picture of size 1 x 1 (so that any crop and size can be derived), or None.
    sky: [frames height width] probability of sky in [0, 1], or None when the model has no sky.
    confidence: [frames height width] in [0, 1], larger is surer, or None.
    kind: what the model leaves open.  is_one_scale: True when that is the same for all frames.
    estimated: the cameras that the model found for the frames, in a world and a scale of its own, or None.
    """

    depth: torch.Tensor
    intrinsics: torch.Tensor | None
    sky: torch.Tensor | None
    confidence: torch.Tensor | None
    kind: DepthKind = "scale"
    is_one_scale: bool = False
    estimated: Cameras | None = None

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
        return replace(
            self,
            depth=fit_maps(self.depth, target),
            intrinsics=intrinsics,
            sky=None if self.sky is None else fit_maps(self.sky, target),
            confidence=None if self.confidence is None else fit_maps(self.confidence, target),
        )

    def frames(self, index: slice | list[int]) -> Geometry:
        """The geometry of some of the frames."""
        return replace(
            self,
            depth=self.depth[index],
            intrinsics=None if self.intrinsics is None else self.intrinsics[index],
            sky=None if self.sky is None else self.sky[index],
            confidence=None if self.confidence is None else self.confidence[index],
            estimated=None if self.estimated is None else self.estimated[index],
        )

    def check_same_crop(self, image_size: tuple[int, int], *, what: str) -> None:
        """Raise ValueError unless the depth has the aspect of `what`, a picture of image_size = (height, width)."""
        height, width = self.depth.shape[1:]
        if abs(width / height - image_size[1] / image_size[0]) > 0.02 * width / height:
            raise ValueError(
                f"The depth map is {width}x{height} and {what} {image_size[1]}x{image_size[0]}: not the same crop. "
                f"Estimate the depth from {what} itself, not from another cut of it."
            )


def read_geometry(packet: Any, *, is_moge2: bool = False) -> Geometry:
    """A MOGE_GEOMETRY or DA3_GEOMETRY packet as a Geometry, on the CPU in float32.

    is_moge2: True where the model is known to be MoGe 2 (depth_models.py), which the packet shows only by its normals.
    Raises ValueError when there is no depth, no valid depth at all, or it is that of a panorama.
    Source: ComfyUI v0.30 comfy_extras/nodes_moge.py and nodes_depth_anything_3.py (what the packets hold).
    """
    if not isinstance(packet, dict) or not ("depth" in packet or "points" in packet):
        raise ValueError(
            "The geometry has no depth map. Connect Run MoGe Inference, Run Depth Anything 3 or Simple Depth."
        )
    if "points" in packet and "intrinsics" not in packet:
        raise ValueError(
            "The geometry is that of a panorama, whose distances are no depth. Connect Run MoGe Inference on the "
            "picture itself."
        )
    depth = _maps(packet["depth"] if "depth" in packet else packet["points"][..., 2], "depth")
    sky = confidence = None
    if "mask" in packet:  # MoGe: True where there is a surface, also when its depth was asked for everywhere
        is_surface = _maps(packet["mask"], "mask", like=depth) > 0.5
        if not is_surface.any():
            raise ValueError(
                "The depth model's mask leaves out every pixel: it sees nothing but sky. Use another picture, another "
                "model, or Simple Depth."
            )
        depth, sky = torch.where(is_surface, depth, torch.inf), (~is_surface).float()
    if not (torch.isfinite(depth) & (depth > 0)).any():
        raise ValueError(
            "The depth map has no valid pixel (all are 0, infinite or NaN). Check the depth model and its precision; "
            "MoGe marks sky as infinite, so a picture of nothing but sky cannot be remembered."
        )
    if "sky" in packet:
        sky = _maps(packet["sky"], "sky", like=depth).clamp(0, 1)
    if "confidence" in packet:
        # Depth Anything 3 says 1 + exp(x); this is the sigmoid of x.
        confidence = 1 - 1 / _maps(packet["confidence"], "confidence", like=depth).nan_to_num(1.0).clamp_min(1.0)
    is_multiview = packet.get("mode") == "multiview"
    estimated = _estimated_or_none(packet) if is_multiview else None
    kind = "scale" if is_moge2 else _kind(packet)
    return Geometry(depth, _unit_intrinsics(packet), sky, confidence, kind, is_multiview, estimated)


def _kind(packet: dict) -> DepthKind:
    """What the model behind a packet leaves open, as far as the packet shows which model that was.

    MoGe 2 is metric, and known by its normals; of a file without them the packet looks as MoGe 1's does, which is
    affine-invariant: a scale, and along z a shift that the host has only estimated. Depth Anything 3 Mono (it gives
    sky) is relative depth, and Metric, which looks the same here, fits with a shift of about 0. Its Small and Base
    models give depth up to scale.
    """
    if "mirage_kind" in packet:  # Simple Depth
        return packet["mirage_kind"]
    if "mode" in packet:
        return "scale + shift" if packet["mode"] == "mono" and "sky" in packet else "scale"
    return "scale" if "normal" in packet else "scale + shift"


def _maps(maps: torch.Tensor, name: str, *, like: torch.Tensor | None = None) -> torch.Tensor:
    maps = maps.detach().float().cpu()
    if maps.ndim != 3 or 0 in maps.shape or (like is not None and maps.shape != like.shape):
        expected = "[frames height width]" if like is None else f"{list(like.shape)}, as of its depth"
        raise ValueError(
            f"The geometry's {name} has shape {list(maps.shape)}; {expected} is expected. Connect the depth model's "
            "own output, not a part of it."
        )
    return maps


def estimated_cameras(packet: Any) -> Cameras:
    """The cameras in a DA3_GEOMETRY packet of the mode multiview, in the estimate's own world and scale.

    Raises ValueError when there are none, or they are not finite.
    Source: ComfyUI v0.30 comfy_extras/nodes_depth_anything_3.py (world2cam [1 views 3 or 4 4], intrinsics in pixels of
    the size the model ran at, whose principal point is its middle).
    """
    if not isinstance(packet, dict) or "extrinsics" not in packet or "intrinsics" not in packet:
        raise ValueError(
            "The geometry has no cameras. Set Run Depth Anything 3 to multiview, with a Small or Base model, on the "
            "frames of Film Frames."
        )
    world2cam = packet["extrinsics"].detach().double().cpu()[0, :, :3]
    intrinsics = packet["intrinsics"].detach().double().cpu()[0]
    if torch.equal(intrinsics, torch.eye(3, dtype=torch.float64).expand_as(intrinsics)):
        raise ValueError(
            "This depth model estimates no cameras: the host filled in unit matrices. Load Depth Anything 3 Small or "
            "Base."
        )
    if not (torch.isfinite(world2cam).all() and torch.isfinite(intrinsics).all()):
        raise ValueError(
            "The estimated cameras contain NaN or infinite values. Load the depth model in fp32, or use other frames."
        )
    # A network's rotations are rigid only to a few digits.
    left, _, right = torch.linalg.svd(world2cam[:, :, :3])
    rotation = left @ right
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(world2cam), 1, 1)
    cam2world[:, :3, :3] = rotation.mT
    cam2world[:, :3, 3:] = -rotation.mT @ world2cam[:, :, 3:]
    width, height = (max(1, round(2 * float(intrinsics[0, axis, 2]))) for axis in (0, 1))
    return Cameras(cam2world, intrinsics, (height, width))


def _estimated_or_none(packet: dict) -> Cameras | None:
    try:
        return estimated_cameras(packet)
    except ValueError:  # no camera decoder, or it failed: the depth is of use all the same
        return None


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
            "pictures; EXIF Field of View reads it from a photo), or use MoGe or the multiview mode of Depth Anything "
            "3."
        )
    return torch.diag(torch.tensor([image_size[1], image_size[0], 1.0], dtype=torch.float64)) @ geometry.intrinsics[0]
