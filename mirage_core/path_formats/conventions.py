"""Axes and rotations of other tools, and one sentence for every matrix that is not a camera pose.

Here: pure matrix work on cam2world tensors. Not here: files (one module per format) and the project's own convention
(camera.py): OpenCV camera axes, cam2world, y down in the world of an upright first camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

_ROTATION_TOLERANCE = 1e-3  # the same as Cameras: poses with 6 digits and float32 poses must pass

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""[4 4] OpenCV axes (y down, z forward) to OpenGL axes (y up, z backward) and back; it is its own inverse."""

TO_Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
"""[4 4] our world (y down, z forward) to a z-up world whose +y is forward (Blender)."""


def inverse(motion: torch.Tensor) -> torch.Tensor:
    """The inverse of rigid motions [n 4 4]: cam2world to world2cam and back, exact to rounding."""
    rotation = motion[:, :3, :3].transpose(1, 2)
    result = torch.zeros_like(motion)
    result[:, :3, :3] = rotation
    result[:, :3, 3:] = -rotation @ motion[:, :3, 3:]
    result[:, 3, 3] = 1
    return result


def in_y_up_world(cam2world: torch.Tensor) -> torch.Tensor:
    """OpenCV poses [n 4 4] in our world -> OpenGL poses in a y-up world, and back (it is its own inverse).

    The camera and the world turn together: the identity stays the identity and the scene stands upright over there.
    """
    return FLIP @ cam2world @ FLIP


def rigid(matrices: torch.Tensor, where: Callable[[int], str]) -> torch.Tensor:
    """The matrices [n 4 4] with the nearest exact rotation, after checking that each one is a camera pose.

    where: says where matrix i stands, for the error ("line 3").

    Raises ValueError that names the place and the likely reason: NaN, transposed, mirrored, scaled, or no pose at all.
    """
    matrices = matrices.to(torch.float64)
    is_finite = torch.isfinite(matrices).all(dim=(1, 2)) if len(matrices) else torch.ones(0, dtype=torch.bool)
    if not is_finite.all():
        first = int((~is_finite).nonzero()[0])
        raise ValueError(f"{where(first)} holds NaN or infinite values. Export the camera path again.")
    rotation = matrices[:, :3, :3]
    gram = rotation @ rotation.transpose(1, 2)
    is_off = (gram - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(1, 2)) > _ROTATION_TOLERANCE
    is_off |= torch.linalg.det(rotation) < 0
    last_row = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    is_off |= (matrices[:, 3] - last_row).abs().amax(dim=1) > _ROTATION_TOLERANCE
    if is_off.any():
        first = int(is_off.nonzero()[0])
        raise ValueError(f"{where(first)} {_diagnosis(matrices[first])}")
    u, _, vh = torch.linalg.svd(rotation)
    result = matrices.clone()
    result[:, :3, :3] = u @ vh
    result[:, 3] = last_row
    return result


def _diagnosis(matrix: torch.Tensor) -> str:
    """Why one finite [4 4] is no camera pose, and which convention would make sense of it."""
    rotation = matrix[:3, :3]
    gram = rotation @ rotation.T
    scale = math.sqrt(max(float(gram.diagonal().mean()), 0.0))
    is_orthogonal = scale > 0 and float((gram / scale**2 - torch.eye(3, dtype=torch.float64)).abs().max()) < 1e-2
    if float(matrix[:3, 3].abs().max()) < 1e-6 and float(matrix[3, :3].abs().max()) > 1e-6:
        return (
            "has its translation in the last row: these look like transposed matrices (row vectors, as Unreal and "
            "DirectX tools write them). Transpose them, or choose recammaster for Unreal poses in centimetres."
        )
    if is_orthogonal and float(torch.linalg.det(rotation)) < 0:
        return (
            "mirrors space (determinant -1): these look like left-handed axes (Unreal, Unity). "
            "Export right-handed axes; for OpenGL axes (y up, looking down -z) choose axes opengl."
        )
    if is_orthogonal and abs(scale - 1) > _ROTATION_TOLERANCE / 2:
        return (
            f"scales space by {scale:.4g}: these look like object matrices with a scale. Apply the scale in the tool "
            "that wrote them (Blender: Ctrl+A, Scale), or divide the first three columns by it."
        )
    return (
        "is not a rotation and a translation. Expected are rows [r r r t] of a rigid camera pose; "
        "check the column order of the file."
    )


def quaternions_of(rotations: torch.Tensor) -> torch.Tensor:
    """Unit quaternions [n 4] in the order w x y z of rotations [n 3 3]; w >= 0."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    # 4 * q q^T, row by row; the row with the largest diagonal loses no digits.
    rows = torch.stack(
        [
            torch.stack(
                [1 + xx + yy + zz, m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], 1
            ),
            torch.stack(
                [m[:, 2, 1] - m[:, 1, 2], 1 + xx - yy - zz, m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0]], 1
            ),
            torch.stack(
                [m[:, 0, 2] - m[:, 2, 0], m[:, 0, 1] + m[:, 1, 0], 1 - xx + yy - zz, m[:, 1, 2] + m[:, 2, 1]], 1
            ),
            torch.stack(
                [m[:, 1, 0] - m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1], 1 - xx - yy + zz], 1
            ),
        ],
        dim=1,
    )
    best = rows.diagonal(dim1=1, dim2=2).argmax(dim=1)
    q = rows[torch.arange(len(m)), best]
    q = q / q.norm(dim=1, keepdim=True)
    return torch.where(q[:, :1] < 0, -q, q)


def rotations_of(quaternions: torch.Tensor) -> torch.Tensor:
    """Rotations [n 3 3] of quaternions [n 4] in the order w x y z, of any length > 0."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(dim=1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=1,
    ).reshape(-1, 3, 3)


