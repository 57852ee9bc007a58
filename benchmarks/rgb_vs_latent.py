"""The memory of latents against the memory of colours on one path: read-out, writing and size, segment by segment.

Run: python -m benchmarks.rgb_vs_latent [--small]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import latent_depth, plane_depth, room_depth
from mirage_core.fusion import fused
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.rgb_memory import PIXELS, lift_pixels, pixel_depth, render, thinned
from mirage_core.segments import Segment, frames_of_segments, plan_segments
from mirage_core.upkeep import resident_bytes
from mirage_core.zbuffer import project

from .clouds import walk
from .reporting import print_table, save_results
from .stand_in_encoder import StandInEncoder

SEGMENTS = 10
_READ_OUTS = 9  # timed per segment
_RENDERED = 2  # of a segment's 33 pixel frames that are timed; the others cost the same
ROOM = {"room_size": (12.0, 4.5, 12.0), "camera_height": 1.5}
_WALL_PER_FRAME = 0.35  # of 11 that a frame sees: a segment ends where the next one's new ground begins
_MIB = 2**20


@dataclass
class Memories:
    """All that is compared, grown along the same path. Unthinned colours would not fit: only their size is counted."""

    latent: LatentMemory = field(default_factory=lambda: LatentMemory.empty(WAN22))
    fused_latent: LatentMemory = field(default_factory=lambda: LatentMemory.empty(WAN22))
    thin_latent: LatentMemory = field(default_factory=lambda: LatentMemory.empty(WAN22))
    latent_of_new_ground: LatentMemory = field(default_factory=lambda: LatentMemory.empty(WAN22))
    rgb: LatentMemory = field(default_factory=lambda: LatentMemory.empty(PIXELS))
    rgb_bytes_unthinned: int = 0
    filmed: Cameras | None = None


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this process on one thread: what others do on the same machine hardly enters."""
    start = time.process_time()
    work()
    return time.process_time() - start


def block_bytes(block: MemoryBlock) -> int:
    """Bytes of what a block remembers; what it derives from that for drawing comes on top, for either kind alike."""
    parts = (block.points, block.latents, block.latent_index, block.confidence, block.footprints, block.sides)
    return sum(part.numel() * part.element_size() for part in parts)


def memory_bytes(memory: LatentMemory) -> int:
    return sum(block_bytes(block) for block in memory.blocks)


def write(memories: Memories, cameras: Cameras, first_index: int) -> dict[str, float]:
    """Remember frames seen by `cameras` in every memory. Returns seconds for depth, lifting and thinning."""
    generator = torch.Generator().manual_seed(first_index)
    size = WAN22.size_of(cameras.image_size)
    depth = room_depth(cameras, **ROOM)
    latents = torch.randn(WAN22.channels, len(cameras), *size, generator=generator)
    pictures = torch.rand(len(cameras), *cameras.image_size, 3, generator=generator)

    def latent_block() -> MemoryBlock:
        return lift(latents, latent_depth(depth, size), cameras, WAN22, first_latent_index=first_index)

    start = time.process_time()
    block = latent_block()
    memories.latent = memories.latent.extended(block)
    latent_seconds = time.process_time() - start
    start = time.process_time()
    memories.fused_latent = fused(
        memories.fused_latent,
        latents,
        latent_depth(depth, size),
        cameras,
        first_latent_index=first_index,
        filmed_cameras=memories.filmed,
    ).memory
    memories.filmed = cameras if memories.filmed is None else Cameras.joined([memories.filmed, cameras])
    fused_seconds = time.process_time() - start
    memories.thin_latent = memories.thin_latent.extended(thinned(block, memories.thin_latent))
    start = time.process_time()
    pixels = lift_pixels(pictures, pixel_depth(depth, cameras.image_size), cameras, first_latent_index=first_index)
    memories.rgb_bytes_unthinned += block_bytes(pixels)
    memories.rgb = memories.rgb.extended(thinned(pixels, memories.rgb))
    return {"latent": latent_seconds, "fused": fused_seconds, "rgb": time.process_time() - start}


