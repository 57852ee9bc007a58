"""Refined cameras: wrong paths through ray-cast rooms are put right by depth, left alone where depth cannot tell."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22, LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.pose_errors import angles_between
from mirage_core.pose_refinement import Refinement, refine_cameras
from mirage_core.zbuffer import project
from tests.core.scenes import Rectangle, furnished_room, ray_cast, wall

SIZE, FRAMES = (22, 40), 5


def path(frames: int = FRAMES) -> Cameras:
    """A slow dolly with a slight pan."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    for frame in range(frames):
        angle = math.radians(2.0 * frame)
        cam2world[frame, 0, 0] = cam2world[frame, 2, 2] = math.cos(angle)
        cam2world[frame, 0, 2], cam2world[frame, 2, 0] = math.sin(angle), -math.sin(angle)
        cam2world[frame, 2, 3] = 0.05 * frame
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).expand(frames, 3, 3), SIZE)


def moved(cameras: Cameras, degrees: float, shift: float, seed: int = 0) -> Cameras:
    """Cameras turned by so much and shifted by so much in a random direction, growing over the frames."""
    generator = torch.Generator().manual_seed(seed)
    axis, way = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator, dtype=torch.float64), dim=1)
    cam2world = cameras.cam2world.clone()
    for frame in range(len(cameras)):
        share = 0.7 + 0.3 * frame / max(1, len(cameras) - 1)
        skew = torch.zeros(3, 3, dtype=torch.float64)
        skew[0, 1], skew[0, 2], skew[1, 2] = -axis[2], axis[1], -axis[0]
        cam2world[frame, :3, :3] = cam2world[frame, :3, :3] @ torch.matrix_exp(
            share * math.radians(degrees) * (skew - skew.T)
        )
        cam2world[frame, :3, 3] += share * shift * way
    return Cameras(cam2world, cameras.intrinsics, cameras.image_size)


@functools.cache
def memory_of(kind: str) -> LatentMemory:
    cameras = path(1)
    depth = ray_cast(scene(kind), cameras, (44, 80)).depth
    return LatentMemory.empty(WAN22).extended(lift(torch.zeros(WAN22.channels, 1, 44, 80), depth, cameras, WAN22))


def scene(kind: str) -> list[Rectangle]:
    return furnished_room() if kind == "room" else [wall(5.0)]


def refined(
    degrees: float, shift: float, *, noise: float = 0.0, kind: str = "room", seed: int = 0, is_large: bool = False
) -> tuple[Refinement, Cameras, Cameras]:
    """(what was found, the true cameras, those of the path)."""
    asked, size = path(9 if is_large else FRAMES), (44, 80) if is_large else SIZE
    truth = moved(asked, degrees, shift, seed)
    depth = ray_cast(scene(kind), truth, size).depth
    generator = torch.Generator().manual_seed(seed)
    depth = depth * (1 + noise * torch.randn(depth.shape, generator=generator, dtype=torch.float64))
    view = project(memory_of(kind), asked, size)
    return refine_cameras(asked, depth, view.depth, view.is_covered, WAN22), truth, asked


def errors(cameras: Cameras, truth: Cameras) -> tuple[float, float]:
    turned = angles_between(cameras.cam2world[:, :3, :3], truth.cam2world[:, :3, :3]).mean()
    return float(turned), float((cameras.centers - truth.centers).norm(dim=1).mean())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("degrees", "share", "noise"),
    [(0.5, 0.01, 0.0), (1.0, 0.02, 0.0), (0.5, 0.01, 0.001), (1.0, 0.02, 0.005), (0.5, 0.01, 0.01)],
)
def test_a_fifth_of_the_error_is_left_at_most(degrees: float, share: float, noise: float, seed: int) -> None:
    # With noise at full size: a quarter of the cells and half of the frames would leave three times the error.
    found, truth, asked = refined(degrees, share * 5.0, noise=noise, seed=seed, is_large=noise > 0)
    assert found.is_refined, found.reason
    turn, way = errors(found.cameras, truth)
    turn_before, way_before = errors(asked, truth)
    assert turn < 0.2 * turn_before and way < 0.2 * way_before
    assert found.residuals[1] < found.residuals[0]


