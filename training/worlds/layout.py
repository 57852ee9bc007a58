"""Floor plans: where things may stand, walls with openings, and the outside that windows look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from .furniture import Piece, Place, tree
from .palettes import Palette
from .shapes import TILES, Builder, Paint

Rectangle = tuple[float, float, float, float]  # x from, x to, z from, z to


@dataclass
class FloorPlan:
    """Squares of floor that are taken."""

    taken: list[Rectangle] = field(default_factory=list)

    def claim(self, x: float, z: float, half: tuple[float, float], yaw: float, *, margin: float = 0.12) -> bool:
        """Take the floor around (x, z) for something of half sizes `half` turned by yaw; False where it is taken."""
        cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
        wide = half[0] * cosine + half[1] * sine + margin
        deep = half[0] * sine + half[1] * cosine + margin
        asked = (x - wide, x + wide, z - deep, z + deep)
        for one in self.taken:
            if asked[0] < one[1] and one[0] < asked[1] and asked[2] < one[3] and one[2] < asked[3]:
                return False
        self.taken.append(asked)
        return True


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: its middle along the wall, its width, and the heights of sill and lintel."""

    middle: float
    width: float
    sill: float
    lintel: float


@dataclass(frozen=True)
class Wall:
    """An upright wall from `start` to `end` along x or z ("axis"), at `at` on the other axis."""

    axis: str
    start: float
    end: float
    at: float
    height: float
    openings: tuple[Opening, ...] = ()
    thickness: float = 0.16

    def place(self, along: float) -> tuple[float, float]:
        return (along, self.at) if self.axis == "x" else (self.at, along)


def add_wall(builder: Builder, wall: Wall, paint: Paint, frame: Paint) -> None:
    """The wall in boxes around its openings, and a frame around each opening."""
    edge = wall.start
    for opening in sorted(wall.openings, key=lambda one: one.middle):
        left, right = opening.middle - opening.width / 2, opening.middle + opening.width / 2
        _add_panel(builder, wall, edge, left, 0, wall.height, paint)
        _add_panel(builder, wall, left, right, 0, opening.sill, paint)
        _add_panel(builder, wall, left, right, opening.lintel, wall.height, paint)
        _add_frame(builder, wall, opening, frame)
        edge = right
    _add_panel(builder, wall, edge, wall.end, 0, wall.height, paint)


def _add_panel(
    builder: Builder, wall: Wall, start: float, end: float, foot: float, top: float, paint: Paint, extra: float = 0.0
) -> None:
    if end - start < 1e-3 or top - foot < 1e-3:
        return
    sizes = (end - start, top - foot, wall.thickness + extra)
    size = sizes if wall.axis == "x" else (sizes[2], sizes[1], sizes[0])
    builder.standing(wall.place((start + end) / 2), size, paint, foot=foot)


def _add_frame(builder: Builder, wall: Wall, opening: Opening, frame: Paint) -> None:
    left, right = opening.middle - opening.width / 2, opening.middle + opening.width / 2
    width, extra = 0.07, 0.06
    for start, end in ((left - width / 2, left + width / 2), (right - width / 2, right + width / 2)):
        _add_panel(builder, wall, start, end, opening.sill, opening.lintel, frame, extra)
    _add_panel(builder, wall, left, right, opening.lintel - width, opening.lintel, frame, extra)
    if opening.sill > 0.1:
        _add_panel(builder, wall, left - 0.05, right + 0.05, opening.sill, opening.sill + width, frame, 0.16)
        middle = opening.middle
        _add_panel(builder, wall, middle - 0.025, middle + 0.025, opening.sill, opening.lintel, frame, -0.08)


def put_pieces(
    builder: Builder,
    random: Random,
    palette: Palette,
    plan: FloorPlan,
    pieces: tuple[tuple[Piece, tuple[float, float]], ...],
    spots: list[tuple[float, float, float]],
) -> int:
    """Put a random piece on every (x, z, yaw) of `spots` that is free; returns how many stand."""
    standing = 0
    for x, z, yaw in spots:
        piece, half = random.choice(pieces)
        if plan.claim(x, z, half, yaw):
            piece(Place(builder, random, palette, x, z, yaw))
            standing += 1
    return standing


def add_outside(builder: Builder, random: Random, palette: Palette, around: float, *, foot: float = -0.02) -> None:
    """Ground to the horizon, hills on it, and trees at a distance from the origin of at least `around`."""
    builder.box((0, foot - 0.5, 0), (160, 1, 160), Paint(palette.grass, palette.grass))
    for turn in range(9):
        angle = turn * 0.7 + random.uniform(0, 0.5)
        distance, width = random.uniform(45, 65), random.uniform(14, 26)
        center = (distance * math.sin(angle), foot - 1, distance * math.cos(angle))
        far = _mixed(palette.grass, palette.horizon, random.uniform(0.35, 0.6))
        builder.ellipsoid(center, (width, random.uniform(4, 9), width), Paint(far, far))
    for _ in range(7):
        angle, distance = random.uniform(0, 2 * math.pi), around + random.uniform(1.5, 9)
        place = Place(builder, random, palette, distance * math.sin(angle), distance * math.cos(angle), angle)
        tree(place)


def floor_paint(palette: Palette, pattern: int = TILES, size: float = 1.0) -> Paint:
    return Paint(palette.floor, palette.floor, pattern, palette.floor_second, size)


def _mixed(first: str, second: str, share: float) -> str:
    parts = []
    for start in (1, 3, 5):
        one, other = int(first[start : start + 2], 16), int(second[start : start + 2], 16)
        parts.append(f"{int(one + (other - one) * share):02x}")
    return "#" + "".join(parts)
