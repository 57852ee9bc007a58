"""How well a film remembers: likeness of frames filmed from one pose, what was known, ghosts of movers, colour drift.

Numbers only; which films are compared, and with what, is the caller's. Pictures are [frames H W 3] in [0, 1].
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from kornia.color import rgb_to_lab
from kornia.metrics import ssim as ssim_map

from .camera import Cameras

_SSIM_WINDOW = 11
_STEP_DEGREES, _STEP_SHARE = 5.0, 0.05  # a turn and a shift (in median depths) that are felt alike; see pose_steps()
_T_95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.2,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.1,
    2.09,
)


@dataclass(frozen=True)
class Likeness:
    """How alike two sets of pictures are.

    psnr: decibels, inf for equal pictures.  ssim: structural similarity, 1 for equal pictures.
    lpips: perceptual distance, 0 for equal pictures; None where it was not asked for or is not installed.
    share: of the pixels that were compared, in [0, 1]; psnr and ssim are NaN when it is 0.
    """

    psnr: float
    ssim: float
    share: float = 1.0
    lpips: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two frames of a film from the same pose: the second after the camera has been away."""

    first: int
    again: int


@dataclass(frozen=True)
class Estimate:
    """A mean with the half width of its 95 % interval (Student's t); the half width is NaN for one value."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}" if self.count > 1 else f"{self.mean:.2f}"


def psnr(made: torch.Tensor, truth: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in decibels over all given pixels; inf for equal pictures, NaN for no pixel.

    made, truth: [frames H W 3] in [0, 1].  where: [frames H W] bool, True = counts; default all.
    Raises ValueError when the shapes differ.
    """
    _check_alike(made, truth, where)
    errors = (made.double() - truth.double()).square().mean(-1)
    errors = errors if where is None else errors[where]
    if errors.numel() == 0:
        return math.nan
    error = float(errors.mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(made: torch.Tensor, truth: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Mean structural similarity (11 x 11 Gaussian windows) over the given pixels; NaN for no pixel.

    made, truth, where: as for psnr(). A window also reads the pixels around a given one.
    Raises ValueError when the shapes differ, or the pictures are smaller than a window.
    """
    _check_alike(made, truth, where)
    if min(made.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(
            f"The pictures are {made.shape[2]}x{made.shape[1]}; SSIM looks at {_SSIM_WINDOW}x{_SSIM_WINDOW} pixels. "
            "Compare larger pictures."
        )
    values = ssim_map(made.float().movedim(-1, 1), truth.float().movedim(-1, 1), _SSIM_WINDOW).mean(1)
    values = values if where is None else values[where]
    return float(values.mean()) if values.numel() else math.nan


def lpips(made: torch.Tensor, truth: torch.Tensor) -> float | None:
    """Perceptual distance (LPIPS, AlexNet); None unless the package lpips is installed with its network's weights.

    Raises ValueError when the shapes differ.
    """
    _check_alike(made, truth, None)
    if importlib.util.find_spec("lpips") is None:
        return None
    try:
        network = importlib.import_module("lpips").LPIPS(net="alex", verbose=False)
    except OSError:  # its backbone is fetched when first used; without a network there is no figure
        return None
    with torch.no_grad():
        planes = (pictures.float().movedim(-1, 1) * 2 - 1 for pictures in (made, truth))
        return float(network(*planes).mean())


def likeness(made: torch.Tensor, truth: torch.Tensor, where: torch.Tensor | None = None) -> Likeness:
    """PSNR, SSIM and, over whole pictures, LPIPS. Arguments and errors as for psnr() and ssim()."""
    share = 1.0 if where is None else float(where.float().mean())
    whole = lpips(made, truth) if where is None else None
    return Likeness(psnr(made, truth, where), ssim(made, truth, where), share, whole)


def pose_steps(cameras: Cameras, *, unit_length: float = 1.0) -> torch.Tensor:
    """[frames frames] float64: how far apart two poses are, in steps of 5 degrees or 5 % of unit_length.

    Turn and shift are added; a focal length that differs by 5 % counts as one step too.
    unit_length: the median depth of the scene, in world units.
    """
    turns = cameras.cam2world[:, :3, :3].flatten(1)
    cosines = (((turns @ turns.T) - 1) / 2).clamp(-1, 1)  # trace of R_a^T R_b = 1 + 2 cos
    shifts = torch.cdist(cameras.centers, cameras.centers, compute_mode="donot_use_mm_for_euclid_dist")
    focals = cameras.intrinsics[:, 0, 0].log()
    zooms = (focals[:, None] - focals).abs()
    return cosines.acos().rad2deg() / _STEP_DEGREES + (shifts / unit_length + zooms) / _STEP_SHARE


def same_pose_pairs(
    cameras: Cameras, *, unit_length: float = 1.0, min_gap: int = 33, tolerance: float = 0.2, away: float = 2.0
) -> list[Pair]:
    """For every frame that comes back to a pose, the earlier frame nearest to it in pose; the earliest among equals.

    cameras: one per frame of the film.  unit_length: as for pose_steps().
    min_gap: frames between the two, so that memory is measured and not what the model still has before its eyes.
    tolerance: in steps of pose_steps(), what counts as the same pose.  away: how far the camera must have been between.
    """
    steps = pose_steps(cameras, unit_length=unit_length)
    frames = torch.arange(len(cameras))
    is_after = frames > frames[:, None]
    farthest = torch.where(is_after, steps, 0.0).cummax(dim=1).values
    distances = torch.where(is_after & (farthest >= away), steps, torch.inf)
    # The nearest of all must be far enough in time: else its neighbour would stand in for it.
    distance, nearest = distances.min(dim=0)
    is_pair = (distance <= tolerance) & (frames - nearest >= min_gap)
    return [Pair(int(nearest[again]), int(again)) for again in is_pair.nonzero()[:, 0]]


def hole_rate(is_covered: torch.Tensor) -> float:
    """Share of cells or pixels about which the memory knew nothing. is_covered: bool, any shape."""
    return 1 - float(is_covered.float().mean())


def ghosting(made: torch.Tensor, truth: torch.Tensor, color: torch.Tensor, where: torch.Tensor) -> float:
    """How much of a mover's colour is left where the mover no longer is: 0 nothing, 1 all of it.

    made, truth: [frames H W 3] in [0, 1]; truth shows what is really there now.
    color: the mover's, [3], or [frames H W 3] as it looked at each pixel.
    where: [frames H W] bool, where the mover was once seen and is not now.
    The error made - truth is split along the way from the truth to the colour; its share of that way, squared, is
    weighted by the way's length, so that a background of the mover's own colour says nothing. NaN for no pixel.
    Raises ValueError when the shapes differ.
    """
    _check_alike(made, truth, where)
    made, truth = made[where].double(), truth[where].double()
    way = (color[where] if color.ndim > 1 else color).to(truth) - truth
    length = way.square().sum(-1)
    if not len(way) or float(length.sum()) == 0:
        return math.nan
    share = (((made - truth) * way).sum(-1) / length.clamp(min=1e-12)).clamp(0, 1)
    return float((share.square() * length).sum() / length.sum())


def color_drift(made: torch.Tensor, truth: torch.Tensor, segments: Sequence[range]) -> list[float]:
    """Per segment, the distance of its mean Lab colour from that of the truth (CIE76; 2.3 is just noticed).

    made, truth: [frames H W 3] in [0, 1].  segments: the frames of each.
    Raises ValueError when the shapes differ.
    """
    _check_alike(made, truth, None)
    means = [rgb_to_lab(one.float().clamp(0, 1).movedim(-1, 1)).mean((2, 3)) for one in (made, truth)]
    drift = []
    for segment in segments:
        at = slice(segment.start, segment.stop)
        drift.append(float((means[0][at].mean(0) - means[1][at].mean(0)).norm()))
    return drift


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of independent values; NaN among them is left out. NaN for no value."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return Estimate(known[0] if known else math.nan, math.nan, len(known))
    count = len(known)
    factor = _T_95[count - 2] if count - 2 < len(_T_95) else 1.96 + 2.4 / count
    return Estimate(mean(known), factor * stdev(known) / count**0.5, count)


def _check_alike(made: torch.Tensor, truth: torch.Tensor, where: torch.Tensor | None) -> None:
    if made.shape != truth.shape or made.ndim != 4 or made.shape[-1] != 3:
        raise ValueError(
            f"Pictures of shape {list(made.shape)} cannot be compared with {list(truth.shape)}. Give both as "
            "[frames height width 3] of one size."
        )
    if where is not None and where.shape != made.shape[:-1]:
        raise ValueError(
            f"The mask of what counts has shape {list(where.shape)}; the pictures have {list(made.shape[:-1])} "
            "[frames height width]. Resize it to the pictures."
        )