def without_sign_jumps(quaternions: torch.Tensor) -> torch.Tensor:
    """The same rotations [n 4] with signs chosen so that neighbours interpolate along the short way."""
    turns = (quaternions[1:] * quaternions[:-1]).sum(dim=1) < 0
    is_odd = torch.cat([torch.zeros(1, dtype=torch.long), turns.long().cumsum(0)]) % 2 == 1
    return torch.where(is_odd[:, None], -quaternions, quaternions)


def rotations_of_euler(degrees: torch.Tensor, order: str) -> torch.Tensor:
    """Rotations [n 3 3] of Euler angles [n 3] about x, y, z; "ZXY" turns about z first, then x, then y (Ry Rx Rz)."""
    angle = torch.deg2rad(degrees)
    result = torch.eye(3, dtype=torch.float64).repeat(len(degrees), 1, 1)
    for axis in ("XYZ".index(letter) for letter in order):
        result = _about_axis(angle[:, axis], axis) @ result
    return result


def euler_of_rotations(rotations: torch.Tensor, order: str) -> torch.Tensor:
    """Euler angles [n 3] about x, y, z in degrees; the inverse of rotations_of_euler up to whole turns.

    Looking straight along the middle axis (gimbal lock) the last angle is what is left over, so the rotation is exact.
    """
    k, j, i = ("XYZ".index(letter) for letter in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    outer = torch.atan2(-sign * rotations[:, j, k], rotations[:, k, k])
    middle = torch.atan2(sign * rotations[:, i, k], torch.hypot(rotations[:, i, i], rotations[:, i, j]))
    rest = _about_axis(-outer, i) @ rotations  # taking the outer turn off first keeps the product exact near the lock
    inner = torch.atan2(sign * rest[:, j, i], rest[:, j, j])
    result = torch.zeros(len(rotations), 3, dtype=torch.float64)
    result[:, i], result[:, j], result[:, k] = outer, middle, inner
    return torch.rad2deg(result)


def _about_axis(angle: torch.Tensor, axis: int) -> torch.Tensor:
    j, k = (axis + 1) % 3, (axis + 2) % 3
    result = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
    result[:, axis, axis] = 1
    result[:, j, j] = result[:, k, k] = torch.cos(angle)
    result[:, k, j], result[:, j, k] = torch.sin(angle), -torch.sin(angle)
    return result


def looking_at(positions: torch.Tensor, targets: torch.Tensor, roll_degrees: torch.Tensor) -> torch.Tensor:
    """OpenGL cam2world [n 4 4] in a y-up world of cameras that look from positions [n 3] at targets [n 3].

    roll_degrees [n]: positive leans the camera's up vector to its left (the picture turns clockwise).
    A camera that looks straight up or down takes -z, or +z, as its up hint (three.js and OmniCam do the same).

    Raises ValueError when a target is at its camera's position.
    """
    forward = targets - positions
    length = forward.norm(dim=1, keepdim=True)
    if (length < 1e-9).any():
        first = int((length[:, 0] < 1e-9).nonzero()[0])
        raise ValueError(f"Camera {first} looks at its own position. Move its target away from it.")
    forward = forward / length
    right = torch.linalg.cross(forward, torch.tensor([0.0, 1, 0], dtype=torch.float64).expand_as(forward))
    is_vertical = (right * right).sum(dim=1) < 1e-12
    hint = torch.zeros_like(forward)
    hint[:, 2] = torch.where(forward[:, 1] > 0, -1.0, 1.0).double()
    right = torch.where(is_vertical[:, None], torch.linalg.cross(forward, hint), right)
    right = right / right.norm(dim=1, keepdim=True)
    up = torch.linalg.cross(right, forward)
    roll = torch.deg2rad(roll_degrees)[:, None]
    right, up = right * torch.cos(roll) + up * torch.sin(roll), up * torch.cos(roll) - right * torch.sin(roll)
    result = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    result[:, :3, :3] = torch.stack([right, up, -forward], dim=2)
    result[:, :3, 3] = positions
    return result


def roll_of(opengl_cam2world: torch.Tensor) -> torch.Tensor:
    """Roll in degrees [n] that looking_at needs to give back these OpenGL poses [n 4 4] from position and direction."""
    position, forward = opengl_cam2world[:, :3, 3], -opengl_cam2world[:, :3, 2]
    level = looking_at(position, position + forward, torch.zeros(len(position), dtype=torch.float64))
    right = opengl_cam2world[:, :3, 0]
    return torch.rad2deg(torch.atan2((right * level[:, :3, 1]).sum(1), (right * level[:, :3, 0]).sum(1)))
