"""The camera convention: OpenCV axes, camera-to-world, pixel centres at +1/2."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.camera import (
    Cameras,
    fov_degrees,
    pinhole_intrinsics,
    projection_matrices,
    unproject_cells,
)
from mirage_core.latent_grid import LatentGrid

CENTER, CORNER = LatentGrid(), LatentGrid(cell_rule="corner")
IMAGE, SIZE = (96, 160), (6, 10)


def motion_of(seed: int) -> torch.Tensor:
    """[4 4] random rigid motion."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = rotation * torch.linalg.det(rotation)
    motion[:3, 3] = torch.randn(3, generator=generator, dtype=torch.float64)
    return motion


def random_cameras(frames: int = 3) -> Cameras:
    intrinsics = pinhole_intrinsics(65, IMAGE).repeat(frames, 1, 1)
    intrinsics[:, 1, 1] *= 1.3
    intrinsics[:, 0, 2] += 7
    return Cameras(torch.stack([motion_of(seed) for seed in range(frames)]), intrinsics, IMAGE)


def projected(points: torch.Tensor, cameras: Cameras, grid: LatentGrid) -> torch.Tensor:
    """(u, v, z) of points [frames ... 3] on the latent grid."""
    matrices = projection_matrices(cameras, SIZE, grid)
    x, y, z = (torch.einsum("fij,f...j->f...i", matrices[:, :, :3], points) + matrices[:, None, None, :, 3]).unbind(-1)
    return torch.stack([x / z, y / z, z], dim=-1)


@pytest.mark.parametrize("grid", [CENTER, CORNER])
def test_unprojected_cells_project_into_the_middle_of_themselves(grid):
    cameras, depth = random_cameras(), torch.rand(3, *SIZE, dtype=torch.float64) + 1
    u, v, z = projected(unproject_cells(depth, cameras, grid), cameras, grid).unbind(-1)
    row, column = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    assert torch.allclose(u, column.double().expand_as(u))
    assert torch.allclose(v, row.double().expand_as(v))
    assert torch.allclose(z, depth)


def test_moving_world_and_cameras_together_moves_the_points_along():
    cameras, depth, motion = random_cameras(), torch.rand(3, *SIZE, dtype=torch.float64) + 1, motion_of(9)
    still, moved = (unproject_cells(depth, one, CENTER) for one in (cameras, cameras.moved(motion)))
    assert torch.allclose(moved, still @ motion[:3, :3].T + motion[:3, 3])


def test_world2cam_undoes_cam2world():
    cameras = random_cameras()
    assert torch.allclose(cameras.world2cam @ cameras.cam2world, torch.eye(4).double().expand(3, 4, 4), atol=1e-12)


def test_resizing_there_and_back_changes_nothing():
    cameras = random_cameras()
    again = cameras.resized((44, 81)).resized(IMAGE)
    assert torch.allclose(again.intrinsics, cameras.intrinsics)
    assert again.image_size == IMAGE


def test_resizing_keeps_the_field_of_view():
    intrinsics = random_cameras().resized((12, 20)).intrinsics
    assert torch.allclose(intrinsics[:, 0] / 20, random_cameras().intrinsics[:, 0] / 160)
    assert torch.allclose(intrinsics[:, 1] / 12, random_cameras().intrinsics[:, 1] / 96)


@pytest.mark.parametrize("degrees", [20.0, 60.0, 90.0, 130.0])
def test_field_of_view_and_intrinsics_are_inverse(degrees):
    assert fov_degrees(pinhole_intrinsics(degrees, IMAGE), IMAGE) == pytest.approx(degrees)


def test_the_middle_pixel_of_a_centred_camera_looks_straight_ahead():
    camera = Cameras(torch.eye(4)[None], pinhole_intrinsics(90, (3, 5))[None], (3, 5))
    points = unproject_cells(torch.full((1, 3, 5), 2.0), camera, CENTER)
    assert points[0, 1, 2].tolist() == [0.0, 0.0, 2.0]
    # 90 degrees over 5 cells: half a width is 2.5 cells, so one cell is 2 / 2.5 of the depth's unit wide at depth 2.
    assert points[0, 2, 4].tolist() == pytest.approx([1.6, 0.8, 2.0])


