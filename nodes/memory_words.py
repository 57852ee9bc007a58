"""What a memory holds, in words: the report of Inspect Memory, and what others say of its budget."""

from __future__ import annotations

from ..mirage_core.memory import LatentMemory
from ..mirage_core.memory_numbers import MemoryNumbers
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.upkeep import locked_count, resident_bytes

_MAX_SEGMENTS = 12


def memory_words(rollout: Rollout, numbers: MemoryNumbers, shares: list[list[float]]) -> str:
    """Lines of text. shares: what is known of each frame of the path, per segment."""
    kind = "colours of pixels" if is_rgb(rollout.memory) else f"latents of {rollout.memory.grid.channels} channels"
    lines = [f"{numbers.points} points ({kind}) in {numbers.blocks} blocks, {numbers.locked} locked"]
    if not numbers.points:
        return lines[0]
    sizes = ", ".join(f"{name} {size / 2**20:.2f}" for name, size in numbers.bytes.items())
    lines.append(f"{sum(numbers.bytes.values()) / 2**20:.2f} MiB: {sizes}")
    lines.append("points by segment: " + _segments(numbers.segments))
    least, *quartiles, most = (f"{one:.2f}" for one in numbers.confidence)
    lines.append(f"confidence: {least} at the least, quartiles {' '.join(quartiles)}, {most} at the most")
    sides = zip(("right", "down", "forward"), numbers.low, numbers.high, strict=True)
    extent = ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, low, high in sides)
    lines.append(f"extent in world units: {extent}; a cell is {numbers.footprint:.3g} wide")
    known = [share for segment in shares for share in segment]
    lines.append(
        f"of the path's {len(rollout.cameras)} frames it knows now {sum(known) / max(1, len(known)):.0%} on average, "
        f"{min(known, default=0):.0%} at the least"
    )
    return "\n".join(lines)


def budget_words(memory: LatentMemory, budget_mib: float) -> list[str]:
    """What there is to say of a budget that a memory is over, which only locked points bring about; else nothing."""
    if not budget_mib or resident_bytes(memory) <= budget_mib * 2**20:
        return []
    return [f"budget not reached: {locked_count(memory)} locked points"]


def _segments(counts: dict[int, int]) -> str:
    names = {-1: "earlier films", 0: "first picture"}
    told = [f"{names.get(segment, segment)}: {count}" for segment, count in counts.items()]
    if len(told) <= _MAX_SEGMENTS:
        return ", ".join(told)
    half = _MAX_SEGMENTS // 2
    return ", ".join([*told[:half], "...", *told[-half:]])
