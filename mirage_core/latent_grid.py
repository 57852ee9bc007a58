"""How a video model's latent grid covers pixels and time. Every stride and every "4n+1" of the project lives here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

CellRule = Literal["center", "corner"]


@dataclass(frozen=True)
class LatentGrid:
    """The latent grid of a causal video VAE.

    A latent frame covers one pixel frame (the first) or `temporal_stride` pixel frames (all later ones), and it
    belongs to the camera of the last pixel frame it covers. A latent cell covers `spatial_stride` x `spatial_stride`
    pixels.

    cell_rule: where the ray of cell (row i, column j) passes. "center": through (j + 1/2, i + 1/2), and a projection
        falls into the cell of its floor (arXiv 2606.09828 eq. 8-9). "corner": through (j, i), and a projection is
        rounded; that is what the released code does (microsoft/LatentSpatialMemory@b2cd738,
        src/mirage/latent_point_cloud.py) and what weights trained with it have seen.
    """

    channels: int = 48
    spatial_stride: int = 16
    temporal_stride: int = 4
    cell_rule: CellRule = "center"

    @property
    def cell_offset(self) -> float:
        """Position of a cell's ray inside the cell, in cells: cell j's ray is at j + cell_offset."""
        return 0.5 if self.cell_rule == "center" else 0.0

    def is_frame_count(self, frames: int) -> bool:
        """True when the VAE packs this many pixel frames without a remainder."""
        return frames >= 1 and (frames - 1) % self.temporal_stride == 0

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of `frames` pixel frames.

        Raises ValueError when `frames` is not temporal_stride * n + 1.
        """
        if not self.is_frame_count(frames):
            stride = self.temporal_stride
            below = max(1, (frames - 1) // stride * stride + 1)
            raise ValueError(
                f"The clip has {frames} frames; the model packs frames as {stride}n+1. Use {below} or {below + stride}."
            )
        return (frames - 1) // self.temporal_stride + 1

    def frames(self, latent_frames: int) -> int:
        """Pixel frames that `latent_frames` latent frames decode to."""
        if latent_frames < 1:
            raise ValueError(f"A clip has at least 1 latent frame, not {latent_frames}.")
        return (latent_frames - 1) * self.temporal_stride + 1

    def last_frame_of(self, latent_frame: int) -> int:
        """The last pixel frame a latent frame covers; its camera is the latent frame's camera."""
        return latent_frame * self.temporal_stride

    def size_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the latent grid of an image of `image_size` = (height, width) pixels.

        Pixels beyond the last whole cell are cut off by the VAE; crop the cameras too (Cameras.center_cropped).
        """
        height, width = image_size
        rows, columns = height // self.spatial_stride, width // self.spatial_stride
        if rows < 1 or columns < 1:
            raise ValueError(
                f"The image is {width}x{height}; one latent cell is {self.spatial_stride} pixels wide and high. "
                "Use a larger image."
            )
        return rows, columns

    def cropped_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The part of `image_size` that whole latent cells cover, (height, width) in pixels."""
        rows, columns = self.size_of(image_size)
        return rows * self.spatial_stride, columns * self.spatial_stride

    def check_latents(self, latents: torch.Tensor) -> None:
        """Raise ValueError unless `latents` is [channels frames rows columns] with this grid's channels, and finite."""
        if latents.ndim != 4:
            raise ValueError(
                f"latents are [channels frames rows columns]; this tensor has shape {list(latents.shape)}."
            )
        if latents.shape[0] != self.channels:
            raise ValueError(
                f"latents have {latents.shape[0]} channels; this model's have {self.channels}. "
                "Connect the VAE that belongs to the model (Wan2.2 TI2V uses the Wan2.2 VAE, not Wan2.1)."
            )
        if not torch.isfinite(latents).all():
            raise ValueError(
                "latents contain NaN or infinite values. Check the image and the VAE precision (use fp32 or bf16)."
            )


WAN22 = LatentGrid()
