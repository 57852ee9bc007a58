"""Files of trained weights: their headers, and what Mirage's own metadata says about their training.

Only headers are read (safetensors only: nothing is unpickled); loading the tensors is the host's business. Which file
is a side branch or a LoRA is told in branch_files.py and lora_files.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError, safe_open

from .latent_grid import CellRule
from .side_branch import LAYOUTS, TOKEN_ORDERS, Layout, TokenOrder

PREFIX = "mirage."
# Spatia's tensors have the released trainer's names; only its files' names tell them apart.
SPATIA_FILE = re.compile(r"control_weight|lora_weights_\d|spatia", re.IGNORECASE)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stated:
    """What a file's metadata says about its training; None where it says nothing.

    resolution: (height, width) in pixels.  lora_alpha: what the trainer scaled by, for files without alpha tensors.
    trained_turn_degrees, trained_speed: the largest camera moves of the training, per pixel frame (preflight.py).
    """

    layout: Layout | None = None
    cell_rule: CellRule | None = None
    token_order: TokenOrder | None = None
    resolution: tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None
    heads: int | None = None
    lora_alpha: float | None = None
    trained_turn_degrees: float | None = None
    trained_speed: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """safetensors metadata; the inverse of stated_in."""
        entries = {
            "layout": self.layout,
            "cell_rule": self.cell_rule,
            "token_order": self.token_order,
            "resolution": None if self.resolution is None else "x".join(map(str, self.resolution)),
            "layers": None if self.layers is None else ",".join(map(str, self.layers)),
            "heads": self.heads,
            "lora_alpha": self.lora_alpha,
            "trained_turn_degrees": self.trained_turn_degrees,
            "trained_speed": self.trained_speed,
        }
        return {PREFIX + name: str(value) for name, value in entries.items() if value is not None}


def read_header(path: str | Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Names and shapes of the tensors of a safetensors file, and its metadata. No tensor is loaded.

    Raises ValueError for an empty file, a pickle, a broken or truncated file.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path.name} is empty (0 bytes): the download stopped before it began. Download it again.")
    # A header may be as long as these letters say; no file is as long as a pickle's or an archive's first eight are.
    is_cut = int.from_bytes(start, "little") > path.stat().st_size
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and is_cut:
        raise ValueError(
            f"{path.name} is a PyTorch pickle under a .safetensors name. Pickles can run code, so it is not opened. "
            "Get the .safetensors version, or convert it with a tool you trust."
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            return shapes, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a whole safetensors file ({error}). Download it again.") from error


def stated_in(metadata: Mapping[str, str], file: str) -> Stated:
    """Mirage's own entries of a file's metadata.

    Raises ValueError for an entry with an unknown value: another version wrote it, and guessing would ruin the film.
    """
    entries = {name[len(PREFIX) :]: value for name, value in metadata.items() if name.startswith(PREFIX)}
    choices = {"layout": LAYOUTS, "token_order": TOKEN_ORDERS, "cell_rule": get_args(CellRule)}
    readers = {
        **{name: (lambda value, known=known: known[known.index(value)]) for name, known in choices.items()},
        "resolution": lambda value: tuple(int(part) for part in value.split("x", 1)),
        "layers": lambda value: tuple(int(part) for part in value.split(",")),
        "heads": int,
        "lora_alpha": _positive,
        "trained_turn_degrees": _positive,
        "trained_speed": _positive,
    }
    values = {}
    for name, value in entries.items():
        if name not in readers:
            continue
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            known = f"; known values: {', '.join(choices[name])}" if name in choices else ""
            raise ValueError(
                f"{file} states {PREFIX}{name} = {value[:60]!r}, which this version cannot read{known}. Update Mirage."
            ) from error
    return Stated(**values)


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not above 0")
    return number


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that counts block 10 after block 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
