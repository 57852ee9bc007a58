"""Fixtures of all tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Golden = tuple[dict, dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """golden("point_cloud") -> (its JSON, its tensors): numbers made by running the released reference.

    They are read from $MIRAGE_GOLDEN or from ../shared/golden beside the repository; a test skips without them.
    """
    folder = Path(os.environ.get("MIRAGE_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")

    def read(name: str) -> Golden:
        description, tensors = folder / f"{name}.json", folder / f"{name}.safetensors"
        if not description.is_file():
            pytest.skip(f"no golden numbers at {description}; set MIRAGE_GOLDEN to the folder that holds them")
        return json.loads(description.read_text()), load_file(tensors) if tensors.is_file() else {}

    return read
