"""A film as one MP4 file that grows by whole pieces and plays at any moment, also after a crash in the middle of one.

While it grows it is a fragmented MP4: a head, then one fragment per piece. A fragment is appended under the name of a
box that players skip and gets its real name last, in one write of four bytes. `finish` turns the film into an ordinary
MP4 with its index in front; `keep` turns that back. Nothing is ever encoded twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import torch
from av.video.reformatter import ColorRange, Colorspace

from .film_ledger import Ledger, Piece, part_of, save_ledger, to_disk

_GROWING = "empty_moov+default_base_moof+frag_custom+skip_trailer+use_metadata_tags"
_BT709 = 1  # the number of BT.709 for matrix, primaries and transfer alike (ITU-T H.273)
_CHUNK = 2**20


@dataclass(frozen=True)
class Mp4Film:
    """Where a film is and how its frames are encoded. size: (height, width) in pixels, even.  metadata: tags."""

    path: Path
    size: tuple[int, int]
    rate: Fraction
    crf: int
    metadata: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict:
        """What the bytes of a film depend on; films that differ in it are not continued."""
        context = self._stream(av.open(BytesIO(), "w", format="mp4")).codec_context
        context.open()
        header = bytes(context.extradata or b"").hex()
        return {"format": "mp4", "size": list(self.size), "rate": str(self.rate), "crf": self.crf, "encoder": header}

    def intact(self, ledger: Ledger) -> int:
        """How many pieces, from the first on, the file really holds."""
        try:
            if _stamp(self.path) in (ledger.stamp, ledger.finished_stamp):
                return len(ledger.pieces)
            if ledger.finished and _digest(self.path, 0, self.path.stat().st_size) == ledger.finished:
                return len(ledger.pieces)
            if _digest(self.path, 0, ledger.head) != ledger.head_digest:
                return 0
            at = ledger.head
            for index, piece in enumerate(ledger.pieces):
                if _digest(self.path, at, piece.size) != piece.digest:
                    return index
                at += piece.size
        except OSError:
            return 0
        return len(ledger.pieces)

    def keep(self, ledger: Ledger, count: int) -> Ledger:
        """The film cut to its first `count` pieces and ready to grow."""
        if count == 0:
            return Ledger(ledger.settings)
        if not self._is_growing(ledger):
            return self.copied(self.path, ledger, count)
        kept = replace(ledger, pieces=ledger.pieces[:count], finished="", finished_stamp="")
        with open(self.path, "r+b") as file:
            file.truncate(_end(kept))
        return self._saved(replace(kept, stamp=_stamp(self.path)))

    def copied(self, source: Path, ledger: Ledger, count: int) -> Ledger:
        """This film made anew from the first `count` pieces of a film at `source`, ready to grow."""
        pieces, start, head = [], 0, b""
        with part_of(self.path) as part:
            with open(part, "wb") as file:
                for old, packets in zip(ledger.pieces[:count], _piece_packets(source, ledger), strict=False):
                    box_head, fragment = self._remuxed(packets, start, len(pieces))
                    if not pieces:
                        head = box_head
                        file.write(head)
                    file.write(fragment)
                    pieces.append(Piece(old.key, old.frames, len(fragment), hashlib.sha256(fragment).hexdigest()))
                    start += old.frames
                to_disk(file)
            grown = Ledger(ledger.settings, tuple(pieces), len(head), hashlib.sha256(head).hexdigest(), _stamp(part))
            if source == self.path and count == len(ledger.pieces):  # until it is replaced, the file is known by this
                grown = replace(grown, finished=ledger.finished, finished_stamp=ledger.finished_stamp)
            self._saved(grown)
            os.replace(part, self.path)
        return grown

    def append(self, ledger: Ledger, key: str, frames: Iterable[torch.Tensor]) -> Ledger:
        """The film with one more piece. frames: [height width 3] in [0, 1], at least one.

        Raises OSError, with the film as it was, when the disk does not take it.
        """
        head, fragment, count = self._encoded(frames, ledger.frames, len(ledger.pieces))
        piece = Piece(key, count, len(fragment), hashlib.sha256(fragment).hexdigest())
        if not ledger.pieces:
            ledger = replace(ledger, head=len(head), head_digest=hashlib.sha256(head).hexdigest())
            with part_of(self.path) as part:
                with open(part, "wb") as file:
                    file.write(head + fragment)
                    to_disk(file)
                grown = self._saved(replace(ledger, pieces=(piece,), stamp=_stamp(part)))
                os.replace(part, self.path)
            return grown
        _append(self.path, _end(ledger), fragment)
        return self._saved(
            replace(
                ledger, pieces=(*ledger.pieces, piece), stamp=_stamp(self.path), finished="", finished_stamp=""
            )
        )  # fmt: skip

    def finish(self, ledger: Ledger) -> Ledger:
        """The same film as an ordinary MP4, its index in front, for players that seek before they have all of it."""
        if not self._is_growing(ledger):
            return ledger
        with part_of(self.path) as part:
            self._remux_whole(part)
            digest, stamp = _digest(part, 0, part.stat().st_size), _stamp(part)
            finished = replace(ledger, finished=digest, finished_stamp=stamp, stamp=_stamp(self.path))
            self._saved(finished)
            # Windows refuses while a player has the film open: it goes on as it is.
            with contextlib.suppress(PermissionError):
                os.replace(part, self.path)
        return finished

    def _remux_whole(self, target: Path) -> None:
        options = {"movflags": "faststart+use_metadata_tags"}
        with av.open(self.path) as source, av.open(target, "w", format="mp4", options=options) as container:
            for name, text in self.metadata.items():
                container.metadata[name] = text
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        with open(target, "r+b") as file:
            to_disk(file)

    def _is_growing(self, ledger: Ledger) -> bool:
        """Whether the file is the fragmented one; the ledger was found intact."""
        return self.path.is_file() and _digest(self.path, 0, ledger.head) == ledger.head_digest

    def _saved(self, ledger: Ledger) -> Ledger:
        save_ledger(self.path, ledger)
        return ledger

    def _stream(self, container) -> av.VideoStream:
        stream = container.add_stream("h264", rate=self.rate)
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.rate
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        # Without B-frames a frame's number is its place in the file: pieces join without edit lists or gaps.
        stream.options = {"crf": str(self.crf), "bf": "0"}
        return stream

    def _encoded(self, frames: Iterable[torch.Tensor], start: int, index: int) -> tuple[bytes, bytes, int]:
        count = 0

        def fill(container, stream) -> None:
            nonlocal count
            for count, picture in enumerate(frames, 1):
                pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                frame.pts, frame.time_base = count - 1, 1 / self.rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

        return (*self._fragment(self._stream, fill, start, index), count)

    def _remuxed(self, packets: list[av.Packet], start: int, index: int) -> tuple[bytes, bytes]:
        first = packets[0].dts or 0

        def fill(container, stream) -> None:
            for packet in packets:
                packet.pts = packet.dts = (packet.dts or 0) - first  # the same, without B-frames
                packet.stream = stream
                container.mux(packet)

        template = packets[0].stream
        return self._fragment(lambda container: container.add_stream_from_template(template), fill, start, index)

    def _fragment(self, add_stream: Callable, fill: Callable, start: int, index: int) -> tuple[bytes, bytes]:
        """(head, fragment) of a piece that begins at frame `start`."""
        buffer = BytesIO()
        options = {"movflags": _GROWING, "fragment_index": str(index + 1)}
        with av.open(buffer, "w", format="mp4", options=options) as container:
            for name, text in self.metadata.items():
                container.metadata[name] = text
            stream = add_stream(container)
            fill(container, stream)
            ticks = start / self.rate / stream.time_base
        boxes = list(_boxes(buffer.getvalue()))
        head = b"".join(box for name, box in boxes if name in (b"ftyp", b"moov"))
        return head, b"".join(_shifted(box, int(ticks)) for name, box in boxes if name in (b"moof", b"mdat"))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at : at + size]
        at += size


def _shifted(box: bytes, ticks: int) -> bytes:
    """A moof whose first frame is shown `ticks` later; other boxes as they are. The muxer begins every file at 0."""
    if box[4:8] != b"moof":
        return box
    at = box.index(b"tfdt") + 4  # before it are only counters; then version 1 and three flags, and the time in 64 bits
    return box[: at + 4] + (int.from_bytes(box[at + 4 : at + 12], "big") + ticks).to_bytes(8, "big") + box[at + 12 :]


def _append(path: Path, end: int, fragment: bytes) -> None:
    with open(path, "r+b") as file:
        try:
            file.truncate(end)
            file.seek(end)
            file.write(fragment[:4] + b"free" + fragment[8:])
            to_disk(file)
            file.seek(end + 4)
            file.write(fragment[4:8])
            to_disk(file)
        except OSError:
            os.truncate(path, end)
            raise


def _piece_packets(path: Path, ledger: Ledger) -> Iterator[list[av.Packet]]:
    """The packets of each piece, one per frame, in order."""
    with av.open(path) as container:
        packets = (packet for packet in container.demux(video=0) if packet.dts is not None)
        for piece in ledger.pieces:
            yield [next(packets) for _ in range(piece.frames)]


def _end(ledger: Ledger) -> int:
    return ledger.head + sum(piece.size for piece in ledger.pieces)


def _digest(path: Path, at: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(at)
        while size > 0 and (chunk := file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest() if size == 0 else ""


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"
