"""Which worlds may be trained on. One rule for every trainer, benchmark and test."""

from __future__ import annotations

FIRST_HELD_OUT = 1_000_000


def is_held_out(seed: int) -> bool:
    """True for worlds that no trainer may ever show a model: seeds from 1,000,000 on."""
    return seed >= FIRST_HELD_OUT


def check_trainable(seed: int) -> None:
    """Raise ValueError for a seed that is kept for measuring."""
    if is_held_out(seed):
        raise ValueError(
            f"World {seed} is held out: figures are measured on seeds from {FIRST_HELD_OUT} on. Train on smaller seeds."
        )
