"""What a memory holds, in numbers: size, age, confidence, extent, and how much of a film it knows."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from .memory import MemoryBlock
from .rollout import Rollout
from .zbuffer import project

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_FRAMES_AT_ONCE = 32
_MAX_SORTED = 200_000


@dataclass(frozen=True)
class MemoryNumbers:
    """points, blocks, locked: counts.  bytes: per field of the points, what is shared counted once.
    segments: points per segment of the film, 0 for the first picture, -1 for earlier films.
    confidence: its least, quarter, median, three-quarter and greatest value; empty without points.
    footprint: median width of a point's cell.  low, high: corners of the box around all points; world units.
    """

    points: int
    blocks: int
    locked: int
    bytes: dict[str, int]
    segments: dict[int, int]
    confidence: tuple[float, ...]
    footprint: float
    low: tuple[float, ...]
    high: tuple[float, ...]


def memory_numbers(rollout: Rollout) -> MemoryNumbers:
    """Numbers of a film's memory."""
    memory = rollout.memory
    segments: dict[int, int] = {}
    for block in memory.blocks:
        found, counts = segment_of(rollout, block.latent_index).unique(return_counts=True)
        for segment, count in zip(found.tolist(), counts.tolist(), strict=True):
            segments[segment] = segments.get(segment, 0) + count
    stride = max(1, -(-memory.count // _MAX_SORTED))
    confidence = _joined([block.confidence[::stride] for block in memory.blocks])
    footprints = _joined([block.footprints[::stride] for block in memory.blocks])
    points = [block.points for block in memory.blocks]
    return MemoryNumbers(
        points=memory.count,
        blocks=len(memory.blocks),
        locked=sum(int(block.is_locked.sum()) for block in memory.blocks if block.is_locked is not None),
        bytes=_bytes(memory.blocks),
        segments=dict(sorted(segments.items())),
        confidence=tuple(confidence.quantile(torch.tensor(_QUANTILES)).tolist()) if len(confidence) else (),
        footprint=float(footprints.median()) if len(footprints) else 0.0,
        low=tuple(torch.stack([one.amin(0) for one in points]).amin(0).tolist()) if points else (),
        high=tuple(torch.stack([one.amax(0) for one in points]).amax(0).tolist()) if points else (),
    )


def segment_of(rollout: Rollout, latent_index: torch.Tensor) -> torch.Tensor:
    """[n] int64 segment a point was remembered from: 1 and so on, 0 = the first picture, -1 = an earlier film."""
    ends = torch.tensor([latents.shape[1] for latents in rollout.latents], device=latent_index.device).cumsum(0)
    segment = torch.bucketize(latent_index.long(), ends, right=True)
    return torch.where(latent_index < 0, -1, segment)


def latent_frames_of(rollout: Rollout, first: int, last: int) -> tuple[int, int]:
    """First and last latent frame of segments `first` to `last`, numbered as by segment_of(); -1 is all earlier films.

    Raises ValueError when `first` is above `last`.
    """
    if first > last:
        raise ValueError(f"The segments go from {first} to {last}; the first is at most the last.")
    starts = [0, *torch.tensor([latents.shape[1] for latents in rollout.latents]).cumsum(0).tolist()]
    far = torch.iinfo(torch.int32).max
    low = -far if first < 0 else starts[first] if first < len(starts) else far
    high = -1 if last < 0 else starts[last + 1] - 1 if last + 1 < len(starts) else far
    return low, high


def known_now(rollout: Rollout) -> list[list[float]]:
    """Per segment of the whole path, the share of each of its latent frames that the memory knows now, in [0, 1].

    The overlap frame is left out but for the first segment. What a segment knew when it was made is Rollout.coverage.
    """
    memory, shares = rollout.landmarks, []
    for segment in rollout.plan:
        cameras = rollout.cameras_of(segment)
        cameras = cameras[1:] if segment.index and len(cameras) > 1 else cameras
        known: list[float] = []
        for start in range(0, len(cameras), _FRAMES_AT_ONCE):
            view = project(memory, cameras[start : start + _FRAMES_AT_ONCE], rollout.size)
            known += view.is_covered.float().mean((1, 2)).tolist()
        shares.append(known)
    return shares


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.float().cpu() for part in parts]) if parts else torch.zeros(0)


def _bytes(blocks: tuple[MemoryBlock, ...]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    for block in blocks:
        for one in fields(MemoryBlock):
            tensor = getattr(block, one.name)
            if isinstance(tensor, torch.Tensor) and (tensor.data_ptr(), tensor.nbytes) not in seen:
                seen.add((tensor.data_ptr(), tensor.nbytes))
                sizes[one.name] = sizes.get(one.name, 0) + tensor.nbytes
    return sizes
