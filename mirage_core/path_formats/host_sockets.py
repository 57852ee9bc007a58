"""The host's camera sockets as matrices: LOAD3D_CAMERA and WAN_CAMERA_EMBEDDING. No host import.

LOAD3D_CAMERA is one three.js camera: y-up world, looks down -z, vertical field of view in degrees, zoom multiplies the
focal length (ComfyUI comfy_api/latest/_io.py Load3DCamera). WAN_CAMERA_EMBEDDING is a float tensor
[1 24 latent_frames height width]: per pixel the Plücker line (o x d, d) of its ray in the first camera's frame, four
pixel frames side by side in the channels (channel = 4 * line component + frame), the first frame four times
(comfy_extras/nodes_camera_trajectory.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..camera import Cameras
from .conventions import in_y_up_world, looking_at, quaternions_of, rigid, rotations_of
from .reading import intrinsics_of_vertical_fov, number, vertical_fov_degrees
from .track import in_first_camera

_PACKED = 4  # pixel frames per latent frame in the embedding


def cameras_of_load3d(camera_info: dict[str, Any], image_size: tuple[int, int]) -> Cameras:
    """One camera from a LOAD3D_CAMERA value, for a picture of image_size.

    Without a quaternion the camera looks at its target with +y up, as three.js does.

    Raises ValueError for an orthographic camera and for missing or non-finite fields.
    """
    if not isinstance(camera_info, dict):
        raise ValueError(f"camera_info is {type(camera_info).__name__}; connect a Load 3D or Preview 3D camera.")
    if str(camera_info.get("cameraType", "perspective")).lower().startswith("ortho"):
        raise ValueError("The 3D camera is orthographic; Mirage's cameras are perspective ones. Switch the viewer.")
    position = torch.tensor([_vector(camera_info.get("position"), "position")], dtype=torch.float64)
    quaternion = camera_info.get("quaternion")
    if quaternion:
        wxyz = [number(quaternion.get(axis), f"camera_info quaternion.{axis}") for axis in "wxyz"]
        if math.hypot(*wxyz) < 1e-6:
            raise ValueError("The 3D camera's quaternion has length 0. Reset the viewer's camera.")
        opengl = torch.eye(4, dtype=torch.float64)[None]
        opengl[:, :3, :3] = rotations_of(torch.tensor([wxyz], dtype=torch.float64))
        opengl[:, :3, 3] = position
    else:
        target = torch.tensor([_vector(camera_info.get("target"), "target")], dtype=torch.float64)
        opengl = looking_at(position, target, torch.zeros(1, dtype=torch.float64))
    fov = number(camera_info.get("fov") or 35.0, "camera_info fov")
    zoom = number(camera_info.get("zoom") or 1.0, "camera_info zoom")
    if not 0 < fov < 180 or zoom <= 0:
        raise ValueError(f"The 3D camera has a field of view of {fov:.6g} degrees and a zoom of {zoom:.6g}.")
    zoomed = math.degrees(2 * math.atan(math.tan(math.radians(fov) / 2) / zoom))
    return Cameras(in_y_up_world(opengl), intrinsics_of_vertical_fov([zoomed], image_size, "The 3D camera"), image_size)


def load3d_of_cameras(cameras: Cameras, frame: int, *, target_distance: float = 1.0) -> dict[str, Any]:
    """The LOAD3D_CAMERA value of one camera; its orbit target lies target_distance world units ahead.

    Raises ValueError for off-centre cameras and pixels that are not square, which three.js does not have.
    """
    one = cameras[frame]
    fov = vertical_fov_degrees(one, "LOAD3D_CAMERA")[0]
    opengl = in_y_up_world(one.cam2world)[0]
    position = opengl[:3, 3]
    quaternion = quaternions_of(opengl[None, :3, :3])[0].tolist()
    return {
        "position": _named(position),
        "target": _named(position - opengl[:3, 2] * target_distance),
        "quaternion": dict(zip("wxyz", quaternion, strict=True)),
        "zoom": 1.0,
        "cameraType": "perspective",
        "fov": fov,
        "aspect": one.image_size[1] / one.image_size[0],
    }


def _vector(value: Any, name: str) -> list[float]:
    if not isinstance(value, dict):
        raise ValueError(f"The 3D camera has no {name}. Move the viewer's camera once, so that it is stored.")
    return [number(value.get(axis), f"camera_info {name}.{axis}") for axis in "xyz"]


def _named(vector: torch.Tensor) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))


def wan_embedding_of_cameras(cameras: Cameras) -> torch.Tensor:
    """WAN_CAMERA_EMBEDDING [1 24 latent_frames height width] float32 of cameras at their own image_size.

    Raises ValueError unless there are 4n+1 cameras.
    """
    frames = len(cameras)
    if (frames - 1) % _PACKED:
        raise ValueError(f"The path has {frames} frames; Wan packs frames as 4n+1. Use {(frames - 1) // 4 * 4 + 1}.")
    height, width = cameras.image_size
    cameras = in_first_camera(cameras)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    pixels = torch.stack([x, y, torch.ones_like(x)])
    lines = torch.empty(frames, 6, height, width, dtype=torch.float32)
    for frame in range(frames):  # one frame at a time: all rays of a film in float64 would be gigabytes
        to_world = cameras.cam2world[frame, :3, :3] @ torch.linalg.inv(cameras.intrinsics[frame])
        rays = torch.einsum("ij,jhw->ihw", to_world, pixels)
        rays = rays / rays.norm(dim=0, keepdim=True)
        origin = cameras.centers[frame][:, None, None].expand_as(rays)
        lines[frame] = torch.cat([torch.linalg.cross(origin, rays, dim=0), rays]).float()
    lines = torch.cat([lines[:1].expand(_PACKED - 1, -1, -1, -1), lines])
    packed = lines.reshape(-1, _PACKED, 6, height, width).permute(2, 1, 0, 3, 4)
    return packed.reshape(1, 6 * _PACKED, -1, height, width)


def cameras_of_wan_embedding(embedding: torch.Tensor) -> Cameras:
    """The cameras whose rays a WAN_CAMERA_EMBEDDING holds; the first is the identity. Precise to about 1e-5 (float32).

    Raises ValueError for another shape, or for values that are not the rays of pinhole cameras.
    """
    if embedding.ndim != 5 or embedding.shape[0] != 1 or embedding.shape[1] != 6 * _PACKED:
        raise ValueError(
            f"The camera embedding has shape {list(embedding.shape)}; expected is [1 24 latent_frames height width]. "
            "Connect WanCameraEmbedding."
        )
    height, width = embedding.shape[-2:]
    rows = torch.linspace(0, height - 1, min(height, 24)).round().long()
    columns = torch.linspace(0, width - 1, min(width, 24)).round().long()
    some = embedding[0][:, :, rows[:, None], columns[None]].detach().to("cpu", torch.float64)
    lines = some.reshape(6, _PACKED, -1, *some.shape[-2:]).permute(2, 1, 0, 3, 4).flatten(0, 1)[_PACKED - 1 :]
    if min(height, width) < 2 or not torch.isfinite(lines).all():
        raise ValueError("The camera embedding holds NaN, or fewer than 2x2 pixels. Connect WanCameraEmbedding.")
    y, x = torch.meshgrid(rows.double() + 0.5, columns.double() + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(lines), 1, 1)
    intrinsics = torch.empty(len(lines), 3, 3, dtype=torch.float64)
    for frame, line in enumerate(lines.flatten(2)):
        moments, rays = line[:3], line[3:]
        poses[frame, :3, :3], intrinsics[frame] = _camera_of_rays(rays, pixels, width, frame)
        poses[frame, :3, 3] = _origin(moments, rays)
    poses = rigid(poses, lambda frame: f"frame {frame} of the camera embedding")
    return Cameras(poses, intrinsics, (height, width))


def _camera_of_rays(
    rays: torch.Tensor, pixels: torch.Tensor, width: int, frame: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation and intrinsics of a pinhole whose `pixels` [3 n] look along `rays` [3 n] (a homography, then RQ)."""
    scale = torch.diag(torch.tensor([1 / width, 1 / width, 1.0], dtype=torch.float64))
    p = scale @ pixels
    zero = torch.zeros_like(p)
    # rays x (H p) = 0, two independent rows of three are enough, all three are symmetric.
    system = torch.cat(
        [
            torch.cat([zero, -rays[2] * p, rays[1] * p]),
            torch.cat([rays[2] * p, zero, -rays[0] * p]),
            torch.cat([-rays[1] * p, rays[0] * p, zero]),
        ],
        dim=1,
    ).T
    homography = torch.linalg.svd(system, full_matrices=False)[2][-1].reshape(3, 3) @ scale
    seen = homography @ pixels
    if float((seen * rays).sum()) < 0:
        homography, seen = -homography, -seen
    off = (seen / seen.norm(dim=0) - rays).abs().max()
    if not off < 1e-3 or float(torch.linalg.det(homography)) <= 0:
        raise ValueError(f"Frame {frame} of the camera embedding does not hold the rays of a pinhole camera.")
    # H = R K^-1 up to scale: QR with a positive diagonal.
    rotation, inverse_k = torch.linalg.qr(homography)
    signs = torch.sign(inverse_k.diagonal())
    rotation, inverse_k = rotation * signs, signs[:, None] * inverse_k
    intrinsics = torch.linalg.inv(inverse_k / inverse_k[2, 2])
    intrinsics[0, 1] = 0.0  # the host's embeddings have no skew; what is fitted here is rounding
    return rotation, intrinsics


def _origin(moments: torch.Tensor, rays: torch.Tensor) -> torch.Tensor:
    """The point o [3] with o x d = m for all rays d and moments m [3 n], in the least-squares sense."""
    n = rays.shape[1]
    system = torch.zeros(n, 3, 3, dtype=torch.float64)
    system[:, 0, 1], system[:, 0, 2] = rays[2], -rays[1]
    system[:, 1, 0], system[:, 1, 2] = -rays[2], rays[0]
    system[:, 2, 0], system[:, 2, 1] = rays[1], -rays[0]
    return torch.linalg.lstsq(system.reshape(-1, 3), moments.T.reshape(-1, 1)).solution[:, 0]
