"""What a read-out costs when the camera turns away and back again and again: every place kept once, or all appended.

Odd segments turn away, even ones come back, so that from the second on the same is in sight, however long the film.

Run: python -m benchmarks.there_and_back [--segments 100]
"""

from __future__ import annotations

import argparse

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import latent_depth, room_depth
from mirage_core.fusion import fused
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.segments import frames_of_segments, plan_segments
from mirage_core.zbuffer import project

from .clouds import walk
from .reporting import print_table, save_results
from .rgb_vs_latent import ROOM, seconds
from .steady import keep_pages

SEGMENTS = 100
APPENDED = 10  # segments for which everything is appended too: more would not fit
IMAGE_SIZE = (704, 1280)
_READ_OUTS = 50  # timed per segment, of which the best counts


def cameras_there_and_back(frames: int, there: int) -> Cameras:
    """`frames` cameras: the first `there` steps of the walk, the same way back, and so on."""
    way = [there - abs(there - frame % (2 * there)) for frame in range(frames)]
    path = walk(frames_of_segments(APPENDED, WAN22))[way]
    return Cameras(path.cam2world, pinhole_intrinsics(70, IMAGE_SIZE).repeat(frames, 1, 1), IMAGE_SIZE)


def best_milliseconds(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> float:
    """Per latent frame."""
    project(memory, cameras, size)  # what a memory derives from new points is made once
    return 1000 * min(seconds(lambda: project(memory, cameras, size)) for _ in range(_READ_OUTS)) / len(cameras)


def main(segments: int) -> None:
    torch.set_num_threads(1)
    plan = plan_segments(frames_of_segments(segments, WAN22), WAN22)
    film = cameras_there_and_back(frames_of_segments(segments, WAN22), plan[0].model_frames - 1)
    size = WAN22.size_of(IMAGE_SIZE)
    once = everything = LatentMemory.empty(WAN22)
    filmed, rows = None, []
    for segment in plan:
        cameras = film[list(segment.target_frames)]
        has_rival = segment.index < APPENDED
        row: dict = {"segment": segment.index + 1, "fused ms/frame": best_milliseconds(once, cameras, size)}
        row["appended ms/frame"] = best_milliseconds(everything, cameras, size) if has_rival else ""
        new = cameras if filmed is None else cameras[1:]
        depth = latent_depth(room_depth(new, **ROOM), size)
        latents = torch.zeros(WAN22.channels, len(new), *size)
        first_index = 0 if filmed is None else len(filmed)
        once = fused(once, latents, depth, new, first_latent_index=first_index, filmed_cameras=filmed).memory
        if has_rival:
            everything = everything.extended(lift(latents, depth, new, WAN22, first_latent_index=first_index))
        filmed = new if filmed is None else Cameras.joined([filmed, new])
        rows.append({**row, "fused points": once.count, "appended points": everything.count if has_rival else ""})
        print_table(rows[-1:])
    later = [row["fused ms/frame"] for row in rows[1:]]
    title = (
        f"Read-out at {IMAGE_SIZE[0]}x{IMAGE_SIZE[1]} where the camera turns away and back again and again: best of "
        f"{_READ_OUTS}, processor milliseconds per latent frame on one thread, of a memory that keeps each place once "
        "(fused) and of one to which everything is appended, as the release does; points after writing. From segment 2 "
        f"on fused {min(later):.2f} to {max(later):.2f} ms, {max(later) / min(later) - 1:.0%} apart; the last "
        f"{later[-1] / later[0] - 1:+.0%} against segment 2 (bar 10 %). The allocator was kept from giving freed pages "
        "back."
    )
    shown = rows[:APPENDED] + rows[APPENDED + 9 :: 10]
    print_table(shown, title)
    save_results("there_and_back", title, shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=SEGMENTS)
    asked = parser.parse_args()
    keep_pages("benchmarks.there_and_back")
    main(asked.segments)
