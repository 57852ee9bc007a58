"""A memory of coloured points at pixel resolution: the kind that RGB-trained weights (Spatia) read, and our rival.

It is a LatentMemory on the pixel grid: the "latents" of a point are its red, green and blue in [0, 1]. So the same
lift(), the same z-buffer and the same file format serve it. What it needs besides lives here: depth per pixel without
flying points, thinning by voxels, rendering every pixel frame of a segment, and what a render covers per latent cell.
Turning a render into latents takes the VAE, which belongs to the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as functional

from .camera import Cameras
from .latent_grid import LatentGrid
from .memory import LatentMemory, MemoryBlock, lift
from .zbuffer import MemoryView, project

PIXELS = LatentGrid(channels=3, spatial_stride=1)

MAX_HOLE_SHARE = 0.1  # of a latent cell's pixels: with more black in it, its latent says nothing about the place
_EDGE_STEP = math.log(1.05)  # of log depth from pixel to pixel: a depth model smears a step of 16 % over 3 pixels
_STRAIGHT_STEPS = 7  # a floor towards the horizon is straight in inverse depth for longer than a smeared edge
_BEND = 0.25  # share by which steps on one plane may differ
_PATCH = 1.5  # pixels: patches of pixels that different frames kept do not meet exactly, and a gap would be black
_FRAMES_AT_ONCE = 4  # rendered together: bounds the memory needed to some 0.3 GB at 704 x 1280
_AXIS_BITS = 19
_LEVELS = 64
_FIELDS = tuple(one.name for one in fields(MemoryBlock) if one.name != "is_locked")
_SAMPLED_SHARE = 64  # one of so many pixels stands for a latent cell of 16 x 16: each cell is hit 4 times


@dataclass(frozen=True)
class Render:
    """What an RGB memory shows to some cameras.

    pictures: [frames H W 3] float32 in [0, 1], black where nothing is known.
    is_covered: [frames H W] bool.  depth: [frames H W] z-depth, 0 where nothing is known.
    point_index: [frames H W] int64, index of the point in the memory, -1 where nothing is known.
    """

    pictures: torch.Tensor
    is_covered: torch.Tensor
    depth: torch.Tensor
    point_index: torch.Tensor


def is_rgb(memory: LatentMemory) -> bool:
    """True when the memory holds colours of pixels and not latents."""
    return memory.grid.spatial_stride == 1


def pixel_depth(depth: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Depth per pixel, without the pixels at depth edges, whose depth belongs to no surface.

    depth: [frames H W], any size; not finite or <= 0 is unknown.  image_size: (height, width) in pixels.
    Returns [frames height width] float32; 0 = unknown, or at an edge. Inverse depth is resampled, in which planes are
    straight, and never across an edge or the border of the unknown.
    """
    depth = _without_edges(depth.float())
    if tuple(depth.shape[1:]) == tuple(image_size):
        return depth
    is_known = depth > 0
    inverse = torch.where(is_known, 1 / depth, 0.0)
    maps = torch.stack([inverse, is_known.float()], dim=1)
    inverse, share = functional.interpolate(maps, image_size, mode="bilinear", align_corners=False).unbind(1)
    is_whole = share > 1 - 1e-4  # every pixel that was mixed is known; the weights sum to 1 up to rounding
    return _without_edges(torch.where(is_whole, 1 / inverse, 0.0))


def lift_pixels(
    pictures: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras,
    *,
    is_static: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    first_latent_index: int = 0,
) -> MemoryBlock:
    """Pixels as coloured points of the world.

    pictures: [frames H W 3] in [0, 1].  depth: [frames H W] from pixel_depth(); 0 does not enter.
    cameras: one per frame.  is_static, confidence, first_latent_index: as for memory.lift(), per pixel.
    The patch of a point is half as wide again as its pixel; where patches overlap, the nearer sample shows.
    Raises ValueError when the shapes do not belong together.
    """
    # Half precision is finer than 8 bits everywhere in [0, 1], and half the size.
    colors = pictures.movedim(-1, 0).half()
    parts = []
    for frame in range(colors.shape[1]):  # one at a time: lifting needs some 200 bytes per pixel
        at = slice(frame, frame + 1)
        parts.append(
            lift(
                colors[:, at],
                depth[at],
                cameras[[frame]],
                PIXELS,
                is_static=None if is_static is None else is_static[at],
                confidence=None if confidence is None else confidence[at],
                first_latent_index=first_latent_index + frame,
            )
        )
    block = MemoryBlock(**{name: torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS})
    return replace(block, footprints=block.footprints * _PATCH, sides=block.sides * _PATCH)


