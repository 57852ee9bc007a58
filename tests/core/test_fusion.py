"""Writing segments into the memory: laws, hand cases, and what it shows against storing everything."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics, unproject_cells
from mirage_core.fusion import Fusion, Verdict, fused
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.upkeep import resident_bytes
from mirage_core.zbuffer import project
from tests.core.scenes import Rectangle, box, furnished_room, ray_cast, wall

GRID = LatentGrid(channels=6)
SIZE = (22, 40)
EMPTY = LatentMemory.empty(GRID)
_WAVES = torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def cameras_at(places: list[tuple[float, float, float, float]], fov: float = 70) -> Cameras:
    """Cameras at (x, y, z) turned right by an angle in radians."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(places), 1, 1)
    for matrix, (x, y, z, yaw) in zip(cam2world, places, strict=True):
        cosine, sine = math.cos(yaw), math.sin(yaw)
        matrix[:3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        matrix[:3, 3] = torch.tensor([x, y, z])
    return Cameras(cam2world, pinhole_intrinsics(fov, SIZE).repeat(len(places), 1, 1), SIZE)


def texture(points: torch.Tensor) -> torch.Tensor:
    """[6 ...] smooth latents of world points [... 3]."""
    return torch.sin(torch.einsum("...k,ck->c...", points, _WAVES)).float()


def seen(scene: list[Rectangle], cameras: Cameras, *, noise: float = 0.0, seed: int = 0):
    """Latents and depth [frames rows columns] of a scene, the depth off by `noise` of itself, smoothly."""
    depth = ray_cast(scene, cameras, SIZE).depth
    latents = texture(unproject_cells(depth, cameras, GRID))
    error = torch.randn(len(depth), 1, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * noise
    error = torch.nn.functional.interpolate(error, SIZE, mode="bicubic")[:, 0]
    return latents, (depth * (1 + error)).float()


def write(memory: LatentMemory, scene: list[Rectangle], cameras: Cameras, *, noise=0.0, seed=0, **options) -> Fusion:
    latents, depth = seen(scene, cameras, noise=noise, seed=seed)
    return fused(memory, latents, depth, cameras, **options)


def walked(scene: list[Rectangle], cameras: Cameras, *, noise=0.0, **options) -> tuple[LatentMemory, list[Fusion]]:
    """Segments of 8 latent frames, one after the other."""
    memory, steps = EMPTY, []
    for start in range(0, len(cameras), 8):
        filmed = cameras[:start] if start else None
        step = write(
            memory, scene, cameras[start : start + 8], noise=noise, seed=start, first_latent_index=start,
            filmed_cameras=filmed, **options,
        )  # fmt: skip
        memory, steps = step.memory, [*steps, step]
    return memory, steps


def same(block: MemoryBlock, other: MemoryBlock) -> bool:
    names = ("points", "latents", "latent_index", "confidence", "footprints", "sides")
    return all(torch.equal(getattr(block, name), getattr(other, name)) for name in names)


def to_and_fro(frames: int) -> Cameras:
    there = [(0.3 * math.sin(i / 4), 0.0, 2.4 * i / frames, 0.5 * math.sin(i / 5)) for i in range(frames)]
    return cameras_at(there + there[::-1])


def test_one_frame_in_an_empty_memory_is_what_lift_gives():
    cameras = cameras_at([(0, 0, 0, 0)])
    latents, depth = seen(furnished_room(), cameras)
    (block,) = fused(EMPTY, latents, depth, cameras, features=None, first_latent_index=3).memory.blocks
    lifted = lift(latents, depth, cameras, GRID, first_latent_index=3)
    assert same(
        block, lift(latents, depth, cameras, GRID, first_latent_index=3, confidence=torch.full_like(depth, 0.5))
    )
    assert len(block) == len(lifted)


def test_the_same_frame_again_adds_nothing_and_makes_it_surer():
    cameras = cameras_at([(0, 0, 0, 0)])
    once = write(EMPTY, furnished_room(), cameras).memory
    again = write(once, furnished_room(), cameras)
    assert again.memory.count == once.count and again.stored == 0
    assert again.counts[Verdict.KNOWN] == SIZE[0] * SIZE[1]
    assert (again.memory.blocks[0].confidence > once.blocks[0].confidence).all()


def test_the_same_segment_again_adds_next_to_nothing():
    cameras = to_and_fro(12)[:9]
    once = write(EMPTY, furnished_room(), cameras)
    again = write(once.memory, furnished_room(), cameras)
    third = write(again.memory, furnished_room(), cameras)
    assert again.stored < 0.05 * once.stored and again.stored < 0.01 * again.verdicts.numel()
    # Where finer points took the place of coarse ones, earlier frames find cracks of less than a cell, and close them.
    assert again.memory.count < 1.03 * once.memory.count
    assert third.memory.count < 1.01 * again.memory.count


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_frame_shows_every_cell_that_it_stored_or_confirmed(noise):
    cameras, memory, shown = to_and_fro(12), EMPTY, []
    for frame in range(len(cameras)):
        step = write(
            memory, furnished_room(), cameras[[frame]], noise=noise, seed=frame, first_latent_index=frame,
            filmed_cameras=cameras[:frame] if frame else None,
        )  # fmt: skip
        memory = step.memory
        is_held = torch.isin(step.verdicts[0], torch.tensor([Verdict.NEW, Verdict.KNOWN, Verdict.FINER]))
        shown.append(project(memory, cameras[[frame]], SIZE).is_covered[0][is_held])
    # Where a point has moved it may bare the edge of what is behind it.
    assert torch.cat(shown).double().mean() > (0.9999 if noise == 0 else 0.999)


def test_confirming_shares_all_but_the_confidence():
    cameras = cameras_at([(0, 0, 0, 0)])
    (old,) = write(EMPTY, furnished_room(), cameras).memory.blocks
    tiles = old.tiles
    (new,) = write(LatentMemory(GRID, (old,)), furnished_room(), cameras).memory.blocks
    assert new.confidence is not old.confidence and new.tiles is tiles
    assert all(getattr(new, name) is getattr(old, name) for name in ("points", "latents", "footprints", "sides"))


def test_sightings_halve_the_doubt_until_five_of_them():
    cameras = cameras_at([(0, 0, 0, 0)])
    memory, doubts = EMPTY, []
    for _ in range(7):
        memory = write(memory, [wall(4)], cameras).memory
        doubts.append(1 - float(memory.blocks[0].confidence[0]))
    assert doubts == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32, 1 / 32]


def test_nothing_given_is_changed():
    cameras = to_and_fro(8)
    first = write(EMPTY, furnished_room(), cameras[:4]).memory
    latents, depth = seen(furnished_room(), cameras[4:])
    held = [one for block in first.blocks for one in vars(block).values() if isinstance(one, torch.Tensor)]
    kept = [one.clone() for one in held]
    given = latents.clone(), depth.clone()
    fused(first, latents, depth, cameras[4:])
    assert all(torch.equal(one, other) for one, other in zip(kept, held, strict=True))
    assert torch.equal(given[0], latents) and torch.equal(given[1], depth)


def test_the_result_is_the_same_on_one_thread_and_many():
    cameras, results = to_and_fro(8), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(walked(furnished_room(), cameras, noise=0.02)[0])
    finally:
        torch.set_num_threads(before)
    assert len(results[0].blocks) == len(results[1].blocks)
    assert all(same(*blocks) for blocks in zip(results[0].blocks, results[1].blocks, strict=True))


def test_moving_world_and_cameras_together_changes_no_verdict():
    cameras = to_and_fro(8)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -0.4, 0.2], [0.4, 0, -0.7], [-0.2, 0.7, 0]]).double())
    motion[:3, 3] = torch.tensor([3.0, -2.0, 5.0])
    latents, depth = seen(furnished_room(), cameras)
    here = fused(EMPTY, latents, depth, cameras, features=None).verdicts
    there = fused(EMPTY, latents, depth, cameras.moved(motion), features=None).verdicts
    assert (here != there).float().mean() < 0.002  # ties at the borders of cells fall either way in float32


