"""From evidence to a mask: thresholds, weights and shapes that a person tunes, cheap enough to follow a slider.

Scores are only compared here, in bytes; no model is asked again. Where scores come from is evidence.py, how a mask
becomes latent cells is masks.py.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from .evidence import KINDS, MOVING, SKY, SOURCES, UNSURE, Evidence
from .latent_grid import WAN22, LatentGrid
from .mask_shapes import feathered, grown, held, without_small
from .masks import area_resampled, latent_frame_mask, latent_mask

KEEP_FIRST, PAINTED_FIRST, MOVERS_FIRST = "keep first", "painted movers first", "all movers first"
PRIORITIES = (KEEP_FIRST, PAINTED_FIRST, MOVERS_FIRST)
# name: least, most, step of its slider, and what it does.
LIMITS = {
    "sky_threshold": (0.02, 1.0, 0.01, "A pixel is sky from this score on. Lower takes more for sky."),
    "moving_threshold": (0.02, 1.0, 0.01, "A pixel moves from this score on. Lower takes more for movers."),
    "unsure_threshold": (0.02, 1.0, 0.01, "Depth is not trusted from this score on. Lower trusts less."),
    "grow": (0, 64, 1, "Grow sky and movers by so many pixels, for soft edges and shadows."),
    "feather": (0, 64, 1, "Let the edge fade out over so many pixels."),
    "hold": (0, 16, 1, "What moves is left out so many frames of the film before and after, too."),
    "min_area": (0.0, 5.0, 0.01, "Ignore movers and doubts smaller than this, in percent of the picture."),
}
MAX_WEIGHT = 2.0
_PIXELS = ("grow", "feather")


@dataclass(frozen=True)
class MaskRules:
    """What a person sets. See LIMITS for the numbers.

    weights: by source, 0 (not listened to) to MAX_WEIGHT; the score times its weight is compared.
    priority: which wins where a pixel is both to keep and to leave out. "keep first": what is painted to keep.
        "painted movers first": what is painted or tracked as moving. "all movers first": also movers found by scores.

    Raises ValueError for unknown names and for values that are no numbers within LIMITS.
    """

    sky_threshold: float = 0.5
    moving_threshold: float = 0.5
    unsure_threshold: float = 0.5
    grow: int = 4
    feather: int = 0
    hold: int = 1
    min_area: float = 0.02
    priority: str = KEEP_FIRST
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (low, high, _, _) in LIMITS.items():
            value = _number(name, getattr(self, name), low, high)
            if isinstance(low, int) and value != int(value):
                raise ValueError(f"{name} is {value}; it is a whole number.")
            object.__setattr__(self, name, int(value) if isinstance(low, int) else float(value))
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority is {str(self.priority)[:80]!r}; it is one of {', '.join(PRIORITIES)}.")
        if not isinstance(self.weights, dict):
            raise ValueError(f"weights are {str(self.weights)[:80]!r}; they are numbers by source.")
        if unknown := [name for name in self.weights if name not in SOURCES]:
            raise ValueError(f"There is no source {str(unknown[0])[:80]!r}; the sources are {', '.join(SOURCES)}.")
        given = {name: _number(f"The weight of {name}", value, 0, MAX_WEIGHT) for name, value in self.weights.items()}
        object.__setattr__(self, "weights", DEFAULT_WEIGHTS | given)

    @staticmethod
    def of(value: Any) -> MaskRules:
        """Rules from plain JSON; what is not in it keeps its default. None and {} are the defaults.

        Raises ValueError for anything else than an object of known names with fitting values.
        """
        if value is None:
            return MaskRules()
        if not isinstance(value, dict):
            raise ValueError(f"The tuning is {str(value)[:80]!r}; it is an object such as {{'grow': 8}}.")
        names = [one.name for one in fields(MaskRules)]
        if unknown := [name for name in value if name not in names]:
            raise ValueError(f"The tuning has {str(unknown[0])[:80]!r}; it knows {', '.join(names)}.")
        return MaskRules(**value)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that of() reads back."""
        return asdict(self)


