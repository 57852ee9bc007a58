"""Finished segments on disk: a folder per film under output/mirage, for several prompts and servers at once.

Files are only ever added whole or taken away, so nobody needs a lock to read. What is deleted when: segment_pruning.py.
"""

from __future__ import annotations

import glob
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ..mirage_core.rollout import Rollout
from ..mirage_core.rollout_files import (
    KeptRollout,
    SegmentFile,
    check_tensors,
    load_rollout,
    maker,
    read_segment,
    write_segment,
)
from ..mirage_core.rollout_trees import ForeignSegment, Place
from .host_files import is_inside, name_problem
from .segment_pruning import last_used

GIB = 2**30
_KEY_LETTERS = 20
_MAX_LISTED, _MAX_COMPARED = 500, 20
_MAX_READ = 512 << 20  # bytes of JSON; a film of a thousand segments has about 100 MB
_PATIENCE = (0.2, 1.0)

T = TypeVar("T")


@dataclass(frozen=True)
class SegmentStore:
    """The segments of one film, in one folder; different seeds or prompts of it lie side by side.

    root: the folder of all films.  folder: this film's.
    warnings: one sentence on each file that cannot be used, for the user; find() and load() add to them.
    """

    root: Path
    folder: Path
    warnings: list[str] = field(default_factory=list)
    mark: Path = field(init=False)

    def __post_init__(self) -> None:
        name = f".in_use.{maker()}-{uuid.uuid4().hex[:8]}.mark"
        object.__setattr__(self, "mark", self.folder / name)

    def path_of(self, key: str, number: int, *, is_start: bool = False) -> Path:
        """Where the JSON of a segment is, if it is kept. number: finished segments with this one."""
        kind = "start" if is_start else f"segment_{number:04d}"
        return self.folder / f"{kind}_{key[:_KEY_LETTERS]}.json"

    def find(self, key: str, number: int, *, is_start: bool = False) -> SegmentFile | None:
        """A kept segment whose tensors are not looked at yet; None when there is none that can be used."""
        path = self.path_of(key, number, is_start=is_start)
        try:
            file = self._patiently(lambda: read_segment(path))
            if file.key != key:
                raise ValueError(f"{path.name} holds another segment than its name says.")
            if not file.tensors_path.exists():
                raise ValueError(f"{file.tensors_path.name} is not there.")
            return file
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, OSError) as error:
            self._refuse(path, error)
            return None

    def load(
        self, file: SegmentFile, before: KeptRollout | None, *, of: Mapping[str, SegmentFile]
    ) -> KeptRollout | None:
        """A kept segment, checked to the last bit; None when it cannot be used.

        of: the film's segments so far by key, with this one.
        """
        try:
            return self._patiently(lambda: self._checked(file, before, of))
        except (ValueError, OSError) as error:
            self._refuse(file.path, error)
            return None

    def write(
        self, rollout: Rollout, *, key: str, made_from: Mapping[str, str], before: KeptRollout | None,
        of: Mapping[str, SegmentFile], places: Mapping[int, Place],
    ) -> KeptRollout:  # fmt: skip
        """Keep a segment and give it back as it lies on disk.

        of: the film's earlier segments by key.  places: where tensors of it lie already, by id(tensor).
        Raises OSError when it cannot be written, and ValueError or TypeError when it could not be read again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = write_segment(
            self.path_of(key, rollout.segments_done, is_start=before is None),
            rollout,
            key=key,
            previous=before.file.key if before else "",
            made_from=made_from,
            places=places,
            checksums={one: other.checksum for one, other in of.items()},
        )
        return self._checked(file, before, {**of, key: file})

    def warn(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            logging.warning("Mirage: %s", text)

    def _checked(self, file: SegmentFile, before: KeptRollout | None, of: Mapping[str, SegmentFile]) -> KeptRollout:
        check_tensors(file)
        return load_rollout(file, file_of=of.__getitem__, before=before)

    def _patiently(self, read: Callable[[], T]) -> T:
        """What `read` gives; a virus scanner or a network is given a moment, but only once per film."""
        for seconds in () if self.warnings else _PATIENCE:
            try:
                return read()
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError:
                time.sleep(seconds)
        return read()

    def _refuse(self, path: Path, error: Exception) -> None:
        """Set a damaged segment aside. What cannot be read now, or by this version, may be sound: it stays."""
        told = str(error).rstrip(".")
        if isinstance(error, ForeignSegment):
            self.warn(f"{told}. It stays as it is; use the version of Mirage that wrote it, or another run name.")
        elif isinstance(error, OSError):
            self.warn(
                f"{path.name} cannot be read now ({told}). It stays as it is; cancel, and queue again when the disk "
                "answers, or the segment is made once more."
            )
        elif set_aside(path):
            self.warn(f"{told}. It is set aside as {path.name}.damaged and made again.")

    def mark_in_use(self, files: Iterable[SegmentFile] = ()) -> None:
        """Tell pruning, here and on other servers, that this film is being made of these segments."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.mark.touch()
            now = time.time()
            for file in files:
                os.utime(file.path, (now, now))
        except OSError:  # read-only: nothing can be pruned there either
            pass

    def release(self) -> None:
        """This film is finished, or given up."""
        try:
            self.mark.unlink(missing_ok=True)
        except OSError:
            pass

    def newest(self, number: int, *, previous: str) -> SegmentFile | None:
        """The most recently used kept segment with this number that follows the key `previous`, whatever made it."""
        return next(
            (one for one in _newest(self.folder, f"segment_{number:04d}_*.json") if one.previous == previous), None
        )

    def starts(self) -> Iterator[SegmentFile]:
        """How the most recently used films start."""
        return _newest(self.root, "*/start_*.json")


