"""Letting the host forget what a finished segment leaves behind.

The host's default cache keeps every output of the running prompt until the RAM runs short: in a loop, the decoded
frames of all segments, 0.36 GB each at 1280x704. Nothing asks for them again; the segment itself is kept by the loop.
"""

from __future__ import annotations

from collections.abc import Iterable

import comfy.memory_management


def forget_outputs(nodes: Iterable[str]) -> None:
    """Drop the cached outputs of nodes, by id, that have run and whose results nobody will ask for.

    Nodes that wait for one of them have it already. Does nothing for caches that a user has chosen by an option, nor
    on a host that has no such cache.
    """
    release = getattr(comfy.memory_management, "extra_ram_release_callback", None)
    cache = getattr(release, "__self__", None)
    keys, entries = getattr(cache, "cache_key_set", None), getattr(cache, "cache", None)
    if keys is None or not isinstance(entries, dict) or not hasattr(keys, "get_data_key"):
        return
    for node in nodes:
        key = keys.get_data_key(node)
        if key is not None:
            entries.pop(key, None)
