"""A whole flight without a host: what the nodes do segment by segment, with depth and masks of a world, or a model's.

For measuring (benchmarks/closed_loop.py) and for making the imperfect latents that an adapter is trained to live with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from mirage_core.alignment import align_depth
from mirage_core.anchors import Anchors, anchors
from mirage_core.between_cells import between_cells
from mirage_core.camera import Cameras, fov_degrees
from mirage_core.depth import latent_depth
from mirage_core.fusion import fused
from mirage_core.latent_grid import WAN22, CellRule, LatentGrid
from mirage_core.masks import latent_frame_mask, latent_mask
from mirage_core.memory import LatentMemory
from mirage_core.references import default_voxel_size, select_references, shown_voxels
from mirage_core.rgb_memory import PIXELS, cell_view, is_rgb, lift_pixels, pixel_depth, render, thinned
from mirage_core.rollout import Rollout
from mirage_core.segments import Segment
from mirage_core.side_branch import Layout, branch_context
from mirage_core.zbuffer import MemoryView

from .moge import MoGe
from .moge_depth import seen_depth
from .nano_films import Codec
from .nano_sampling import sampled
from .wan_memory import WanWithMemory
from .worlds import Frames

_NEW = slice(1, None)
_NOISE_SIZE = (4, 4)  # rows and columns of the random field that makes depth wrong


@dataclass(frozen=True)
class Way:
    """How a flight remembers.

    memory: of latents, of colours, or none at all.  has_branch: the side branch, references and preceding frames act.
    guidance: strength of training-free guidance, in [0, 1].
    is_even: guidance pulls cells of a memory of latents to a mix of the points around, as the nodes do.
    is_masked: movers and sky stay out of the memory.
    depth: exact, or what the pilot's depth model sees in the film; movers are exact in both.
    depth_noise: standard deviation of log depth, of each frame's scale and of wide patches, for exact depth.
    is_aligned: new depth is scaled to the memory.
    """

    memory: Literal["latent", "rgb", "none"] = "latent"
    has_branch: bool = True
    guidance: float = 0.0
    is_even: bool = True
    is_masked: bool = True
    cell_rule: CellRule = "center"
    depth: Literal["exact", "model"] = "exact"
    depth_noise: float = 0.0
    is_aligned: bool = False
    max_references: int = 4
    max_preceding: int = 2


@dataclass(frozen=True)
class Pilot:
    """Who films: the model with its branch (a LoRA is attached to the model or not), its text, and the sampling.

    text: [1 words text_dim].  guide_until: noise level above which guidance pulls. At 0 it does in all steps, which
    small models need: left alone in the last steps, they blur what the memory held.
    depth_model: for ways with depth "model".
    """

    together: WanWithMemory
    text: torch.Tensor
    codec: Codec
    layout: Layout = "hole_mask"
    steps: int = 8
    guide_until: float = 0.0
    depth_model: MoGe | None = None


@dataclass(frozen=True)
class Flown:
    """rollout: the finished film.  is_covered: [latent_frames rows columns] what the memory knew of each.
    seconds: per segment, all but depth and decoding; on a CPU processor time, which neighbours disturb less."""

    rollout: Rollout
    is_covered: torch.Tensor
    seconds: tuple[float, ...]


def fly(pilot: Pilot, frames: Frames, way: Way, *, seed: int) -> Flown:
    """A film along the cameras of `frames` from the first of them; the others only lend depth and masks.

    frames: 4n+1 rendered frames.  seed: of noise and of the errors of depth.
    """
    world2first = torch.linalg.inv(frames.cameras.cam2world[0])
    frames = replace(frames, cameras=frames.cameras.moved(world2first))
    generator = torch.Generator().manual_seed(seed)
    truth = _Truth.of(frames, way, generator)
    grid = LatentGrid(cell_rule=way.cell_rule)
    first = pilot.codec.encode(frames.rgb[:1])
    memory = LatentMemory.empty(PIXELS if way.memory == "rgb" else grid)
    rollout = Rollout.started(memory, first, frames.cameras, grid=grid)
    scale = 1.0
    if way.memory != "none":
        known = truth.of_segment(Segment(0, range(1), 1, (0,)))
        if way.depth == "model":
            exact, known = known, known.seen(pilot, frames.rgb[:1], rollout.cameras[:1])
            # A film has the scale of its first depth; this path was made in that of the world.
            is_seen = (known.depth > 0) & (exact.depth > 0)
            scale = float((exact.depth / known.depth)[is_seen].median())
            known = known.scaled(scale)
        memory = _written(rollout, first, frames.rgb[:1], known, way, rollout.cameras[:1], 0)
        rollout = replace(rollout, memory=memory)
    covered, seconds = [torch.ones(1, *rollout.size, dtype=torch.bool)], []
    is_on_cpu = next(pilot.together.model.parameters()).device.type == "cpu"
    clock = time.process_time if is_on_cpu else time.perf_counter
    for segment in rollout.plan:
        begin = clock()
        view = _seen(rollout, segment, pilot.codec, way)
        latents = _filmed(pilot, rollout, view, way, generator)
        seconds.append(clock() - begin)
        grown = rollout.memory
        if way.memory != "none":
            known, cameras = truth.of_segment(segment), rollout.cameras_of(segment)
            needs_pictures = way.memory == "rgb" or way.depth == "model"
            pictures = _decoded(pilot, rollout, latents) if needs_pictures else None
            if way.depth == "model":
                known = known.seen(pilot, pictures, cameras).scaled(scale)
            if way.is_aligned:
                known = known.aligned(rollout.memory, view, cameras)
            known = known.without_overlap()
            pictures = None if pictures is None else pictures[_NEW]
            begin = clock()
            grown = _written(rollout, latents[:, _NEW], pictures, known, way, cameras[_NEW], rollout.film.shape[1])
            seconds[-1] += clock() - begin
        covered.append(view.is_covered[_NEW])
        rollout = rollout.extended(latents, view, memory=grown)
    return Flown(rollout, torch.cat(covered), tuple(seconds))


@dataclass(frozen=True)
class _Truth:
    """What depth model and masks say, per latent frame: depth and is_static of pixels [frames H W] and of cells."""

    depth: torch.Tensor
    cells: torch.Tensor
    is_static: torch.Tensor
    is_static_cell: torch.Tensor

    @staticmethod
    def of(frames: Frames, way: Way, generator: torch.Generator) -> _Truth:
        every = slice(None, None, WAN22.temporal_stride)
        depth = torch.where(frames.is_sky, 0.0, frames.depth)[every]
        if way.depth_noise:
            scales = way.depth_noise * torch.randn(len(depth), 1, 1, generator=generator)
            scales[0] = 0
            # A depth model's errors are wide: noise of single pixels would leave no cell with a surface.
            coarse = torch.randn(len(depth), 1, *_NOISE_SIZE, generator=generator)
            wide = torch.nn.functional.interpolate(coarse, depth.shape[1:], mode="bicubic")[:, 0]
            depth = depth * (scales + way.depth_noise * wide).exp()
        size = WAN22.size_of(frames.cameras.image_size)
        is_excluded = latent_frame_mask(frames.is_mover | frames.is_sky, WAN22)
        return _Truth(depth, latent_depth(depth, size), ~frames.is_mover[every], latent_mask(is_excluded, size))

    def of_segment(self, segment: Segment) -> _Truth:
        return self._at([frame // WAN22.temporal_stride for frame in segment.target_frames])

    def without_overlap(self) -> _Truth:
        return self._at(list(range(1, len(self.depth))))

    def _at(self, index: list[int]) -> _Truth:
        return _Truth(self.depth[index], self.cells[index], self.is_static[index], self.is_static_cell[index])

    def seen(self, pilot: Pilot, pictures: torch.Tensor | None, cameras: Cameras) -> _Truth:
        """The same masks with the depth that the pilot's model sees in pictures [frames H W 3]."""
        assert pilot.depth_model is not None and pictures is not None
        fov = fov_degrees(cameras.intrinsics[0], cameras.image_size)
        depth = seen_depth(pilot.depth_model, pictures, fov)
        return replace(self, depth=depth, cells=latent_depth(depth, WAN22.size_of(cameras.image_size)))

    def scaled(self, factor: float) -> _Truth:
        return replace(self, depth=self.depth * factor, cells=self.cells * factor)

    def aligned(self, memory: LatentMemory, view: MemoryView, cameras: Cameras) -> _Truth:
        """Scaled to what the memory says about its view from these cameras, as Write Memory does it."""
        shown = Anchors(view.depth, view.is_covered.to(view.depth))
        known = shown if is_rgb(memory) else anchors(memory, view, cameras)
        is_compared = (known.weights > 0) & self.is_static_cell
        fit = align_depth(self.cells, known.depth, is_compared, weights=known.weights)
        return replace(self, depth=fit.apply(self.depth), cells=fit.apply(self.cells))


