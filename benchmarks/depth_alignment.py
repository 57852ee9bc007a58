"""Depth before and after alignment, a loop of drifting depth with and without it, and what it costs per segment.

Run: python -m benchmarks.depth_alignment
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.reporting import best_milliseconds, print_table, save_results
from mirage_core.alignment import DEPTH_KINDS, DepthKind, align_depth
from mirage_core.anchors import anchors
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import latent_depth
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.zbuffer import project

SIZE, FRAMES = (44, 80), 9
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


def error_rows(seeds: int = 10) -> list[dict]:
    """Worst over noise-free overlap shapes: median depth error before and after, over that of the noise alone."""
    truth, rows = room_depth(turning(FRAMES, 30, 0, SIZE)), []
    for kind in DEPTH_KINDS:
        for noise, outliers, overlap in ((0.0, 0.0, 0.1), (0.02, 0.3, 0.1), (0.05, 0.0, 1.0), (0.05, 0.3, 0.1)):
            before, after, alone = [], [], []
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                scale = float(2 ** (2 * torch.rand(1, generator=generator) - 1))
                shift = float(torch.rand(1, generator=generator) - 0.5) * (0.1 if "disparity" in kind else 1.5)
                noisy = truth * (1 + noise * torch.randn(truth.shape, generator=generator))
                new = _distorted(noisy, kind, scale, shift)
                is_outlier = torch.rand(truth.shape, generator=generator) < outliers
                new = torch.where(is_outlier, new * (0.4 + 3 * torch.rand(truth.shape, generator=generator)), new)
                is_known = torch.rand(truth.shape, generator=generator) < overlap
                aligned = align_depth(new, truth, is_known, kind=kind).apply(new)
                for values, depth in ((before, new), (after, aligned), (alone, noisy)):
                    values.append(float((depth / truth - 1).abs()[~is_outlier].median()))
            ratios = [a / n for a, n in zip(after, alone, strict=True) if n > 0]
            rows.append(
                {
                    "open": kind, "noise %": 100 * noise, "outliers %": 100 * outliers, "overlap %": 100 * overlap,
                    "error before %": 100 * max(before), "error after %": 100 * max(after),
                    "worst after / noise alone": max(ratios) if ratios else "-",
                }
            )  # fmt: skip
    return rows


def _distorted(depth: torch.Tensor, kind: str, scale: float, shift: float) -> torch.Tensor:
    if kind == "scale + shift":
        return (depth - shift) / scale
    return scale / (1 / depth - shift) if "disparity" in kind else depth / scale


def loop_rows() -> list[dict]:
    """A full turn in ten segments whose depth grows by 3 % each; how far off the start view is written at its end."""
    ways: dict[str, Callable | None] = {"without": None, "nearest point": _by_view, "anchors": _by_anchors}
    return [
        {
            "noise %": 100 * noise,
            **{f"{name}, displaced %": 100 * _displacement(noise, way) for name, way in ways.items()},
        }
        for noise in (0.0, 0.01, 0.02)
    ]


def _by_view(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    view = project(memory, cameras, cameras.image_size)
    return align_depth(depth, view.depth, view.is_covered).apply(depth)


def _by_anchors(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    view = project(memory, cameras, cameras.image_size)
    known = anchors(memory, view, cameras)
    return align_depth(depth, known.depth, view.is_covered, weights=known.weights).apply(depth)


def _displacement(noise: float, align: Callable | None, size: tuple[int, int] = (22, 40)) -> float:
    generator, start = torch.Generator().manual_seed(1), turning(1, 0, 0, size)
    latents = torch.zeros(WAN22.channels, FRAMES, *size)
    memory = LatentMemory.empty(WAN22).extended(lift(latents[:, :1], room_depth(start).float(), start, WAN22))
    aligned = truth = room_depth(start)
    for segment in range(10):
        cameras = turning(FRAMES, 36, 36.0 * segment, size)
        truth = room_depth(cameras).float()
        error = noise * torch.randn(FRAMES, 1, 5, 8, generator=generator)
        error = torch.nn.functional.interpolate(error, size, mode="bicubic")[:, 0]
        aligned = truth * (1 + error) * 1.03 ** (segment + 1)
        aligned = align(memory, cameras, aligned) if align else aligned
        block = lift(latents[:, 1:], aligned[1:], cameras[1:], WAN22, first_latent_index=1 + 8 * segment)
        memory = memory.extended(block)
    return float((aligned[-1] / truth[-1]).median()) - 1


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
        ("depth_alignment", "Depth error before and after alignment, worst of 10 seeds", error_rows()),
        ("depth_alignment_loop", "A turn of ten segments, 3 % more depth in each", loop_rows()),
        ("depth_alignment_time", "Time per segment", time_rows()),
    ):
        print_table(rows, title)
        save_results(name, title, rows)


if __name__ == "__main__":
    main()
