"""Named tensors in one safetensors file, written without a second copy and read without trust.

A file may come from a stranger. Its header is read whole and checked against the size of the file before a single
tensor is allocated: nothing a file claims can cost more memory than the file itself has bytes, and never more time
than reading it. As a file may be mostly hole, its size is no promise: check_room() asks the machine. What the tensors
mean is not here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

MAX_HEADER = 1 << 20  # bytes; JSON takes up to twenty times as much once it is read
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_DIMS = 8
_CHECKSUMS = "sha256"  # in the metadata: of the bytes of each tensor, by name
_SHOWN = 40  # characters of a stranger's name in a message


@dataclass(frozen=True)
class Entry:
    """A tensor as the header describes it. start: byte in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    bytes: int


@dataclass(frozen=True)
class TensorFile:
    """An open file whose header has been checked. metadata: the texts that came with it."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    checksums: dict[str, str]
    _file: BufferedReader

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in memory of its own. Raises ValueError when the file has shrunk, or holds no truth values."""
        entry = self.entries[name]
        raw = torch.empty(entry.bytes, dtype=torch.uint8)
        self._file.seek(entry.start)
        if self._file.readinto(raw.numpy().data) != entry.bytes:
            raise ValueError("it was cut short while it was read")
        if entry.dtype == torch.bool and entry.bytes and int(raw.max()) > 1:
            raise ValueError(f"its {name[:_SHOWN]!r} holds other values than true and false")
        return raw.view(entry.dtype).view(entry.shape)

    def check(self, name: str, values: torch.Tensor) -> None:
        """Raise ValueError when what was read is not what was written; says nothing of files without checksums."""
        noted = self.checksums.get(name)
        if noted is not None and noted != _digest([values], values.dtype):
            raise ValueError(
                f"its {name[:_SHOWN]} are damaged: their checksum is not the one noted when it was written"
            )


@contextmanager
def opened_tensors(path: str | Path, *, max_header: int = MAX_HEADER) -> Iterator[TensorFile]:
    """A safetensors file whose every claim has been checked against its size.

    Raises ValueError, a clause without a full stop that says what is wrong ("it is cut short"), and OSError.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        entries, metadata = _checked_header(*_header(file, size, max_header), size)
        yield TensorFile(entries, metadata, _checksums(metadata), file)


def write_tensors(path: str | Path, tensors: Mapping[str, Sequence[torch.Tensor]], metadata: Mapping[str, str]) -> None:
    """Write each name's tensors, joined along their first dimension, tensor by tensor.

    The file appears under its name only when it is complete and on the disk.
    Raises ValueError when tensors of one name do not fit together, or are of a kind that has no name here.
    """
    path = Path(path)
    head, order = _described(tensors, metadata)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            for name, dtype in order:
                for part in tensors[name]:
                    file.write(_raw(part, dtype))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_room(sizes: Sequence[int]) -> None:
    """Raise ValueError, a clause without a full stop, when tensors of so many bytes do not fit into what is left.

    A file may be mostly hole: a few kilobytes on the disk that claim hundreds of gigabytes.
    """
    needed, free = sum(sizes) + max(sizes, default=0), _free_memory()  # the largest twice: its values are looked at
    if free is not None and needed > free:
        raise ValueError(
            f"it needs {needed / 2**30:.1f} GiB of memory and this machine has {free / 2**30:.1f} GiB left"
        )


def plain_json(text: str | bytes) -> Any:
    """A JSON document. Raises ValueError, a clause without a full stop, for what is no JSON, names a key twice, nests
    without end, or has a number that is not finite or has thousands of digits."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_not_finite)
    except RecursionError as error:
        raise ValueError("it nests brackets too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("its text is not JSON") from error


def _free_memory() -> int | None:
    """Bytes of memory that this machine has left, what its file cache would give back included; None if unknown."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # macOS tells no more than what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, which refuses such an allocation itself
        return None


def _raw(values: torch.Tensor, dtype: torch.dtype) -> memoryview:
    return values.detach().to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy().data


def _digest(parts: Sequence[torch.Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_raw(part, dtype))
    return digest.hexdigest()


def _checksums(metadata: dict[str, str]) -> dict[str, str]:
    noted = plain_json(metadata.get(_CHECKSUMS, "{}"))
    if not isinstance(noted, dict) or not all(isinstance(one, str) for one in noted.values()):
        raise ValueError("its checksums are no texts")
    return noted


def _header(file: BufferedReader, size: int, max_header: int) -> tuple[Any, int]:
    """The header's JSON, and the byte at which the tensors begin."""
    first = file.read(8)
    if len(first) < 8:
        raise ValueError(f"it has {size} bytes and is cut short or no safetensors file")
    length = struct.unpack("<Q", first)[0]
    if length > size - 8 and (first[:2] == b"PK" or first[:1] == b"\x80"):
        raise ValueError("it is a pickle or zip archive, which could run code, renamed; only safetensors is read")
    if length > size - 8:
        raise ValueError(f"it claims a header of {length} bytes and has {size}: cut short, or no safetensors file")
    if length > max_header:
        raise ValueError(f"its header has {length} bytes; at most {max_header} are read")
    header = plain_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length


def _checked_header(header: dict[str, Any], start: int, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not a set of texts")
    entries = {name: _entry(name, told, start) for name, told in header.items()}
    end = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.bytes)):
        if entry.start != end:
            raise ValueError("its tensors overlap, or leave bytes between them")
        end += entry.bytes
    if end != size:
        raise ValueError(f"its tensors end at byte {end} and the file at {size}: cut short, or something is hung on")
    return entries, metadata


def _entry(name: str, told: Any, start: int) -> Entry:
    shown = repr(name[:_SHOWN])
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its {shown} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ValueError(f"its {shown} is of the kind {str(kind)[:_SHOWN]!r}, which is not read")
    if not _is_counts(shape) or len(shape) > _MAX_DIMS or not _is_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"its {shown} has no plain shape and place")
    length = math.prod(shape) * _DTYPES[kind].itemsize
    if offsets[1] - offsets[0] != length:
        raise ValueError(f"its {shown} has the wrong shape for its {offsets[1] - offsets[0]} bytes")
    return Entry(_DTYPES[kind], tuple(shape), start + offsets[0], length)


def _is_counts(values: Any) -> bool:
    """True for a list of whole numbers that a file on a disk can have."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 60 for value in values)


def _described(
    tensors: Mapping[str, Sequence[torch.Tensor]], metadata: Mapping[str, str]
) -> tuple[bytes, list[tuple[str, torch.dtype]]]:
    """The header with its padding, and the order in which tensors follow it: wide numbers first, so all are aligned."""
    dtypes = {}
    for name, parts in tensors.items():
        dtype = parts[0].dtype
        for part in parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        if dtype not in _NAMES or any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise ValueError(f"The parts of {name} cannot be written as one tensor of {dtype}.")
        dtypes[name] = dtype
    order = sorted(dtypes.items(), key=lambda item: -item[1].itemsize)
    checksums = json.dumps({name: _digest(tensors[name], dtype) for name, dtype in order})
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUMS: checksums}}
    end = 0
    for name, dtype in order:
        shape = [sum(part.shape[0] for part in tensors[name]), *tensors[name][0].shape[1:]]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, allow_nan=False).encode()
    if len(text) > MAX_HEADER - 8:
        raise ValueError(f"The header would have {len(text)} bytes; files with more than {MAX_HEADER} are not read.")
    return text + b" " * (-len(text) % 8), order


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("it names one key twice")
    return document


def _not_finite(name: str) -> float:
    raise ValueError(f"it contains {name}; all numbers are finite")
