"""Pictures, masks and depth as PNG files, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

_DEEPEST = 65535  # of a 16-bit picture


def write_rgb(path: Path, rgb: torch.Tensor) -> None:
    """rgb: [H W 3] in [0, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().numpy()).save(path)


def write_mask(path: Path, mask: torch.Tensor) -> None:
    """mask: [H W] bool; True becomes white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.byte().mul(255).numpy()).save(path)


def write_metres(path: Path, depth: torch.Tensor, *, unit: float = 0.001) -> None:
    """depth: [H W]; a 16-bit picture in steps of `unit`, as nerfstudio and most depth cameras write it; sky is 0."""
    steps = torch.where(torch.isfinite(depth), depth.double() / unit, 0).round()
    _write_16_bits(path, steps.clamp(0, _DEEPEST))


def write_nearness(path: Path, depth: torch.Tensor, *, near: float, far: float) -> None:
    """depth: [H W]; a 16-bit picture of inverse depth, white at `near` and black at `far` and in the sky."""
    inverse = (1 / depth.double() - 1 / far) / (1 / near - 1 / far)
    _write_16_bits(path, (inverse.clamp(0, 1) * _DEEPEST).round())


def read_rgb(path: Path) -> torch.Tensor:
    """[H W 3] in [0, 1]."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255


def read_mask(path: Path) -> torch.Tensor:
    """[H W] bool, True where the picture is brighter than half."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("L"))) > 127


def read_metres(path: Path, *, unit: float = 0.001) -> torch.Tensor:
    """[H W] depth of a 16-bit picture in steps of `unit`, or of an .npy file of metres; inf where it is not known."""
    if path.suffix == ".npy":
        depth = torch.from_numpy(np.load(path, allow_pickle=False)).float().squeeze()
    else:
        with Image.open(path) as picture:
            depth = torch.from_numpy(np.array(picture).astype(np.float32)) * unit
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, torch.inf)


def _write_16_bits(path: Path, steps: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(steps.numpy().astype(np.uint16)).save(path)
