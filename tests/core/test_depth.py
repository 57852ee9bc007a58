"""Depth at latent resolution: no lifted point flies, and nearly every cell is kept. Then priors.

The truth is ray-cast: rooms with boxes, turned pillars, leaning boards and a slanted floor, seen by several cameras.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as functional

from mirage_core.camera import Cameras, pinhole_intrinsics, unproject_cells
from mirage_core.depth import (
    bilinear_depth,
    latent_depth,
    median_depth,
    plane_depth,
    room_depth,
)
from mirage_core.latent_grid import WAN22
from mirage_core.path_presets import preset
from tests.core.scenes import Rectangle, box, furnished_room, ray_cast

nan, inf = math.nan, math.inf
SUMS = 1e-5  # rounding of sums of 256 float32 numbers
ROOM = box((-3.0, -1.7, -1.0), (3.0, 1.4, 8.0))


def turned_box(center: tuple[float, float, float], half: tuple[float, float, float], turn: float, lean: float = 0.0):
    """The six faces of a box turned about the vertical and then leaning about its own x axis, in radians."""
    c, s, cl, sl = math.cos(turn), math.sin(turn), math.cos(lean), math.sin(lean)
    about_y = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    about_x = torch.tensor([[1, 0, 0], [0, cl, -sl], [0, sl, cl]], dtype=torch.float64)
    rotation, middle = about_y @ about_x, torch.tensor(center, dtype=torch.float64)
    faces = []
    for face in box((-half[0], -half[1], -half[2]), half):
        corner, side_a, side_b = (
            rotation @ torch.tensor(vector, dtype=torch.float64) for vector in (face.corner, face.side_a, face.side_b)
        )
        faces.append(Rectangle(*(tuple(vector.tolist()) for vector in (middle + corner, side_a, side_b))))
    return faces


SCENES = {
    "furniture": furnished_room(),
    "pillars": ROOM
    + turned_box((-1.4, -0.1, 3.0), (0.15, 1.5, 0.15), 0.6)
    + turned_box((-0.3, -0.1, 4.5), (0.15, 1.5, 0.15), 0.2)
    + turned_box((1.0, -0.1, 3.2), (0.15, 1.5, 0.15), -0.4),
    "slanted": ROOM
    + turned_box((0.0, 2.2, 5.0), (2.9, 1.5, 2.5), 0.0, 0.3)
    + turned_box((-1, 0, 4), (0.3, 1, 0.1), 1.0, 0.3),
    "clutter": ROOM
    + turned_box((-1.5, -0.9, 3.5), (0.2, 0.3, 0.1), 0.7, 0.4)
    + turned_box((0.2, 0.2, 2.6), (0.15, 0.2, 0.3), 1.3, -0.5)
    + turned_box((1.4, 0.9, 4.0), (0.3, 0.1, 0.4), -0.6, 0.9)
    + turned_box((0.8, -0.7, 6.0), (0.5, 0.4, 0.2), 0.3, 0.2),
}


@functools.cache
def views(image_size: tuple[int, int], count: int) -> Cameras:
    """Cameras inside the rooms: level, turned, tilted, rolled, farther in; a wide lens."""
    moves = (
        ("pan_left", 0.0),
        ("orbit_right", 20.0),
        ("tilt_down", 18.0),
        ("pan_right", 50.0),
        ("roll", 12.0),
        ("dolly_in", 0.4),
    )
    intrinsics = pinhole_intrinsics(70, image_size)
    cameras = [
        preset(name, amount=amount).cameras(2, intrinsics=intrinsics, image_size=image_size, unit_length=3.0)[1]
        for name, amount in moves[:count]
    ]
    return Cameras.joined(cameras)


@functools.cache
def truth(scene: str, image_size: tuple[int, int], depth_size: tuple[int, int], count: int) -> torch.Tensor:
    return ray_cast(SCENES[scene], views(image_size, count), depth_size).depth.float()


def distances_to(scene: list[Rectangle], points: torch.Tensor) -> torch.Tensor:
    """Distance of points [... 3] to the nearest rectangle."""
    nearest = torch.full(points.shape[:-1], inf, dtype=torch.float64)
    for rectangle in scene:
        corner, a, b = (
            torch.tensor(vector, dtype=torch.float64)
            for vector in (rectangle.corner, rectangle.side_a, rectangle.side_b)
        )
        from_corner = points.double() - corner
        along_a = (from_corner @ a / a.dot(a)).clamp(0, 1)[..., None]
        along_b = (from_corner @ b / b.dot(b)).clamp(0, 1)[..., None]
        nearest = torch.minimum(nearest, (from_corner - along_a * a - along_b * b).norm(dim=-1))
    return nearest


def flight(scene: str, lifted: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """Of every kept cell: distance of its point to the nearest true surface, as a share of its depth."""
    off = distances_to(SCENES[scene], unproject_cells(lifted, cameras, WAN22)) / lifted
    return off[lifted > 0]


def blurred(depth: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur by `sigma` pixels: how depth models smear their edges."""
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-x * x / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    padded = functional.pad(depth[:, None], (reach,) * 4, mode="replicate")
    down = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(down, kernel[None, None, None, :])[:, 0]


