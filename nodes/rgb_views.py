"""What an RGB memory shows, as latents: rendered at pixel resolution and encoded by the host's VAE."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..mirage_core.camera import Cameras
from ..mirage_core.latent_grid import LatentGrid
from ..mirage_core.rgb_memory import PIXELS, cell_view, is_rgb, render
from ..mirage_core.rollout import Rollout, Shot
from ..mirage_core.side_branch import hole_pictures
from ..mirage_core.zbuffer import MemoryView, project
from .adapter import Encoder, VaeEncoder

_SINGLE_PIXELS = replace(PIXELS, temporal_stride=1)


def next_view(rollout: Rollout, vae) -> tuple[MemoryView, torch.Tensor | None]:
    """What the memory shows to the next segment, and for an RGB memory the pictures [latent_frames H W 3] of it.

    vae: needed for an RGB memory; it encodes every pixel frame of the segment, and the map of the holes.
    Raises ValueError for an RGB memory without a VAE, and when the film is finished.
    """
    segment = rollout.next_segment
    if not is_rgb(rollout.memory) or vae is None:
        return rollout.view(segment), None
    return _encoded(rollout, rollout.pixel_cameras_of(segment), rollout.grid, VaeEncoder(vae))


def view_along(rollout: Rollout, path: Shot, vae) -> tuple[MemoryView, torch.Tensor | None]:
    """What the memory shows along another path, one frame per latent frame, only to look at.

    Raises ValueError for an RGB memory without a VAE.
    """
    cameras = path.cameras(intrinsics=rollout.cameras.intrinsics[0], unit_length=rollout.unit_length)
    cameras = cameras[list(range(0, len(cameras), rollout.grid.temporal_stride))]
    if not is_rgb(rollout.memory):
        return project(rollout.memory, cameras, rollout.size), None
    if vae is None:
        rollout.view(rollout.plan[0])  # says what is missing
    encode = VaeEncoder(vae)

    def one_by_one(pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([encode(picture[None]) for picture in pictures], dim=1)

    return _encoded(rollout, cameras, replace(rollout.grid, temporal_stride=1), one_by_one)


def _encoded(rollout: Rollout, cameras: Cameras, grid: LatentGrid, encode: Encoder) -> tuple[MemoryView, torch.Tensor]:
    rendered = render(rollout.memory, cameras)
    view = cell_view(
        rendered,
        encode(rendered.pictures),
        grid,
        hole_latents=encode(hole_pictures(rendered.is_covered, _SINGLE_PIXELS)),
    )
    return view, rendered.pictures[:: grid.temporal_stride]
