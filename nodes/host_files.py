"""Files in the host's input and output folders, by names a user typed. No other place is ever read or written."""

from __future__ import annotations

import os
import re
import shutil
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

_PLAIN = re.compile(r"[A-Za-z0-9 _.,()+=%-]+")
# Names that Windows gives to devices, with any extension and with spaces before it.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)
_MAX_NAME = 200
_MAX_PATH = 1000
_ANNOTATIONS = (" [input]", " [output]", " [temp]")  # the host's own, behind a name
_MAX_LISTED = 2000  # files looked at for a menu: an input folder may be a whole video archive
_TRIES = 100
_LEFT_ALONE = 24 * 3600.0  # seconds after its last write in which a half-written file may still be somebody's


class UnwritableFolder(ValueError):
    """A folder in the output folder takes no files; the text says which one, why, and what to do."""


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

    Raises ValueError for a name that leads elsewhere, also through a link, that some system reads differently, or that
    belongs to nothing.
    """
    plain = next((name.removesuffix(one) for one in _ANNOTATIONS if name.endswith(one)), name)
    if (problem := name_problem(plain)) is not None:
        raise ValueError(f"{_shown(name)} is no file name ({problem}). Choose a file of ComfyUI's input folder.")
    roots = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    outside = f"{_shown(name)} lies outside of ComfyUI's input folder. Copy the file into it and choose it there."
    try:
        path = Path(folder_paths.get_annotated_filepath(name))
    except ValueError as error:
        raise ValueError(outside) from error
    if not any(is_inside(path, Path(root)) for root in roots):
        raise ValueError(outside)
    if not path.exists():
        raise ValueError(
            f"There is no {_shown(name)} in ComfyUI's input folder. Copy it there, or choose another file."
        )
    return path


def name_problem(name: str) -> str | None:
    """Why a relative path with "/" could lead elsewhere on some system, or None.

    Beside "..": letters that turn a text around or that others read as "/" or ".", letters that Windows has in no name,
    names of devices, and ends that Windows drops.
    """
    if not name.strip():
        return "it is empty"
    if "\0" in name or not name.isprintable():
        return "it holds letters that cannot be seen"
    # Full-width and other look-alikes become these letters where names are brought into one form.
    if any(letter in "/\\.:~" for one in name if one not in "/\\.:~" for letter in unicodedata.normalize("NFKC", one)):
        return "it holds look-alikes of / and ."
    if "\\" in name or ":" in name or name.startswith(("/", "~")):
        return 'it is not a path with "/" inside the folder'
    if any(letter in '<>|"?*' for letter in name):
        return 'it holds one of < > | " ? *, which Windows has in no name'
    if len(name.encode("utf-8", "replace")) > _MAX_PATH:
        return f"it is longer than {_MAX_PATH} bytes"
    for part in name.split("/"):
        if part in ("", ".", "..") or part.strip(" ") != part or part.endswith("."):
            return 'a part of it is empty, "..", or has a space or full stop at its end'
        if _DEVICES.fullmatch(part):
            return "a part of it is the name of a device"
        if len(part.encode("utf-8", "replace")) > _MAX_NAME:
            return f"a part of it is longer than {_MAX_NAME} bytes"
    return None


def is_inside(path: Path, root: Path) -> bool:
    """True when a path, all links followed, lies in a folder."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except OSError:
        return False


def _shown(name: str) -> str:
    return repr(name[:80])


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

    Another server may take the place meanwhile: see taken_place().
    Raises ValueError for an absolute path, "..", an empty part, letters that are not plain, and a link that leads out;
    UnwritableFolder when its folder cannot be made.
    """
    problem = name_problem(prefix)
    if problem is not None or not all(_PLAIN.fullmatch(part) for part in prefix.split("/")):
        why = f" ({problem})" if problem else ""
        raise ValueError(
            f"{_shown(prefix)} is no name for a file in the output folder{why}. Use letters from a to z, digits, "
            'spaces and _ - . ( ), and "/" between folders, such as "cameras/flight".'
        )
    root = Path(folder_paths.get_output_directory())
    if not is_inside(root / prefix, root):
        raise ValueError(f"{prefix!r} leads outside the output folder through a link. Choose another name.")
    try:
        folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, str(root))
    except OSError as error:
        raise UnwritableFolder(_refused(root / prefix, error)) from error
    return Path(folder) / f"{name}_{number:05}{extension}"


def taken_place(prefix: str, extension: str) -> Path:
    """output_path(), with an empty file there, or an empty folder for "": two servers are never given the same.

    Raises ValueError as output_path() does, and UnwritableFolder when nothing can be made there.
    """
    for _ in range(_TRIES):
        path = output_path(prefix, extension)
        try:
            if extension:
                path.open("x").close()
            else:
                path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UnwritableFolder(_refused(path, error)) from error
        return path
    raise UnwritableFolder(f"No free name for {prefix} was found in {_TRIES} tries. Choose another name.")


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """Around what is written to a taken place: nothing stays there when it does not come to its end.

    Raises UnwritableFolder in place of OSError.
    """
    try:
        yield
    except BaseException as error:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UnwritableFolder(
                f"{output_name(place)} could not be written ({error.strerror or error}). Free some space or choose "
                "another folder, and queue again."
            ) from error
        raise


def swept(leftovers: Iterable[Path]) -> None:
    """Delete the files that nobody has written to for a day: killed processes left them half-written.

    A disk that refuses is no reason to stop: they are only in the way.
    """
    for path in leftovers:
        try:
            if time.time() - path.stat().st_mtime > _LEFT_ALONE:
                path.unlink()
        except OSError:
            continue


def _refused(path: Path, error: OSError) -> str:
    return (
        f"The folder {output_name(path.parent)!r} of ComfyUI's output folder cannot be written "
        f"({error.strerror or error}). Make it writable, free some space, or choose another folder."
    )


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
