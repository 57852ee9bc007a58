"""A film of three segments under the release's own rules, inside the real host, against the released pipeline.

The release's rules where ours differ: rays through cell corners, bilinear depth, one point in one cell, every latent
written without a mask, references judged by what was known when they were filmed, none of them excluded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import pytest
import torch

LATENT_TOLERANCE = 1e-2  # three segments of a stiff random net; one wrong reference moves the latents by more than 1


@pytest.fixture(scope="module")
def core(pack):
    """core("memory") is mirage_core/memory.py as the pack sees it."""
    pack("branch_patch")
    return lambda name: importlib.import_module(f"mirage_pack.mirage_core.{name}")


@dataclass
class Released:
    """The film so far and the voxels each of its latent frames saw when it was filmed."""

    rollout: object
    history: list[torch.Tensor]


def started(core, description, tensors) -> Released:
    grid = core("latent_grid").LatentGrid(cell_rule="corner")
    count = description["num_frames"]
    filmed = core("camera").Cameras(
        tensors["poses_c2w"], tensors["intrinsics"].expand(count, 3, 3), tuple(description["image_hw"])
    )
    size = tuple(description["latent_hw"])
    cameras = filmed.resized(tuple(16 * side for side in size))
    depth = core("depth").bilinear_depth(tensors["first_depth"][None], size)
    mask = tensors["first_exclusion_mask"]
    nearest = mask[:: mask.shape[0] // size[0], :: mask.shape[1] // size[1]]
    block = core("memory").lift(tensors["first_frame_latent"][0], depth, cameras[0], grid, is_static=nearest[None] == 0)
    memory = core("memory").LatentMemory.empty(grid).extended(block)
    return Released(core("rollout").Rollout.started(memory, tensors["first_frame_latent"][0], cameras), [])


def written(core, film: Released, latents, view, tensors) -> Released:
    """The film after a segment, everything new of it in the memory."""
    rollout, segment = film.rollout, film.rollout.next_segment
    new = slice(0 if segment.index == 0 else 1, None)
    frames = segment.target_frames[new]
    depth = torch.stack([tensors[f"update_depth/{frame:03d}"] for frame in frames])
    cameras = rollout.cameras[list(frames)]
    block = core("memory").lift(
        latents[:, new], core("depth").bilinear_depth(depth, rollout.size), cameras, rollout.memory.grid
    )
    grown = rollout.extended(latents, view, block)
    seen = core("references").visible_voxels(grown.memory, cameras, grown.size, voxel_size=0.1)
    return Released(grown, [*film.history, *seen])


def chosen_references(core, film: Released) -> list[int]:
    rollout, references = film.rollout, core("references")
    cameras = rollout.cameras_of(rollout.next_segment)
    query = references.visible_voxels(rollout.memory, cameras, rollout.size, voxel_size=0.1)
    return references.select_references(query, film.history, max_similarity=1)


@pytest.mark.parametrize("name", ["full_loop", "full_loop_no_preceding"])
def test_a_film_of_three_segments_equals_the_released_pipeline(core, pack, model, adapter, sample, golden, name):
    description, tensors = golden(name)
    white = tensors["white_latent"]
    film = started(core, description, tensors)
    for index, expected in enumerate(description["iterations"]):
        rollout, of = (
            film.rollout,
            {key.split("/")[1]: t for key, t in tensors.items() if key.startswith(f"iter{index}/")},
        )
        segment = rollout.next_segment
        assert list(segment.target_frames) == expected["target_pose_indices"]
        indices = chosen_references(core, film)
        assert indices == expected["reference_indices"]
        view = core("zbuffer").project_points(rollout.memory, rollout.cameras_of(segment), rollout.size)
        preceding = rollout.preceding(description["preceding_latents"])
        assert (0 if preceding is None else preceding[0].shape[1]) == expected["num_preceding_latents"]
        assert (view.latents - of["target_scene"]).abs().max() <= LATENT_TOLERANCE
        patched = pack("branch_patch").apply_memory(
            model,
            adapter,
            view=view,
            references=rollout.film[:, indices] if indices else None,
            preceding_latents=None if preceding is None else preceding[0],
            preceding_view=None if preceding is None else preceding[1],
            encode=lambda pictures: white[:, : (len(pictures) + 3) // 4],
        )
        made = sample(
            patched, of["noise"], rollout.overlap[None], tensors["context"],
            steps=description["steps"], shift=description["shift"],
        )[0]  # fmt: skip
        error = float((made - of["result"][0]).abs().max())
        print(f"{name} segment {index + 1}: {error:.2e}")
        assert error <= LATENT_TOLERANCE
        film = written(core, film, made, view, tensors)
    assert film.rollout.is_finished and film.rollout.film.shape[1] == (description["num_frames"] + 3) // 4
    assert (
        film.rollout.memory.points - tensors["memory.points_world"][tensors["memory.valid"].bool()]
    ).abs().max() < 1e-5


@pytest.mark.parametrize("seed", [101])
def test_noise_of_all_segments_comes_from_one_generator_on_the_cpu(golden, seed):
    _, tensors = golden("full_loop")
    generator = torch.Generator("cpu").manual_seed(seed)
    for index in range(3):
        noise = tensors[f"iter{index}/noise"]
        assert torch.equal(torch.randn(noise.shape, generator=generator), noise)
