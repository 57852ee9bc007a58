"""COLMAP text models: cameras.txt + images.txt, and points3D.txt for writing.

images.txt: two lines per image, IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME (world2cam, OpenCV axes) and a line of 2D
points that may be blank. cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMS, in pixels with pixel centres at 1/2 as ours.
Source: colmap.github.io/format.
"""

from __future__ import annotations

import numpy as np
import torch

from ..camera import Cameras
from .conventions import inverse, quaternions_of, rigid, rotations_of
from .reading import (
    ReadOptions,
    check_count,
    check_no_skew,
    digits,
    image_size_of,
    intrinsics_of,
    named,
    natural_key,
    numbers,
    text_of,
)
from .track import CameraTrack

# How many of the parameters are focal lengths; the rest after cx cy is distortion.
_FOCALS = {
    "SIMPLE_PINHOLE": 1,
    "PINHOLE": 2,
    "SIMPLE_RADIAL": 1,
    "RADIAL": 1,
    "OPENCV": 2,
    "FULL_OPENCV": 2,
}


def read_colmap(cameras_text: bytes, images_text: bytes, options: ReadOptions) -> CameraTrack:
    """The registered images in the order of their names (numbers inside names count as numbers).

    Raises ValueError that names the file and line at fault; for lens distortion, unknown camera models, mixed sizes.
    """
    models = _read_models(text_of(cameras_text))
    images = _read_images(text_of(images_text))
    check_count(len(images))
    if not images:
        raise ValueError("images.txt has no image. Did the reconstruction register any frame?")
    images.sort(key=lambda image: natural_key(image[3]))
    for line, _, camera, _ in images:
        if camera not in models:
            raise ValueError(f"images.txt line {line} uses camera {named(camera)}, which cameras.txt does not define.")
    sizes = {models[camera][0] for _, _, camera, _ in images}
    if len(sizes) > 1:
        raise ValueError(f"The images have different sizes {sorted(sizes)}. Resize them to one size first.")
    values = torch.tensor([values for _, values, _, _ in images], dtype=torch.float64)
    length = values[:, :4].norm(dim=1)
    is_off = (length - 1).abs() > 1e-2
    if is_off.any():
        first = int(is_off.nonzero()[0])
        raise ValueError(
            f"images.txt line {images[first][0]}: the quaternion has length {float(length[first]):.4g}, not 1. "
            "COLMAP writes QW QX QY QZ TX TY TZ; check the column order."
        )
    world2cam = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    world2cam[:, :3, :3] = rotations_of(values[:, :4])
    world2cam[:, :3, 3] = values[:, 4:]
    world2cam = rigid(world2cam, lambda index: f"images.txt line {images[index][0]}")
    intrinsics = torch.tensor([models[camera][1] for _, _, camera, _ in images], dtype=torch.float64)
    return CameraTrack(
        Cameras(inverse(world2cam), intrinsics, sizes.pop()), options.fps, tuple(image[3] for image in images)
    )


def _read_models(text: str) -> dict[str, tuple[tuple[int, int], list[list[float]]]]:
    """Image size and intrinsics by CAMERA_ID."""
    models = {}
    for line, content in enumerate(text.splitlines(), start=1):
        words = content.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"cameras.txt line {line}"
        if len(words) < 5:
            raise ValueError(f"{where} has {len(words)} columns; expected are CAMERA_ID MODEL WIDTH HEIGHT PARAMS.")
        focals = _FOCALS.get(words[1])
        if focals is None:
            raise ValueError(
                f"{where} has a {named(words[1])} camera; Mirage's cameras are pinholes. "
                "Undistort first (colmap image_undistorter writes PINHOLE)."
            )
        parameters = numbers(words[4:], len(words) - 4, where)
        if len(parameters) < focals + 2:
            raise ValueError(f"{where}: {words[1]} has at least {focals + 2} parameters, not {len(parameters)}.")
        if any(abs(value) > 1e-9 for value in parameters[focals + 2 :]):
            raise ValueError(
                f"{where} has lens distortion; Mirage's cameras are pinholes. "
                "Undistort first (colmap image_undistorter writes PINHOLE)."
            )
        if min(parameters[:focals]) <= 0:
            raise ValueError(f"{where} has a focal length of {min(parameters[:focals]):.6g}; it is above 0.")
        center_x, center_y = parameters[focals : focals + 2]
        k = intrinsics_of(parameters[0], parameters[focals - 1], center_x, center_y)
        models[words[0]] = image_size_of(words[3], words[2], where), k
    return models