WIDE, SMALL = ((704, 1280), (44, 80)), ((256, 256), (16, 16))

# (image and grid, depth map, number of cameras): a depth map as large as the image once, as ray casting is slow.
SIZES = [(WIDE, (280, 504), 2), (SMALL, (256, 256), 5)]
CASES = [(scene, *sizes) for scene in SCENES for sizes in SIZES] + [("clutter", WIDE, (704, 1280), 1)]


@pytest.mark.parametrize(("scene", "image", "depth_size", "count"), CASES)
def test_no_lifted_point_flies_and_nine_of_ten_cells_are_kept(scene: str, image, depth_size, count: int) -> None:
    image_size, grid_size = image
    lifted = latent_depth(truth(scene, image_size, depth_size, count), grid_size)
    assert lifted.shape == (count, *grid_size)
    assert float(flight(scene, lifted, views(image_size, count)).max()) <= 0.02
    assert float((lifted > 0).float().mean((1, 2)).min()) >= 0.9


@pytest.mark.parametrize("scene", SCENES)
def test_the_bilinear_depth_of_the_release_does_let_points_fly_there(scene: str) -> None:
    # method.md part 2, 12.3: the flaw that latent_depth guards against; without it the test above would prove nothing.
    lifted = bilinear_depth(truth(scene, SMALL[0], (256, 256), 5), (16, 16))
    assert float(flight(scene, lifted, views(SMALL[0], 5)).max()) > 0.05


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("sizes", "sigma"), [(SIZES[0], 1.0), (SIZES[1], 2.0)])
def test_smeared_depth_edges_lift_hardly_any_flying_point(scene: str, sizes, sigma: float) -> None:
    (image_size, grid_size), depth_size, count = sizes
    smeared = blurred(truth(scene, image_size, depth_size, count), sigma)
    cameras = views(image_size, count)
    ours = flight(scene, latent_depth(smeared, grid_size), cameras)
    plain = flight(scene, bilinear_depth(smeared, grid_size), cameras)
    assert float((ours > 0.02).float().mean()) <= min(0.002, 0.2 * float((plain > 0.02).float().mean()))
    assert float(ours.max()) <= 0.05


def test_the_corner_of_a_room_keeps_its_cell():
    cameras = Cameras(torch.eye(4).double()[None], pinhole_intrinsics(60, (320, 512))[None], (320, 512))
    depth = room_depth(cameras)
    cells = latent_depth(depth, (20, 32))
    at_centers = depth.reshape(1, 20, 16, 32, 16)[:, :, 7:9, :, 7:9].mean(dim=(2, 4))
    assert ((cells / at_centers - 1).abs() < 0.02).all()


def test_one_plane_is_exact_at_the_cell_centre_whatever_its_slant_and_the_depths_size() -> None:
    centers = pinhole_intrinsics(60, (44, 80))
    for depth_size in ((704, 1280), (280, 504), (100, 37), (44, 80), (13, 21)):
        for normal in ((0.0, 0.0, 1.0), (0.3, -0.2, 1.0), (-0.9, 0.4, 1.0)):
            expected, depth = (
                plane_at(intrinsics, size, normal)
                for intrinsics, size in ((centers, (44, 80)), (stretched(centers, (44, 80), depth_size), depth_size))
            )
            torch.testing.assert_close(latent_depth(depth, (44, 80)), expected, rtol=1e-3, atol=0)


