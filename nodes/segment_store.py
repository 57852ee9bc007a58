"""Finished segments on disk: a folder per film under output/mirage, bounded, for several prompts and servers at once.

Files are only ever added whole or taken away, so nobody needs a lock to read. A server that films marks the folder as
in use; pruning leaves such folders alone, and everywhere takes the segments first that were not used for longest.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
from .host_files import is_inside, name_problem

GIB = 2**30
_KEY_LETTERS = 20
_IN_USE_SECONDS = 2 * 3600  # longer than a segment takes; a mark that old is of a server that died
_YOUNG_SECONDS = 3
_MAX_LISTED, _MAX_COMPARED = 500, 20
_MAKER = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(?:part|mark)$")
_NAME = re.compile(r"(start|segment_\d{4})_[0-9a-f]{20}(?=[._])")


@dataclass(frozen=True)
class SegmentStore:
    """The segments of one film, in one folder; different seeds or prompts of it lie side by side.

    root: the folder of all films.  folder: this film's.
    """

    root: Path
    folder: Path
    mark: Path = field(init=False)

    def __post_init__(self) -> None:
        name = f".in_use.{maker()}-{uuid.uuid4().hex[:8]}.mark"
        object.__setattr__(self, "mark", self.folder / name)

    def path_of(self, key: str, number: int, *, is_start: bool = False) -> Path:
        """Where the JSON of a segment is, if it is kept. number: finished segments with this one."""
        kind = "start" if is_start else f"segment_{number:04d}"
        return self.folder / f"{kind}_{key[:_KEY_LETTERS]}.json"

    def find(self, key: str, number: int, *, is_start: bool = False) -> SegmentFile | None:
        """A kept segment whose tensors are not looked at yet; None when there is none. A damaged one is set aside."""
        path = self.path_of(key, number, is_start=is_start)
        if not path.is_file():
            return None
        try:
            file = read_segment(path)
            if file.key == key and file.tensors_path.is_file():
                return file
        except ValueError:
            pass
        except OSError:
            return None
        set_aside(path)
        return None

    def load(self, file: SegmentFile, before: KeptRollout | None, *, of: Mapping[str, SegmentFile]) -> KeptRollout:
        """A kept segment, checked to the last bit. Raises ValueError when it is damaged, or rests on other files."""
        check_tensors(file)
        return load_rollout(file, file_of=of.__getitem__, before=before)

    def write(
        self, rollout: Rollout, *, key: str, made_from: Mapping[str, str], before: KeptRollout | None,
        of: Mapping[str, SegmentFile],
    ) -> KeptRollout:  # fmt: skip
        """Keep a segment and give it back as it lies on disk.

        of: the film's earlier segments by key.  Raises OSError when it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = write_segment(
            self.path_of(key, rollout.segments_done, is_start=before is None),
            rollout,
            key=key,
            previous=before.file.key if before else "",
            made_from=made_from,
            places=before.places if before else {},
            checksums={one: other.checksum for one, other in of.items()},
        )
        return self.load(file, before, of={**of, key: file})

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

    Raises ValueError for a name that is none, or a link that leads out of root's folder.
    """
    check_run_name(run)
    folder = root / (run or f"film_{start_key[:12]}")
    if not is_inside(folder, root.parent):
        raise ValueError(f"run is {run!r}, a link to another place. Delete the link, or use another name.")
    return folder


def check_run_name(run: str) -> None:
    """Raise ValueError for a run that cannot be the name of a folder."""
    problem = (name_problem(run) or ('it has a "/"' if "/" in run else None)) if run else None
    if problem is not None:
        raise ValueError(f"run is {run[:80]!r} ({problem}). Use a plain name such as castle_flight, or leave it empty.")


def kept_films(root: Path) -> list[str]:
    """Names of the folders that keep a film, the newest first."""
    starts = sorted(root.glob("*/start_*.json"), key=_last_used, reverse=True)
    return list(dict.fromkeys(path.parent.name for path in starts))[:_MAX_LISTED]


def kept_segments(folder: Path) -> list[SegmentFile]:
    """All segments in a folder whose JSON can be read."""
    files = []
    for path in sorted(folder.glob("*.json")):
        try:
            files.append(read_segment(path))
        except (ValueError, OSError):
            continue
    return files


def set_aside(path: Path) -> None:
    """Give both files of a damaged segment another name, so that it is made again and can be looked at."""
    stem = path.name.removesuffix(".json")
    for one in (path, *path.parent.glob(f"{stem}_*.safetensors")):
        try:
            os.replace(one, one.with_name(f"{one.name}.damaged"))
        except OSError:  # gone, or read-only; then it is not written again either
            pass


def prune(root: Path, quota_bytes: int, *, spared: Iterable[Path] = ()) -> int:
    """Delete the kept segments that were not used for longest until all films under root fit.

    spared: JSONs that stay.  Films that another server is making stay as they are. Returns the bytes deleted.
    """
    spared, groups = set(spared), segment_files(root)
    total = sum(_bytes_of(files) for files in groups.values())
    if total <= quota_bytes:
        return 0
    deleted = 0
    # The end of a film goes before its beginning, on which it rests: marks of use are at least as new there.
    for path in sorted(groups, key=lambda one: (_last_used(one), -_number(one))):
        if total - deleted <= quota_bytes:
            break
        if path not in spared and _is_free(path.parent, spared):
            deleted += _delete([path, *groups[path]])
    for folder in _film_folders(root):
        clean(folder)
    return deleted


def segment_files(root: Path) -> dict[Path, list[Path]]:
    """All files of kept segments under root, by the place of their JSON; also of those whose JSON is missing."""
    groups: dict[Path, list[Path]] = {}
    for folder in _film_folders(root):
        for name in os.listdir(folder):
            if (known := _NAME.match(name)) is not None:
                groups.setdefault(folder / f"{known[0]}.json", []).append(folder / name)
    return groups


def _film_folders(root: Path) -> Iterator[Path]:
    return (path for path in root.glob("*") if path.is_dir() and not path.is_symlink())


def _is_free(folder: Path, spared: set[Path]) -> bool:
    """True where nobody films, or only those whose segments are spared."""
    marks = [one for one in folder.glob(".in_use.*.mark") if not _is_left_over(one)]
    is_own = any(one.parent == folder for one in spared) and all(f".{maker()}-" in one.name for one in marks)
    return not marks or is_own


def _is_left_over(path: Path) -> bool:
    """True for an unfinished file or a mark of a process that has ended, however it ended."""
    age = time.time() - _last_used(path)
    made_by = _MAKER.search(path.name)
    if made_by is None or age > _IN_USE_SECONDS:
        return age > _IN_USE_SECONDS
    host, process = made_by.groups()
    # The age is for two containers of one name, where process ids mean nothing.
    return age > _YOUNG_SECONDS and host == maker()[:8] and not _is_alive(int(process))


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _newest(folder: Path, pattern: str) -> Iterator[SegmentFile]:
    for path in sorted(folder.glob(pattern), key=_last_used, reverse=True)[:_MAX_COMPARED]:
        try:
            yield read_segment(path)
        except (ValueError, OSError):
            continue


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _number(path: Path) -> int:
    number = re.match(r"segment_(\d{4})_", path.name)
    return int(number[1]) if number else -1


def _bytes_of(files: Iterable[Path]) -> int:
    total = 0
    for one in files:
        try:
            total += one.stat().st_size
        except OSError:
            pass
    return total


def _delete(files: Iterable[Path]) -> int:
    """Delete files, the JSON first. Returns the bytes that are free now."""
    freed = 0
    for one in dict.fromkeys(files):
        try:
            size = one.stat().st_size
            one.unlink()
            freed += size
        except OSError:  # gone already; or on Windows, while its tensors are mapped: the next pruning takes it
            pass
    return freed


def clean(folder: Path) -> None:
    """Delete what processes that have ended left behind in the folder of a film, and the folder when it is empty."""
    try:
        for path in folder.iterdir():
            if path.name.endswith((".mark", ".part")) and path.name.startswith(".") and _is_left_over(path):
                _delete([path])
        folder.rmdir()
    except OSError:  # not there, or not empty
        pass
