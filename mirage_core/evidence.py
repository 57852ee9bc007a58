"""What speaks against remembering a pixel: soft scores per pixel and frame, computed once and then only compared.

Each source gives one score per pixel, 0 (nothing speaks against it) to 1 (certain), 1/2 where it is as likely as not,
kept in bytes at a working size of at most 640 pixels. A source that could not be asked is not there. Turning scores
into a mask is mask_rules.py; flow is parallax.py; running models is not done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from .latent_grid import WAN22
from .mask_shapes import CELL
from .masks import area_resampled

SKY, MOVING, UNSURE = "sky", "moving", "unsure"
KINDS = (SKY, MOVING, UNSURE)
# Every source there is: what it speaks for, and its name for people.
SOURCES = {
    "sky_model": (SKY, "sky of the depth model"),
    "sky_mask": (SKY, "sky mask"),
    "sky_far": (SKY, "geometry at infinity"),
    "moving_mask": (MOVING, "mover mask"),
    "moving_parallax": (MOVING, "parallax"),
    "moving_depth": (MOVING, "in front of the memory"),
    "moving_latents": (MOVING, "unlike the memory"),
    "unsure_depth": (UNSURE, "depth confidence"),
    "unsure_edge": (UNSURE, "depth edges"),
    "unsure_thin": (UNSURE, "thin structures"),
}
MAX_SIDE = 640  # pixels
FAR, INFINITE = 30.0, 300.0  # median depths at which geometry begins to be, and is, at infinity
LIKELY_UNSURE = 0.1  # the share of a frame's pixels with the lowest confidence that are as likely wrong as not
LIKELY_EDGE = 0.1  # the step in depth, as a share of it, that is as likely two surfaces as not
LIKELY_THIN = 0.1  # the same for something narrower than half a latent cell before what is behind it
LIKELY_IN_FRONT = 0.1  # the share of its depth by which something stands in front of what was remembered
_SAMPLE = 1 << 14  # pixels of a frame that tell the ranks of all


@dataclass(frozen=True)
class Evidence:
    """Scores of the frames of one picture or segment.

    scores: by source (see SOURCES), each [frames rows columns] uint8, 255 = certain, of the working size.
    image_size: (height, width) of the frames themselves.
    notes: one sentence per source that could not be asked, and why.
    stride: pixel frames from one frame to the next; 4 where there is one frame per latent frame.

    Raises ValueError for an unknown source, and for scores of another shape or type.
    """

    frames: int
    image_size: tuple[int, int]
    scores: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    stride: int = 1

    def __post_init__(self) -> None:
        shape = (self.frames, *self.size)
        for name, score in self.scores.items():
            if name not in SOURCES:
                raise ValueError(f"There is no source {name!r}; the sources are {', '.join(SOURCES)}.")
            if tuple(score.shape) != shape or score.dtype != torch.uint8:
                raise ValueError(
                    f"The score {name} is {score.dtype} {list(score.shape)}; scores of this evidence are uint8 "
                    f"{list(shape)}."
                )

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the working size."""
        return working_size(self.image_size)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(score.numel() for score in self.scores.values())

    def report(self) -> str:
        """One line per source: the share of all pixels it speaks against, or why it is missing."""
        lines = []
        for name, score in self.scores.items():
            share = float((score.view(-1) >= 128).float().mean())
            kind, label = SOURCES[name]
            lines.append(f"{label}: {kind} in {share:.1%} of the picture")
        return "\n".join([*lines, *self.notes])


