"""The memory: what enters it, how it grows, and how it survives a file."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from mirage_core.camera import Cameras, pinhole_intrinsics, projection_matrices
from mirage_core.latent_grid import WAN22, LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.memory_files import load_memory, save_memory
from tests.core.scenes import Rectangle, ray_cast, wall

GRID = LatentGrid(channels=4)
SIZE = (6, 10)


def cameras_at(*positions: tuple[float, float, float]) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    cam2world[:, :3, 3] = torch.tensor(positions, dtype=torch.float64)
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).repeat(len(positions), 1, 1), SIZE)


ORIGIN = cameras_at((0, 0, 0))


def block_of(n: int, channels: int = 4, seed: int = 0) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    return MemoryBlock(
        points=torch.randn(n, 3, generator=generator),
        latents=torch.randn(n, channels, generator=generator),
        latent_index=torch.zeros(n, dtype=torch.int32),
        confidence=torch.ones(n),
        footprints=torch.ones(n),
        sides=torch.zeros(n, 2, 3),
    )


def saved_memory(path) -> LatentMemory:
    latents, depth = torch.randn(4, 2, *SIZE), torch.rand(2, *SIZE) + 1
    block = lift(latents, depth, cameras_at((0, 0, 0), (1, 0, 0)), GRID, first_latent_index=3)
    memory = LatentMemory.empty(GRID).extended(block).extended(block_of(7))
    save_memory(memory, path)
    return memory


def test_points_project_back_into_the_centres_of_their_cells():
    depth = torch.rand(1, *SIZE, dtype=torch.float64) * 5 + 0.5
    block = lift(torch.zeros(4, 1, *SIZE), depth, ORIGIN, GRID)
    x, y, z = (block.points @ projection_matrices(ORIGIN, SIZE, GRID)[0, :, :3].T).unbind(1)
    row, column = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    assert torch.allclose(x / z, column.flatten().double())
    assert torch.allclose(y / z, row.flatten().double())
    assert torch.allclose(z, depth.flatten())


def test_points_come_frame_by_frame_and_row_by_row():
    latents = torch.arange(2.0 * 60).view(1, 2, *SIZE).expand(4, -1, -1, -1)
    block = lift(latents, torch.ones(2, *SIZE), cameras_at((0, 0, 0), (1, 0, 0)), GRID, first_latent_index=5)
    assert torch.equal(block.latents[:, 0], torch.arange(120.0))
    assert block.latent_index.tolist() == [5] * 60 + [6] * 60
    assert block.latent_index.dtype == torch.int32


@pytest.mark.parametrize("value", [0.0, -1.0, torch.inf, -torch.inf, torch.nan])
def test_cells_without_a_depth_never_become_points(value):
    depth = torch.ones(1, *SIZE)
    depth[0, 2, 3] = value
    block = lift(torch.randn(4, 1, *SIZE), depth, ORIGIN, GRID)
    assert len(block) == 59
    assert all(torch.isfinite(one).all() for one in (block.points, block.sides, block.footprints))


def test_depth_too_large_for_float32_points_does_not_enter():
    depth = torch.full((1, *SIZE), 3.4e38)
    depth[0, 0, 0] = 1e30
    assert all(
        torch.isfinite(value).all()
        for value in vars(lift(torch.randn(4, 1, *SIZE), depth, ORIGIN, GRID)).values()
        if value is not None
    )


def test_nothing_known_gives_an_empty_block_and_an_unchanged_memory():
    block = lift(torch.randn(4, 1, *SIZE), torch.zeros(1, *SIZE), ORIGIN, GRID)
    memory = LatentMemory.empty(GRID)
    assert len(block) == 0
    assert memory.extended(block) is memory


def test_only_static_cells_enter():
    """Flaw 8 of the release: moving objects are burnt into its memory."""
    is_static = torch.rand(1, *SIZE) > 0.5
    block = lift(torch.randn(4, 1, *SIZE), torch.ones(1, *SIZE), ORIGIN, GRID, is_static=is_static)
    assert len(block) == int(is_static.sum())


def test_confidence_follows_its_cell():
    confidence = torch.rand(1, *SIZE)
    depth = torch.ones(1, *SIZE)
    depth[0, 0, 0] = 0
    block = lift(torch.randn(4, 1, *SIZE), depth, ORIGIN, GRID, confidence=confidence)
    assert torch.equal(block.confidence, confidence.flatten()[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_keep_the_precision_of_the_depth(dtype):
    assert lift(torch.randn(4, 1, *SIZE), torch.ones(1, *SIZE, dtype=dtype), ORIGIN, GRID).points.dtype == dtype


def test_half_precision_depth_gives_float32_points():
    assert lift(torch.randn(4, 1, *SIZE), torch.ones(1, *SIZE).half(), ORIGIN, GRID).points.dtype == torch.float32


def test_footprint_is_the_width_of_a_cell_at_its_depth():
    block = lift(torch.zeros(4, 1, *SIZE), torch.full((1, *SIZE), 3.0), ORIGIN, GRID)
    assert torch.allclose(block.footprints, torch.tensor(3.0 / float(ORIGIN.intrinsics[0, 0, 0])))


@pytest.mark.parametrize(
    "plane",
    [wall(4.0), Rectangle((-50, 1.2, 0.1), (100, 0, 0), (0, 0, 80)), Rectangle((1.0, -9, -2), (3, 0, 9), (0, 20, 0))],
)
def test_sides_lie_on_the_plane_the_cell_saw(plane):
    size = (44, 80)
    hits = ray_cast([plane], ORIGIN, size)
    block = lift(torch.zeros(4, 1, *size), hits.depth, ORIGIN, GRID)
    normal = torch.linalg.cross(torch.tensor(plane.side_a).double(), torch.tensor(plane.side_b).double())
    sides = block.sides / block.sides.norm(dim=-1, keepdim=True)
    # The last cells before the horizon have no neighbour that agrees with them and face their camera instead.
    is_on_plane = ((sides @ normal).abs() / normal.norm()).amax(1) < 1e-6
    assert is_on_plane.double().mean() >= 0.8


def test_sides_do_not_reach_across_a_depth_edge():
    depth = torch.full((1, *SIZE), 8.0, dtype=torch.float64)
    depth[:, :, :5] = 2.0
    block = lift(torch.zeros(4, 1, *SIZE), depth, ORIGIN, GRID)
    assert (block.sides[:, :, 2].abs() < 1e-12).all()


def test_a_stepwise_grown_memory_knows_the_same_as_one_made_at_once():
    latents, depth = torch.randn(4, 3, *SIZE), torch.rand(3, *SIZE) + 1
    cameras = cameras_at((0, 0, 0), (1, 0, 0), (2, 0, 0))
    once, grown = LatentMemory.empty(GRID).extended(lift(latents, depth, cameras, GRID)), LatentMemory.empty(GRID)
    for frame in range(3):
        at = slice(frame, frame + 1)
        grown = grown.extended(lift(latents[:, at], depth[at], cameras[frame], GRID, first_latent_index=frame))
    assert grown.count == once.count == 180
    assert torch.equal(grown.points, once.points)
    assert torch.equal(grown.latents, once.latents)
    assert torch.equal(grown.latent_index, once.latent_index)


def test_growing_changes_nothing_that_others_hold():
    old = LatentMemory.empty(GRID).extended(block_of(50))
    before = old.points.clone()
    grown = old.extended(block_of(10, seed=1))
    assert (old.count, grown.count) == (50, 60)
    assert torch.equal(old.points, before)


def test_growing_shares_all_old_storage():
    """Flaw 7 of the release: every update copies the whole cloud."""
    old = LatentMemory.empty(GRID).extended(block_of(2_000_000))
    addition = block_of(30_000, seed=1)
    tracemalloc.start()
    grown = old.extended(addition)
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown.count == 2_030_000
    assert grown.blocks[0] is old.blocks[0] and grown.blocks[1] is addition
    assert grown.blocks[0].points.data_ptr() == old.blocks[0].points.data_ptr()
    assert allocated < 100_000


def test_lifting_and_growing_allocates_tensors_for_the_new_points_only():
    old = LatentMemory.empty(WAN22).extended(block_of(2_000_000, channels=48))
    latents, depth = torch.randn(48, 8, 44, 80), torch.rand(8, 44, 80) + 1
    cameras = Cameras(ORIGIN.cam2world.repeat(8, 1, 1), ORIGIN.intrinsics.repeat(8, 1, 1), SIZE)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        grown = old.extended(lift(latents, depth, cameras, WAN22))
    added = grown.count - old.count
    per_point = sum(
        value.element_size() * value[0].numel() for value in vars(grown.blocks[-1]).values() if value is not None
    )
    events = profile.events()
    assert events is not None
    # Everything ever allocated on the way, freed or not, counts: about four times what stays.
    assert sum(max(event.self_cpu_memory_usage, 0) for event in events) < 6 * added * per_point


def test_blocks_with_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"footprints .* \[4\]; \[5\] goes with 5 points"):
        MemoryBlock(
            torch.zeros(5, 3),
            torch.zeros(5, 4),
            torch.zeros(5).int(),
            torch.zeros(5),
            torch.zeros(4),
            torch.zeros(5, 2, 3),
        )


def test_latents_of_another_vae_are_refused():
    with pytest.raises(ValueError, match="16 channels"):
        LatentMemory.empty(GRID).extended(block_of(3, channels=16))
    with pytest.raises(ValueError, match="16 channels"):
        lift(torch.zeros(16, 1, *SIZE), torch.ones(1, *SIZE), ORIGIN, GRID)


def test_nan_latents_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        lift(torch.full((4, 1, *SIZE), torch.nan), torch.ones(1, *SIZE), ORIGIN, GRID)


@pytest.mark.parametrize("name", ["depth", "is_static", "confidence"])
def test_maps_of_another_size_are_refused(name):
    maps = {"depth": torch.ones(1, *SIZE), name: torch.ones(1, 7, 10)}
    with pytest.raises(ValueError, match=f"{name} has shape"):
        lift(torch.zeros(4, 1, *SIZE), maps.pop("depth"), ORIGIN, GRID, **maps)


def test_a_camera_per_frame_is_needed():
    with pytest.raises(ValueError, match="one camera per depth map"):
        lift(torch.zeros(4, 2, *SIZE), torch.ones(2, *SIZE), ORIGIN, GRID)


def test_a_saved_memory_comes_back_the_same(tmp_path):
    memory = saved_memory(tmp_path / "memory.safetensors")
    loaded = load_memory(tmp_path / "memory.safetensors")
    assert loaded.grid == memory.grid
    assert [len(block) for block in loaded.blocks] == [len(block) for block in memory.blocks]
    for block, other in zip(memory.blocks, loaded.blocks, strict=True):
        for name, value in vars(block).items():
            if value is None:
                assert vars(other)[name] is None
                continue
            assert torch.equal(value, vars(other)[name]) and value.dtype == vars(other)[name].dtype
    assert [path.name for path in tmp_path.iterdir()] == ["memory.safetensors"]


def test_an_empty_memory_can_be_saved(tmp_path):
    save_memory(LatentMemory.empty(WAN22), tmp_path / "empty.safetensors")
    loaded = load_memory(tmp_path / "empty.safetensors")
    assert loaded == LatentMemory.empty(WAN22)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_memory("nowhere.safetensors")


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "memory.safetensors"
    path.write_bytes(pickle.dumps({"points": [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"memory\.safetensors cannot be used as a memory"):
        load_memory(path)


@pytest.mark.parametrize("kept", [0, 5, 100, 2000])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cannot be used as a memory"):
        load_memory(path)


def rewritten(path, *, tensors=None, **metadata) -> None:
    """Change single tensors and metadata entries of a saved memory."""
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    save_file({**load_file(path), **(tensors or {})}, path, {**header["__metadata__"], **metadata})


@pytest.mark.parametrize("name", ["points", "latents", "confidence", "footprints", "sides"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    damaged = load_file(path)[name]
    damaged.view(-1)[3] = value
    rewritten(path, tensors={name: damaged})
    with pytest.raises(ValueError, match=f"{name} contain NaN or infinite values"):
        load_memory(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"version": "3"}, "version is 3, this code reads versions 1 and 2"),
        ({"format": "pt"}, "does not say mirage-memory"),
        ({"block_sizes": "[120, 8]"}, "points have shape"),
        ({"block_sizes": "[128, -1]"}, "not positive whole numbers"),
        ({"block_sizes": "[1e99]"}, "not positive whole numbers"),
        ({"block_sizes": "{"}, "cannot be used"),
        ({"grid": '{"channels": 1000000000}'}, "latents have shape"),
        ({"grid": '{"color": 4}'}, "cannot be used"),
        ({"grid": "3"}, "cannot be used"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_with_its_reason(tmp_path, metadata, reason):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    rewritten(path, **metadata)
    with pytest.raises(ValueError, match=reason):
        load_memory(path)


def test_tensors_of_the_wrong_kind_are_refused(tmp_path):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    rewritten(path, tensors={"latent_index": torch.zeros(127)})
    with pytest.raises(ValueError, match="latent_index are stored as"):
        load_memory(path)


def test_tensors_that_do_not_belong_are_refused(tmp_path):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    rewritten(path, tensors={"colors": torch.zeros(127, 3)})
    with pytest.raises(ValueError, match="colors"):
        load_memory(path)


def test_a_header_that_lies_about_sizes_allocates_nothing(tmp_path):
    path = tmp_path / "memory.safetensors"
    saved_memory(path)
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["points"]["shape"] = [10**12, 3]
    lie = json.dumps(header).encode()
    for damaged in (struct.pack("<Q", len(lie)) + lie + raw[8 + length :], struct.pack("<Q", 2**62) + raw[8:]):
        path.write_bytes(damaged)
        tracemalloc.start()
        with pytest.raises(ValueError, match="cannot be used as a memory"):
            load_memory(path)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert allocated < 1_000_000
