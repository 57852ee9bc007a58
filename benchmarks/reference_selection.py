"""Choosing references among 100 past latent frames of a memory of 200,000 points, against Python sets.

The release keeps the visible points of every past frame and, for every segment, makes sets of voxel triples of them and
of what the target cameras see. We ask the memory as it is now, for past and target cameras alike.

Run: python -m benchmarks.reference_selection [--threads N]
"""

from __future__ import annotations

import torch

from mirage_core.camera import Cameras, projection_matrices
from mirage_core.memory import LatentMemory
from mirage_core.references import select_references, visible_voxels

from .clouds import SIZE, random_memory, target_cameras, walk, walked_memory
from .release_projection import set_overlap
from .reporting import best_milliseconds, print_table, save_results, threads_asked_for

_POINTS, _FRAMES, _VOXEL = 200_000, 100, 0.1
_RIVAL_FRAMES = 4  # the rival takes seconds per frame; its time is that of these, times 25


def visible_points(memory: LatentMemory, cameras: Cameras) -> list[torch.Tensor]:
    """What the release has stored for each camera: the points in its image."""
    points, seen = memory.points, []
    for matrix in projection_matrices(cameras, SIZE, memory.grid).float():
        x, y, z = (points @ matrix[:, :3].T + matrix[:, 3]).unbind(1)
        is_visible = (z > 0) & (x >= 0) & (x < SIZE[1] * z) & (y >= 0) & (y < SIZE[0] * z)
        seen.append(points[is_visible])
    return seen


def measure(memory: LatentMemory, cloud: str) -> dict:
    history, targets = walk(_FRAMES), target_cameras()
    past = visible_points(memory, history[list(range(0, _FRAMES, _FRAMES // _RIVAL_FRAMES))])
    query = torch.cat(visible_points(memory, targets))

    def seen() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        keys = visible_voxels(memory, Cameras.joined([history, targets]), SIZE, voxel_size=_VOXEL)
        return keys[:_FRAMES], keys[_FRAMES:]

    history_keys, target_keys = seen()
    ours = [
        best_milliseconds(seen),
        best_milliseconds(lambda: select_references(target_keys, history_keys)),
    ]
    rival = best_milliseconds(lambda: [set_overlap(query, points, _VOXEL) for points in past], 1, 0)
    rival *= _FRAMES / _RIVAL_FRAMES
    return {
        "cloud": cloud,
        "points": memory.count,
        "past frames": _FRAMES,
        "visible_voxels": ours[0],
        "select_references": ours[1],
        "Python sets": rival,
        "sets / (visible + select)": rival / sum(ours),
        "sets / select": rival / ours[1],
    }


def main() -> None:
    threads = threads_asked_for(__doc__ or "")
    rows = [measure(walked_memory(_POINTS), "walk"), measure(random_memory(_POINTS), "random")]
    title = "Reference selection: milliseconds for one segment, 9 target cameras"
    print_table(rows, title)
    save_results(f"reference_selection_{threads}_threads", title, rows)


if __name__ == "__main__":
    main()
