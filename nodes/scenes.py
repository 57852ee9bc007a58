"""The newest memories of this server, for editors that show a camera path inside its scene.

Nodes that make a memory remember it here; at most two are kept. Nothing here talks to a browser (scene_routes.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..mirage_core.memory import LatentMemory
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from .host_latents import latent_preview

MAX_SCENES = 2  # a start picture and the film made from it; each may hold hundreds of MB
MAX_POINTS = 200_000


@dataclass(frozen=True)
class Scene:
    """A memory as a node left it.

    node: its id on the canvas, "12:5" for node 5 in subgraph 12.  version: rises with every memory of the server.
    """

    node: str
    version: int
    rollout: Rollout


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
    """At most `limit` scenes, the newest of each node; the least recently used one goes first."""

    limit: int = MAX_SCENES
    listeners: list[Callable[[Scene], None]] = field(default_factory=list)
    _scenes: OrderedDict[str, Scene] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _version: int = 0

    def remember(self, node: str, rollout: Rollout) -> Scene:
        with self._lock:
            self._version += 1
            scene = Scene(node, self._version, rollout)
            self._scenes[node] = scene
            self._scenes.move_to_end(node)
            while len(self._scenes) > self.limit:
                self._scenes.popitem(last=False)
        for listener in self.listeners:
            listener(scene)
        return scene

    def newest_first(self) -> list[Scene]:
        with self._lock:
            return sorted(self._scenes.values(), key=lambda scene: -scene.version)

    def get(self, node: str) -> Scene:
        """The scene of a node. Raises ValueError when there is none (any more)."""
        with self._lock:
            if node not in self._scenes:
                raise ValueError(
                    f"There is no scene of node {node!r} in memory. Run the workflow once up to Init Latent Memory."
                )
            self._scenes.move_to_end(node)
            return self._scenes[node]


SCENES = Scenes()


def remember_scene(rollout: Rollout) -> None:
    """Let editors see this memory, under the node that is running now. Does nothing outside of a prompt."""
    running = get_executing_context()
    if running is not None:
        SCENES.remember(get_progress_state().dynprompt.get_display_node_id(running.node_id), rollout)


def colored_points(memory: LatentMemory, *, limit: int = MAX_POINTS) -> ColoredPoints:
    """At most `limit` points of a memory, evenly taken from all it remembers, in the rough colours of the preview.

    They come in a random order, always the same, so that the first half of them shows the whole scene too.
    """
    count = memory.count
    stride = max(1, -(-count // limit))
    positions, footprints, colors, first = [], [], [], 0
    for block in memory.blocks:
        chosen = slice(-first % stride, None, stride)
        positions.append(block.points[chosen].float().cpu())
        footprints.append(block.footprints[chosen].float().cpu() * stride**0.5)
        latents = block.latents[chosen].float().cpu()
        colors.append(latents if is_rgb(memory) else latent_preview(latents.T[:, :, None, None])[:, 0, 0])
        first += len(block)
    if not positions:
        return ColoredPoints(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3, dtype=torch.uint8))
    levels = (torch.cat(colors).clamp(0, 1) * 255).round().byte()
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(0))
    return ColoredPoints(torch.cat(positions)[order], torch.cat(footprints)[order], levels[order])
