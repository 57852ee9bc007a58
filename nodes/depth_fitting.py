"""The depth of a finished segment, brought to what the memory already shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..mirage_core.alignment import FRAME_CHANGE, ONE_SCALE, Alignment, DepthKind, align_depth
from ..mirage_core.anchors import Anchors, anchors
from ..mirage_core.camera import Cameras
from ..mirage_core.depth import latent_depth
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView
from .geometry import Geometry
from .segment_maps import at_latent_frames, static_cells

AUTO, OFF = "auto", "off"
ALIGNMENTS = [AUTO, "scale", "scale + shift", "scale + disparity shift", OFF]


@dataclass(frozen=True)
class FittedDepth:
    """Depth of a segment's latent frames as it goes into the memory.

    maps: [frames H W] at the depth model's resolution.  depth: [frames rows columns] of the latent cells.
    confidence: [frames H W] in [0, 1], or None.  cameras: one per latent frame.  notes: what was done, in words.
    last_fit: scale and shift of the newest frame, or None where nothing was fitted.
    """

    maps: torch.Tensor
    depth: torch.Tensor
    confidence: torch.Tensor | None
    cameras: Cameras
    notes: tuple[str, ...] = ()
    last_fit: tuple[float, float] | None = None


def fitted_depth(
    rollout: Rollout, view: MemoryView, shape: Geometry, static_mask: torch.Tensor | None, *, alignment: str = AUTO
) -> FittedDepth:
    """The depth of the next segment, fitted to the memory.

    view: what the memory showed to the segment.  shape: depth of its frames, all of them or one per latent frame.
    static_mask: white = may be compared.
    alignment: one of ALIGNMENTS; auto takes what the depth model leaves open.
    Raises ValueError when these do not belong to the segment.
    """
    segment = rollout.next_segment
    maps = at_latent_frames(shape.depth, segment, "depth maps")
    confidence = None if shape.confidence is None else at_latent_frames(shape.confidence, segment, "confidence maps")
    depth = latent_depth(maps, rollout.size)
    cameras = rollout.cameras_of(segment)
    if alignment == OFF:
        return FittedDepth(maps, depth, confidence, cameras)
    known = _known(rollout, view, cameras)
    is_known = known.weights > 0
    if static_mask is not None:
        is_known = is_known & static_cells(static_mask, len(depth), rollout.size)
    kind: DepthKind = shape.kind if alignment == AUTO else alignment  # type: ignore[assignment]
    fit = align_depth(
        depth,
        known.depth,
        is_known,
        kind=kind,
        weights=known.weights,
        frame_change=ONE_SCALE if shape.is_one_scale else FRAME_CHANGE,
    )
    maps = fit.apply(maps)
    # A shift bends planes, and the depth of a cell is that of a plane.
    depth = fit.apply(depth) if fit.kind == "scale" else latent_depth(maps, rollout.size)
    return FittedDepth(maps, depth, confidence, cameras, (fit_in_words(fit),), fit.last)


def _known(rollout: Rollout, view: MemoryView, cameras: Cameras) -> Anchors:
    """What the memory says about the depth of the view's cells."""
    if is_rgb(rollout.memory):  # its points are pixels, thinned to one per place: what shows is what is known
        return Anchors(view.depth.cpu().double(), view.is_covered.cpu().double())
    return anchors(rollout.memory, view, cameras)


def fit_in_words(fit: Alignment) -> str:
    """One line: scale, shift, how well it fits, and where it had to be guessed."""
    scale = f"depth scaled by {float(fit.scales.mean()):.3f}"
    if fit.kind != "scale":
        scale += f" and shifted by {float(fit.shifts.mean()):.3g}" + (" (disparity)" if "disparity" in fit.kind else "")
    if not fit.is_aligned.any():
        return f"{scale}: no frame shares enough with the memory to fit its depth"
    residual, share = float(fit.residuals[fit.is_aligned].mean()), float(fit.shares[fit.is_aligned].mean())
    words = f"{scale}, {residual:.1%} off over {share:.0%} of the cells"
    if not fit.is_aligned.all():
        words += f", {int((~fit.is_aligned).sum())} frames fitted like their neighbours for want of overlap"
    return words
