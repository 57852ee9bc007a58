"""Our own camera file: JSON, versioned, every digit kept. Blender reads and writes it (workflows/blender).

{"format": "mirage_cameras", "version": 1, "fps": 24.0 or null, "image_size": [height, width],
 "frames": [{"name": "...", "cam2world": [[4] x 4], "intrinsics": [[3] x 3]}, ...]}

cam2world: OpenCV axes (x right, y down, z forward). intrinsics: pixels, first pixel's centre at (1/2, 1/2).
"""

from __future__ import annotations

import json

import torch

from ..camera import Cameras
from .conventions import rigid
from .reading import ReadOptions, image_size_of, json_of, number, numbers, objects
from .track import CameraTrack

FORMAT = "mirage_cameras"
VERSION = 1


def read_mirage_json(data: bytes, options: ReadOptions) -> CameraTrack:
    """Cameras, frame rate and names from our JSON. Bit-exact for files written by write_mirage_json.

    Raises ValueError that names the frame and field at fault.
    """
    document = json_of(data, "camera file")
    if document.get("format") != FORMAT:
        raise ValueError(f'The file does not say "format": "{FORMAT}". Choose the format it was written in.')
    if document.get("version") != VERSION:
        raise ValueError(
            f"The file has version {document.get('version')!r}; this Mirage reads version {VERSION}. Update Mirage."
        )
    size = numbers(document.get("image_size"), 2, "image_size")
    image_size = image_size_of(size[0], size[1], "image_size")
    frames = objects(document.get("frames"), "frames")
    poses, intrinsics, names = [], [], []
    for index, frame in enumerate(frames):
        for field, rows, matrices in (("cam2world", 4, poses), ("intrinsics", 3, intrinsics)):
            matrix = frame.get(field)
            where = f"frame {index}: {field}"
            if not isinstance(matrix, list) or len(matrix) != rows:
                raise ValueError(f"{where} is missing or has not {rows} rows.")
            matrices.append([numbers(row, rows, where) for row in matrix])
        names.append(str(frame.get("name", "")))
    cam2world = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    rigid(cam2world, lambda index: f"frame {index}: cam2world")  # its sentences; the digits stay as they are
    fps = document.get("fps")
    return CameraTrack(
        Cameras(cam2world, torch.tensor(intrinsics, dtype=torch.float64).reshape(-1, 3, 3), image_size),
        options.fps if fps is None else number(fps, "fps"),
        tuple(names) if any(names) else (),
    )


def write_mirage_json(track: CameraTrack) -> bytes:
    """Our JSON, one frame per line."""
    cameras = track.cameras
    head = {
        "format": FORMAT,
        "version": VERSION,
        "convention": "cam2world, OpenCV axes (x right, y down, z forward), intrinsics in pixels, pixel centres at 1/2",
        "fps": track.fps,
        "image_size": list(cameras.image_size),
    }
    lines = []
    for index, (cam2world, intrinsics) in enumerate(
        zip(cameras.cam2world.tolist(), cameras.intrinsics.tolist(), strict=True)
    ):
        name = {"name": track.names[index]} if track.names else {}
        lines.append(json.dumps({**name, "cam2world": cam2world, "intrinsics": intrinsics}, allow_nan=False))
    text = json.dumps(head, allow_nan=False)[:-1] + ', "frames": [\n' + ",\n".join(lines) + "\n]}\n"
    return text.encode()
