"""Which stand-in file goes where below a ComfyUI base directory, and writing it once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import depth, dit, vae

Weights = dict[str, torch.Tensor]

VAE_FILE = "models/vae/mirage_stand_in_vae.safetensors"
DIT_FILE = "models/diffusion_models/mirage_stand_in_dit.safetensors"
RANDOM_DIT_FILE = "models/diffusion_models/mirage_random_dit.safetensors"
MOGE1_FILE = "models/geometry_estimation/mirage_random_moge1.safetensors"
MOGE2_FILE = "models/geometry_estimation/mirage_random_moge2.safetensors"
DEPTH_ANYTHING_FILE = "models/geometry_estimation/mirage_random_da3.safetensors"


def write_demo_models(base_directory: Path) -> list[Path]:
    """The autoencoder and the model that the demo flies with; files that are there and current are kept."""
    return [
        _write(base_directory / VAE_FILE, vae.stand_in_vae, {}),
        _write(base_directory / DIT_FILE, dit.forgetful_dit, dit.dit_metadata(heads=2)),
    ]


def write_test_models(base_directory: Path) -> list[Path]:
    """Random models in the real formats, for tests of loaders and of everything behind them."""
    return [
        _write(base_directory / RANDOM_DIT_FILE, dit.random_dit, dit.dit_metadata(heads=2)),
        _write(base_directory / MOGE1_FILE, depth.random_moge1, {}),
        _write(base_directory / MOGE2_FILE, depth.random_moge2, {}),
        _write(base_directory / DEPTH_ANYTHING_FILE, depth.random_depth_anything, {}),
    ]


def _write(path: Path, make: Callable[[], Weights], metadata: dict[str, str]) -> Path:
    """Make the file unless its stamp says that this very code made it; a half-written file never gets the name."""
    stamp, code = path.with_suffix(".stamp"), _code_stamp()
    if path.is_file() and stamp.is_file() and stamp.read_text() == code:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    save_file({key: weight.contiguous() for key, weight in make().items()}, partial, metadata=metadata or None)
    partial.replace(path)
    stamp.write_text(code)
    return path


def _code_stamp() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
