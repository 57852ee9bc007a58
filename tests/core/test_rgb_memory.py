"""The memory of coloured points: no flying points, thinning without holes, exact renders, coverage by area."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22, LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.memory_files import load_memory, save_memory
from mirage_core.rgb_memory import (
    MAX_HOLE_SHARE,
    PIXELS,
    Render,
    cell_view,
    is_rgb,
    lift_pixels,
    pixel_depth,
    render,
    sampled,
    thinned,
    voxel_keys,
)
from mirage_core.rollout import Rollout

from .scenes import Rectangle, furnished_room, ray_cast, wall

SIZE = (96, 128)


def cameras_at(*centers: tuple[float, float, float]) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(centers), 1, 1)
    cam2world[:, :3, 3] = torch.tensor(centers, dtype=torch.float64)
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).repeat(len(centers), 1, 1), SIZE)


def painted(points: torch.Tensor) -> torch.Tensor:
    """[n 3] colours in [0, 1] of places in the world, smooth."""
    return (torch.sin(points.double() * 2.5) * 0.45 + 0.5).float()


def filmed(scene: list[Rectangle], cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [frames H W 3] and exact depth [frames H W] of a painted scene."""
    depth = ray_cast(scene, cameras, SIZE).depth
    block = lift(torch.zeros(3, *depth.shape), torch.where(depth > 0, depth, 1.0), cameras, PIXELS)
    return painted(block.points).reshape(*depth.shape, 3), depth


def remembered(scene: list[Rectangle], cameras: Cameras, *, is_thinned: bool = True) -> LatentMemory:
    """Each camera's picture remembered after the other."""
    pictures, depth = filmed(scene, cameras)
    memory = LatentMemory.empty(PIXELS)
    for frame in range(len(cameras)):
        at = slice(frame, frame + 1)
        block = lift_pixels(
            pictures[at], pixel_depth(depth[at], SIZE), cameras[[frame]], first_latent_index=frame
        )  # fmt: skip
        memory = memory.extended(thinned(block, memory) if is_thinned else block)
    return memory


def test_a_render_from_the_camera_of_the_picture_is_the_picture():
    cameras = cameras_at((0, 0, 0))
    pictures, depth = filmed([wall(4.0)], cameras)
    memory = LatentMemory.empty(PIXELS).extended(lift_pixels(pictures, pixel_depth(depth, SIZE), cameras))
    seen = render(memory, cameras)
    assert seen.is_covered.all()
    assert (seen.pictures - pictures).abs().max() <= 2**-11  # half precision


def test_a_render_from_elsewhere_shows_the_same_surfaces():
    memory = remembered(furnished_room(), cameras_at((0, 0, 0), (0.4, 0, 0.3)))
    target = cameras_at((0.2, 0.1, 0.2))
    pictures, depth = filmed(furnished_room(), target)
    seen = render(memory, target)
    is_same = seen.is_covered & ((seen.depth - depth).abs() < 0.02 * depth)
    assert is_same.float().mean() > 0.9
    assert (seen.pictures - pictures)[is_same].abs().median() < 0.02


def test_pictures_are_black_where_nothing_is_known():
    memory = remembered([wall(4.0, half_width=1.0)], cameras_at((0, 0, 0)))
    seen = render(memory, cameras_at((0, 0, 0)))
    assert 0 < seen.is_covered.float().mean() < 1
    assert (seen.pictures[~seen.is_covered] == 0).all()


def test_many_frames_render_as_each_alone():
    memory = remembered(furnished_room(), cameras_at((0, 0, 0)))
    targets = cameras_at(*((0.05 * at, 0, 0) for at in range(6)))
    together, alone = render(memory, targets), render(memory, targets[[5]])
    for one in fields(Render):
        assert torch.equal(getattr(together, one.name)[5:], getattr(alone, one.name)), one.name


def test_a_memory_of_latents_is_not_rendered():
    with pytest.raises(ValueError, match="holds latents of 48 channels"):
        render(LatentMemory.empty(WAN22), cameras_at((0, 0, 0)))


