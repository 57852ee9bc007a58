"""Two memories as one: alignment recovers a known motion, and no place is stored twice."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.memory_edits import everything, locked, moved
from mirage_core.memory_merge import align, check_alike, compared, merged
from mirage_core.zbuffer import project
from tests.core.scenes import furnished_room, ray_cast, wall

GRID = LatentGrid(channels=4)
SIZE, IMAGE = (16, 28), (256, 448)


def turned(degrees: float, *shift: float) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    motion[:3, 3] = torch.tensor(shift or (0.0, 0, 0))
    return motion


def seen_from(*poses: torch.Tensor, scene=None) -> LatentMemory:
    """A memory, in the world of the scene, of what cameras at these poses see."""
    cameras = Cameras(torch.stack(poses), pinhole_intrinsics(80, IMAGE).repeat(len(poses), 1, 1), IMAGE)
    depth = ray_cast(scene or furnished_room(), cameras, SIZE).depth.float()
    latents = torch.randn(4, len(poses), *SIZE, generator=torch.Generator().manual_seed(1))
    return LatentMemory.empty(GRID).extended(lift(latents, depth, cameras, GRID))


@pytest.fixture(scope="module")
def room():
    return seen_from(turned(0), turned(25, 0.3, 0, 0.2))


@pytest.fixture(scope="module")
def other_view():
    return seen_from(turned(10, 0.2, 0, 0.1), turned(-15, -0.2, 0, 0))


@pytest.mark.parametrize("motion", [turned(0), turned(6, 0.15, -0.05, 0.1), turned(-8, 0, 0.1, -0.2)])
def test_a_known_motion_is_found_again(room, other_view, motion):
    found = align(room, moved(other_view, torch.linalg.inv(motion)))
    assert torch.allclose(found.motion[:3, :3], motion[:3, :3], atol=math.radians(0.5))
    assert torch.allclose(found.motion[:3, 3], motion[:3, 3], atol=0.05)
    assert found.overlap > 0.6 and found.residual < 0.1 and found.scale == 1


def test_a_known_scale_is_found_again(room, other_view):
    found = align(room, moved(other_view, turned(0), scale=1 / 1.08), with_scale=True)
    assert found.scale == pytest.approx(1.08, abs=0.01)


def test_a_rough_guess_is_enough_for_a_large_motion(room, other_view):
    motion = turned(120, 2.0, 0.5, -3.0)
    away = moved(other_view, torch.linalg.inv(motion))
    with pytest.raises(ValueError, match="The memories do not fit"):
        align(room, away)
    found = align(room, away, guess=turned(112, 1.9, 0.45, -2.9))
    assert torch.allclose(found.motion, motion, atol=0.08)


def test_the_same_question_has_the_same_answer_to_the_bit(room, other_view):
    away = moved(other_view, turned(5, 0.1, 0, 0))
    first, second = (align(room, away) for _ in range(2))
    assert torch.equal(first.motion, second.motion) and first.residual == second.residual


def test_one_flat_wall_leaves_the_directions_along_it_alone():
    flat = seen_from(turned(0), scene=[wall(4.0)])
    found = align(flat, moved(flat, turned(0, 0, 0, 0.2)))
    assert found.motion[2, 3] == pytest.approx(-0.2, abs=0.01)
    assert found.motion[:2, 3].abs().max() < 0.05


def test_memories_without_a_common_place_do_not_fit():
    there = moved(seen_from(turned(0), scene=[wall(4.0)]), turned(90, 50.0, 0, 0))
    with pytest.raises(ValueError, match=r"0% of the second lies on the first's surfaces; 25%"):
        align(seen_from(turned(0)), there)


def test_an_empty_memory_cannot_be_laid_on_another(room):
    with pytest.raises(ValueError, match="without surfaces"):
        align(room, LatentMemory.empty(GRID))


def test_a_memory_merged_with_itself_is_itself(room):
    joined, left_out = merged(room, room, torch.eye(4))
    assert left_out == room.count and joined.blocks == room.blocks


def test_a_merged_memory_shows_what_only_the_second_knew_and_shares_the_first(room):
    behind = seen_from(turned(180))
    joined, left_out = merged(room, behind, torch.eye(4))
    assert joined.blocks[: len(room.blocks)] == room.blocks and joined.count == room.count + behind.count - left_out
    camera = Cameras(turned(180)[None], pinhole_intrinsics(80, IMAGE)[None], IMAGE)
    known = project(joined, camera, SIZE).is_covered.float().mean()
    assert known > project(room, camera, SIZE).is_covered.float().mean() + 0.3


def test_what_the_first_knows_as_finely_is_left_out_wherever_its_cells_lie(room):
    second = seen_from(turned(12.7, 0.15, 0.02, 0.1))
    camera = Cameras(turned(12.7, 0.15, 0.02, 0.1)[None], pinhole_intrinsics(80, IMAGE)[None], IMAGE)
    shown = int(project(room, camera, SIZE).is_covered.sum())
    joined, left_out = merged(room, second, torch.eye(4))
    assert left_out > 0.9 * shown
    assert project(joined, camera, SIZE).is_covered.all(), "and nothing is missing for that"


def test_a_finer_second_is_kept_and_a_coarser_one_left_out():
    far, near = seen_from(turned(0), scene=[wall(4.0)]), seen_from(turned(0, 0, 0, 2.0), scene=[wall(4.0)])
    assert merged(far, near, torch.eye(4))[1] == 0
    _, left_out = merged(near, far, torch.eye(4))
    assert left_out == far.count / 4, "the half of the height and width that the near one knows"


def test_the_back_of_a_wall_is_another_surface():
    front, back = seen_from(turned(0), scene=[wall(4.0)]), seen_from(turned(180, 0, 0, 8.0), scene=[wall(4.0)])
    assert merged(front, back, torch.eye(4))[1] == 0


def test_the_seconds_latent_frames_come_before_the_firsts(room):
    behind = seen_from(turned(180), turned(170))
    joined, _ = merged(room, behind, torch.eye(4))
    assert joined.latent_index.unique().tolist() == [-2, -1, 0, 1]


def test_locked_points_are_never_left_out(room):
    joined, left_out = merged(room, locked(room, everything(room)), torch.eye(4))
    assert left_out == 0 and joined.count == 2 * room.count


def test_an_empty_memory_takes_the_other_as_it_is(room):
    empty = LatentMemory.empty(GRID)
    assert merged(room, empty, torch.eye(4)) == (room, 0)
    joined, _ = merged(empty, room, torch.eye(4))
    assert torch.equal(joined.points, room.points)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (replace(GRID, channels=8), "channels, so they are latents of different VAEs: 4 and 8"),
        (replace(GRID, spatial_stride=1), "one holds latents and the other colours: 16 and 1"),
        (replace(GRID, cell_rule="corner"), "half a cell apart: center and corner"),
    ],
)
def test_memories_of_different_kinds_are_refused(room, grid, words):
    with pytest.raises(ValueError, match=words):
        check_alike(room, LatentMemory.empty(grid))


def test_a_given_motion_is_judged_without_being_changed(room, other_view):
    right, wrong = (compared(room, other_view, motion) for motion in (turned(0), turned(30, 1.0, 0, 0)))
    assert right.overlap > 0.6 > wrong.overlap and torch.equal(wrong.motion, turned(30, 1.0, 0, 0))
