"""Depth before and after alignment, a loop of drifting depth with and without it, and what it costs per segment.

Run: python -m benchmarks.depth_alignment (3 minutes on one core)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.reporting import best_milliseconds, print_table, save_results
from mirage_core.alignment import DEPTH_KINDS, DepthKind, align_depth
from mirage_core.anchors import anchors
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import latent_depth
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.zbuffer import project
from training.worlds import World, start_camera

SIZE, SMALL, FRAMES, SEEDS = (44, 80), (22, 40), 9, 8
NOISES = ((0.0, 1), (0.02, 1), (0.05, 1), (0.02, 8), (0.05, 8))  # standard deviation, cells whose errors are alike
OVERLAPS = ("10 % of the cells", "10 % strip", "100 %")
_LOW, _HIGH = torch.tensor([[-3.0, -1.7, -4.0], [3.5, 1.3, 5.0]], dtype=torch.float64)
_BOX = torch.tensor([[-1.6, 0.1, 1.8], [-0.6, 1.3, 2.8]], dtype=torch.float64)


def turning(frames: int, degrees: float, first: float, size: tuple[int, int]) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    angle = torch.deg2rad(first + torch.linspace(0, degrees, frames, dtype=torch.float64))
    cam2world[:, 0, 0] = cam2world[:, 2, 2] = angle.cos()
    cam2world[:, 0, 2], cam2world[:, 2, 0] = angle.sin(), -angle.sin()
    return Cameras(cam2world, pinhole_intrinsics(70, size).expand(frames, 3, 3), size)


def room_depth(cameras: Cameras) -> torch.Tensor:
    """[frames rows columns] of a room with a box in it, seen from the world's origin."""
    rows, columns = cameras.image_size
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()
    rays = torch.einsum("fij,rcj->frci", cameras.cam2world[:, :3, :3] @ torch.linalg.inv(cameras.intrinsics), pixels)
    walls = (torch.where(rays > 0, _HIGH, _LOW) / rays).amin(-1)
    enter = (torch.where(rays > 0, _BOX[0], _BOX[1]) / rays).amax(-1)
    leave = (torch.where(rays > 0, _BOX[1], _BOX[0]) / rays).amin(-1)
    return torch.where((enter > 0) & (enter < leave), torch.minimum(enter, walls), walls)


def error_rows(seeds: int = SEEDS) -> list[dict]:
    """Median depth error before and after alignment, over that of the noise alone, worst and median of the seeds."""
    truth, rows = room_depth(turning(FRAMES, 30, 0, SIZE)), []
    for kind, (noise, patch), outliers, overlap in itertools.product(DEPTH_KINDS, NOISES, (0.0, 0.3), OVERLAPS):
        noises = [noise * _noise(seed, patch) for seed in range(seeds)]
        errors = torch.tensor([_errors(truth, kind, one, outliers, overlap, seed) for seed, one in enumerate(noises)])
        before, after, alone = errors.double().unbind(1)
        ratio = (after / alone) if noise else None
        rows.append(
            {
                "open": kind, "noise %": 100 * noise, "alike over cells": patch,
                "outliers %": 100 * outliers, "overlap": overlap,
                "error before %": 100 * float(before.max()), "error after %": 100 * float(after.max()),
                "after / noise alone, median": float(ratio.median()) if ratio is not None else "-",
                "worst": float(ratio.max()) if ratio is not None else "-",
            }
        )  # fmt: skip
    return rows