def stretched(intrinsics: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    return torch.diag(torch.tensor([new[1] / old[1], new[0] / old[0], 1.0], dtype=torch.float64)) @ intrinsics


def plane_at(intrinsics: torch.Tensor, size: tuple[int, int], normal: tuple[float, float, float]) -> torch.Tensor:
    """z-depth [1 H W] of the plane normal . point = 4, which no ray of the pictures used here runs along."""
    y, x = torch.meshgrid(torch.arange(size[0]).double() + 0.5, torch.arange(size[1]).double() + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(intrinsics).T
    return (4 / (rays @ torch.tensor(normal, dtype=torch.float64)))[None]


def split_cell(left: float, right: float, columns: int) -> torch.Tensor:
    """A map of 3 x 3 cells of 16 pixels; `columns` pixel columns of the middle cell have depth `left`, as all on its
    left, and the others `right`."""
    depth = torch.full((1, 48, 48), right)
    depth[:, :, : 16 + columns] = left
    return depth


@pytest.mark.parametrize(("columns", "expected"), [(3, 8.0), (7, 8.0), (9, 2.0), (13, 2.0), (16, 2.0)])
def test_a_cell_on_an_edge_takes_the_depth_of_the_larger_part_exactly(columns: int, expected: float) -> None:
    assert float(latent_depth(split_cell(2.0, 8.0, columns), (3, 3))[0, 1, 1]) == pytest.approx(expected, rel=SUMS)


def test_a_cell_in_three_equal_parts_is_left_out() -> None:
    depth = torch.full((1, 48, 48), 2.0)
    depth[:, :, 21:27] = 4.0
    depth[:, :, 27:] = 9.0
    assert latent_depth(depth, (3, 3))[0, :, 1].tolist() == [0, 0, 0]


def test_a_wall_behind_a_thin_post_is_kept_and_a_hole_in_a_fence_is_not_filled() -> None:
    wall_behind_post, hole_in_fence = torch.full((1, 48, 48), 6.0), torch.full((1, 48, 48), 3.0)
    wall_behind_post[:, :, 22:26] = 3.0
    hole_in_fence[:, :, 22:26] = 6.0
    assert float(latent_depth(wall_behind_post, (3, 3))[0, 1, 1]) == pytest.approx(6, rel=SUMS)
    assert float(latent_depth(hole_in_fence, (3, 3))[0, 1, 1]) == 0


def test_a_ramp_between_two_walls_is_left_out_and_a_floor_of_the_same_slope_is_kept() -> None:
    inverse = torch.full((1, 16, 112), 0.5)
    inverse[:, :, 48:64] = torch.linspace(0.5, 0.25, 16)
    inverse[:, :, 64:] = 0.25
    assert (latent_depth(1 / inverse, (1, 7))[0, 0] > 0).tolist() == [True, True, True, False, True, True, True]
    floor = torch.linspace(0.5, 0.25, 112).expand(1, 16, 112)
    assert (latent_depth(1 / floor, (1, 7)) > 0).all()


@pytest.mark.parametrize("unknown", [0.0, -2.0, nan, inf, -inf])
def test_unknown_pixels_are_neither_depth_nor_neighbours(unknown: float) -> None:
    depth = torch.full((1, 48, 48), 5.0)
    depth[:, :, 16:21] = unknown  # 5 of 16 columns of the middle cells
    depth[:, :, 32:44] = unknown  # 12 of 16 columns of the right cells
    lifted = latent_depth(depth, (3, 3))[0, 1]
    assert lifted.tolist() == pytest.approx([5, 5, 0], rel=SUMS)
    assert (latent_depth(torch.full((1, 48, 48), unknown), (3, 3)) == 0).all()


def test_frames_do_not_influence_each_other() -> None:
    depth = truth("pillars", SMALL[0], (256, 256), 5)
    together = latent_depth(depth, (16, 16))
    for frame in range(5):
        assert torch.equal(latent_depth(depth[frame : frame + 1], (16, 16))[0], together[frame])


def test_the_number_of_threads_changes_no_bit() -> None:
    depth = truth("clutter", SMALL[0], (256, 256), 5)
    threads = torch.get_num_threads()
    lifted = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        lifted.append(latent_depth(depth, (16, 16)))
    torch.set_num_threads(threads)
    assert torch.equal(lifted[0], lifted[1]) and torch.equal(lifted[0], lifted[2])


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_unit_of_length_does_not_matter(scale: float) -> None:
    depth = truth("clutter", SMALL[0], (256, 256), 5)
    # Rounding moves single pixels across the limit of a surface, so a little more than rounding is left.
    torch.testing.assert_close(
        latent_depth(depth * scale, (16, 16)), scale * latent_depth(depth, (16, 16)), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_depths_dtype_is_kept(dtype: torch.dtype) -> None:
    lifted = latent_depth(torch.full((1, 32, 32), 3.0, dtype=dtype), (2, 2))
    assert lifted.dtype == dtype
    assert lifted.flatten().tolist() == pytest.approx([3] * 4)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)])
