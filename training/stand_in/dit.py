"""Diffusion transformers in the shape of Wan2.2-TI2V-5B, small enough for a CPU. No host code is imported."""

from __future__ import annotations

import json
import math

import torch

TEXT_DIM = 64  # the real model's 4096 would make text_embedding the largest tensor of the file
_FREQ_DIM = 256
_PATCH = 48 * 4  # numbers in a token: 48 channels of 2x2 latent cells

Weights = dict[str, torch.Tensor]


def dit_metadata(heads: int) -> dict[str, str]:
    """Safetensors metadata by which the host's loader learns what tensor shapes do not tell."""
    return {"config": json.dumps({"transformer": {"text_dim": TEXT_DIM, "num_heads": heads}})}


def forgetful_dit(*, dim: int = 256, layers: int = 2, seed: int = 0) -> Weights:
    """A model that knows no pictures: it takes everything it is shown for noise.

    Its velocity is x / sigma, so that its clean picture is the neutral latent (grey). What nothing guides turns grey;
    what the sampler is guided to stays. The blocks add a little, so that seeds and prompts are not without effect.

    How: the patch embedding W is orthonormal, and its bias is long and orthogonal to it, so that the LayerNorm of the
    head divides by nearly a constant; W transposed gives x back; the time modulation of the head is 1 / sigma.

    Raises ValueError where dim is too small to hold a token.
    """
    if dim < _PATCH + 2:
        raise ValueError(f"dim is {dim}; a token has {_PATCH} numbers and needs a larger dim. Use 256.")
    weights = random_dit(dim=dim, layers=layers, seed=seed)
    for key, weight in weights.items():
        if key.startswith("blocks.") and (".o." in key or ".ffn.2." in key):
            weights[key] = weight * 0.01
        if key.startswith("time_") or "head." in key:
            weights[key] = torch.zeros_like(weight)
    embedding = _token_axes(dim, seed)
    bias = torch.zeros(dim)
    # Two numbers carry the bias: spread over all of them it would drown the token in half precision.
    bias[0], bias[1] = 100.0, -100.0
    weights["patch_embedding.weight"] = embedding.view(dim, 48, 1, 2, 2)
    weights["patch_embedding.bias"] = bias
    length = (bias.square().sum() + _PATCH).sqrt()
    weights["head.head.weight"] = _by_place(embedding.T) * length / dim**0.5
    _write_inverse_sigma(weights)
    return weights


def _write_inverse_sigma(weights: Weights) -> None:
    """Make every number of the time embedding 1 / sigma - 1, down to sigma = 0.02.

    Piecewise linear in the lowest sine of the timestep, which is nearly straight. All pieces are positive and vanish at
    sigma = 1, so that half precision does no harm.
    """
    hidden = len(weights["time_embedding.0.bias"])
    knots = torch.logspace(math.log10(0.02), 0, hidden + 1, dtype=torch.float64)
    sines = torch.sin(1000 * knots * 10000 ** -((_FREQ_DIM // 2 - 1) / (_FREQ_DIM // 2)))
    slopes = -(1 / knots).diff() / sines.diff()  # positive, falling
    bends = slopes - torch.cat([slopes[1:], slopes.new_zeros(1)])
    sharpness = 3e4  # SiLU is a ReLU then, and float16 still holds it
    weights["time_embedding.0.weight"][:, -1] = -sharpness
    weights["time_embedding.0.bias"][:] = sharpness * sines[1:]
    weights["time_embedding.2.weight"][:] = bends / sharpness


def random_dit(*, dim: int = 128, layers: int = 2, seed: int = 0) -> Weights:
    """A model of random weights in which prompt, seed, time and every token matter: for tests, not for pictures."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
        weights[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.02

    linear("patch_embedding", _PATCH, dim)
    weights["patch_embedding.weight"] = weights["patch_embedding.weight"].view(dim, 48, 1, 2, 2)
    linear("text_embedding.0", TEXT_DIM, dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", _FREQ_DIM, dim)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", dim, 6 * dim)
    for block in range(layers):
        name = f"blocks.{block}"
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{name}.{attention}.{part}", dim, dim)
            for norm in ("norm_q", "norm_k"):
                weights[f"{name}.{attention}.{norm}.weight"] = torch.ones(dim)
        weights[f"{name}.norm3.weight"], weights[f"{name}.norm3.bias"] = torch.ones(dim), torch.zeros(dim)
        linear(f"{name}.ffn.0", dim, 2 * dim)
        linear(f"{name}.ffn.2", 2 * dim, dim)
        weights[f"{name}.modulation"] = torch.randn(1, 6, dim, generator=generator) * dim**-0.5
        weights[f"{name}.modulation"][:, [2, 5]] += 1  # the gates of attention and feed-forward stay open
    linear("head.head", dim, _PATCH)
    weights["head.modulation"] = torch.randn(1, 2, dim, generator=generator) * dim**-0.5
    return weights


def _by_place(rows: torch.Tensor) -> torch.Tensor:
    """Rows in the order of embedded tokens (channel, row, column) to that of the head (row, column, channel)."""
    return rows.reshape(48, 4, -1).transpose(0, 1).reshape(_PATCH, -1)


def _token_axes(dim: int, seed: int) -> torch.Tensor:
    """[dim _PATCH] orthonormal columns, all orthogonal to the vector of ones and to the embedding's bias."""
    columns = torch.randn(dim, _PATCH + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns[:, 0] = 1
    columns[:, 1] = torch.eye(dim, dtype=torch.float64)[0] - torch.eye(dim, dtype=torch.float64)[1]
    return torch.linalg.qr(columns)[0][:, 2:].float()
