"""A Rollout as files: one safetensors file and one JSON per finished segment, each holding only what is new.

The JSON is a tree (rollout_trees.py). A tensor that an earlier file of the same film holds already (told by identity,
never by comparing) is written as a reference to it. The JSON is written last: a segment whose JSON is missing does not
exist. Keys, folders, quotas and what to do with damaged files are the business of whoever keeps the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .latent_origin import UNKNOWN
from .rollout import Rollout
from .rollout_checks import check_rollout, check_values
from .rollout_trees import (
    ForeignSegment,
    Place,
    canonical,
    described,
    keys_in,
    paired,
    place_of,
    places_in,
    restored,
)

_FORMAT, _VERSION = "mirage-segment", 1
_MAX_JSON_BYTES = 2**24  # twenty thousand blocks of points; once it is read it takes twenty times as much
_MAX_TENSORS = 100_000
_KEY, _CHECKSUM = re.compile(r"[0-9a-f]{16,64}"), re.compile(r"[0-9a-f]{64}")

# What reading a file that lies may end in.
_BROKEN = (
    SafetensorError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError
)  # fmt: skip


@dataclass(frozen=True)
class SegmentFile:
    """The JSON of one kept segment.

    path: of the JSON.  key: of the segment.  previous: key of the segment before, "" for the start of a film.
    number: finished segments in the Rollout.  checksum: sha256 of the file with the tensors.
    made_from: what made the segment, name -> value as text.
    needs: checksums of the other files that hold tensors of this Rollout, by their keys.
    tree: the Rollout with a Place for each tensor.
    """

    path: Path
    key: str
    previous: str
    number: int
    checksum: str
    made_from: Mapping[str, str]
    needs: Mapping[str, str]
    tree: Any

    @property
    def tensors_path(self) -> Path:
        """The file with the tensors. Its name has the checksum in it, so no JSON can ever meet another's tensors."""
        return self.path.with_name(f"{self.path.stem}_{self.checksum[:16]}.safetensors")

    @property
    def bytes(self) -> int:
        """Size on disk of both files."""
        return sum(one.stat().st_size for one in (self.path, self.tensors_path) if one.is_file())


@dataclass(frozen=True)
class KeptRollout:
    """A Rollout whose tensors are mapped from files.

    tensors: where they lie; they keep the ids in `places` from being given to others.
    parts: the dataclasses in it by their trees, for the next Rollout to share.
    """

    rollout: Rollout
    file: SegmentFile
    tensors: Mapping[Place, torch.Tensor]
    parts: Mapping[bytes, Any]

    @property
    def places(self) -> dict[int, Place]:
        """Where each tensor lies, by id(tensor)."""
        return {id(tensor): place for place, tensor in self.tensors.items()}


def content_key(rollout: Rollout) -> str:
    """sha256 of all that is known of a film so far. Where its path goes from here does not count."""
    here = sum(latents.shape[1] for latents in rollout.latents) - 1
    filmed = rollout.cameras[: here * rollout.grid.temporal_stride + 1]
    plan = rollout.plan[: rollout.segments_done]
    # Their origin is in the latents themselves; older films were kept without it.
    told = replace(rollout, cameras=filmed, plan=plan, origin=UNKNOWN)
    tree, tensors = described(told, {}, "")
    digest = hashlib.sha256(canonical(tree))
    for name, tensor in tensors.items():
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor in their order, whatever its strides and device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def write_segment(
    path: Path,
    rollout: Rollout,
    *,
    key: str,
    previous: str,
    made_from: Mapping[str, str],
    places: Mapping[int, Place],
    checksums: Mapping[str, str],
) -> SegmentFile:
    """Write both files of a segment so that at every moment the segment is there whole, or not at all.

    path: of the JSON.  places: where tensors lie already, by id(tensor).  checksums: of those files, by key.
    A JSON that another process has written at the same place meanwhile stays: the first one wins.
    Returns the segment as it is on disk. Raises OSError when it cannot be written.
    """
    tree, tensors = described(rollout, dict(places), key)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    checksum = hashlib.sha256(content).hexdigest()
    needs = {used: checksums[used] for used in sorted(keys_in(tree) - {key})}
    file = SegmentFile(path, key, previous, rollout.segments_done, checksum, dict(made_from), needs, tree)
    write_once(file.tensors_path, content)
    written = {"format": _FORMAT, "version": _VERSION, "bytes": len(content), "number": file.number}
    written |= {name: getattr(file, name) for name in ("key", "previous", "checksum", "made_from", "needs", "tree")}
    write_once(path, canonical(written))
    return read_segment(path)


