"""Our camera sockets against the real host's own nodes: the same tensors, and the same view of a point."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from mirage_core.camera import Cameras
from mirage_core.path_formats import (
    cameras_of_load3d,
    cameras_of_wan_embedding,
    load3d_of_cameras,
    wan_embedding_of_cameras,
)

HEIGHT, WIDTH, FRAMES = 48, 64, 9
# The host's node stretches its normalised fx, fy from 1280x720 to the picture; at 16:9 they are plain multiples.
WIDE_HEIGHT, WIDE_WIDTH = 36, 64


@pytest.mark.parametrize(
    "pose, axis, sign",
    [
        ("Pan Left", 0, -1),
        ("Pan Right", 0, 1),
        ("Pan Up", 1, -1),
        ("Pan Down", 1, 1),
        ("Zoom In", 2, 1),
        ("Static", 0, 0),
    ],
)
def test_the_hosts_wan_cameras_are_read_and_written_as_the_host_does(host, pose: str, axis: int, sign: int):
    trajectory = importlib.import_module("comfy_extras.nodes_camera_trajectory")
    embedding = trajectory.WanCameraEmbedding.execute(pose, WIDE_WIDTH, WIDE_HEIGHT, FRAMES, fx=0.5, fy=0.8).result[0]
    cameras = cameras_of_wan_embedding(embedding)
    assert len(cameras) == FRAMES
    moved = cameras.centers[-1, axis] * sign
    assert float(moved) > 0.5 if sign else float(cameras.centers.abs().max()) < 1e-6
    k = torch.tensor([[0.5 * WIDE_WIDTH, 0, WIDE_WIDTH / 2], [0, 0.8 * WIDE_HEIGHT, WIDE_HEIGHT / 2], [0, 0, 1]])
    assert torch.allclose(cameras.intrinsics, k.double().expand(FRAMES, 3, 3), atol=1e-3)
    exact = Cameras(cameras.cam2world, k.expand(FRAMES, 3, 3), (WIDE_HEIGHT, WIDE_WIDTH))
    assert torch.allclose(wan_embedding_of_cameras(exact), embedding.cpu().float(), atol=1e-5)


def test_a_turning_host_camera_keeps_its_direction_of_turn(host):
    trajectory = importlib.import_module("comfy_extras.nodes_camera_trajectory")
    embedding = trajectory.WanCameraEmbedding.execute("ClockWise (CW)", WIDE_WIDTH, WIDE_HEIGHT, FRAMES).result[0]
    last = cameras_of_wan_embedding(embedding).cam2world[-1]
    angle = math.pi / 3 * (FRAMES - 1) / FRAMES  # the host's base angle, reached short of its last step
    assert last[1, 0] == pytest.approx(math.sin(angle), abs=1e-5)  # +x turns towards +y, down: clockwise


@pytest.mark.parametrize("has_quaternion", [True, False])
def test_the_hosts_splat_renderer_and_ours_look_the_same_way(host, has_quaternion: bool):
    splat = importlib.import_module("comfy_extras.nodes_gaussian_splat")
    info = splat._lookat_camera_info([1.0, 0.5, 3.0], [0.2, 0.1, -0.3], 40.0, torch.device("cpu"))
    if not has_quaternion:
        info = {name: value for name, value in info.items() if name != "quaternion"}
    cameras = cameras_of_load3d(info, (HEIGHT, WIDTH))
    eye, _, right, down, forward = splat._camera_basis(info, torch.device("cpu"))
    ours = cameras.cam2world[0].float()
    for column, axis in enumerate((right, down, forward, eye)):  # the host's splat frame is our world
        assert torch.allclose(ours[:3, column], axis, atol=1e-5)
    back = load3d_of_cameras(cameras, 0)
    assert back["fov"] == pytest.approx(40.0)
    assert set(back) <= {"position", "target", "quaternion", "zoom", "cameraType", "fov", "aspect", "near", "far"}
