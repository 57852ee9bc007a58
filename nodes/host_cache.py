"""Letting the host forget what a finished segment leaves behind.

The host's default cache keeps every output of the running prompt until the RAM runs short: in a loop, the decoded
frames of all segments, 0.36 GB each at 1280x704; and for every copied node a signature of all its ancestors. Nothing
asks for them again; the segment itself is kept by the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.memory_management
from comfy.cli_args import args


def forget_nodes(nodes: Iterable[str]) -> None:
    """Drop the cached outputs of nodes, by id, that nobody will ask for. Nodes that wait for one have it already.

    Does nothing for caches that a user has chosen by an option, nor on a host that has no such cache.
    """
    cache, keys = _cache()
    if cache is None:
        return
    by_key = [getattr(cache, name, {}) for name in ("cache", "used_generation", "timestamps", "children")]
    for node in nodes:
        for one in by_key:
            one.pop(keys.get(node), None)
        # A node that still waits for this one writes its output back, under the key it has then.
        keys[node] = ("forgotten", node)


def what_stays() -> str:
    """What stays in RAM until a film is finished, where the host's cache is one by option; "" where nothing does."""
    options = ("high_ram", "cache_classic", "cache_lru")  # --high-ram sets the second too
    option = next((one for one in options if getattr(args, one, False)), "").replace("_", "-")
    if not option:
        return ""
    return (
        f"ComfyUI runs with --{option}: it keeps the decoded pictures of all segments "
        "in RAM until the film is finished. Start it without that option, or with --cache-none, for long films."
    )


def _cache() -> tuple[Any, dict[str, Any]]:
    """The host's default cache and its keys by node id; (None, {}) for any other."""
    release = getattr(comfy.memory_management, "extra_ram_release_callback", None)
    cache = getattr(release, "__self__", None)
    keys = getattr(getattr(cache, "cache_key_set", None), "keys", None)
    if not isinstance(keys, dict) or not isinstance(getattr(cache, "cache", None), dict):
        return None, {}
    return cache, keys