def _noise(seed: int, patch: int) -> torch.Tensor:
    """[frames rows columns] normal noise of deviation 1, smooth over patches of `patch` x `patch` cells."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(FRAMES, 1, SIZE[0] // patch + 1, SIZE[1] // patch, generator=generator)
    noise = torch.nn.functional.interpolate(noise, SIZE, mode="bicubic")[:, 0] if patch > 1 else noise[:, 0, : SIZE[0]]
    return noise / noise.std()


def _errors(
    truth: torch.Tensor, kind: DepthKind, noise: torch.Tensor, outliers: float, overlap: str, seed: int
) -> tuple[float, float, float]:
    """Median error of depth wrong by a random scale and shift, of the same aligned, and of its noise alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    scale = float(2 ** (2 * torch.rand(1, generator=generator) - 1))
    shift = float(torch.rand(1, generator=generator) - 0.5) * (0.1 if "disparity" in kind else 1.5)
    noisy = truth * (1 + noise)
    new = _distorted(noisy, kind, scale, shift)
    is_outlier = torch.rand(truth.shape, generator=generator) < outliers
    new = torch.where(is_outlier, new * (0.4 + 3 * torch.rand(truth.shape, generator=generator)), new)
    if overlap == "10 % strip":  # what a camera that turns away still shares
        is_known = (torch.arange(SIZE[1]) < SIZE[1] // 10).expand(truth.shape)
    else:
        is_known = torch.rand(truth.shape, generator=generator) < float(overlap.split()[0]) / 100
    aligned = align_depth(new, truth, is_known, kind=kind).apply(new)
    before, after, alone = (float((depth / truth - 1).abs()[~is_outlier].median()) for depth in (new, aligned, noisy))
    return before, after, alone


def _distorted(depth: torch.Tensor, kind: str, scale: float, shift: float) -> torch.Tensor:
    if kind == "scale + shift":
        return (depth - shift) / scale
    return scale / (1 / depth - shift) if "disparity" in kind else depth / scale


@dataclass(frozen=True)
class Turn:
    """A full turn in ten segments that share a frame: cameras and exact depth [frames rows columns] of each."""

    cameras: list[Cameras]
    truth: list[torch.Tensor]


def turn_on_the_spot(size: tuple[int, int] = SMALL) -> Turn:
    cameras = [turning(FRAMES, 36, 36.0 * segment, size) for segment in range(10)]
    return Turn(cameras, [room_depth(one).float() for one in cameras])


def turn_in_world(seed: int, size: tuple[int, int] = SMALL, radius: float = 0.25) -> Turn:
    """Round a small circle in a procedural room, looking outwards: near things hide and show others."""
    world = World.room(seed)
    start = start_camera(world, seed, image_size=size)
    cameras = []
    for segment in range(10):
        turned = turning(FRAMES, 36, 36.0 * segment, size).cam2world
        turned[:, :3, 3] = radius * turned[:, :3, 2]
        cameras.append(Cameras(start.cam2world @ turned, start.intrinsics.expand(FRAMES, 3, 3), size))
    return Turn(cameras, [world.render(one).depth for one in cameras])


def loop_rows(seeds: int = 3) -> list[dict]:
    """Depth grows by 3 % each segment; how far off the start view is written at the turn's end, and all on the way."""
    ways: dict[str, Callable | None] = {"without": None, "nearest point": _by_view, "anchors": _by_anchors}
    turns = {"box room, on the spot": turn_on_the_spot()}
    turns |= {f"procedural room {seed}, on a circle": turn_in_world(seed) for seed in (1, 2)}
    rows = []
    for place, turn in turns.items():
        for noise in (0.0, 0.01, 0.02):
            row: dict = {"place": place, "noise %": 100 * noise}
            for name, way in ways.items():
                drifts = torch.stack([_drift(turn, noise, way, seed) for seed in range(seeds if noise else 1)]).abs()
                row[f"{name}: start wall off %"] = 100 * float(drifts[:, -1].max())
                row[f"{name}: on the way %"] = 100 * float(drifts.max())
            rows.append(row)
    return rows


def _by_view(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    view = project(memory, cameras, cameras.image_size)
    return align_depth(depth, view.depth, view.is_covered).apply(depth)


def _by_anchors(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    view = project(memory, cameras, cameras.image_size)
    known = anchors(memory, view, cameras)
    return align_depth(depth, known.depth, view.is_covered, weights=known.weights).apply(depth)


def _drift(turn: Turn, noise: float, align: Callable | None, seed: int) -> torch.Tensor:
    """[segments] median of written depth over true depth, less 1, in the last frame of each segment."""
    generator, size = torch.Generator().manual_seed(seed), turn.cameras[0].image_size
    latents = torch.zeros(WAN22.channels, FRAMES, *size)
    start = lift(latents[:, :1], turn.truth[0][:1], turn.cameras[0][:1], WAN22)
    memory, drifts = LatentMemory.empty(WAN22).extended(start), []
    for segment, (cameras, truth) in enumerate(zip(turn.cameras, turn.truth, strict=True)):
        error = noise * torch.randn(FRAMES, 1, 5, 8, generator=generator)
        error = torch.nn.functional.interpolate(error, size, mode="bicubic")[:, 0]
        aligned = truth * (1 + error) * 1.03 ** (segment + 1)
        aligned = align(memory, cameras, aligned) if align else aligned
        block = lift(latents[:, 1:], aligned[1:], cameras[1:], WAN22, first_latent_index=1 + 8 * segment)
        memory = memory.extended(block)
        is_seen = truth[-1].isfinite()
        drifts.append((aligned[-1] / truth[-1])[is_seen].median() - 1)
    return torch.stack(drifts).double()


def time_rows() -> list[dict]:
    cameras, latents = turning(FRAMES, 30, 0, SIZE), torch.zeros(WAN22.channels, FRAMES, *SIZE)
    truth = room_depth(cameras).float()
    memory = LatentMemory.empty(WAN22).extended(lift(latents, truth, cameras, WAN22))
    view = project(memory, cameras, SIZE)
    known = anchors(memory, view, cameras)
    noisy = truth * (1 + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)))
    maps = torch.nn.functional.interpolate(noisy[:, None], (704, 1280), mode="bilinear")[:, 0]
    rows = [
        {
            "9 latent frames of 44 x 80": "anchors of the memory's view",
            "ms": best_milliseconds(lambda: anchors(memory, view, cameras)),
        }
    ]
    for kind in DEPTH_KINDS:
        fit = align_depth(noisy, known.depth, view.is_covered, kind=kind, weights=known.weights)

        def work(kind: DepthKind = kind) -> None:
            align_depth(noisy, known.depth, view.is_covered, kind=kind, weights=known.weights)

        def full(fit=fit) -> None:
            aligned = fit.apply(maps)
            if fit.kind != "scale":
                latent_depth(aligned, SIZE)

        rows.append({"9 latent frames of 44 x 80": f"fit of {kind}", "ms": best_milliseconds(work)})
        rows.append(
            {"9 latent frames of 44 x 80": f"applied to maps of 704 x 1280, {kind}", "ms": best_milliseconds(full)}
        )
    return rows


def main() -> None:
    for name, title, rows in (
        ("depth_alignment", f"Depth error before and after alignment, worst of {SEEDS} random fits", error_rows()),
        ("depth_alignment_loop", "A turn of ten segments of 22 x 40 cells, 3 % more depth in each", loop_rows()),
        ("depth_alignment_time", "Time per segment", time_rows()),
    ):
        print_table(rows, title)
        save_results(name, title, rows)


if __name__ == "__main__":
    main()
