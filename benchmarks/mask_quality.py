"""How well each source of evidence, and all together, find exact movers and sky; and what ghosts the memory keeps.

python -m benchmarks.mask_quality [--threads 2]

Procedural worlds with six movers, nine latent frames of one segment. Depth is wrong by an unknown scale and 3 % of
smooth noise, and fitted to a memory of the first frame. "mask" stands for a segmentation model: the truth with its
outline off by two pixels, missing altogether in one frame of nine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from benchmarks.reporting import print_table, save_results, threads_asked_for
from mirage_core.alignment import align_depth
from mirage_core.depth import latent_depth
from mirage_core.evidence import (
    SOURCES,
    Evidence,
    far_score,
    in_front_score,
    levels,
    mask_score,
    unlike_score,
    working_size,
)
from mirage_core.latent_grid import WAN22
from mirage_core.mask_rules import MaskRules, derived_cells, derived_mask
from mirage_core.mask_shapes import grown
from mirage_core.masks import area_resampled
from mirage_core.memory import LatentMemory, lift
from mirage_core.parallax import moving_score
from mirage_core.zbuffer import project
from training.worlds import Frames, World, random_flight

TITLE = "Masks against exact movers and sky: IoU per source, and points of the memory that lie on movers"
WORLDS = (("plaza", 1), ("plaza", 2), ("plaza", 5), ("room", 1))
DEPTH_NOISE, DEPTH_SCALE = 0.03, 1.7


@dataclass(frozen=True)
class Segment:
    """What was filmed, its evidence, and depth and latents at the latent cells, as Write Memory has them."""

    frames: Frames
    evidence: Evidence
    depth: torch.Tensor
    latents: torch.Tensor


def filmed(kind: str, seed: int, image_size: tuple[int, int]) -> Frames:
    """The frames that nine latent frames end with, of a world with six movers."""
    world = getattr(World, kind)(seed, movers=6)
    flight = random_flight(world, seed, frames=33, image_size=image_size)
    return world.render(flight.cameras[::4], flight.times[::4], supersampling=2)


def segment_of(frames: Frames) -> Segment:
    generator = torch.Generator().manual_seed(0)
    image_size = frames.cameras.image_size
    size = WAN22.size_of(image_size)
    error = torch.randn(9, 1, 8, 12, generator=generator) * DEPTH_NOISE
    error = functional.interpolate(error, image_size, mode="bicubic")[:, 0]
    depth = frames.depth * (1 + error) * DEPTH_SCALE
    latents = patch_latents(frames.rgb)
    first = latent_depth(frames.depth[:1], size)
    is_still = area_resampled(frames.is_mover[:1], size) == 0
    memory = LatentMemory.empty(WAN22).extended(
        lift(latents[:, :1], first, frames.cameras[[0]], WAN22, is_static=is_still)
    )
    view = project(memory, frames.cameras, size)
    fit = align_depth(latent_depth(depth, size), view.depth, view.is_covered)
    depth = fit.apply(depth)
    at_cells = latent_depth(depth, size)
    working = working_size(image_size)

    def of_cells(score: torch.Tensor) -> torch.Tensor:
        return levels(functional.interpolate(score[:, None], working, mode="nearest-exact")[:, 0])

    in_front = in_front_score(at_cells, view.depth, view.is_covered)
    parallax = moving_score(
        frames.rgb, depth, frames.cameras, step=1, is_still=view.is_covered & (in_front < 0.5)
    ).score
    scores = {
        "sky_mask": mask_score(_as_segmented(frames.is_sky), 9, image_size, name="sky"),
        "sky_far": levels(far_score(functional.interpolate(depth[:, None], working, mode="nearest-exact")[:, 0])),
        "moving_mask": mask_score(_as_segmented(frames.is_mover), 9, image_size, name="movers"),
        "moving_parallax": levels(functional.interpolate(parallax[:, None], working, mode="bilinear")[:, 0]),
        "moving_depth": of_cells(in_front),
        "moving_latents": of_cells(unlike_score(latents, view.latents, view.is_covered)),
    }
    return Segment(frames, Evidence(9, image_size, scores, stride=4), at_cells, latents)


def patch_latents(pictures: torch.Tensor) -> torch.Tensor:
    """[48 frames rows columns] in place of a VAE's latents: 4 x 4 mean colours of each cell."""
    frames, height, width = pictures.shape[:3]
    pooled = functional.avg_pool2d(pictures.movedim(-1, 1), 4)
    cells = functional.pixel_unshuffle(pooled, 4)
    return cells.view(frames, 48, height // 16, width // 16).movedim(1, 0) * 4 - 2


def found_by(segment: Segment, names: list[str]) -> torch.Tensor:
    """[frames H W] bool: what sources of these names exclude; nothing is grown, since outlines are compared."""
    rules = MaskRules(grow=0, hold=0, weights={name: float(name in names) for name in SOURCES})
    excluded = derived_mask(segment.evidence, rules).excluded > 127
    return area_resampled(excluded, segment.frames.cameras.image_size) > 0.5


def ghosts(segment: Segment, rules: MaskRules | None) -> tuple[float, float]:
    """Share of the points written from the new latent frames that lie on movers, and share of still cells written."""
    size = segment.depth.shape[1:]
    is_ghost = area_resampled(segment.frames.is_mover, (size[0], size[1]))[1:] > 0.5
    is_static = torch.ones_like(segment.depth, dtype=torch.bool)
    if rules is not None:
        mask = derived_mask(segment.evidence, rules)
        is_static = derived_cells(mask, (size[0], size[1]), stride=4).is_static
    is_written = (is_static & (segment.depth > 0))[1:]
    can_be = (segment.depth[1:] > 0) & ~is_ghost
    return (
        float((is_written & is_ghost).sum() / is_written.sum().clamp_min(1)),
        float((is_written & can_be).sum() / can_be.sum().clamp_min(1)),
    )


def iou(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp_min(1))


def _as_segmented(mask: torch.Tensor) -> torch.Tensor:
    segmented = grown(mask, 2)
    segmented[4] = False
    return segmented


def main() -> None:
    threads_asked_for(__doc__ or "")
    rows = []
    for kind, seed in WORLDS:
        segment = segment_of(filmed(kind, seed, (352, 640)))
        sky, movers = segment.frames.is_sky, segment.frames.is_mover
        named = {"sky: mask": ["sky_mask"], "sky: infinity": ["sky_far"], "sky: both": ["sky_mask", "sky_far"]}
        row: dict = {"world": f"{kind} {seed}", "movers": f"{float(movers.float().mean()):.1%}"}
        row |= {what: iou(found_by(segment, names), sky) if sky.any() else "-" for what, names in named.items()}
        named = {"mask": ["moving_mask"], "parallax": ["moving_parallax"], "in front": ["moving_depth"],
                 "unlike": ["moving_latents"], "mask + parallax": ["moving_mask", "moving_parallax"]}  # fmt: skip
        row |= {f"movers: {what}": iou(found_by(segment, names), movers) for what, names in named.items()}
        for what, rules in (("no mask", None), ("parallax", only("moving_parallax")), ("all", MaskRules())):
            ghost, kept = ghosts(segment, rules)
            row |= {f"ghosts, {what}": f"{ghost:.2%}", f"kept, {what}": f"{kept:.0%}"}
        rows.append(row)
        print_table([row])
    save_results("mask_quality", TITLE, rows)


def only(*names: str) -> MaskRules:
    """The default rules, listening to these movers only."""
    return MaskRules(weights={name: float(name in names) for name, (kind, _) in SOURCES.items() if kind == "moving"})


if __name__ == "__main__":
    main()
