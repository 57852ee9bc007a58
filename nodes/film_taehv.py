"""Decoding the end of a stretch of latents with a TAEHV, to the very frames that the whole film decodes to.

The host's own decode makes a frame of every latent it is given and holds all of them three times over; here only the
frames that are wanted are ever held.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from comfy.taesd.taehv import TAEHV, MemBlock, TGrow


class TaehvEnd:
    """Stands for a TAEHV model, and decodes only the last `count` of the latent frames it is given."""

    def __init__(self, model: TAEHV, count: int) -> None:
        self._model, self._count = model, count

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[1 channels frames rows columns] -> the frames of the last `count`, [1 3 frames height width] in [0, 1]."""
        model, steps = self._model, latents.shape[2]
        skipped = max(model.frames_to_trim, (steps - self._count) * model.t_upscale)
        inputs = model.process_in(latents)
        past: dict[int, torch.Tensor] = {}
        made, at = None, -skipped
        for step in range(steps):
            for frame in _frames(model.decoder, inputs[:, :, step], past):
                if at >= 0:
                    frame = torch.nn.functional.pixel_shuffle(frame, model.patch_size)
                    if made is None:  # one block for all frames: memory in many parts is not given back to the system
                        made = frame.new_empty(1, frame.shape[1], steps * model.t_upscale - skipped, *frame.shape[2:])
                    made[:, :, at] = frame
                at += 1
        assert made is not None
        return made


def is_taehv(model: torch.nn.Module) -> bool:
    """Whether this is the host's TAEHV for the latents of Wan2.2."""
    return isinstance(model, TAEHV) and model.latent_channels == 48


def _frames(layers: torch.nn.Sequential, x: torch.Tensor, past: dict[int, torch.Tensor], first: int = 0) -> Iterator:
    """What one latent frame [1 channels rows columns] becomes; past: what each block saw last, by its place."""
    for index in range(first, len(layers)):
        layer = layers[index]
        if isinstance(layer, MemBlock):
            x, past[index] = layer(x, past.get(index, torch.zeros_like(x))), x
        elif isinstance(layer, TGrow):
            grown = layer(x)
            for part in grown.view(1, -1, *grown.shape[2:]).chunk(layer.stride, 1):
                yield from _frames(layers, part, past, index + 1)
            return
        else:
            x = layer(x)
    yield x
