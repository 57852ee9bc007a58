"""Small clips for the trainers' tests, rendered once."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.clip_pool import render_world


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder with two clips of 33 frames of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("clips")
    for kind in ("room", "plaza"):
        render_world(folder, kind, 11, flights=1, frames=33, size=64, movers=2)
    return folder
