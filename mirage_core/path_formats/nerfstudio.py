"""nerfstudio's transforms.json (and instant-ngp's, and the original NeRF's camera_angle_x).

cam2world [4 4] with OpenGL camera axes (y up, looking down -z); pixel intrinsics, shared or per frame, pixel centres at
1/2 as ours. The world is kept as it is (nerfstudio orients it itself when it loads the file).
Source: docs.nerf.studio/quickstart/data_conventions.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from ..camera import Cameras
from .conventions import FLIP, rigid
from .reading import (
    ReadOptions,
    check_no_skew,
    image_size_of,
    intrinsics_of,
    json_of,
    matrix_of,
    natural_key,
    number,
    objects,
)
from .track import CameraTrack

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


def read_nerfstudio(data: bytes, options: ReadOptions) -> CameraTrack:
    """Cameras in the order of their file names, as nerfstudio sorts them (numbers inside names count as numbers).

    Raises ValueError that names the frame at fault, for distortion, fisheye cameras and mixed image sizes.
    """
    document = json_of(data, "transforms.json")
    frames = objects(document.get("frames"), '"frames"')
    names = [str(frame.get("file_path", "")) for frame in frames]
    order = (
        sorted(range(len(frames)), key=lambda index: natural_key(names[index])) if all(names) else range(len(frames))
    )
    poses, intrinsics, sizes = [], [], []
    for index in order:
        where = f"frame {index}" + (f" ({names[index]})" if names[index] else "")
        fields = {**document, **frames[index]}
        _check_pinhole(fields, where)
        size = _image_size(fields, where, options)
        poses.append(matrix_of(frames[index].get("transform_matrix"), f"{where}: transform_matrix"))
        intrinsics.append(_intrinsics(fields, size, where))
        sizes.append(size)
    if len(set(sizes)) > 1:
        raise ValueError(f"The frames have different image sizes {sorted(set(sizes))}. Resize them to one size first.")
    places = [f"frame {index}: transform_matrix" for index in order]
    opengl = rigid(torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4), lambda index: places[index])
    if not sizes:
        raise ValueError('"frames" is empty. Export at least one frame.')
    return CameraTrack(
        Cameras(opengl @ FLIP, torch.tensor(intrinsics, dtype=torch.float64), sizes[0]),
        number(document["fps"], "fps") if "fps" in document else options.fps,
        tuple(names[index] for index in order) if all(names) else (),
    )


def _check_pinhole(fields: dict[str, Any], where: str) -> None:
    model = str(fields.get("camera_model", "OPENCV"))
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise ValueError(f"{where} has a {model} camera; Mirage's cameras are pinholes. Undistort the frames first.")
    for name in _DISTORTION:
        if name in fields and abs(number(fields[name], f"{where}: {name}")) > 1e-9:
            raise ValueError(
                f"{where} has lens distortion ({name} = {fields[name]}); Mirage's cameras are pinholes. "
                "Undistort the frames first (COLMAP: image_undistorter), or set it to 0 to accept the error."
            )


def _image_size(fields: dict[str, Any], where: str, options: ReadOptions) -> tuple[int, int]:
    if "w" in fields and "h" in fields:
        return image_size_of(fields["h"], fields["w"], where)
    return options.needed_image_size(f"{where} does not say its image size (w, h).")


def _intrinsics(fields: dict[str, Any], size: tuple[int, int], where: str) -> list[list[float]]:
    height, width = size
    if "fl_x" in fields or "fl_y" in fields:
        focal_x = number(fields.get("fl_x", fields.get("fl_y")), f"{where}: fl_x")
        focal_y = number(fields.get("fl_y", fields.get("fl_x")), f"{where}: fl_y")
    elif "camera_angle_x" in fields or "camera_angle_y" in fields:
        focal_x = focal_y = _focal(fields, size, where)
    else:
        raise ValueError(f"{where} has neither fl_x nor camera_angle_x, so its field of view is unknown.")
    if min(focal_x, focal_y) <= 0:
        raise ValueError(f"{where}: the focal lengths are {focal_x:.6g} and {focal_y:.6g}; they are above 0.")
    center_x = number(fields.get("cx", width / 2), f"{where}: cx")
    center_y = number(fields.get("cy", height / 2), f"{where}: cy")
    return intrinsics_of(focal_x, focal_y, center_x, center_y)


def _focal(fields: dict[str, Any], size: tuple[int, int], where: str) -> float:
    name, length = ("camera_angle_x", size[1]) if "camera_angle_x" in fields else ("camera_angle_y", size[0])
    angle = number(fields[name], f"{where}: {name}")
    if not 0 < angle < math.pi:
        raise ValueError(f"{where}: {name} is {angle:.6g}; it is an angle in radians between 0 and 3.14.")
    return length / 2 / math.tan(angle / 2)


def write_nerfstudio(track: CameraTrack) -> bytes:
    """transforms.json with intrinsics per frame, unless all frames share them."""
    cameras = track.cameras
    check_no_skew(cameras, "transforms.json")
    height, width = cameras.image_size
    per_frame = [{"fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2], "cy": k[1][2]} for k in cameras.intrinsics.tolist()]
    is_shared = all(one == per_frame[0] for one in per_frame)
    names = [name if track.names else f"images/{name}" for name in track.image_names()]
    opengl = (cameras.cam2world @ FLIP).tolist()
    document = {
        "camera_model": "OPENCV",
        "w": width,
        "h": height,
        **({"fps": track.fps} if track.fps is not None else {}),
        **(per_frame[0] if is_shared else {}),
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "frames": [
            {"file_path": name, **({} if is_shared else intrinsics), "transform_matrix": matrix}
            for name, intrinsics, matrix in zip(names, per_frame, opengl, strict=True)
        ],
    }
    return (json.dumps(document, allow_nan=False, indent=1) + "\n").encode()
