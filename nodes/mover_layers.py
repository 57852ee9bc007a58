"""What moves at the end of a segment, kept for the first frames of the next one."""

from __future__ import annotations

import torch

from ..mirage_core.latent_grid import WAN22
from ..mirage_core.masks import area_resampled
from ..mirage_core.movers import MoverLayer, mover_layer
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from .depth_fitting import FittedDepth
from .segment_maps import at_latent_frames


def kept_movers(
    rollout: Rollout, latents: torch.Tensor, fitted: FittedDepth | None, mover_mask: torch.Tensor | None
) -> tuple[MoverLayer | None, str]:
    """The movers of the next segment's last latent frame, or None, and a word about them.

    latents: [channels frames rows columns] as they were made.  mover_mask: [frames H W], white = moves.
    Raises ValueError without a mask or a depth.
    """
    if mover_mask is None or fitted is None:
        missing = "geometry" if fitted is None else "mover_mask"
        raise ValueError(
            f"keep_movers is on, and nothing is connected to {missing}. Connect the depth of the segment to geometry "
            "and the mask of what moves to mover_mask, or switch keep_movers off."
        )
    if is_rgb(rollout.memory):
        return None, "movers not kept: the memory is of the kind rgb"
    segment = rollout.next_segment
    masks = mover_mask.float().cpu()
    if len(masks) == 1:
        masks = masks.expand(segment.latent_frames, -1, -1)
    elif len(masks) == WAN22.frames(segment.latent_frames):
        masks = masks[:: WAN22.temporal_stride]
    is_mover = area_resampled(at_latent_frames(masks, segment, "mover masks").clamp(0, 1), rollout.size) > 0.5
    layer = mover_layer(
        latents,
        fitted.depth,
        fitted.cameras,
        is_mover,
        rollout.grid,
        first_latent_index=rollout.filmed_latents - 1,
    )
    if layer is None:
        return None, "nothing moves at the end"
    return layer, f"movers kept: {len(layer.block)} cells"