def test_a_wall_seen_from_afar_and_then_from_near_is_kept_at_the_finer_cells_only():
    scene = [wall(4)]
    cameras = cameras_at([(0, 0, 0, 0), (0, 0, 3, 0)])
    memory, steps = EMPTY, []
    for frame in (0, 1, 0, 1, 0, 1):
        step = write(memory, scene, cameras[[frame]])
        memory, steps = step.memory, [*steps, step]
    # From a quarter of the distance one sees a sixteenth of the wall.
    assert steps[0].stored / 32 < steps[1].replaced < steps[0].stored / 16
    assert steps[1].counts[Verdict.FINER] > 0.5 * SIZE[0] * SIZE[1]  # the rim's coarse patches reach out of the image
    assert memory.count < 1.1 * steps[1].memory.count
    assert [step.stored for step in steps[4:]] == [0, 0]


def test_a_wall_seen_from_its_back_is_another_surface():
    front = write(EMPTY, [wall(4, half_width=2, half_height=1)], cameras_at([(0, 0, 0, 0)]))
    back = write(front.memory, [wall(4, half_width=2, half_height=1)], cameras_at([(0, 0, 8, math.pi)]))
    assert back.counts[Verdict.NEW] > 0.9 * front.stored and back.counts[Verdict.KNOWN] == 0


