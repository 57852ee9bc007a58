"""Side branches and LoRAs of random weights in the shapes of the stand-in models: for tests, not for pictures."""

from __future__ import annotations

import torch

from mirage_core.branch_files import branch_shapes

from .dit import Weights


def random_branch(*, dim: int = 128, blocks: int = 2, channels: int = 49, seed: int = 0) -> Weights:
    """A complete side branch in which every tensor matters.

    dim: width of the model it goes with; the model's ffn is 2 * dim wide, as in random_dit.
    channels: of what the branch reads: 48, 49 or 96.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in branch_shapes(blocks, channels, dim, 2 * dim).items():
        if "norm" in name:
            weights[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        elif len(shape) > 1:
            fan_in = 1
            for side in shape[1:]:
                fan_in *= side
            weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
        else:
            weights[name] = torch.randn(shape, generator=generator) * 0.02
    return weights


def random_lora(*, dim: int = 128, layers: int = 2, rank: int = 4, prefix: str = "pipe.dit.", seed: int = 0) -> Weights:
    """A LoRA on q, k, v and o of every block, named as the released trainer names it."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for layer in range(layers):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                name = f"{prefix}blocks.{layer}.{attention}.{part}"
                weights[f"{name}.lora_A.weight"] = torch.randn(rank, dim, generator=generator) * dim**-0.5
                weights[f"{name}.lora_B.weight"] = torch.randn(dim, rank, generator=generator) * rank**-0.5
    return weights