def thinned(block: MemoryBlock, memory: LatentMemory) -> MemoryBlock:
    """The points of `block` in whose voxel nothing was remembered before, neither in `memory` nor by an earlier frame
    of the block.

    Voxels are 1/2 to 1 footprint wide (see voxel_keys), so a place is kept once per octave of resolution. Points of one
    frame do not displace each other: together they tile the surface, and any one less would be a hole.
    The result keeps the block's order and depends on no thread count.
    """
    if len(block) == 0:
        return block
    keys = voxel_keys(block)
    order = torch.argsort(keys, stable=True)
    places, count = torch.unique_consecutive(keys[order], return_counts=True)
    # Points come frame by frame, so the first of a voxel is of the voxel's earliest frame.
    first_frame = block.latent_index[order[count.cumsum(0) - count]]
    first_frame[_holds(places, memory)] = -1
    place = torch.empty_like(order)
    place[order] = torch.repeat_interleave(count)
    is_kept = block.latent_index == first_frame[place]
    return block.chosen(is_kept.nonzero()[:, 0])


def voxel_keys(block: MemoryBlock) -> torch.Tensor:
    """[n] int64, one number per voxel and level. A point's voxel is as wide as the greatest power of two that is not
    above its footprint (in world units); that power is its level.

    Voxels 2^19 apart share a number: 0.5 km for footprints of 1 mm.
    """
    level = torch.frexp(block.footprints.float()).exponent - 1
    keys = level.long() % _LEVELS
    for axis in range(3):
        cell = torch.ldexp(block.points[:, axis].float(), -level).floor().long()
        keys = (keys << _AXIS_BITS) | (cell & ((1 << _AXIS_BITS) - 1))
    return keys


def render(memory: LatentMemory, cameras: Cameras) -> Render:
    """Every camera's picture from an RGB memory, at the pixel resolution of cameras.image_size.

    cameras: one per pixel frame. The surfaces are those of zbuffer.project(), with every pixel as a cell.
    Raises ValueError when the memory holds latents.
    """
    if not is_rgb(memory):
        raise ValueError(
            f"This memory holds latents of {memory.grid.channels} channels, not colours. Read it with project(), or "
            "start it with the kind rgb."
        )
    pictures, is_covered, depth, point_index = [], [], [], []
    for start in range(0, len(cameras), _FRAMES_AT_ONCE):
        view = project(memory, cameras[start : start + _FRAMES_AT_ONCE], cameras.image_size)
        pictures.append(view.latents.float().movedim(0, -1))
        is_covered.append(view.is_covered)
        depth.append(view.depth)
        point_index.append(view.point_index)
    return Render(*(torch.cat(parts) for parts in (pictures, is_covered, depth, point_index)))


def cell_view(
    rendered: Render, latents: torch.Tensor, grid: LatentGrid, *, hole_latents: torch.Tensor | None = None
) -> MemoryView:
    """A render as the view of a segment on the latent grid.

    rendered: of all pixel frames that the latent frames cover, 4n+1.
    latents: [channels frames rows columns] the pictures encoded, normalised.  hole_latents: the hole map encoded.
    grid: of the latents.

    The latents stay as the VAE gave them, also where they encode black: is_covered says which cells count, those of
    whose pixels, over all frames of the latent frame, at most MAX_HOLE_SHARE are holes. Depth and point are those in
    the middle of the cell in the last of these frames; depth is 0 where the cell is not covered.
    Raises ValueError when the latents are not those of this render.
    """
    is_hole = ~rendered.is_covered
    share = _cell_means(is_hole, grid)
    share = torch.cat([share[:1], share[1:].unflatten(0, (-1, grid.temporal_stride)).mean(1)])
    if latents.shape[1:] != share.shape:
        raise ValueError(
            f"The encoded render has shape {list(latents.shape)}; {list(share.shape)} frames, rows and columns belong "
            f"to {len(is_hole)} pictures of {list(is_hole.shape[1:])}. Connect the VAE that belongs to the model."
        )
    is_covered = share <= MAX_HOLE_SHARE
    last = slice(None, None, grid.temporal_stride)
    return MemoryView(
        latents=latents,
        is_covered=is_covered,
        depth=torch.where(is_covered, _central_depth(rendered.depth[last], grid), 0.0),
        point_index=_central(rendered.point_index[last], grid)[..., -1],
        hole_latents=hole_latents,
    )


