"""By what to know the VAE that is connected again, whatever file and precision it was loaded from."""

from __future__ import annotations

from typing import Any

import torch

from ..mirage_core.latent_origin import LatentOrigin
from .host_latents import LATENT_FORMAT

_WEIGHTS = 12
_VALUES = 4096  # of each weight: enough to tell them apart, and nothing to wait for


def origin_of(vae: Any) -> LatentOrigin:
    """The origin of what a host VAE encodes; of one whose weights cannot be looked at, the format alone."""
    network = getattr(vae, "first_stage_model", None)
    named = sorted(network.named_parameters()) if isinstance(network, torch.nn.Module) else []
    weights = [one for _, one in named if one.is_floating_point() and one.ndim > 1 and not one.is_meta]
    chosen = weights[:: max(1, len(weights) // _WEIGHTS)][:_WEIGHTS]
    sizes = (float(one.detach().flatten()[:_VALUES].float().abs().mean()) for one in chosen)
    return LatentOrigin(LATENT_FORMAT, tuple(float(f"{size:.4g}") for size in sizes))
