"""A film as a folder of numbered PNG files, one per frame."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch

from .film_ledger import Ledger, Piece, part_of, save_ledger, to_disk
from .pictures import to_picture


@dataclass(frozen=True)
class PngFilm:
    """A folder at path without its suffix. size: (height, width) in pixels."""

    path: Path
    size: tuple[int, int]

    @property
    def folder(self) -> Path:
        return self.path.with_suffix("")

    def picture(self, frame: int) -> Path:
        return self.folder / f"frame_{frame + 1:06}.png"

    def settings(self) -> dict:
        """What the bytes of a film depend on; films that differ in it are not continued."""
        return {"format": "png", "size": list(self.size)}

    def intact(self, ledger: Ledger) -> int:
        """How many pieces, from the first on, the folder really holds."""
        try:
            if self._stamp(ledger.frames) == ledger.stamp:
                return len(ledger.pieces)
        except OSError:  # a picture is missing: see how far they go
            pass
        return next((i for i in range(len(ledger.pieces)) if not self._has(ledger, i)), len(ledger.pieces))

    def keep(self, ledger: Ledger, count: int) -> Ledger:
        """The film cut to its first `count` pieces; the pictures after them are removed."""
        kept = replace(ledger, pieces=ledger.pieces[:count])
        at = kept.frames
        while at < ledger.frames or self.picture(at).exists():
            self.picture(at).unlink(missing_ok=True)
            at += 1
        kept = replace(kept, stamp=self._stamp(kept.frames))
        save_ledger(self.path, kept)
        return kept

    def copied(self, source: Path, ledger: Ledger, count: int) -> Ledger:
        """This film made anew from the first `count` pieces of a film at `source`."""
        kept = replace(ledger, pieces=ledger.pieces[:count])
        self.folder.mkdir(parents=True, exist_ok=True)
        other = PngFilm(source, self.size)
        for frame in range(kept.frames):
            self._put(frame, other.picture(frame).read_bytes())
        kept = replace(kept, stamp=self._stamp(kept.frames))
        save_ledger(self.path, kept)
        return kept

    def append(self, ledger: Ledger, key: str, frames: Iterable[torch.Tensor]) -> Ledger:
        """The film with one more piece. frames: [height width 3] in [0, 1], at least one.

        Raises OSError, with the film as it was, when the disk does not take it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        start = at = ledger.frames
        try:
            for frame in frames:
                picture = BytesIO()
                to_picture(frame).save(picture, "PNG", compress_level=4)
                self._put(at, picture.getvalue())
                at += 1
        except OSError:
            for made in range(start, at):
                self.picture(made).unlink(missing_ok=True)
            raise
        size = sum(self.picture(one).stat().st_size for one in range(start, at))
        piece = Piece(key, at - start, size, self._digest(start, at - start))
        grown = replace(ledger, pieces=(*ledger.pieces, piece), stamp=self._stamp(at))
        save_ledger(self.path, grown)
        return grown

    def finish(self, ledger: Ledger) -> Ledger:
        return ledger

    def _put(self, frame: int, content: bytes) -> None:
        """A picture in its place, whole and on the disk, or not at all."""
        place = self.picture(frame)
        with part_of(place) as part:
            with open(part, "wb") as file:
                file.write(content)
                to_disk(file)
            os.replace(part, place)

    def _has(self, ledger: Ledger, piece: int) -> bool:
        start = sum(one.frames for one in ledger.pieces[:piece])
        try:
            return self._digest(start, ledger.pieces[piece].frames) == ledger.pieces[piece].digest
        except OSError:
            return False

    def _digest(self, start: int, count: int) -> str:
        digest = hashlib.sha256()
        for frame in range(start, start + count):
            digest.update(self.picture(frame).read_bytes())
        return digest.hexdigest()

    def _stamp(self, frames: int) -> str:
        states = [os.stat(self.picture(frame)) for frame in range(frames)]
        return hashlib.sha256(repr([(one.st_size, one.st_mtime_ns) for one in states]).encode()).hexdigest()
