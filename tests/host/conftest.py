"""A real ComfyUI in this process, on the CPU, with the pack loaded beside it. No part of the host is imitated."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def find_host() -> Path | None:
    """The ComfyUI of $COMFYUI_PATH, else the one `dev.py` has put into .host; None when there is none."""
    candidates = [os.environ.get("COMFYUI_PATH"), REPOSITORY / ".host" / "ComfyUI"]
    return next((Path(one) for one in candidates if one and (Path(one) / "comfy").is_dir()), None)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the reference's numbers and tiny weights lie; see the fixture `golden`."""
    folder = Path(os.environ.get("MIRAGE_GOLDEN") or REPOSITORY.parent / "shared" / "golden")
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; set MIRAGE_GOLDEN to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def host():
    """The host's modules: host.comfy, host.nodes, host.folder_paths."""
    path = find_host()
    if path is None:
        pytest.skip("No ComfyUI found: set $COMFYUI_PATH, or run `python3 dev.py test` once.")
    sys.path.insert(0, str(path))  # before the repository, whose nodes/ would hide the host's nodes.py
    for name in [name for name in sys.modules if name == "nodes" or name.startswith("nodes.")]:
        del sys.modules[name]
    options = importlib.import_module("comfy.options")
    options.enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    modules = {name: importlib.import_module(name) for name in ("comfy.sd", "comfy.sample", "comfy.samplers", "nodes")}
    comfy = importlib.import_module("comfy")
    return types.SimpleNamespace(
        comfy=comfy, nodes=modules["nodes"], folder_paths=importlib.import_module("folder_paths")
    )


@pytest.fixture(scope="session")
def pack(host):
    """pack("branch_patch") imports nodes/branch_patch.py as a part of the pack, next to the host."""
    for name, folder in (("mirage_pack", REPOSITORY), ("mirage_pack.nodes", REPOSITORY / "nodes")):
        if name not in sys.modules:  # packages without their __init__: a test imports only what it tests
            package = types.ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
    return lambda module: importlib.import_module(f"mirage_pack.nodes.{module}")