def noise_floor(camera: Cameras, noise: float) -> tuple[float, float]:
    """(degrees, shift) that noise of the depth leaves to the best unbiased estimate of one camera (Cramer-Rao).

    From how the depth of each cell changes when the camera moves, by small differences.
    """
    step, size = 1e-5, (44, 80)
    depth = ray_cast(scene("room"), camera, size).depth
    changes = []
    for axis in range(6):
        motion = torch.zeros(4, 4, dtype=torch.float64)
        if axis < 3:
            motion[(axis + 2) % 3, (axis + 1) % 3], motion[(axis + 1) % 3, (axis + 2) % 3] = step, -step
        else:
            motion[axis - 3, 3] = step
        there = Cameras(camera.cam2world @ torch.matrix_exp(motion), camera.intrinsics, camera.image_size)
        changes.append(((ray_cast(scene("room"), there, size).depth / depth).log() / step).flatten())
    derivatives = torch.stack(changes, -1)
    on_surface = derivatives[derivatives.abs().amax(1) < 50]  # cells that look past an edge now tell no derivative
    variances = torch.linalg.inv(on_surface.T @ on_surface).diagonal() * noise**2
    return math.degrees(float(variances[:3].sum().sqrt())), float(variances[3:].sum().sqrt())


@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_what_is_left_of_an_error_is_what_noise_leaves_to_the_best_estimate(noise: float) -> None:
    lowest_turn, lowest_way = noise_floor(path(9)[[4]], noise)
    turns, ways = [], []
    for seed in range(3):
        found, truth, _ = refined(0.5, 0.05, noise=noise, seed=seed, is_large=True)
        turn, way = errors(found.cameras, truth)
        turns.append(turn)
        ways.append(way)
    # The frames help each other, but a part of the view is unknown, and nobody tells which cells see past an edge.
    assert sum(turns) / 3 < 1.5 * lowest_turn and sum(ways) / 3 < 1.5 * lowest_way


def test_how_far_each_camera_went_is_told() -> None:
    found, _, asked = refined(1.0, 0.1)
    expected = angles_between(asked.cam2world[:, :3, :3], found.cameras.cam2world[:, :3, :3])
    torch.testing.assert_close(found.degrees, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.shifts, (found.cameras.centers - asked.centers).norm(dim=1), atol=1e-9, rtol=0)
    assert float(found.degrees[-1]) == pytest.approx(1.0, abs=0.2)


def test_cameras_that_are_right_stay_where_they_are() -> None:
    found, truth, _ = refined(0.0, 0.0, noise=0.01, is_large=True)
    turn, way = errors(found.cameras, truth)
    assert turn < 0.1 and way < 0.02


def test_a_single_wall_leaves_the_camera_where_the_path_has_it_and_says_so() -> None:
    found, _, asked = refined(0.5, 0.05, kind="wall")
    assert not found.is_refined and "as one wall does" in found.reason
    assert found.cameras is asked and not found.degrees.any()


def test_a_camera_that_is_far_off_the_path_is_not_fetched_back() -> None:
    found, _, asked = refined(9.0, 0.1)
    assert not found.is_refined and found.cameras is asked


def test_too_few_shared_cells_refine_nothing_and_say_so() -> None:
    asked, depth = path(), ray_cast(furnished_room(), path(), SIZE).depth
    is_known = torch.zeros_like(depth, dtype=torch.bool)
    is_known[:, :6, :6] = True
    found = refine_cameras(asked, depth, depth, is_known, WAN22)
    assert not found.is_refined and "cells are shared" in found.reason


def test_the_unit_of_length_does_not_matter() -> None:
    asked = path()
    truth = moved(asked, 0.5, 0.05)
    depth, known = (ray_cast(furnished_room(), cameras, SIZE).depth for cameras in (truth, asked))
    one = refine_cameras(asked, depth, known, known > 0, WAN22)
    large = Cameras(asked.cam2world.clone(), asked.intrinsics, SIZE)
    large.cam2world[:, :3, 3] *= 1000
    thousand = refine_cameras(large, depth * 1000, known * 1000, known > 0, WAN22)
    torch.testing.assert_close(thousand.degrees, one.degrees, atol=1e-6, rtol=0)
    torch.testing.assert_close(thousand.shifts, one.shifts * 1000, rtol=1e-5, atol=1e-6)


def test_either_cell_rule_finds_the_same_error() -> None:
    corner = LatentGrid(cell_rule="corner")
    asked = path()
    truth = moved(asked, 0.5, 0.05)
    # Depth of the rays through the corners of the cells: those of cameras whose principal point is half a cell on.
    shifted = [
        Cameras(one.cam2world, one.intrinsics + torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]), SIZE)
        for one in (truth, asked)
    ]
    depth, known = (ray_cast(furnished_room(), cameras, SIZE).depth for cameras in shifted)
    found = refine_cameras(asked, depth, known, known > 0, corner)
    turn, way = errors(found.cameras, truth)
    assert found.is_refined and turn < 0.1 and way < 0.01
