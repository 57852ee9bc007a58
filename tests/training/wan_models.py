"""Tiny Wan models with random weights, for tests of the plain-torch model and of the host's against it."""

from __future__ import annotations

import torch

from training.wan import Wan, WanSizes
from training.wan_memory import SideBranch

SIZES = WanSizes(dim=96, ffn_dim=160, heads=2, layers=3, text_dim=16)


def everything_matters(network: torch.nn.Module, seed: int = 0) -> None:
    """Random weights without zeros: what is never multiplied by zero cannot hide a difference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1.0).add_(0.2 * torch.randn(weight.shape, generator=generator))
            else:
                weight.normal_(0, 0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5, generator=generator)


def clip(frames: int, seed: int, size: tuple[int, int] = (4, 6)) -> torch.Tensor:
    return torch.randn(1, 48, frames, *size, generator=torch.Generator().manual_seed(seed))


def plain_model() -> Wan:
    model = Wan(SIZES)
    everything_matters(model)
    return model.requires_grad_(False)


def branch_model() -> SideBranch:
    branch = SideBranch(SIZES, channels=49, layers=(0, 2))
    everything_matters(branch, seed=1)
    return branch.requires_grad_(False)
