"""From pictures with their depth and masks to the points that are remembered: latents, or colours of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..mirage_core.camera import Cameras
from ..mirage_core.depth import latent_depth
from ..mirage_core.drift import filled
from ..mirage_core.latent_grid import WAN22, LatentGrid
from ..mirage_core.masks import latent_mask
from ..mirage_core.memory import LatentMemory, MemoryBlock, lift
from ..mirage_core.rgb_memory import PIXELS, is_rgb, lift_pixels, pixel_depth, thinned
from ..mirage_core.rollout import Rollout
from .adapter import VaeEncoder
from .depth_fitting import FittedDepth
from .geometry import Geometry
from .segment_maps import at_latent_frames, static_cells, static_pixels

_NEW = slice(1, None)  # the overlap frame is in the memory already, from the segment before


def started_memory(
    latents: torch.Tensor,
    pictures: torch.Tensor,
    shape: Geometry,
    camera: Cameras,
    static_mask: torch.Tensor | None,
    *,
    grid: LatentGrid,
    is_rgb: bool,
) -> LatentMemory:
    """A memory of the first picture.

    latents: [channels 1 rows columns] of it.  pictures: [1 H W 3] itself.  shape: its depth, cut to its aspect.
    Raises ValueError when nothing of it may be remembered.
    """
    size = (latents.shape[2], latents.shape[3])
    if is_rgb:
        depth = pixel_depth(shape.depth, camera.image_size)
    else:
        depth = latent_depth(shape.depth, size)
    if not (depth > 0).any():
        raise ValueError(
            "No latent cell of the picture has one clear surface in the depth map: it is noise at this size. "
            "Check the depth model, or use Simple Depth."
        )
    if is_rgb:
        is_static = None if static_mask is None else static_pixels(static_mask, 1, camera.image_size)
        confidence = _at_cells(shape.confidence, camera.image_size)
        block = lift_pixels(pictures, depth, camera, is_static=is_static, confidence=confidence)
    else:
        is_static = None if static_mask is None else static_cells(static_mask, 1, size)
        confidence = _at_cells(shape.confidence, size)
        block = lift(latents, depth, camera, grid, is_static=is_static, confidence=confidence)
    if len(block) == 0:
        raise ValueError(
            "Nothing of the first picture may be remembered: the mask excludes every cell that has a depth. "
            "Lower the thresholds of Dynamic/Sky Mask, or leave static_mask unconnected."
        )
    return LatentMemory.empty(PIXELS if is_rgb else grid).extended(block)


def segment_block(
    rollout: Rollout,
    latents: torch.Tensor,
    fitted: FittedDepth,
    static_mask: torch.Tensor | None,
    *,
    images: torch.Tensor | None = None,
) -> tuple[MemoryBlock, str]:
    """The points of the next segment's new latent frames, and a line about them.

    latents: [channels frames rows columns] of the segment.  fitted: its depth.
    images: [frames H W 3] the decoded segment; needed for an RGB memory.
    Raises ValueError when these do not belong to the segment.
    """
    if is_rgb(rollout.memory):
        pictures = at_latent_frames(_checked_images(images, rollout), rollout.next_segment, "images")
        block = _new_pixels(rollout, pictures.cpu(), fitted, static_mask)
        what = f"{pictures[1:].shape[:3].numel()} pixels"
    else:
        cells = new_cells(rollout, latents, fitted, static_mask)
        block = lift(
            cells.latents,
            cells.depth,
            cells.cameras,
            rollout.memory.grid,
            is_static=cells.is_static,
            confidence=cells.confidence,
            first_latent_index=rollout.filmed_latents,
        )
        what = f"{fitted.depth[1:].numel()} cells"
    written = f"{len(block)} of {what} written"
    return block, ", ".join([written, *fitted.notes, f"{rollout.memory.count + len(block)} points in all"])


@dataclass(frozen=True)
class NewCells:
    """The new latent frames of a segment on the latent grid: what lift() and fused() take."""

    latents: torch.Tensor
    depth: torch.Tensor
    cameras: Cameras
    is_static: torch.Tensor | None
    confidence: torch.Tensor | None


def new_cells(
    rollout: Rollout,
    latents: torch.Tensor,
    fitted: FittedDepth,
    static_mask: torch.Tensor | None,
) -> NewCells:
    """The next segment's latent frames without the overlap."""
    depth, confidence = fitted.depth, fitted.confidence
    is_static = None if static_mask is None else static_cells(static_mask, len(depth), rollout.size)[_NEW]
    return NewCells(
        latents[:, _NEW],
        depth[_NEW],
        fitted.cameras[_NEW],
        is_static,
        _at_cells(None if confidence is None else confidence[_NEW], rollout.size),
    )


def _new_pixels(
    rollout: Rollout,
    pictures: torch.Tensor,
    fitted: FittedDepth,
    static_mask: torch.Tensor | None,
) -> MemoryBlock:
    depth, confidence = fitted.maps, fitted.confidence
    image_size = rollout.cameras.image_size
    is_static = None if static_mask is None else static_pixels(static_mask, len(depth), image_size)[_NEW]
    block = lift_pixels(
        pictures[_NEW],
        pixel_depth(depth[_NEW], image_size),
        fitted.cameras[_NEW],
        is_static=is_static,
        confidence=_at_cells(None if confidence is None else confidence[_NEW], image_size),
        first_latent_index=rollout.filmed_latents,
    )
    return thinned(block, rollout.memory)


def re_encoded(rollout: Rollout, images: torch.Tensor | None, static_mask: torch.Tensor | None, vae) -> torch.Tensor:
    """[channels frames rows columns] latents of the next segment's decoded frames, what moves filled from around it.

    Raises ValueError without images or a VAE, or when the images are not all frames of the segment.
    """
    segment = rollout.next_segment
    if images is None or vae is None:
        raise ValueError(
            "update is 're-encode static regions', which encodes the decoded frames again. Connect the decoded "
            "segment to images and the Wan2.2 VAE to vae, or set update to 'latents'."
        )
    pictures = _checked_images(images, rollout)
    if len(pictures) != segment.model_frames:
        raise ValueError(
            f"There are {len(pictures)} images; encoding needs all {segment.model_frames} frames of the segment. "
            "Connect VAE Decode itself, not Frames for Depth."
        )
    if static_mask is not None:
        image_size = rollout.cameras.image_size
        if static_mask.shape[0] == len(pictures):
            is_kept = latent_mask(1 - static_mask.float().cpu(), image_size, grow_cells=0)
        else:
            is_kept = static_pixels(static_mask, segment.latent_frames, image_size)
            is_kept = is_kept.repeat_interleave(torch.tensor([1] + [WAN22.temporal_stride] * (len(is_kept) - 1)), dim=0)
        pictures = filled(pictures.cpu(), is_kept)
    return VaeEncoder(vae)(pictures)


def _checked_images(images: torch.Tensor | None, rollout: Rollout) -> torch.Tensor:
    if images is None:
        raise ValueError(
            "This film remembers colours, which are in the decoded frames. Connect VAE Decode of the segment to images."
        )
    if tuple(images.shape[1:3]) != rollout.cameras.image_size:
        height, width = rollout.cameras.image_size
        raise ValueError(
            f"The images are {images.shape[2]}x{images.shape[1]}, the film {width}x{height}. Connect VAE Decode of "
            "the segment, not resized."
        )
    return images[..., :3]


def _at_cells(confidence: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor | None:
    return None if confidence is None else torch.nn.functional.adaptive_avg_pool2d(confidence, size)
