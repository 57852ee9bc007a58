"""The plan of a memory: its points from above with the film's path, coloured by what is asked."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..mirage_core.rollout import Rollout
from .memory_colors import coloring, legend
from .pictures import ACCENT, DIM, INK, PAPER, WARM, font, to_image
from .scenes import MAX_POINTS, colored_points

_MARGIN = 34
_CEILING = 0.45  # median depths above the first camera; what is higher hides the room from above ...
_UNDER_TOP = 0.85  # ... and so does what is in the upper part of all that is above it
_MAX_SPLAT = 20  # pixels


def plan_picture(rollout: Rollout, by: str, *, size: int = 768) -> torch.Tensor:
    """Points from above, right to the right and forward up, with the path; IMAGE [1 size size 3]."""
    points = colored_points(rollout.memory, limit=MAX_POINTS, colors=coloring(rollout, by))
    places = points.positions.numpy()
    top = max(0.0, -float(np.quantile(places[:, 1], 0.01)))
    is_below = places[:, 1] >= -min(_CEILING * rollout.unit_length, _UNDER_TOP * top if top else np.inf)
    path = rollout.cameras.centers[:, [0, 2]].numpy()
    filmed = rollout.grid.frames(sum(one.shape[1] for one in rollout.latents))
    around = np.concatenate([places[is_below][:, [0, 2]], path])
    low, high = np.quantile(around, 0.01, axis=0), np.quantile(around, 0.99, axis=0)
    low, high = np.minimum(low, path.min(0)), np.maximum(high, path.max(0))
    scale = (size - 2 * _MARGIN - 24) / max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2

    def place(spots: np.ndarray) -> np.ndarray:
        return np.stack([size / 2 + (spots[:, 0] - middle[0]) * scale, size / 2 - (spots[:, 1] - middle[1]) * scale], 1)

    pixels = np.full((size, size, 3), PAPER, dtype=np.uint8)
    order = np.argsort(-places[is_below][:, 1], kind="stable")  # y is down: the highest are drawn last
    _splat(
        pixels,
        place(places[is_below][:, [0, 2]])[order],
        points.footprints.numpy()[is_below][order] * scale,
        points.colors.numpy()[is_below][order],
    )
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    spots = [(float(x), float(y)) for x, y in place(path)]
    if len(spots) > 1:
        draw.line(spots, fill=DIM, width=2)
        draw.line(spots[:filmed], fill=INK, width=3)
    for (x, y), color in ((spots[0], ACCENT), (spots[filmed - 1], WARM)):
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=color, outline=PAPER)
    draw.rectangle((0, 0, size, 30), fill=PAPER)
    draw.text((12, 6), f"{rollout.memory.count} points from above; {legend(rollout, by)}", fill=INK, font=font(15))
    return to_image(picture)


def _splat(pixels: np.ndarray, at: np.ndarray, widths: np.ndarray, colors: np.ndarray) -> None:
    """Paint squares [n] of the given widths in pixels, later ones over earlier ones; changes `pixels`."""
    size = pixels.shape[0]
    widths = np.clip(np.round(widths), 2, _MAX_SPLAT).astype(np.int64)
    corner = np.round(at - widths[:, None] / 2).astype(np.int64)
    for row in range(int(widths.max(initial=0))):
        for column in range(int(widths.max(initial=0))):
            wide = np.flatnonzero(widths > max(row, column))
            x, y = corner[wide, 0] + column, corner[wide, 1] + row
            is_in = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            pixels[y[is_in], x[is_in]] = colors[wide[is_in]]
