"""Bars with intervals, and films below each other; Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_BAR, _GAP, _LEFT, _WIDTH = 26, 14, 290, 980
_INK, _LINE = (40, 44, 52), (226, 228, 233)
_COLOR, _BEST, _LIMIT = (120, 150, 190), (46, 160, 120), (190, 192, 198)


def write_bars(path: Path, rows: Sequence[dict], column: str, title: str) -> None:
    """One bar per row, the best of all but the last in green.

    Cells of `column` are "mean ± half width" or "mean"; the first column is the name. The last row is what the others
    are measured against.
    """
    values = [_parts(str(row[column])) for row in rows]
    names = [str(next(iter(row.values()))) for row in rows]
    low = min(mean - half for mean, half in values)
    high = max(mean + half for mean, half in values)
    low, high = low - 0.15 * (high - low) - 0.5, high + 0.1 * (high - low) + 0.5
    height = 70 + len(rows) * (_BAR + _GAP) + 40
    picture = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 90)

    draw.text((20, 18), title, fill=_INK, font=ImageFont.load_default(17))
    for share in range(6):
        level = low + (high - low) * share / 5
        draw.line((at(level), 55, at(level), height - 40), fill=_LINE)
        draw.text((at(level) - 14, height - 32), f"{level:.1f}", fill=_INK, font=font)
    best = max(range(len(rows) - 1), key=lambda index: values[index][0])
    colors = [_BEST if index == best else _COLOR for index in range(len(rows) - 1)] + [_LIMIT]
    for index, (name, (mean, half)) in enumerate(zip(names, values, strict=True)):
        top = 62 + index * (_BAR + _GAP)
        draw.text((20, top + 4), name, fill=_INK, font=font)
        draw.rectangle((at(low), top, at(mean), top + _BAR), fill=colors[index])
        middle = top + _BAR / 2
        draw.line((at(mean - half), middle, at(mean + half), middle), fill=_INK, width=2)
        for end in (mean - half, mean + half):
            draw.line((at(end), middle - 6, at(end), middle + 6), fill=_INK, width=2)
        draw.text((at(mean + half) + 8, top + 4), f"{mean:.2f}", fill=_INK, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_films(path: Path, pictures: Sequence[Path]) -> None:
    """The truth above the film of each picture; every picture has the truth in its upper half and a film in its lower.

    Writes nothing when one of them is missing: whoever flew them kept them elsewhere.
    """
    if not all(one.is_file() for one in pictures):
        return
    opened = [Image.open(one).convert("RGB") for one in pictures]
    width, height = opened[0].size
    rows = [opened[0].crop((0, 0, width, height // 2))]
    rows += [one.crop((0, height // 2, width, height)) for one in opened]
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * (height // 2)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)


def _parts(cell: str) -> tuple[float, float]:
    mean, _, half = cell.partition("±")
    return float(mean), float(half) if half else 0.0
