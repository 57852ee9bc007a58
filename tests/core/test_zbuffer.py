"""Projection: what a memory shows to cameras. Laws first, then cases to check by hand, then the release's numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mirage_core import sight, zbuffer
from mirage_core.camera import Cameras, pinhole_intrinsics, projection_matrices, unproject_cells
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.zbuffer import MemoryView, project, project_points
from tests.core.scenes import Rectangle, furnished_room, ray_cast, wall

GRID = LatentGrid(channels=4)
SIZE = (22, 40)


def cameras_at(*positions: tuple[float, float, float], fov: float = 70, size: tuple[int, int] = SIZE) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    cam2world[:, :3, 3] = torch.tensor(positions, dtype=torch.float64)
    return Cameras(cam2world, pinhole_intrinsics(fov, size).repeat(len(positions), 1, 1), size)


ORIGIN = cameras_at((0, 0, 0))


def turned(degrees: float, axis: str = "y") -> torch.Tensor:
    """[4 4] rotation about an axis of the world."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    motion = torch.eye(4, dtype=torch.float64)
    motion[first, first] = motion[second, second] = cosine
    motion[second, first], motion[first, second] = sine, -sine
    return motion


def seen_scene(
    scene: list[Rectangle], cameras: Cameras, *, grid: LatentGrid = GRID, dtype=torch.float64
) -> LatentMemory:
    """A memory of what cameras saw of a scene, one block per frame; latents are noise."""
    memory, generator = LatentMemory.empty(grid), torch.Generator().manual_seed(1)
    for frame in range(len(cameras)):
        depth = ray_cast(scene, cameras[frame], SIZE).depth.to(dtype)
        latents = torch.randn(grid.channels, *depth.shape, generator=generator)
        memory = memory.extended(lift(latents, depth, cameras[frame], grid, first_latent_index=frame))
    return memory