def near_and_far(smear: int = 1) -> torch.Tensor:
    """[1 H W] a near object before a far wall, its edge smeared over `smear` pixels as depth models do."""
    depth = torch.full((1, *SIZE), 4.0)
    depth[:, 30:70, 40:90] = 2.0
    return torch.nn.functional.avg_pool2d(depth, (1, smear), 1, (0, smear // 2), count_include_pad=False)


@pytest.mark.parametrize("smear", [1, 3, 5])
def test_no_pixel_flies_between_two_surfaces(smear):
    depth = pixel_depth(near_and_far(smear), SIZE)
    known = depth[depth > 0]
    assert (((known - 2).abs() < 0.1) | ((known - 4).abs() < 0.2)).all()
    assert len(known) > 0.9 * depth.numel()


@pytest.mark.parametrize("size", [(40, 60), (333, 210)])
def test_no_pixel_flies_after_resampling(size):
    depth = pixel_depth(near_and_far(), size)
    known = depth[depth > 0]
    assert depth.shape == (1, *size)
    assert (((known - 2).abs() < 1e-3) | ((known - 4).abs() < 1e-3)).all()


def test_a_slanted_plane_is_resampled_exactly():
    tilted = [Rectangle((-50.0, 1.5, 0.5), (100.0, 0, 0), (0, -10.0, 60.0))]
    camera = cameras_at((0, 0, 0))
    small = pixel_depth(ray_cast(tilted, camera, (48, 64)).depth, SIZE)
    exact = ray_cast(tilted, camera, SIZE).depth
    is_known = small > 0
    assert is_known.float().mean() > 0.3
    is_inner = is_known & (torch.nn.functional.avg_pool2d(is_known.float(), 5, 1, 2) == 1)
    assert ((small - exact).abs() / exact)[is_inner].max() < 1e-4


def test_unknown_depth_stays_unknown():
    depth = torch.full((1, *SIZE), 3.0)
    depth[0, :10], depth[0, 10:20], depth[0, 20:30] = torch.inf, torch.nan, -1.0
    assert (pixel_depth(depth, SIZE)[0, :30] == 0).all()
    assert (pixel_depth(depth, (48, 64))[0, :15] == 0).all()
    assert (pixel_depth(depth, SIZE)[0, 31:] == 3).all()


def test_one_frame_is_never_thinned_by_itself():
    pictures, depth = filmed(furnished_room(), cameras_at((0, 0, 0)))
    block = lift_pixels(pictures, pixel_depth(depth, SIZE), cameras_at((0, 0, 0)))
    assert len(thinned(block, LatentMemory.empty(PIXELS))) == len(block)


def test_the_same_frame_again_adds_nothing():
    cameras = cameras_at((0, 0, 0), (0, 0, 0))
    memory = remembered(furnished_room(), cameras)
    assert memory.count == remembered(furnished_room(), cameras[[0]]).count


def test_the_same_frame_twice_in_one_block_is_kept_once():
    cameras = cameras_at((0, 0, 0), (0, 0, 0))
    pictures, depth = filmed(furnished_room(), cameras)
    block = thinned(lift_pixels(pictures, pixel_depth(depth, SIZE), cameras), LatentMemory.empty(PIXELS))
    assert set(block.latent_index.tolist()) == {0}


def test_a_closer_look_at_a_known_place_is_kept():
    far_and_near = cameras_at((0, 0, 0), (0, 0, 3.0))
    memory = remembered([wall(4.0)], far_and_near)
    assert memory.count == 2 * SIZE[0] * SIZE[1]


def test_thinning_leaves_hardly_a_hole():
    walk = cameras_at(*((0.1 * at, 0.02 * at, 0.05 * at) for at in range(8)))
    whole, thin = (remembered(furnished_room(), walk, is_thinned=one) for one in (False, True))
    target = cameras_at((0.35, 0.05, 0.15))
    lost = render(whole, target).is_covered & ~render(thin, target).is_covered
    assert thin.count < 0.5 * whole.count
    assert lost.float().mean() < 0.005  # a pixel here and there, where what an earlier frame saw ends


def test_thinning_is_the_same_for_any_thread_count():
    cameras = cameras_at((0, 0, 0), (0.1, 0, 0), (0.2, 0, 0.1))
    pictures, depth = filmed(furnished_room(), cameras)
    block = lift_pixels(pictures, pixel_depth(depth, SIZE), cameras)
    memory = remembered(furnished_room(), cameras_at((-0.1, 0, 0)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = thinned(block, memory)
        torch.set_num_threads(2)
        both = thinned(block, memory)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.points, both.points) and torch.equal(alone.latent_index, both.latent_index)


def test_voxel_keys_tell_places_and_octaves_apart():
    points = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [1.1, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.1, 0.1, 0.1]])
    footprints = torch.tensor([1.2, 1.9, 1.2, 1.0, 0.6])  # voxels of 1, and of 0.5 for the last
    block = MemoryBlock(
        points, torch.zeros(5, 3), torch.zeros(5, dtype=torch.int32), torch.ones(5), footprints, torch.zeros(5, 2, 3)
    )
    keys = voxel_keys(block).tolist()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_masked_pixels_do_not_enter():
    cameras = cameras_at((0, 0, 0))
    pictures, depth = filmed([wall(4.0)], cameras)
    is_static = torch.zeros(1, *SIZE, dtype=torch.bool)
    is_static[:, :, :10] = True
    assert len(lift_pixels(pictures, pixel_depth(depth, SIZE), cameras, is_static=is_static)) == SIZE[0] * 10


def rendered(is_covered: torch.Tensor) -> Render:
    depth = torch.where(is_covered, 5.0, 0.0)
    index = torch.where(is_covered, 7, -1)
    return Render(torch.zeros(*is_covered.shape, 3), is_covered, depth, index)


def test_a_cell_counts_by_its_area_over_all_frames_of_its_latent():
    is_covered = torch.ones(5, 32, 48, dtype=torch.bool)
    is_covered[0, :16, :1] = False  # 1/16 of one cell of the first latent frame: within what may be missing
    is_covered[0, :16, 16:20] = False  # a quarter of the next
    is_covered[1, :16, 32:] = False  # a whole cell, in one of four frames
    view = cell_view(rendered(is_covered), torch.ones(48, 2, 2, 3), WAN22)
    assert MAX_HOLE_SHARE > 1 / 16
    assert view.is_covered.tolist() == [
        [[True, False, True], [True, True, True]],
        [[True, True, False], [True, True, True]],
    ]


def test_latents_of_a_view_stay_as_the_vae_gave_them():
    latents = torch.randn(48, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    holes = torch.randn(48, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    view = cell_view(rendered(torch.zeros(5, 32, 48, dtype=torch.bool)), latents, WAN22, hole_latents=holes)
    assert view.latents is latents and view.hole_latents is holes
    assert not view.is_covered.any() and (view.depth == 0).all() and (view.point_index == -1).all()


def test_depth_of_a_cell_is_that_at_its_centre():
    tilted = [Rectangle((-50.0, 1.5, 0.5), (100.0, 0, 0), (0, -10.0, 60.0))]
    camera = cameras_at((0, 0, 0))
    depth = ray_cast(tilted, camera, SIZE).depth
    seen = Render(torch.zeros(1, *SIZE, 3), depth > 0, depth, torch.zeros(1, *SIZE, dtype=torch.int64))
    view = cell_view(seen, torch.zeros(48, 1, 6, 8), WAN22)
    exact = ray_cast(tilted, camera, (6, 8)).depth
    assert view.is_covered.any()
    assert ((view.depth - exact).abs() / exact.clamp_min(1))[view.is_covered].max() < 1e-6


def test_latents_of_another_length_are_refused():
    with pytest.raises(ValueError, match="5 pictures"):
        cell_view(rendered(torch.ones(5, 32, 48, dtype=torch.bool)), torch.ones(48, 3, 2, 3), WAN22)


def test_few_points_still_cover_what_all_of_them_show():
    memory = remembered(furnished_room(), cameras_at((0, 0, 0)))
    few, target = sampled(memory, WAN22), cameras_at((0.2, 0, 0.2))
    from mirage_core.zbuffer import project

    all_seen, seen = (project(one, target, (6, 8)).is_covered for one in (memory, few))
    assert few.count < memory.count / 40
    assert (seen & all_seen).sum() >= 0.9 * all_seen.sum()


def test_an_rgb_memory_is_saved_and_loaded(tmp_path):
    memory = remembered([wall(4.0)], cameras_at((0, 0, 0)))
    save_memory(memory, tmp_path / "room.safetensors")
    loaded = load_memory(tmp_path / "room.safetensors")
    assert is_rgb(loaded) and torch.equal(loaded.latents, memory.latents)


def test_a_film_with_an_rgb_memory_keeps_the_latent_grid_of_its_film():
    cameras = cameras_at(*((0, 0, 0.02 * at) for at in range(65)))
    memory = remembered([wall(4.0)], cameras[[0]])
    rollout = Rollout.started(memory, torch.zeros(48, 1, 6, 8), cameras, grid=WAN22)
    assert rollout.grid == WAN22 and len(rollout.plan) == 2
    assert len(rollout.pixel_cameras_of(rollout.plan[1])) == 33
    assert rollout.landmarks.count < memory.count
    with pytest.raises(ValueError, match="no VAE is connected"):
        rollout.view(rollout.next_segment)


def test_a_film_of_latents_looks_at_its_own_points():
    grid = LatentGrid(channels=3, spatial_stride=16)
    rollout = Rollout.started(LatentMemory.empty(grid), torch.zeros(3, 1, 6, 8), cameras_at(*[(0, 0, 0)] * 33))
    assert rollout.landmarks is rollout.memory and rollout.grid == grid
