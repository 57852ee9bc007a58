"""The host's camera sockets as matrices, without the host (tests/host compares them with the real nodes)."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.camera import Cameras
from mirage_core.path_formats import (
    cameras_of_load3d,
    cameras_of_wan_embedding,
    in_first_camera,
    load3d_of_cameras,
    wan_embedding_of_cameras,
)
from tests.core.camera_tracks import (
    LEFT_LOOKING,
    SIZE,
    VERTICAL_FOV,
    K,
    left_looking_track,
    lens_between,
    random_track,
    shift_between,
    turn_between,
)

SMALL = (24, 40)


def _film(seed: int) -> Cameras:
    """Five cameras around the origin, each with its own off-centre lens."""
    track = random_track(seed).cameras
    index = [frame % len(track) for frame in range(5)]
    cameras = track[index]
    near = cameras.cam2world.clone()
    near[:, :3, 3] /= near[:, :3, 3].norm(dim=1).max()
    return Cameras(near, cameras.intrinsics, SIZE).resized(SMALL)


def test_100_random_cameras_survive_load3d():
    for seed in range(100):
        cameras = random_track(seed, is_centred=True).cameras
        back = cameras_of_load3d(load3d_of_cameras(cameras, 1), SIZE)
        assert turn_between(cameras[1], back) < 1e-12
        assert shift_between(cameras[1], back) < 1e-12
        assert lens_between(cameras[1], back) < 1e-9


def test_a_viewer_camera_one_unit_to_the_right_that_looks_left_is_read_as_that():
    info = {
        "position": {"x": 1, "y": 0, "z": 0},
        "target": {"x": 0, "y": 0, "z": 0},
        "zoom": 1,
        "cameraType": "perspective",
        "fov": VERTICAL_FOV,
    }
    expected = torch.tensor(LEFT_LOOKING, dtype=torch.float64)
    half = math.sqrt(0.5)
    turned = {**info, "target": {"x": 9, "y": 9, "z": 9}, "quaternion": {"x": 0, "y": half, "z": 0, "w": half}}
    for one in (info, turned):  # the quaternion goes before the target, as in three.js
        cameras = cameras_of_load3d(one, SIZE)
        assert torch.allclose(cameras.cam2world[0], expected)
        assert torch.allclose(cameras.intrinsics[0], K)
    assert cameras_of_load3d({**info, "zoom": 2}, SIZE).intrinsics[0, 0, 0] == pytest.approx(300)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cameraType": "orthographic"}, "orthographic"),
        ({"position": None}, "no position"),
        ({"position": {"x": 1, "y": math.nan, "z": 0}}, "position.y is nan"),
        ({"target": {"x": 1, "y": 0, "z": 0}}, "looks at its own position"),
        ({"quaternion": {"x": 0, "y": 0, "z": 0, "w": 0}}, "length 0"),
        ({"fov": 200}, "field of view of 200"),
    ],
)
def test_a_viewer_camera_that_makes_no_sense_is_refused(change: dict, message: str):
    info = load3d_of_cameras(left_looking_track().cameras, 1)
    del info["quaternion"]
    with pytest.raises(ValueError, match=message):
        cameras_of_load3d({**info, **change}, SIZE)


def test_20_random_films_survive_the_camera_embedding():
    for seed in range(20):
        cameras = in_first_camera(_film(seed))
        back = cameras_of_wan_embedding(wan_embedding_of_cameras(cameras))
        # float32 rays (6e-8) of a long lens, where the picture is some degrees wide: 1e-5 is what is left of it
        assert turn_between(cameras, back) < 1e-5
        assert float((cameras.centers - back.centers).norm(dim=1).max()) < 1e-5
        assert float(((cameras.intrinsics - back.intrinsics).abs() / cameras.intrinsics[:, :1, :1]).max()) < 1e-4


def test_the_embedding_packs_four_frames_into_the_channels_and_repeats_the_first():
    embedding = wan_embedding_of_cameras(_film(1))
    assert embedding.shape == (1, 24, 2, *SMALL) and embedding.dtype == torch.float32
    first = embedding[0, :, 0].reshape(6, 4, *SMALL)
    assert torch.equal(first, first[:, :1].expand(-1, 4, -1, -1))
    directions = embedding[0, 12:].reshape(3, 4, 2, *SMALL)
    assert torch.allclose(directions.norm(dim=0), torch.ones(4, 2, *SMALL), atol=1e-6)


def test_a_ray_of_the_embedding_goes_through_the_pixel_centre():
    poses = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.arange(5)
    k = torch.tensor([[2.0, 0, 2], [0, 2, 1], [0, 0, 1]]).expand(5, 3, 3)
    embedding = wan_embedding_of_cameras(Cameras(poses, k, (2, 4)))[0].reshape(6, 4, 2, 2, 4)
    ray = torch.tensor([0.5 / 2, -0.5 / 2, 1.0])
    ray = ray / ray.norm()
    assert torch.allclose(embedding[3:, 0, 1, 0, 2], ray)  # pixel (row 0, column 2) has its centre at (2.5, 0.5)
    assert torch.allclose(embedding[:3, 0, 1, 0, 2], torch.linalg.cross(torch.tensor([1.0, 0, 0]), ray))  # frame 1


def test_a_film_that_wan_cannot_pack_is_refused():
    with pytest.raises(ValueError, match="4 frames; Wan packs frames as 4n"):
        wan_embedding_of_cameras(_film(1)[[0, 1, 2, 3]])


@pytest.mark.parametrize(
    "embedding, message",
    [
        (torch.zeros(1, 6, 2, 8, 8), "expected is"),
        (torch.full((1, 24, 2, 8, 8), math.nan), "NaN"),
        (torch.zeros(1, 24, 2, 1, 8), "fewer than 2x2"),
        (torch.randn(1, 24, 2, 8, 8, generator=torch.Generator().manual_seed(0)), "rays of a pinhole"),
        (torch.zeros(1, 24, 2, 8, 8), "rays of a pinhole"),
    ],
)
def test_an_embedding_that_holds_no_cameras_is_refused(embedding: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        cameras_of_wan_embedding(embedding)
