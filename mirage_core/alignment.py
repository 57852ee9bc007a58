"""Bringing new depth to the scale, and where the model leaves it open the shift, of what the memory already knows.

A depth model guesses the scale anew for every picture, and some guess an offset too. What is known from the same
cameras fixes both: per frame, smoothly over time, from cells that agree. What is known is anchors.py, poses
are pose_refinement.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

# What a depth model leaves open. "scale": metric and up-to-scale depth. "scale + shift": known = scale * new + shift.
# "scale + disparity shift": 1 / known = scale / new + shift, for depth that was read off a picture of nearness.
DepthKind = Literal["scale", "scale + shift", "scale + disparity shift"]
DEPTH_KINDS: tuple[DepthKind, ...] = ("scale", "scale + shift", "scale + disparity shift")

FRAME_CHANGE = 0.05  # by which scale and shift may differ from one latent frame to the next
ONE_SCALE = 1e-4  # the same for models that look at all frames at once

_USUAL_SHIFT = 0.3  # of the median depth; holds the shift near 0 where one wall is all that is shared
_SHIFT_CHANGE = 0.2  # how much less than the scale it changes from frame to frame
_NEIGHBOURS = 16  # cells whose errors are alike, so that many cells are not taken for many proofs
_ITERATIONS = 12
_SETTLED = 1e-7
_LEAST_NOISE = 1e-6
_NARROWING = 0.5  # least share of a step's noise that the next one takes for its own
_TUKEY = 4.685  # standard deviations; 95 % efficient in normal noise, blind to what is farther off
_TRIED = 512  # cells per frame that the first guess of the shift looks at


@dataclass(frozen=True)
class Alignment:
    """How new depth fits what is already known.

    scales, shifts: [frames] float64, for `kind` as DepthKind says; shifts in units of known depth (or of one over it).
    residuals: [frames] float64, median of |log(aligned / known)| over the cells that agree: 0.01 is 1 % off; NaN where
        is_aligned is False.
    shares: [frames] float64, share of the frame's new cells that could be compared.
    is_aligned: [frames] bool, True where the frame had enough of them; the others follow their neighbours in time.
    """

    scales: torch.Tensor
    shifts: torch.Tensor
    residuals: torch.Tensor
    shares: torch.Tensor
    is_aligned: torch.Tensor
    kind: DepthKind = "scale"

    def apply(self, depth: torch.Tensor) -> torch.Tensor:
        """depth [frames H W], any size, brought to what is known. What would come to lie behind the camera is 0.

        A shift bends planes: take depth at latent resolution from the aligned map again.
        """
        scale, shift = (values.to(depth)[:, None, None] for values in (self.scales, self.shifts))
        if self.kind == "scale":
            return depth * scale
        aligned = 1 / (scale / depth + shift) if self.kind == "scale + disparity shift" else depth * scale + shift
        return torch.where(_is_known(depth), torch.where(_is_known(aligned), aligned, 0.0), depth)

    @property
    def last(self) -> tuple[float, float]:
        """Scale and shift of the newest frame, for a next segment that shares nothing with the memory."""
        return float(self.scales[-1]), float(self.shifts[-1])


def align_depth(
    depth: torch.Tensor,
    known: torch.Tensor,
    is_known: torch.Tensor,
    *,
    kind: DepthKind = "scale",
    weights: torch.Tensor | None = None,
    frame_change: float = FRAME_CHANGE,
    fallback: tuple[float, float] = (1.0, 0.0),
    min_share: float = 0.05,
    min_cells: int = 16,
) -> Alignment:
    """Scale, and shift if `kind` has one, of each frame, robust to outliers and smooth over the frames.

    depth: [frames rows columns], new.  known: [frames rows columns], from the same cameras.
    is_known: [frames rows columns] bool, True where `known` counts: covered, static, confident.
    weights: [frames rows columns], at least 0, how much a known cell counts (anchors.py); default 1.
    frame_change: standard deviation of the change of log scale between frames; the shift changes less.
    fallback: scale and shift of all frames when none has enough cells.
    min_share: share of a frame's valid new cells that must be comparable.  min_cells: and their least number.

    Raises ValueError when the shapes differ or the kind is none of DEPTH_KINDS.
    """
    weights = torch.ones_like(known) if weights is None else weights
    if not depth.shape == known.shape == is_known.shape == weights.shape or depth.ndim != 3:
        raise ValueError(
            f"depth {list(depth.shape)}, known {list(known.shape)}, is_known {list(is_known.shape)} and weights "
            f"{list(weights.shape)} must all be [frames rows columns] of one size."
        )
    if kind not in DEPTH_KINDS:
        raise ValueError(f"The kind of depth is {kind}; it is one of {', '.join(DEPTH_KINDS)}.")
    is_new = _is_known(depth)
    is_compared = is_new & is_known & _is_known(known) & (weights > 0)
    counts = is_compared.flatten(1).sum(1).cpu()
    shares = counts / is_new.flatten(1).sum(1).cpu().clamp_min(1).double()
    is_aligned = (shares >= min_share) & (counts >= min_cells)
    frames = len(depth)
    scales, shifts = (torch.full((frames,), value, dtype=torch.float64) for value in fallback)
    residuals = torch.full((frames,), math.nan, dtype=torch.float64)
    if is_aligned.any():
        cells = _Cells.of(depth, known, weights * is_compared, is_aligned, is_inverse="disparity" in kind)
        fit = _fitted(cells, has_shift=kind != "scale", frame_change=frame_change)
        scales, shifts = fit.scales, fit.shifts
        residuals[is_aligned] = fit.residuals[is_aligned]
    return Alignment(scales, shifts, residuals, shares, is_aligned, kind)


@dataclass(frozen=True)
class _Cells:
    """The compared cells, [frames cells] float64 on the CPU: new and known (depth or one over it), and weights, 0 where
    nothing is compared."""

    new: torch.Tensor
    known: torch.Tensor
    weights: torch.Tensor

    @staticmethod
    def of(
        depth: torch.Tensor, known: torch.Tensor, weights: torch.Tensor, is_aligned: torch.Tensor, *, is_inverse: bool
    ) -> _Cells:
        weights = weights.flatten(1).double().cpu() * is_aligned[:, None]
        is_used = weights > 0
        new, known = (torch.where(is_used, values.flatten(1).double().cpu(), 1.0) for values in (depth, known))
        if is_inverse:
            new, known = 1 / new, 1 / known
        return _Cells(new, known, weights / weights.mean())

    def thinned(self) -> _Cells:
        step = max(1, self.new.shape[1] // _TRIED)
        return _Cells(self.new[:, ::step], self.known[:, ::step], self.weights[:, ::step])


@dataclass(frozen=True)
class _Fit:
    scales: torch.Tensor
    shifts: torch.Tensor
    residuals: torch.Tensor


def _fitted(cells: _Cells, *, has_shift: bool, frame_change: float) -> _Fit:
    """known = exp(logs) * (new * exp(start) + offset * unit), where `start` is the best scale alone.

    Gauss-Newton on log residuals with Tukey's weights. The derivative by the offset is taken half from the new and half
    from the known depth: from one alone its own noise would bias it, and over many segments every scene would shrink.
    """
    weights, known = cells.weights, cells.known
    start = _filled(_robust_centers((known / cells.new).log(), weights))
    unit = float(_weighted_medians(known.reshape(1, -1), weights.reshape(1, -1)))
    new = cells.new * start.exp()[:, None]
    unknowns = torch.zeros(len(new), 1 + has_shift, dtype=torch.float64)  # log scale after `start`, offset
    if has_shift:
        unknowns[:] = _first_offset(_Cells(new, known, weights).thinned(), unit)
    residual, is_near, noise = torch.zeros_like(new), weights > 0, 0.0
    for _ in range(_ITERATIONS):
        moved = new + unknowns[:, 1:] * unit if has_shift else new
        moved = moved.clamp_min(1e-3 * unit) * unknowns[:, :1].exp()
        residual = (known / moved).log()
        # No faster: frames that fit exactly would lose those that are not there yet.
        noise = max(_spread(residual, weights), _NARROWING * noise, _LEAST_NOISE)
        reach = _TUKEY * noise
        is_near = (residual.abs() < reach) & (weights > 0)
        trust = weights * torch.where(is_near, (1 - (residual / reach) ** 2) ** 2, 0.0)
        derivatives = [torch.ones_like(new)]
        if has_shift:
            derivatives.append(unit * unknowns[:, :1].exp() / (moved * known).sqrt())
        precision = trust / (noise**2 * _NEIGHBOURS)
        step = _smooth_step(torch.stack(derivatives, -1), residual, precision, unknowns, start, change=frame_change)
        unknowns = unknowns + step
        unknowns[:, 1:].clamp_(min=-0.9)
        if float(step.abs().max()) < _SETTLED:
            break
    factors = unknowns[:, 0].exp()
    shifts = factors * unknowns[:, 1] * unit if has_shift else torch.zeros_like(factors)
    return _Fit(factors * start.exp(), shifts, _weighted_medians(residual.abs(), weights * is_near))


def _first_offset(cells: _Cells, unit: float) -> torch.Tensor:
    """[frames 2] log scale and offset under which the middle of the residuals is least; one offset for all frames."""
    best, unknowns = math.inf, torch.zeros(len(cells.new), 2, dtype=torch.float64)
    for share in sorted((step * 0.125 for step in range(-12, 7)), key=abs):  # ties go to the smaller shift
        offset = share / (1 - share)
        moved = cells.new + offset * unit
        ratio = (cells.known / moved.clamp_min(1e-3 * unit)).log()
        center = _filled(_robust_centers(ratio, cells.weights))
        distance = (ratio - center[:, None]).abs()
        cost = float(_weighted_medians(distance.reshape(1, -1), cells.weights.reshape(1, -1)))
        if cost < 0.999 * best:
            best, unknowns = cost, torch.stack([center, torch.full_like(center, offset)], dim=1)
    return unknowns


def _smooth_step(
    derivatives: torch.Tensor,
    residual: torch.Tensor,
    precision: torch.Tensor,
    unknowns: torch.Tensor,
    start: torch.Tensor,
    *,
    change: float,
) -> torch.Tensor:
    """[frames unknowns] Newton step of all frames at once.

    derivatives: [frames cells unknowns].  unknowns: log scale after `start`, then offset.
    """
    frames, count = unknowns.shape
    weighted = derivatives * precision[..., None]
    system = torch.block_diag(*(weighted.mT @ derivatives))
    right = (weighted * residual[..., None]).sum(1).flatten()
    now = unknowns.clone()
    now[:, 0] += start  # what changes little from frame to frame is the whole scale
    steps = torch.eye(frames, dtype=torch.float64).diff(dim=0)
    changes = torch.tensor([change, change * _SHIFT_CHANGE], dtype=torch.float64)[:count]
    prior = torch.kron(steps.T @ steps, torch.diag(1 / changes**2))
    if count == 2:
        prior += torch.diag(torch.tensor([0.0, 1 / _USUAL_SHIFT**2], dtype=torch.float64).repeat(frames))
    return torch.linalg.solve(system + prior, right - prior @ now.flatten()).reshape(frames, count)


def _robust_centers(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[rows] weighted median of those values in each row that agree with each other; NaN where no weight is."""
    center = _weighted_medians(values, weights)
    for _ in range(4):
        distances = (values - center[:, None]).abs()
        # 3 standard deviations of normal noise: 4.45 median distances.
        reach = 4.45 * _weighted_medians(distances, weights) + 1e-9
        center = _weighted_medians(values, weights * (distances <= reach[:, None]))
    return center