# Latents differ for many reasons other than movers, and depth edges are resolved where points are lifted.
DEFAULT_WEIGHTS = {name: 1.0 for name in SOURCES} | {
    "moving_depth": 0.8,
    "moving_latents": 0.0,
    "unsure_depth": 0.6,
    "unsure_edge": 0.0,
    "unsure_thin": 0.0,
}
# What MaskRules.of() makes rules of.
PRESETS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "quiet interior": {
        "moving_threshold": 0.65, "grow": 2, "hold": 0, "min_area": 0.1,
        "weights": {"sky_far": 0.0, "unsure_depth": 0.8},
    },
    "street with people": {
        "moving_threshold": 0.4, "grow": 8, "hold": 2, "min_area": 0.01,
    },
    "open sky": {"sky_threshold": 0.3, "grow": 6, "weights": {"sky_far": 1.4, "unsure_thin": 0.8}},
}  # fmt: skip


@dataclass(frozen=True)
class DerivedMask:
    """What rules make of evidence, at its working size, for some or all of its frames.

    is_sky, is_moving, is_unsure: [frames rows columns] bool, why a pixel is left out; one pixel may have several
        reasons.
    excluded: [frames rows columns] uint8, 255 = not remembered, 0 = remembered, between them a feathered edge.
    """

    is_sky: torch.Tensor
    is_moving: torch.Tensor
    is_unsure: torch.Tensor
    excluded: torch.Tensor

    @property
    def shares(self) -> dict[str, float]:
        """Share of all pixels that are written, sky, moving, unsure."""
        parts = {SKY: self.is_sky, MOVING: self.is_moving, UNSURE: self.is_unsure}
        told = {name: float(torch.count_nonzero(part)) / part.numel() for name, part in parts.items()}
        return {"written": float(torch.count_nonzero(self.excluded < 128)) / self.excluded.numel(), **told}


@dataclass(frozen=True)
class DerivedCells:
    """The same at latent cells, as the memory takes it: by area, and widened by the VAE's reach.

    is_static: [latent_frames rows columns] bool, True = will be written.
    is_sky, is_moving, is_unsure: the same shape, cells that are left out for this, the VAE's reach included.
    """

    is_static: torch.Tensor
    is_sky: torch.Tensor
    is_moving: torch.Tensor
    is_unsure: torch.Tensor


