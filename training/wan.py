"""Wan2.2-TI2V in plain torch: the blocks, names and arithmetic of the host's model, made to be trained.

Any size from a few layers to the real 5B: sizes come from a checkpoint's own shapes. What the memory adds to it is
wan_memory.py. Source: Wan-Video/Wan2.2 wan/modules/model.py; the host's comfy/ldm/wan/model.py (0.30) has the names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from torch.utils.checkpoint import checkpoint

_PATCH = 2  # latent cells along each side of a token
_EPS = 1e-6
_THETA = 10000.0
_QUIET, _QUIET_PARTS = 0.05, (".o.weight", "ffn.2.weight", "time_embedding.2.weight", "time_projection.1.weight")


@dataclass(frozen=True)
class WanSizes:
    """What makes one Wan2.2-TI2V smaller or larger than another. The defaults are the nano world's.

    Raises ValueError for a width that the heads do not divide.
    """

    dim: int = 256
    ffn_dim: int = 1024
    heads: int = 2
    layers: int = 6
    text_dim: int = 64
    channels: int = 48
    freq_dim: int = 256

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"{self.heads} heads do not share a width of {self.dim} evenly. Use heads of 128.")

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> WanSizes:
        """The sizes of a checkpoint, from the shapes of its tensors and the host's config entry in its metadata.

        Raises ValueError when the tensors are not those of a Wan model.
        """
        needed = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "head.modulation")
        absent = [name for name in needed if name not in shapes]
        if absent:
            raise ValueError(
                f"The file has no {absent[0]} ({len(shapes)} tensors); it is not a bare Wan2.2 model. Use the "
                "diffusion model's own file, such as wan2.2_ti2v_5B_fp16.safetensors."
            )
        stated = json.loads((metadata or {}).get("config", "{}")).get("transformer", {})
        dim, channels = shapes["patch_embedding.weight"][:2]
        return WanSizes(
            dim=dim,
            ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
            heads=stated.get("num_heads", max(1, dim // 128)),
            layers=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
            text_dim=shapes["text_embedding.0.weight"][1],
            channels=channels,
            freq_dim=shapes["time_embedding.0.weight"][1],
        )

    def metadata(self) -> dict[str, str]:
        """safetensors metadata by which the host's loader learns what shapes do not tell."""
        return {"config": json.dumps({"transformer": {"text_dim": self.text_dim, "num_heads": self.heads}})}


class Norm(nn.RMSNorm):
    """In the dtype of what it gets: autocast leaves the weight in another, for which there is no fast kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Self- or cross-attention with normalised queries and keys."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = Norm(dim, _EPS), Norm(dim, _EPS)

    def forward(self, x: torch.Tensor, context: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """x: [batch tokens dim] asks, context: [batch others dim] answers; positions: [tokens pairs] turns both."""
        q, k, v = self._heads(self.norm_q(self.q(x))), self._heads(self.norm_k(self.k(context))), self.v(context)
        if positions is not None:
            q, k = turned(q, positions), turned(k, positions)
        v = self._heads(v)
        q, k = q.to(v.dtype), k.to(v.dtype)
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """One transformer block; `modulation` and the time decide how much of each part enters."""

    def __init__(self, sizes: WanSizes):
        super().__init__()
        dim = sizes.dim
        self.self_attn, self.cross_attn = Attention(dim, sizes.heads), Attention(dim, sizes.heads)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, _EPS, elementwise_affine=False) for _ in range(2))
        self.norm3 = nn.LayerNorm(dim, _EPS)
        self.ffn = nn.Sequential(nn.Linear(dim, sizes.ffn_dim), nn.GELU("tanh"), nn.Linear(sizes.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x: torch.Tensor, time: torch.Tensor, positions: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """x: [batch tokens dim], whose frames have equally many tokens.  time: [batch frames 6 dim].

        positions: [tokens pairs] complex.  text: [batch words dim].
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation[None] + time).unbind(2)
        y = modulated(self.norm1(x), shift1, scale1)
        x = x + per_frame(self.self_attn(y, y, positions), gate1)
        x = x + self.cross_attn(self.norm3(x), text)
        return x + per_frame(self.ffn(modulated(self.norm2(x), shift2, scale2)), gate2)


class Head(nn.Module):
    """Tokens to the numbers of their patches."""

    def __init__(self, sizes: WanSizes):
        super().__init__()
        self.norm = nn.LayerNorm(sizes.dim, _EPS, elementwise_affine=False)
        self.head = nn.Linear(sizes.dim, sizes.channels * _PATCH**2)
        self.modulation = nn.Parameter(torch.zeros(1, 2, sizes.dim))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """x: [batch tokens dim].  time: [batch frames dim]."""
        shift, scale = (self.modulation[None] + time[:, :, None]).unbind(2)
        return self.head(modulated(self.norm(x), shift, scale))