def test_a_mover_that_passes_does_not_enter_and_is_counted():
    room, cameras = box((-3.0, -1.7, -1.0), (3.0, 1.3, 8.0)), cameras_at([(0.02 * i, 0, 0, 0) for i in range(24)])
    memory = write(EMPTY, room, cameras[:4]).memory
    refused = stored = shown = 0
    for frame in range(4, 24, 2):
        x = -2.2 + 0.17 * frame
        scene = room + box((x, -0.5, 3.5), (x + 0.8, 1.3, 4.0))
        hits = ray_cast(scene, cameras[[frame]], SIZE).surface >= len(room)
        step = write(memory, scene, cameras[[frame]], first_latent_index=frame, filmed_cameras=cameras[:frame])
        memory = step.memory
        refused += step.counts[Verdict.IN_FRONT]
        stored += int((((step.verdicts == Verdict.NEW) | (step.verdicts == Verdict.FINER)) & hits).sum())
        shown += int(hits.sum())
    # What is left of it are its rims: cells at an edge, within a cell of ground that is as near.
    assert refused > 0.75 * shown and stored < 0.05 * shown


def test_a_mover_that_was_there_from_the_start_is_taken_out_once_it_has_left():
    room, camera = box((-3.0, -1.7, -1.0), (3.0, 1.3, 8.0)), cameras_at([(0, 0, 0, 0)])
    memory = EMPTY
    for frame in range(14):
        scene = room + (box((-0.5, -0.5, 3.5), (0.5, 1.3, 4.0)) if frame < 2 else [])
        step = write(memory, scene, camera, first_latent_index=frame)
        memory = step.memory
    depth = ray_cast(room, camera, SIZE).depth
    shown = project(memory, camera, SIZE)
    assert ((shown.depth / depth - 1).abs() < 0.01).float().mean() > 0.97
    assert step.counts[Verdict.BEHIND] == 0


def test_a_pillar_that_comes_into_view_from_the_side_is_stored():
    room = box((-3.0, -1.7, -1.0), (3.0, 1.3, 8.0))
    screen, pillar = box((-2.9, -1.7, 1.5), (0.3, 1.3, 1.6)), box((-1.0, -1.7, 4.0), (-0.4, 1.3, 4.6))
    scene = room + screen + pillar
    cameras = cameras_at([(0.1 * i, 0, 0, -0.03 * i) for i in range(24)])
    memory, steps = walked(scene, cameras)
    hits = ray_cast(scene, cameras, SIZE)
    is_pillar = hits.surface >= len(room) + len(screen)
    assert not is_pillar[0].any() and is_pillar[-1].sum() > 40
    shown = project(memory, cameras[[-1]], SIZE)
    is_right = (shown.depth[0] / hits.depth[-1] - 1).abs() < 0.03
    assert is_right[is_pillar[-1]].float().mean() > 0.8  # its rim is open to discussion at this size
    verdicts = torch.cat([step.verdicts for step in steps])
    assert (verdicts[is_pillar] == Verdict.IN_FRONT).float().mean() < 0.06


def test_what_a_screen_hid_is_stored_when_the_camera_looks_past_it():
    scene = [wall(6), *box((-0.5, -0.5, 2.5), (0.5, 0.5, 2.6))]
    cameras = cameras_at([(0, 0, 0, 0), (1.5, 0, 0, 0)])
    first = write(EMPTY, scene, cameras[[0]])
    second = write(first.memory, scene, cameras[[1]], first_latent_index=1, filmed_cameras=cameras[[0]])
    hits = ray_cast(scene, cameras[[1]], SIZE)
    shown = project(second.memory, cameras[[1]], SIZE)
    assert ((shown.depth / hits.depth - 1).abs() < 0.02).float().mean() > 0.95
    assert second.counts[Verdict.IN_FRONT] == second.counts[Verdict.BEHIND] == 0


