"""Errors inside a loop are shown on the Loop End node; their text has to say which segment and node they came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..mirage_core.rollout import Rollout


def segment_label(rollout: Rollout) -> str:
    """The words "segment 2/4" for the segment that is made next."""
    return f"segment {min(rollout.segments_done + 1, len(rollout.plan))}/{len(rollout.plan)}"


@contextmanager
def named_errors(rollout: Rollout, node: str) -> Iterator[None]:
    """Put "segment 2/4, Write Memory: " before the text of a ValueError. Everything else passes as it is."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if text.startswith("segment "):
            raise
        raise ValueError(f"{segment_label(rollout)}, {node}: {text}") from error