def film_root(output_directory: str) -> Path:
    """The folder of all kept films."""
    return Path(output_directory) / "mirage"


def film_folder(root: Path, run: str, start_key: str) -> Path:
    """The folder of a film: by the name a user gave it, else by what it starts with.

    Raises ValueError for a name that is none, or is a link.
    """
    check_run_name(run)
    folder = root / (run or f"film_{start_key[:12]}")
    # The root may be a link to a larger disk; below it, a film's folder is its own.
    if folder.is_symlink() or not is_inside(folder, root):
        raise ValueError(f"run is {folder.name!r}, a link to another place. Delete the link, or use another name.")
    return folder


def kept_starts(root: Path, run: str) -> Iterator[SegmentFile]:
    """How the films of a run start, of all films without a name for "", the most recently used first."""
    return _newest(root, f"{glob.escape(run) or 'film_*'}/start_*.json", most=_MAX_LISTED)


def check_run_name(run: str) -> None:
    """Raise ValueError for a run that cannot be the name of a folder."""
    problem = (name_problem(run) or ('it has a "/"' if "/" in run else None)) if run else None
    if problem is not None:
        raise ValueError(f"run is {run[:80]!r} ({problem}). Use a plain name such as castle_flight, or leave it empty.")


def kept_films(root: Path) -> list[str]:
    """Names of the folders that keep a film, the newest first."""
    starts = sorted(root.glob("*/start_*.json"), key=last_used, reverse=True)
    return list(dict.fromkeys(path.parent.name for path in starts))[:_MAX_LISTED]


def kept_segments(folder: Path, *, limit: int = _MAX_READ) -> list[SegmentFile]:
    """All segments in a folder whose JSON can be read, without their trees: one film's worth of trees fills the memory.

    limit: bytes that are read.  Raises ValueError when there are more.
    """
    files, left = [], limit
    for path in sorted(folder.glob("*.json")):
        try:
            file = read_segment(path)
            left -= path.stat().st_size
        except (ValueError, OSError):
            continue
        if left < 0:
            raise ValueError(
                f"The run {folder.name!r} has more than {limit >> 20} MiB of descriptions, more than any film makes. "
                "Move segments you do not need out of its folder."
            )
        files.append(replace(file, tree=None))
    return files


def set_aside(path: Path) -> bool:
    """Give both files of a damaged segment another name, so that it is made again and can be looked at.

    Returns whether a file was there to rename.
    """
    stem, is_renamed = path.name.removesuffix(".json"), False
    for one in (path, *path.parent.glob(f"{stem}_*.safetensors")):
        try:
            os.replace(one, one.with_name(f"{one.name}.damaged"))
            is_renamed = True
        except OSError:  # gone, or read-only; then it is not written again either
            pass
    return is_renamed


def _newest(folder: Path, pattern: str, *, most: int = _MAX_COMPARED) -> Iterator[SegmentFile]:
    for path in sorted(folder.glob(pattern), key=last_used, reverse=True)[:most]:
        try:
            yield read_segment(path)
        except (ValueError, OSError):
            continue
