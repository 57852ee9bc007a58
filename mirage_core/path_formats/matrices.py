"""Bare matrices: .npy arrays, Spatia's text, ReCamMaster's JSON and text.

A .npy says nothing about its axes, so the user does (ReadOptions.axes, direction). Spatia: world2cam, OpenCV, one JSON
matrix per line (ZhaoJingjing713/Spatia@10ba7a0, README.md). ReCamMaster: Unreal's camera-to-world as row vectors, in
centimetres, left-handed (x forward, y right, z up), one text matrix per frame and camera
(KwaiVGI/ReCamMaster, inference_recammaster.py, MultiCamVideo-Dataset camera_extrinsics.json).
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..camera import Cameras
from .conventions import FLIP, inverse, rigid
from .reading import (
    Axes,
    Direction,
    ReadOptions,
    check_count,
    digits,
    json_of,
    matrix_of,
    named,
    natural_key,
    numbers,
    text_of,
)
from .track import CameraTrack

# Rows: our axes (right, down, forward) in Unreal's (forward, right, up). Orthogonal with determinant -1: it undoes
# Unreal's mirrored world, so a pose conjugated by it is a proper rotation.
_FROM_UNREAL = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
_CENTIMETRES = 100.0

# What numpy raises for a broken header, which is a piece of Python text to it.
_DAMAGED = (ValueError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, tokenize.TokenError)


def read_npy(data: bytes, options: ReadOptions) -> CameraTrack:
    """Poses from an array [n 4 4], [n 3 4] or [4 4]; intrinsics and image size come from the options.

    Raises ValueError for other shapes or types, and for poses that are not rigid in the chosen convention.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    except _DAMAGED as error:
        raise ValueError(f"This is not a .npy file ({named(error)}).") from error
    if dtype.kind not in "fiu":
        raise ValueError(f"The .npy holds {dtype}; numbers are expected (pickled objects are never read).")
    if shape == (4, 4):
        shape = (1, 4, 4)
    if len(shape) != 3 or shape[1:] not in ((4, 4), (3, 4)):
        hint = ""
        if len(shape) == 3 and shape[:2] in ((4, 4), (3, 4)):
            hint = " The camera axis seems to be last: save it with np.moveaxis(poses, -1, 0)."
        elif len(shape) == 2 and shape[1] == 7:
            hint = " These look like positions and quaternions: convert them to matrices first."
        elif len(shape) == 2 and shape[1] == 17:
            hint = " This looks like LLFF poses_bounds.npy: convert it to nerfstudio's transforms.json first."
        raise ValueError(f"The .npy has shape {list(shape)}; poses are [n 4 4] or [n 3 4].{hint}")
    check_count(shape[0])
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False).reshape(shape)
    except _DAMAGED as error:
        raise ValueError(f"The .npy is damaged ({named(error)}). Export it again.") from error
    poses = torch.eye(4, dtype=torch.float64).repeat(shape[0], 1, 1)
    poses[:, : shape[1]] = torch.from_numpy(array.astype(np.float64))
    return _posed(poses, options, lambda index: f"matrix {index}", "A .npy holds poses only.")


def _posed(poses: torch.Tensor, options: ReadOptions, where: Callable[[int], str], because: str) -> CameraTrack:
    if not len(poses):
        raise ValueError("The file holds no matrix. Export at least one frame.")
    poses = rigid(poses, where)
    if options.direction == "world2cam":
        poses = inverse(poses)
    if options.axes == "opengl":
        poses = poses @ FLIP
    intrinsics, image_size = options.needed_intrinsics(because)
    return CameraTrack(Cameras(poses, intrinsics.expand(len(poses), 3, 3), image_size), options.fps)


def write_npy(track: CameraTrack, *, axes: Axes = "opencv", direction: Direction = "cam2world") -> bytes:
    """float64 [n 4 4] in the given convention; intrinsics are not in it."""
    poses = track.cameras.cam2world if axes == "opencv" else track.cameras.cam2world @ FLIP
    if direction == "world2cam":
        poses = inverse(poses)
    stream = io.BytesIO()
    np.save(stream, poses.numpy(), allow_pickle=False)
    return stream.getvalue()


def read_spatia(data: bytes, options: ReadOptions) -> CameraTrack:
    """World2cam matrices, one JSON list per line. [fx fy cx cy] is in a file of its own (read_spatia_intrinsics).

    Raises ValueError that names the line at fault.
    """
    poses, line_of = [], []
    for line, content in enumerate(text_of(data).splitlines(), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"line {line} is no JSON matrix; Spatia writes [[r r r t], [r r r t], [r r r t]]."
            ) from error
        poses.append(matrix_of(value, f"line {line}"))
        line_of.append(line)
        check_count(len(poses))
    world2cam = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    options = _with(options, direction="world2cam", axes="opencv")
    return _posed(world2cam, options, lambda index: f"line {line_of[index]}", "Spatia's w2c.txt holds poses only.")


