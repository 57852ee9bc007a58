"""What the numbers of a film depend on beside its nodes: the code of this pack, and how the host computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management
from comfy.cli_args import args

_PACK = Path(__file__).resolve().parents[1]
_CODE, _HOST = "the version of Mirage", "the device or a number format of ComfyUI"
CONDITIONS = (_CODE, _HOST)
# Parts of the names of the host's options after which numbers come out otherwise.
_FORMATS = ("fp8", "fp16", "fp32", "bf16", "attention", "deterministic", "channels_last")


def conditions() -> dict[str, str]:
    """Name -> value, as parts of every segment; names as a person says what has changed."""
    return {_CODE: _VERSION, _HOST: host_numbers(comfy.model_management.get_torch_device().type, vars(args))}


def host_numbers(device: str, options: Mapping[str, object]) -> str:
    """The device and those of the host's options that change numbers, as text.

    options: all of them by name; the values of "fast" have their own names.
    """
    told = [name for name, value in options.items() if value is True and any(one in name for one in _FORMATS)]
    fast = options.get("fast") or ()
    told += [f"fast {getattr(one, 'value', one)}" for one in (fast if isinstance(fast, (set, list, tuple)) else [fast])]
    return ", ".join([device, *sorted(told)])


def code_digest(root: Path) -> str:
    """sha256 of the Python files below a pack's mirage_core and nodes; the same for both kinds of line ends."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("mirage_core", "nodes") for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


# When the pack is loaded: files that change later are not the code that runs.
_VERSION = code_digest(_PACK)