def _spread(residual: torch.Tensor, weights: torch.Tensor) -> float:
    """Standard deviation of the residuals that agree with each other."""
    distances, weights = residual.abs().reshape(1, -1), weights.reshape(1, -1)
    agreeing = weights
    for _ in range(4):
        agreeing = weights * (distances <= 4.45 * _weighted_medians(distances, agreeing) + 1e-9)
    return 1.4826 * float(_weighted_medians(distances, agreeing))


def _weighted_medians(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[rows] weighted median of each row; NaN where no weight is."""
    ordered, order = values.sort(dim=1)
    reached = weights.gather(1, order).cumsum(1)
    total = reached[:, -1:]
    middle = torch.searchsorted(reached, total / 2).clamp(max=values.shape[1] - 1)
    return torch.where(total > 0, ordered.gather(1, middle), math.nan)[:, 0]


def _filled(logs: torch.Tensor) -> torch.Tensor:
    """NaN replaced by a straight line between the neighbours in time, the nearest at the ends, 0 if all are NaN."""
    known = (~logs.isnan()).nonzero()[:, 0]
    if len(known) == 0:
        return torch.zeros_like(logs)
    at = torch.arange(len(logs), dtype=torch.float64)
    after = torch.searchsorted(known, at.long()).clamp(0, len(known) - 1)
    before = (torch.searchsorted(known, at.long(), right=True) - 1).clamp(0, len(known) - 1)
    left, right = known[before].double(), known[after].double()
    share = torch.where(right > left, (at - left) / (right - left).clamp_min(1), 0.0)
    return torch.lerp(logs[known[before]], logs[known[after]], share)


def _is_known(depth: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(depth) & (depth > 0)
