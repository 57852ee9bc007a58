"""Nuke .chan: one line per frame, frame tx ty tz rx ry rz [vertical field of view], angles in degrees.

y-up world, the camera looks down -z. The file does not say its rotation order; Nuke's cameras default to ZXY (about z
first, then x, then y). A comment "rotation order XYZ" (as OmniCam writes it) is believed.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import torch

from ..camera import Cameras
from .conventions import euler_of_rotations, in_y_up_world, rotations_of_euler
from .reading import (
    ReadOptions,
    check_count,
    digits,
    intrinsics_of_vertical_fov,
    numbers,
    text_of,
    vertical_fov_degrees,
)
from .track import CameraTrack

ROTATION_ORDERS = tuple("".join(order) for order in itertools.permutations("XYZ"))


def read_chan(data: bytes, options: ReadOptions) -> CameraTrack:
    """Cameras and frame numbers (as names). Without a field of view column, options.intrinsics are used.

    Raises ValueError that names the line at fault.
    """
    rows, line_of, order = [], [], options.rotation_order
    for line, content in enumerate(text_of(data).splitlines(), start=1):
        if content.lstrip().startswith("#"):
            stated = re.search(r"rotation order\W+([XYZ]{3})\b", content, re.IGNORECASE)
            order = order or (stated.group(1).upper() if stated else None)
            continue
        words = content.replace(",", " ").split()
        if not words:
            continue
        if len(words) not in (7, 8):
            raise ValueError(
                f"line {line} has {len(words)} columns; a .chan has frame tx ty tz rx ry rz and, for cameras, the "
                "vertical field of view."
            )
        rows.append(numbers(words, len(words), f"line {line}"))
        line_of.append(line)
    check_count(len(rows))
    if not rows:
        raise ValueError("The .chan has no frame. Export at least one.")
    if len({len(row) for row in rows}) > 1:
        line = next(n for row, n in zip(rows, line_of, strict=True) if len(row) != len(rows[0]))
        raise ValueError(f"line {line} has a different number of columns than line {line_of[0]}.")
    for (before, after), line in zip(itertools.pairwise(row[0] for row in rows), line_of[1:], strict=True):
        if after <= before:
            raise ValueError(f"line {line}: frame {after:g} comes after frame {before:g}. Sort the file by frame.")
    table = torch.tensor([row[:7] for row in rows], dtype=torch.float64)
    opengl = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    opengl[:, :3, :3] = rotations_of_euler(table[:, 4:], _order(order))
    opengl[:, :3, 3] = table[:, 1:4]
    if len(rows[0]) == 8:
        image_size = options.needed_image_size("A .chan holds the field of view but not the image size.")
        intrinsics = intrinsics_of_vertical_fov([row[7] for row in rows], image_size, "The .chan")
    else:
        shared, image_size = options.needed_intrinsics("This .chan has no field of view column.")
        intrinsics = shared.expand(len(rows), 3, 3)
    names = tuple(str(int(row[0])) if row[0] == int(row[0]) else digits(row[0]) for row in rows)
    return CameraTrack(Cameras(in_y_up_world(opengl), intrinsics, image_size), options.fps, names)


def write_chan(track: CameraTrack, *, rotation_order: str | None = None) -> bytes:
    """One line per frame. Frame numbers are the names when those are rising whole numbers, else 1, 2, 3..."""
    order = _order(rotation_order)
    fov = vertical_fov_degrees(track.cameras, "a .chan")
    opengl = in_y_up_world(track.cameras.cam2world)
    # Unwrapped, so that Nuke's motion blur and curve editor see no jump from 180 to -180.
    angles = np.unwrap(euler_of_rotations(opengl[:, :3, :3], order).numpy(), axis=0, period=360).tolist()
    frames = _frame_numbers(track)
    lines = [
        f"# rotation order {order}, y up, camera looks down -z, last column vertical field of view in degrees",
        *(
            " ".join([str(frame), *map(digits, [*position, *angle, value])])
            for frame, position, angle, value in zip(frames, opengl[:, :3, 3].tolist(), angles, fov, strict=True)
        ),
    ]
    return ("\n".join(lines) + "\n").encode()


def _frame_numbers(track: CameraTrack) -> list[int]:
    if track.names and all(len(name) < 10 and name.isdecimal() for name in track.names):
        frames = [int(name) for name in track.names]
        if all(before < after for before, after in itertools.pairwise(frames)):
            return frames
    return list(range(1, len(track.cameras) + 1))


def _order(order: str | None) -> str:
    order = (order or "ZXY").upper()
    if order not in ROTATION_ORDERS:
        raise ValueError(f"The rotation order is {order!r}; it is one of {', '.join(ROTATION_ORDERS)}.")
    return order
