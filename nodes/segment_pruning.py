"""What is deleted of the kept segments, when: the oldest beyond the quota, and what dead processes left behind.

A server that films marks the folder as in use; such folders are left alone, and everywhere the segments go first that
were not used for longest.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from ..mirage_core.rollout_files import maker

# A mark or a file of another machine that old is of a process that died: no segment takes that long.
_DEAD_SECONDS = 24 * 3600
_UNFINISHED_SECONDS = 2 * 3600  # in which tensors may be without their JSON, which is written next
_YOUNG_SECONDS = 3
_CLOCK_SECONDS = 600  # by which clocks of a machine and of its disks may differ
_MAKER = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(?:part|mark)$")
_NAME = re.compile(r"(start|segment_\d{4})_[0-9a-f]{20}(?=[._])")


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
    for path in sorted(groups, key=lambda one: (last_used(one), -_number(one))):
        if total - deleted <= quota_bytes:
            break
        if path not in spared and _is_free(path.parent, spared) and not _is_unfinished(path, groups[path]):
            deleted += _delete([path, *groups[path]])
    for folder in _film_folders(root):
        clean(folder)
    return deleted


def make_room(root: Path, wanted_bytes: int, *, spared: Iterable[Path] = ()) -> int:
    """On a full disk: delete so many bytes of the kept segments not used for longest. Returns how many it were."""
    total = sum(_bytes_of(files) for files in segment_files(root).values())
    return prune(root, max(0, total - wanted_bytes), spared=spared)


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


def _is_unfinished(path: Path, files: list[Path]) -> bool:
    """True for tensors whose JSON is missing because a server is about to write it."""
    return path not in files and time.time() - max(map(last_used, files)) < _UNFINISHED_SECONDS


def _is_left_over(path: Path) -> bool:
    """True for an unfinished file or a mark of a process that has ended, however it ended."""
    touched = last_used(path)
    age = time.time() - touched
    made_by = _MAKER.search(path.name)
    if made_by is None or made_by[1] != maker()[:8]:
        return age > _DEAD_SECONDS
    # The age is for two containers of one name, where process ids mean nothing.
    return age > _YOUNG_SECONDS and not _is_alive(int(made_by[2]), touched)


def _is_alive(process: int, touched: float) -> bool:
    """Whether the process that touched a file lives. One that began later only has its number."""
    try:
        return psutil.Process(process).create_time() <= touched + _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's
        return True


def last_used(path: Path) -> float:
    """When a file was last written or touched, in seconds since 1970; 0 when it is not there."""
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
