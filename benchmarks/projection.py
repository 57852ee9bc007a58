"""Projection of a memory to the 9 cameras of a segment, against the release's algorithm and one memcpy of the points.

project_points() does what the release does, one point in one cell; project() draws surfaces without holes.

Run: python -m benchmarks.projection [--threads N]
"""

from __future__ import annotations

import time

import torch

from mirage_core.latent_grid import WAN22
from mirage_core.memory import TILE, LatentMemory
from mirage_core.zbuffer import project, project_points

from .clouds import SIZE, random_memory, target_cameras, walked_memory
from .release_projection import project_sorted
from .reporting import best_milliseconds, print_table, save_results, threads_asked_for

COUNTS = (10_000, 100_000, 1_000_000, 5_000_000)


def measure(memory: LatentMemory, cloud: str) -> dict:
    """One row of the table; times in milliseconds per camera except the two memcpy, which are of all points once."""
    cameras = target_cameras()
    points, latents = memory.points, memory.latents
    matrices = [(one.float(), other.float()) for one, other in zip(cameras.cam2world, cameras.intrinsics, strict=True)]
    target = torch.empty_like(points)
    start = time.perf_counter()
    sorted_points = sum(block.tiles.values.shape[1] for block in memory.blocks)
    sort_once = (time.perf_counter() - start) * 1000
    assert sorted_points * TILE >= memory.count
    copy = best_milliseconds(lambda: target.copy_(points))
    clone = best_milliseconds(points.clone)
    copy_all = copy + _copy_milliseconds(latents)
    # One camera in the middle: a release camera costs the same as any other of these neighbours.
    middle = len(matrices) // 2
    release = best_milliseconds(lambda: project_sorted(points, latents, *matrices[middle], SIZE))
    surfaces = best_milliseconds(lambda: project(memory, cameras, SIZE)) / len(cameras)
    one_point = best_milliseconds(lambda: project_points(memory, cameras, SIZE)) / len(cameras)
    return {
        "cloud": cloud,
        "points": memory.count,
        "blocks": len(memory.blocks),
        "memcpy": copy,
        "memcpy with latents": copy_all,
        "clone": clone,
        "sort once": sort_once,
        "release": release,
        "project": surfaces,
        "project_points": one_point,
        "release / project": release / surfaces,
        "release / project_points": release / one_point,
        "project / memcpy": surfaces / copy,
        "project_points / memcpy": one_point / copy,
        "project / memcpy with latents": surfaces / copy_all,
        "project_points / memcpy with latents": one_point / copy_all,
        "project_points / clone": one_point / clone,
    }


def _copy_milliseconds(values: torch.Tensor) -> float:
    target = torch.empty_like(values)
    return best_milliseconds(lambda: target.copy_(values))


def main() -> None:
    threads = threads_asked_for(__doc__ or "")
    rows = []
    for count in COUNTS:
        rows.append(measure(walked_memory(count), "walk"))
        rows.append(measure(random_memory(count), "random"))
    title = (
        f"Projection to {SIZE[0]}x{SIZE[1]} cells with {WAN22.channels} channels: milliseconds per camera, 9 cameras "
        "in one call; release: its sort and scatter, one call per camera; "
        "memcpy: of the points [n 3] only, without latents, into memory in use; clone: into fresh memory; "
        "memcpy with latents: of the whole memory, points [n 3] and latents [n channels], into memory in use; "
        "sort once: of every new point, not in the other times"
    )
    print_table(rows, title)
    save_results(f"projection_{threads}_threads", title, rows)


if __name__ == "__main__":
    main()
