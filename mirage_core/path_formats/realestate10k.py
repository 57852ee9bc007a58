"""RealEstate10K camera text: a first line with the video's address, then 19 columns per frame.

timestamp in microseconds | fx fy cx cy, divided by image width and height | 0 0 | world2cam [3 4] row by row,
OpenCV axes. Source: google.github.io/realestate10k. Some ComfyUI packs write the image width and height into the two
zero columns (AnimateDiff-Evolved's pose files); that is read too.
"""

from __future__ import annotations

import itertools

import torch

from ..camera import Cameras
from .conventions import inverse, rigid
from .reading import ReadOptions, check_count, check_no_skew, digits, intrinsics_of, numbers, text_of
from .track import CameraTrack

_COLUMNS = 19


def read_realestate10k(data: bytes, options: ReadOptions) -> CameraTrack:
    """Cameras and timestamps (as names). The frame rate is the mean rate of the timestamps, when they rise.

    options.image_size: the size the normalised intrinsics are multiplied with; needed unless columns 6-7 hold it.

    Raises ValueError that names the line at fault.
    """
    rows, line_of = [], []
    for line, content in enumerate(text_of(data).splitlines(), start=1):
        words = content.split()
        if not words or (line == 1 and len(words) != _COLUMNS):
            continue
        if len(words) != _COLUMNS:
            raise ValueError(
                f"line {line} has {len(words)} columns; RealEstate10K has {_COLUMNS}: timestamp, fx fy cx cy, 0 0 and "
                "a world-to-camera matrix of 3x4 numbers."
            )
        rows.append(numbers(words, _COLUMNS, f"line {line}"))
        line_of.append(line)
    check_count(len(rows))
    if not rows:
        raise ValueError("The file has no line of 19 columns after the first. Is this RealEstate10K camera text?")
    image_size = _image_size(rows, line_of, options)
    table = torch.tensor(rows, dtype=torch.float64)
    height, width = image_size
    world2cam = torch.zeros(len(rows), 4, 4, dtype=torch.float64)
    world2cam[:, :3] = table[:, 7:].reshape(-1, 3, 4)
    world2cam[:, 3, 3] = 1
    world2cam = rigid(world2cam, lambda index: f"line {line_of[index]}")
    for row, line in zip(rows, line_of, strict=True):
        if max(row[1:5]) > 16:
            raise ValueError(
                f"line {line}: fx fy cx cy are {row[1]:.6g} {row[2]:.6g} {row[3]:.6g} {row[4]:.6g}; these look like "
                "pixels. RealEstate10K divides them by the image width and height."
            )
        if min(row[1:3]) <= 0:
            raise ValueError(f"line {line}: the focal lengths are {row[1]:.6g} and {row[2]:.6g}; they are above 0.")
    intrinsics = [intrinsics_of(r[1] * width, r[2] * height, r[3] * width, r[4] * height) for r in rows]
    times = [row[0] for row in rows]
    is_rising = len(times) > 1 and all(after > before for before, after in itertools.pairwise(times))
    fps = (len(times) - 1) * 1e6 / (times[-1] - times[0]) if is_rising else None
    return CameraTrack(
        Cameras(inverse(world2cam), torch.tensor(intrinsics, dtype=torch.float64), image_size),
        options.fps or fps,
        tuple(str(int(time)) for time in times),
    )


def _image_size(rows: list[list[float]], line_of: list[int], options: ReadOptions) -> tuple[int, int]:
    sizes = {(row[5], row[6]) for row in rows}
    if sizes == {(0.0, 0.0)}:
        return options.needed_image_size("RealEstate10K text holds intrinsics divided by the image size.")
    width, height = rows[0][5], rows[0][6]
    if len(sizes) == 1 and min(width, height) >= 16 and width == int(width) and height == int(height):
        return int(height), int(width)
    line = next(line for row, line in zip(rows, line_of, strict=True) if row[5] or row[6])
    raise ValueError(
        f"line {line}: columns 6 and 7 are not 0, so this looks like lens distortion (or different image sizes). "
        "Mirage's cameras are pinholes: undistort the frames first, and write 0 0 there."
    )


def write_realestate10k(track: CameraTrack) -> bytes:
    """19-column text. Names that are whole numbers become the timestamps; else frames run at fps (24 if unknown)."""
    cameras = track.cameras
    check_no_skew(cameras, "RealEstate10K text")
    height, width = cameras.image_size
    is_timed = bool(track.names) and all(name.isdecimal() for name in track.names)
    lines = ["mirage camera path"]
    world2cam = inverse(cameras.cam2world)[:, :3].reshape(-1, 12).tolist()
    for index, (k, pose) in enumerate(zip(cameras.intrinsics.tolist(), world2cam, strict=True)):
        time = track.names[index] if is_timed else str(round(index * 1e6 / (track.fps or 24.0)))
        normalised = [k[0][0] / width, k[1][1] / height, k[0][2] / width, k[1][2] / height]
        lines.append(" ".join([time, *map(digits, normalised), "0", "0", *map(digits, pose)]))
    return ("\n".join(lines) + "\n").encode()
