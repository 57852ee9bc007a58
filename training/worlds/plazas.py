"""Plazas: a paved square under open sky, houses around it, a monument in the middle, arcades to look behind."""

from __future__ import annotations

import math
from random import Random

from .furniture import OUTDOORS, Place, crystal, darker, shaded
from .layout import FloorPlan, Rectangle, add_outside, floor_paint, put_pieces
from .palettes import Palette
from .shapes import STRIPES, TILES, Builder, Paint


def build_plaza(builder: Builder, random: Random, palette: Palette) -> Rectangle:
    """Add everything of a plaza that stands still; returns the area inside the houses."""
    half = random.uniform(6.5, 8.5)
    plan = FloorPlan()
    pattern, size = random.choice(((TILES, 1.6), (TILES, 1.2), (STRIPES, 1.0)))
    builder.box((0, -0.1, 0), (2 * half + 9, 0.2, 2 * half + 9), floor_paint(palette, pattern, size))
    add_outside(builder, random, palette, half + 10, foot=-0.05)
    _add_monument(Place(builder, random, palette, 0, 0, random.uniform(0, 1)))
    plan.claim(0, 0, (1.9, 1.9), 0.0)
    for side in range(4):
        _add_side(builder, random, palette, plan, side * math.pi / 2, half)
    spots = [_spot(random, half - 1.3) for _ in range(26)]
    put_pieces(builder, random, palette, plan, OUTDOORS, spots)
    return -half, half, -half, half


def _spot(random: Random, half: float) -> tuple[float, float, float]:
    return random.uniform(-half, half), random.uniform(-half, half), random.choice((0, 1, 2, 3)) * math.pi / 2


def _add_side(builder: Builder, random: Random, palette: Palette, plan: FloorPlan, turn: float, half: float) -> None:
    """Houses or an arcade along one side, with gaps to the land behind."""
    right, kind = -half - 0.5, random.random()
    if kind < 0.28:
        _add_arcade(Place(builder, random, palette, 0, 0, turn), plan, half)
        return
    while right < half - 2.2:
        width = random.uniform(2.6, 4.2)
        if random.random() < 0.78:
            middle = min(right + width / 2, half - 0.5)
            house = Place(builder, random, palette, 0, 0, turn)
            _add_house(house, middle, half, width)
            x, z = house.at(middle, half + 1.2)
            plan.claim(x, z, (width / 2, 1.5), turn)
        right += width + random.choice((0.0, 0.0, 0.7, 1.6))


def _add_house(place: Place, right: float, ahead: float, width: float) -> None:
    random, palette = place.random, place.palette
    depth, height = random.uniform(2.4, 3.4), random.uniform(2.8, 5.6)
    color = random.choice((palette.wall, palette.other_wall, palette.light, *palette.accents[:4]))
    middle = ahead + depth / 2
    place.box(right, 0, middle, (width, height, depth), shaded(color, 0.9))
    place.box(right, 0, middle, (width + 0.08, 0.35, depth + 0.08), shaded(darker(color, 0.75)))
    roof = shaded(random.choice((palette.accents[0], palette.accents[-1], palette.wood, palette.dark)), 0.85)
    x, z = place.at(right, middle)
    if random.random() < 0.65:
        size, yaw = (width + 0.5, random.uniform(0.9, 1.6), depth + 0.5), place.yaw
        if random.random() < 0.5:
            size, yaw = (size[2], size[1], size[0]), place.yaw + math.pi / 2
        place.builder.roof((x, z), size, height, roof, yaw=yaw)
        place.box(right + width * 0.25, height + 0.3, middle + 0.3, (0.4, 1.3, 0.4), shaded(palette.wall))
    else:
        place.box(right, height, middle, (width + 0.3, 0.25, depth + 0.3), roof)
    _add_openings(place, right, ahead, width, height)


def _add_openings(place: Place, right: float, ahead: float, width: float, height: float) -> None:
    """A door and windows, as thin boxes in front of the house: nothing is behind them."""
    random, palette = place.random, place.palette
    door = shaded(random.choice(palette.accents), 0.85)
    side = random.choice((-1, 1)) * width * 0.22
    place.box(right + side, 0, ahead, (1.0, 2.05, 0.14), Paint(palette.light, palette.light))
    place.box(right + side, 0, ahead, (0.84, 1.95, 0.2), door)
    glass = Paint(darker(palette.zenith, 0.55), palette.zenith, glow=0.15)
    for foot in (1.1, 2.9):
        for place_of in (-0.27, 0.27):
            if foot + 1.0 > height or (foot < 2 and place_of * side > 0):
                continue
            place.box(
                right + place_of * width, foot - 0.05, ahead, (0.9, 1.1, 0.14), Paint(palette.light, palette.light)
            )
            place.box(right + place_of * width, foot + 0.03, ahead, (0.74, 0.94, 0.18), glass)
    if random.random() < 0.4:
        awning = shaded(random.choice(palette.accents))
        place.box(right, 2.2, ahead - 0.5, (width * 0.8, 0.1, 1.0), awning)


def _add_arcade(place: Place, plan: FloorPlan, half: float) -> None:
    """A row of pillars with a roof and a wall behind: what is under it shows only from some sides."""
    palette = place.palette
    stone, height = shaded(palette.light, 0.88), 2.7
    wall = shaded(palette.other_wall, 0.92)
    for index in range(6):
        right = -half + 0.8 + index * (2 * half - 1.6) / 5
        place.frustum(right, 0, half, (0.3, 0.3), 0.25, stone)
        place.frustum(right, 0.25, half, (0.2, 0.17), height - 0.5, stone)
        place.frustum(right, height - 0.25, half, (0.2, 0.32), 0.25, stone)
        x, z = place.at(right, half)
        plan.claim(x, z, (0.3, 0.3), 0.0)
    place.box(0, height, half + 0.9, (2 * half, 0.45, 2.5), stone)
    place.box(0, height + 0.45, half + 0.9, (2 * half + 0.3, 0.14, 2.8), shaded(palette.accents[0]))
    place.box(0, 0, half + 2.1, (2 * half, height, 0.2), wall)
    for right in (-half * 0.5, half * 0.45):
        place.box(right, 0, half + 1.5, (0.8, 0.8, 0.8), place.accent())


def _add_monument(place: Place) -> None:
    random, palette = place.random, place.palette
    stone = shaded(palette.light, 0.88)
    kind = random.random()
    if kind < 0.45:
        water = Paint(palette.zenith, palette.zenith, glow=0.1)
        place.frustum(0, 0, 0, (1.6, 1.6), 0.45, stone)
        place.frustum(0, 0.3, 0, (1.4, 1.4), 0.17, water)
        place.frustum(0, 0.3, 0, (0.2, 0.16), 1.1, stone)
        place.frustum(0, 1.35, 0, (0.25, 0.7), 0.22, stone)
        place.ellipsoid(0, 1.75, 0, (0.25, 0.25, 0.25), place.accent())
        return
    for step in range(3):
        size = 2.8 - step * 0.7
        place.box(0, step * 0.22, 0, (size, 0.22, size), stone)
    if kind < 0.75:
        place.frustum(0, 0.66, 0, (0.4, 0.14), 3.2, shaded(palette.other_wall))
        place.ellipsoid(0, 4.0, 0, (0.32, 0.32, 0.32), place.accent())
    else:
        place.box(0, 0.66, 0, (0.8, 0.9, 0.8), shaded(palette.other_wall))
        crystal(place.builder, (place.x, 2.2, place.z), 0.7, place.accent(), yaw=place.yaw, tall=1.2)
