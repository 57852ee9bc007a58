"""Against drift: colours of a new segment brought back to what the memory shows, and frames cleaned for re-encoding.

Both are choices of the user and off by default. Without them nothing is changed: segments are joined in latent space,
and no latent that the memory or the next segment reads has been through a decode and encode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

# What needs more than this is not the slow drift of a film: another light, or another place.
MAX_GAIN = 1.5
MAX_OFFSET = 1.0  # in normalised latents, whose standard deviation is about 1

_MIN_CELLS = 16  # compared cells that a frame needs to say anything about spread
_OUTLIER = 3.0  # cells that differ this many times more than the median cell are movers or wrong geometry
_ROUNDS = 3
_MAD_TO_STD = 1.4826  # of normal noise
_NO_SPREAD = 1e-4


@dataclass(frozen=True)
class ColorAnchor:
    """What brings a segment's channels back to the memory: latents * gains + offsets.

    gains, offsets: [channels frames].  compared: [frames] int64, cells that the memory could be compared in.
    """

    gains: torch.Tensor
    offsets: torch.Tensor
    compared: torch.Tensor

    def apply(self, latents: torch.Tensor, *, strength: float = 1.0) -> torch.Tensor:
        """latents [channels frames rows columns], all but the first frame anchored.

        The first frame is the film's newest latent, which is there already and must not change.
        strength: in [0, 1]; 0 returns the latents, bit for bit.
        """
        if strength == 0:
            return latents
        gains, offsets = self.gains**strength, self.offsets * strength
        anchored = latents * gains.to(latents)[:, :, None, None] + offsets.to(latents)[:, :, None, None]
        return torch.cat([latents[:, :1], anchored[:, 1:]], dim=1)


def color_anchor(latents: torch.Tensor, known: torch.Tensor, is_known: torch.Tensor) -> ColorAnchor:
    """Gain and offset per channel that give the covered region of a segment the memory's mean and spread.

    latents: [channels frames rows columns] the new segment, normalised, the overlap latent first.
    known: the same shape, what the memory shows to it.  is_known: [frames rows columns] bool, where that counts.

    Mean and spread are matched, not a line fitted cell by cell: noise on either side would pull a line's slope below 1,
    and every segment would lose contrast. Cells that differ far more than others (movers, wrong geometry) do not
    count. Drift grows slowly, so gain and offset follow a straight line in time; frames that the memory hardly knows
    get the value at the nearest frame it knows.

    Raises ValueError when the shapes do not belong together.
    """
    if known.shape != latents.shape or is_known.shape != latents.shape[1:]:
        raise ValueError(
            f"The segment has shape {list(latents.shape)}, the memory's view {list(known.shape)} and its coverage "
            f"{list(is_known.shape)}. Compare a segment with the view it was made from."
        )
    channels, frames = latents.shape[:2]
    gains = torch.ones(channels, frames, dtype=torch.float64)
    offsets = torch.zeros(channels, frames, dtype=torch.float64)
    compared = is_known.flatten(1).sum(1).cpu()
    for frame in (compared >= _MIN_CELLS).nonzero()[:, 0].tolist():
        at = is_known[frame]
        gains[:, frame], offsets[:, frame] = _matched(
            latents[:, frame][:, at].double().cpu(), known[:, frame][:, at].double().cpu()
        )
    weights = torch.where(compared >= _MIN_CELLS, compared, 0).double()
    weights[0] = 0  # the overlap is the memory's own latent: it shows no drift of this segment
    bound = math.log(MAX_GAIN)
    return ColorAnchor(
        gains=_straightened(gains.log().clamp(-bound, bound), weights).exp(),
        offsets=_straightened(offsets.clamp(-MAX_OFFSET, MAX_OFFSET), weights),
        compared=compared,
    )


def filled(pictures: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    """Pictures whose other pixels continue the kept ones smoothly, so that a VAE mixes nothing foreign into these.

    pictures: [frames H W 3].  is_kept: [frames H W] bool. A picture of which nothing is kept turns mid grey.
    Raises ValueError when the shapes do not belong together.
    """
    if is_kept.shape != pictures.shape[:3]:
        raise ValueError(
            f"The mask has shape {list(is_kept.shape)}, the pictures {list(pictures.shape)}. Give one mask per "
            "picture, of its size."
        )
    frames = [_continued(picture, kept) for picture, kept in zip(pictures, is_kept, strict=True)]
    return torch.stack(frames)


def _matched(new: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset [channels] that give new [channels n] the mean and spread of known [channels n]."""
    center, known_center = new.median(1).values, known.median(1).values
    gain = _ratio(_spread(known, known_center), _spread(new, center))
    offset = known_center - gain * center
    for _ in range(_ROUNDS):
        difference = new * gain[:, None] + offset[:, None] - known
        scale = difference.abs().median(1).values.clamp_min(_NO_SPREAD)
        size = (difference / scale[:, None]).square().mean(0).sqrt()
        is_alike = size <= _OUTLIER * size.median()
        inner, known_inner = new[:, is_alike], known[:, is_alike]
        gain = _ratio(known_inner.std(1), inner.std(1))
        offset = known_inner.mean(1) - gain * inner.mean(1)
    return gain, offset


def _spread(values: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return (values - center[:, None]).abs().median(1).values * _MAD_TO_STD


def _ratio(wanted: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """wanted / given, 1 where there is no spread to speak of."""
    has_spread = (wanted > _NO_SPREAD) & (given > _NO_SPREAD)
    return torch.where(has_spread, wanted / given.clamp_min(_NO_SPREAD), 1.0)


def _straightened(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Straight lines through values [channels frames] with weights [frames], held at the outermost weighted frames.

    0 without any weight; the weighted mean where there are less than three frames.
    """
    seen = weights.nonzero()[:, 0]
    if len(seen) == 0:
        return torch.zeros_like(values)
    share = weights / weights.sum()
    time = torch.arange(len(weights), dtype=torch.float64).clamp(float(seen[0]), float(seen[-1]))
    middle, mean = (share * time).sum(), (values * share).sum(1, keepdim=True)
    if len(seen) < 3:
        return mean.expand_as(values)
    slope = (values * share * (time - middle)).sum(1, keepdim=True) / (share * (time - middle).square()).sum()
    return mean + slope * (time - middle)


def _continued(picture: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    """[H W 3]: averages over ever larger squares of kept pixels fill what is not kept."""
    weight = is_kept.to(picture)[None, None]
    color = picture.movedim(-1, 0)[None] * weight
    levels = [(color, weight)]
    while max(weight.shape[2:]) > 1:
        color, weight = (functional.avg_pool2d(one, 2, ceil_mode=True) for one in (color, weight))
        levels.append((color, weight))
    fill = torch.full_like(levels[-1][0], 0.5)
    for color, weight in reversed(levels):
        coarser = functional.interpolate(fill, color.shape[2:], mode="bilinear", align_corners=False)
        fill = torch.where(weight > 0, color / weight.clamp_min(1e-12), coarser)
    return fill[0].movedim(0, -1)
