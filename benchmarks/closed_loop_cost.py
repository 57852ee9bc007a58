"""What a segment of a long flight costs: the memory grows, the cost per frame must not.

    python -m benchmarks.closed_loop_cost --segments 8

Turns once around in a held-out room. Per segment: read-out, references, sampling, writing; no depth, no decoding.
"""

from __future__ import annotations

import argparse

import torch

from training.adapter_flight import Way
from training.nano_words import words_of
from training.worlds import FIRST_HELD_OUT, World, random_flight

from .nano_crew import add_crew_arguments, asked_crew
from .reporting import machine, print_table, save_results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closed_loop_cost", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="flights; the cheapest of each segment counts")
    add_crew_arguments(parser)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/closed_loop_cost.*")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    crew = asked_crew(asked)
    world = World.room(FIRST_HELD_OUT + 900)
    flight = random_flight(
        world,
        0,
        frames=32 * asked.segments + 1,
        image_size=(asked.size, asked.size),
        fov_degrees=75,
        name="look_around",
    )
    frames = world.render(flight.cameras, flight.times)
    words = words_of(world, has_movers=False)
    runs = [crew.fly(Way(), frames, words, seed=0) for _ in range(asked.repeats)]
    best = [1000 * min(seconds) / 32 for seconds in zip(*(run.seconds for run in runs), strict=True)]
    rows = [{"segment": index + 1, "ms per frame": cost} for index, cost in enumerate(best)]
    later = best[1:]
    title = (
        f"Cost of a frame at {asked.size}x{asked.size}, {asked.segments} segments once around in a room, without depth "
        f"and decoding: from segment 2 on {max(later) / min(later) - 1:.0%} between the cheapest and the dearest (bar: "
        f"10 %); {runs[0].rollout.memory.count} points at the end. {machine()}"
    )
    print_table(rows, title)
    if asked.save:
        save_results("closed_loop_cost", title, rows)


if __name__ == "__main__":
    main()
