"""Choosing points of a memory, and forgetting, locking or moving them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mirage_core import memory_edits as edits
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.zbuffer import project

GRID = LatentGrid(channels=4)
SIZE = (6, 8)
IMAGE = (96, 128)
CAMERA = Cameras(torch.eye(4)[None], pinhole_intrinsics(70, IMAGE)[None], IMAGE)


def wall_at(depth: float, latent_frame: int, seed: int = 0) -> LatentMemory:
    latents = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(seed))
    block = lift(latents, torch.full((1, *SIZE), depth), CAMERA, GRID, first_latent_index=latent_frame)
    return LatentMemory.empty(GRID).extended(block)


def two_walls() -> LatentMemory:
    """A near wall from latent frame 0 in the left half, and a far one from frame 5 everywhere."""
    near, far = wall_at(2.0, 0), wall_at(4.0, 5, seed=1)
    near = edits.forgotten(near, tuple(block.points[:, 0] > 0 for block in near.blocks))
    return near.extended(far.blocks[0])


def rotation(degrees: float) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    motion[:3, 3] = torch.tensor([0.3, -0.2, 1.0])
    return motion


def test_forgetting_nothing_gives_the_same_blocks():
    memory = two_walls()
    nothing = edits.inverted(edits.everything(memory))
    assert all(a is b for a, b in zip(edits.forgotten(memory, nothing).blocks, memory.blocks, strict=True))


def test_forgetting_everything_leaves_an_empty_memory():
    memory = two_walls()
    assert edits.forgotten(memory, edits.everything(memory)) == LatentMemory.empty(GRID)


def test_untouched_blocks_are_shared_and_the_old_memory_stays():
    memory = two_walls()
    before = memory.points.clone()
    shorter = edits.forgotten(memory, edits.of_latent_frames(memory, 0, 4))
    assert len(shorter.blocks) == 1 and shorter.blocks[0] is memory.blocks[1]
    assert torch.equal(memory.points, before)


def test_a_box_holds_its_faces_and_nothing_outside():
    memory = two_walls()
    low, high = torch.tensor([-10.0, -10, 2]), torch.tensor([10.0, 10, 2])
    chosen = edits.in_box(memory, low, high)
    assert chosen[0].all() and not chosen[1].any()
    for wrong in (high + 1, torch.tensor([torch.nan, 0, 0])):
        with pytest.raises(ValueError, match="first corner is at most"):
            edits.in_box(memory, wrong, high)


def test_what_a_mask_shows_is_forgotten_and_what_is_behind_it_appears():
    memory = two_walls()
    left = torch.zeros(SIZE, dtype=torch.bool)
    left[:, :4] = True
    bare = edits.forgotten(memory, edits.under_mask(memory, CAMERA, left))
    view = project(bare, CAMERA, SIZE)
    assert view.is_covered.all() and torch.allclose(view.depth, torch.tensor(4.0), rtol=0.02)
    empty = edits.forgotten(memory, edits.under_mask(memory, CAMERA, left, with_hidden=True))
    is_covered = project(empty, CAMERA, SIZE).is_covered[0]
    assert not is_covered[:, :3].any() and is_covered[:, 5:].all()


def test_all_samples_of_a_surface_under_a_mask_are_chosen_not_only_the_one_that_shows():
    wall = wall_at(2.0, 0)
    memory = wall.extended(wall_at(2.01, 9, seed=3).blocks[0])
    chosen = edits.under_mask(memory, CAMERA, torch.ones(SIZE, dtype=torch.bool))
    assert edits.count(chosen) == memory.count


def test_a_camera_that_looks_away_chooses_nothing():
    memory = two_walls()
    away = CAMERA.moved(torch.diag(torch.tensor([-1.0, 1, -1, 1])))
    chosen = edits.under_mask(memory, away, torch.ones(SIZE, dtype=torch.bool), with_hidden=True)
    assert edits.count(chosen) == 0
    with pytest.raises(ValueError, match="one camera and a mask"):
        edits.under_mask(memory, CAMERA, torch.ones(1, *SIZE, dtype=torch.bool))


def test_locked_points_survive_forgetting_until_they_are_unlocked():
    memory = two_walls()
    near = edits.of_latent_frames(memory, 0, 0)
    locked = edits.locked(memory, near)
    assert locked.blocks[1] is memory.blocks[1] and memory.blocks[0].is_locked is None
    kept = edits.forgotten(locked, edits.everything(locked))
    assert kept.count == edits.count(near) and torch.equal(kept.points, memory.blocks[0].points)
    freed = edits.unlocked(kept, edits.everything(kept))
    assert freed.blocks[0].is_locked is None
    assert edits.forgotten(freed, edits.everything(freed)).count == 0


def test_locking_again_and_unlocking_the_unlocked_change_nothing():
    memory = two_walls()
    locked = edits.locked(memory, edits.everything(memory))
    again = edits.locked(locked, edits.everything(locked))
    assert all(a is b for a, b in zip(again.blocks, locked.blocks, strict=True))
    freed = edits.unlocked(memory, edits.everything(memory))
    assert all(a is b for a, b in zip(freed.blocks, memory.blocks, strict=True))


def test_confidence_chooses_only_what_is_below():
    memory = two_walls()
    first, second = memory.blocks
    memory = LatentMemory(GRID, (replace(first, confidence=torch.full((len(first),), 0.3)), second))
    assert [int(one.sum()) for one in edits.less_sure_than(memory, 0.3)] == [0, 0]
    assert [int(one.sum()) for one in edits.less_sure_than(memory, 0.31)] == [len(first), 0]


def test_a_choice_of_another_memory_is_refused():
    memory = two_walls()
    with pytest.raises(ValueError, match="made for another memory"):
        edits.forgotten(memory, edits.everything(wall_at(1.0, 0)))


def test_moving_world_and_camera_together_shows_the_same():
    memory, motion = two_walls(), rotation(30)
    shown = project(edits.moved(memory, motion), CAMERA.moved(motion), SIZE)
    expected = project(memory, CAMERA, SIZE)
    assert torch.equal(shown.point_index, expected.point_index)
    assert torch.allclose(shown.depth, expected.depth, rtol=1e-5)


def test_a_motion_and_its_inverse_cancel_and_scale_scales_depth():
    memory, motion = two_walls(), rotation(-50)
    back = edits.moved(edits.moved(memory, motion), torch.linalg.inv(motion))
    assert torch.allclose(back.points, memory.points, atol=1e-5)
    double = project(edits.moved(memory, torch.eye(4), scale=2.0), CAMERA, SIZE)
    assert torch.allclose(double.depth, 2 * project(memory, CAMERA, SIZE).depth, rtol=1e-5)
    assert edits.moved(memory, torch.eye(4)) is memory
    assert edits.moved(memory, motion, later=-7).latent_index.unique().tolist() == [-7, -2]