def random_memory(count: int, *, seed: int = 0, side: float = 0.15) -> LatentMemory:
    """Points all around the origin, some behind and some very near, each a randomly turned patch."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(count, 2, 3, generator=generator) * side
    block = MemoryBlock(
        points=torch.randn(count, 3, generator=generator) * 2,
        latents=torch.randn(count, GRID.channels, generator=generator),
        latent_index=torch.zeros(count, dtype=torch.int32),
        confidence=torch.ones(count),
        footprints=sides.norm(dim=-1).amax(dim=-1),
        sides=sides,
    )
    return LatentMemory.empty(GRID).extended(block)


def point_memory(*points: tuple[float, float, float], side: float = 1e-6) -> LatentMemory:
    """A memory of given points, each a square patch facing +z; the latent of point i is all i + 1."""
    n = len(points)
    sides = torch.zeros(n, 2, 3)
    sides[:, 0, 0] = sides[:, 1, 1] = side
    block = MemoryBlock(
        points=torch.tensor(points),
        latents=torch.arange(1.0, n + 1)[:, None].repeat(1, GRID.channels),
        latent_index=torch.zeros(n, dtype=torch.int32),
        confidence=torch.ones(n),
        footprints=torch.full((n,), side),
        sides=sides,
    )
    return LatentMemory.empty(GRID).extended(block)


def picked(memory: LatentMemory, order: torch.Tensor) -> LatentMemory:
    """The points of a one-block memory in another order."""
    block = memory.blocks[0]
    fields = {name: value[order] for name, value in vars(block).items() if isinstance(value, torch.Tensor)}
    return LatentMemory(memory.grid, (MemoryBlock(**fields),))


def is_equal(view: MemoryView, other: MemoryView) -> bool:
    names = ("latents", "is_covered", "depth", "point_index")
    return all(torch.equal(vars(view)[name], vars(other)[name]) for name in names)


def brute_force_index(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
    """[frames cells] winners of project() by trying every point at every cell: slow and readable."""
    block = memory.blocks[0]
    first, second = block.sides.unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(first, second), dim=1)
    reach = torch.maximum((first + second).norm(dim=1), (first - second).norm(dim=1)) * 0.5625
    winners = []
    for matrix in projection_matrices(cameras, size, memory.grid):
        (x, y, z), (ax, ay, az), (bx, by, bz) = (
            [vectors[:, 0] * row[0] + vectors[:, 1] * row[1] + vectors[:, 2] * row[2] for row in matrix.tolist()]
            for vectors in (block.points, first, second)
        )
        x, y, z = (value + float(shift) for value, shift in zip((x, y, z), matrix[:, 3], strict=True))
        u, v = x / z, y / z
        to_world = torch.linalg.inv(matrix[:, :3]).T.tolist()
        nu, nv, nz = (normals[:, 0] * row[0] + normals[:, 1] * row[1] + normals[:, 2] * row[2] for row in to_world)
        facing = nz + u * nu + v * nv
        best: list[tuple[int, int, int] | None] = []
        for cell in range(size[0] * size[1]):
            row, column = divmod(cell, size[1])
            cx, cy = torch.tensor(column + 0.5), torch.tensor(row + 0.5)
            p, q, r, s = ax - cx * az, bx - cx * bz, ay - cy * az, by - cy * bz
            e, f = (cx - u) * z, (cy - v) * z
            a, b = (e * s - q * f) / (p * s - q * r), (p * f - e * r) / (p * s - q * r)
            ratio = 1 + (cx - u) * (nu / facing) + (cy - v) * (nv / facing)
            depth = z / torch.minimum(torch.maximum(ratio, z / (z + reach)), z / torch.maximum(z - reach, z / 16))
            is_in_reach = ((u.floor() - column).abs() <= 8) & ((v.floor() - row).abs() <= 8)
            is_near_image = (u >= -8) & (u < size[1] + 8) & (v >= -8) & (v < size[0] + 8)
            is_own = (u.floor() == column) & (v.floor() == row)
            is_on = ((a.abs() <= 0.5625) & (b.abs() <= 0.5625)) | is_own
            is_back = facing < -0.1
            depth = torch.where(is_back, depth * 1.1, depth)
            depth = torch.where(is_own, depth, depth * 1.05)
            step = depth.float().view(torch.int32) >> 17
            distance = torch.maximum((cx - u).abs(), (cy - v).abs()).float().view(torch.int32) >> 14
            candidates = (is_on & is_in_reach & is_near_image & (z > 0)).nonzero()[:, 0].tolist()
            found = min(((int(step[i]), int(distance[i]), i) for i in candidates), default=None)
            best.append(None if found is None or is_back[found[2]] else found)
        winners.append([-1 if one is None else one[2] for one in best])
    return torch.tensor(winners)


def round_walk(frames: int) -> Cameras:
    """Cameras on a small circle in the furnished room, each turned on a little."""
    motions = [turned(360 * frame / frames) for frame in range(frames)]
    for frame, motion in enumerate(motions):
        motion[0, 3], motion[2, 3] = 0.3 * math.sin(frame), 0.3 * math.cos(frame)
    return Cameras.joined([ORIGIN.moved(motion) for motion in motions])


def thin_wall_seen_from_both_sides() -> LatentMemory:
    latents, beyond = torch.ones(4, 1, *SIZE), turned(180)
    beyond[2, 3] = 4.0
    front = lift(latents, torch.full((1, *SIZE), 2.0), ORIGIN, GRID)
    back = lift(latents * 7, torch.full((1, *SIZE), 2.05), ORIGIN.moved(beyond), GRID)
    return LatentMemory.empty(GRID).extended(front).extended(back)


DENSE = {
    "a walk round a room": lambda: seen_scene(furnished_room(), round_walk(9), dtype=torch.float32),
    "a room behind a wall": lambda: seen_scene(
        [wall(2.0), *furnished_room()], Cameras.joined([ORIGIN, cameras_at((0, 0, 2.1))]), dtype=torch.float32
    ),
    "a thin wall": thin_wall_seen_from_both_sides,
    "anything anywhere": lambda: random_memory(20_000),
    "small patches": lambda: random_memory(20_000, side=0.02),
}


@pytest.mark.parametrize("name", DENSE)
def test_patches_that_are_sorted_out_early_would_not_have_shown(name, monkeypatch):
    memory = DENSE[name]()
    cameras = Cameras.joined([round_walk(5), cameras_at((0, 0, 3.5), (0.2, 0.1, -1.5))])
    view = project(memory, cameras, SIZE)
    monkeypatch.setattr(zbuffer, "_may_show", lambda patches, *_: torch.ones_like(patches.z, dtype=torch.bool))
    assert is_equal(project(memory, cameras, SIZE), view)


@pytest.mark.parametrize("name", ["a walk round a room", "anything anywhere"])
def test_how_much_is_drawn_at_a_time_changes_nothing(name, monkeypatch):
    memory, cameras = DENSE[name](), round_walk(5)
    view = project(memory, cameras, SIZE)
    for module, bound in ((sight, "_LOOKS"), (zbuffer, "_TOGETHER"), (zbuffer, "_PAIRS")):
        monkeypatch.setattr(module, bound, 300)
    assert is_equal(project(memory, cameras, SIZE), view)


def test_a_wall_seen_from_behind_is_unknown_and_hides_what_is_beyond_it():
    grid = LatentGrid(channels=4)
    latents = torch.ones(4, 1, *SIZE)
    wall = lift(latents, torch.full((1, *SIZE), 2.0), ORIGIN, grid)
    beyond = turned(180)
    beyond[2, 3] = 3.0  # past the wall, looking back at it
    beyond = ORIGIN.moved(beyond)
    hidden = lift(latents * 5, torch.full((1, *SIZE), 4.0), beyond, grid)
    memory = LatentMemory.empty(grid).extended(wall).extended(hidden)
    view = project(memory, beyond, SIZE)
    middle = (slice(None), slice(SIZE[0] // 3, 2 * SIZE[0] // 3), slice(SIZE[1] // 3, 2 * SIZE[1] // 3))
    assert not view.is_covered[middle].any()
    assert (view.latents[(slice(None), *middle)] == 0).all() and (view.depth[middle] == 0).all()


def test_the_back_of_a_thin_wall_shows_once_it_has_been_seen():
    grid = LatentGrid(channels=4)
    latents = torch.ones(4, 1, *SIZE)
    front = lift(latents, torch.full((1, *SIZE), 2.0), ORIGIN, grid)
    beyond = turned(180)
    beyond[2, 3] = 4.0
    beyond = ORIGIN.moved(beyond)
    back = lift(latents * 7, torch.full((1, *SIZE), 2.05), beyond, grid)  # noise: it lies before the front
    memory = LatentMemory.empty(grid).extended(front).extended(back)
    assert (project(memory, beyond, SIZE).latents == 7).all()
    assert (project(memory, ORIGIN, SIZE).latents == 1).all()


@pytest.mark.parametrize("rule", ["center", "corner"])
@pytest.mark.parametrize("show", [project, project_points])
def test_the_camera_that_saw_it_sees_it_again_unchanged(rule, show):
    grid = LatentGrid(channels=4, cell_rule=rule)
    camera = ORIGIN.moved(turned(20) @ turned(-8, "x") @ turned(3, "z"))
    depth = ray_cast(furnished_room(), camera, SIZE).depth.float()
    latents = torch.randn(4, 1, *SIZE)
    view = show(LatentMemory.empty(grid).extended(lift(latents, depth, camera, grid)), camera, SIZE)
    assert torch.equal(view.latents, latents)
    assert view.is_covered.all()
    assert torch.allclose(view.depth, depth, rtol=1e-5)  # float32 points a few metres from the origin


@pytest.mark.parametrize("stretch", [(1.0, 1.9), (2.5, 1.0)])
def test_pixels_that_are_not_square_do_not_break_the_identity(stretch):
    intrinsics = ORIGIN.intrinsics.clone()
    intrinsics[:, 0, 0] *= stretch[0]
    intrinsics[:, 1, 1] *= stretch[1]
    camera = Cameras(ORIGIN.cam2world, intrinsics, SIZE)
    depth, latents = ray_cast(furnished_room(), camera, SIZE).depth.float(), torch.randn(4, 1, *SIZE)
    view = project(LatentMemory.empty(GRID).extended(lift(latents, depth, camera, GRID)), camera, SIZE)
    assert torch.equal(view.latents, latents)


@pytest.mark.parametrize("image_size", [(365, 650), (352, 640)])
def test_image_sizes_beyond_whole_cells_are_right_once_cropped(image_size):
    whole = cameras_at((0, 0, 0), size=image_size)
    camera = whole.center_cropped(GRID.cropped_size(image_size))
    size = GRID.size_of(image_size)
    depth = ray_cast(furnished_room(), camera, size).depth
    points = unproject_cells(depth, camera, GRID)
    top, left = ((full - cut) // 2 for full, cut in zip(image_size, GRID.cropped_size(image_size), strict=True))
    pixel = points[0, 3, 5] @ whole.intrinsics[0].T
    assert pixel[0] / pixel[2] == pytest.approx(left + 5.5 * 16)
    assert pixel[1] / pixel[2] == pytest.approx(top + 3.5 * 16)
    latents = torch.randn(4, 1, *size)
    assert torch.equal(
        project(LatentMemory.empty(GRID).extended(lift(latents, depth, camera, GRID)), camera, size).latents, latents
    )


@pytest.mark.parametrize("show", [project, project_points])
def test_moving_world_and_cameras_together_changes_nothing(show):
    targets = cameras_at((0.31, 0.07, 0.9), (-0.4, 0.1, 1.7), (0.2, -0.3, -0.6))
    motion = turned(37) @ turned(15, "x")
    motion[:3, 3] = torch.tensor([3.0, -2.0, 5.0])
    still = show(seen_scene(furnished_room(), ORIGIN), targets, SIZE)
    memory = seen_scene(furnished_room(), ORIGIN)
    block = memory.blocks[0]
    moved_block = MemoryBlock(
        points=block.points @ motion[:3, :3].T + motion[:3, 3],
        latents=block.latents,
        latent_index=block.latent_index,
        confidence=block.confidence,
        footprints=block.footprints,
        sides=block.sides @ motion[:3, :3].T,
    )
    moved = show(LatentMemory(GRID, (moved_block,)), targets.moved(motion), SIZE)
    assert torch.equal(moved.point_index, still.point_index)
    assert torch.allclose(moved.depth, still.depth, rtol=1e-9)


@pytest.mark.parametrize("show", [project, project_points])
def test_order_of_points_changes_nothing(show):
    memory = random_memory(4000)
    cameras = cameras_at((0, 0, 0), (0.5, 0.2, -4))
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(2))
    view, other = show(memory, cameras, SIZE), show(picked(memory, order), cameras, SIZE)
    assert torch.equal(view.latents, other.latents)
    assert torch.equal(view.depth, other.depth)
    assert torch.equal(view.point_index[view.is_covered], order[other.point_index[other.is_covered]])


@pytest.mark.parametrize("show", [project, project_points])
def test_how_points_are_cut_into_blocks_changes_nothing(show):
    memory = random_memory(3000)
    cut = LatentMemory(
        GRID, tuple(picked(memory, part).blocks[0] for part in torch.arange(3000).split([1, 700, 1299, 1000]))
    )
    cameras = cameras_at((0, 0, 0), (0.5, 0.2, -4))
    assert is_equal(show(memory, cameras, SIZE), show(cut, cameras, SIZE))


@pytest.mark.parametrize("show", [project, project_points])
def test_more_blocks_than_are_looked_for_one_by_one_change_nothing(show):
    memory = random_memory(3000)
    cut = LatentMemory(GRID, tuple(picked(memory, part).blocks[0] for part in torch.arange(3000).split(60)))
    view = show(memory, ORIGIN, SIZE)
    assert len({int(point) // 60 for point in view.point_index[view.is_covered]}) > 16
    assert is_equal(view, show(cut, ORIGIN, SIZE))


@pytest.mark.parametrize("show", [project, project_points])
def test_all_cameras_in_one_call_see_what_each_sees_alone(show):
    memory, cameras = random_memory(2000), cameras_at((0, 0, 0), (0.5, 0.2, -4), (9, 9, 9))
    together = show(memory, cameras, SIZE)
    for frame in range(3):
        alone = show(memory, cameras[frame], SIZE)
        assert torch.equal(alone.latents, together.latents[:, frame : frame + 1])
        assert torch.equal(alone.point_index[0], together.point_index[frame])


@pytest.mark.parametrize("show", [project, project_points])
def test_thread_count_does_not_change_a_bit(show):
    """Flaw 5 of the release: with two threads its duplicate writes put another point into every third cell."""
    memory, cameras = random_memory(150_000, side=0.03), cameras_at((0, 0, 0), (0.5, 0.2, -4))
    threads = torch.get_num_threads()
    try:
        views = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            views.append(show(memory, cameras, SIZE))
    finally:
        torch.set_num_threads(threads)
    assert is_equal(views[0], views[1]) and is_equal(views[0], views[2])


@pytest.mark.parametrize("side", [0.01, 0.15, 0.8])
def test_nothing_that_is_sorted_out_early_would_have_shown(side):
    memory = random_memory(700, side=side)
    off_axis = pinhole_intrinsics(60, (9, 14))
    off_axis[0, 2], off_axis[1, 1] = -3.0, 30.0
    for camera in (
        cameras_at((0, 0, 0), (0.3, 0.1, -5), size=(9, 14)),
        Cameras(ORIGIN.cam2world, off_axis[None], (9, 14)),
    ):
        view = project(memory, camera, (9, 14))
        assert torch.equal(view.point_index.flatten(1), brute_force_index(memory, camera, (9, 14)))


@pytest.mark.parametrize("name", ["wall at half distance", "sideways", "floor to the horizon"])
def test_what_is_hidden_in_dense_memories_of_slanted_surfaces_would_not_have_shown(name):
    """More points than cells, so that patches are sorted out; the same surface from several frames, and twice each."""
    scene, targets, _ = DOLLIES[name]
    size = (9, 14)
    blocks = seen_scene(scene, cameras_at((0, 0, 0), (0.1, 0.02, 0.3), (0.1, 0.02, 0.3)), dtype=torch.float32).blocks
    names = ("points", "latents", "latent_index", "confidence", "footprints", "sides")
    joined = MemoryBlock(**{name: torch.cat([getattr(block, name) for block in blocks]) for name in names})
    noise = 1 + 0.01 * torch.randn(len(joined), 1, generator=torch.Generator().manual_seed(0))
    noise[2 * len(joined) // 3 :] = noise[len(joined) // 3 : 2 * len(joined) // 3]
    memory = LatentMemory(GRID, (replace(joined, points=joined.points * noise),))
    assert memory.count > 2 * size[0] * size[1]
    view = project(memory, targets[0], size)
    assert torch.equal(view.point_index.flatten(1), brute_force_index(memory, targets[0], size))


@pytest.mark.parametrize("side", [0.02, 0.1, 0.5])
def test_what_is_hidden_in_dense_random_memories_would_not_have_shown(side):
    memory, camera = random_memory(6000, side=side), cameras_at((0.3, 0.1, -1), size=(9, 14))
    view = project(memory, camera, (9, 14))
    assert torch.equal(view.point_index.flatten(1), brute_force_index(memory, camera, (9, 14)))


def test_what_is_not_known_is_zero_and_says_so():
    view = project(point_memory((0.0, 0.0, 2.0)), ORIGIN, SIZE)
    unknown = ~view.is_covered
    assert view.is_covered.sum() == 1
    assert (view.latents[:, unknown] == 0).all()
    assert (view.depth[unknown] == 0).all()
    assert (view.point_index[unknown] == -1).all()


@pytest.mark.parametrize("show", [project, project_points])
def test_an_empty_memory_shows_nothing(show):
    view = show(LatentMemory.empty(GRID), cameras_at((0, 0, 0), (0, 0, 1)), SIZE)
    assert view.latents.shape == (4, 2, *SIZE) and view.depth.shape == (2, *SIZE)
    assert not view.is_covered.any()


def test_a_view_without_cells_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        project(random_memory(5), ORIGIN, (0, 4))


@pytest.mark.parametrize("show", [project, project_points])
def test_nearest_point_wins_whatever_the_order(show):
    near, far = (0.02, 0.02, 2.0), (0.03, 0.03, 3.0)
    assert show(point_memory(near, far), ORIGIN, SIZE).latents.amax() == 1
    assert show(point_memory(far, near), ORIGIN, SIZE).latents.amax() == 2


@pytest.mark.parametrize("show", [project, project_points])
def test_equal_points_give_the_lowest_index(show):
    view = show(point_memory(*[(0.02, 0.02, 2.0)] * 5), ORIGIN, SIZE)
    assert view.point_index.amax() == 0


@pytest.mark.parametrize("show", [project, project_points])
@pytest.mark.parametrize("point", [(0.0, 0.0, -2.0), (0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (0.0, 0.0, -1e-9)])
def test_points_behind_or_beside_the_camera_do_not_show(show, point):
    """Flaw 25 of the release: without finite checks, depth 0 casts infinity to a cell."""
    assert not show(point_memory(point, side=0.1), ORIGIN, SIZE).is_covered.any()


def test_three_points_fall_into_the_cells_one_computes_by_hand():
    camera = Cameras(torch.eye(4)[None].double(), torch.tensor([[[10.0, 0, 5], [0, 10, 3], [0, 0, 1]]]), (6, 10))
    memory = point_memory((0.0, 0.0, 1.0), (0.39, -0.21, 1.0), (-1.0, 0.2, 2.0))
    for show in (project, project_points):
        index = show(memory, camera, (6, 10)).point_index[0]
        assert [(index == point).nonzero().tolist() for point in range(3)] == [[[3, 5]], [[0, 8]], [[4, 0]]]


def test_the_two_cell_rules_differ_by_half_a_cell():
    camera = Cameras(torch.eye(4)[None].double(), torch.tensor([[[10.0, 0, 5], [0, 10, 3], [0, 0, 1]]]), (6, 10))
    for rule, cell in (("center", [3, 5]), ("corner", [4, 6])):
        block = point_memory((0.06, 0.06, 1.0)).blocks[0]
        view = project_points(LatentMemory(LatentGrid(channels=4, cell_rule=rule), (block,)), camera, (6, 10))
        assert view.is_covered[0].nonzero().tolist() == [cell]


def test_true_cell_centres_stay_true_after_a_dolly():
    """Flaw 2 of the release: depth of the centre on the ray of the corner drifts 1.5 cells, dolly 4 m to 1 m."""
    memory = seen_scene([wall(4.0)], ORIGIN, dtype=torch.float32)
    view = project_points(memory, cameras_at((0, 0, 3.0)), SIZE)
    row, column = view.is_covered[0].nonzero().unbind(1)
    source = view.point_index[0, row, column]
    for new, old, middle in ((row, source // SIZE[1], SIZE[0] / 2), (column, source % SIZE[1], SIZE[1] / 2)):
        exact = middle + 4 * (old + 0.5 - middle)
        assert torch.equal(new, exact.floor().long())


def known_share(memory: LatentMemory, scene, sources: Cameras, targets: Cameras, size, show=project):
    """Shares of the cells where the truth shows a surface that a source saw: (covered, background seen through it)."""
    truth, seen = ray_cast(scene, targets, size), ray_cast(scene, sources, SIZE)
    points = unproject_cells(truth.depth, targets, GRID)
    is_remembered = torch.zeros_like(truth.depth, dtype=torch.bool)
    for matrix, surface in zip(projection_matrices(sources, SIZE, GRID), seen.surface, strict=True):
        x, y, z = (points @ matrix[:, :3].T + matrix[:, 3]).unbind(-1)
        column, row = (x / z).floor().long(), (y / z).floor().long()
        is_inside = (z > 0) & (row >= 0) & (row < SIZE[0]) & (column >= 0) & (column < SIZE[1])
        cell = surface[row.clamp(0, SIZE[0] - 1), column.clamp(0, SIZE[1] - 1)]
        is_remembered |= is_inside & (cell == truth.surface) & (truth.surface >= 0)
    view = show(memory, targets, size)
    shown = seen.surface[seen.depth > 0][view.point_index.clamp(min=0)]
    is_behind = view.is_covered & (shown != truth.surface) & (view.depth > truth.depth)
    remembered = is_remembered.sum()
    return float((is_remembered & view.is_covered).sum() / remembered), float(
        (is_remembered & is_behind).sum() / remembered
    )


DOLLIES = {
    "room at half distance": (furnished_room(), cameras_at((0, 0, 1.6), (0.2, -0.1, 2.1)), SIZE),
    "wall at half distance": ([wall(4.0)], cameras_at((0, 0, 2.0)), SIZE),
    "wider grid": (furnished_room(), cameras_at((0, 0, 0), (0.1, 0, 0.5)), (44, 80)),
    "zoomed in": (furnished_room(), cameras_at((0, 0, 0), (0.3, 0, 0.4), fov=38), SIZE),
    "sideways": (furnished_room(), cameras_at((0.5, 0, 0), (-0.6, 0.2, 0.3)), SIZE),
    "floor to the horizon": (
        [Rectangle((-50, 1.2, 0.5), (100, 0, 0), (0, 0, 60))],
        cameras_at((0, 0, 1.5), (0.3, 0.2, 2.5)),
        SIZE,
    ),
}


@pytest.mark.parametrize("name", DOLLIES)
def test_near_surfaces_have_no_holes_and_nothing_behind_shows_through(name):
    """Flaw 6 of the release: one point in one cell."""
    scene, targets, size = DOLLIES[name]
    memory = seen_scene(scene, ORIGIN, dtype=torch.float32)
    covered, behind = known_share(memory, scene, ORIGIN, targets, size)
    assert covered >= 0.95
    assert behind <= 0.005


def test_one_point_splats_do_have_holes():
    scene, targets, size = DOLLIES["room at half distance"]
    memory = seen_scene(scene, ORIGIN, dtype=torch.float32)
    assert known_share(memory, scene, ORIGIN, targets, size, show=project_points)[0] < 0.8


def test_a_camera_inside_the_cloud_sees_the_surfaces_before_it_only():
    scene = furnished_room()
    sources = Cameras.joined([ORIGIN.moved(turned(angle)) for angle in (0, 90, 180, 270)])
    memory = seen_scene(scene, sources, dtype=torch.float32)
    inside = cameras_at((0.2, 0.1, 2.6)).moved(torch.eye(4).double())
    covered, behind = known_share(memory, scene, sources, inside, SIZE)
    assert covered >= 0.95 and behind <= 0.005
    for show in (project, project_points):
        depth = show(memory, inside, SIZE).depth
        assert (depth[depth > 0] < 6).all()


def test_a_point_just_before_the_camera_covers_a_bounded_part():
    view = project(point_memory((0.0, 0.0, 0.001), side=0.1), ORIGIN, SIZE)
    assert view.is_covered.sum() == 17 * 17


def test_the_sharper_sample_of_a_surface_shows():
    """A wall seen from afar and from near: close to it, the near samples show although the far ones cover as much."""
    sources = cameras_at((0, 0, 0), (0, 0, 2.0))
    view = project(seen_scene([wall(4.0)], sources), sources[1], SIZE)
    assert (view.point_index >= SIZE[0] * SIZE[1]).all()


def test_depth_at_a_cell_is_that_of_the_surface_on_its_ray():
    scene = [Rectangle((-50, 1.2, 0.5), (100, 0, 0), (0, 0, 60))]
    target = cameras_at((0.3, 0.1, 1.0))
    view, truth = project(seen_scene(scene, ORIGIN), target, SIZE), ray_cast(scene, target, SIZE).depth
    known = view.is_covered & (truth > 0) & (truth < 12)
    assert ((view.depth - truth).abs() / truth)[known].quantile(0.99) < 0.02


def test_projection_agrees_with_the_release(golden):
    """All cases but the camera's own view, where the release's border points lie on the edge of its image."""
    description, tensors = golden("point_cloud")
    for case in description["cases"]:
        name, size = case["name"], tuple(case["latent_hw"])
        grid = LatentGrid(channels=case["channels"], cell_rule="corner")

        def seen(latents, depth, cameras, mask, grid=grid, size=size):
            at_cells = torch.nn.functional.interpolate(depth[:, None], size=size, mode="bilinear")[:, 0]
            is_static = None
            if mask is not None:
                is_static = torch.nn.functional.interpolate(mask[:, None].float(), size=size, mode="nearest")[:, 0] == 0
            return lift(latents, at_cells, cameras, grid, is_static=is_static)

        def cameras_of(cam2world, intrinsics, depth):
            return Cameras(cam2world, intrinsics, tuple(depth.shape[-2:]))

        def given(key, name=name):
            return tensors.get(f"{name}/{key}")

        mask = given("in.mask")
        first = seen(
            given("in.latent"),
            given("in.depth")[None],
            cameras_of(given("in.cam2world")[None], given("in.intrinsics")[None], given("in.depth")),
            None if mask is None else mask[None],
        )
        memory = LatentMemory.empty(grid).extended(first)
        is_valid = given("from_geometry.valid") > 0
        assert first.points == pytest.approx(given("from_geometry.points_world")[is_valid], abs=2e-5)
        assert torch.equal(first.latents, given("from_geometry.features")[is_valid])
        if case["has_update"]:
            depths = given("update.depths")
            cameras = cameras_of(given("update.cam2worlds"), given("update.intrinsics"), depths)
            memory = memory.extended(
                seen(given("update.latents").movedim(1, 0), depths, cameras, given("update.masks"))
            )
            is_valid = given("after_update.valid") > 0
            assert memory.points == pytest.approx(given("after_update.points_world")[is_valid], abs=2e-5)
            assert torch.equal(memory.latents, given("after_update.features")[is_valid])
        for number in range(case["num_projections"]):
            intrinsics = given(f"project{number}.intrinsics")
            if intrinsics is None:
                intrinsics = given("from_geometry.intrinsics_latent")
            camera = Cameras(given(f"project{number}.cam2world")[None], intrinsics[None], size)
            view = project_points(memory, camera, size)
            assert torch.equal(view.is_covered[0], given(f"project{number}.mask") > 0)
            assert torch.equal(view.latents[:, 0], given(f"project{number}.latent"))


_MEASURE_PEAK = """
import torch
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock
from mirage_core.zbuffer import project

torch.set_num_threads(1)
def memory_of(n):
    sides = torch.randn(n, 2, 3) * 0.02
    return LatentMemory(LatentGrid(channels=1), (MemoryBlock(
        points=torch.randn(n, 3) * 2, latents=torch.zeros(n, 1), latent_index=torch.zeros(n, dtype=torch.int32),
        confidence=torch.ones(n), footprints=sides.norm(dim=-1).amax(-1), sides=sides),))
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
cameras = Cameras(torch.eye(4).repeat(9, 1, 1), pinhole_intrinsics(70, (44, 80)).repeat(9, 1, 1), (44, 80))
project(memory_of(1000), cameras, (44, 80))
large = memory_of(1_000_000)
large.blocks[0].tiles
open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
project(large, cameras, (44, 80))
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux' /proc")
def test_the_memory_needed_does_not_grow_with_the_points():
    """A million points times 9 cameras times 4 bytes are 36 MB: a dozen of those at once would be over the bound."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE_PEAK], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 200_000
