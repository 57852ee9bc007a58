"""Encoded text of a real Wan2.2: one for all films, and the empty one that guidance leads away from.

Its file is safetensors with `context` [rows 4096] and, if possible, `empty` [rows 4096]: the text encoder's outputs for
a description of the films and for an empty prompt. training/encode_text.py writes it with a ComfyUI's text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional


class Contexts(nn.Module):
    """context, empty: [rows text_dim]; the shorter one is filled up with rows of 0, as the host does."""

    rows: torch.Tensor

    def __init__(self, context: torch.Tensor, empty: torch.Tensor):
        super().__init__()
        most = max(len(context), len(empty))
        filled = [functional.pad(one, (0, 0, 0, most - len(one))) for one in (empty, context)]
        self.register_buffer("rows", torch.stack(filled))

    def forward(self, texts: Sequence[Sequence[str] | None]) -> torch.Tensor:
        """[batch rows text_dim]: the text, whatever words a film has, and the empty one for None."""
        return self.rows[[0 if text is None else 1 for text in texts]]


def read_contexts(path: Path, text_dim: int) -> Contexts:
    """The texts of a file; without `empty` the empty one is zeros.

    Raises ValueError for a file without `context`, or of another width than text_dim.
    """
    tensors = load_file(path)
    if "context" not in tensors:
        raise ValueError(f"{path.name} has no tensor `context`. Write it with python -m training.encode_text.")
    context = tensors["context"].float()
    empty = tensors["empty"].float() if "empty" in tensors else torch.zeros_like(context)
    for one in (context, empty):
        if one.ndim != 2 or one.shape[1] != text_dim:
            raise ValueError(
                f"{path.name} has a text of shape {list(one.shape)}; the base takes [rows {text_dim}]. Encode it with "
                "the base's own text encoder: python -m training.encode_text."
            )
    return Contexts(context, empty)
