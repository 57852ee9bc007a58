"""Random similarities of the picture plane, for pictures and latents alike."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torch.nn import functional


class Warp(NamedTuple):
    """A similarity of the picture plane per clip: grid_sample's affine matrices [clips 2 3]."""

    matrices: torch.Tensor

    def of(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures or latents [clips frames channels rows columns] moved; the border is repeated outside."""
        frames = pictures.shape[1]
        flat = pictures.flatten(0, 1)
        matrices = self.matrices.repeat_interleave(frames, 0).to(flat)
        grid = functional.affine_grid(matrices, list(flat.shape), align_corners=False)
        return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(pictures)

    def is_inside(self, size: tuple[int, int], margin: float) -> torch.Tensor:
        """[clips 1 1 H W] 1 where the moved picture shows something that is `margin` (of 2) inside of the old one."""
        shape = [len(self.matrices), 1, *size]
        grid = functional.affine_grid(self.matrices, shape, align_corners=False)
        return (grid.abs().amax(-1) < 1 - margin).float()[:, None, None]


def random_warp(clips: int, *, moved: int) -> Warp:
    """Shifts up to a fifth of the picture, scales 0.8 to 1.25, turns up to 12 degrees for the first `moved` clips."""
    matrices = torch.zeros(clips, 2, 3)
    for index in range(clips):
        scale, turn, right, down = 1.0, 0.0, 0.0, 0.0
        if index < moved:
            scale, turn = math.exp(random.uniform(-0.22, 0.22)), math.radians(random.uniform(-12, 12))
            right, down = random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4)
        cosine, sine = math.cos(turn) * scale, math.sin(turn) * scale
        matrices[index] = torch.tensor([[cosine, -sine, right], [sine, cosine, down]])
    return Warp(matrices)
