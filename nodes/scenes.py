"""The newest memories of this server, for editors and viewers that show a scene.

Nodes that make a memory remember it here, for the page that runs them: two pages with the same workflow have a scene
each. Few are kept. Nothing here talks to a browser (scene_routes.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..mirage_core.memory import LatentMemory
from ..mirage_core.rollout import Rollout
from .memory_colors import Colors, preview_colors

MAX_SCENES = 8  # of two pages, each with a start picture, the film made from it, and a tool or two
MAX_BYTES = 2 << 30  # of all scenes together; the memories of one film share most of theirs
MAX_POINTS = 200_000
_ALWAYS = 2


@dataclass(frozen=True)
class Scene:
    """A memory as a node left it.

    node: its id on the canvas, "12:5" for node 5 in subgraph 12.  version: rises with every memory of the server.
    before: the memory that the node was given, where it has changed it.  client: the page that ran it, or "".
    """

    node: str
    version: int
    rollout: Rollout
    before: Rollout | None = None
    client: str = ""


@dataclass(frozen=True)
class ColoredPoints:
    """positions: [n 3] and footprints: [n] float32, in the world, wide enough to touch their neighbours.

    colors: [n 3] uint8, red, green, blue.
    """

    positions: torch.Tensor
    footprints: torch.Tensor
    colors: torch.Tensor


@dataclass
class Scenes:
    """At most `limit` scenes of at most `max_bytes`, the newest of each node and page; the least recently used one goes
    first."""

    limit: int = MAX_SCENES
    max_bytes: int = MAX_BYTES
    listeners: list[Callable[[Scene], None]] = field(default_factory=list)
    _scenes: OrderedDict[tuple[str, str], Scene] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _version: int = 0

    def remember(self, node: str, rollout: Rollout, *, before: Rollout | None = None, client: str = "") -> Scene:
        with self._lock:
            self._version += 1
            scene = Scene(node, self._version, rollout, before, client)
            self._scenes[client, node] = scene
            self._scenes.move_to_end((client, node))
            while len(self._scenes) > self.limit or (len(self._scenes) > _ALWAYS and self._bytes() > self.max_bytes):
                self._scenes.popitem(last=False)
        for listener in self.listeners:
            listener(scene)
        return scene

    def newest_first(self, client: str = "") -> list[Scene]:
        """One scene per node: the page's own where it has one, else the newest."""
        with self._lock:
            found: dict[str, Scene] = {}
            for scene in sorted(self._scenes.values(), key=lambda scene: (scene.client == client, scene.version)):
                found[scene.node] = scene
            return sorted(found.values(), key=lambda scene: -scene.version)

    def get(self, node: str, client: str = "") -> Scene:
        """The scene of a node, the page's own before others. Raises ValueError when there is none (any more)."""
        with self._lock:
            own = [scene for scene in self._scenes.values() if scene.node == node]
            if not own:
                raise ValueError(
                    f"There is no scene of node {node!r} in memory. Run the workflow once up to Init Latent Memory."
                )
            scene = max(own, key=lambda scene: (scene.client == client, scene.version))
            self._scenes.move_to_end((scene.client, node))
            return scene

    def _bytes(self) -> int:
        sizes: dict[int, int] = {}
        for scene in self._scenes.values():
            for rollout in (scene.rollout, scene.before):
                for block in rollout.memory.blocks if rollout else ():
                    tiles = vars(block).get("tiles")  # made when they were first needed
                    for value in [*vars(block).values(), *(vars(tiles).values() if tiles else ())]:
                        if isinstance(value, torch.Tensor):
                            sizes[value.data_ptr()] = max(value.nbytes, sizes.get(value.data_ptr(), 0))
        return sum(sizes.values())


SCENES = Scenes()


def remember_scene(rollout: Rollout, *, before: Rollout | None = None) -> None:
    """Let editors see this memory, under the node that is running now. Does nothing outside of a prompt."""
    running = get_executing_context()
    if running is not None:
        node = get_progress_state().dynprompt.get_display_node_id(running.node_id)
        client = getattr(PromptServer.instance, "client_id", None) or ""
        SCENES.remember(node, rollout, before=before, client=client)


def colored_points(memory: LatentMemory, *, limit: int = MAX_POINTS, colors: Colors | None = None) -> ColoredPoints:
    """At most `limit` points of a memory, evenly taken from all it remembers.

    colors: of the points of a block; default the rough colours of the preview.
    They come in a random order, always the same, so that the first half of them shows the whole scene too.
    """
    count = memory.count
    stride = max(1, -(-count // limit))
    colors = colors or preview_colors(memory)
    positions, footprints, painted, first = [], [], [], 0
    for block in memory.blocks:
        chosen = slice(-first % stride, None, stride)
        positions.append(block.points[chosen].float().cpu())
        footprints.append(block.footprints[chosen].float().cpu() * stride**0.5)
        painted.append(colors(block, torch.arange(len(block))[chosen].to(block.points.device)))
        first += len(block)
    if not positions:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3, dtype=torch.uint8))
    levels = (torch.cat(painted).clamp(0, 1) * 255).round().byte()
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(0))
    return ColoredPoints(torch.cat(positions)[order], torch.cat(footprints)[order], levels[order])
