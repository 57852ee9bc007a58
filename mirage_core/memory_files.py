"""A memory as one safetensors file, with its grid, version, block sizes and origin in the metadata.

Version 2 keeps every field a MemoryBlock has, also those that came later and that some blocks lack; version 1, with six
fields, is still read. Files may come from strangers: everything a file claims is checked before anything is made
from it. The film a memory belongs to is scene_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import torch

from .latent_grid import LatentGrid
from .memory import LatentMemory, MemoryBlock
from .tensor_files import TensorFile, check_room, opened_tensors, plain_json, write_tensors

EXTRA = "film."  # names of tensors that belong to the film and not to the memory begin with this
_FORMAT, _VERSION = "mirage-memory", "2"
_FIELDS = tuple(one.name for one in fields(MemoryBlock))
_REQUIRED = tuple(one.name for one in fields(MemoryBlock) if one.default is MISSING)
_VERSION_1 = ("points", "latents", "latent_index", "confidence", "footprints", "sides")
_WHOLE = ("latent_index",)
_INTEGERS, _FLOATS = (torch.int32, torch.int64), (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LAST_FRAME = 1 << 30  # joined and moved memories stay within int32
_FARTHEST = 1e12  # world units; squares of what is farther overflow float32
_UNITS = (
    "points, footprints and sides in the world units of the depth, world = OpenCV camera of the first frame; "
    "latents normalised, or colours in [0, 1] on a grid of pixels"
)


def save_memory(
    memory: LatentMemory,
    path: str | Path,
    *,
    provenance: Mapping[str, object] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a memory as one safetensors file; the file appears under its name only when it is complete.

    provenance: what is known of its origin, plain JSON values.
    tensors: of the film the memory belongs to, kept under names that begin with "film.".
    """
    blocks = memory.blocks or (_empty_block(memory.grid),)
    parts = {name: [getattr(block, name) for block in blocks] for name in _FIELDS}
    present = {name: [one is not None for one in parts[name]] for name in _FIELDS if name not in _REQUIRED}
    stored = {name: [one for one in values if one is not None] for name, values in parts.items()}
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "grid": json.dumps(asdict(memory.grid)),
        "block_sizes": json.dumps([len(block) for block in memory.blocks]),
        "blocks_with": json.dumps(
            {
                name: [index for index, is_present in enumerate(have) if is_present]
                for name, have in present.items()
                if any(have) and not all(have)
            }
        ),
        "units": _UNITS,
        "provenance": json.dumps(dict(provenance or {}), allow_nan=False),
    }
    film = {EXTRA + name: [value] for name, value in (tensors or {}).items()}
    write_tensors(path, {name: values for name, values in stored.items() if values} | film, metadata)


def load_memory(path: str | Path, *, device: str | torch.device = "cpu") -> LatentMemory:
    """Read a file written by save_memory(), of this version or an earlier one.

    Raises FileNotFoundError when there is no file, and ValueError, one sentence with the reason, when it is not a
    memory, is damaged, has another version, or holds NaN or infinite values.
    """
    return load_with_film(path, device=device)[0]


def load_with_film(
    path: str | Path, *, device: str | torch.device = "cpu"
) -> tuple[LatentMemory, dict[str, object], dict[str, torch.Tensor]]:
    """The memory, its provenance, and the tensors of its film by name, which may be none. Raises as load_memory()."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no memory file {path}.")
    try:
        with opened_tensors(path) as file:
            grid, sizes, blocks_with = _checked_metadata(file)
            check_room([entry.bytes for entry in file.entries.values()])
            stored = {name: file.read(name) for name in _FIELDS if name in file.entries}
            for name, values in stored.items():
                check_field(name, values)
            film = {name: file.read(name) for name in file.entries if name.startswith(EXTRA)}
            for name, values in (stored | film).items():
                file.check(name, values)
            stored = {name: values.to(device) for name, values in stored.items()}
        memory = LatentMemory(grid, _blocks(stored, sizes, blocks_with))
        provenance = _object(file.metadata.get("provenance", "{}"), "provenance")
        return memory, provenance, {name.removeprefix(EXTRA): value for name, value in film.items()}
    except (ValueError, TypeError, KeyError, OSError, OverflowError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path.name} cannot be used as a memory ({reason}); save the memory again.") from error


def check_grid(grid: LatentGrid) -> None:
    """Raise ValueError, a clause without a full stop, for a grid that no VAE has."""
    numbers = (grid.channels, grid.spatial_stride, grid.temporal_stride)
    if any(type(one) is not int or not 1 <= one <= 1 << 40 for one in numbers):
        raise ValueError("its grid has sizes that are not whole numbers above 0")
    if grid.cell_rule not in ("center", "corner"):
        raise ValueError(f"its cell rule is {_shown(grid.cell_rule)}, not center or corner")


def check_kind(name: str, values: torch.Tensor) -> None:
    """Raise ValueError, a clause without a full stop, when a field of a MemoryBlock holds another kind of number.

    Fields that only a newer version knows may be of any kind.
    """
    is_right = True
    if name in _WHOLE:
        is_right = values.dtype in _INTEGERS
    elif name in _REQUIRED:
        is_right = values.dtype in _FLOATS
    elif name.startswith("is_"):
        is_right = values.dtype == torch.bool
    if not is_right:
        raise ValueError(f"its {name} are stored as {values.dtype}")


def check_field(name: str, values: torch.Tensor) -> None:
    """Raise ValueError, a clause without a full stop, for values that a field of a MemoryBlock cannot have."""
    check_kind(name, values)
    if not torch.isfinite(values).all():
        raise ValueError(f"its {name} contain NaN or infinite values")
    if not len(values):
        return
    if name == "confidence" and (values.min() < 0 or values.max() > 1):
        raise ValueError("its confidence lies outside of 0 to 1")
    if name == "footprints" and values.min() < 0:
        raise ValueError("its footprints are below 0")
    if name in ("points", "sides", "footprints") and values.abs().max() > _FARTHEST:
        raise ValueError(f"its {name} are larger than any scene")
    if name in _WHOLE and (values.min() < -_LAST_FRAME or values.max() > _LAST_FRAME):
        raise ValueError(f"its {name} are numbers of no film")


def _shown(value: object) -> str:
    """A stranger's word in a message: short, and nothing in it that cannot be seen."""
    text = str(value)[:20]
    return text if text.isprintable() else ascii(text)


