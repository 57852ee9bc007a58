"""A film of many segments in the real server with the tiny model: what grows from segment to segment.

Resident memory (all, and the part that no file backs), open files, mapped files, time per segment, size on disk.
A flat line is the aim: a film of hours must not need more RAM than one of minutes.

Run: python -m benchmarks.soak [--segments N]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

from tests.real_host.client import Client, Event  # pyright: ignore[reportMissingImports]
from tests.real_host.resume import kept_files, loop_prompt  # pyright: ignore[reportMissingImports]
from tests.real_host.server import running_server  # pyright: ignore[reportMissingImports]
from training.stand_in.files import write_demo_models, write_test_models

from .reporting import machine, print_table

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
MIB = 2**20


class Watch:
    """One row per segment, taken when its sampling begins."""

    def __init__(self, process: int) -> None:
        self.process, self.rows, self.began = process, [], time.monotonic()

    def see(self, event: Event) -> None:
        told = re.match(r"segment (\d+)/", event.data["text"]) if event.kind == "text" else None
        if told and int(told[1]) > len(self.rows):
            self.rows.append({"segment": int(told[1]), "seconds": time.monotonic() - self.began, **self.resident()})

    def resident(self) -> dict[str, float]:
        folder = Path("/proc") / str(self.process)
        found = dict(re.findall(r"(\w+):\s+(\d+) kB", (folder / "status").read_text()))
        maps = (folder / "maps").read_text()
        return {
            "rss_mib": int(found["VmRSS"]) / 1024,
            "anonymous_mib": int(found["RssAnon"]) / 1024,
            "open_files": len(os.listdir(folder / "fd")),
            "mapped_segments": sum("mirage/" in line and "segment_" in line for line in maps.splitlines()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--name", default="soak")
    options = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".host" / "ComfyUI")
    with tempfile.TemporaryDirectory() as folder:
        rows, file_mib = film(comfyui, Path(folder), options.segments)
    saved = {"machine": machine(), "segments": options.segments, "file_mib": file_mib, **summary(rows), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(saved, indent=1) + "\n")
    plot(rows).save(RESULTS / f"{options.name}.png")
    print_table([{name: value for name, value in saved.items() if name != "rows"}])


def film(comfyui: Path, base: Path, segments: int) -> tuple[list[dict], float]:
    """Make a film in a server of its own. Returns its rows, and MiB on disk per segment."""
    for folder in ("custom_nodes", "input", "output", "temp", "user"):
        (base / folder).mkdir()
    (base / "custom_nodes" / "ComfyUI-Mirage").symlink_to(REPOSITORY, target_is_directory=True)
    write_demo_models(base)
    write_test_models(base)
    shutil.copy(REPOSITORY / "workflows" / "input" / "mirage_room.jpg", base / "input")
    options = ["--base-directory", str(base)]
    with running_server(Path(sys.executable), comfyui, options, log=base / "server.log", use_cpu=True) as server:
        watch = Watch(server.process.pid)
        try:
            Client(server.url).run(loop_prompt(segments=segments), on_event=watch.see, timeout=3600)
        except Exception as error:  # the rows so far are worth as much
            print(error, server.log_tail())
    kept = kept_files(base / "output")
    return watch.rows, sum(file.bytes for file in kept) / MIB / max(1, len(kept) - 1)


def summary(rows: list[dict]) -> dict[str, float]:
    """Growth from segment 10 to the last in percent, and the slowest tenth against the first."""
    first, last = rows[min(9, len(rows) - 1)], rows[-1]
    took = [after["seconds"] - before["seconds"] for before, after in pairwise(rows)]
    tenth = max(1, len(took) // 10)
    growth = {name: 100 * (last[name] / first[name] - 1) for name in ("rss_mib", "anonymous_mib", "open_files")}
    return {
        "rss_mib": last["rss_mib"],
        **{f"{name}_growth_percent": value for name, value in growth.items()},
        "first_seconds": sorted(took[:tenth])[tenth // 2],
        "last_seconds": sorted(took[-tenth:])[tenth // 2],
    }


def plot(rows: list[dict]) -> Image.Image:
    """Resident memory, open files and seconds per segment over the segments."""
    picture = Image.new("RGB", (960, 640), (24, 26, 30))
    draw = ImageDraw.Draw(picture)
    took = [after["seconds"] - before["seconds"] for before, after in pairwise(rows)]
    panels = (
        ("resident memory, MiB (blue), and its anonymous part (orange)", ("rss_mib", "anonymous_mib"), rows),
        ("open files", ("open_files",), rows),
        ("seconds per segment", ("took",), [{"took": one} for one in took]),
    )
    for index, (title, names, values) in enumerate(panels):
        top, height = 20 + index * 205, 165
        highest = max(one[name] for one in values for name in names) * 1.1
        draw.text((70, top), f"{title}; 0 to {highest:.3g}", fill=(200, 204, 210))
        draw.line((70, top + 20 + height, 940, top + 20 + height), fill=(70, 74, 82))
        for name, color in zip(names, ((96, 165, 250), (251, 146, 60)), strict=False):
            step = 870 / max(1, len(values) - 1)
            points = [(70 + at * step, top + 20 + height * (1 - one[name] / highest)) for at, one in enumerate(values)]
            draw.line(points, fill=color, width=2)
    return picture


if __name__ == "__main__":
    main()
