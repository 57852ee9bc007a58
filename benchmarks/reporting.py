"""Timing, and tables that are printed and kept with the machine they came from."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

_RESULTS = Path(__file__).parent / "results"


def threads_asked_for(description: str) -> int:
    """The --threads of the command line, 2 by default; torch is set to use as many."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads", type=int, default=2, help="with 1, processor time is measured: also on a busy machine"
    )
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    return threads


def best_milliseconds(work: Callable[[], object], repeats: int = 3, seconds: float = 1.0) -> float:
    """The shortest run after one that warms up, of at least `repeats` and as many as fit into `seconds`.

    Time on the wall with several threads; with one thread the processor time of this process, which neighbours on a
    busy machine disturb less.
    """
    clock = time.perf_counter if torch.get_num_threads() > 1 else time.process_time
    work()
    best, runs, begin = float("inf"), 0, time.perf_counter()
    while runs < repeats or time.perf_counter() - begin < seconds:
        start = clock()
        work()
        best, runs = min(best, clock() - start), runs + 1
    return best * 1000


def machine() -> str:
    """Processor architecture, cores, threads used and torch version; no names of hosts or users."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_table(rows: list[dict], title: str = "") -> None:
    print(_markdown(rows, title), flush=True)


def save_results(name: str, title: str, rows: list[dict]) -> None:
    """Write results/<name>.json and results/<name>.md."""
    _RESULTS.mkdir(exist_ok=True)
    saved = {"title": title, "machine": machine(), "rows": rows}
    (_RESULTS / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
    (_RESULTS / f"{name}.md").write_text(f"{_markdown(rows, title)}\nMachine: {machine()}\n")


def _markdown(rows: list[dict], title: str) -> str:
    lines = [f"{title}\n"] if title else []
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
