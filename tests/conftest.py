"""Fixtures of all tests."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from real_host.client import Client
from real_host.server import Server, running_server
from training.stand_in.files import write_demo_models, write_test_models

REPOSITORY = Path(__file__).resolve().parents[1]
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


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI of $COMFYUI_PATH, else the one dev.py has put into .host; skips when there is none."""
    folder = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".host" / "ComfyUI")
    if not (folder / "main.py").is_file():
        pytest.skip(f"no ComfyUI in {folder}; run `python3 dev.py test`, or set COMFYUI_PATH")
    return folder


@pytest.fixture(scope="session")
def base_directory(comfyui, tmp_path_factory) -> Path:
    """A ComfyUI base directory: this pack linked into custom_nodes, all stand-in models, the host's and our picture."""
    base = tmp_path_factory.mktemp("comfyui_base")
    for folder in ("custom_nodes", "input", "output", "temp", "user"):
        (base / folder).mkdir()
    (base / "custom_nodes" / "ComfyUI-Mirage").symlink_to(REPOSITORY, target_is_directory=True)
    write_demo_models(base)
    write_test_models(base)
    for picture in (comfyui / "input" / "example.png", REPOSITORY / "workflows" / "input" / "mirage_room.jpg"):
        shutil.copy(picture, base / "input")
    return base


@pytest.fixture(scope="session")
def server(comfyui, base_directory) -> Iterator[Server]:
    """A real ComfyUI with this pack, on the CPU, one for the whole session. Its log is server.log."""
    python = Path(os.environ.get("MIRAGE_COMFYUI_PYTHON") or sys.executable)
    folders = ["--base-directory", str(base_directory)]
    with running_server(python, comfyui, folders, log=base_directory / "server.log", use_cpu=True) as running:
        yield running


@pytest.fixture
def client(server, request) -> Iterator[Client]:
    """A user of the server. When the server has died, the end of its log goes into the test's report."""
    yield Client(server.url)
    if not server.is_alive():
        pytest.fail(f"ComfyUI died. The end of its log:\n{server.log_tail()}")
