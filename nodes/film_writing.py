"""From a memory to a film on disk: finds the film that fits, keeps what is right in it and writes what it lacks."""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import comfy.utils

from ..mirage_core.rollout import Rollout
from .film_decoding import context_of, decoded_pieces, film_keys, vae_fingerprint
from .film_ledger import Ledger, free_place, known_films, load_ledger, sole_writer
from .film_mp4 import Mp4Film
from .film_pictures import PngFilm
from .host_files import swept

KEEP, REPLACE = "keep the old film", "replace it"

Film = Mp4Film | PngFilm


@dataclass(frozen=True)
class Written:
    """A film after writing: where, its frames, pieces taken over and written, and what went wrong, if anything did."""

    path: Path
    frames: int
    reused: int
    written: int
    problem: str = ""


def film_at(path: Path, memory: Rollout, *, crf: int, metadata: dict[str, str] | None = None) -> Film:
    """A film of this memory's size and speed at a path: an MP4 for .mp4, else a folder of pictures."""
    size = memory.cameras.image_size
    if path.suffix != ".mp4":
        return PngFilm(path, size)
    return Mp4Film(path, size, Fraction(round(memory.fps * 1000), 1000), crf, metadata or {})


def write_film(
    memory: Rollout, vae, new: Callable[[Path], Film], path: Path, *, tile_size: int = 0, when_redone: str = KEEP,
    is_last: bool = True, say: Callable[[str], None] = lambda text: None,
) -> Written:  # fmt: skip
    """Bring the film of a memory up to date on disk; what its files hold already is not decoded again.

    path: a free place for a film, name_00007.mp4; when it is taken by its turn, a new film takes the next number.
    new: makes a film for such a path.
    when_redone: what happens to a film that goes on differently from some segment on.
    is_last: no segment follows, so that the film becomes an ordinary MP4.
    say: is told when it has to wait for another server.
    An OSError of the disk is told in `problem`; the film so far stays.
    """
    keys = film_keys(memory)
    decoding = {"vae": vae_fingerprint(vae), "context": context_of(vae), "tile_size": tile_size}
    settings = new(path).settings() | decoding
    film = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(path.parent, lambda: say(f"{path.name}: waiting for another server that writes a film here")):
            _sweep(path)
            place = free_place(path)
            film, ledger, kept = _continued(new, place, settings, keys, when_redone=when_redone, is_last=is_last)
            bar = comfy.utils.ProgressBar(max(1, len(keys) - kept))
            for frames in decoded_pieces(memory, vae, kept, tile_size=tile_size):
                ledger = film.append(ledger, keys[len(ledger.pieces)], frames)
                del frames
                bar.update(1)
            if is_last:
                ledger = film.finish(ledger)
    except OSError as error:
        return _unfinished(film or _best_known(new, path, settings, keys), error)
    return Written(film.path, ledger.frames, kept, len(keys) - kept)


def _continued(
    new: Callable[[Path], Film], path: Path, settings: dict, keys: list[str], *, when_redone: str, is_last: bool
) -> tuple[Film, Ledger, int]:
    """(film, its ledger, pieces in it that are right), ready to grow or already whole."""
    for common, place, ledger in known_films(path, settings, keys):
        film = new(place)
        intact = film.intact(ledger)
        sound = min(common, intact)
        if intact >= common == len(keys) and (len(ledger.pieces) == common or not is_last):
            return film, ledger, common
        if common == len(ledger.pieces) or when_redone == REPLACE or sound < common:
            return film, film.keep(ledger, sound), sound
        if sound:
            film = new(path)
            return film, film.copied(place, ledger, sound), sound
    return new(path), Ledger(settings), 0


def _sweep(path: Path) -> None:
    """Remove what killed processes have left half-written. Of films of this name all: only we write them now."""
    name = path.stem.rpartition("_")[0]
    with contextlib.suppress(OSError):  # what a disk does not give up is only in the way
        for part in path.parent.glob(f".{glob.escape(name)}_*.part"):
            part.unlink(missing_ok=True)
    swept(path.parent.glob(".*_[0-9][0-9][0-9][0-9][0-9].*.part"))


def _best_known(new: Callable[[Path], Film], path: Path, settings: dict, keys: list[str]) -> Film:
    """The film on disk that shares most with a memory, or the one at `path` that was to be."""
    known = known_films(path, settings, keys)
    return new(known[0][1] if known else path)


def _unfinished(film: Film, error: OSError) -> Written:
    """What is there of a film that the disk did not take."""
    ledger = load_ledger(film.path)
    pieces = ledger.pieces[: film.intact(ledger)] if ledger else ()
    frames = sum(piece.frames for piece in pieces)
    kept = f"its {frames} frames so far are kept and play" if frames else "nothing of it is there yet"
    problem = (
        f"{film.path.name} could not be written ({error.strerror or error}); {kept}. Make its folder writable, free "
        "some space, or choose another folder, and queue again: it goes on from there."
    )
    logging.warning("Mirage: %s", problem)
    return Written(film.path, frames, len(pieces), 0, problem)