def test_the_release_rule_casts_rays_through_integer_coordinates():
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[10.0, 0, 4], [0, 10, 2], [0, 0, 1]]]), (4, 8))
    points = unproject_cells(torch.ones(1, 4, 8), camera, CORNER)
    assert points[0, 2, 4].tolist() == pytest.approx([0, 0, 1])
    assert points[0, 0, 0].tolist() == pytest.approx([-0.4, -0.2, 1])


def test_cropping_moves_the_principal_point_by_the_cut_pixels():
    cameras = random_cameras()
    cropped = cameras.center_cropped((80, 147))
    assert (cameras.intrinsics[:, 0, 2] - cropped.intrinsics[:, 0, 2]).tolist() == [6.0] * 3
    assert (cameras.intrinsics[:, 1, 2] - cropped.intrinsics[:, 1, 2]).tolist() == [8.0] * 3
    assert torch.equal(cropped.intrinsics[:, 0, 0], cameras.intrinsics[:, 0, 0])


def test_cropping_to_a_larger_image_is_refused():
    with pytest.raises(ValueError, match="Cannot crop"):
        random_cameras().center_cropped((97, 160))


def test_slices_of_cameras_join_to_the_whole():
    cameras = random_cameras(5)
    joined = Cameras.joined([cameras[:2], cameras[2], cameras[[3, 4]]])
    assert torch.equal(joined.cam2world, cameras.cam2world)
    assert torch.equal(joined.intrinsics, cameras.intrinsics)
    assert len(cameras[2]) == 1


def test_cameras_of_two_image_sizes_are_not_joined():
    with pytest.raises(ValueError, match="Resize them first"):
        Cameras.joined([random_cameras(), random_cameras().resized((48, 80))])


def test_centers_are_where_the_cameras_are():
    cameras = random_cameras()
    origin = torch.tensor([0.0, 0, 0, 1]).double()
    assert torch.equal(cameras.centers, (cameras.cam2world @ origin)[:, :3])


def test_cameras_are_kept_in_float64_on_the_cpu():
    cameras = Cameras(torch.eye(4)[None].float(), pinhole_intrinsics(60, IMAGE)[None].float(), IMAGE)
    assert cameras.cam2world.dtype == cameras.intrinsics.dtype == torch.float64
    assert cameras.cam2world.device.type == "cpu"


SCALED, MIRRORED, UNKNOWN = torch.eye(4), torch.eye(4), torch.eye(4)
SCALED[:3, :3] *= 2
MIRRORED[0, 0] = -1
UNKNOWN[0, 3] = torch.nan
INTRINSICS = pinhole_intrinsics(60, IMAGE)


@pytest.mark.parametrize(
    ("cam2world", "intrinsics", "image_size", "reason"),
    [
        (SCALED[None], INTRINSICS[None], IMAGE, "camera 0 is not a rotation"),
        (MIRRORED[None], INTRINSICS[None], IMAGE, "camera 0 is not a rotation"),
        (UNKNOWN[None], INTRINSICS[None], IMAGE, "NaN or infinite"),
        (torch.eye(4), INTRINSICS[None], IMAGE, r"\[frames 4 4\]"),
        (torch.eye(4)[None], INTRINSICS, IMAGE, r"\[frames 3 3\]"),
        (torch.eye(4).repeat(2, 1, 1), INTRINSICS[None], IMAGE, "2 cameras"),
        (torch.eye(4)[None], -INTRINSICS[None], IMAGE, "focal lengths above 0"),
        (torch.eye(4)[None], INTRINSICS[None] * math.inf, IMAGE, "finite"),
        (torch.eye(4)[None], INTRINSICS[None], (0, 5), "at least 1"),
    ],
)
def test_what_is_not_a_pinhole_camera_is_refused(cam2world, intrinsics, image_size, reason):
    with pytest.raises(ValueError, match=reason):
        Cameras(cam2world, intrinsics, image_size)


@pytest.mark.parametrize("degrees", [0.0, 180.0, -5.0])
def test_impossible_fields_of_view_are_refused(degrees):
    with pytest.raises(ValueError, match="between 0 and 180"):
        pinhole_intrinsics(degrees, IMAGE)


def test_every_depth_map_needs_its_camera():
    with pytest.raises(ValueError, match="one camera per depth map"):
        unproject_cells(torch.ones(2, *SIZE), random_cameras(3), CENTER)