def _written(
    rollout: Rollout, latents, pictures, known: _Truth, way: Way, cameras: Cameras, first_index: int
) -> LatentMemory:
    """The memory with new latent frames in it. pictures: [frames H W 3], one per latent frame, for colours."""
    if way.memory == "rgb":
        assert pictures is not None
        depth = pixel_depth(known.depth, cameras.image_size)
        is_static = known.is_static if way.is_masked else None
        block = lift_pixels(pictures, depth, cameras, is_static=is_static, first_latent_index=first_index)
        return rollout.memory.extended(thinned(block, rollout.memory))
    fusion = fused(
        rollout.memory,
        latents,
        known.cells,
        cameras,
        is_static=known.is_static_cell if way.is_masked else None,
        first_latent_index=first_index,
        filmed_cameras=rollout.cameras[:: WAN22.temporal_stride],
        features=None,
    )
    return fusion.memory


def _seen(rollout: Rollout, segment: Segment, codec: Codec, way: Way) -> MemoryView:
    if way.memory != "rgb":
        return rollout.view(segment)
    rendered = render(rollout.memory, rollout.pixel_cameras_of(segment))
    return cell_view(rendered, codec.encode(rendered.pictures), WAN22)


def _decoded(pilot: Pilot, rollout: Rollout, latents: torch.Tensor) -> torch.Tensor:
    """[frames H W 3] the newest pixel frame of each latent frame, decoded behind what came before the segment."""
    before = rollout.film[:, -3:]
    pictures = pilot.codec.decode(torch.cat([before, latents[:, _NEW]], dim=1))
    return pictures[:: WAN22.temporal_stride][before.shape[1] - 1 :]


