"""The TAEHV autoencoder of 48 channels in plain torch, with the names and sums of ComfyUI's own (comfy/taesd/taehv.py).

Its latents are those of Wan2.2 before normalisation: 16 pixels and 4 frames to a cell. Widths are fixed by the format.
Source: ComfyUI v0.30.0 comfy/taesd/taehv.py, after github.com/madebyollin/taehv.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .stand_in.vae import LATENTS_MEAN, LATENTS_STD

PATCH = 2  # pixels per side that are packed into channels first
TIME_STRIDE = 4


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


class MemBlock(nn.Module):
    """A residual block that also sees the frame before.

    is_idle: its filters are left out and only the last bias is used. While the last filter is zero, which is how it
    starts, that changes nothing: so a shallow network can be trained first, at a fraction of the cost, and grow into
    the whole one without a jump.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.is_idle = False
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )
        nn.init.zeros_(self.conv[4].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.conv[4].bias)  # pyright: ignore[reportArgumentType]

    def bare(self, x: torch.Tensor) -> torch.Tensor:
        """The block without its filters."""
        bias = self.conv[4].bias
        assert isinstance(bias, torch.Tensor)
        return functional.relu(x + bias.view(-1, 1, 1).to(x))

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.conv(torch.cat([x, past], 1)) + x)


class TPool(nn.Module):
    """`stride` frames into one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)
        mean = torch.eye(width).repeat(1, stride) / stride
        self.conv.weight = nn.Parameter(mean[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, channels, height, width = x.shape
        return self.conv(x.reshape(-1, self.stride * channels, height, width))


class TGrow(nn.Module):
    """One frame into `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)
        self.conv.weight = nn.Parameter(torch.eye(width).repeat(stride, 1)[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, channels, height, width = x.shape
        return self.conv(x).reshape(-1, channels, height, width)


class Autoencoder(nn.Module):
    """encoder and decoder have the state dict names of the host's TAEHV with 48 latent channels."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(3 * PATCH**2, 64), nn.ReLU(),
            TPool(64, 2), _conv(64, 64, stride=2, bias=False), MemBlock(64), MemBlock(64), MemBlock(64),
            TPool(64, 2), _conv(64, 64, stride=2, bias=False), MemBlock(64), MemBlock(64), MemBlock(64),
            TPool(64, 1), _conv(64, 64, stride=2, bias=False), MemBlock(64), MemBlock(64), MemBlock(64),
            _conv(64, 48),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            Clamp(), _conv(48, 256), nn.ReLU(),
            MemBlock(256), MemBlock(256), MemBlock(256), nn.Upsample(scale_factor=2), TGrow(256, 1),
            _conv(256, 128, bias=False),
            MemBlock(128), MemBlock(128), MemBlock(128), nn.Upsample(scale_factor=2), TGrow(128, 2),
            _conv(128, 64, bias=False),
            MemBlock(64), MemBlock(64), MemBlock(64), nn.Upsample(scale_factor=2), TGrow(64, 2),
            _conv(64, 64, bias=False),
            nn.ReLU(), _conv(64, 3 * PATCH**2),
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(LATENTS_MEAN).view(48, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LATENTS_STD).view(48, 1, 1), persistent=False)

    def set_depth(self, blocks: int) -> None:
        """Use the filters of only the first `blocks` (0 to 3) residual blocks of each stage."""
        for layers in (self.encoder, self.decoder):
            place = 0
            for layer in layers:
                place = place + 1 if isinstance(layer, MemBlock) else 0
                if isinstance(layer, MemBlock):
                    layer.is_idle = place > blocks

    def skip_idle(self) -> None:
        """Leave out the filters of blocks that have not been trained yet: the result is the same, sooner."""
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, MemBlock):
                layer.is_idle = not bool(layer.conv[4].weight.any())  # pyright: ignore[reportCallIssue]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised latents [clips latent_frames 48 rows columns] of pictures [clips frames 3 H W] in [0, 1].

        Frames are 4n + 1, and the first has a latent of its own, as in Wan: the latent behind it ends with frame 4. The
        host encodes a single picture to the same latent; of longer clips its encoder pads the end instead.

        Raises ValueError for another number of frames.
        """
        if (frames.shape[1] - 1) % TIME_STRIDE:
            raise ValueError(f"The clip has {frames.shape[1]} frames; the autoencoder packs them as 4n+1.")
        first = frames[:, :1].expand(-1, TIME_STRIDE - 1, -1, -1, -1)
        clips, patches = len(frames), functional.pixel_unshuffle(torch.cat([first, frames], 1).flatten(0, 1), PATCH)
        latents = run(self.encoder, patches, clips).unflatten(0, (clips, -1))
        return (latents - self.mean) / self.std

    def spread_stills(self) -> None:
        """Bring what was learned from single pictures to clips, without a change for single pictures.

        A latent then shows the last frame that it covers, whose camera it has, and all frames it decodes to are that.
        """
        with torch.no_grad():
            for layer in (*self.encoder, *self.decoder):
                if isinstance(layer, TPool):
                    parts = layer.conv.weight.unflatten(1, (layer.stride, -1))
                    total = parts.sum(1)
                    parts.zero_()
                    parts[:, -1] = total
                if isinstance(layer, TGrow):
                    width = layer.conv.weight.shape[1]
                    repeats = len(layer.conv.weight) // width
                    layer.conv.weight.copy_(layer.conv.weight[-width:].repeat(repeats, 1, 1, 1))

    def encode_still(self, pictures: torch.Tensor) -> torch.Tensor:
        """encode() of single pictures [n 3 H W] at depth 0, a quarter of the work; latents [n 48 rows columns]."""
        x = functional.pixel_unshuffle(pictures, PATCH)
        for layer in self.encoder:
            if isinstance(layer, TPool):  # frames that are all the same
                x = functional.conv2d(x, layer.conv.weight.unflatten(1, (layer.stride, -1)).sum(1))
            else:
                x = layer.bare(x) if isinstance(layer, MemBlock) else layer(x)
        return (x - self.mean) / self.std

    def decode_still(self, latents: torch.Tensor) -> torch.Tensor:
        """decode() of single latents [n 48 rows columns] at depth 0, a quarter of the work; pictures [n 3 H W]."""
        x = latents * self.std + self.mean
        for layer in self.decoder:
            if isinstance(layer, TGrow):  # the last of the frames is the one that is not cut off
                x = functional.conv2d(x, layer.conv.weight[-x.shape[1] :])
            else:
                x = layer.bare(x) if isinstance(layer, MemBlock) else layer(x)
        return functional.pixel_shuffle(x, PATCH)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures [clips frames 3 H W], not cut to [0, 1].

        latents: [clips latent_frames 48 rows columns], normalised.
        """
        clips = len(latents)
        raw = (latents * self.std + self.mean).flatten(0, 1)
        frames = functional.pixel_shuffle(run(self.decoder, raw, clips), PATCH).unflatten(0, (clips, -1))
        return frames[:, TIME_STRIDE - 1 :]


def run(layers: nn.Sequential, x: torch.Tensor, clips: int) -> torch.Tensor:
    """All layers on [clips*frames channels rows columns]. A MemBlock sees the frame before; before the first, 0."""
    for layer in layers:
        if isinstance(layer, MemBlock) and layer.is_idle:
            x = layer.bare(x)
        elif isinstance(layer, MemBlock):
            by_clip = x.unflatten(0, (clips, -1))
            past = torch.cat([torch.zeros_like(by_clip[:, :1]), by_clip[:, :-1]], 1).flatten(0, 1)
            x = layer(x, past)
        else:
            x = layer(x)
    return x


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
