"""Letting the host forget what a finished segment leaves behind.

The host's default cache keeps every output of the running prompt until the RAM runs short: in a loop, the decoded
frames of all segments, 0.36 GB each at 1280x704; and for every copied node a signature of all its ancestors. Nothing
asks for them again; the segment itself is kept by the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.memory_management


def forget_outputs(nodes: Iterable[str]) -> None:
    """Drop the cached outputs of nodes, by id, that nobody will ask for. Nodes that wait for one have it already.

    Does nothing for caches that a user has chosen by an option, nor on a host that has no such cache.
    """
    cache, keys = _cache()
    if cache is None:
        return
    for node in nodes:
        cache.cache.pop(keys.get(node), None)


def forget_nodes(nodes: Iterable[str]) -> None:
    """Drop all that the cache knows of nodes that have run, and whose consumers have run too."""
    cache, keys = _cache()
    if cache is None:
        return
    by_key = [getattr(cache, name, {}) for name in ("cache", "used_generation", "timestamps", "children")]
    for node in nodes:
        key = keys.pop(node, None)
        if key is not None:
            for one in by_key:
                one.pop(key, None)
    # What a node writes back whose key is gone would be found by any other node without one.
    cache.cache.pop(None, None)


def _cache() -> tuple[Any, dict[str, Any]]:
    """The host's default cache and its keys by node id; (None, {}) for any other."""
    release = getattr(comfy.memory_management, "extra_ram_release_callback", None)
    cache = getattr(release, "__self__", None)
    keys = getattr(getattr(cache, "cache_key_set", None), "keys", None)
    if not isinstance(keys, dict) or not isinstance(getattr(cache, "cache", None), dict):
        return None, {}
    return cache, keys
