"""What the newest runs of Dynamic/Sky Mask worked on, so that a page can try other rules on it.

At most two are kept. Nothing here talks to a browser (mask_routes.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..mirage_core.evidence import Evidence

MAX_MASKS = 2  # a first picture and a segment; 33 frames of 704x1280 take 100 MB with all sources


@dataclass(frozen=True)
class Tuned:
    """What a mask was made from.

    pictures: [frames rows columns 3] uint8, painted and kept: [frames rows columns] uint8 or None; all of the
        evidence's working size.
    version: rises with every run on the server.
    """

    evidence: Evidence
    pictures: torch.Tensor
    painted: torch.Tensor | None
    kept: torch.Tensor | None
    version: int = 0


@dataclass
class Previews:
    """At most `limit` of them, the newest of each node; the least recently used one goes first."""

    limit: int = MAX_MASKS
    listeners: list[Callable[[str, Tuned], None]] = field(default_factory=list)
    _tuned: OrderedDict[str, Tuned] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _version: int = 0

    def remember(self, node: str, evidence: Evidence, pictures: torch.Tensor, painted, kept) -> Tuned:
        with self._lock:
            self._version += 1
            tuned = Tuned(evidence, pictures, painted, kept, self._version)
            self._tuned[node] = tuned
            self._tuned.move_to_end(node)
            while len(self._tuned) > self.limit:
                self._tuned.popitem(last=False)
        for listener in self.listeners:
            listener(node, tuned)
        return tuned

    def all(self) -> dict[str, Tuned]:
        with self._lock:
            return dict(self._tuned)

    def get(self, node: str) -> Tuned:
        """What a node worked on. Raises ValueError when there is nothing (any more)."""
        with self._lock:
            if node not in self._tuned:
                raise ValueError(
                    f"Node {node!r} has no evidence in memory. Connect Scene Evidence to it and run the workflow once."
                )
            self._tuned.move_to_end(node)
            return self._tuned[node]


PREVIEWS = Previews()


def running_node() -> str | None:
    """The id on the canvas of the node that runs now; None outside of a prompt."""
    running = get_executing_context()
    return None if running is None else get_progress_state().dynprompt.get_display_node_id(running.node_id)
