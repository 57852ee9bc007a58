"""From the host's frames, geometry, masks and a memory to the evidence that the core keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional

from ..mirage_core.evidence import (
    SOURCES,
    Evidence,
    doubt_score,
    edge_score,
    far_score,
    in_front_score,
    levels,
    mask_score,
    per_frame,
    thin_score,
    unlike_score,
    working_size,
)
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.masks import area_resampled
from ..mirage_core.parallax import LIKELY_MOVING, moving_score
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView
from .depth_fitting import FittedDepth, fitted_depth
from .geometry import Geometry
from .host_latents import to_normalised
from .segment_maps import at_latent_frames


@dataclass
class _Found:
    """Scores as they come in, and a sentence for each source that could not be asked."""

    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lacks(self, *names: str, why: str) -> None:
        self.notes.append(f"{', '.join(SOURCES[name][1] for name in names)}: not asked, {why}")


def gathered_evidence(
    images: torch.Tensor,
    *,
    geometry: Geometry | None = None,
    memory: Rollout | None = None,
    view: MemoryView | None = None,
    segment: torch.Tensor | None = None,
    sky_mask: torch.Tensor | None = None,
    mover_mask: torch.Tensor | None = None,
) -> Evidence:
    """All that the given sources say about the frames.

    images: [frames height width 3] in [0, 1], on any device.  geometry: of these frames, or of one per latent frame.
    memory: whose next segment these frames are; None for a first picture.  view: what it showed to that segment.
    segment: host samples [1 channels frames rows columns] that the frames were decoded from.
    sky_mask, mover_mask: [frames height width] in [0, 1].

    Raises ValueError for NaN in the images, and for geometry or masks of other frames.
    """
    _check_images(images)
    frames, image_size, found = images.shape[0], (images.shape[1], images.shape[2]), _Found()
    for name, mask in (("sky_mask", sky_mask), ("mover_mask", mover_mask)):
        source = "moving_mask" if name == "mover_mask" else name
        if mask is None:
            found.lacks(source, why=f"nothing is connected to {name}")
        else:
            found.scores[source] = mask_score(mask.cpu(), frames, image_size, name=name)
    if geometry is None:
        found.lacks(
            "sky_model", "sky_far", "unsure_depth", "unsure_edge", "unsure_thin", why="no geometry is connected"
        )
    else:
        _ask_geometry(found, geometry, frames, image_size)
    stride = _ask_memory(found, images.cpu(), geometry, memory, view, segment)
    ordered = {name: found.scores[name] for name in SOURCES if name in found.scores}
    return Evidence(frames, image_size, ordered, tuple(found.notes), stride)


def _ask_geometry(found: _Found, geometry: Geometry, frames: int, image_size: tuple[int, int]) -> None:
    height, width = geometry.depth.shape[1:]
    if abs(width / height - image_size[1] / image_size[0]) > 0.02 * width / height:
        raise ValueError(
            f"The depth map is {width}x{height} and the frames {image_size[1]}x{image_size[0]}: not the same crop. "
            "Estimate the depth from these very frames."
        )
    size = working_size(image_size)

    def keep(name: str, score: torch.Tensor) -> None:
        found.scores[name] = levels(per_frame(score, frames, name="The geometry"))

    if geometry.sky is None:
        found.lacks("sky_model", why="this depth model has no sky (Depth Anything 3 Mono and Metric have one)")
    else:
        keep("sky_model", area_resampled(geometry.sky, size))
    depth = functional.interpolate(geometry.depth[:, None], size, mode="nearest-exact")[:, 0]
    keep("sky_far", far_score(depth))
    if geometry.confidence is None:
        found.lacks("unsure_depth", why="this depth model gives no confidence (Depth Anything 3 Small and Base do)")
    else:
        confidence = functional.interpolate(geometry.confidence[:, None], size, mode="bilinear", align_corners=False)
        keep("unsure_depth", doubt_score(confidence[:, 0]))
    keep("unsure_edge", edge_score(depth))
    half_cell = WAN22.spatial_stride / 2 * size[1] / image_size[1]
    keep("unsure_thin", thin_score(depth, width=max(2, round(half_cell))))


def _ask_memory(
    found: _Found,
    images: torch.Tensor,
    geometry: Geometry | None,
    memory: Rollout | None,
    view: MemoryView | None,
    segment: torch.Tensor | None,
) -> int:
    """Parallax, and what disagrees with the memory. Returns the stride of the frames."""
    asked = ("moving_parallax", "moving_depth", "moving_latents")
    if memory is None:
        found.lacks(*asked, why="no memory is connected (a first picture has none)")
        return 1
    planned = memory.next_segment
    if images.shape[0] not in (planned.model_frames, planned.latent_frames):
        found.lacks(
            *asked,
            why=f"there are {images.shape[0]} frames and the next segment of this memory has {planned.model_frames} "
            f"({planned.latent_frames} latent frames)",
        )
        return 1
    stride = WAN22.temporal_stride if images.shape[0] == planned.latent_frames != planned.model_frames else 1
    if view is None and not is_rgb(memory.memory):
        view = memory.view(planned)
    if view is None:
        found.lacks(*asked, why="a memory of the kind rgb needs its view connected")
    elif view.depth.shape[0] != planned.latent_frames:
        found.lacks(*asked, why=f"the view has {view.depth.shape[0]} frames, the segment {planned.latent_frames}")
    else:
        _ask_view(found, images, geometry, memory, view)
        _ask_latents(found, images, memory, view, segment)
    return stride


def _ask_view(
    found: _Found, images: torch.Tensor, geometry: Geometry | None, memory: Rollout, view: MemoryView
) -> None:
    if geometry is None:
        found.lacks("moving_parallax", "moving_depth", why="no geometry is connected")
        return
    if geometry.depth.shape[0] == 1 < memory.next_segment.latent_frames:
        found.lacks("moving_parallax", "moving_depth", why="there is one depth map for the whole segment")
        return
    fitted = fitted_depth(memory, view, geometry, None)
    found.notes.extend(fitted.notes)
    is_covered = view.is_covered.cpu()
    in_front = in_front_score(fitted.depth, view.depth.cpu(), is_covered)
    # Cells that show no point of the memory show the layer of movers.
    is_still = is_covered & (view.point_index.cpu() >= 0) & (in_front < 0.5)
    _ask_parallax(found, images, fitted, memory, is_still)
    found.scores["moving_depth"] = _of_cells(in_front, images)


def _ask_parallax(
    found: _Found, images: torch.Tensor, fitted: FittedDepth, memory: Rollout, is_still: torch.Tensor
) -> None:
    """is_still: [frames rows columns] bool, where the memory shows what is filmed."""
    pictures = at_latent_frames(images, memory.next_segment, "images")
    moving = moving_score(pictures, fitted.maps, fitted.cameras, step=1, is_still=is_still)
    wavering, likely = float(moving.wavering.median()), float(moving.likely.median())
    if likely > LIKELY_MOVING:
        found.notes.append(
            f"parallax: what is remembered to stand still wavers by {wavering:.1f} of {moving.score.shape[2]} pixels, "
            f"in this film or by its depth; only what moves by {likely:.1f} or more is taken for a mover"
        )
    size = working_size((images.shape[1], images.shape[2]))
    score = functional.interpolate(moving.score[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    found.scores["moving_parallax"] = levels(per_frame(score, images.shape[0], name="parallax"))


def _ask_latents(
    found: _Found, images: torch.Tensor, memory: Rollout, view: MemoryView, segment: torch.Tensor | None
) -> None:
    if segment is None:
        found.lacks("moving_latents", why="nothing is connected to segment")
        return
    latents = to_normalised(segment, memory.grid).cpu()
    if latents.shape != view.latents.shape:
        found.lacks(
            "moving_latents",
            why=f"the segment has {list(latents.shape)} latents and the view {list(view.latents.shape)}",
        )
        return
    found.scores["moving_latents"] = _of_cells(unlike_score(latents, view.latents.cpu(), view.is_covered.cpu()), images)


def _of_cells(score: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """uint8 of the frames' working size from scores [latent_frames rows columns] of latent cells."""
    size = working_size((images.shape[1], images.shape[2]))
    score = functional.interpolate(score[:, None].float(), size, mode="nearest-exact")[:, 0]
    return levels(per_frame(score, images.shape[0], name="the view"))


def _check_images(images: torch.Tensor) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"The images have shape {list(images.shape)}; they are [frames height width 3], not empty.")
    if not torch.isfinite(images).all():
        raise ValueError("The images contain NaN or infinite pixels. Check the precision of the node that made them.")