def sampled(memory: LatentMemory, grid: LatentGrid) -> LatentMemory:
    """Few points of an RGB memory, each with a patch the size of a latent cell: enough to tell who saw which place.

    grid: the latent grid whose cells the patches shall match.
    """
    blocks = []
    for block in memory.blocks:
        index = torch.arange(len(block), device=block.points.device)
        # A fixed step would pick columns of pixels; the golden ratio's multiples are spread evenly and are no grid.
        is_chosen = (index * 0x9E3779B1 >> 16) % _SAMPLED_SHARE == 0
        chosen = block.chosen(is_chosen.nonzero()[:, 0])
        if len(chosen):
            scale = grid.spatial_stride / _PATCH
            blocks.append(replace(chosen, footprints=chosen.footprints * scale, sides=chosen.sides * scale))
    return LatentMemory(memory.grid, tuple(blocks))


def _without_edges(depth: torch.Tensor) -> torch.Tensor:
    """depth [frames H W] with 0 for what is unknown and on both sides of a step that no plane explains."""
    is_known = depth.isfinite() & (depth > 0)
    inverse = torch.where(is_known, 1 / depth, torch.nan)
    for dim in (1, 2):
        step = inverse.diff(dim=dim)
        is_step = inverse.log().diff(dim=dim).abs() > _EDGE_STEP
        is_edge = is_step & ~_is_straight(step, dim)
        height_or_width = depth.shape[dim]
        is_known.narrow(dim, 1, height_or_width - 1)[is_edge] = False
        is_known.narrow(dim, 0, height_or_width - 1)[is_edge] = False
    return torch.where(is_known, depth, 0.0)


def _is_straight(step: torch.Tensor, dim: int) -> torch.Tensor:
    """True where the _STRAIGHT_STEPS steps [frames H W] around along `dim` are alike; a NaN is like nothing."""
    kernel = (_STRAIGHT_STEPS, 1) if dim == 1 else (1, _STRAIGHT_STEPS)
    padding = (kernel[0] // 2, kernel[1] // 2)
    greatest = functional.max_pool2d(step[:, None], kernel, 1, padding)[:, 0]
    least = -functional.max_pool2d(-step[:, None], kernel, 1, padding)[:, 0]
    return greatest - least <= _BEND * step.abs()


def _holds(places: torch.Tensor, memory: LatentMemory) -> torch.Tensor:
    """[n] bool for sorted unique voxel keys [n]: True where the memory has a point in the voxel."""
    is_held = torch.zeros(len(places), dtype=torch.bool, device=places.device)
    for block in memory.blocks:
        keys = voxel_keys(block).to(places.device)
        at = torch.searchsorted(places, keys).clamp_(max=len(places) - 1)
        is_held[at[places[at] == keys]] = True
    return is_held


def _cells(maps: torch.Tensor, grid: LatentGrid) -> torch.Tensor:
    """[frames H W] -> [frames rows stride columns stride], a view."""
    stride = grid.spatial_stride
    return maps.unflatten(2, (-1, stride)).unflatten(1, (-1, stride))


def _cell_means(is_true: torch.Tensor, grid: LatentGrid) -> torch.Tensor:
    """[frames rows columns] float32: the share of each cell's pixels [frames H W] that are True."""
    return torch.stack([_cells(frame[None].float(), grid).mean((2, 4))[0] for frame in is_true])


def _central(maps: torch.Tensor, grid: LatentGrid) -> torch.Tensor:
    """[frames rows columns n]: the n (4, or 1 for an odd stride) pixels around each cell's centre."""
    stride = grid.spatial_stride
    middle = slice((stride - 1) // 2, stride // 2 + 1)
    return _cells(maps, grid)[:, :, middle, :, middle].transpose(2, 3).flatten(3)


def _central_depth(depth: torch.Tensor, grid: LatentGrid) -> torch.Tensor:
    """Depth [frames rows columns] at the cells' centres; 0 where a pixel around the centre is unknown."""
    around = _central(depth, grid)
    inverse = (1 / around).mean(-1)  # infinite where one is 0; planes are straight in inverse depth
    return 1 / inverse