def derived_mask(
    evidence: Evidence,
    rules: MaskRules,
    *,
    painted: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    frames: range | None = None,
) -> DerivedMask:
    """The mask of `frames` (default all).

    painted: [frames rows columns] uint8 of the working size, 128 and more = moves; from a brush or a tracker. It is
        taken at its word: no threshold of the rules applies, only grow and feather.
    kept: the same, 128 and more = remember in any case.
    Time: 60 ms for 33 frames of 704x1280 on one core (benchmarks/mask_tuning.py).
    """
    frames = frames or range(evidence.frames)
    # What moves before or after these frames may be held into them.
    hold = (rules.hold + evidence.stride // 2) // evidence.stride
    around = range(max(0, frames.start - hold), min(evidence.frames, frames.stop + hold))
    scale = evidence.size[1] / evidence.image_size[1]
    grow, feather = (math.ceil(getattr(rules, name) * scale) for name in _PIXELS)
    min_pixels = math.ceil(rules.min_area / 100 * evidence.size[0] * evidence.size[1])
    is_sky = _where(evidence, rules, SKY, frames)
    is_moving = without_small(_where(evidence, rules, MOVING, around), min_pixels)
    is_moving = held(is_moving, hold)[frames.start - around.start :][: len(frames)]
    is_unsure = without_small(_where(evidence, rules, UNSURE, frames), min_pixels)
    is_painted = None if painted is None else grown(_at_least(painted[_slice(frames)], 128), grow)
    is_sky, is_moving = _grown(is_sky, grow), _grown(is_moving, grow)
    all_moving = is_moving if is_painted is None else is_moving | is_painted
    excluded = is_sky | all_moving | is_unsure
    is_free = None
    if kept is not None:
        is_free = _at_least(kept[_slice(frames)], 128)
        if rules.priority == PAINTED_FIRST and is_painted is not None:
            is_free = is_free & ~is_painted
        elif rules.priority == MOVERS_FIRST:
            is_free = is_free & ~all_moving
        stays = ~is_free
        is_sky, all_moving, is_unsure, excluded = (one & stays for one in (is_sky, all_moving, is_unsure, excluded))
    level = feathered(excluded, feather)
    if is_free is not None and feather:
        level = torch.where(is_free, 0, level)
    return DerivedMask(is_sky, all_moving, is_unsure, level)


def derived_cells(
    mask: DerivedMask, size: tuple[int, int], *, stride: int = 1, grid: LatentGrid = WAN22
) -> DerivedCells:
    """The mask of whole frames at latent cells of a grid of `size` = (rows, columns).

    stride: pixel frames from one frame of the mask to the next. With 1, and as many frames as the VAE packs, a latent
        frame is left out where any frame that it covers is; otherwise each frame is a latent frame.
    """

    def at_latent_frames(is_excluded: torch.Tensor) -> torch.Tensor:
        packs = stride == 1 and grid.is_frame_count(len(is_excluded))
        return latent_frame_mask(is_excluded, grid) if packs else is_excluded

    reasons = [~latent_mask(at_latent_frames(one), size) for one in (mask.is_sky, mask.is_moving, mask.is_unsure)]
    return DerivedCells(latent_mask(at_latent_frames(mask.excluded.float() / 255), size), *reasons)


def static_mask(mask: DerivedMask, image_size: tuple[int, int]) -> torch.Tensor:
    """[frames H W] float32 in [0, 1] of the frames' own size, 1 = may be remembered."""
    rows, columns = mask.excluded.shape[1:]
    down, right = image_size[0] // rows, image_size[1] // columns
    if image_size == (down * rows, right * columns):  # the same as below, in a tenth of the time
        excluded = mask.excluded[:, :, None, :, None].expand(-1, -1, down, -1, right).reshape(-1, *image_size)
        return 1 - excluded.float() / 255
    return 1 - area_resampled(mask.excluded.float() / 255, image_size)


def described() -> dict[str, Any]:
    """Everything a page needs to offer these rules: limits, sources, priorities and presets, as plain JSON."""
    return {
        "limits": {
            name: {"min": low, "max": high, "step": step, "tooltip": told}
            for name, (low, high, step, told) in LIMITS.items()
        },
        "sources": {name: {"kind": kind, "label": label} for name, (kind, label) in SOURCES.items()},
        "kinds": list(KINDS),
        "max_weight": MAX_WEIGHT,
        "priorities": list(PRIORITIES),
        "presets": {name: MaskRules.of(value).to_json() for name, value in PRESETS.items()},
    }


def _where(evidence: Evidence, rules: MaskRules, kind: str, frames: range) -> torch.Tensor:
    """[frames rows columns] bool: some source of this kind reaches the threshold."""
    found = torch.zeros(len(frames), *evidence.size, dtype=torch.bool)
    threshold = getattr(rules, f"{kind}_threshold")
    for name, score in evidence.scores.items():
        weight = rules.weights[name]
        if SOURCES[name][0] == kind and weight >= threshold:
            found |= _at_least(score[_slice(frames)], max(1, math.ceil(255 * threshold / weight - 1e-6)))
    return found


def _at_least(values: torch.Tensor, level: int) -> torch.Tensor:
    """values >= level for bytes; numpy compares them twenty times as fast as torch does."""
    return torch.from_numpy(values.cpu().numpy() >= level)


def _grown(mask: torch.Tensor, steps: int) -> torch.Tensor:
    return grown(mask, steps) if steps and mask.any() else mask


def _slice(frames: range) -> slice:
    return slice(frames.start, frames.stop)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError(f"{name} is {str(value)[:80]!r}; it is a number.")
    if not low <= value <= high:
        raise ValueError(f"{name} is {str(value)[:80]}; it lies between {low} and {high}.")
    return float(value)
