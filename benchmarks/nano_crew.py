"""Which trained nano files a benchmark flies with: by default those that come with the pack."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.adapter_crew import Crew
from training.ship import SHIPPED

_FILES = {
    "autoencoder": "vae/mirage_nano_vae.safetensors",
    "base": "diffusion_models/mirage_nano_base.safetensors",
    "branch": "mirage/mirage_nano_side_branch.safetensors",
    "lora": "mirage/mirage_nano_lora.safetensors",
    "depth": "geometry_estimation/mirage_nano_depth.safetensors",
}


def add_crew_arguments(parser: argparse.ArgumentParser) -> None:
    """--autoencoder, --base, --branch, --lora and --depth: files of the trainers."""
    for name, file in _FILES.items():
        parser.add_argument(f"--{name}", type=Path, default=SHIPPED / file, help="default: the one in the pack")


def asked_crew(asked: argparse.Namespace) -> Crew:
    return Crew.of(asked.autoencoder, asked.base, asked.branch, asked.lora, asked.depth, device=asked.device)
