"""How a memory grows over a long film: fused, everything appended, and colours thinned by voxels, side by side.

A flight through the rooms of an endless house and back again: depth is cast exactly, latents and colours are noise.

Run: OMP_NUM_THREADS=1 python -m benchmarks.memory_growth [--segments 100] [--rivals 10] [--small]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.fusion import Verdict, fused
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.rgb_memory import PIXELS, lift_pixels, pixel_depth, thinned
from mirage_core.upkeep import resident_bytes
from mirage_core.zbuffer import project

from .reporting import print_table, save_results
from .steady import keep_pages

SIZE = (44, 80)
IMAGE_SIZE = (704, 1280)
APPENDED = RGB = 10  # segments for which everything is appended, and colours are kept: more would not fit
_FRAMES = 8  # new latent frames per segment, half a second of film each second
_STEP = 0.12  # metres per latent frame, of which there are four a second: a stroll
_ROOM = (9.0, 3.0, 9.0)  # width, height, depth of a room
_DOOR = 2.0
_READ_OUTS = 5
_MIB = 2**20


def wandering(frames: int) -> Cameras:
    """A path through room after room that looks about; the second half goes back the way it came."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    for frame in range(frames):
        yaw = 0.9 * math.sin(frame / 37) + 0.35 * math.sin(frame / 11)
        cosine, sine = math.cos(yaw), math.sin(yaw)
        cam2world[frame, :3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        along = _STEP * frame
        cam2world[frame, :3, 3] = torch.tensor([0.5 * math.sin(frame / 23), 0.1 * math.sin(frame / 17), along])
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).repeat(frames, 1, 1), SIZE)


