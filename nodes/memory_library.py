"""The memories that are kept on this machine: in output/mirage_memories, and in the model folders of that name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..mirage_core.rollout import Rollout
from ..mirage_core.scene_files import save_scene
from .host_files import filled, is_inside, name_problem, swept, taken_place

FOLDER = "mirage_memories"
_EXTENSION = ".safetensors"
_MAX_LISTED = 2000


def register_memory_folder() -> None:
    """Make models/mirage_memories known to the host, so that extra_model_paths can add to it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {_EXTENSION})


def listed_memories() -> list[str]:
    """Names of all kept memories, newest first; a name in several folders is listed once."""
    found: dict[str, float] = {}
    for root in _roots():
        for path in _walked(root):
            if not _is_reserved(path):
                found.setdefault(path.relative_to(root).as_posix(), _changed_at(path))
            if len(found) >= _MAX_LISTED:
                break
    return sorted(found, key=lambda name: (-found[name], name))


def memory_path(name: str) -> Path:
    """A kept memory by its name in the list; of several, the one in the output folder.

    Raises ValueError for a name that leads elsewhere, also through a link, or belongs to nothing.
    """
    if (problem := name_problem(name)) is not None or not name.endswith(_EXTENSION):
        raise ValueError(
            f"{name[:80]!r} is no name of a memory ({problem or 'it does not end in ' + _EXTENSION}). "
            "Choose one from the list."
        )
    for root in _roots():
        path = root / name
        if path.is_file():
            if not is_inside(path, root):
                raise ValueError(f"{name[:80]!r} leads out of {root} through a link. Copy the file into that folder.")
            return path
    raise ValueError(
        f"There is no memory {name[:80]!r}. Press R to see what is in output/{FOLDER} and models/{FOLDER}."
    )


def keep_memory(rollout: Rollout, name: str) -> Path:
    """Write a film's memory under a new name in the output folder: name_00001 and so on.

    Raises ValueError for a name that is no plain file name, and for a folder or a disk that takes no file.
    """
    path = taken_place(f"{FOLDER}/{name}", _EXTENSION)
    swept(_leftovers(path.parent))
    with filled(path):
        made_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        save_scene(rollout, path, provenance={"made_by": f"ComfyUI-Mirage {pack_version()}", "made_at": made_at})
    return path


@lru_cache(maxsize=1)
def pack_version() -> str:
    """The version in pyproject.toml, or "unknown"."""
    try:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def _leftovers(folder: Path) -> Iterator[Path]:
    """What a save leaves that is killed: its empty file, which holds the name, and the half-written one beside it."""
    numbered = f"*_[0-9][0-9][0-9][0-9][0-9]{_EXTENSION}"
    yield from folder.glob(f"{numbered}.*.part")
    yield from (path for path in folder.glob(numbered) if _is_reserved(path))


def _is_reserved(path: Path) -> bool:
    """True for a file that only holds its name for a save that is not done."""
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _roots() -> list[Path]:
    output = Path(folder_paths.get_output_directory()) / FOLDER
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    return [output, *(Path(one) for one in paths)]


def _walked(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(folder) / file for file in sorted(files) if file.endswith(_EXTENSION))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
