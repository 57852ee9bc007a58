"""Diffusion transformers in the shape of Wan2.2-TI2V-5B, small enough for a CPU. No host code is imported."""

from __future__ import annotations

import json

import torch

TEXT_DIM = 64  # the real model's 4096 would make text_embedding the largest tensor of the file
_FREQ_DIM = 256
_PATCH = 48 * 4  # numbers in a token: 48 channels of 2x2 latent cells

Weights = dict[str, torch.Tensor]


def dit_metadata(heads: int) -> dict[str, str]:
    """Safetensors metadata by which the host's loader learns what tensor shapes do not tell."""
    return {"config": json.dumps({"transformer": {"text_dim": TEXT_DIM, "num_heads": heads}})}


def forgetful_dit(*, dim: int = 256, layers: int = 2, seed: int = 0) -> Weights:
    """A model that knows no pictures: it takes everything it is shown for noise and predicts that noise.

    The patch embedding is orthonormal and free of mean, so the LayerNorm of the head returns the token at unit norm and
    the transposed embedding gives it back: velocity = noise. What nothing guides decays to the neutral latent (grey);
    what the sampler is guided to stays. The blocks add a few percent, so that seeds and prompts matter a little.

    Raises ValueError where dim is too small to hold a token.
    """
    if dim <= _PATCH:
        raise ValueError(f"dim is {dim}; a token has {_PATCH} numbers and needs a larger dim. Use 256.")
    weights = random_dit(dim=dim, layers=layers, seed=seed)
    for key, weight in weights.items():
        if key.startswith("blocks.") and key.endswith(("attn.o.weight", "ffn.2.weight")):
            weights[key] = weight * 0.01
    embedding = _orthonormal_without_mean(dim, seed)
    weights["patch_embedding.weight"] = embedding.view(dim, 48, 1, 2, 2)
    weights["patch_embedding.bias"] = torch.zeros(dim)
    # A token of noise has norm sqrt(_PATCH); the LayerNorm gives it sqrt(dim).
    weights["head.head.weight"] = (_PATCH / dim) ** 0.5 * _by_place(embedding.T)
    weights["head.head.bias"] = torch.zeros(_PATCH)
    weights["head.modulation"] = torch.zeros(1, 2, dim)
    for key in ("time_embedding.2.weight", "time_embedding.2.bias"):
        weights[key] = torch.zeros_like(weights[key])
    return weights


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


def _orthonormal_without_mean(dim: int, seed: int) -> torch.Tensor:
    """[dim _PATCH] orthonormal columns that are all orthogonal to the vector of ones."""
    columns = torch.randn(dim, _PATCH + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns[:, 0] = 1
    return torch.linalg.qr(columns)[0][:, 1:].float()
