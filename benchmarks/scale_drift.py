"""How far the scale of a memory drifts over a long flight whose depth a network guesses, and what holds it.

A camera walks through room after room of an endless house and back. Each frame's depth is off smoothly by 1 %, and its
scale wanders by 2 % from frame to frame. Every segment is scaled to what the memory shows, and written.

Run: OMP_NUM_THREADS=1 python -m benchmarks.scale_drift (6 minutes on one core)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch

from benchmarks.memory_growth import house_depth, noisy, wandering
from benchmarks.reporting import print_table, save_results
from mirage_core.alignment import align_depth
from mirage_core.anchors import anchors
from mirage_core.camera import Cameras
from mirage_core.fusion import fused
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory
from mirage_core.zbuffer import project

SIZE = (44, 80)
WANDER = 0.02  # standard deviation of the change of log scale from frame to frame
_FRAMES = 8  # new latent frames per segment
_SEEDS = 3

Align = Callable[[LatentMemory, Cameras, torch.Tensor], torch.Tensor]


def as_it_comes(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    return depth


def to_nearest(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Scaled to the points that show."""
    view = project(memory, cameras, (int(depth.shape[1]), int(depth.shape[2])))
    return align_depth(depth, view.depth, view.is_covered).apply(depth)


def to_anchors(memory: LatentMemory, cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Scaled as Write Memory does it."""
    view = project(memory, cameras, (int(depth.shape[1]), int(depth.shape[2])))
    known = anchors(memory, view, cameras)
    return align_depth(depth, known.depth, known.weights > 0, weights=known.weights).apply(depth)


@dataclass(frozen=True)
class Way:
    """align: of a segment's depth.  is_settled: whether points settle at the mean of their sightings."""

    name: str
    align: Align
    is_settled: bool = True


WAYS = (
    Way("depth as it comes", as_it_comes),
    Way("scaled to the points that show, which never move", to_nearest, is_settled=False),
    Way("scaled to the anchors, points never move", to_anchors, is_settled=False),
    Way("scaled to the points that show, which settle", to_nearest),
    Way("as Write Memory does: anchors, points settle", to_anchors),
)


def flown(
    way: Way, segments: int, *, seed: int = 0, size: tuple[int, int] = SIZE, noise: float = 1.0
) -> list[tuple[float, float]]:
    """Per segment: the memory's depth over the true one less 1, where the camera is, and at the film's start (medians).

    The second half of the segments goes back the way of the first.  noise: times the errors of the depth.
    """
    there = segments // 2
    path = wandering(1 + there * _FRAMES)
    film = path[[*range(1 + there * _FRAMES), *range(there * _FRAMES - 1, -1, -1)]]
    generator, memory, errors = torch.Generator().manual_seed(seed), LatentMemory.empty(WAN22), []
    scales = (noise * WANDER * torch.randn(len(film), generator=generator)).cumsum(0)
    scales = (scales - scales[0]).exp()
    with nullcontext() if way.is_settled else patch("mirage_core.fusion.settled", lambda block, *_: block.points):
        for segment in range(segments + 1):
            span = slice(0, 1) if segment == 0 else slice(1 + (segment - 1) * _FRAMES, 1 + segment * _FRAMES)
            cameras, exact = film[span], house_depth(film[span], size)
            depth = exact + noise * (noisy(exact, generator) - exact)
            depth = (depth * scales[span][:, None, None]).float()
            if memory.count:
                depth = way.align(memory, cameras, depth)
            memory = fused(
                memory,
                torch.zeros(WAN22.channels, len(cameras), *size),
                depth.float(),
                cameras,
                first_latent_index=span.start,
                filmed_cameras=film[: span.start] if span.start else None,
            ).memory
            errors.append((scale_error(memory, cameras, size), scale_error(memory, film[:_FRAMES], size)))
    return errors[1:]


def scale_error(memory: LatentMemory, cameras: Cameras, size: tuple[int, int]) -> float:
    """Median of the depth that the memory shows over the true one, less 1."""
    view = project(memory, cameras, size)
    return float((view.depth / house_depth(cameras, size))[view.is_covered].median()) - 1


def rows(segments: int, seeds: int) -> list[dict]:
    there, found = segments // 2, []
    for way in WAYS:
        flights = [flown(way, segments, seed=seed) for seed in range(seeds)]
        row: dict = {"depth is": way.name}
        for at in (there // 4, there // 2, there):
            row[f"off after {at} segments %"] = 100 * max(abs(flight[at - 1][0]) for flight in flights)
        row["at the start, once back %"] = 100 * max(abs(flight[-1][1]) for flight in flights)
        found.append(row)
        print_table(found[-1:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=40, help="half of them on new ground")
    parser.add_argument("--seeds", type=int, default=_SEEDS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    title = (
        f"Scale of the memory over {asked.segments} segments of {SIZE[0]} x {SIZE[1]} cells through a house and back; "
        f"each frame's depth is off by 1 %, smoothly, and its scale wanders by {100 * WANDER:.0f} % from frame to "
        f"frame. Worst of {asked.seeds} flights, medians over what shows."
    )
    table = rows(asked.segments, asked.seeds)
    print_table(table, title)
    save_results("scale_drift", title, table)


if __name__ == "__main__":
    main()
