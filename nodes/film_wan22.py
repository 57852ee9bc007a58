"""Decoding the end of a long stretch of latents with the Wan2.2 VAE, to the very frames that the whole film decodes to.

Its decoder sees 38 latent frames back, but most of that in its first, small layers: the large ones see 7. So the
latents before a piece pass only the layers that still matter for it, at the cost of about 10 whole ones.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from comfy.ldm.wan.vae2_2 import WanVAE, count_conv3d, unpatchify

# Latent frames that a piece sees back through the last two upsampling stages and the head (13 causal convolutions of 2
# frames back each, at 4 frames per latent: 26 / 4), and through the second stage as well (7 at 2 per latent: 14 / 2).
_ALL, _TWO_STAGES = 7, 14


class EndOnly:
    """Stands for a Wan2.2 VAE's model, and decodes only the last `count` of the latent frames it is given."""

    def __init__(self, model: WanVAE, count: int) -> None:
        self._model, self._count = model, count

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[1 channels frames rows columns] -> the frames of the last `count`, [1 3 frames height width] in [-1, 1]."""
        model, count = self._model, self._count
        steps, frames = latents.shape[2], []
        mixed, caches = model.conv2(latents), [None] * count_conv3d(model.decoder)
        parts = {stages: _first_stages(model.decoder, stages) for stages in (1, 2)}
        for step in range(steps):
            before = steps - count - step
            # The first step fills every cache, so that later ones see "a film is running" and not "a film begins".
            is_whole = step == 0 or before <= _ALL
            decoder = model.decoder if is_whole else parts[2 if before <= _TWO_STAGES else 1]
            made = decoder(mixed[:, :, step : step + 1], feat_cache=caches, feat_idx=[0], first_chunk=step == 0)
            if before <= 0:
                frames.append(made)
        return unpatchify(torch.cat(frames, dim=2), patch_size=2)


def is_wan22(model: torch.nn.Module) -> bool:
    """Whether this is the Wan2.2 VAE built as this file knows it; another build of the host is decoded plainly."""
    return isinstance(model, WanVAE) and len(getattr(model.decoder, "upsamples", ())) == 4


def _first_stages(decoder: Any, stages: int) -> torch.nn.Module:
    """A decoder of the same layers that ends after some of its upsampling stages."""
    short = copy.copy(decoder)
    short._modules = dict(decoder._modules)
    short.upsamples, short.head = torch.nn.Sequential(*list(decoder.upsamples)[:stages]), torch.nn.Sequential()
    return short
