"""What may be remembered: from masks and scores per pixel to is_static per latent cell.

Two words are used throughout. `is_excluded` per pixel, True (or 1) where something must NOT enter the memory: movers,
sky, unsure depth, whatever a person painted. `is_static` per latent cell, True where the cell may enter. Soft masks in
[0, 1] are shares of a pixel. Where the scores come from (models, flow) and how a mask is shown is not done here.
"""

from __future__ import annotations

import math

import torch

from .latent_grid import LatentGrid
from .mask_shapes import grown

VAE_REACH_CELLS = 1  # a pixel of a mover visibly changes the latents of its own cell and of the eight around it


def latent_mask(
    is_excluded: torch.Tensor, size: tuple[int, int], *, max_share: float = 0.1, grow_cells: int = VAE_REACH_CELLS
) -> torch.Tensor:
    """Which latent cells may be remembered: not those of whose area more than `max_share` is excluded, nor the cells
    within `grow_cells` of these.

    is_excluded: [frames H W] bool or float in [0, 1], of any size; it is stretched over the grid. NaN counts as 1.
    size: (rows, columns) of the latent grid.
    max_share: in [0, 1). 0 excludes a cell that is touched at all.
    grow_cells: an excluded cell also excludes the cells up to this many steps away, diagonals included, because the
        VAE mixes neighbours; 0 for masks that describe geometry (depth edges) and not appearance.
    Returns is_static [frames rows columns] bool, True = may be remembered.

    Raises ValueError for a wrong shape, values outside [0, 1], max_share outside [0, 1), grow_cells < 0.
    """
    if not 0 <= max_share < 1:
        raise ValueError(f"max_share is {max_share}; it is a share of a cell's area, at least 0 and below 1.")
    share = area_resampled(is_excluded, size)
    # The area weights of a cell sum to 1 only up to float32 rounding.
    return ~grown(share > max_share + 1e-5, grow_cells)


def area_resampled(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[frames rows columns] float32 in [0, 1]: the mean of `mask` over the area of each cell, exact for any two sizes.

    mask: [frames H W] bool or float in [0, 1]; NaN counts as 1, since what is unknown must not be remembered.
    """
    _check_mask(mask, "The mask")
    values = mask.float().nan_to_num(1.0)
    rows = _area_weights(mask.shape[1], size[0]).to(values.device)
    columns = _area_weights(mask.shape[2], size[1]).to(values.device)
    return (rows @ values @ columns.T).clamp(0, 1)


def union(masks: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
    """Everything that any of `masks` excludes, [frames H W] float32 in [0, 1] of `image_size` = (H, W).

    masks: each [frames H W] or [1 H W] (the same for all frames), bool or float in [0, 1], of any size. At least one.
        Unite before latent_mask, so that two masks that each touch a cell a little count together.
    """
    if not masks:
        raise ValueError("There are no masks to unite. Give at least one.")
    frames = max(mask.shape[0] for mask in masks)
    for mask in masks:
        _check_mask(mask, "A mask")
        if mask.shape[0] not in (1, frames):
            raise ValueError(f"One mask has {mask.shape[0]} frames and another {frames}. Give 1 or {frames} frames.")
    united = torch.zeros(frames, *image_size, device=masks[0].device)
    for mask in masks:
        united = torch.maximum(united, area_resampled(mask, image_size).to(united.device))
    return united


def latent_frame_mask(is_excluded: torch.Tensor, grid: LatentGrid) -> torch.Tensor:
    """[latent_frames H W] from [frames H W]: a latent frame is excluded where any pixel frame that it covers is.

    is_excluded: bool or float in [0, 1]; frames as the VAE packs them (LatentGrid.latent_frames).  dtype is kept.
    """
    _check_mask(is_excluded, "The mask")
    later = grid.latent_frames(is_excluded.shape[0]) - 1
    height, width = is_excluded.shape[1:]
    covered = is_excluded[1:].reshape(later, grid.temporal_stride, height, width)
    return torch.cat([is_excluded[:1], covered.any(1) if covered.dtype == torch.bool else covered.amax(1)])


def is_sky(sky_probability: torch.Tensor, *, threshold: float = 0.5) -> torch.Tensor:
    """[frames H W] bool, True where the sky is at least `threshold` probable; NaN counts as sky."""
    return ~(sky_probability < threshold)


def is_unsure(confidence: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """[frames H W] bool, True where the depth model's confidence is below `threshold`, in the model's own units, or
    NaN. Depth models differ in their units: see is_least_sure for a threshold that fits them all.
    """
    return ~(confidence >= threshold)


def is_least_sure(confidence: torch.Tensor, *, share: float) -> torch.Tensor:
    """[frames H W] bool, True for the `share` of each frame's pixels with the lowest confidence, and for NaN.

    Pixels that equal the limit stay, so that a constant confidence excludes nothing.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}; it is a share of the pixels, at least 0 and below 1.")
    flat = confidence.flatten(1).float()
    rank = min(math.floor(share * flat.shape[1]), flat.shape[1] - 1)
    limits = flat.nan_to_num(-math.inf).kthvalue(rank + 1, dim=1).values
    return ~(confidence >= limits[:, None, None])


def is_depth_edge(depth: torch.Tensor, *, min_step: float = 0.1) -> torch.Tensor:
    """[frames H W] bool, True on both sides of a step in depth between neighbouring pixels.

    depth: [frames H W], z-depth; not finite or <= 0 is unknown, and the border of the unknown is no edge.
    min_step: the step as a share of the nearer depth (0.1 = 10 %).
    """
    if min_step <= 0:
        raise ValueError(f"min_step is {min_step}; it is a share of the depth, above 0.")
    logs = torch.where(torch.isfinite(depth) & (depth > 0), depth, torch.nan).log()
    is_edge = torch.zeros_like(depth, dtype=torch.bool)
    is_step = logs.diff(dim=1).abs() > math.log1p(min_step)
    is_edge[:, 1:] |= is_step
    is_edge[:, :-1] |= is_step
    is_step = logs.diff(dim=2).abs() > math.log1p(min_step)
    is_edge[:, :, 1:] |= is_step
    is_edge[:, :, :-1] |= is_step
    return is_edge


def _check_mask(mask: torch.Tensor, what: str) -> None:
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"{what} has shape {list(mask.shape)}; masks are [frames H W] and not empty.")
    if mask.dtype != torch.bool:
        known = mask.float().nan_to_num(0.0)
        if float(known.min()) < 0 or float(known.max()) > 1:
            raise ValueError(
                f"{what} holds values from {float(known.min()):g} to {float(known.max()):g}; they lie between 0 (keep) "
                "and 1 (exclude). Threshold scores first."
            )


def _area_weights(old: int, new: int) -> torch.Tensor:
    """[new old] float32: the share of each new interval that each old interval covers, both dividing one length."""
    if new < 1:
        raise ValueError(f"A mask cannot be resampled to {new} rows or columns; at least 1 is needed.")
    edges = torch.arange(new + 1, dtype=torch.float64) * (old / new)
    cells = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    return (overlap.clamp_min(0) * (new / old)).float()
