"""Which trained nano files a benchmark flies with: by default those that come with the pack."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.adapter_crew import Crew
from training.ship import FILES, SHIPPED

_ROLES = ("autoencoder", "base", "branch", "lora", "depth")  # in the order of FILES


def add_crew_arguments(parser: argparse.ArgumentParser) -> None:
    """--autoencoder, --base, --branch, --lora and --depth: files of the trainers."""
    for name, file in zip(_ROLES, FILES.values(), strict=True):
        parser.add_argument(f"--{name}", type=Path, default=SHIPPED / file, help="default: the one in the pack")


def asked_crew(asked: argparse.Namespace) -> Crew:
    return Crew.of(asked.autoencoder, asked.base, asked.branch, asked.lora, asked.depth, device=asked.device)