def test_what_left_the_first_picture_is_forgotten_once_nine_frames_looked_through_it():
    """The first picture is lifted with full confidence, so that it takes as many as what was seen five times."""
    cameras = cameras_at([(0.01 * index, 0, 0, 0) for index in range(12)])
    mover = box((-0.6, -0.6, 2.4), (0.6, 0.6, 2.5))
    latents, depth = seen([wall(6), *mover], cameras[[0]])
    memory = EMPTY.extended(lift(latents, depth, cameras[[0]], GRID))
    before = int((memory.points[:, 2] < 3).sum())
    step = write(memory, [wall(6)], cameras[[1, 2, 3, 4]], first_latent_index=1, filmed_cameras=cameras[[0]])
    assert (step.memory.points[:, 2] < 3).sum() > 0.9 * before > 10, "four looks may be wrong"
    rest = cameras[list(range(5, 12))]
    step = write(step.memory, [wall(6)], rest, first_latent_index=5, filmed_cameras=cameras[:5])
    assert (step.memory.points[:, 2] < 3).sum() < 0.2 * before


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_fused_memory_shows_what_everything_stored_shows_and_no_worse(noise):
    scene, cameras = furnished_room(), to_and_fro(12)
    memory, _ = walked(scene, cameras, noise=noise)
    everything = EMPTY
    for start in range(0, len(cameras), 8):
        part = cameras[start : start + 8]
        everything = everything.extended(lift(*seen(scene, part, noise=noise, seed=start), part, GRID))
    filmed = [project(one, cameras[1:12:2], SIZE).is_covered.float().mean() for one in (memory, everything)]
    beside = cameras_at(
        [(0.1 + 0.3 * math.sin(i / 4), 0.03, 2.4 * i / 12, 0.5 * math.sin(i / 5)) for i in range(1, 12)]
    )
    hits = ray_cast(scene, beside, SIZE)
    true = texture(unproject_cells(hits.depth, beside, GRID))
    errors = []
    for one in (memory, everything):
        view = project(one, beside, SIZE)
        off = (view.depth / hits.depth - 1).abs()[view.is_covered].mean()
        errors.append((float(off), float((view.latents - true).square().mean(0).sqrt()[view.is_covered].mean())))
    (depth_error, error), (full_depth_error, full_error) = errors
    assert memory.count < everything.count / 5
    assert filmed[0] >= filmed[1] - 0.005
    assert depth_error <= full_depth_error * 1.02
    # Exact depth makes every sample right, and then more of them lie nearer to the cells' centres.
    assert error <= full_error * (1.5 if noise == 0 else 1.02)


def test_halves_of_latents_are_off_by_less_than_a_thousandth():
    cameras = cameras_at([(0, 0, 0, 0)])
    latents, depth = torch.randn(6, 1, *SIZE, generator=torch.Generator().manual_seed(0)) * 2, torch.ones(1, *SIZE)
    errors = {}
    for features in (torch.float16, torch.bfloat16):
        (block,) = fused(EMPTY, latents, depth, cameras, features=features).memory.blocks
        errors[features] = float((block.latents.float() - latents[:, 0].flatten(1).T).square().mean().sqrt()) / 2
    assert errors[torch.float16] < 3e-4 and errors[torch.bfloat16] < 3e-3


def test_bytes_are_counted_once_and_with_all_that_is_derived():
    memory = write(EMPTY, furnished_room(), cameras_at([(0, 0, 0, 0)])).memory
    (block,) = memory.blocks
    memory_bytes = resident_bytes(memory)  # makes the tiles
    twice = LatentMemory(GRID, (block, block.with_confidence(block.confidence)))
    assert resident_bytes(twice) == memory_bytes
    assert resident_bytes(memory) > len(block) * (12 + 2 * 6 + 4 + 2 + 2 + 12)


@pytest.mark.parametrize("tolerance", [0.0, 0.5, math.nan])
def test_a_tolerance_that_is_no_share_is_refused(tolerance):
    cameras = cameras_at([(0, 0, 0, 0)])
    with pytest.raises(ValueError, match="tolerance is"):
        write(EMPTY, [wall(4)], cameras, tolerance=tolerance)