def read_spatia_intrinsics(data: bytes, image_size: tuple[int, int]) -> torch.Tensor:
    """[3 3] pixel intrinsics from Spatia's intrinsics.txt, [fx fy cx cy] divided by image width and height."""
    words = re.sub(r"[\[\],]", " ", text_of(data)).split()
    fx, fy, cx, cy = numbers(words, 4, "intrinsics.txt")
    height, width = image_size
    return torch.tensor([[fx * width, 0, cx * width], [0, fy * height, cy * height], [0, 0, 1]], dtype=torch.float64)


def write_spatia(track: CameraTrack) -> bytes:
    """World2cam matrices [4 4], one JSON list per line."""
    lines = [json.dumps(matrix) for matrix in inverse(track.cameras.cam2world).tolist()]
    return ("\n".join(lines) + "\n").encode()


def write_spatia_intrinsics(track: CameraTrack) -> bytes:
    """[fx fy cx cy] divided by image width and height.

    Raises ValueError for intrinsics that change: Spatia keeps one set for all frames.
    """
    intrinsics = track.cameras.intrinsics
    if (intrinsics - intrinsics[:1]).abs().max() > 1e-6:
        raise ValueError(
            "The field of view changes along the path; Spatia has one for all frames. Use json, nerfstudio or colmap."
        )
    (fx, _, cx), (_, fy, cy), _ = track.cameras.intrinsics[0].tolist()
    height, width = track.cameras.image_size
    return f"[{' '.join(map(digits, (fx / width, fy / height, cx / width, cy / height)))}]".encode()


def read_recammaster(data: bytes, options: ReadOptions) -> CameraTrack:
    """One camera's poses in metres, upright in our axes.

    The file: JSON {"frame0": {"cam01": "[r r r 0] [r r r 0] [r r r 0] [t t t 1]", ...}, ...}, or text with one such
    matrix per line. options.camera: which camera ("cam01"); needed when there are several.

    Raises ValueError that names the frame or line at fault.
    """
    text = text_of(data)
    if text.lstrip().startswith("{"):
        places, matrices = _recammaster_json(json_of(data, "camera_extrinsics.json"), options)
    else:
        lines = [(f"line {n}", line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        places, matrices = [place for place, _ in lines], [line for _, line in lines]
    check_count(len(matrices))
    poses = torch.eye(4, dtype=torch.float64).repeat(len(matrices), 1, 1)
    for index, (place, matrix) in enumerate(zip(places, matrices, strict=True)):
        rows = [row.split() for row in re.findall(r"\[([^\[\]]*)\]", matrix)]
        if len(rows) != 4 or {len(row) for row in rows} - {3, 4}:
            raise ValueError(f"{place}: ReCamMaster writes four rows [x x x 0] [x x x 0] [x x x 0] [t t t 1].")
        table = [numbers(row[:3], 3, place) for row in rows]
        poses[index, :3] = torch.tensor(table, dtype=torch.float64).T
    poses[:, :3, 3] /= _CENTIMETRES
    ours = _FROM_UNREAL @ poses @ _FROM_UNREAL.T
    options = _with(options, direction="cam2world", axes="opencv")
    return _posed(ours, options, lambda index: places[index], "ReCamMaster's camera file holds poses only.")


def _recammaster_json(document: dict, options: ReadOptions) -> tuple[list[str], list[str]]:
    frames = sorted((name for name in document if name.startswith("frame")), key=natural_key)
    if not frames or not all(isinstance(document[name], dict) for name in frames):
        raise ValueError(
            'The file has no "frame0": {"cam01": "..."} entries. Is this ReCamMaster\'s camera_extrinsics.json?'
        )
    names = sorted(document[frames[0]], key=natural_key)
    camera = options.camera or (names[0] if len(names) == 1 else "")
    if camera not in names:
        raise ValueError(f"The file holds the cameras {', '.join(names)}. Choose one of them, not {camera!r}.")
    places, matrices = [], []
    for name in frames:
        matrix = document[name].get(camera)
        if not isinstance(matrix, str):
            raise ValueError(f"{name} has no matrix for {camera}.")
        places.append(f"{name}, {camera}")
        matrices.append(matrix)
    return places, matrices


def write_recammaster(track: CameraTrack, *, camera: str = "cam01") -> bytes:
    """camera_extrinsics.json with one camera, in Unreal's axes and centimetres."""
    poses = _FROM_UNREAL.T @ track.cameras.cam2world @ _FROM_UNREAL
    poses[:, :3, 3] *= _CENTIMETRES
    rows = poses.transpose(1, 2).tolist()
    document = {
        f"frame{index}": {camera: " ".join(f"[{' '.join(map(digits, row))}]" for row in matrix) + " "}
        for index, matrix in enumerate(rows)
    }
    return json.dumps(document, indent=1).encode()


def _with(options: ReadOptions, *, direction: Direction, axes: Axes) -> ReadOptions:
    """The options with the convention that the format fixes."""
    return replace(options, direction=direction, axes=axes)
