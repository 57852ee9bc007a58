"""A memory as one safetensors file, with the grid, the version and the block sizes in its metadata.

Files may come from strangers: everything a file claims is checked before anything is made from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .latent_grid import LatentGrid
from .memory import LatentMemory, MemoryBlock

_FORMAT, _VERSION = "mirage-memory", "1"
_FIELDS = ("points", "latents", "latent_index", "confidence", "footprints", "sides")


def save_memory(memory: LatentMemory, path: str | Path, *, provenance: Mapping[str, object] | None = None) -> None:
    """Write a memory as one safetensors file; the file appears under its name only when it is complete.

    provenance: what is known of its origin, plain JSON values.
    """
    empty = _empty_block(memory.grid)
    tensors = {name: _joined(memory.blocks, name, getattr(empty, name)).contiguous() for name in _FIELDS}
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "grid": json.dumps(asdict(memory.grid)),
        "block_sizes": json.dumps([len(block) for block in memory.blocks]),
        "units": "points, footprints and sides in the world units of the depth; latents normalised",
        "provenance": json.dumps(dict(provenance or {}), allow_nan=False),
    }
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, unfinished, metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_memory(path: str | Path, *, device: str | torch.device = "cpu") -> LatentMemory:
    """Read a file written by save_memory().

    Raises FileNotFoundError when there is no file, and ValueError, one sentence with the reason, when it is not a
    memory, is damaged, has another version, or holds NaN or infinite values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no memory file {path}.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            grid, sizes = _read_header(file)
            fields = {name: file.get_tensor(name) for name in _FIELDS}
        return LatentMemory(grid, _checked_blocks(fields, sizes))
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path.name} cannot be used as a memory ({reason}); save the memory again.") from error


def _joined(blocks: tuple[MemoryBlock, ...], name: str, empty: torch.Tensor) -> torch.Tensor:
    return torch.cat([getattr(block, name) for block in blocks]) if blocks else empty


def _empty_block(grid: LatentGrid) -> MemoryBlock:
    return MemoryBlock(
        points=torch.zeros(0, 3),
        latents=torch.zeros(0, grid.channels),
        latent_index=torch.zeros(0, dtype=torch.int32),
        confidence=torch.zeros(0),
        footprints=torch.zeros(0),
        sides=torch.zeros(0, 2, 3),
    )


def _read_header(file) -> tuple[LatentGrid, list[int]]:
    """Grid and block sizes; checks all shapes before a single tensor is read."""
    metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise ValueError("its metadata does not say mirage-memory")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"its version is {metadata.get('version')}, this code reads version {_VERSION}")
    if sorted(file.keys()) != sorted(_FIELDS):
        raise ValueError(f"it holds {sorted(file.keys())[:8]} and not {sorted(_FIELDS)}")
    grid = LatentGrid(**json.loads(metadata["grid"]))
    sizes = json.loads(metadata["block_sizes"])
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError("its block sizes are not positive whole numbers")
    n = sum(sizes)
    expected = ([n, 3], [n, grid.channels], [n], [n], [n], [n, 2, 3])
    for name, shape in zip(_FIELDS, expected, strict=True):
        if file.get_slice(name).get_shape() != shape:
            raise ValueError(f"its {name} have shape {file.get_slice(name).get_shape()} and not {shape}")
    return grid, sizes


def _checked_blocks(fields: dict[str, torch.Tensor], sizes: list[int]) -> tuple[MemoryBlock, ...]:
    for name, values in fields.items():
        if values.dtype.is_floating_point == (name == "latent_index"):
            raise ValueError(f"its {name} are stored as {values.dtype}")
        if not torch.isfinite(values).all():
            raise ValueError(f"its {name} contain NaN or infinite values")
    # Views of one storage: a loaded memory takes its size in memory once.
    parts = {name: values.split(sizes) if sizes else () for name, values in fields.items()}
    return tuple(MemoryBlock(**{name: parts[name][index] for name in _FIELDS}) for index in range(len(sizes)))
