"""Films as a model makes them, kept beside the true ones: the past that an adapter will really have.

    python -m training.adapter_predictions --count 60

Every film of the shelf is flown once with what has been trained so far; the latents go into the film's own file, and
the trainer of adapters mixes them in (Recipe.model_rate). Make them once the branch has learned something, then train
on. Films that have them already are left alone, unless --again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .adapter_crew import Crew
from .adapter_flight import Way
from .clip_pool import clip_note, read_clip
from .film_sources import add_film_arguments, clips_and_shelf
from .nano_films import Film, FilmShelf


def predict(
    crew: Crew, shelf: FilmShelf, clips: Sequence[Path], *, steps: int = 8, is_again: bool = False
) -> Iterator[Path]:
    """Fly the films of these clips, and yield the path of each when it has its predicted latents."""
    way = Way(has_branch=crew.branch is not None)
    for number, clip in enumerate(clips):
        path = shelf.folder / clip.name
        film = Film.load(path)
        if film.predicted is not None and not is_again:
            continue
        flown = crew.fly(way, read_clip(clip), film.words, seed=number, steps=steps)
        replace(film, predicted=flown.rollout.film).save(path)
        yield path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.adapter_predictions", description=(__doc__ or "").split("\n")[0]
    )
    add_film_arguments(parser)
    nano = Path("output/nano")
    parser.add_argument("--base", type=Path, default=nano / "base/nano_base.safetensors")
    parser.add_argument("--branch", type=Path, default=nano / "adapter/branch/nano_branch.safetensors")
    parser.add_argument("--lora", type=Path, default=nano / "adapter/lora/nano_lora.safetensors")
    parser.add_argument("--count", type=int, default=60, help="films")
    parser.add_argument("--least-frames", type=int, default=65, help="of a clip; shorter ones have no second segment")
    parser.add_argument("--again", action="store_true", help="also those that have predicted latents already")
    parser.add_argument("--steps", type=int, default=8, help="of sampling")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    crew = Crew.of(asked.autoencoder, asked.base, asked.branch, asked.lora, device=asked.device)
    clips, folder = clips_and_shelf(asked, asked.clips, asked.own_clips, asked.films / crew.codec.stamp)
    shelf = FilmShelf(folder)
    clips = [clip for clip in clips if (folder / clip.name).is_file() and clip_note(clip).frames >= asked.least_frames]
    chosen = clips[:: max(1, len(clips) // max(1, asked.count))][: asked.count]  # rooms and plazas
    for path in predict(crew, shelf, chosen, steps=asked.steps, is_again=asked.again):
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