def _read_images(text: str) -> list[tuple[int, list[float], str, str]]:
    """(line, [QW QX QY QZ TX TY TZ], CAMERA_ID, NAME) of every image."""
    images = []
    is_points_line = False
    for line, content in enumerate(text.splitlines(), start=1):
        words = content.split(maxsplit=9)
        # Some exporters leave the line of 2D points out. 2D points come in threes, so ten columns are an image.
        is_image = len(words) == 10 and (not is_points_line or not _is_number(words[9].split()[-1]))
        if words and words[0].startswith("#"):
            continue
        if is_points_line and not is_image:
            is_points_line = False
            continue
        if not words:
            continue
        if len(words) < 10:
            raise ValueError(
                f"images.txt line {line} has {len(words)} columns; "
                "expected are IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME."
            )
        values = numbers(words[1:8], 7, f"images.txt line {line}")
        images.append((line, values, words[8], words[9].strip()))
        is_points_line = True
    return images


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def write_colmap(
    track: CameraTrack, points: torch.Tensor | None = None, colors: torch.Tensor | None = None
) -> dict[str, bytes]:
    """cameras.txt, images.txt and points3D.txt by file name.

    points: [points 3] in the world.  colors: [points 3] uint8, or floats in [0, 1]; grey when missing.
    """
    cameras = track.cameras
    check_no_skew(cameras, "COLMAP")
    height, width = cameras.image_size
    ids: dict[tuple[float, ...], int] = {}
    images = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    world2cam = inverse(cameras.cam2world)
    quaternions = quaternions_of(world2cam[:, :3, :3]).tolist()
    names = [name.replace("\n", " ").replace("\r", " ") for name in track.image_names()]
    rows = zip(quaternions, world2cam[:, :3, 3].tolist(), cameras.intrinsics.tolist(), names, strict=True)
    for index, (quaternion, translation, k, name) in enumerate(rows, start=1):
        camera = ids.setdefault((k[0][0], k[1][1], k[0][2], k[1][2]), len(ids) + 1)
        images.append(" ".join([str(index), *map(digits, quaternion + translation), str(camera), name]))
        images.append("")
    models = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    models += [f"{camera} PINHOLE {width} {height} {' '.join(map(digits, k))}" for k, camera in ids.items()]
    return {
        "cameras.txt": ("\n".join(models) + "\n").encode(),
        "images.txt": ("\n".join(images) + "\n").encode(),
        "points3D.txt": _points_text(points, colors),
    }


def _points_text(points: torch.Tensor | None, colors: torch.Tensor | None) -> bytes:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    if points is not None:
        positions = points.detach().to("cpu", torch.float64).reshape(-1, 3).tolist()
        for index, (position, color) in enumerate(
            zip(positions, byte_colors(colors, len(positions)).tolist(), strict=True)
        ):
            lines.append(" ".join([str(index + 1), *map(digits, position), *map(str, color), "0"]))
    return ("\n".join(lines) + "\n").encode()


def byte_colors(colors: torch.Tensor | None, count: int) -> np.ndarray:
    """[count 3] uint8 from uint8, from floats in [0, 1], or grey for None.

    Raises ValueError when there are not as many colours as points.
    """
    if colors is None:
        return np.full((count, 3), 128, dtype=np.uint8)
    if tuple(colors.shape) != (count, 3):
        raise ValueError(f"There are {count} points and colours of shape {list(colors.shape)}; give [points 3].")
    colors = colors.detach().cpu()
    if colors.dtype != torch.uint8:
        colors = (colors.float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return colors.numpy()
