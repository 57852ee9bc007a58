"""How a segment loop says what it does."""

from __future__ import annotations

from collections.abc import Iterable

_TOLD_CHANGES = 3


def told(reused: Iterable[int], rendered: Iterable[int], reason: str = "") -> str:
    """One line on what a loop does: "reused 1-6, rendering 7-12 (changed: prompt of segment 7)"."""
    parts = [f"{what} {ranges(numbers)}" for what, numbers in (("reused", reused), ("rendering", rendered)) if numbers]
    return ", ".join(parts) + (f" ({reason})" if reason else "")


def changed(names: list[str]) -> str:
    """What has changed, the first few by name; "" for nothing."""
    more = len(names) - _TOLD_CHANGES
    listed = ", ".join(names[:_TOLD_CHANGES]) + (f" and {more} more" if more > 0 else "")
    return f"changed: {listed}" if names else ""


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
