"""Writing a film segment by segment: are its joins as smooth as the rest, and how much memory and time does it take?

Joins: films of wandering latents, decoded as Write Film does and in one go, by the host's TAEHV and by the class of the
real Wan2.2 VAE (small, random weights: both look back in time as far as they can). Seam energy is the mean squared
second difference in time at the borders between latent frames, at joins over elsewhere.
Of the mp4 only the ratio means something: pictures from random weights are noise, of which h264 drops half.
Memory: a film of 704x1280 that grows in one process, its latents in RAM; a narrow TAEHV decodes it on the CPU. With
--still its picture does not move, which h264 makes short work of: for long films.

Run, in the checkout with a ComfyUI in .host or $COMFYUI_PATH:
python -m benchmarks.film_writing [--segments N] [--still] [--seconds S]
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path

import av
import torch

from mirage_core.film import seam_energy, window

from .reporting import print_table, save_results

_ROOT = Path(__file__).resolve().parents[1]
_SEGMENT = 8  # latent frames
_FIVE_MINUTES = 5 * 60 * 24  # frames


def started_host() -> None:
    """The host on the CPU in this process, and the pack beside it."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(_ROOT / ".host" / "ComfyUI")))
    importlib.import_module("comfy.options").enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    for name, folder in (("mirage_pack", _ROOT), ("mirage_pack.nodes", _ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def pack(module: str):
    return importlib.import_module(f"mirage_pack.{module}")


def wandering(frames: int, size: tuple[int, int], generator: torch.Generator, start=None) -> torch.Tensor:
    """Stationary latents [48 frames rows columns]: every border between two of them is like every other."""
    made = [torch.randn(48, 1, *size, generator=generator) if start is None else start]
    while len(made) < frames + (start is not None):
        made.append(0.9 * made[-1] + 0.19**0.5 * torch.randn(48, 1, *size, generator=generator))
    return torch.cat(made[-frames:], dim=1)


def empty_film(image_size: tuple[int, int], segments: int):
    """A Rollout of a still camera before its first segment."""
    rollout, camera, memory = pack("mirage_core.rollout"), pack("mirage_core.camera"), pack("mirage_core.memory")
    frames, (height, width) = 1 + 32 * segments, image_size
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = camera.Cameras(
        torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1), intrinsics.repeat(frames, 1, 1), image_size
    )
    first = wandering(1, (height // 16, width // 16), torch.Generator().manual_seed(0))
    return rollout.Rollout.started(memory.LatentMemory(rollout.WAN22), first, cameras)


def joins(vae, name: str, *, segments: int = 24, image_size: tuple[int, int] = (64, 96)) -> list[dict]:
    """Seam energy of a film decoded in pieces, as written, in one go, and with the three latents of context it had."""
    film, generator = empty_film(image_size, segments), torch.Generator().manual_seed(1)
    for _ in range(segments):
        new = wandering(_SEGMENT, film.size, generator, film.latents[-1][:, -1:])
        film = replace(film, latents=(*film.latents, new))
    decoding, to_host = pack("nodes.film_decoding"), pack("nodes.host_latents").to_host
    whole = vae.decode(to_host(torch.cat(film.latents, dim=1)))[0]
    pieces = torch.cat(list(decoding.decoded_pieces(film, vae)))
    short = [whole[:33]] + [
        vae.decode(to_host(window(film.latents, piece, 3)))[0, -32:] for piece in range(2, segments + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film_00001.mp4"
        writing = pack("nodes.film_writing")
        writing.write_film(film, vae, lambda place: writing.film_at(place, film, crf=16), path)
        with av.open(str(path)) as container:
            written = [torch.from_numpy(one.to_ndarray(format="rgb24")) for one in container.decode(video=0)]
    made = {
        "in one go": whole,
        "by Write Film": pieces,
        "the same, read from its mp4": torch.stack(written).float() / 255,
        "with 3 latents of context": torch.cat(short),
    }
    at = list(range(33, len(whole), 32))
    energies = {how: seam_energy(frames, at) for how, frames in made.items()}
    return [
        {
            "VAE": name,
            "decoded": how,
            "largest difference": "-" if "mp4" in how else float((frames - whole).abs().max()),
            "seam energy at joins / elsewhere": energies[how][0] / energies[how][1],
        }
        for how, frames in made.items()
    ]


def megabytes(field: str) -> float:
    """A memory field of this process, such as VmRSS or VmHWM (its peak), in MiB. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def growth(
    vae, segments: int, image_size: tuple[int, int] = (704, 1280), *, is_still: bool = False, seconds: float = math.inf
) -> list[dict]:
    """Memory and time per segment while a film grows, as inside a loop.

    is_still: all latents of the film are alike.  seconds: of processor time after which the film ends early.
    """
    film, generator = empty_film(image_size, segments), torch.Generator().manual_seed(1)
    writing, rows, base = pack("nodes.film_writing"), [], megabytes("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film_00001.mp4"
        for done in range(1, segments + 1):
            newest = film.latents[-1][:, -1:]
            new = newest.repeat(1, _SEGMENT, 1, 1) if is_still else wandering(_SEGMENT, film.size, generator, newest)
            film = replace(film, latents=(*film.latents, new))
            is_last = done == segments or time.process_time() > seconds
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            start = time.process_time()
            writing.write_film(
                film, vae, lambda place, now=film: writing.film_at(place, now, crf=16), path, is_last=is_last
            )
            rows.append(
                {
                    "segment": done,
                    "frames": 1 + 32 * done,
                    "processor seconds": time.process_time() - start,
                    "peak MiB above the models": megabytes("VmHWM") - base,
                    "MiB after": megabytes("VmRSS") - base,
                    "of it latents, MiB": sum(one.nbytes for one in film.latents) / 2**20,
                    "film, MiB": path.stat().st_size / 2**20,
                }
            )
            print(rows[-1], flush=True)
            if is_last:
                break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=12, help="length of the large film")
    parser.add_argument("--still", action="store_true", help="the large film does not move; joins are left out")
    parser.add_argument("--seconds", type=float, default=math.inf, help="processor time after which it ends early")
    asked = parser.parse_args()
    started_host()
    from .small_vaes import narrow_taehv, small_wan22

    with torch.inference_mode():
        if not asked.still:
            rows = joins(narrow_taehv(seed=0), "TAEHV") + joins(small_wan22(seed=0), "Wan2.2")
            print_table(rows, "Joins of a film of 24 segments, 96x64")
            save_results("film_joins", "Joins of a film of 24 segments, 96x64", rows)
        vae = narrow_taehv(seed=0, width=2 if asked.still else 8)
        grown = growth(vae, asked.segments, is_still=asked.still, seconds=asked.seconds)
    shown = [row for row in grown if row["segment"] in {1, 2, 3, len(grown)} or row["segment"] % 10 == 0]
    title = told_growth(grown, is_still=asked.still)
    print_table(shown, title)
    save_results("film_writing_still" if asked.still else "film_writing", title, shown)


def told_growth(grown: list[dict], *, is_still: bool) -> str:
    """What was measured, and what a film of five minutes would need if it went on so."""
    frames = grown[-1]["frames"]
    latents = [row["of it latents, MiB"] for row in grown]
    # The latents grow by as much with every segment. What else grew did so in the first half, or it goes on growing.
    others = [row["peak MiB above the models"] - held for row, held in zip(grown, latents, strict=True)]
    middle = len(others) // 2
    rise = (max(others[middle:]) - max(others[: middle or 1])) / max(1, len(others) - middle)
    more = _FIVE_MINUTES / 32 - len(grown)
    total = max(others) + max(0.0, rise) * more + latents[-1] * _FIVE_MINUTES / frames
    return (
        f"A {'still ' if is_still else ''}film of 704x1280 that grows by segments of 32 frames, to {frames} frames: "
        f"{frames / _FIVE_MINUTES:.0%} of five minutes at 24 frames per second. Its peak is "
        f"{max(row['peak MiB above the models'] for row in grown):,.0f} MiB above the models; without the latents, "
        f"that of the second half is {rise:+.2f} MiB a segment above that of the first. Going on so, five minutes need "
        f"{total:,.0f} MiB (at most 3,072)"
    )


if __name__ == "__main__":
    main()
