"""From bytes to numbers, with the place in every error; and what a reader is told that a file does not say.

Not here: any one format.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..camera import Cameras
from .track import MAX_CAMERAS

MAX_BYTES = 64 * 2**20  # 100 000 cameras with all digits are about 60 MB of text

Axes = Literal["opencv", "opengl"]
Direction = Literal["cam2world", "world2cam"]


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a file, used where the file itself does not say it.

    image_size: (height, width) in pixels the intrinsics are for.  intrinsics: [3 3] in pixels of image_size.
    fps: frames per second.  axes, direction: of bare matrices (.npy).  rotation_order: of .chan files.
    camera: which camera of a file that holds several (name or number as the file writes it).
    folder: where files named inside the file may be read from; None forbids them.
    """

    image_size: tuple[int, int] | None = None
    intrinsics: torch.Tensor | None = None
    fps: float | None = None
    axes: Axes = "opencv"
    direction: Direction = "cam2world"
    rotation_order: str | None = None
    camera: str | None = None
    folder: Path | None = None

    def needed_image_size(self, because: str) -> tuple[int, int]:
        """image_size, or a ValueError that says why it is needed."""
        if self.image_size is None:
            raise ValueError(f"{because} Give the image size (height, width) of the film.")
        return self.image_size

    def needed_intrinsics(self, because: str) -> tuple[torch.Tensor, tuple[int, int]]:
        """intrinsics [3 3] and image_size, or a ValueError that says why they are needed."""
        if self.intrinsics is None or self.image_size is None:
            raise ValueError(f"{because} Give the field of view (intrinsics) and the image size of the film.")
        return self.intrinsics.double(), self.image_size


def text_of(data: bytes) -> str:
    """UTF-8 text; a ValueError for anything else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"This is not a text file (byte {error.start} is not UTF-8). Choose the format it was written in."
        ) from error


def json_of(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without NaN; a ValueError that names the line otherwise."""

    def refuse(constant: str) -> float:
        raise ValueError(f"The {what} holds {constant}. Export the camera path again.")

    try:
        value = json.loads(text_of(data), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The {what} is damaged: line {error.lineno}, column {error.colno}: {error.msg}. Export it again."
        ) from error
    except RecursionError as error:
        raise ValueError(f"The {what} is nested too deeply to be a camera path.") from error
    if not isinstance(value, dict):
        raise ValueError(f"The {what} is a JSON {type(value).__name__}; an object {{...}} is expected.")
    return value


def number(value: Any, where: str) -> float:
    """A finite float from a JSON value or a word of text; a ValueError that names `where` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{where} is {shown(value)}; a number is expected.")
    try:
        result = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where} is {shown(value)}; a number is expected.") from error
    if not math.isfinite(result):
        raise ValueError(f"{where} is {shown(value)}; NaN and infinite values are no camera. Export the path again.")
    return result


def numbers(values: Any, count: int, where: str) -> list[float]:
    """`count` finite floats from a list; a ValueError that names `where` otherwise."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{where} is {shown(values)}; {count} numbers are expected.")
    return [number(value, where) for value in values]


def whole_number(value: Any, where: str) -> int:
    """A whole number; a ValueError that names `where` otherwise."""
    result = number(value, where)
    if result != int(result):
        raise ValueError(f"{where} is {shown(value)}; a whole number is expected.")
    return int(result)


def matrix_of(values: Any, where: str) -> list[list[float]]:
    """A [4][4] matrix from nested lists of 3 or 4 rows; a ValueError that names `where` otherwise."""
    if not isinstance(values, list | tuple) or len(values) not in (3, 4):
        raise ValueError(f"{where} is {shown(values)}; a matrix of 3 or 4 rows of 4 numbers is expected.")
    rows = [numbers(row, 4, where) for row in values]
    return rows if len(rows) == 4 else [*rows, [0.0, 0.0, 0.0, 1.0]]


