"""Pictures about camera paths over time: the strip of Path Check and the plot of Camera Receipt."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from ..mirage_core.pose_errors import WORLDSCORE_LIMITS, PoseErrors
from ..mirage_core.preflight import KNOWN_SHARE, NEAR_SHARE, Preflight
from ..mirage_core.segments import Segment
from .pictures import ACCENT, DIM, INK, PAPER, WARM, font, to_image

_LEVEL_COLORS = {"green": (86, 178, 122), "amber": (232, 170, 66), "red": (214, 84, 80)}
_RULE = (52, 56, 64)
_LEFT, _RIGHT = 190, 24
_MARK_DASH = 6


def preflight_strip(found: Preflight, *, width: int = 1100) -> torch.Tensor:
    """A film as a strip: verdicts per frame, what is known, how fast, how near; IMAGE [1 height width 3]."""
    rows = [
        _Row("known from memory", found.known, 1.0, KNOWN_SHARE, DIM),
        _Row("known by then", found.expected, 1.0, KNOWN_SHARE, ACCENT),
        _rate("median depths / frame", found.speed, found.trained.speed),
        _rate("degrees / frame", found.turn_degrees, found.trained.turn_degrees),
        _Row("clearance", [min(one, 1.0) for one in found.clearance], 1.0, NEAR_SHARE, ACCENT),
    ]
    top, band, gap = 56, 30, 62
    height = top + band + gap * len(rows) + 44
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    headline = f"{found.level.upper()}  {found.suggestion or 'Nothing in this path asks too much.'}"
    draw.text((14, 8), textwrap.fill(headline, 130), fill=_LEVEL_COLORS[found.level], font=font(15))
    step = (width - _LEFT - _RIGHT) / found.frames
    for frame, level in enumerate(found.levels):
        box = (_LEFT + frame * step, top, _LEFT + (frame + 1) * step - (step > 3), top + band)
        draw.rectangle(box, fill=_LEVEL_COLORS[level])
    draw.text((14, top + 6), "verdict", fill=INK, font=font(14))
    bottom = top + band + gap * len(rows)
    _draw_segments(draw, found.plan, found.frames, (_LEFT, width - _RIGHT), (top, bottom))
    for index, row in enumerate(rows):
        y = top + band + gap * index + 12
        row.draw(draw, (_LEFT, width - _RIGHT), (y, y + gap - 18))
    return to_image(picture)


def receipt_plot(
    errors: PoseErrors, frames: list[int], plan: tuple[Segment, ...], *, width: int = 1100
) -> torch.Tensor:
    """Rotation and translation error of the compared frames over the film; IMAGE [1 height width 3]."""
    picture = Image.new("RGB", (width, 420), PAPER)
    draw = ImageDraw.Draw(picture)
    score = errors.worldscore
    draw.text(
        (14, 14), f"camera receipt: WorldScore camera control {100 * score.score:.1f} of 100", fill=INK, font=font(16)
    )
    length = plan[-1].output.stop
    across = (_LEFT, width - _RIGHT)
    _draw_segments(draw, plan, length, across, (56, 380))
    at = [frame / max(1, length - 1) for frame in frames]
    rotation = _Row("rotation, degrees", errors.rotation_degrees, *_limited(errors.rotation_degrees, 0), WARM, at)
    rotation.draw(draw, across, (70, 200))
    if not any(map(math.isnan, errors.translation)):
        translation = _Row("translation, units", errors.translation, *_limited(errors.translation, 1), ACCENT, at)
        translation.draw(draw, across, (235, 365))
    else:
        draw.text(
            (_LEFT + 12, 290), "the path does not move: there is no translation to compare", fill=DIM, font=font(15)
        )
    return to_image(picture)


def _limited(values: Sequence[float], which: int) -> tuple[float, float]:
    """Top and mark of an error's curve: a tenth of WorldScore's limit at least, so that small errors look small."""
    limit = WORLDSCORE_LIMITS[which]
    return max(*values, limit / 10), limit


def _rate(name: str, values: Sequence[float], trained: float) -> _Row:
    """A rate with the trained one dashed in it."""
    return _Row(name, values, max(*values, 1.25 * trained), trained, WARM)


class _Row:
    """One curve with its name, range and, dashed, the value that matters."""

    def __init__(
        self,
        name: str,
        values: Sequence[float],
        top: float | None,
        mark: float | None,
        color: tuple[int, int, int],
        at: Sequence[float] | None = None,
    ) -> None:
        self.name, self.values, self.mark, self.color = name, values, mark, color
        self.top = top or max(*values, 1e-9)
        self.at = at or [(index + 0.5) / len(values) for index in range(len(values))]

    def draw(self, draw: ImageDraw.ImageDraw, across: tuple[int, int], down: tuple[int, int]) -> None:
        (left, right), (top, bottom) = across, down

        def height_of(value: float) -> float:
            return bottom - min(value / self.top, 1.0) * (bottom - top)

        draw.line((left, bottom, right, bottom), fill=_RULE)
        draw.line((left, top, right, top), fill=_RULE)
        if self.mark is not None and self.mark <= self.top:
            y = height_of(self.mark)
            for x in range(left, right, 2 * _MARK_DASH):
                draw.line((x, y, x + _MARK_DASH, y), fill=DIM)
        draw.text((14, (top + bottom) / 2 - 9), self.name, fill=INK, font=font(14))
        draw.text((left - 8, top), f"{self.top:.3g}", fill=DIM, font=font(12), anchor="rm")
        draw.text((left - 8, bottom), "0", fill=DIM, font=font(12), anchor="rm")
        points = [
            (left + x * (right - left), height_of(value)) for x, value in zip(self.at, self.values, strict=True)
        ]  # fmt: skip
        if len(points) > 1:
            draw.line(points, fill=self.color, width=2)
        if len(points) <= 60:
            for x, y in points:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=self.color)


def _draw_segments(
    draw: ImageDraw.ImageDraw, plan: tuple[Segment, ...], frames: int, across: tuple[int, int], down: tuple[int, int]
) -> None:
    (left, right), (top, bottom) = across, down
    for segment in plan:
        x = left + segment.output.start / frames * (right - left)
        draw.line((x, top, x, bottom + 6), fill=(96, 102, 114))
        if len(plan) <= 40:
            draw.text((x + 4, bottom + 8), f"{segment.index + 1}", fill=DIM, font=font(13))
    draw.text((14, bottom + 8), "segment", fill=DIM, font=font(13))
