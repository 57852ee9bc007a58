"""Colours of a memory's points by what is asked of them: the picture, age, confidence, segment, or lock."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..mirage_core.memory import LatentMemory, MemoryBlock
from ..mirage_core.memory_numbers import segment_of
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from .host_latents import latent_preview

PREVIEW, AGE, CONFIDENCE, SEGMENT, LOCKED = COLORINGS = ("preview", "age", "confidence", "segment", "locked")

Colors = Callable[[MemoryBlock, torch.Tensor], torch.Tensor]

# Old is dark violet, new is yellow; unsure is red, sure is green.
_AGES = torch.tensor(
    [[0.27, 0.0, 0.33], [0.23, 0.32, 0.55], [0.13, 0.57, 0.55], [0.37, 0.79, 0.38], [0.99, 0.91, 0.14]]
)
_SURENESS = torch.tensor([[0.80, 0.20, 0.18], [0.93, 0.65, 0.24], [0.33, 0.72, 0.47]])
_SEGMENTS = torch.tensor(
    [
        [0.37, 0.78, 0.68],
        [0.94, 0.65, 0.35],
        [0.47, 0.60, 0.93],
        [0.88, 0.45, 0.55],
        [0.66, 0.80, 0.36],
        [0.72, 0.54, 0.85],
    ]
)
_EARLIER = torch.tensor([0.45, 0.47, 0.52])
_LOCKED, _FREE = torch.tensor([0.98, 0.80, 0.25]), torch.tensor([0.34, 0.37, 0.43])


def coloring(rollout: Rollout, by: str) -> Colors:
    """A function from a block and rows of it to colours [n 3] in [0, 1].  Raises ValueError for another word."""
    if by == PREVIEW:
        return preview_colors(rollout.memory)
    if by == AGE:
        low, high = _ages(rollout.memory)
        return lambda block, rows: _ramp(_AGES, (block.latent_index[rows].float() - low) / max(1, high - low))
    if by == CONFIDENCE:
        return lambda block, rows: _ramp(_SURENESS, block.confidence[rows].float())
    if by == SEGMENT:
        return lambda block, rows: _segment_colors(segment_of(rollout, block.latent_index[rows]).cpu())
    if by == LOCKED:
        return _lock_colors
    raise ValueError(f"color is {by!r}; it is one of {', '.join(COLORINGS)}.")


def preview_colors(memory: LatentMemory) -> Colors:
    """The colours of the pictures, roughly for latents."""

    def colors(block: MemoryBlock, rows: torch.Tensor) -> torch.Tensor:
        latents = block.latents[rows].float().cpu()
        return latents if is_rgb(memory) else latent_preview(latents.T[:, :, None, None])[:, 0, 0]

    return colors


def legend(rollout: Rollout, by: str) -> str:
    """What the colours mean, in a line."""
    low, high = _ages(rollout.memory)
    return {
        PREVIEW: "colours of the pictures",
        AGE: f"age: violet latent frame {low} to yellow {high}",
        CONFIDENCE: "confidence: red 0, amber 0.5, green 1",
        SEGMENT: "segments in turn: green, orange, blue, red, lime, violet; grey from earlier films",
        LOCKED: "gold is locked",
    }[by]


def _ages(memory: LatentMemory) -> tuple[int, int]:
    if not memory.blocks:
        return 0, 0
    ends = [(int(block.latent_index.min()), int(block.latent_index.max())) for block in memory.blocks]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _ramp(stops: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Colours [n 3] at shares [n] in [0, 1] of the way through evenly spaced stops."""
    at = share.cpu().clamp(0, 1) * (len(stops) - 1)
    below = at.floor().clamp(max=len(stops) - 2).long()
    return torch.lerp(stops[below], stops[below + 1], (at - below)[:, None])


def _segment_colors(segments: torch.Tensor) -> torch.Tensor:
    return torch.where(segments[:, None] < 0, _EARLIER, _SEGMENTS[segments % len(_SEGMENTS)])


def _lock_colors(block: MemoryBlock, rows: torch.Tensor) -> torch.Tensor:
    count = len(block.points[rows])
    if block.is_locked is None:
        return _FREE.expand(count, 3)
    return torch.where(block.is_locked[rows].cpu()[:, None], _LOCKED, _FREE)
