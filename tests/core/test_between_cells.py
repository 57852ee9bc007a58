"""Between cells: what is remembered moves evenly with the camera, and where a point lies right nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.between_cells import between_cells
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.zbuffer import MemoryView, project
from tests.core.scenes import furnished_room, ray_cast

SIZE = (12, 16)
CELL = 0.25  # of a wall at depth 4: focal length 16 cells
WALL = 4.0


def cameras_at(*positions: tuple[float, float]) -> Cameras:
    """Cameras that look straight at the wall, from x, y; each cell of it is CELL wide."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    poses[:, :2, 3] = torch.tensor(positions, dtype=torch.float64)
    intrinsics = torch.tensor([[16.0, 0, 8], [0, 16, 6], [0, 0, 1]], dtype=torch.float64)
    return Cameras(poses, intrinsics.repeat(len(positions), 1, 1), SIZE)


HERE = cameras_at((0, 0))


def wall_memory(latents: torch.Tensor, grid: LatentGrid) -> LatentMemory:
    depth = torch.full((1, *SIZE), WALL)
    return LatentMemory.empty(grid).extended(lift(latents[:, None], depth, HERE, grid))


def ramp() -> torch.Tensor:
    """[2 rows columns]: the column and the row of a cell."""
    row, column = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    return torch.stack([column, row])


def inner(maps: torch.Tensor) -> torch.Tensor:
    return maps[..., 3:-3, 3:-3]


@pytest.mark.parametrize("rule", ["center", "corner"])
@pytest.mark.parametrize("shift", [(0.1, 0.0), (0.3, -0.4), (-0.49, 0.25), (1.2, 0.7)])
def test_what_is_remembered_moves_by_parts_of_a_cell(shift: tuple[float, float], rule: str) -> None:
    memory = wall_memory(ramp(), LatentGrid(channels=2, cell_rule=rule))  # type: ignore[arg-type]
    cameras = cameras_at((shift[0] * CELL, shift[1] * CELL))
    view = project(memory, cameras, SIZE)
    even = between_cells(view, memory, cameras)
    wanted = ramp() + torch.tensor(shift)[:, None, None]
    assert torch.allclose(inner(even.latents[:, 0]), inner(wanted), atol=0.01)
    nearest_is_off = (inner(view.latents[:, 0]) - inner(wanted)).abs().amax()
    assert nearest_is_off == pytest.approx(max(abs(one - round(one)) for one in shift), abs=1e-4)


def test_only_latents_change() -> None:
    memory = wall_memory(ramp(), LatentGrid(channels=2))
    cameras = cameras_at((2.3 * CELL, 0))
    view = project(memory, cameras, SIZE)
    even = between_cells(view, memory, cameras)
    assert replace(even, latents=view.latents) == view
    assert not torch.equal(even.latents, view.latents)
    assert (even.latents[:, ~view.is_covered] == 0).all() and not view.is_covered.all()


def test_from_where_it_was_filmed_a_room_shows_as_it_was_whatever_else_was_filmed() -> None:
    grid, generator = LatentGrid(channels=4), torch.Generator().manual_seed(1)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, :3, 3] = torch.tensor([0.3, 0.05, 0.4])
    cameras = Cameras(poses, pinhole_intrinsics(70, SIZE).repeat(2, 1, 1), SIZE)
    memory = LatentMemory.empty(grid)
    for frame in range(2):
        depth = ray_cast(furnished_room(), cameras[frame], SIZE).depth
        latents = torch.randn(4, 1, *SIZE, generator=generator)
        memory = memory.extended(lift(latents, depth, cameras[frame], grid, first_latent_index=frame))
    view = project(memory, cameras[0], SIZE)
    is_own = view.point_index[0] < len(memory.blocks[0])
    even = between_cells(view, memory, cameras[0])
    assert 0.7 < is_own.float().mean() < 1
    assert torch.allclose(even.latents[:, 0][:, is_own], view.latents[:, 0][:, is_own], atol=1e-4)


