"""Photos and ledgers from strangers: a number, or one sentence; never anything else."""

from __future__ import annotations

import io
import random
import struct

import pytest
from PIL import Image, TiffImagePlugin

from tests.core.hostile_files import damaged, deep_lies, json_lies

EXIF, FOCAL, FOCAL_35, ORIENTATION = 0x8769, 0x920A, 0xA405, 0x0112
SENSOR = {0xA20E: 2000.0, 0xA20F: 2000.0, 0xA210: 3, 0xA002: 3000, 0xA003: 2000}


def photo(tags: dict, *, orientation: object = 1, kind: str = "JPEG") -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    exif.get_ifd(EXIF).update(tags)
    Image.new("RGB", (30, 20)).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def read(pack, tmp_path_factory):
    """read(content) -> (focal length, (height, width)) of a photo with this content."""
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"

    def call(content: bytes):
        path.write_bytes(content)
        return pack("exif_nodes").lens_of(path)

    return call


def fine_or_one_sentence(read, content: bytes) -> None:
    try:
        focal, size = read(content)
    except ValueError as error:
        assert str(error).startswith("photo.jpg ") and len(str(error)) < 300 and str(error).isprintable()
    else:
        assert 1 <= focal <= 10_000 and min(size) >= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_says_its_lens_and_its_size_as_it_is_shown(read, orientation):
    assert read(photo({FOCAL_35: 28}, orientation=orientation)) == (28.0, (20, 30) if orientation == 1 else (30, 20))


@pytest.mark.parametrize("value", ["fifty", (28, 28), b"\xff\xfe", 0, 65535, "", TiffImagePlugin.IFDRational(1, 0)])
@pytest.mark.parametrize("tag", [FOCAL_35, FOCAL, 0xA20E, 0xA210, 0xA002, ORIENTATION])
def test_whatever_stands_under_a_tag_is_a_lens_or_one_sentence(read, tag, value):
    tags = {FOCAL: 50.0, **SENSOR, tag: value}
    orientation = tags.pop(ORIENTATION, 1)
    try:
        content = photo(tags, orientation=orientation)
    except (TypeError, ValueError, struct.error, ZeroDivisionError, OverflowError, AttributeError):
        pytest.skip("no file can hold this")
    fine_or_one_sentence(read, content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_damaged_photo_is_a_lens_or_one_sentence(read, kind):
    good, rng = photo({FOCAL: 50.0, **SENSOR}, kind=kind), random.Random(kind)
    for _, content in damaged(good, 31):
        fine_or_one_sentence(read, content)
    for _ in range(100):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(min(len(good), 400))] = rng.randrange(256)
        fine_or_one_sentence(read, bytes(content))


def test_a_picture_that_claims_to_be_as_large_as_a_country_is_not_unpacked(read):
    good = photo({FOCAL_35: 28}, kind="PNG")
    fine_or_one_sentence(read, good[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + good[24:])


def test_a_ledger_of_a_stranger_is_a_ledger_or_none(pack, tmp_path):
    ledgers = pack("film_ledger")
    film = tmp_path / "film_00001.mp4"
    pieces = tuple(ledgers.Piece("k" * 64, 4, 1000, "d" * 64) for _ in range(3))
    ledger = ledgers.Ledger({"crf": 16}, pieces, 40, "e" * 64, "stamp")
    ledgers.save_ledger(film, ledger)
    good = ledgers.ledger_path(film).read_text()
    assert ledgers.load_ledger(film) == ledger
    for _, content in [*damaged(good.encode(), 32), *json_lies(good), *deep_lies(good, 33, 200)]:
        ledgers.ledger_path(film).write_bytes(content)
        found = ledgers.load_ledger(film)
        assert found is None or (found.frames >= 0 and all(isinstance(key, str) for key in found.keys))