def listed(value: Any, where: str) -> list[Any]:
    """A JSON list of at most MAX_CAMERAS; a ValueError that names `where` otherwise."""
    if not isinstance(value, list):
        raise ValueError(f"{where} is missing or no list. Is this file complete, and of this format?")
    check_count(len(value))
    return value


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A JSON list of objects; a ValueError that names `where` otherwise."""
    for index, item in enumerate(listed(value, where)):
        if not isinstance(item, dict):
            raise ValueError(f"{where} {index} is {shown(item)}; an object {{...}} is expected.")
    return value


def check_count(count: int) -> None:
    """Raise ValueError beyond MAX_CAMERAS."""
    if count > MAX_CAMERAS:
        raise ValueError(f"The file has {count} cameras; at most {MAX_CAMERAS} are read. Is this a camera path?")


def image_size_of(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(height, width) in whole pixels; a ValueError that names `where` otherwise."""
    size = whole_number(height, f"{where}: image height"), whole_number(width, f"{where}: image width")
    if min(size) < 1 or max(size) > 2**20:
        raise ValueError(f"{where}: the image is {size[1]}x{size[0]} pixels. Check width and height.")
    return size


def intrinsics_of(focal_x: float, focal_y: float, center_x: float, center_y: float) -> list[list[float]]:
    """A [3][3] pinhole matrix, row by row."""
    return [[focal_x, 0.0, center_x], [0.0, focal_y, center_y], [0.0, 0.0, 1.0]]


def intrinsics_of_vertical_fov(degrees: list[float], image_size: tuple[int, int], where: str) -> torch.Tensor:
    """[n 3 3] centred intrinsics with square pixels, from vertical fields of view in degrees."""
    height, width = image_size
    for index, value in enumerate(degrees):
        if not 0 < value < 180:
            raise ValueError(f"{where}: the vertical field of view of camera {index} is {value:.6g} degrees.")
    focal = [height / 2 / math.tan(math.radians(value) / 2) for value in degrees]
    return torch.tensor([intrinsics_of(f, f, width / 2, height / 2) for f in focal], dtype=torch.float64)


def vertical_fov_degrees(cameras: Cameras, title: str) -> list[float]:
    """Vertical field of view of every camera, for formats that store nothing else.

    Raises ValueError for cameras that such a format would change: off-centre, or with pixels that are not square.
    """
    height, width = cameras.image_size
    for index, k in enumerate(cameras.intrinsics.tolist()):
        off = max(abs(k[0][2] - width / 2), abs(k[1][2] - height / 2))
        if off > 0.01:  # a hundredth of a pixel is rounding; more would shift the picture
            raise ValueError(
                f"Camera {index} has its principal point {off:.3g} pixels off the centre; {title} cannot store that. "
                "Use json, nerfstudio or colmap."
            )
        if abs(k[0][0] / k[1][1] - 1) > 1e-4 or abs(k[0][1]) > 1e-9:
            raise ValueError(
                f"Camera {index} has pixels that are not square (fx {k[0][0]:.6g}, fy {k[1][1]:.6g}); {title} cannot "
                "store that. Use json, nerfstudio or colmap."
            )
    return [math.degrees(2 * math.atan(height / 2 / float(k[1, 1]))) for k in cameras.intrinsics]


def check_no_skew(cameras: Cameras, title: str) -> None:
    """Raise ValueError for intrinsics with a skew, which hardly any format stores."""
    if (cameras.intrinsics[:, 0, 1].abs() > 1e-9).any():
        raise ValueError(f"The cameras have skewed pixels; {title} cannot store that. Use json.")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which frame_9 comes before frame_10."""
    key = []
    for part in re.split(r"(\d+)", name):
        stripped = part.lstrip("0")
        key.append((0, len(stripped), stripped) if part.isdecimal() else (1, 0, part))
    return key


def digits(value: float) -> str:
    """The shortest text that reads back as exactly this float64."""
    return repr(float(value))


def shown(value: Any) -> str:
    """A value out of a file in a message: short, and nothing in it that cannot be seen."""
    return _cut(repr(value))


def named(value: Any) -> str:
    """A name out of a file in a message, without quotation marks."""
    text = str(value)
    return _cut(text if text.isprintable() else ascii(text))


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
