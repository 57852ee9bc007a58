"""Maps and masks of a segment's frames, brought to its latent frames and latent cells."""

from __future__ import annotations

import torch

from ..mirage_core.latent_grid import WAN22
from ..mirage_core.masks import latent_frame_mask, latent_mask
from ..mirage_core.segments import Segment


def at_latent_frames(maps: torch.Tensor, segment: Segment, what: str) -> torch.Tensor:
    """One of `maps` per latent frame of the segment, from maps of all of its frames, or of those already."""
    count = segment.latent_frames
    if maps.shape[0] == segment.model_frames != count:
        return maps[:: (segment.model_frames - 1) // (count - 1)]
    if maps.shape[0] != count:
        raise ValueError(
            f"There are {maps.shape[0]} {what}; the segment has {segment.model_frames} frames. Give one for each "
            f"of them, or for the {count} that Frames for Depth picks."
        )
    return maps


def static_cells(static_mask: torch.Tensor, latent_frames: int, size: tuple[int, int]) -> torch.Tensor:
    """[latent_frames rows columns] bool; a latent frame keeps what is static in all frames it covers."""
    is_excluded = 1 - static_mask.float().cpu()
    if is_excluded.shape[0] == 1:
        is_excluded = is_excluded.expand(latent_frames, -1, -1)
    elif is_excluded.shape[0] == WAN22.frames(latent_frames):
        is_excluded = latent_frame_mask(is_excluded, WAN22)
    _check_mask_count(is_excluded, latent_frames)
    return latent_mask(is_excluded, size)


def static_pixels(static_mask: torch.Tensor, latent_frames: int, image_size: tuple[int, int]) -> torch.Tensor:
    """[latent_frames H W] bool of the very frames that the latent frames' cameras belong to."""
    is_excluded = 1 - static_mask.float().cpu()
    if is_excluded.shape[0] == 1:
        is_excluded = is_excluded.expand(latent_frames, -1, -1)
    elif is_excluded.shape[0] == WAN22.frames(latent_frames):
        is_excluded = is_excluded[:: WAN22.temporal_stride]
    _check_mask_count(is_excluded, latent_frames)
    return latent_mask(is_excluded, image_size, grow_cells=0)


def _check_mask_count(masks: torch.Tensor, latent_frames: int) -> None:
    if masks.shape[0] != latent_frames:
        raise ValueError(
            f"The static mask has {masks.shape[0]} frames; the segment has {WAN22.frames(latent_frames)} "
            f"({latent_frames} latent frames). Make the mask from the segment's own frames."
        )
