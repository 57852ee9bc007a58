"""What a film's files hold, in a small JSON file beside them, and which film on disk a memory belongs to.

The ledger is written before and after the film changes, never trusted without looking at the film itself, and never
needed to play it.
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import comfy.model_management

from ..mirage_core.film import shared_prefix

_VERSION = 1
_MAX_BYTES = 16 * 2**20  # a ledger of a thousand segments has 200 KB


@dataclass(frozen=True)
class Piece:
    """A piece of a film on disk. key: mirage_core.film.  size: bytes.  digest: sha256 of those bytes."""

    key: str
    frames: int
    size: int
    digest: str


@dataclass(frozen=True)
class Ledger:
    """What a film's files hold.

    settings: all that its frames depend on beside the latents.
    head, head_digest: bytes before the first piece and their sha256.
    stamp: of the files as they were written last; they are read again only when it changed.
    finished, finished_stamp: sha256 and stamp of the same film as an ordinary MP4; "" when it was never made.
    """

    settings: dict[str, Any]
    pieces: tuple[Piece, ...] = ()
    head: int = 0
    head_digest: str = ""
    stamp: str = ""
    finished: str = ""
    finished_stamp: str = ""

    @property
    def keys(self) -> list[str]:
        return [piece.key for piece in self.pieces]

    @property
    def frames(self) -> int:
        return sum(piece.frames for piece in self.pieces)


def ledger_path(film: Path) -> Path:
    return film.with_suffix(".json")


def save_ledger(film: Path, ledger: Ledger) -> None:
    """Write the ledger of a film so that a crash leaves the old one or the new one."""
    path = ledger_path(film)
    with part_of(path) as part:
        with open(part, "w", encoding="utf-8") as file:
            file.write(json.dumps({"version": _VERSION, **asdict(ledger)}, indent=1))
            to_disk(file)
        os.replace(part, path)


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A file to be made beside `path` and then put in its place. On an error it goes: a full disk wants space back."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def to_disk(file: IO) -> None:
    """Have all that was written to a file on the disk before anything else is written."""
    file.flush()
    os.fsync(file.fileno())


def load_ledger(film: Path) -> Ledger | None:
    """The ledger of a film, or None when there is none that can be read."""
    try:
        if ledger_path(film).stat().st_size > _MAX_BYTES:
            return None
        found = json.loads(ledger_path(film).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
            return None
        pieces = tuple(Piece(**one) for one in found.pop("pieces"))
        ledger = Ledger(pieces=pieces, **found)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    counts = [ledger.head, *(number for piece in pieces for number in (piece.frames, piece.size))]
    texts = [ledger.head_digest, ledger.stamp, ledger.finished, ledger.finished_stamp, *ledger.keys]
    texts += [piece.digest for piece in pieces]
    is_sound = all(type(one) is int and one >= 0 for one in counts) and all(isinstance(one, str) for one in texts)
    return ledger if is_sound and isinstance(ledger.settings, dict) else None


def known_films(new: Path, settings: dict[str, Any], keys: list[str]) -> list[tuple[int, Path, Ledger]]:
    """Films of the same name and settings that begin as a memory does: those that share most first.

    new: the next free place for a film, name_00007.mp4.  keys: of the memory's pieces.
    Returns (pieces in common, film, its ledger); of those that share the same, the shorter first.
    """
    name = new.stem.rpartition("_")[0]
    settings = json.loads(json.dumps(settings))
    found = []
    for path in sorted(new.parent.glob(f"{glob.escape(name)}_[0-9]*.json")):
        film = path.with_suffix(new.suffix)
        ledger = load_ledger(film)
        if ledger is not None and ledger.settings == settings and (common := shared_prefix(ledger.keys, keys)):
            found.append((common, film, ledger))
    return sorted(found, key=lambda one: (-one[0], len(one[2].pieces)))


def free_place(path: Path) -> Path:
    """A path name_00007.mp4, or the next number at which there is no film: while a server waits for its turn, another
    may take the place that was free. To be asked for under sole_writer()."""
    name, _, number = path.stem.rpartition("_")
    at = int(number)
    while any(one.exists() for one in (path, path.with_suffix(""), ledger_path(path))):
        at += 1
        path = path.with_name(f"{name}_{at:05}{path.suffix}")
    return path


@contextmanager
def sole_writer(folder: Path, when_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other servers from writing films into the same folder meanwhile. The lock goes with the process.

    when_waiting: called once when another server is writing there now.  Raises OSError when the folder takes no lock.
    """
    with open(folder / ".mirage_films.lock", "a+b") as file:
        if not _locked(file):
            when_waiting()
            while not _locked(file):
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.2)
        yield


if os.name == "nt":
    import msvcrt

    def _locked(file: BinaryIO) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            return False
        return True
else:
    import fcntl

    def _locked(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network folders know no locks: better a film without one than none
            return True
        return True
