"""Files in the host's input and output folders, by names a user typed. No other place is ever read or written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

_PLAIN = re.compile(r"[A-Za-z0-9 _.,()+=%-]+")
# Names that Windows gives to devices, with any extension.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MAX_NAME = 200
_MAX_LISTED = 2000  # files looked at for a menu: an input folder may be a whole video archive


def listed_input(extensions: set[str]) -> list[str]:
    """Names of files in the input folder with one of `extensions`, and of folders that hold a COLMAP text model."""
    root = Path(folder_paths.get_input_directory())
    found = []
    for seen, path in enumerate(_walked(root)):
        if seen >= _MAX_LISTED:
            break
        if path.suffix.lower() in extensions:
            found.append(path.relative_to(root).as_posix())
        if path.name == "images.txt" and (path.parent / "cameras.txt").is_file() and path.parent != root:
            found.append(path.parent.relative_to(root).as_posix())
    return sorted(found)


def input_path(name: str) -> Path:
    """A file or folder in the input folder (or, with " [output]" behind its name, in the output folder).

    Raises ValueError for a name that leads elsewhere, holds control characters, or belongs to nothing.
    """
    if not name.strip() or any(ord(letter) < 32 for letter in name) or not name.isprintable():
        raise ValueError(f"{name!r} is no file name. Choose a file of ComfyUI's input folder.")
    try:
        path = Path(folder_paths.get_annotated_filepath(name))
    except ValueError as error:
        raise ValueError(
            f"{name!r} lies outside of ComfyUI's input folder. Copy the file into it and choose it there."
        ) from error
    if not path.exists():
        raise ValueError(f"There is no {name!r} in ComfyUI's input folder. Copy it there, or choose another file.")
    return path


def input_problem(name: str) -> str | None:
    """What is wrong with a name for input_path, or None."""
    try:
        input_path(name)
    except ValueError as error:
        return str(error)
    return None


def input_stamp(name: str) -> str:
    """A text that changes when the file, or a file in the folder, does; for the host's cache."""
    if input_problem(name) is not None:
        return name
    path = input_path(name)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return repr([(one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in files])


def output_path(prefix: str, extension: str) -> Path:
    """A new place in the output folder: prefix_00001 and the extension, its number the first that is free.

    prefix: may name subfolders with "/", and the host's %year%, %month%, %day%, %hour%, %minute%, %second%.
    extension: ".ply", or "" for a folder.

    Raises ValueError for an absolute path, "..", an empty part, and letters other than plain ones.
    """
    parts = prefix.split("/")
    for part in parts:
        if not _PLAIN.fullmatch(part) or part.strip(" .") != part or _DEVICES.fullmatch(part) or len(part) > _MAX_NAME:
            raise ValueError(
                f"{prefix!r} is no name for a file in the output folder. Use letters from a to z, digits, spaces and "
                '_ - . ( ), and "/" between folders, such as "cameras/flight".'
            )
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{number:05}{extension}"


def saved(paths: list[Path], *, text: str) -> dict:
    """What a node shows about files it wrote: the text, and the files as the web page can fetch them."""
    root = Path(os.path.realpath(folder_paths.get_output_directory()))
    relative = [Path(os.path.realpath(path)).relative_to(root) for path in paths]
    files = [
        ui.SavedResult(path.name, "" if path.parent == Path() else path.parent.as_posix(), io.FolderType.output)
        for path in relative
    ]
    return {"text": (text,), "files": files}


def output_name(path: Path) -> str:
    """A written file or folder as the user finds it: its name within the output folder."""
    root = os.path.realpath(folder_paths.get_output_directory())
    return Path(os.path.relpath(os.path.realpath(path), root)).as_posix()


def _walked(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(folder) / file for file in sorted(files))