def working_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of scores for pictures of (height, width): at most MAX_SIDE, both multiples of CELL."""
    scale = min(1.0, MAX_SIDE / max(image_size))
    return tuple(max(CELL, round(side * scale / CELL) * CELL) for side in image_size)  # type: ignore[return-value]


def levels(score: torch.Tensor) -> torch.Tensor:
    """uint8 from a score in [0, 1]; NaN is certain, since what is unknown must not be remembered."""
    return (score.float().nan_to_num(1.0).clamp(0, 1) * 255).round().byte()


def mask_score(mask: torch.Tensor, frames: int, image_size: tuple[int, int], *, name: str) -> torch.Tensor:
    """[frames rows columns] uint8 of a mask given as it is: [frames H W], [1 H W], or one per latent frame.

    mask: bool or float in [0, 1], 1 = excluded, of any size of the picture's shape. NaN counts as 1. An empty mask
        fits everything.
    name: of the mask, for the sentence when it does not fit.
    Raises ValueError for another number of frames, another shape, values outside [0, 1].
    """
    height, width = image_size
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"{name} has shape {list(mask.shape)}; a mask is [frames height width] and not empty.")
    if not mask.any():  # hosts stand in for a picture without a mask by an empty one of any size
        return torch.zeros(frames, *working_size(image_size), dtype=torch.uint8)
    if abs(mask.shape[2] / mask.shape[1] - width / height) > 0.02 * width / height + 1 / mask.shape[1]:
        raise ValueError(
            f"{name} is {mask.shape[2]}x{mask.shape[1]} and the frames {width}x{height}: not the same crop. Make the "
            "mask from these very frames."
        )
    return levels(area_resampled(per_frame(mask, frames, name=name), working_size(image_size)))


def per_frame(maps: torch.Tensor, frames: int, *, name: str) -> torch.Tensor:
    """One of `maps` [n ...] per frame: as given, one for all, one per latent frame, or every fourth of them.

    Raises ValueError for another number of maps.
    """
    count = maps.shape[0]
    if count == frames:
        return maps
    if count == 1:
        return maps.expand(frames, *maps.shape[1:])
    if WAN22.is_frame_count(frames) and count == WAN22.latent_frames(frames):
        # The nearest in time: a latent frame is at its last frame.
        nearest = (torch.arange(frames) + WAN22.temporal_stride // 2) // WAN22.temporal_stride
        return maps[nearest]
    if count == WAN22.frames(frames):
        return maps[:: WAN22.temporal_stride]
    latent = f", or {WAN22.latent_frames(frames)} (one per latent frame)" if WAN22.is_frame_count(frames) else ""
    raise ValueError(f"{name} has {count} frames for {frames} pictures. Give {frames}, 1 for all{latent}.")


def far_score(depth: torch.Tensor) -> torch.Tensor:
    """[frames H W] in [0, 1]: 1 for infinite depth and beyond INFINITE median depths, 0 nearer than FAR.

    depth: [frames H W]; NaN, 0 and negative are unknown and score 0: without a depth they are not remembered anyway.
    """
    is_known = torch.isfinite(depth) & (depth > 0)
    if not is_known.any():
        return (depth == math.inf).float()
    median = depth[is_known].median()
    far = (depth / median).log().sub(math.log(FAR)) / math.log(INFINITE / FAR)
    return torch.where(depth == math.inf, 1.0, torch.where(is_known, far.clamp(0, 1), 0.0))


def doubt_score(confidence: torch.Tensor) -> torch.Tensor:
    """[frames H W] in [0, 1]: how low a pixel's confidence ranks in its frame; 1/2 for the worst LIKELY_UNSURE.

    confidence: [frames H W], larger is surer, in any units: depth models differ in them. NaN scores 1; pixels that
        share one value are equally good, so a constant confidence scores 0.
    """
    scores = []
    for frame in confidence.float():
        flat = frame.flatten().nan_to_num(-math.inf)
        ordered = flat[:: max(1, len(flat) // _SAMPLE)].sort().values
        rank = torch.searchsorted(ordered, flat, right=True) / len(ordered)
        scores.append((1 - rank / (2 * LIKELY_UNSURE)).clamp_min(0).view_as(frame))
    return torch.where(confidence.isnan(), 1.0, torch.stack(scores))


def edge_score(depth: torch.Tensor) -> torch.Tensor:
    """[frames H W] in [0, 1): how large the step in depth to a neighbouring pixel is; 1/2 at LIKELY_EDGE.

    depth: [frames H W]; the border of the unknown is no edge.
    """
    logs = torch.where(torch.isfinite(depth) & (depth > 0), depth, torch.nan).log()
    step = torch.zeros_like(logs)
    for dim in (1, 2):
        change = logs.diff(dim=dim).abs().nan_to_num(0.0)
        size = change.shape[dim]
        for start in (0, 1):
            part = step.narrow(dim, start, size)
            part.copy_(torch.maximum(part, change))
    share = step.expm1()
    return (share / (share + LIKELY_EDGE)).nan_to_num(1.0)


def thin_score(depth: torch.Tensor, *, width: int) -> torch.Tensor:
    """[frames H W] in [0, 1): how far a structure narrower than `width` pixels stands before what is behind it.

    Such structures (wires, railings, twigs) share their latent cells with what is behind them.
    depth: [frames H W]; unknown pixels count as infinitely far.
    """
    inverse = torch.where(torch.isfinite(depth) & (depth > 0), 1 / depth, 0.0)[:, None]
    side = max(2, width) | 1
    # The nearest surface that is at least `width` wide: what remains after the narrow has been worn off. The picture's
    # border goes on, or what is cut off there would be narrow.
    beyond = functional.pad(inverse, [side] * 4, mode="replicate")
    worn = -functional.max_pool2d(-beyond, side, stride=1)
    behind = functional.max_pool2d(worn, side, stride=1)
    cut = (behind.shape[2] - inverse.shape[2]) // 2, (behind.shape[3] - inverse.shape[3]) // 2
    behind = behind[:, 0, cut[0] : cut[0] + inverse.shape[2], cut[1] : cut[1] + inverse.shape[3]]
    inverse = inverse[:, 0]
    ahead = torch.where(behind > 0, (inverse / behind - 1).clamp_min(0), 0.0)
    return ahead / (ahead + LIKELY_THIN)


def in_front_score(depth: torch.Tensor, known: torch.Tensor, is_known: torch.Tensor) -> torch.Tensor:
    """[frames rows columns] in [0, 1): how far a surface stands in front of the one that was remembered there.

    depth: [frames rows columns], new, in the memory's scale.  known: what the memory shows from the same cameras.
    is_known: bool, where it shows something. Unknown cells score 0. The nearest of a cell and its neighbours is what
        counts as remembered: at outlines a remembered surface may show a cell beside where it is.
    """
    is_known = is_known & (known > 0)
    is_compared = is_known & torch.isfinite(depth) & (depth > 0)
    nearness = torch.where(is_known, 1 / known.float(), 0.0)
    nearest = 1 / functional.max_pool2d(nearness[:, None], 3, stride=1, padding=1)[:, 0]
    ahead = torch.where(is_compared, nearest / depth - 1, 0.0).clamp_min(0)
    return ahead**2 / (ahead**2 + LIKELY_IN_FRONT**2)


def unlike_score(latents: torch.Tensor, known: torch.Tensor, is_known: torch.Tensor) -> torch.Tensor:
    """[frames rows columns] in [0, 1]: how much more latents differ from the remembered ones than is usual there.

    latents, known: [channels frames rows columns], normalised.  is_known: [frames rows columns] bool; other cells
        score 0. The difference is that to the likest of a cell and its neighbours, since what is seen anew falls beside
        the old cells. Usual is the frame's median of it, of which three times score 1/2: a decoded and filmed surface
        never has quite the latents it was remembered with.
    """
    known = torch.where(is_known, known.float(), torch.inf)
    beside = functional.pad(known, (1, 1, 1, 1), value=torch.inf)
    rows, columns = is_known.shape[1:]
    shifted = [beside[:, :, row : row + rows, column : column + columns] for row in range(3) for column in range(3)]
    difference = torch.stack([(latents.float() - one).square().mean(0).sqrt() for one in shifted]).amin(0)
    scores = torch.zeros_like(difference)
    for frame, at in enumerate(is_known):
        if at.any():
            usual = 3 * difference[frame][at].median().clamp_min(0.1)
            scores[frame] = torch.where(at, difference[frame] ** 2 / (difference[frame] ** 2 + usual**2), 0.0)
    return scores