def write_once(path: Path, content: bytes) -> None:
    """Write a file that is there whole, on disk, or not at all. A file that is there already stays as it is."""
    unfinished = path.with_name(f".{path.name}.{maker()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _named(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync_folder(path.parent)


def maker() -> str:
    """This process, as it names its unfinished files: eight letters for the machine, and the process id."""
    return f"{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-{os.getpid()}"


def read_segment(path: Path) -> SegmentFile:
    """The JSON of a segment, checked; its tensors are not looked at.

    Raises ValueError, one sentence with the reason, when it is damaged; ForeignSegment when it is of another version or
    something else altogether; OSError when it cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is too large")
        told = json.loads(path.read_bytes())
        if not isinstance(told, dict) or told.get("format") != _FORMAT:
            raise ForeignSegment(f"it does not say {_FORMAT}")
        if told.get("version") != _VERSION:
            raise ForeignSegment(f"its version is {str(told.get('version'))[:20]}, this code reads version {_VERSION}")
        return _checked_file(path, told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = ForeignSegment if isinstance(error, ForeignSegment) else ValueError
        raise kind(f"{path.name} is no segment of a film ({str(error).rstrip('.')}).") from error


def check_tensors(file: SegmentFile) -> None:
    """Raise ValueError unless the file of the tensors is there and as it was written; OSError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.tensors_path.open("rb") as content:
            while part := content.read(2**22):
                digest.update(part)
    except FileNotFoundError as error:
        raise ValueError(f"{file.tensors_path.name} cannot be read ({error.strerror}).") from error
    if digest.hexdigest() != file.checksum:
        raise ValueError(f"{file.tensors_path.name} is damaged: its checksum is not the one noted when it was written.")


def load_rollout(
    file: SegmentFile, *, file_of: Callable[[str], SegmentFile], before: KeptRollout | None = None
) -> KeptRollout:
    """The Rollout of a segment, its tensors mapped from disk, bit for bit as they were written.

    file_of: the segment of a key.  before: an earlier Rollout of the same film; what both hold is shared, with all that
    was derived from it.
    Raises ValueError, one sentence, for files that do not belong together or hold no Rollout; ForeignSegment for parts
    that only another version of this code knows; OSError when a file cannot be read. Checksums are not verified here
    (check_tensors), nor values (check_foreign).
    """
    tensors: dict[Place, torch.Tensor] = dict(before.tensors) if before else {}
    with _refused(file):
        for key in sorted(keys_in(file.tree)):
            wanted = [place for place in places_in(file.tree) if place[0] == key and place not in tensors]
            if wanted:
                tensors |= _mapped(_file_for(file, key, file_of), wanted)
        rollout = restored(file.tree, tensors, before.parts if before else {})
        check_rollout(rollout)
        if rollout.segments_done != file.number:
            raise ValueError(f"it should hold {file.number} segments and has {rollout.segments_done}")
    pairs = list(paired(rollout, file.tree))
    held = {place_of(tree): value for value, tree in pairs if isinstance(value, torch.Tensor)}
    parts = {canonical(tree): value for value, tree in pairs if not isinstance(value, (torch.Tensor, Rollout))}
    return KeptRollout(rollout, file, held, parts)


def placed_tensors(rollout: Rollout, file: SegmentFile) -> list[tuple[torch.Tensor, Place]]:
    """The tensors of a Rollout that was written as `file`, each with where it lies now."""
    return [(one, place_of(tree)) for one, tree in paired(rollout, file.tree) if isinstance(one, torch.Tensor)]


def check_foreign(kept: KeptRollout) -> None:
    """Read every value of a Rollout whose files may come from a stranger.

    Raises ValueError, one sentence, when one of them is NaN, infinite, or none that a film has.
    """
    with _refused(kept.file):
        check_values(kept.rollout)


@contextmanager
def _refused(file: SegmentFile) -> Iterator[None]:
    try:
        yield
    except (OSError, torch.cuda.OutOfMemoryError):  # says nothing about what is in the file
        raise
    except _BROKEN as error:
        reason = str(error).rstrip(".")
        kind = ForeignSegment if isinstance(error, ForeignSegment) else ValueError
        raise kind(f"{file.path.name} cannot be used as a segment of a film ({reason}).") from error


def _named(unfinished: Path, path: Path) -> None:
    """Give a finished file its name, unless another has it."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(unfinished, path)


def _sync_folder(folder: Path) -> None:
    """Make names that were given in a folder last through a power cut; not needed, and not possible, on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(descriptor)


def _checked_file(path: Path, told: dict) -> SegmentFile:
    texts = (told["key"], told["previous"], told["checksum"], *told["needs"], *told["needs"].values())
    texts += (*told["made_from"], *told["made_from"].values())
    if not all(isinstance(one, str) for one in texts):
        raise ValueError("its names and checksums are not all text")
    if not _KEY.fullmatch(told["key"]) or not _CHECKSUM.fullmatch(told["checksum"]):
        raise ValueError("its key and its checksum are not sha256 in hexadecimal digits")
    if type(told["number"]) is not int or told["number"] < 0:
        raise ValueError("its number is not a whole number from 0 up")
    if sum(1 for _ in places_in(told["tree"])) > _MAX_TENSORS:
        raise ValueError(f"it names more than {_MAX_TENSORS} tensors")
    names = ("key", "previous", "number", "checksum", "made_from", "needs", "tree")
    return SegmentFile(path, **{name: told[name] for name in names})


def _file_for(file: SegmentFile, key: str, file_of: Callable[[str], SegmentFile]) -> SegmentFile:
    if key == file.key:
        return file
    other = file_of(key)
    if other.checksum != file.needs.get(key):
        raise ValueError(f"it was made on top of another {other.path.name}")
    return other


def _mapped(file: SegmentFile, places: list[Place]) -> dict[Place, torch.Tensor]:
    """Tensors of one file that share its pages with the page cache; on the CPU."""
    with safe_open(file.tensors_path, framework="pt", device="cpu") as content:
        held = set(content.keys())
        for _, name in places:
            if name not in held:
                raise ValueError(f"{file.tensors_path.name} has no {name[:80]}")
        return {place: content.get_tensor(place[1]) for place in places}