def test_a_map_of_few_pixels_still_has_a_depth(size: tuple[int, int]) -> None:
    assert latent_depth(torch.full((1, *size), 2.5), (4, 4)).flatten().tolist() == pytest.approx([2.5] * 16)


# The release's rule, by hand.


def test_bilinear_depth_is_the_mean_of_the_four_middle_pixels_of_an_even_cell() -> None:
    depth = torch.arange(64.0).reshape(1, 8, 8)
    middle = depth[0, 1:3, 1:3].mean()
    assert float(bilinear_depth(depth, (2, 2))[0, 0, 0]) == pytest.approx(float(middle))


# Median, priors.


def test_the_median_depth_ignores_what_is_unknown() -> None:
    assert median_depth(torch.tensor([[[1.0, 2, 3, 0, -5, nan, inf]]])) == 2


def room_cameras(**move) -> Cameras:
    size = (64, 96)
    path = preset(**move) if move else preset("static")
    return path.cameras(5, intrinsics=pinhole_intrinsics(80, size), image_size=size, unit_length=1.0)


def world_points(depth: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    return unproject_cells(depth.double(), cameras, WAN22)


def test_the_floor_lies_below_the_camera_and_the_wall_ahead() -> None:
    cameras = room_cameras()
    points = world_points(plane_depth(cameras, camera_height=1.5, wall_distance=7.0), cameras)[0]
    torch.testing.assert_close(points[-1, :, 1], torch.full((96,), 1.5, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(points[0, :, 2], torch.full((96,), 7.0, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_camera_tilted_down_sees_the_floor_nearer_in_the_middle() -> None:
    cameras = room_cameras()
    level, tilted = (plane_depth(cameras, tilt_degrees=tilt)[0, 32, 48] for tilt in (0.0, -30.0))
    assert float(level) == pytest.approx(8.0)
    assert float(tilted) == pytest.approx(1.6 / math.sin(math.radians(30)), rel=0.05)


@pytest.mark.parametrize("name", ["pan_left", "truck_right", "dolly_in", "look_around", "orbit_left"])
def test_the_room_stands_still_while_the_camera_moves(name: str) -> None:
    cameras = room_cameras(name=name)
    points = world_points(room_depth(cameras, room_size=(5.0, 2.8, 6.0), camera_height=1.5), cameras)
    walls = torch.stack(
        [points[..., 0].abs() - 2.5, points[..., 1] - 1.5, points[..., 1] + 1.3, points[..., 2] - 6, points[..., 2] + 3]
    )
    assert walls.abs().amin(0).max() < 1e-4
    assert (points[..., 0].abs() < 2.5001).all() and (points[..., 2] < 6.0001).all()


def test_a_camera_that_has_left_the_room_knows_nothing() -> None:
    cameras = room_cameras(name="dolly_in", amount=7.0)
    depth = room_depth(cameras)
    assert (depth[0] > 0).all() and (depth[-1] == 0).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: latent_depth(torch.ones(8, 8), (2, 2)), r"depth maps are \[frames H W\]"),
        (lambda: latent_depth(torch.ones(0, 8, 8), (2, 2)), "not empty"),
        (lambda: latent_depth(torch.ones(1, 8, 8), (0, 2)), "at least one row"),
        (lambda: bilinear_depth(torch.ones(8, 8), (2, 2)), r"depth maps are \[frames H W\]"),
        (lambda: median_depth(torch.tensor([0.0, nan, inf, -1])), "No pixel of the depth is known"),
        (lambda: plane_depth(room_cameras(), camera_height=0), "camera_height is 0"),
        (lambda: plane_depth(room_cameras(), wall_distance=nan), "wall_distance is nan"),
        (lambda: room_depth(room_cameras(), room_size=(-1, 2, 3)), "width is -1"),
        (lambda: room_depth(room_cameras(), camera_height=3.0), "Lower it"),
    ],
)
def test_what_is_no_depth_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_the_crease_between_floor_and_wall_is_kept():
    size = (256, 256)
    cameras = Cameras(torch.eye(4)[None], pinhole_intrinsics(60, size)[None], size)
    depth = latent_depth(room_depth(cameras), (16, 16))[0]
    assert (depth[11, 3:13] > 0).all()
