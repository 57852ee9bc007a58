"""Timings that do not depend on the allocator's mood: glibc told to keep the pages it has.

By itself it gives freed pages back between some read-outs and fetches them again, by chance up to 0.5 ms per frame.
"""

from __future__ import annotations

import os
import sys

_KEEP_PAGES = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}


def keep_pages(module: str) -> None:
    """Start the benchmark again with these settings, which are read when a process starts; once."""
    if any(name not in os.environ for name in _KEEP_PAGES):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **_KEEP_PAGES})
