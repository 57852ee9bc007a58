"""Sampling a segment without a host: Euler steps along the flow, the first latent frame clean.

For looking at what a training has reached and for benchmarks; the host has better solvers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

SHIFT = 5.0

# latents [batch channels frames rows columns] and timesteps [batch frames] -> the flow, of the latents' shape
Flow = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# the prediction of the clean latents, and the noise level -> a better one
Guide = Callable[[torch.Tensor, float], torch.Tensor]


def shifted(levels: torch.Tensor, shift: float = SHIFT) -> torch.Tensor:
    """Noise levels in [0, 1], moved towards noise."""
    return shift * levels / (1 + (shift - 1) * levels)


def noise_levels(steps: int, shift: float = SHIFT) -> list[float]:
    """steps + 1 noise levels from 1 to 0."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()


def noised(clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Clean latents [batch channels frames rows columns] at noise levels [batch frames]."""
    at = levels[:, None, :, None, None].to(clean.dtype)
    return (1 - at) * clean + at * noise


@torch.no_grad()
def sampled(
    flow: Flow, first: torch.Tensor, noise: torch.Tensor, *, steps: int = 8, guide: Guide | None = None
) -> torch.Tensor:
    """A segment [batch channels frames rows columns] that begins with `first` [batch channels 1 rows columns].

    noise: unit noise of the segment's shape.  guide: changes each step's prediction, as training-free guidance does.
    """
    latents = torch.cat([first, noise[:, :, 1:]], dim=2)
    levels = noise_levels(steps)
    for level, following in itertools.pairwise(levels):
        timesteps = torch.full((len(noise), noise.shape[2]), 1000 * level, device=noise.device)
        timesteps[:, 0] = 0
        velocity = flow(latents, timesteps)
        clean = latents - level * velocity
        if guide is not None:
            clean = guide(clean, level)
            velocity = (latents - clean) / level
        latents = torch.cat([first, (latents + (following - level) * velocity)[:, :, 1:]], dim=2)
    return latents


def flow_loss(flow: Flow, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean squared error of the flow over all frames but the first, which is clean.

    clean: [batch channels frames rows columns].
    Half of the samples have one noise level for all frames, as sampling has; half one per frame, as the release trains.
    Source: microsoft/LatentSpatialMemory@b2cd738 scripts/train.py (levels shifted by 5, no weights).
    """
    batch, frames = clean.shape[0], clean.shape[2]
    draw = torch.rand(batch, frames, generator=generator)
    is_shared = torch.rand(batch, 1, generator=generator) < 0.5
    levels = shifted(torch.where(is_shared, draw[:, :1], draw)).to(clean.device)
    levels[:, 0] = 0
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    made = flow(noised(clean, noise, levels), 1000 * levels)
    return (made.float() - (noise - clean).float())[:, :, 1:].square().mean()
