"""Muon: momentum made orthogonal, for filters; Adam for everything else.

A picture's fine detail is worth little in the loss, so its directions are the last that Adam learns. An orthogonal step
goes as far in all directions. Source: Keller Jordan, github.com/KellerJordan/Muon; the scale that keeps Adam's learning
rates: Liu et al., arXiv 2502.16982.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ROUNDS = 4


class Muon(torch.optim.Optimizer):
    """Groups hold "lr". A parameter of at least 2 axes and 32 rows moves orthogonally, any other as in Adam."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(groups, {"lr": lr})
        self.betas, self.weight_decay = betas, weight_decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is None:
                    continue
                one.mul_(1 - group["lr"] * self.weight_decay)
                is_filter = one.ndim >= 2 and one.shape[0] >= 32 and one[0].numel() >= 32
                move = self._orthogonal_move(one) if is_filter else self._adam_move(one)
                one.sub_(group["lr"] * move)

    def _orthogonal_move(self, one: torch.Tensor) -> torch.Tensor:
        assert one.grad is not None
        state = self.state[one]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(one)
        average = state["exp_avg"].lerp_(one.grad, 1 - self.betas[0])
        ahead = one.grad.lerp(average, self.betas[0]).flatten(1)
        return (orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)).view_as(one)

    def _adam_move(self, one: torch.Tensor) -> torch.Tensor:
        assert one.grad is not None
        state = self.state[one]
        if "exp_avg_sq" not in state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        state["step"] += 1
        first, second = self.betas
        average, square = state["exp_avg"].lerp_(one.grad, 1 - first), state["exp_avg_sq"]
        square.lerp_(one.grad.square(), 1 - second)
        steps = float(state["step"])
        return average / (1 - first**steps) / ((square / (1 - second**steps)).sqrt() + 1e-8)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal factor of a matrix's polar decomposition, its singular values between about 0.7 and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if is_tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if is_tall else x).float()
