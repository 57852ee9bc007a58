"""The loss of a training over its steps: as few numbers as a picture needs, and the picture."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image, ImageDraw

SMOOTHING = 0.98  # of the loss that is shown


def thinned(log: list[dict[str, float]], keep: int = 3000) -> list[dict[str, float]]:
    """Every second entry of the older half, again and again, until few are left."""
    while len(log) > keep:
        half = len(log) // 2
        log = log[:half:2] + log[half:]
    return log


def write_plot(path: Path, log: list[dict[str, float]], *, size: tuple[int, int] = (960, 480)) -> None:
    """The loss over steps, single values in grey and smoothed in blue, both axes logarithmic in the loss."""
    values = [(entry["step"], entry["loss"]) for entry in log if math.isfinite(entry["loss"]) and entry["loss"] > 0]
    if len(values) < 2:
        return
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left, top, width, height = 70, 20, size[0] - 90, size[1] - 60
    logs = [math.log10(loss) for _, loss in values]
    ordered = sorted(logs)
    low, high = ordered[0], ordered[int(0.995 * (len(ordered) - 1))] + 1e-9
    last = max(1, values[-1][0])

    def at(step: float, value: float) -> tuple[float, float]:
        return left + width * step / last, top + height * (1 - (min(value, high) - low) / (high - low))

    for share in range(5):
        level = low + (high - low) * share / 4
        draw.line([at(0, level), at(last, level)], fill="#dddddd")
        draw.text((5, at(0, level)[1] - 6), f"{10**level:.4g}", fill="#555555")
        draw.text((at(last * share / 4, low)[0] - 10, top + height + 8), f"{last * share // 4}", fill="#555555")
    draw.point([at(step, value) for (step, _), value in zip(values, logs, strict=True)], fill="#b0b0b0")
    smooth, line = logs[0], []
    for (step, _), value in zip(values, logs, strict=True):
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * value
        line.append(at(step, smooth))
    draw.line(line, fill="#2563eb", width=2)
    draw.text((left + width // 2 - 10, size[1] - 18), "step", fill="#555555")
    part = path.with_suffix(f".{os.getpid()}.part")
    picture.save(part, format="PNG")
    part.replace(path)
