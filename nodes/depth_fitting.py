"""The depth of a finished segment, brought to what the memory already shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..mirage_core.alignment import FRAME_CHANGE, ONE_SCALE, Alignment, DepthKind, align_depth
from ..mirage_core.anchors import Anchors, anchors
from ..mirage_core.camera import Cameras
from ..mirage_core.depth import latent_depth
from ..mirage_core.pose_errors import aligning_similarity, moves
from ..mirage_core.pose_refinement import refine_cameras
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView, project
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
    rollout: Rollout,
    view: MemoryView,
    shape: Geometry,
    static_mask: torch.Tensor | None,
    *,
    alignment: str = AUTO,
    refine_poses: bool = False,
) -> FittedDepth:
    """The depth of the next segment, fitted to the memory.

    view: what the memory showed to the segment.  shape: depth of its frames, all of them or one per latent frame.
    static_mask: white = may be compared.
    alignment: one of ALIGNMENTS; auto takes what the depth model leaves open.
    refine_poses: correct the path's cameras by the depth; only a memory of latents.
    Raises ValueError when these do not belong to the segment.
    """
    segment = rollout.next_segment
    shape.check_same_crop(rollout.cameras.image_size, what="the film")
    maps = at_latent_frames(shape.depth, segment, "depth maps")
    confidence = None if shape.confidence is None else at_latent_frames(shape.confidence, segment, "confidence maps")
    is_static = None if static_mask is None else static_cells(static_mask, segment.latent_frames, rollout.size)
    plain = FittedDepth(maps, latent_depth(maps, rollout.size), confidence, rollout.cameras_of(segment))
    fitted = plain if alignment == OFF else _aligned(plain, rollout, view, shape, is_static, alignment)
    if not refine_poses:
        return fitted
    if is_rgb(rollout.memory):
        return replace(fitted, notes=(*fitted.notes, "cameras not refined: the memory is of the kind rgb"))
    known = _known(rollout, view, plain.cameras)
    is_known = known.weights > 0 if is_static is None else (known.weights > 0) & is_static
    found = refine_cameras(
        plain.cameras, fitted.depth, known.depth, is_known, rollout.memory.grid, weights=known.weights
    )
    if not found.is_refined:
        return replace(fitted, notes=(*fitted.notes, f"cameras not refined: {found.reason}"))
    moved = (
        f"cameras turned by up to {float(found.degrees.max()):.2f} degrees and moved by up to "
        f"{float(found.shifts.max()):.3g}"
    )
    turned = replace(plain, cameras=found.cameras)
    if alignment != OFF:
        # A camera that was elsewhere has biased the scale: once more, with what the memory shows from there.
        there = project(rollout.memory, found.cameras, rollout.size)
        turned = _aligned(turned, rollout, there, shape, is_static, alignment)
    return replace(turned, notes=(*turned.notes, moved))


def _aligned(
    plain: FittedDepth,
    rollout: Rollout,
    view: MemoryView,
    shape: Geometry,
    is_static: torch.Tensor | None,
    alignment: str,
) -> FittedDepth:
    known = _known(rollout, view, plain.cameras)
    is_known = known.weights > 0 if is_static is None else (known.weights > 0) & is_static
    kind: DepthKind = shape.kind if alignment == AUTO else alignment  # type: ignore[assignment]
    fallback, origin = _fallback(rollout, shape, kind)
    fit = align_depth(
        plain.depth,
        known.depth,
        is_known,
        kind=kind,
        weights=known.weights,
        frame_change=ONE_SCALE if shape.is_one_scale else FRAME_CHANGE,
        fallback=fallback,
    )
    maps = fit.apply(plain.maps)
    # A shift bends planes, and the depth of a cell is that of a plane.
    depth = fit.apply(plain.depth) if fit.kind == "scale" else latent_depth(maps, rollout.size)
    last = fit.last if fit.is_aligned.any() else rollout.depth_fit
    return replace(plain, maps=maps, depth=depth, notes=(fit_in_words(fit, origin),), last_fit=last)


def _fallback(rollout: Rollout, shape: Geometry, kind: DepthKind) -> tuple[tuple[float, float], str]:
    """Scale and shift for a segment that shares nothing with the memory, and in words where they are from."""
    if shape.estimated is not None:
        segment = rollout.next_segment
        frames = list(segment.target_frames)
        if len(shape.estimated) == segment.model_frames:
            frames = list(range(frames[0], frames[0] + segment.model_frames))
        path = rollout.cameras[[min(frame, len(rollout.cameras) - 1) for frame in frames]]
        if len(path) == len(shape.estimated) and moves(path, rollout.unit_length):
            scale = aligning_similarity(shape.estimated, path).scale
            if scale > 0:
                return (scale, 0.0), "scaled by the way the depth model saw the camera go"
    if rollout.depth_fit is not None:
        scale, shift = rollout.depth_fit
        return (scale, 0.0 if kind == "scale" else shift), "fitted as the segment before"
    return (1.0, 0.0), "left as the depth model gave it"


def _known(rollout: Rollout, view: MemoryView, cameras: Cameras) -> Anchors:
    """What the memory says about the depth of the view's cells."""
    if is_rgb(rollout.memory):  # its points are pixels, thinned to one per place: what shows is what is known
        return Anchors(view.depth.cpu().double(), view.is_covered.cpu().double())
    return anchors(rollout.memory, view, cameras)


def fit_in_words(fit: Alignment, origin: str) -> str:
    """One line: scale, shift, how well it fits, and where it had to be guessed; origin: what stood in for a fit."""
    scale = f"depth scaled by {float(fit.scales.mean()):.3f}"
    if fit.kind != "scale":
        scale += f" and shifted by {float(fit.shifts.mean()):.3g}" + (" (disparity)" if "disparity" in fit.kind else "")
    if not fit.is_aligned.any():
        return f"{scale}: no frame shares enough with the memory to fit its depth, it is {origin}"
    residual, share = float(fit.residuals[fit.is_aligned].mean()), float(fit.shares[fit.is_aligned].mean())
    words = f"{scale}, {residual:.1%} off over {share:.0%} of the cells"
    if not fit.is_aligned.all():
        words += f", {int((~fit.is_aligned).sum())} frames fitted like their neighbours for want of overlap"
    return words
