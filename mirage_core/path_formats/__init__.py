"""Camera paths of other tools: reading and writing files, with one table of their conventions.

`read(path)` and `decode(data)` give a CameraTrack in the project's one convention (camera.py); `encode` and `write`
turn one into a file. FORMATS is the table that the help page shows. A reader never guesses: what a file does not say
comes from ReadOptions, and what makes no sense ends in a sentence that names the place. Nothing is evaluated or
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .colmap import read_colmap, write_colmap
from .exports import frame_table, write_ply
from .gltf import read_gltf, write_gltf
from .host_sockets import (
    cameras_of_load3d,
    cameras_of_wan_embedding,
    load3d_of_cameras,
    wan_embedding_of_cameras,
)
from .matrices import (
    read_npy,
    read_recammaster,
    read_spatia,
    read_spatia_intrinsics,
    write_npy,
    write_recammaster,
    write_spatia,
    write_spatia_intrinsics,
)
from .mirage_json import FORMAT as _OWN_FORMAT
from .mirage_json import read_mirage_json, write_mirage_json
from .nerfstudio import read_nerfstudio, write_nerfstudio
from .nuke_chan import read_chan, write_chan
from .omnicam import read_omnicam, write_omnicam
from .reading import MAX_BYTES, ReadOptions
from .realestate10k import read_realestate10k, write_realestate10k
from .track import MAX_CAMERAS, CameraTrack, fit_scale, fitted, in_first_camera, placed_at, summary
from .worldscore import WORLDSCORE_MOVES, read_worldscore, worldscore_cameras

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_CAMERAS",
    "WORLDSCORE_MOVES",
    "CameraTrack",
    "PathFormat",
    "ReadOptions",
    "cameras_of_load3d",
    "cameras_of_wan_embedding",
    "decode",
    "encode",
    "fit_scale",
    "fitted",
    "format_of",
    "formats_table",
    "frame_table",
    "in_first_camera",
    "load3d_of_cameras",
    "placed_at",
    "read",
    "read_colmap",
    "read_spatia_intrinsics",
    "summary",
    "wan_embedding_of_cameras",
    "worldscore_cameras",
    "write",
    "write_colmap",
    "write_npy",
    "write_ply",
]

Reader = Callable[[bytes, ReadOptions], CameraTrack]
Writer = Callable[[CameraTrack], "bytes | dict[str, bytes]"]


@dataclass(frozen=True)
class PathFormat:
    """One row of the table: a file format and the conventions it is read and written in."""

    name: str
    title: str
    extension: str
    axes: str
    direction: str
    intrinsics: str
    frame_rate: str
    scale: str
    read: Reader | None
    write: Writer | None


_CV = "OpenCV: x right, y down, z forward"
_GL = "OpenGL: x right, y up, looks down -z"
_SAME = "the file's own units"


def _files_of_spatia(track: CameraTrack) -> dict[str, bytes]:
    return {"w2c.txt": write_spatia(track), "intrinsics.txt": write_spatia_intrinsics(track)}


FORMATS: dict[str, PathFormat] = {
    row.name: row
    for row in (
        PathFormat(
            name="json",
            title="Mirage camera file (also Blender, by workflows/blender/mirage_camera_io.py)",
            extension=".json",
            axes=_CV,
            direction="camera to world",
            intrinsics="pixels, every frame",
            frame_rate="in the file",
            scale=_SAME,
            read=read_mirage_json,
            write=write_mirage_json,
        ),
        PathFormat(
            name="realestate10k",
            title="RealEstate10K text, 19 columns",
            extension=".txt",
            axes=_CV,
            direction="world to camera",
            intrinsics="divided by image width and height",
            frame_rate="from microsecond timestamps",
            scale=_SAME,
            read=read_realestate10k,
            write=write_realestate10k,
        ),
        PathFormat(
            name="nerfstudio",
            title="nerfstudio, instant-ngp, NeRF transforms.json",
            extension=".json",
            axes=f"{_GL} (cameras only; the world is kept)",
            direction="camera to world",
            intrinsics="pixels, shared or per frame",
            frame_rate="fps field if there",
            scale=_SAME,
            read=read_nerfstudio,
            write=write_nerfstudio,
        ),
        PathFormat(
            name="colmap",
            title="COLMAP text model: cameras.txt, images.txt, points3D.txt",
            extension="folder",
            axes=_CV,
            direction="world to camera",
            intrinsics="pixels, per camera",
            frame_rate="none: you give it",
            scale=_SAME,
            read=None,
            write=write_colmap,
        ),
        PathFormat(
            name="npy",
            title="NumPy array of matrices [n 4 4]",
            extension=".npy",
            axes=f"you choose; {_CV} by default",
            direction="you choose; camera to world by default",
            intrinsics="none: you give them",
            frame_rate="none: you give it",
            scale=_SAME,
            read=read_npy,
            write=write_npy,
        ),
        PathFormat(
            name="chan",
            title="Nuke, Houdini, Maya .chan",
            extension=".chan",
            axes=f"{_GL}, world y up, rotation order ZXY unless you say else",
            direction="camera to world",
            intrinsics="vertical field of view in degrees, centred",
            frame_rate="none: you give it",
            scale=_SAME,
            read=read_chan,
            write=write_chan,
        ),
        PathFormat(
            name="gltf",
            title="glTF 2.0 camera animation, .gltf or .glb (.glb is read only)",
            extension=".gltf",
            axes=f"{_GL}, world y up",
            direction="camera to world",
            intrinsics="one vertical field of view for the film, centred",
            frame_rate="from keyframe times in seconds",
            scale=f"{_SAME} (metres by the standard)",
            read=read_gltf,
            write=write_gltf,
        ),
        PathFormat(
            name="recammaster",
            title="ReCamMaster camera_extrinsics.json, or its matrices as text",
            extension=".json",
            axes="Unreal: x forward, y right, z up, left-handed, row vectors",
            direction="camera to world",
            intrinsics="none: you give them",
            frame_rate="none: you give it",
            scale="centimetres, read as metres",
            read=read_recammaster,
            write=write_recammaster,
        ),
        PathFormat(
            name="spatia",
            title="Spatia w2c.txt, one matrix per line",
            extension=".txt",
            axes=_CV,
            direction="world to camera",
            intrinsics="in intrinsics.txt beside it, divided by image width and height",
            frame_rate="none: you give it",
            scale=_SAME,
            read=read_spatia,
            write=_files_of_spatia,
        ),
        PathFormat(
            name="omnicam",
            title="OmniCam motion scene or camera track",
            extension=".json",
            axes=f"{_GL}, world y up, position and target",
            direction="camera to world",
            intrinsics="vertical field of view in degrees, centred",
            frame_rate="in the file, whole numbers",
            scale=_SAME,
            read=read_omnicam,
            write=write_omnicam,
        ),
        PathFormat(
            name="worldscore",
            title="WorldScore camera_data.json (its ten moves are presets)",
            extension=".json",
            axes=f"{_GL}, world x left, y up",
            direction="camera to world",
            intrinsics="focal length in pixels, centred",
            frame_rate="none: you give it",
            scale="1 = its camera speed",
            read=read_worldscore,
            write=None,
        ),
    )
}
"""Every file format by name, in the order of the help page. COLMAP is a folder: `read` and `read_colmap` take it."""


def decode(data: bytes | str, format: str = "auto", options: ReadOptions | None = None) -> CameraTrack:
    """The cameras in a file's content, or in text a user pasted.

    Raises ValueError for an unknown format, too much data, and whatever the format's reader refuses.
    """
    data = data.encode() if isinstance(data, str) else data
    if len(data) > MAX_BYTES:
        raise ValueError(f"The file has {len(data) >> 20} MiB; camera paths up to {MAX_BYTES >> 20} MiB are read.")
    name = format_of(data) if format == "auto" else format
    row = _row(name)
    if row.read is None:
        raise ValueError("A COLMAP model is a folder with cameras.txt and images.txt; give the folder, not one file.")
    read_data = row.read
    return _said_by(name, lambda: read_data(data, options or ReadOptions()))


def read(path: Path | str, format: str = "auto", options: ReadOptions | None = None) -> CameraTrack:
    """The cameras in a file, or in a folder (COLMAP text model, or one with transforms.json).

    Files named inside a .gltf are read from its own folder only.

    Raises ValueError as decode does, and when there is no such file.
    """
    path, options = Path(path), options or ReadOptions()
    if path.name in ("images.txt", "cameras.txt") and format in ("auto", "colmap"):
        path = path.parent
    if path.is_dir():
        if (path / "images.txt").is_file() and (path / "cameras.txt").is_file() and format in ("auto", "colmap"):
            cameras, images = _bytes_of(path / "cameras.txt"), _bytes_of(path / "images.txt")
            return _said_by("colmap", lambda: read_colmap(cameras, images, options))
        if (path / "transforms.json").is_file() and format in ("auto", "nerfstudio"):
            path = path / "transforms.json"
        else:
            raise ValueError(f"The folder {path.name!r} has neither cameras.txt and images.txt nor transforms.json.")
    data = _bytes_of(path)
    if format == "auto" and path.suffix.lower() == ".chan":
        format = "chan"
    if format == "spatia" or (format == "auto" and format_of(data) == "spatia"):
        options = _with_spatia_intrinsics(path, options)
    return decode(data, format, replace(options, folder=options.folder or path.parent))


def encode(track: CameraTrack, format: str) -> dict[str, bytes]:
    """The files of a track by file name; a format of one file has the single name "camera" + its extension.

    Raises ValueError for an unknown format, one that is only read, and cameras the format cannot store.
    """
    row = _row(format)
    if row.write is None:
        raise ValueError(f"{row.title} is read but not written. Use json, nerfstudio or colmap.")
    content = row.write(track)
    return content if isinstance(content, dict) else {f"camera{row.extension}": content}


def write(track: CameraTrack, path: Path | str, format: str) -> tuple[Path, ...]:
    """Write a track and return the written files.

    path: the file; for formats of several files (colmap, spatia) a folder, which is created.

    Raises ValueError as encode does.
    """
    files, path = encode(track, format), Path(path)
    if len(files) == 1:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(iter(files.values())))
        return (path,)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return tuple(path / name for name in files)


def format_of(data: bytes) -> str:
    """The name of the format that a file's content is in.

    Raises ValueError that says what was looked for.
    """
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[:4] == b"glTF":
        return "gltf"
    head = data[:8192].decode("utf-8-sig", errors="replace").lstrip()
    if head.startswith("{"):
        return _json_format(data)
    lines = [line.split() for line in head.splitlines()[:-1] or head.splitlines() if line.strip()]
    if head.startswith("[["):
        return "spatia"
    if head.startswith("["):
        return "recammaster"
    if any(len(words) == 19 for words in lines[:2]):
        return "realestate10k"
    bare = [words for words in lines if not words[0].startswith("#")]
    if bare and len(bare[0]) in (7, 8) and all(map(_is_number, bare[0])):
        return "chan"
    if head.startswith("# Camera list") or head.startswith("# Image list"):
        return "colmap"
    raise ValueError(
        "This is no camera file Mirage knows by its content (looked for JSON, glTF, .npy, 19 columns of RealEstate10K, "
        "7 or 8 columns of .chan, matrices in brackets). Choose its format."
    )


_JSON_MARKS = {
    "asset": "gltf",
    "frames": "nerfstudio",
    "frame0": "recammaster",
    "cameras_interp": "worldscore",
    "keyframes": "omnicam",
    "timeline": "omnicam",
}


def _json_format(data: bytes) -> str:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "json"  # its reader says which line is damaged
    if document.get("format") == _OWN_FORMAT:
        return "json"
    if document.get("format") == "mirage camera path":
        raise ValueError(
            "This is a Mirage camera path (keyframes), not a camera file. Give it to the Camera Path node."
        )
    for mark, name in _JSON_MARKS.items():
        if mark in document:
            return name
    raise ValueError(
        f"This JSON is no camera file Mirage knows (its fields: {', '.join(list(document)[:6]) or 'none'}). "
        "Choose its format."
    )


def formats_table() -> str:
    """The table of conventions as Markdown; the help page holds exactly this text (a test compares them)."""
    columns = ("Format", "File", "Axes", "Matrices", "Intrinsics", "Frame rate", "Scale", "")
    lines = ["| " + " | ".join(columns).rstrip() + " |", "|" + "---|" * len(columns)]
    for row in FORMATS.values():
        way = "read, write" if row.write else "read"
        fields = (row.title, row.extension, row.axes, row.direction, row.intrinsics, row.frame_rate, row.scale, way)
        lines.append("| " + " | ".join(fields) + " |")
    return "\n".join(lines) + "\n"


def _row(name: str) -> PathFormat:
    if name not in FORMATS:
        raise ValueError(f"Unknown camera format {name!r}. Use auto, {', '.join(FORMATS)}.")
    return FORMATS[name]


def _said_by(name: str, call: Callable[[], CameraTrack]) -> CameraTrack:
    """Run a reader; its errors begin with the format's name, so that a wrong guess shows."""
    try:
        return call()
    except ValueError as error:
        raise ValueError(f"[{name}] {error}") from error


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"There is no file {path.name!r} in {str(path.parent)!r}.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size >> 20} MiB; up to {MAX_BYTES >> 20} MiB are read.")
    return path.read_bytes()


def _with_spatia_intrinsics(path: Path, options: ReadOptions) -> ReadOptions:
    """Spatia keeps its intrinsics beside the poses; the user's own go first."""
    beside = path.parent / "intrinsics.txt"
    if options.intrinsics is not None or options.image_size is None or not beside.is_file():
        return options
    return replace(options, intrinsics=read_spatia_intrinsics(_bytes_of(beside), options.image_size))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
