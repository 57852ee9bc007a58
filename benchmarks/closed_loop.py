"""The closed loop: fly out through worlds that no model has seen, return in segment 3, and see whether it is the same.

    python -m benchmarks.closed_loop --worlds 12 --seeds 2 --save

Flies every way to remember that the given checkpoints allow, without a host, with the worlds' exact depth and masks.
Each flight is one line of a file, so that a run that was cut off goes on where it stopped, and one picture: five frames
of the truth above five of the film.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mirage_core.metrics import Estimate, color_drift, estimate, ghosting, hole_rate, psnr, ssim
from mirage_core.segments import plan_segments
from training.adapter_crew import Crew
from training.adapter_flight import Flown, Way
from training.clip_pool import read_clip, write_clip
from training.nano import picture_rows
from training.nano_films import Codec
from training.nano_words import words_of
from training.worlds import FIRST_HELD_OUT, Frames, World, random_flight

from .closed_loop_plot import write_bars, write_films
from .nano_crew import add_crew_arguments, asked_crew
from .reporting import machine, print_table, save_results

FRAMES = 97  # three segments: the return is in the third
_FIGURES = 3  # raise it when figures() or a way changes: what was flown before is then flown again


@dataclass(frozen=True)
class Variant:
    """One row of the table. needs: which of branch, lora and depth_model it cannot do without; has_lora: it acts."""

    name: str
    way: Way
    needs: tuple[str, ...] = ()

    @property
    def has_lora(self) -> bool:
        return "lora" in self.needs


_BEST = Way()
_PULLED = "the same, pulled to the view"
_SEEN = replace(_BEST, depth="model", is_aligned=True)
_JERKY = "pulled to the nearest points"
_BURNT, _PULLED_BURNT = "without the static mask", "without the static mask, pulled"
VARIANTS = (
    Variant("no memory", Way("none", has_branch=False)),
    Variant("training-free guidance", Way(has_branch=False, guidance=0.9)),
    Variant("rgb memory, branch", Way("rgb"), ("branch",)),
    Variant("latent memory, branch", _BEST, ("branch",)),
    Variant("latent memory, branch, LoRA", _BEST, ("branch", "lora")),
    Variant(_PULLED, replace(_BEST, guidance=0.9), ("branch", "lora")),
    Variant(_JERKY, replace(_BEST, guidance=0.9, is_even=False), ("branch", "lora")),
    Variant("rgb memory, branch, LoRA", Way("rgb"), ("branch", "lora")),
    Variant(_BURNT, replace(_BEST, is_masked=False), ("branch", "lora")),
    Variant(_PULLED_BURNT, replace(_BEST, is_masked=False, guidance=0.9), ("branch", "lora")),
    Variant("release's integer cells", replace(_BEST, cell_rule="corner"), ("branch", "lora")),
    Variant("2 % depth noise, not aligned", replace(_BEST, depth_noise=0.02), ("branch", "lora")),
    Variant("2 % depth noise, aligned", replace(_BEST, depth_noise=0.02, is_aligned=True), ("branch", "lora")),
    Variant("nano depth, aligned", _SEEN, ("branch", "lora", "depth_model")),
    Variant("nano depth, aligned, pulled", replace(_SEEN, guidance=0.9), ("branch", "lora", "depth_model")),
)


def can_fly(crew: Crew, variant: Variant) -> bool:
    """True when the crew has all that the variant needs."""
    return all(getattr(crew, part) is not None for part in variant.needs)


def held_out_flight(folder: Path, number: int, *, size: int) -> tuple[Frames, tuple[str, ...]]:
    """Flight number n: rooms and plazas in turn, every second pair with two movers; rendered once."""
    seed = FIRST_HELD_OUT + 500 + number
    world = (World.room if number % 2 == 0 else World.plaza)(seed, movers=2 if number % 4 < 2 else 0)
    path = folder / f"{world.kind}-{seed}-{size}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        flight = random_flight(world, 0, frames=FRAMES, image_size=(size, size), fov_degrees=75, name="out_and_back")
        if flight.name != "out_and_back":
            raise ValueError(f"World {seed} is too narrow to fly out and back in. Take another held-out seed for it.")
        write_clip(path, world.render(flight.cameras, flight.times, supersampling=2), {"flight": flight.name})
    frames = read_clip(path)
    return frames, words_of(world, has_movers=bool(frames.is_mover.any()))


def figures(flown: Flown, made: torch.Tensor, frames: Frames) -> dict[str, float]:
    """What the table is made of. made: [frames H W 3] the decoded film."""
    last = slice(FRAMES - 1, FRAMES)
    where = flown.is_covered[-1:].repeat_interleave(16, 1).repeat_interleave(16, 2)
    segments = [segment.output for segment in plan_segments(FRAMES, flown.rollout.grid)]
    # Only in the first picture movers are surely where the truth has them: the film may let them go elsewhere.
    was_mover = frames.is_mover[:1] & ~frames.is_mover[last]
    ghost = ghosting(made[last], frames.rgb[last], frames.rgb[:1], was_mover)
    whole_ghost = (frames.rgb[:1] - frames.rgb[last]).square().sum(-1)[was_mover].sum() / was_mover.numel()
    drift = color_drift(made, frames.rgb, segments)
    return {
        "psnr": psnr(made[last], frames.rgb[last]),
        "ssim": ssim(made[last], frames.rgb[last]),
        "psnr_covered": psnr(made[last], frames.rgb[last], where),
        "psnr_uncovered": psnr(made[last], frames.rgb[last], ~where),
        "psnr_film": psnr(made[1:], frames.rgb[1:]),
        "psnr_to_own_first": psnr(made[last], made[:1]),
        "holes": hole_rate(flown.is_covered[-1]),
        "ghosting": ghost,
        "ghost_energy": ghost * float(whole_ghost),
        "drift_1": drift[0],
        "drift_3": drift[-1],
        "seconds_2": flown.seconds[1],
        "seconds_3": flown.seconds[-1],
    }


def ceiling(codec: Codec, frames: Frames) -> dict[str, float]:
    """The truth through the autoencoder: what no memory can beat."""
    made = codec.decode(codec.encode(frames.rgb))
    return {"psnr": psnr(made[-1:], frames.rgb[-1:]), "ssim": ssim(made[-1:], frames.rgb[-1:])}


def flights(crew: Crew, asked: argparse.Namespace) -> Iterator[dict]:
    """One entry per variant, world and seed, written down as it is flown; those in the log are not flown again."""
    log = asked.out / f"closed_loop_{crew.stamp}_{asked.size}_{asked.steps}_{_FIGURES}.jsonl"
    asked.out.mkdir(parents=True, exist_ok=True)
    done = _whole_entries(log, worlds=asked.worlds, seeds=asked.seeds)
    yield from done
    known = {_flight(one) for one in done}
    for world in range(asked.first_world, asked.worlds, asked.every):
        jobs: list[tuple[Variant | None, int]] = [(None, 0)]
        jobs += [(variant, seed) for seed in range(asked.seeds) for variant in VARIANTS if can_fly(crew, variant)]
        missing = [one for one in jobs if ("ceiling" if one[0] is None else one[0].name, world, one[1]) not in known]
        if not missing:
            continue
        frames, words = held_out_flight(asked.out / "flights", world, size=asked.size)
        for variant, seed in missing:
            if variant is None:
                name, found = "ceiling", ceiling(crew.codec, frames)
            else:
                noise = 1000 * world + seed
                flown = crew.fly(variant.way, frames, words, seed=noise, steps=asked.steps, has_lora=variant.has_lora)
                made = crew.codec.decode(flown.rollout.film)
                name, found = variant.name, figures(flown, made, frames)
                picture_rows(_picture(asked.out, crew, name, world, seed), [frames.rgb, made], frames=5)
            entry = {"variant": name, "world": world, "seed": seed, **found}
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            yield entry
        print(f"world {world + 1} of {asked.worlds}: {len(missing)} flights", flush=True)


def _picture(out: Path, crew: Crew, name: str, world: int, seed: int) -> Path:
    """Where five frames of the truth stand above five of a film."""
    words = re.sub(r"\W+", "_", name)
    return out / f"{crew.stamp}_world{world:02d}_{words}_{seed}.png"


def _whole_entries(log: Path, *, worlds: int, seeds: int) -> list[dict]:
    """What was flown before. A line that a kill cut short is taken off, so that the next does not run into it."""
    if not log.is_file():
        return []
    lines = log.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines = lines[:-1]
        log.write_text("".join(lines))
    found = {_flight(one): one for one in reversed([json.loads(line) for line in lines])}
    return [one for one in reversed(found.values()) if one["world"] < worlds and one["seed"] < seeds]


def _flight(entry: dict) -> tuple[str, int, int]:
    """What flight an entry is of. Two processes at once may have flown it both; the first one counts."""
    return entry["variant"], entry["world"], entry["seed"]


def table(entries: Sequence[dict]) -> list[dict]:
    """Means with 95 % intervals. Seeds of one world are averaged first: they are no independent worlds."""
    rows = []
    without = _by_world(entries, "no memory", "psnr")
    for name in ("no memory", *(one.name for one in VARIANTS[1:]), "ceiling"):
        if not any(entry["variant"] == name for entry in entries):
            continue

        def told(figure: str, name: str = name) -> Estimate:
            return estimate(list(_by_world(entries, name, figure).values()))

        gains = [
            value - without[world] for world, value in _by_world(entries, name, "psnr").items() if world in without
        ]
        row = {"": "the truth through the autoencoder" if name == "ceiling" else name, "PSNR dB": str(told("psnr"))}
        row["over no memory dB"] = str(estimate(gains)) if name != "no memory" else "0"
        for title, figure in (
            ("SSIM", "ssim"), ("PSNR where known", "psnr_covered"), ("PSNR elsewhere", "psnr_uncovered"),
            ("PSNR of the whole film", "psnr_film"),
            ("to own first frame", "psnr_to_own_first"), ("holes", "holes"), ("ghosting", "ghosting"),
            ("drift in segment 1", "drift_1"), ("drift in segment 3", "drift_3"), ("s in segment 3", "seconds_3"),
        ):  # fmt: skip
            found = told(figure)
            row[title] = "" if math.isnan(found.mean) else str(found)
        rows.append(row)
    return rows


def _by_world(entries: Sequence[dict], name: str, figure: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for entry in entries:
        value = entry.get(figure, math.nan)
        if entry["variant"] == name and math.isfinite(value):
            values.setdefault(entry["world"], []).append(value)
    return {world: sum(found) / len(found) for world, found in values.items()}


def verdict(entries: Sequence[dict]) -> str:
    """The bars, in words with numbers."""

    def gain(first: str, second: str, figure: str = "psnr") -> Estimate:
        one, other = _by_world(entries, first, figure), _by_world(entries, second, figure)
        return estimate([one[world] - other[world] for world in one if world in other])

    best = "latent memory, branch, LoRA"
    return (
        f"Bars: {best} at least 4 dB above no memory on the returned frame: {gain(best, 'no memory')} (pulled to the "
        f"view as well: {gain(_PULLED, 'no memory')}); at most 0.5 dB below rgb memory: "
        f"{gain(best, 'rgb memory, branch, LoRA')}; the static mask removes at least 80 % of the ghosting energy: "
        f"{_removed(entries, best, _BURNT)} (pulled: {_removed(entries, _PULLED, _PULLED_BURNT)})."
    )


def _removed(entries: Sequence[dict], masked: str, burnt: str) -> str:
    """How much less of the movers of the first picture is left in the last: of all of it, and of what is more than in
    a film without memory, where no ghost can be and blur alone may have a mover's colour."""
    found = [_by_world(entries, name, "ghost_energy") for name in (masked, burnt, "no memory")]
    shared = set.intersection(*map(set, found))
    with_mask, without, floor = (sum(one[world] for world in shared) for one in found)
    if not without > floor:
        return "no ghosts"
    more = 1 - (with_mask - floor) / (without - floor)
    return f"{1 - with_mask / without:.0%} of all, {more:.0%} of what is more than without memory"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closed_loop", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--worlds", type=int, default=12)
    parser.add_argument("--first-world", type=int, default=0, help="with --every: this process's share of the worlds")
    parser.add_argument("--every", type=int, default=1, help="fly every n-th world only; a last run makes the table")
    parser.add_argument("--seeds", type=int, default=2, help="noises per world")
    add_crew_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("output/nano/closed_loop"), help="of flights, log and plot")
    parser.add_argument("--size", type=int, default=192, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=8, help="of sampling")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/closed_loop.*")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    crew = asked_crew(asked)
    missing = [name for name in ("branch", "lora", "depth_model") if getattr(crew, name) is None]
    print(f"base {asked.base}, autoencoder {asked.autoencoder}, stamp {crew.stamp}; missing: {missing or 'nothing'}")
    entries = list(flights(crew, asked))
    title = (
        f"Out and back over 3 segments through {asked.worlds} held-out worlds x {asked.seeds} seeds at "
        f"{asked.size}x{asked.size}, {asked.steps} Euler steps, exact depth and masks unless told; the last frame "
        f"against the truth; mean and 95 % interval over worlds. {verdict(entries)} Made by `python -m "
        f"benchmarks.closed_loop --worlds {asked.worlds} --seeds {asked.seeds} --threads {asked.threads} --save`."
    )
    rows = table(entries)
    print_table(rows, title)
    write_bars(asked.out / "closed_loop.png", rows, "PSNR dB", f"PSNR of the returned frame, dB ({machine()})")
    if asked.save:
        save_results("closed_loop", title, rows)
        results = Path(__file__).parent / "results"
        write_bars(results / "closed_loop.png", rows, "PSNR dB", "PSNR of the returned frame, dB")
        ghosts = [_picture(asked.out, crew, name, 0, 0) for name in (_PULLED_BURNT, _PULLED)]
        write_films(results / "static_mask.jpg", ghosts)


if __name__ == "__main__":
    main()
