"""WorldScore: its ten camera moves as cameras, and its camera_data.json.

A move is one keyframe of a world2cam pose; between keyframes the benchmark turns along the shortest arc and moves the
world2cam translation (not the camera centre) in a straight line. `unit` is its camera_speed: one unit is the orbit
radius and the length of a push. Source: WorldScore (arXiv 2504.00983), worldscore/benchmark/helpers/
camera_generator.py as kept in FofGofx/WorldCache@56c3606.
"""

from __future__ import annotations

import math

import torch

from ..camera import Cameras
from .conventions import FLIP, inverse, quaternions_of, rigid, rotations_of
from .reading import ReadOptions, intrinsics_of, json_of, listed, matrix_of, number
from .track import CameraTrack

_TURN_DEGREES = 30.0


def _turned(degrees: float, right: float, forward: float) -> torch.Tensor:
    """World2cam [4 4] of a camera turned to its right by degrees, then shifted by (right, forward) in its own axes."""
    angle = math.radians(degrees)
    result = torch.eye(4, dtype=torch.float64)
    result[0, 0] = result[2, 2] = math.cos(angle)
    result[2, 0], result[0, 2] = math.sin(angle), -math.sin(angle)
    result[0, 3], result[2, 3] = -right, -forward
    return result


def _orbit(degrees: float) -> torch.Tensor:
    """World2cam [4 4] of a camera that turns about the point one unit ahead and keeps facing it."""
    pivot = torch.eye(4, dtype=torch.float64)
    pivot[2, 3] = 1.0
    return pivot @ _turned(degrees, 0, 0) @ torch.linalg.inv(pivot)


WORLDSCORE_MOVES: dict[str, torch.Tensor] = {
    "push_in": _turned(0, 0, 1),
    "pull_out": _turned(0, 0, -1),
    "move_left": _turned(0, -0.5, 0),
    "move_right": _turned(0, 0.5, 0),
    "orbit_left": _orbit(_TURN_DEGREES),
    "orbit_right": _orbit(-_TURN_DEGREES),
    "pan_left": _turned(-_TURN_DEGREES, 0, 0),
    "pan_right": _turned(_TURN_DEGREES, 0, 0),
    "pull_left": _turned(-_TURN_DEGREES, -0.3, -0.3),
    "pull_right": _turned(_TURN_DEGREES, 0.3, -0.3),
}
"""World2cam [4 4] at the end of each move, seen from its start, in units."""


def worldscore_cameras(
    moves: list[str],
    frames: int,
    *,
    intrinsics: torch.Tensor,
    image_size: tuple[int, int],
    unit: float = 1.0,
) -> Cameras:
    """The cameras of one or more moves, end to end; the first is the identity.

    frames: frames of one move, both its keyframes included; neighbouring moves share one, so the result has
        len(moves) * (frames - 1) + 1 cameras.  unit: world units of one camera_speed.

    Raises ValueError for an unknown move, no move, fewer than 2 frames, or a unit that is not above 0.
    """
    unknown = [move for move in moves if move not in WORLDSCORE_MOVES]
    if unknown or not moves:
        raise ValueError(f"Unknown WorldScore move {unknown[:1] or moves}. Use {', '.join(WORLDSCORE_MOVES)}.")
    if frames < 2 or not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"A move has at least 2 frames and a unit above 0, not {frames} and {unit}.")
    keyframes = [torch.eye(4, dtype=torch.float64)]
    for move in moves:
        step = WORLDSCORE_MOVES[move].clone()
        step[:3, 3] *= unit
        keyframes.append(step @ keyframes[-1])
    world2cam = torch.stack(keyframes)
    quaternions = quaternions_of(world2cam[:, :3, :3])
    poses = [world2cam[:1]]
    t = (torch.arange(1, frames, dtype=torch.float64) / (frames - 1))[:, None]
    for a, b, first, second in zip(quaternions, quaternions[1:], world2cam, world2cam[1:], strict=False):
        between = torch.eye(4, dtype=torch.float64).repeat(frames - 1, 1, 1)
        between[:, :3, :3] = rotations_of(_slerped(a, b, t))
        between[:, :3, 3] = first[:3, 3] + t * (second[:3, 3] - first[:3, 3])
        between[-1] = second
        poses.append(between)
    cam2world = inverse(torch.cat(poses))
    return Cameras(cam2world, intrinsics.double().expand(len(cam2world), 3, 3), image_size)


def _slerped(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    b = -b if float(a @ b) < 0 else b
    angle = 2 * math.atan2(float((a - b).norm()), float((a + b).norm()))  # acos would lose half the digits near 0
    if angle < 1e-9:
        return a + t * (b - a)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / math.sin(angle)


def read_worldscore(data: bytes, options: ReadOptions) -> CameraTrack:
    """camera_data.json: cam2world with OpenGL camera axes in a world whose x points left (PyTorch3D's).

    The poses come back in the first camera's frame.

    Raises ValueError that names the entry at fault.
    """
    document = json_of(data, "camera_data.json")
    entries = listed(document.get("cameras_interp"), '"cameras_interp"')
    poses = [matrix_of(entry, f"cameras_interp {index}") for index, entry in enumerate(entries)]
    opengl = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    if not len(opengl):
        raise ValueError('"cameras_interp" is empty. Export at least one camera.')
    cam2world = rigid(opengl, lambda index: f"cameras_interp {index}") @ FLIP
    cam2world = inverse(cam2world[:1]) @ cam2world
    image_size = options.needed_image_size("camera_data.json does not say its image size.")
    focal = number(document.get("focal_length"), "focal_length")
    if focal <= 0:
        raise ValueError(f"focal_length is {focal:.6g}; it is above 0.")
    k = torch.tensor(intrinsics_of(focal, focal, image_size[1] / 2, image_size[0] / 2), dtype=torch.float64)
    return CameraTrack(Cameras(cam2world, k.expand(len(cam2world), 3, 3), image_size), options.fps)
