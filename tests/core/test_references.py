"""Reference selection: earlier frames that saw the same places."""

from __future__ import annotations

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.references import (
    default_voxel_size,
    overlaps,
    select_references,
    shown_voxels,
    visible_voxels,
    voxel_keys,
)

GRID = LatentGrid(channels=4)
SIZE = (6, 10)


def cameras_at(*positions: tuple[float, float, float]) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    cam2world[:, :3, 3] = torch.tensor(positions, dtype=torch.float64)
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).repeat(len(positions), 1, 1), SIZE)


def walls(*depths: float) -> LatentMemory:
    """A memory of fronto-parallel walls, all seen from the origin; later ones are hidden or hide."""
    memory = LatentMemory.empty(GRID)
    for depth in depths:
        latents = torch.randn(GRID.channels, 1, *SIZE)
        memory = memory.extended(lift(latents, torch.full((1, *SIZE), depth), cameras_at((0, 0, 0)), GRID))
    return memory


def keys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_a_set_overlaps_itself_fully_and_a_distant_one_not_at_all():
    assert overlaps(keys(1, 5, 9), [keys(1, 5, 9), keys(2, 6), keys()]) == [1.0, 0.0, 0.0]


def test_overlap_is_shared_places_over_all_places():
    assert overlaps(keys(1, 2, 3), [keys(2, 3, 4, 5)]) == [2 / 5]


def test_overlap_with_nothing_seen_is_zero():
    assert overlaps(keys(), [keys(1), keys()]) == [0.0, 0.0]
    assert overlaps(keys(1), []) == []


def test_points_share_a_key_exactly_when_they_share_a_voxel():
    points = torch.tensor([[0.05, 0.05, 0.05], [0.09, 0.01, 0.02], [-0.05, 0.05, 0.05], [0.05, 0.15, 0.05]])
    first, same, left, below = voxel_keys(points, 0.1).tolist()
    assert first == same
    assert len({first, left, below}) == 3


def test_a_voxel_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        voxel_keys(torch.zeros(1, 3), 0.0)


