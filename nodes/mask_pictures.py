"""Masks over frames in four colours: what will be written, what is sky, what moves, what is uncertain."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from ..mirage_core.mask_rules import DerivedCells, DerivedMask
from ..mirage_core.masks import area_resampled

WRITTEN, SKY, MOVING, UNSURE = (0.20, 0.80, 0.42), (0.20, 0.48, 1.0), (1.0, 0.20, 0.25), (1.0, 0.72, 0.15)
_TINT, _WRITTEN_TINT = 0.62, 0.16  # what is written should still be seen as it is


def mask_overlay(images: torch.Tensor, mask: DerivedMask) -> torch.Tensor:
    """Frames [frames height width 3] in [0, 1] tinted by what becomes of each pixel; movers above sky above doubt."""
    frames, height, width = images.shape[:3]
    color, share = torch.tensor(WRITTEN), torch.full((frames, height, width, 1), _WRITTEN_TINT)
    tints = color.expand(frames, height, width, 3)
    for is_tinted, color in ((mask.is_unsure, UNSURE), (mask.is_sky, SKY), (mask.is_moving, MOVING)):
        at = _at_size(is_tinted, (height, width))[..., None]
        tints, share = torch.where(at, torch.tensor(color), tints), torch.where(at, _TINT, share)
    return torch.lerp(images[..., :3].float(), tints, share)


def cell_overlay(images: torch.Tensor, cells: DerivedCells) -> torch.Tensor:
    """The same for latent cells, one picture per latent frame, with the lines between the cells.

    images: [latent_frames height width 3], the frames that the latent frames end with.
    """
    frames, height, width = images.shape[:3]
    rows, columns = cells.is_static.shape[1:]
    down, right = (torch.arange(length) * count // length for length, count in ((height, rows), (width, columns)))
    sky, moving, unsure = (
        one[:, down][:, :, right] for one in (cells.is_sky, cells.is_moving, cells.is_unsure | ~cells.is_static)
    )
    overlay = mask_overlay(images, DerivedMask(sky, moving, unsure, torch.zeros(frames, 1, 1, dtype=torch.uint8)))
    is_line = (down.diff(prepend=down[:1]) > 0)[:, None] | (right.diff(prepend=right[:1]) > 0)
    return torch.where(is_line[..., None], overlay * 0.72, overlay)


def small_pictures(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[frames rows columns 3] uint8 of frames [frames height width 3] in [0, 1]; for previews."""
    small = torch.nn.functional.interpolate(images[..., :3].movedim(-1, 1).float().cpu(), size, mode="area")
    return (small.movedim(1, -1).clamp(0, 1) * 255).round().byte()


def encoded(picture: torch.Tensor) -> bytes:
    """One picture [height width 3] in [0, 1] as a JPEG with whole colours."""
    file = io.BytesIO()
    levels = (picture.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(np.ascontiguousarray(levels)).save(file, format="JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _at_size(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    rows, columns = mask.shape[1:]
    if (rows, columns) == tuple(size):
        return mask
    if size[0] % rows == size[1] % columns == 0:
        down, right = size[0] // rows, size[1] // columns
        return mask[:, :, None, :, None].expand(-1, -1, down, -1, right).reshape(-1, *size)
    return area_resampled(mask, size) > 0.5
