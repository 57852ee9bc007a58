"""What a segment loop is to make: the seed, prompt and strength of each turn, and along which path it films."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..mirage_core.rollout import Rollout, Shot

MAX_SEGMENTS = 1000
SEED_RANGE = 2**64


@dataclass(frozen=True)
class Turn:
    """What is different in one turn of a loop."""

    seed: int
    prompt: str
    strength: float


@dataclass(frozen=True)
class LoopOrder:
    """What Segment Loop Start hands to its End.

    memory: the film where the loop begins, with the path it is to follow.  run: name of the folder, "" for one of the
    film's own.  quota_bytes: for all films on disk.
    """

    memory: Rollout
    turns: tuple[Turn, ...]
    is_keeping: bool = True
    run: str = ""
    quota_bytes: int = 20 * 2**30


def prompt_of(prompts: str, index: int) -> str:
    """The prompt of segment `index`: one line each, empty lines repeat the one before, the last serves the rest."""
    lines = prompts.splitlines() or [""]
    for line in reversed(lines[: index + 1]):
        if line.strip():
            return line.strip()
    return ""


def seed_of(seed: int, mode: str, index: int) -> int:
    """The seed of segment `index`; the same on every machine."""
    if mode == "fixed" or index == 0:
        return seed
    if mode == "increment":
        return (seed + index) % SEED_RANGE
    mixed = (seed + index * 0x9E3779B97F4A7C15) % SEED_RANGE  # splitmix64 (Steele, Lea, Flood 2014)
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % SEED_RANGE
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % SEED_RANGE
    return mixed ^ (mixed >> 31)


def strength_of(strengths: str, index: int) -> float:
    """The strength of segment `index`; the last serves the rest. Raises ValueError for what is no number >= 0."""
    words = strengths.replace(",", " ").split() or ["1"]
    word = words[min(index, len(words) - 1)]
    try:
        strength = float(word)
    except ValueError:
        strength = math.nan
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(
            f"strengths has {word!r} for segment {index + 1}; it needs numbers from 0 up, such as 1 0.8 0.5."
        )
    return strength


def loop_turns(count: int, seed: int, seed_mode: str, prompts: str, strengths: str = "1") -> tuple[Turn, ...]:
    """What differs in every turn of a loop. Raises ValueError for no segments, or more than a loop can hold."""
    if not 1 <= count <= MAX_SEGMENTS:
        raise ValueError(
            f"The loop has {count} segments; it needs 1 to {MAX_SEGMENTS}. "
            "When the path is filmed to its end, connect a new path to Segment Loop Start."
        )
    return tuple(
        Turn(seed_of(seed, seed_mode, index), prompt_of(prompts, index), strength_of(strengths, index))
        for index in range(count)
    )


def directed(memory: Rollout, path: Shot | None) -> Rollout:
    """The film, going on along the loop's own path from where it is now; without one as it is.

    Raises ValueError for a path of another picture size.
    """
    if path is None:
        return memory
    if path.image_size != memory.cameras.image_size:
        raise ValueError(
            f"The loop's path is {path.image_size[1]}x{path.image_size[0]} pixels, the film "
            f"{memory.cameras.image_size[1]}x{memory.cameras.image_size[0]}. Use the film's size on Camera Path."
        )
    here = memory.filmed_cameras().intrinsics[-1]
    return memory.redirected(path.cameras(intrinsics=here, unit_length=memory.unit_length))


def count_segments(memory: Rollout, segments: int) -> int:
    """How many segments a loop makes; `segments` 0 films the path to its end.

    Raises ValueError when the path is shorter.
    """
    left = len(memory.plan) - memory.segments_done
    if segments > left:
        raise ValueError(
            f"The camera path has {left} segments left ({len(memory.cameras)} frames in all), and {segments} are to "
            "be made. Make the path longer, or use fewer segments on Segment Loop Start."
        )
    return segments or left