def read_new_ground(memories: Memories, image_size: tuple[int, int], segment: Segment) -> float:
    """Best milliseconds per latent frame along an endless wall, of which every segment shows another part."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(segment.latent_frames, 1, 1)
    cam2world[:, 0, 3] = _WALL_PER_FRAME * torch.tensor(segment.target_frames, dtype=torch.float64)
    intrinsics = pinhole_intrinsics(70, image_size).repeat(segment.latent_frames, 1, 1)
    cameras = Cameras(cam2world, intrinsics, image_size)
    size, memory = WAN22.size_of(image_size), memories.latent_of_new_ground
    times = [seconds(lambda: project(memory, cameras, size)) for _ in range(1 + _READ_OUTS)]
    depth = latent_depth(plane_depth(cameras), size)[1:]
    latents = torch.zeros(WAN22.channels, len(depth), *size)
    first_index = segment.target_frames[0] // WAN22.temporal_stride + 1
    memories.latent_of_new_ground = memory.extended(
        lift(latents, depth, cameras[1:], WAN22, first_latent_index=first_index)
    )
    return 1000 * min(times) / segment.latent_frames


def measure(memories: Memories, cameras: Cameras, segment: Segment, encode: StandInEncoder) -> dict:
    """Read the segment from every memory, then write it. One row of the table."""
    targets = cameras[list(segment.target_frames)]
    size = WAN22.size_of(cameras.image_size)
    project(memories.latent, targets, size)  # warms up: what a memory derives from new points is made once
    times = [seconds(lambda: project(memories.latent, targets, size)) for _ in range(_READ_OUTS)]
    latent = median(times)
    project(memories.fused_latent, targets, size)
    fused_times = [seconds(lambda: project(memories.fused_latent, targets, size)) for _ in range(_READ_OUTS)]
    project(memories.thin_latent, targets, size)
    thin = median(seconds(lambda: project(memories.thin_latent, targets, size)) for _ in range(_READ_OUTS))
    frames = torch.linspace(segment.target_frames[0], segment.target_frames[-1], _RENDERED).round().int().tolist()
    render(memories.rgb, cameras[frames[:1]])
    some = cameras[frames]
    rendering = seconds(lambda: render(memories.rgb, some)) * segment.model_frames / _RENDERED
    pictures = torch.rand(segment.model_frames, *cameras.image_size, 3)
    encoding = seconds(lambda: encode(pictures))
    written = write(memories, targets[1:], segment.target_frames[0] // WAN22.temporal_stride + 1)
    frames_stored = 1 + segment.target_frames[-1] // WAN22.temporal_stride
    fused_mib = resident_bytes(memories.fused_latent) / _MIB
    latent_mib, rgb_mib = memory_bytes(memories.latent) / _MIB, memory_bytes(memories.rgb) / _MIB
    return {
        "segment": segment.index + 1,
        "fused read s": median(fused_times),
        "best fused ms/frame": 1000 * min(fused_times) / segment.latent_frames,
        "latent read s": latent,
        "thinned latent read s": thin,
        "best latent ms/frame": 1000 * min(times) / segment.latent_frames,
        "the same on new ground": read_new_ground(memories, cameras.image_size, segment),
        "rgb render s": rendering,
        "rgb encode s": encoding,
        "render / fused": rendering / median(fused_times),
        "(render + encode) / fused": (rendering + encoding) / median(fused_times),
        "render / latent": rendering / latent,
        "(render + encode) / latent": (rendering + encoding) / latent,
        "fused write s": written["fused"],
        "latent write s": written["latent"],
        "rgb write s": written["rgb"],
        "latent MiB": latent_mib,
        "rgb unthinned MiB": memories.rgb_bytes_unthinned / _MIB,
        "ratio unthinned": memories.rgb_bytes_unthinned / _MIB / latent_mib,
        "thinned latent MiB": memory_bytes(memories.thin_latent) / _MIB,
        "fused MiB with tiles": fused_mib,
        "rgb thinned MiB": rgb_mib,
        "rgb thinned / fused": rgb_mib / fused_mib,
        "ratio thinned": rgb_mib / (memory_bytes(memories.thin_latent) / _MIB),
        "latent MiB/frame": latent_mib / frames_stored,
    }


def verdict(rows: list[dict]) -> str:
    """The bars, in words with numbers."""
    least = min(row["(render + encode) / fused"] for row in rows)

    def spread(name: str) -> str:
        later = [row[name] for row in rows[1:]]
        return f"{min(later):.2f} to {max(later):.2f} ms, {max(later) / min(later) - 1:.0%} apart"

    return (
        f"Bars: (render + encode) / fused at least 20: {least:.0f}. Latent read-out per frame within 10 % from "
        f"segment 2 on: {spread('best fused ms/frame')} on the walk with the rule that is the default, fused; "
        f"{spread('best latent ms/frame')} with everything appended, as the release does; "
        f"{spread('the same on new ground')} with everything appended on new ground. Unthinned size ratio at least 50: "
        f"{min(row['ratio unthinned'] for row in rows):.1f}; at the last segment the thinned colours are "
        f"{rows[-1]['rgb thinned / fused']:.0f} times as large as the fused latents with all they keep (at least 50), "
        f"and {rows[-1]['ratio thinned']:.1f} times as latents thinned by the same voxels."
    )


def main(image_size: tuple[int, int], segments: int, *, is_saved: bool) -> None:
    torch.set_num_threads(1)
    frames = frames_of_segments(segments, WAN22)
    path = walk(frames_of_segments(SEGMENTS, WAN22))[list(range(frames))]
    cameras = Cameras(path.cam2world, pinhole_intrinsics(70, image_size).repeat(frames, 1, 1), image_size)
    memories, encode = Memories(), StandInEncoder()
    write(memories, cameras[[0]], 0)
    rows = []
    for segment in plan_segments(frames, WAN22):
        rows.append(measure(memories, cameras, segment, encode))
        print_table(rows[-1:])
    title = (
        f"Latent against RGB memory at {image_size[0]}x{image_size[1]}, 33 frames per segment, a walk of nearly two "
        "turns round a room, so that old places come back; new ground: along an endless wall instead. All times are "
        f"processor seconds on one thread, of {_READ_OUTS} read-outs the median, and per frame the best. "
        "Read-outs are of 9 latent frames, and of 33 pixel frames, of which "
        f"{_RENDERED} are timed; encode: the stand-in TAEHV's encoder in plain torch, of the pictures only (the hole "
        "map costs the same again); write: depth, lifting, fusing or thinning; MiB: what is remembered, for the "
        "fused memory, in fp16, with the tiles that it keeps for drawing. "
        f"{verdict(rows)}"
    )
    print_table(rows, title)
    if is_saved:
        save_results("rgb_vs_latent", title, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a quarter of the size, three segments, nothing is saved")
    if parser.parse_args().small:
        main((176, 320), 3, is_saved=False)
    else:
        main((704, 1280), SEGMENTS, is_saved=True)
