"""Which films a trainer gets: those of the clips that were asked for, encoded where they are not yet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from .clip_pool import clip_files, clip_note
from .nano_films import Codec, Film, FilmShelf, own_clips

AUTOENCODER = Path("output/nano/autoencoder/nano_vae.safetensors")  # what its trainer writes
_FLIGHTS = "--flights 1 --frames 97 --movers 2 --size 192"


class Films(NamedTuple):
    """shown: to train on.  held_out: to measure with.  worlds: seeds of the worlds that are shown, as ranges."""

    shown: list[Film]
    held_out: list[Film]
    worlds: str


def films_of(codec: Codec, asked: argparse.Namespace) -> Films:
    """Films to train on and films to measure with. asked: with the arguments of add_film_arguments().

    Films of one autoencoder lie in a folder of their own, those of each folder of own clips in one below.
    Raises ValueError without any clip.
    """
    shelves = asked.films / codec.stamp
    clips, shelf = clips_and_shelf(asked, asked.clips, asked.own_clips, shelves)
    held_out: list[Path] = []
    measured = shelves
    if asked.held_out_clips is not None:
        own = asked.held_out_clips if asked.own_clips is not None else None
        held_out, measured = clips_and_shelf(asked, [asked.held_out_clips], own, shelves / "held_out")
    shelf, measured = FilmShelf(shelf, is_mirrored=asked.mirror), FilmShelf(measured, is_held_out=True)
    for index, path in enumerate(shelf.fill(codec, clips)):
        if index % 20 == 0:
            print(f"{path.name}, {index + 1} of {len(clips) * (1 + asked.mirror)} films", flush=True)
    list(measured.fill(codec, held_out))
    found = Films(shelf.films(clips), measured.films(held_out), _worlds_of(clips))
    print(f"{len(found.shown)} films to train on, {len(found.held_out)} to measure with", flush=True)
    return found


def clips_and_shelf(
    asked: argparse.Namespace, folders: Sequence[Path], own: Path | None, shelf: Path
) -> tuple[list[Path], Path]:
    """Clips, and the folder of their films. own: a folder of clips of one's own, instead of `folders` of rendered ones.

    Raises ValueError when there are none.
    """
    if own is not None:
        size = (asked.own_size[0], asked.own_size[1])
        clips = own_clips(own, asked.films, image_size=size, frames=asked.own_frames)
        return clips, shelf / clips[0].parent.name
    clips = [clip for folder in folders for clip in clip_files(folder)]
    if not clips:
        raise ValueError(
            f"There are no clips in {', '.join(map(str, folders))}. Render some: python -m training.clip_pool "
            f"{folders[0]} {_FLIGHTS}. Or give your own with --own-clips."
        )
    return clips, shelf


def _worlds_of(clips: Sequence[Path]) -> str:
    return ranges(sorted({note.seed for clip in clips if (note := clip_note(clip)).seed is not None}))


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in short: 1-3, 7."""
    parts = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def add_film_arguments(parser: argparse.ArgumentParser) -> None:
    """Where films come from, the same for the base and the adapter."""
    parser.add_argument("--autoencoder", type=Path, default=AUTOENCODER, help="that makes the latents")
    parser.add_argument("--clips", type=Path, nargs="+", default=[Path("output/nano/flights")], help="all of one size")
    parser.add_argument("--held-out-clips", type=Path, help="of worlds that are only measured; default none")
    parser.add_argument("--mirror", action="store_true", help="show every clip also as a mirror shows it")
    parser.add_argument("--films", type=Path, default=Path("output/nano/latents"), help="of the encoded clips")
    parser.add_argument("--own-clips", type=Path, help="clips of your own instead: folders as training/clips.py reads")
    parser.add_argument("--own-size", type=int, nargs=2, default=[704, 1280], help="height and width to cut them to")
    parser.add_argument("--own-frames", type=int, default=97, help="frames per film, 4n+1; longer ones are cut up")