def points_memory(*cells: tuple[float, float]) -> LatentMemory:
    """Points on the wall at (column, row) on the image; the latent of point i is i + 1."""
    points = torch.tensor([[(x - 8) * CELL, (y - 6) * CELL, WALL] for x, y in cells])
    count = len(cells)
    sides = torch.zeros(count, 2, 3)
    sides[:, 0, 0] = sides[:, 1, 1] = CELL
    fields = torch.arange(1.0, count + 1)[:, None], torch.zeros(count, dtype=torch.int32)
    block = MemoryBlock(points, *fields, torch.ones(count), torch.full((count,), CELL), sides)
    return LatentMemory(LatentGrid(channels=1), (block,))


def shown(memory: LatentMemory, **changes: torch.Tensor) -> tuple[MemoryView, MemoryView]:
    view = replace(project(memory, HERE, SIZE), **changes)
    return view, between_cells(view, memory, HERE)


def test_two_points_by_hand() -> None:
    # In column 5, 0.3 right of its centre, and in column 6, 0.2 right of its centre.
    view, even = shown(points_memory((5.8, 6.5), (6.7, 6.5)))
    assert view.point_index[0, 6, 5:7].tolist() == [0, 1]
    # Column 5: the own point weighs 0.7, the other is 1.2 cells away. Column 6: 0.8, and the other one, 0.7 away, 0.3,
    # but no more than the own point is off: 0.2.
    assert even.latents[0, 0, 6, 5] == pytest.approx(1)
    assert even.latents[0, 0, 6, 6] == pytest.approx((0.8 * 2 + 0.2 * 1) / 1.0, abs=2e-3)


def test_a_patch_that_reaches_over_is_no_sample_of_its_own() -> None:
    memory = points_memory((5.8, 6.5))
    memory.blocks[0].sides[:, 0, 0] = 3 * CELL
    view, even = shown(memory)
    assert view.is_covered[0, 6, 4:8].tolist() == [True, True, True, False]
    assert torch.allclose(even.latents, view.latents)


def test_movers_stay_as_they_are_and_spoil_nothing() -> None:
    memory = wall_memory(ramp()[:1], LatentGrid(channels=1))
    cameras = cameras_at((0.4 * CELL, 0))
    view = project(memory, cameras, SIZE)
    latents, index = view.latents.clone(), view.point_index.clone()
    latents[:, 0, 6, 8], index[0, 6, 8] = 1000.0, -1
    even = between_cells(replace(view, latents=latents, point_index=index), memory, cameras)
    assert even.latents[0, 0, 6, 8] == 1000
    assert even.latents[0, 0, 6, 6:11].sub(1000).abs().amin() == 0 and (even.latents[0, 0, 6, [6, 7, 9, 10]] < 16).all()


def test_an_empty_memory_shows_nothing() -> None:
    memory = LatentMemory.empty(LatentGrid(channels=2))
    view = project(memory, HERE, SIZE)
    assert torch.equal(between_cells(view, memory, HERE).latents, view.latents)


def test_the_view_of_another_memory_is_refused() -> None:
    view = project(wall_memory(ramp(), LatentGrid(channels=2)), HERE, SIZE)
    with pytest.raises(ValueError, match="memory of 1 does not have"):
        between_cells(view, points_memory((5, 5)), HERE)


def test_what_stands_near_is_not_replaced_by_what_is_behind_it() -> None:
    grid, depth = LatentGrid(channels=1), torch.full((1, *SIZE), 8.0)
    wall = lift(torch.zeros(1, 1, *SIZE), depth, HERE, grid)
    depth[:, 2:10, [3, 8, 12, 13]] = 2.0  # pillars
    memory = LatentMemory.empty(grid).extended(lift((depth < 5).float()[None], depth, HERE, grid)).extended(wall)
    cameras = cameras_at((0.1, 0.02))
    cameras.cam2world[:, 2, 3] = 0.8
    view = project(memory, cameras, SIZE)
    is_near = view.is_covered & (view.depth < 5)
    assert is_near.sum() > 20 and (view.latents[0][is_near] == 1).all()
    assert between_cells(view, memory, cameras).latents[0][is_near].min() > 0.5


def test_half_precision_stays_half() -> None:
    memory = wall_memory(ramp(), LatentGrid(channels=2))
    view = project(memory, HERE, SIZE)
    assert between_cells(replace(view, latents=view.latents.half()), memory, HERE).latents.dtype == torch.float16