def _empty_block(grid: LatentGrid) -> MemoryBlock:
    return MemoryBlock(
        points=torch.zeros(0, 3),
        latents=torch.zeros(0, grid.channels),
        latent_index=torch.zeros(0, dtype=torch.int32),
        confidence=torch.zeros(0),
        footprints=torch.zeros(0),
        sides=torch.zeros(0, 2, 3),
    )


def _checked_metadata(file: TensorFile) -> tuple[LatentGrid, list[int], dict[str, list[int]]]:
    """Grid, block sizes, and the blocks that have a field where not all do; checks all shapes before reading."""
    metadata = file.metadata
    if metadata.get("format") != _FORMAT:
        raise ValueError("its metadata does not say mirage-memory")
    version = metadata.get("version")
    if version not in ("1", _VERSION):
        raise ValueError(f"its version is {_shown(version)}, this code reads versions 1 and {_VERSION}")
    names = {name for name in file.entries if version == "1" or not name.startswith(EXTRA)}
    known = set(_VERSION_1 if version == "1" else _FIELDS)
    if names - known or set(_REQUIRED) - names:
        odd = sorted(name[:40] for name in names ^ set(_REQUIRED) if name not in known or name in _REQUIRED)
        raise ValueError(f"it holds, or lacks, {odd[:8]} beside {sorted(known & names)}; a newer Mirage may read it")
    grid = _grid(metadata.get("grid", ""))
    sizes = plain_json(metadata.get("block_sizes", ""))
    if not isinstance(sizes, list) or not all(type(size) is int and 0 < size < 1 << 40 for size in sizes):
        raise ValueError("its block sizes are not positive whole numbers")
    blocks_with = _blocks_with(metadata.get("blocks_with", "{}"), names, len(sizes))
    for name in (one for one in _FIELDS if one in names):
        n = sum(sizes[index] for index in blocks_with.get(name, range(len(sizes))))
        expected = {"points": (n, 3), "latents": (n, grid.channels), "sides": (n, 2, 3)}.get(name, (n,))
        shape = file.entries[name].shape
        if shape != expected and (name in _REQUIRED or shape[:1] != (n,)):
            raise ValueError(f"its {name} have shape {list(shape)} and not {list(expected)}")
    return grid, sizes, blocks_with


def _grid(text: str) -> LatentGrid:
    grid = LatentGrid(**_object(text, "grid"))  # type: ignore[arg-type]
    check_grid(grid)
    return grid


def _blocks_with(text: str, names: set[str], count: int) -> dict[str, list[int]]:
    told: dict[str, list[int]] = {}
    for name, blocks in _object(text, "blocks_with").items():
        if name not in names or name in _REQUIRED or not isinstance(blocks, list):
            raise ValueError("it tells of fields that it does not hold")
        if not all(type(one) is int and 0 <= one < count for one in blocks) or sorted(set(blocks)) != blocks:
            raise ValueError(f"its {name} belong to blocks that it does not hold")
        told[name] = blocks
    return told


def _object(text: str, what: str) -> dict[str, object]:
    document = plain_json(text)
    if not isinstance(document, dict):
        raise ValueError(f"its {what} is no JSON object")
    return document


def _blocks(
    stored: dict[str, torch.Tensor], sizes: list[int], blocks_with: dict[str, list[int]]
) -> tuple[MemoryBlock, ...]:
    columns: dict[str, list[torch.Tensor | None]] = {}
    for name, values in stored.items():
        have = blocks_with.get(name, range(len(sizes)))
        # Views of one storage: a loaded memory takes its size in memory once.
        parts = iter(values.split([sizes[index] for index in have]) if have else ())
        columns[name] = [next(parts) if index in set(have) else None for index in range(len(sizes))]
    blocks = [{name: column[index] for name, column in columns.items()} for index in range(len(sizes))]
    return tuple(MemoryBlock(**block) for block in blocks)  # type: ignore[arg-type]
