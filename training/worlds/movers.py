"""Things that move through a world: where each is at every moment, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch

from .palettes import Palette
from .shapes import Builder, Paint, signed_distances


@dataclass(frozen=True)
class Mover:
    """A thing that moves along an ellipse at constant angular speed; a flat ellipse is a way there and back.

    center: [3] float64, of the ellipse (world).  across, along: [3] float64, its half axes.
    period: seconds per round.  phase: radians at time 0.  radius: of a sphere that holds the thing.
    color: sRGB hex by which it is recognised.
    """

    center: torch.Tensor
    across: torch.Tensor
    along: torch.Tensor
    period: float
    phase: float
    radius: float
    color: str

    def shifts(self, times: torch.Tensor) -> torch.Tensor:
        """[times 3] float64, from the middle of the ellipse to the thing. times: seconds."""
        angle = self._angles(times)
        return angle.cos() * self.across + angle.sin() * self.along

    def positions(self, times: torch.Tensor) -> torch.Tensor:
        """[times 3] float64, world."""
        return self.center + self.shifts(times)

    def velocities(self, times: torch.Tensor) -> torch.Tensor:
        """[times 3] float64, world units per second."""
        angle = self._angles(times)
        return (angle.cos() * self.along - angle.sin() * self.across) * (2 * math.pi / self.period)

    def _angles(self, times: torch.Tensor) -> torch.Tensor:
        return (times.double() * (2 * math.pi / self.period) + self.phase)[:, None]


Area = tuple[float, float, float, float]


def add_movers(
    builder: Builder, random: Random, palette: Palette, count: int, *, area: Area, top: float
) -> tuple[Mover, ...]:
    """Put up to `count` movers above the floor area (x from, x to, z from, z to), below height `top`.

    They pass through nothing that stands still; where no free way is found, there is one mover less.
    """
    still, movers = builder.shapes(), []
    for _ in range(count * 40):
        if len(movers) == count:
            break
        kind = random.choice((_balloon, _drone, _orb, _train))
        color = palette.accents[len(movers) % len(palette.accents)]
        mover = _some_way(random, area, top, is_train=kind is _train, color=color)
        way = mover.positions(torch.linspace(0, mover.period, 48)).float()
        if signed_distances(way, still).amin() < mover.radius * 0.75:
            continue
        builder.mover = len(movers)
        x, y, z = mover.center.tolist()
        kind(builder, (x, -y, z), mover.radius / 1.6, color, palette)
        movers.append(mover)
    builder.mover = -1
    return tuple(movers)


def _some_way(random: Random, area: Area, top: float, *, is_train: bool, color: str) -> Mover:
    radius = random.uniform(0.2, 0.32)
    width, depth = (area[1] - area[0]) / 2, (area[3] - area[2]) / 2
    x = (area[0] + area[1]) / 2 + random.uniform(-0.35, 0.35) * width
    z = (area[2] + area[3]) / 2 + random.uniform(-0.35, 0.35) * depth
    height = 0.4 if is_train else random.uniform(1.0, max(1.1, top - 0.8))
    heading, size = random.uniform(0, 2 * math.pi), random.uniform(0.3, 0.6)
    across = (size * width * math.cos(heading), 0.0, size * depth * math.sin(heading))
    narrow = random.uniform(0.3, 1.0)
    along = (-across[2] * narrow, random.uniform(-0.2, 0.2), across[0] * narrow)
    return Mover(
        torch.tensor([x, -height, z], dtype=torch.float64),
        torch.tensor(across, dtype=torch.float64),
        torch.tensor((0.0, 0.0, 0.0) if is_train else along, dtype=torch.float64),
        random.uniform(5, 9),
        random.uniform(0, 2 * math.pi),
        radius * 1.6,
        color,
    )


def _balloon(builder: Builder, at: tuple[float, float, float], radius: float, color: str, palette: Palette) -> None:
    x, height, z = at
    paint = Paint(color, color, glow=0.1)
    builder.ellipsoid((x, height, z), (radius, radius * 1.2, radius), paint)
    builder.frustum((x, z), (0.06, 0.015), 0.1, paint, foot=height - radius * 1.2 - 0.06)
    builder.frustum((x, z), (0.012, 0.012), 0.5, Paint(palette.light, palette.light), foot=height - radius * 1.2 - 0.55)


def _drone(builder: Builder, at: tuple[float, float, float], radius: float, color: str, palette: Palette) -> None:
    x, height, z = at
    builder.box((x, height, z), (radius * 1.1, 0.16, radius * 1.1), Paint(color, color))
    builder.ellipsoid((x, height + 0.08, z), (radius * 0.4, 0.12, radius * 0.4), Paint(palette.light, palette.light))
    for side in (-1, 1):
        for end in (-1, 1):
            place = (x + side * radius * 0.8, z + end * radius * 0.8)
            builder.frustum(place, (radius * 0.4, radius * 0.4), 0.04, Paint(palette.dark, palette.dark), foot=height)


def _orb(builder: Builder, at: tuple[float, float, float], radius: float, color: str, palette: Palette) -> None:
    x, height, z = at
    builder.ellipsoid((x, height, z), (radius, radius, radius), Paint(color, color, glow=0.25))
    builder.frustum((x, z), (radius * 1.5, radius * 1.5), 0.05, Paint(palette.light, palette.light), foot=height - 0.02)


def _train(builder: Builder, at: tuple[float, float, float], radius: float, color: str, palette: Palette) -> None:
    x, _, z = at
    builder.standing((x, z), (radius * 1.4, 0.3, radius * 2.4), Paint(color, color), foot=0.12)
    builder.standing((x, z - radius * 0.6), (radius * 1.2, 0.32, radius), Paint(palette.light, color), foot=0.42)
    for side in (-1, 1):
        for end in (-1, 1):
            place = (x + side * radius * 0.7, z + end * radius * 0.7)
            builder.ellipsoid((place[0], 0.14, place[1]), (0.07, 0.14, 0.14), Paint(palette.dark, palette.dark))