def test_order_of_points_changes_no_set_of_voxels():
    memory = walls(3.0, 5.0)
    turned = LatentMemory(GRID, memory.blocks[::-1])
    cameras = cameras_at((0, 0, 0), (0.5, 0, 1))
    for one, other in zip(
        visible_voxels(memory, cameras, SIZE, voxel_size=0.3),
        visible_voxels(turned, cameras, SIZE, voxel_size=0.3),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_places_behind_a_wall_are_visible_to_the_frustum_but_not_shown():
    memory, camera = walls(3.0, 5.0), cameras_at((0, 0, 0))
    wall, hidden = (voxel_keys(block.points, 0.2) for block in memory.blocks)
    (in_frustum,) = visible_voxels(memory, camera, SIZE, voxel_size=0.2)
    (shown,) = shown_voxels(memory, camera, SIZE, voxel_size=0.2)
    assert torch.isin(hidden, in_frustum).all()
    assert not torch.isin(hidden, shown).any()
    assert torch.isin(wall, shown).all()


def test_points_on_the_border_of_their_own_camera_are_seen_by_the_center_rule():
    """Flaw 11 of the release: its first row and column lie on u = 0 and v = 0, where rounding drops them."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = turn * torch.linalg.det(turn)
    camera = cameras_at((0.3, 0.2, 0.1)).moved(motion)
    block = lift(torch.randn(4, 1, *SIZE), torch.rand(1, *SIZE) + 2, camera, GRID)
    (seen,) = visible_voxels(LatentMemory.empty(GRID).extended(block), camera, SIZE, voxel_size=1e-3)
    assert len(seen) == SIZE[0] * SIZE[1]


def test_visibility_is_of_the_memory_as_it_is_now():
    """Flaw 11 of the release: sets stored with their frame go stale and disadvantage early frames."""
    camera, young = cameras_at((0, 0, 0)), walls(3.0)
    grown = LatentMemory(GRID, (*young.blocks, *walls(5.0).blocks))
    before, after = (visible_voxels(one, camera, SIZE, voxel_size=0.2)[0] for one in (young, grown))
    assert len(after) > len(before) and torch.isin(before, after).all()


def test_best_overlap_comes_first_and_equal_ones_in_film_order():
    query = keys(*range(10))
    history = [keys(0, 1), keys(*range(8)), keys(8, 9), keys(100)]
    assert select_references(query, history) == [1, 0, 2]


def test_no_more_than_asked_for_and_none_below_the_least_overlap():
    query, history = keys(*range(10)), [keys(*range(k)) for k in (2, 4, 6, 8)]
    assert select_references(query, history, max_references=2) == [3, 2]
    assert select_references(query, history, max_references=0) == []
    assert select_references(query, history, min_overlap=0.6) == [3, 2]


def test_excluded_frames_are_never_taken():
    """Flaw 13 of the release: overlap and preceding frames take slots although the model is given them anyway."""
    query, history = keys(*range(10)), [keys(*range(k)) for k in (2, 4, 6, 8)]
    assert select_references(query, history, excluded=(3, 2)) == [1, 0]


def test_a_frame_that_shows_what_a_better_one_shows_is_passed_over():
    """Flaw 13 of the release: four neighbours of one moment are one view, not four."""
    query = keys(*range(40))
    history = [keys(*range(30)), keys(*range(29)), keys(*range(20, 40))]
    assert select_references(query, history) == [0, 2]
    assert select_references(query, history, max_similarity=1) == [0, 1, 2]


def test_several_target_cameras_ask_for_the_places_of_all():
    history = [keys(1, 2), keys(3, 4)]
    assert select_references([keys(1, 2), keys(3, 4)], history) == [0, 1]
    assert select_references([], history) == []


def test_default_voxels_follow_the_scale_of_the_scene():
    assert default_voxel_size(walls(6.0)) == pytest.approx(2 * default_voxel_size(walls(3.0)))
    assert default_voxel_size(LatentMemory.empty(GRID)) == 0.1


def test_overlap_of_point_sets_agrees_with_the_release(golden):
    description, tensors = golden("reference_selection")
    for case in description["point_sets"]:
        query, other = (voxel_keys(tensors[f"{case['name']}/{one}"], case["voxel_size"]).unique() for one in "ab")
        assert overlaps(query, [other])[0] == pytest.approx(case["iou"], abs=1e-12)


def test_selection_agrees_with_the_release(golden):
    description, tensors = golden("reference_selection")
    for case in description["selection"]:
        name, size = case["name"], tuple(case["latent_hw"])
        grid = LatentGrid(channels=8, cell_rule="corner")
        depth = torch.nn.functional.interpolate(tensors[f"{name}/depths"][:, None], size=size, mode="bilinear")[:, 0]
        cameras = Cameras(tensors[f"{name}/poses_c2w"], tensors[f"{name}/intrinsics"], tuple(case["image_hw"]))

        def seen_again(frames, depth=depth, cameras=cameras, grid=grid):
            latents = torch.zeros(8, len(frames), *depth.shape[1:])
            return lift(latents, depth[frames], cameras[frames], grid)

        memory, history = LatentMemory.empty(grid).extended(seen_again([0])), []
        for segment in case["history_segments"]:
            memory = memory.extended(seen_again(segment))
            history += visible_voxels(memory, cameras[segment], size, voxel_size=case["voxel_size"])
        assert memory.points == pytest.approx(tensors[f"{name}/points_world"][tensors[f"{name}/valid"] > 0], abs=2e-5)
        query = visible_voxels(memory, cameras[case["target_pose_indices"]], size, voxel_size=case["voxel_size"])
        overlap = overlaps(torch.cat(query).unique(), history)
        assert overlap == pytest.approx(list(case["iou"].values()), abs=1e-9)
        chosen = select_references(
            query,
            history,
            max_references=case["max_reference_frames"],
            min_overlap=case["iou_threshold"],
            max_similarity=1,
        )
        assert chosen == case["selected"]
