"""What 3D people take away besides a path: coloured points as .ply, and a table of the camera of every frame."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from .colmap import byte_colors
from .conventions import FLIP, TO_Z_UP, quaternions_of
from .reading import digits
from .track import CameraTrack

World = Literal["opencv", "y_up", "z_up"]


def write_ply(
    points: torch.Tensor,
    colors: torch.Tensor | None = None,
    *,
    world: World = "opencv",
    confidence: torch.Tensor | None = None,
    latent_index: torch.Tensor | None = None,
) -> bytes:
    """Points as a binary little-endian .ply with float32 positions and byte colours.

    points: [points 3] in our world; those that are not finite are left out.  colors: [points 3] uint8, or floats in
    [0, 1]; grey when missing.  world: "opencv" matches the COLMAP and nerfstudio exports; "y_up" glTF, Nuke and
    three.js; "z_up" Blender.  confidence, latent_index: [points], written as extra columns when given.

    Raises ValueError when lengths differ or `world` is unknown.
    """
    count = len(points)
    turns = {"opencv": torch.eye(4, dtype=torch.float64), "y_up": FLIP, "z_up": TO_Z_UP}
    if world not in turns:
        raise ValueError(f"Unknown world {world!r}. Use {', '.join(turns)}.")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points are [points 3]; these have shape {list(points.shape)}.")
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    extras = {"confidence": (confidence, "<f4"), "latent_index": (latent_index, "<i4")}
    given = {name: (values, code) for name, (values, code) in extras.items() if values is not None}
    for name, (values, code) in given.items():
        if tuple(values.shape) != (count,):
            raise ValueError(f"There are {count} points and {name} of shape {list(values.shape)}; give one per point.")
        fields.append((name, code))
    table = np.empty(count, dtype=fields)
    positions = (points.detach().to("cpu", torch.float64) @ turns[world][:3, :3].T).float().numpy()
    shades = byte_colors(colors, count)
    for axis, name in enumerate(("x", "y", "z")):
        table[name] = positions[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        table[name] = shades[:, channel]
    for name, (values, _) in given.items():
        table[name] = values.detach().cpu().numpy()
    table = table[np.isfinite(positions).all(axis=1)]
    words = {"<f4": "float", "u1": "uchar", "<i4": "int"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment Mirage latent memory, {world} world",
        f"element vertex {len(table)}",
        *(f"property {words[code]} {name}" for name, code in fields),
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + table.tobytes()


def frame_table(track: CameraTrack) -> str:
    """CSV with one line per frame: when, where, which way (quaternion of cam2world, OpenCV axes), which lens."""
    cameras = track.cameras
    height, width = cameras.image_size
    quaternions = quaternions_of(cameras.cam2world[:, :3, :3]).tolist()
    lines = ["frame,name,seconds,x,y,z,qw,qx,qy,qz,fx,fy,cx,cy,width,height,horizontal_fov_degrees"]
    rows = zip(track.image_names(), cameras.centers.tolist(), quaternions, cameras.intrinsics.tolist(), strict=True)
    for frame, (name, center, quaternion, k) in enumerate(rows):
        seconds = "" if track.fps is None else digits(frame / track.fps)
        fov = math.degrees(2 * math.atan(width / 2 / k[0][0]))
        lens = [k[0][0], k[1][1], k[0][2], k[1][2]]
        quoted = '"' + name.replace('"', '""').replace("\n", " ") + '"'
        values = [*map(digits, [*center, *quaternion, *lens]), str(width), str(height), digits(fov)]
        lines.append(",".join([str(frame), quoted, seconds, *values]))
    return "\n".join(lines) + "\n"