def _filmed(pilot: Pilot, rollout: Rollout, view: MemoryView, way: Way, generator: torch.Generator) -> torch.Tensor:
    """[48 frames rows columns] the next segment."""
    together = pilot.together
    device = next(together.model.parameters()).device
    company: dict[str, torch.Tensor | None] = {}
    if way.has_branch and together.branch is not None:
        company = _company(rollout, view, way, pilot.layout)
        company = {name: None if one is None else one[None].to(device) for name, one in company.items()}
    guide = None
    if way.guidance:
        wanted = view
        if way.is_even and way.memory == "latent":
            wanted = between_cells(view, rollout.memory, rollout.cameras_of(rollout.next_segment))
        guide = partial(_pulled, wanted, way.guidance, pilot.guide_until)
    noise = torch.randn(1, *view.latents.shape[:1], len(view.is_covered), *rollout.size, generator=generator)
    text = pilot.text.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        made = sampled(
            lambda latents, times: together(latents, times, text, **company).float(),
            rollout.overlap[None].to(device),
            noise.to(device),
            steps=pilot.steps,
            guide=guide,
        )
    return made[0].float().cpu()


def _pulled(view: MemoryView, strength: float, until: float, clean: torch.Tensor, level: float) -> torch.Tensor:
    if level < until:
        return clean
    weight = strength * view.is_covered.to(clean)[None, None]
    return clean + weight * (view.latents.to(clean)[None] - clean)


def _company(rollout: Rollout, view: MemoryView, way: Way, layout: Layout) -> dict[str, torch.Tensor | None]:
    """References, preceding frames and what the branch reads, chosen as the nodes choose them."""
    preceding = rollout.preceding(way.max_preceding)
    views = [view] if preceding is None else [view, preceding[1]]
    latents = torch.cat([one.latents.float() for one in views], dim=1)
    is_covered = torch.cat([one.is_covered for one in views])
    return {
        "context": branch_context(latents, is_covered, layout),
        "references": _references(rollout, way, 0 if preceding is None else preceding[0].shape[1]),
        "preceding": None if preceding is None else preceding[0],
    }


def _references(rollout: Rollout, way: Way, preceding: int) -> torch.Tensor | None:
    memory, film = rollout.landmarks, rollout.film
    if way.max_references < 1 or not memory.blocks:
        return None
    cameras = Cameras.joined([rollout.filmed_cameras(), rollout.cameras_of(rollout.next_segment)])
    seen = shown_voxels(memory, cameras, rollout.size, voxel_size=default_voxel_size(memory))
    count = film.shape[1]
    chosen = select_references(
        seen[count:], seen[:count], max_references=way.max_references, excluded=range(count - 1 - preceding, count)
    )
    return film[:, chosen] if chosen else None
