"""The encoder of the stand-in VAE (training/stand_in/vae.py, TAEHV file format) in plain torch, without a host."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from training.stand_in.vae import stand_in_vae

_GROUP = 4  # pixel frames of one latent frame


class StandInEncoder:
    """pictures [frames H W 3] in [0, 1] -> raw latents [48 frames/4 H/16 W/16], at the cost of any TAEHV encoder."""

    def __init__(self) -> None:
        self._weights = {key: value for key, value in stand_in_vae().items() if key.startswith("encoder.")}

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        missing = -len(pictures) % _GROUP
        frames = torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)]).movedim(-1, 1)
        # The first layers see each pair of frames alone; in groups they need a tenth of the memory.
        values = torch.cat([self._first_layers(group) for group in frames.split(_GROUP)])
        for first, pooled in ((4, 2), (9, 1), (14, 0)):
            for block in range(first, first + 3):
                values = self._memory_block(block, values)
            if pooled:
                values = self._pool(first + 3, values, pooled)
                values = self._convolution(f"encoder.{first + 4}", values, stride=2)
        return self._convolution("encoder.17", values).movedim(0, 1)

    def _first_layers(self, frames: torch.Tensor) -> torch.Tensor:
        values = self._convolution("encoder.0", functional.pixel_unshuffle(frames, 2)).relu_()
        return self._convolution("encoder.3", self._pool(2, values, 2), stride=2)

    def _pool(self, layer: int, values: torch.Tensor, frames: int) -> torch.Tensor:
        return functional.conv2d(
            values.reshape(-1, frames * 64, *values.shape[2:]), self._weights[f"encoder.{layer}.conv.weight"]
        )

    def _memory_block(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        past = torch.cat([torch.zeros_like(values[:1]), values[:-1]])
        made = torch.cat([values, past], dim=1)
        for part in (0, 2, 4):
            made = self._convolution(f"encoder.{layer}.conv.{part}", made)
            if part < 4:
                made.relu_()
        return made.add_(values).relu_()

    def _convolution(self, name: str, values: torch.Tensor, *, stride: int = 1) -> torch.Tensor:
        return functional.conv2d(
            values, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"), stride=stride, padding=1
        )