class Wan(nn.Module):
    """The model. Its parts are public, so that a side branch can run beside its blocks."""

    def __init__(self, sizes: WanSizes):
        super().__init__()
        self.sizes = sizes
        dim = sizes.dim
        patch = (1, _PATCH, _PATCH)
        self.patch_embedding = nn.Conv3d(sizes.channels, dim, patch, patch)
        self.text_embedding = nn.Sequential(nn.Linear(sizes.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(sizes.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.head = Head(sizes)
        self.is_checkpointed = False

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The flow from picture to noise.

        latents: [batch channels frames rows columns] normalised.  timesteps: [batch frames] in [0, 1000].
        text: [batch words text_dim].
        """
        frames, rows, columns = latents.shape[2:]
        x, time = self.tokens(latents), self.times(timesteps)
        positions = self.positions(torch.arange(frames), rows, columns).to(latents.device)
        words, projected = self.text_embedding(text), self.projected(time)
        for block in self.blocks:
            x = self.through(block, x, projected, positions, words)
        return self.unpacked(self.head(x, time), latents)

    def through(self, block: nn.Module, *inputs: torch.Tensor) -> Any:
        """A block, whose inner activations are made again on the way back when is_checkpointed."""
        if self.is_checkpointed and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """[batch channels frames rows columns] -> [batch tokens dim], frame by frame, row by row."""
        return self.patch_embedding(latents).flatten(2).transpose(1, 2)

    def times(self, timesteps: torch.Tensor) -> torch.Tensor:
        """[batch frames] -> [batch frames dim]."""
        half = self.sizes.freq_dim // 2
        powers = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
        angles = timesteps.float()[..., None] * torch.pow(_THETA, -powers)
        return self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self._dtype))

    def projected(self, time: torch.Tensor) -> torch.Tensor:
        """[batch frames dim] -> [batch frames 6 dim]."""
        return self.time_projection(time).unflatten(2, (6, -1))

    def positions(self, times: torch.Tensor, rows: int, columns: int, *, first_row: int = 0) -> torch.Tensor:
        """[tokens pairs] complex64: the rotations of the tokens of frames at `times` [frames].

        rows, columns: in latent cells.  first_row: of the frames, in tokens.
        """
        width = self.sizes.dim // self.sizes.heads
        spatial = 2 * (width // 6)
        high, wide = rows // _PATCH, columns // _PATCH
        axes = (times, first_row + torch.arange(high), torch.arange(wide))
        angles = []
        for axis, (place, part) in enumerate(zip(axes, (width - 2 * spatial, spatial, spatial), strict=True)):
            powers = torch.linspace(0, (part - 2) / part, part // 2, dtype=torch.float64)
            turned = place.double()[:, None] * _THETA**-powers
            shape = [1, 1, 1, part // 2]
            shape[axis] = len(place)
            angles.append(turned.view(shape).expand(len(times), high, wide, -1))
        joined = torch.cat(angles, dim=-1).flatten(0, 2)
        return torch.polar(torch.ones_like(joined), joined).to(torch.complex64)

    def unpacked(self, patches: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """[batch tokens numbers] -> [batch channels frames rows columns] of the shape of `like`."""
        batch, channels, frames, rows, columns = like.shape
        grid = patches.view(batch, frames, rows // _PATCH, columns // _PATCH, _PATCH, _PATCH, channels)
        return grid.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, channels, frames, rows, columns)

    @property
    def _dtype(self) -> torch.dtype:
        return self.time_embedding[0].weight.dtype  # type: ignore[union-attr]


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [batch tokens dim], shifted and scaled by frame [batch frames dim]."""
    shape = (x.shape[0], shift.shape[1], -1, x.shape[2])
    return (x.view(shape) * (1 + scale[:, :, None]) + shift[:, :, None]).view(x.shape)


def per_frame(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x [batch tokens dim] times gate [batch frames dim]."""
    return (x.view(x.shape[0], gate.shape[1], -1, x.shape[2]) * gate[:, :, None]).view(x.shape)


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x [batch heads tokens width], neighbouring numbers taken as one complex number and rotated; float32."""
    cos, sin = positions.real, positions.imag
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def initialised(model: nn.Module, *, seed: int) -> None:
    """Random weights to start from. Gates are open but little comes through them; a side branch gives no hints yet.

    A Wan that is wide enough begins by taking what it is shown for the flow: at the high noise levels that training
    looks at most, that is nearly right, and a short training need not find it out.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("modulation"):
                weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
                if weight.shape[1] == 6:
                    weight[:, [2, 5]] += 1
            elif "norm" in name:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("bias") or name.startswith("head.") or "after_proj" in name:
                weight.zero_()
            else:
                share = _QUIET if name.endswith(_QUIET_PARTS) else 1.0
                weight.normal_(0, share * math.prod(weight.shape[1:]) ** -0.5, generator=generator)
        if isinstance(model, Wan) and model.sizes.dim >= model.sizes.channels * _PATCH**2:
            model.head.head.weight.copy_(_reading_back(model.patch_embedding.weight))


def _reading_back(embedding: torch.Tensor) -> torch.Tensor:
    """[numbers dim] the inverse of a patch embedding [dim channels 1 2 2], in the order of the head: rows first."""
    inverse = torch.linalg.pinv(embedding.flatten(1).double())
    return inverse.unflatten(0, (-1, _PATCH**2)).transpose(0, 1).flatten(0, 1).to(embedding.dtype)
