"""Rooms: two chambers with a doorway between them, windows to a garden, furniture along the walls and in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from .furniture import ALONG_WALLS, FREE
from .layout import FloorPlan, Opening, Rectangle, Wall, add_outside, add_wall, floor_paint, put_pieces
from .palettes import Palette
from .shapes import STRIPES, TILES, Builder, Paint

Closed = tuple[float, float, float]  # from, to, and where on the other axis


@dataclass(frozen=True)
class Chambers:
    """Two chambers, side by side along x, that share a wall at x = divide. Centred around the origin."""

    left: float
    right: float
    front: float
    back: float
    divide: float
    height: float

    @property
    def areas(self) -> tuple[Rectangle, Rectangle]:
        return (self.left, self.divide, self.front, self.back), (self.divide, self.right, self.front, self.back)


def build_room(builder: Builder, random: Random, palette: Palette) -> Chambers:
    """Add everything of a room that stands still."""
    first, second, depth = random.uniform(5, 6.5), random.uniform(3.2, 4.2), random.uniform(5, 6.8)
    width = first + second
    left = -width / 2
    chambers = Chambers(left, left + width, -depth / 2, depth / 2, left + first, random.uniform(2.7, 3.2))
    plan = FloorPlan()
    _add_floor_and_ceiling(builder, random, palette, chambers)
    doors, closed = _add_walls(builder, random, palette, chambers)
    for door in doors:
        plan.claim(chambers.divide, door.middle, (1.0, 0.65), 0.0)
    for area in chambers.areas:
        _furnish(builder, random, palette, plan, area)
    for start, end, at in closed:
        _add_pictures(builder, random, palette, (start, end), at)
    add_outside(builder, random, palette, width / 2 + 2.5, foot=-0.25)
    return chambers


def _add_floor_and_ceiling(builder: Builder, random: Random, palette: Palette, chambers: Chambers) -> None:
    width, depth = chambers.right - chambers.left, chambers.back - chambers.front
    pattern, size = random.choice(((STRIPES, 0.45), (TILES, 1.0), (STRIPES, 0.6)))
    builder.box((0, -0.1, 0), (width + 0.3, 0.2, depth + 0.3), floor_paint(palette, pattern, size))
    ceiling = Paint(palette.light, palette.light, glow=0.75)
    builder.box((0, chambers.height + 0.1, 0), (width + 0.4, 0.2, depth + 0.4), ceiling)


def _add_walls(
    builder: Builder, random: Random, palette: Palette, chambers: Chambers
) -> tuple[list[Opening], list[Closed]]:
    """Returns the doors between the chambers and the walls along x without windows."""
    wall = Paint(palette.wall, palette.wall)
    other = Paint(palette.other_wall, palette.other_wall)
    frame = Paint(palette.light, palette.light)
    height = chambers.height
    left, right, front, back, divide = (
        chambers.left, chambers.right, chambers.front, chambers.back, chambers.divide
    )  # fmt: skip
    door_at = random.uniform(front + 1.0, back - 1.0)
    doors = [Opening(door_at, random.uniform(1.0, 1.5), 0.0, 2.15)]
    add_wall(builder, Wall("z", front, back, divide, height, tuple(doors)), wall, frame)
    closed = []
    for at in (front, back):
        for start, end, paint in ((left, divide, wall), (divide, right, other)):
            openings = _windows(random, start, end, height) if random.random() < 0.55 else ()
            add_wall(builder, Wall("x", start, end, at, height, openings), paint, frame)
            closed += [] if openings else [(start, end, at)]
    for at, paint in ((left, other if random.random() < 0.5 else wall), (right, other)):
        openings = _windows(random, front, back, height) if random.random() < 0.6 else ()
        add_wall(builder, Wall("z", front, back, at, height, openings), paint, frame)
    return doors, closed


def _windows(random: Random, start: float, end: float, height: float) -> tuple[Opening, ...]:
    length = end - start
    count = 2 if length > 4.6 and random.random() < 0.6 else 1
    sill = random.choice((0.35, 0.85, 0.95))
    width = min(1.7, length / count - 0.9) * random.uniform(0.75, 1.0)
    return tuple(
        Opening(start + length * (index + 0.5) / count, width, sill, min(2.35, height - 0.3)) for index in range(count)
    )


def _furnish(builder: Builder, random: Random, palette: Palette, plan: FloorPlan, area: Rectangle) -> None:
    left, right, front, back = area
    middle = ((left + right) / 2, (front + back) / 2)
    if min(right - left, back - front) > 3.5:
        _add_rug(builder, random, palette, middle)
    if random.random() < 0.6 and right - left > 4.5:
        place = (middle[0] + random.uniform(0.8, 1.4) * random.choice((-1, 1)), middle[1] + random.uniform(-1, 1))
        if plan.claim(*place, (0.3, 0.3), 0.0):
            builder.frustum(place, (0.2, 0.2), 3.4, Paint(palette.wall, palette.light))
    spots = [(middle[0] + random.uniform(-0.3, 0.3), middle[1] + random.uniform(-0.3, 0.3), random.uniform(-0.2, 0.2))]
    put_pieces(builder, random, palette, plan, FREE, spots)
    along = _spots_along_walls(random, area)
    random.shuffle(along)
    put_pieces(builder, random, palette, plan, ALONG_WALLS, along[: int(len(along) * 0.75)])


def _add_rug(builder: Builder, random: Random, palette: Palette, middle: tuple[float, float]) -> None:
    color, inner = random.choice(palette.accents), palette.light
    if random.random() < 0.5:
        builder.frustum(middle, (1.5, 1.5), 0.02, Paint(color, color))
        builder.frustum(middle, (1.25, 1.25), 0.03, Paint(inner, inner))
    else:
        builder.standing(middle, (2.9, 0.02, 2.1), Paint(color, color))
        builder.standing(middle, (2.5, 0.03, 1.7), Paint(inner, inner))


def _spots_along_walls(random: Random, area: Rectangle) -> list[tuple[float, float, float]]:
    left, right, front, back = area
    spots, gap = [], 0.62
    for share in (0.2, 0.5, 0.8):
        x, z = left + (right - left) * share, front + (back - front) * share
        jitter = random.uniform(-0.25, 0.25)
        spots += [(x + jitter, front + gap, 0.0), (x - jitter, back - gap, math.pi)]
        spots += [(left + gap, z + jitter, -math.pi / 2), (right - gap, z - jitter, math.pi / 2)]
    return spots


def _add_pictures(builder: Builder, random: Random, palette: Palette, along: tuple[float, float], at: float) -> None:
    for share in (0.25, 0.75):
        if random.random() < 0.6:
            width, height = random.uniform(0.5, 1.0), random.uniform(0.5, 0.8)
            center = (along[0] + (along[1] - along[0]) * share, 1.75, at)
            color = random.choice(palette.accents)
            builder.box(center, (width + 0.1, height + 0.1, 0.22), Paint(palette.light, palette.light))
            builder.box(center, (width, height, 0.25), Paint(color, random.choice(palette.accents)))
