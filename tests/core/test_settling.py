"""Where points lie after several sightings: cases to compute by hand, laws, and how near to the truth they come."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.camera import Cameras, projection_matrices, unproject_cells
from mirage_core.fusion import fused
from mirage_core.memory import LatentMemory, MemoryBlock
from mirage_core.zbuffer import project
from tests.core.scenes import furnished_room, ray_cast, wall
from tests.core.test_fusion import EMPTY, GRID, SIZE, cameras_at, seen, texture, to_and_fro, write

AHEAD = cameras_at([(0, 0, 0, 0)])


def looked(memory: LatentMemory, distance: float, cameras: Cameras = AHEAD, index: int = 0, **options) -> LatentMemory:
    """The memory after one look at a wall, which seems to be at z = distance."""
    return write(memory, [wall(distance)], cameras, first_latent_index=index, features=None, **options).memory


def heights(memory: LatentMemory) -> list[float]:
    """Every z that points have."""
    return memory.points[:, 2].unique().tolist()


def places(memory: LatentMemory, cameras: Cameras) -> torch.Tensor:
    """[points 2] where a camera sees the points, in cells."""
    matrix = projection_matrices(cameras, SIZE, GRID)[0]
    x, y, z = (memory.points.double() @ matrix[:, :3].T + matrix[:, 3]).unbind(1)
    return torch.stack([x / z, y / z], dim=1)


def test_a_point_lies_at_the_mean_of_the_depths_it_was_seen_at():
    memory = looked(looked(looked(EMPTY, 4.0), 4.1), 4.2)
    # Its patch keeps its size, that of a cell at 4.0, so that the third counts a little less than in full.
    assert heights(memory) == pytest.approx([(4.0 + 4.1 + 4.2) / 3], abs=1e-3)


def test_after_five_sightings_a_new_one_counts_a_sixth():
    memory = EMPTY
    for _ in range(9):
        memory = looked(memory, 4.0)
    assert heights(looked(memory, 4.12)) == pytest.approx([4.02], abs=1e-6)


def test_a_sighting_of_less_confidence_counts_less():
    memory = looked(EMPTY, 4.0)
    memory = looked(memory, 4.15, confidence=torch.full((1, *SIZE), 0.5))
    assert heights(memory) == pytest.approx([4.05], abs=1e-6)


def test_a_sighting_from_twice_as_far_counts_a_quarter():
    memory, back = looked(EMPTY, 4.0), cameras_at([(0, 0, -4, 0)])
    memory = looked(memory, 4.1, back, index=1, filmed_cameras=AHEAD)
    assert heights(memory) == pytest.approx([4.0, 4.02, 4.1], abs=1e-5)  # unseen, a fifth of the way, new


def test_a_point_moves_on_the_ray_of_the_camera_that_saw_it_first():
    beside = cameras_at([(0.8, 0.1, 0.2, -0.1)])
    first = looked(EMPTY, 4.0)
    memory = looked(first, 4.1, beside, index=1, filmed_cameras=AHEAD)
    assert len(heights(memory)) > 1
    before, after = places(first, AHEAD), places(memory, AHEAD)[: first.count]
    assert (before - after).abs().max() < 1e-4
    is_moved = memory.points[: first.count, 2] > 4.01
    assert is_moved.float().mean() > 0.5
    # The camera is a little nearer, so its cells are finer and count in full.
    assert memory.points[: first.count, 2][is_moved].median() == pytest.approx(4.05, abs=2e-3)


def test_however_often_they_were_seen_points_lie_on_the_rays_of_the_cameras_that_saw_them_first():
    cameras, memory = to_and_fro(12), EMPTY
    for start in range(0, len(cameras), 8):
        part, filmed = cameras[start : start + 8], cameras[:start] if start else None
        memory = write(
            memory, furnished_room(), part, noise=0.02, seed=start, first_latent_index=start, filmed_cameras=filmed
        ).memory
    for frame in memory.latent_index.unique().tolist():
        of_frame = places(memory, cameras[[frame]])[memory.latent_index == frame]
        assert ((of_frame - of_frame.floor()) - 0.5).abs().max() < 1e-3


def test_points_of_another_film_and_locked_ones_stay():
    other = looked(EMPTY, 4.0)
    (block,) = other.blocks
    stranger = LatentMemory(GRID, (replace(block, points=block.points + torch.tensor([0.03, 0.03, 0.0])),))
    assert heights(looked(stranger, 4.1)) == [4.0]
    unknown = LatentMemory(GRID, (replace(block, latent_index=block.latent_index + 7),))
    assert heights(looked(unknown, 4.1)) == [4.0]
    is_locked = torch.arange(len(block)) % 2 == 0
    half = looked(LatentMemory(GRID, (replace(block, is_locked=is_locked),)), 4.1)
    assert half.points[is_locked, 2].unique().tolist() == [4.0]
    assert half.points[~is_locked, 2].unique().tolist() == pytest.approx([4.05], abs=1e-6)


def test_locked_points_that_were_looked_through_settle_as_others_once_they_are_free():
    block = looked(EMPTY, 4.0).blocks[0]
    memory = LatentMemory(GRID, (replace(block, is_locked=torch.ones(len(block), dtype=torch.bool)),))
    for _ in range(3):
        memory = looked(memory, 8.0)
    assert heights(memory) == [4.0]
    (block,) = memory.blocks
    assert block.confidence.min() >= 0, "a file with less would be refused"
    back = cameras_at([(0, 0, -4, 0)])
    memory = looked(LatentMemory(GRID, (replace(block, is_locked=None),)), 4.1, back, index=1, filmed_cameras=AHEAD)
    assert max(heights(memory)) < 4.1001


def test_a_depth_that_agrees_moves_nothing():
    (old,) = looked(EMPTY, 4.0).blocks
    (new,) = looked(LatentMemory(GRID, (old,)), 4.0003).blocks
    assert new.points is old.points


def test_nothing_given_is_changed():
    memory = looked(EMPTY, 4.0)
    before = memory.points.clone()
    looked(memory, 4.1)
    assert torch.equal(memory.points, before)


def test_tiles_of_moved_points_show_what_tiles_made_anew_show():
    cameras = to_and_fro(6)
    memory = write(EMPTY, furnished_room(), cameras[[0]], noise=0.02).memory
    (block,) = memory.blocks
    assert block.tiles is block.tiles
    points = block.points * (1 + 0.02 * torch.randn(len(block), 1, generator=torch.Generator().manual_seed(3)))
    moved = block.moved(points)
    anew = MemoryBlock(points, *(vars(block)[name] for name in list(vars(block))[1:6]))
    assert moved.tiles.values.shape == anew.tiles.values.shape and moved.tiles.index is block.tiles.index
    views = [project(LatentMemory(GRID, (one,)), cameras, SIZE) for one in (moved, anew)]
    assert all(
        torch.equal(getattr(views[0], name), getattr(views[1], name))
        for name in vars(views[0])
        if name != "hole_latents"
    )


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_what_noisy_depth_leaves_is_nearer_to_the_truth_than_the_first_sighting(noise):
    scene, cameras = furnished_room(), to_and_fro(12)
    first = memory = EMPTY
    for start in range(0, len(cameras), 8):
        part, filmed = cameras[start : start + 8], cameras[:start] if start else None
        latents, depth = seen(scene, part, noise=noise, seed=start)
        memory = fused(memory, latents, depth, part, first_latent_index=start, filmed_cameras=filmed).memory
        for frame in range(len(part)):
            # A film that begins anew with every frame knows no camera that saw a point first: none moves.
            one = latents[:, [frame]], depth[[frame]], part[[frame]]
            first = fused(first, *one, first_latent_index=start + frame).memory
    beside = cameras_at([(0.3, 0.1, 0.1 * i, 0.04 * i) for i in range(12)])
    hits = ray_cast(scene, beside, SIZE)
    true = texture(unproject_cells(hits.depth, beside, GRID))
    depth_errors, errors = [], []
    for one in (memory, first):
        view = project(one, beside, SIZE)
        depth_errors.append(float((view.depth / hits.depth - 1).abs()[view.is_covered].median()))
        errors.append(float((view.latents - true).square().mean(0).sqrt()[view.is_covered].mean()))
    assert depth_errors[0] < 0.75 * depth_errors[1]
    assert errors[0] < errors[1]
    assert memory.count < 1.05 * first.count
