"""Pose errors: laws of the alignment, cases by hand, and the error of the measurement itself."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.path_formats import WORLDSCORE_MOVES, worldscore_cameras
from mirage_core.path_presets import preset
from mirage_core.pose_errors import (
    aligning_similarity,
    angles_between,
    evenly_spaced,
    pose_errors,
    worldscore_error,
)
from mirage_core.segments import plan_segments

IMAGE_SIZE = (64, 96)
K = pinhole_intrinsics(60.0, IMAGE_SIZE)
PATHS = ["orbit_left", "dolly_in", "pan_left", "truck_right", "look_around", "out_and_back", "static"]


def path_of(name: str, frames: int = 65, *, unit_length: float = 3.0) -> Cameras:
    return preset(name).cameras(frames, intrinsics=K, image_size=IMAGE_SIZE, unit_length=unit_length)


def turned_by(vectors: torch.Tensor) -> torch.Tensor:
    """Rotations [n 3 3] of rotation vectors [n 3] in radians."""
    x, y, z = vectors.double().unbind(-1)
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3))


def in_another_world(
    cameras: Cameras, *, scale: float = 0.37, turn=(0.4, -1.1, 0.8), shift=(5.0, -2.0, 1.0)
) -> Cameras:
    cam2world = cameras.cam2world.clone()
    rotation = turned_by(torch.tensor([turn]))[0]
    cam2world[:, :3, :3] = rotation @ cameras.cam2world[:, :3, :3]
    cam2world[:, :3, 3] = scale * cameras.centers @ rotation.T + torch.tensor(shift).double()
    return Cameras(cam2world, cameras.intrinsics, cameras.image_size)


def noisy(cameras: Cameras, *, degrees: float, distance: float, seed: int = 0) -> Cameras:
    """Every camera turned by exactly `degrees` about a random axis and moved by exactly `distance`."""
    generator = torch.Generator().manual_seed(seed)
    axes, ways = (torch.randn(len(cameras), 3, generator=generator, dtype=torch.float64) for _ in range(2))
    cam2world = cameras.cam2world.clone()
    turns = turned_by(axes / axes.norm(dim=1, keepdim=True) * math.radians(degrees))
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ turns
    cam2world[:, :3, 3] += ways / ways.norm(dim=1, keepdim=True) * distance
    return Cameras(cam2world, cameras.intrinsics, cameras.image_size)


def errors_of(estimated: Cameras, path: Cameras, *, unit: float = 3.0):
    return pose_errors(estimated, path, list(range(len(path))), plan_segments(len(path), WAN22), unit=unit)


@pytest.mark.parametrize("name", PATHS)
def test_exact_cameras_in_any_world_and_scale_have_no_error(name: str):
    path = path_of(name)
    errors = errors_of(in_another_world(path), path)
    assert max(errors.rotation_degrees) < 1e-6
    if name not in ("pan_left", "look_around", "static"):
        assert max(errors.translation) < 1e-9 and errors.alignment.scale == pytest.approx(1 / 0.37)
    assert errors.worldscore.score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_the_world_of_the_estimate_changes_nothing(name: str):
    path = path_of(name)
    estimated = noisy(path, degrees=2.0, distance=0.05)
    here, there = errors_of(estimated, path), errors_of(in_another_world(estimated), path)
    assert here.rotation_degrees == pytest.approx(there.rotation_degrees, abs=1e-6)
    assert here.translation == pytest.approx(there.translation, abs=1e-6, nan_ok=True)
    assert here.worldscore.rotation_degrees == pytest.approx(there.worldscore.rotation_degrees, abs=1e-6)
    assert here.worldscore.translation == pytest.approx(there.worldscore.translation, abs=1e-6)


@pytest.mark.parametrize("frames, least", [(9, 0.68), (25, 0.91), (65, 0.96)])
def test_noise_of_known_size_is_reported_within_the_receipts_own_error(frames: int, least: float):
    """The receipt's own error, in 100 draws each: the alignment takes part of the noise with it, on average 1 % of it
    with 65 frames, 3 % with 25 and 7 % with 9; at worst 3, 9 and 31 %."""
    path = path_of("orbit_left", frames)
    reported = [
        errors_of(in_another_world(noisy(path, degrees=1.0, distance=0.03, seed=seed)), path) for seed in range(12)
    ]
    rotations = [sum(errors.rotation_degrees) / frames for errors in reported]
    translations = [sum(errors.translation) / frames / 0.01 for errors in reported]
    assert least <= min(rotations) and max(rotations) <= 1.0
    assert least - 0.05 <= min(translations) and max(translations) <= 1.04
    assert sum(rotations) / 12 == pytest.approx(1.0, abs=1 / frames), "about half of 1 / frames of the variance"


def test_worldscores_definition_counts_the_noise_of_the_first_camera_in_every_frame():
    path = path_of("orbit_left")
    rotations = [
        errors_of(noisy(path, degrees=1.0, distance=0.0, seed=seed), path).worldscore.rotation_degrees
        for seed in range(12)
    ]
    assert sum(rotations) / 12 == pytest.approx(1.32, abs=0.06)


def test_float32_estimates_cost_less_than_a_ten_thousandth_of_a_degree():
    path = path_of("orbit_left")
    world2cam = in_another_world(path).world2cam.float().double()
    back = Cameras(torch.linalg.inv(world2cam), path.intrinsics, path.image_size)
    errors = errors_of(back, path)
    assert max(errors.rotation_degrees) < 1e-4 and max(errors.translation) < 1e-6


def test_one_wrong_camera_shows_in_its_own_segment():
    path = path_of("orbit_left")
    cam2world = path.cam2world.clone()
    cam2world[50, :3, :3] = cam2world[50, :3, :3] @ turned_by(torch.tensor([[0.0, math.radians(20), 0]]))[0]
    errors = errors_of(Cameras(cam2world, path.intrinsics, path.image_size), path)
    assert [segment.frames for segment in errors.segments] == [33, 32]
    assert errors.segments[1].max_rotation_degrees == pytest.approx(20, abs=0.5)
    assert errors.segments[0].max_rotation_degrees < 0.5


def test_a_film_that_goes_the_wrong_way_is_not_excused_by_a_mirrored_scale():
    right, left = path_of("truck_right"), path_of("truck_left")
    errors = errors_of(left, right)
    assert errors.alignment.scale == 0.0 and max(errors.translation) == pytest.approx(0.15, rel=0.01)
    assert errors.worldscore.translation < 1e-9, "WorldScore's own definition does excuse it"


def test_a_path_that_does_not_move_has_no_translation_error_to_tell():
    path = path_of("pan_left")
    errors = errors_of(noisy(path, degrees=1.0, distance=0.3), path)
    assert all(map(math.isnan, errors.translation)) and not any(map(math.isnan, errors.rotation_degrees))


def test_an_estimate_that_stands_still_errs_by_the_whole_path():
    path = path_of("dolly_in")
    errors = errors_of(path_of("static"), path)
    assert max(errors.translation) == pytest.approx(0.2, rel=1e-6), "0.4 median depths, half of it to either side"


def test_angles_by_hand():
    identity = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    turns = turned_by(torch.tensor([[0, 0, 0], [0, math.pi / 2, 0], [math.pi, 0, 0], [1e-9, 0, 0]]))
    assert angles_between(identity, turns).tolist() == pytest.approx([0, 90, 180, math.degrees(1e-9)], rel=1e-6)


def test_worldscore_by_hand():
    """Three cameras on a line at 0, 1, 2; the estimate at 0, 1, 3: the least sum of distances is at 2/3 or 1."""
    poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    poses[:, 2, 3] = torch.tensor([0.0, 1, 2])
    wrong = poses.clone()
    wrong[:, 2, 3] = torch.tensor([0.0, 1, 3])
    wrong[2, :3, :3] = turned_by(torch.tensor([[0.0, math.radians(9), 0]]))[0]
    truth, estimate = (Cameras(one, K.expand(3, 3, 3), IMAGE_SIZE) for one in (poses, wrong))
    error = worldscore_error(estimate, truth, unit=1.0)
    # |c - 1| + |3 c - 2| is least at c = 2/3, where it is 1/3.
    assert error.translation == pytest.approx(1 / 9) and error.rotation_degrees == pytest.approx(3.0)
    assert error.score == pytest.approx(math.sqrt((1 - 3 / 15) * (1 - 1 / 9 / 0.5)))


@pytest.mark.parametrize("move", WORLDSCORE_MOVES)
def test_worldscores_own_moves_score_full_marks_at_any_unit(move: str):
    truth = worldscore_cameras([move], 33, intrinsics=K, image_size=IMAGE_SIZE, unit=2.5)
    assert worldscore_error(in_another_world(truth), truth, unit=2.5).score == pytest.approx(1, abs=1e-6)


def test_worldscore_beyond_its_limits_is_zero():
    truth = path_of("static", 33)
    turned = noisy(truth, degrees=40, distance=0.0)
    assert worldscore_error(turned, truth, unit=1.0).score == 0.0


def test_the_alignment_is_never_a_mirror():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        cameras = []
        for _ in range(2):
            poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
            poses[:, :3, :3] = turned_by(2 * torch.randn(3, 3, generator=generator))
            poses[:, :3, 3] = torch.randn(3, 3, generator=generator).double()
            cameras.append(Cameras(poses, K.expand(3, 3, 3), IMAGE_SIZE))
        assert torch.linalg.det(aligning_similarity(*cameras).rotation) == pytest.approx(1.0)


def test_evenly_spaced_frames_take_both_ends():
    assert evenly_spaced(5, 97) == [0, 24, 48, 72, 96]
    assert evenly_spaced(200, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count, frames", [(1, 97), (0, 97), (5, 1)])
def test_one_frame_alone_cannot_be_compared(count: int, frames: int):
    with pytest.raises(ValueError, match="at least 2"):
        evenly_spaced(count, frames)


@pytest.mark.parametrize("frames, unit, words", [
    ([0, 1], 1.0, "one per frame"), ([0, 1, 99], 1.0, "frames 0 to 4"), ([0, 1, 2], 0.0, "above 0"),
    ([0, 1, 2], math.nan, "above 0"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(frames: list[int], unit: float, words: str):
    path = path_of("orbit_left", 5)
    with pytest.raises(ValueError, match=words):
        pose_errors(path[[0, 1, 2]], path, frames, plan_segments(5, WAN22), unit=unit)