def house_depth(cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
    """[frames rows columns] float64 depth of a row of rooms along +z; between them are walls with a door."""
    rows, columns = size
    at_size = cameras.resized(size)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    width, height, deep = _ROOM
    depth = []
    for center, cam2world, intrinsics in zip(at_size.centers, at_size.cam2world, at_size.intrinsics, strict=True):
        rays = pixels @ torch.linalg.inv(intrinsics).T @ cam2world[:3, :3].T
        sides = torch.where(rays[..., :2] > 0, 1.0, -1.0) * torch.tensor([width, height]).double() / 2
        nearest = ((sides - center[:2]) / rays[..., :2]).amin(-1)
        first = math.floor(float(center[2]) / deep)
        for wall in range(first - 2, first + 4):
            hit = (wall * deep - center[2]) / rays[..., 2]
            at = center + hit[..., None] * rays
            is_door = (at[..., 0].abs() < _DOOR / 2) & (at[..., 1] > -height / 2 + 0.6)
            nearest = torch.where((hit > 1e-6) & ~is_door & (hit < nearest), hit, nearest)
        depth.append(nearest)
    return torch.stack(depth)


def noisy(depth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Depth wrong by 1 % of its own, smoothly over the image, as that of a network is."""
    error = torch.randn(len(depth), 1, 4, 7, generator=generator, dtype=torch.float64) * 0.01
    return depth * (1 + torch.nn.functional.interpolate(error, depth.shape[1:], mode="bicubic")[:, 0])


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass
class Growth:
    """The fused memory over the film, and its rivals over the first segments."""

    fused: LatentMemory
    everything: LatentMemory
    rgb: LatentMemory


def main(segments: int, *, is_saved: bool) -> None:
    torch.set_num_threads(1)
    there = segments // 2
    path = wandering(1 + there * _FRAMES)
    frames = [*range(1 + there * _FRAMES), *range(there * _FRAMES - 1, -1, -1)]
    growth = Growth(LatentMemory.empty(WAN22), LatentMemory.empty(WAN22), LatentMemory.empty(PIXELS))
    film = path[frames]
    rows = []
    write(growth, film, range(1))
    for segment in range(segments):
        rows.append(measured(growth, film, segment, there))
        print_table(rows[-1:])
    title = summary(rows, there)
    every = rows[:10] + rows[19::10]
    print_table(every, title)
    if is_saved:
        save_results("memory_growth", title, every)


def measured(growth: Growth, film: Cameras, segment: int, there: int) -> dict:
    first = 1 + segment * _FRAMES
    span = range(first, first + _FRAMES)
    targets = film[list(range(first - 1, first + _FRAMES))]
    project(growth.fused, targets, SIZE)
    reading = min(seconds(lambda: project(growth.fused, targets, SIZE)) for _ in range(_READ_OUTS)) / len(targets)
    before, start = resident_bytes(growth.fused), time.process_time()
    counts = write(growth, film, span, segment)
    row = {
        "segment": segment + 1,
        "ground": "new" if segment < there else "seen",
        "points": growth.fused.count,
        "blocks": len(growth.fused.blocks),
        "MiB": resident_bytes(growth.fused) / _MIB,
        "MiB added": (resident_bytes(growth.fused) - before) / _MIB,
        "new frames": counts[Verdict.NEW] / (SIZE[0] * SIZE[1]),
        "depth off %": 100 * depth_error(growth.fused, targets),
        "read ms/frame": 1000 * reading,
        "seconds": time.process_time() - start,
    }
    if APPENDED:
        row["appended MiB"] = resident_bytes(growth.everything) / _MIB if segment < APPENDED else ""
        row["rgb thinned MiB"] = resident_bytes(growth.rgb) / _MIB if segment < RGB else ""
    if segment + 1 == max(APPENDED, RGB):
        growth.everything, growth.rgb = LatentMemory.empty(WAN22), LatentMemory.empty(PIXELS)
    return row


def depth_error(memory: LatentMemory, cameras: Cameras) -> float:
    """Median share by which the depth that a memory shows is off."""
    view = project(memory, cameras, SIZE)
    return float((view.depth / house_depth(cameras, SIZE) - 1).abs()[view.is_covered].median())


def write(growth: Growth, film: Cameras, span: range, segment: int = 0) -> dict[Verdict, int]:
    cameras, generator = film[list(span)], torch.Generator().manual_seed(span.start)
    depth = noisy(house_depth(cameras, SIZE), generator).float()
    latents = torch.randn(WAN22.channels, len(span), *SIZE, generator=generator)
    filmed = film[: span.start] if span.start else None
    result = fused(
        growth.fused, latents, depth, cameras, first_latent_index=span.start, filmed_cameras=filmed
    )  # fmt: skip
    growth.fused = result.memory
    if segment < APPENDED:
        growth.everything = growth.everything.extended(
            lift(latents, depth, cameras, WAN22, first_latent_index=span.start)
        )
    if segment < RGB:
        for frame in range(len(span)):
            at = cameras[[frame]]
            exact = noisy(house_depth(at, IMAGE_SIZE), generator).float()
            colors = torch.rand(1, *IMAGE_SIZE, 3, generator=generator)
            pixels = lift_pixels(
                colors,
                pixel_depth(exact, IMAGE_SIZE),
                at.resized(IMAGE_SIZE),
                first_latent_index=span.start + frame,
            )
            growth.rgb = growth.rgb.extended(thinned(pixels, growth.rgb))
    return result.counts


def summary(rows: list[dict], there: int) -> str:
    """What was measured, and the bars with their figures."""
    new = [row["MiB added"] for row in rows[:there]]
    seen = [row["MiB added"] for row in rows[there:]]
    ground = sum(row["new frames"] for row in rows[:there]) / there
    reading = [row["read ms/frame"] for row in rows]
    offs = sorted(row["depth off %"] for row in rows[there:])
    exact = house_depth(wandering(1 + there * _FRAMES), SIZE)
    sighting = 100 * float((noisy(exact, torch.Generator().manual_seed(0)) / exact - 1).abs().median())
    most = max(rows[:there], key=lambda row: row["MiB added"])
    return (
        f"Growth of the memory at {SIZE[0]}x{SIZE[1]} cells over {len(rows)} segments of 8 new latent frames: "
        f"{there} through the rooms of a house at {4 * _STEP:.2g} m/s, looking "
        "about, then back the same way. Depth is cast and off by 1 %, smoothly; latents are kept as fp16. MiB is all "
        "that is resident, the tiles for drawing included. Read-out: best of several, processor time on one thread, "
        "of 9 latent frames; the allocator was kept from giving freed pages back. "
        f"Bars: new ground {sum(new) / len(new):.2f} MiB per segment (at most 0.45), {ground:.2f} frames' worth of new "
        f"cells each; most in segment {most['segment']}, {most['MiB added']:.2f} MiB, which saw "
        f"{most['new frames']:.2f} frames' worth of new cells; revisit {sum(seen) / len(seen):.3f} (at most 0.02), "
        f"most {max(seen):.3f}; read-out at the last segment "
        f"{reading[-1]:.2f} ms against {reading[1]:.2f} at segment 2 ({reading[-1] / reading[1] - 1:+.0%}, bar 10 %), "
        f"median of the second half over that of the first "
        f"{sorted(reading[there:])[len(reading[there:]) // 2] / sorted(reading[:there])[there // 2]:.2f}. "
        f"What shows on the way back is off by {offs[len(offs) // 2]:.2f} % in the median, one sighting by "
        f"{sighting:.2f} %."
    ) + rivals(rows)


def rivals(rows: list[dict]) -> str:
    """What the memory's rivals need at the last segment for which they went along; nothing when they stayed away."""
    if not APPENDED or len(rows) < APPENDED:
        return ""
    last = rows[APPENDED - 1]
    return (
        f" The rivals go along for {APPENDED} segments. Then the thinned RGB memory is "
        f"{last['rgb thinned MiB'] / last['MiB']:.0f} times as large (at least 50), everything appended "
        f"{last['appended MiB']:.0f} MiB."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100, help="half of them on new ground")
    parser.add_argument("--small", action="store_true", help="eight segments without colours, nothing is saved")
    parser.add_argument("--rivals", type=int, default=10, help="segments for which they go along; each takes a minute")
    asked = parser.parse_args()
    keep_pages("benchmarks.memory_growth")
    APPENDED = RGB = 0 if asked.small else asked.rivals
    main(8 if asked.small else asked.segments, is_saved=not asked.small)
