"""Furniture and plants, each a few shapes. Every function builds around (x, z) on the floor, turned by `yaw`.

Yaw 0 faces +z: the back of a sofa or a shelf is at its -z side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from .palettes import Palette
from .shapes import Builder, Paint, Point


class Place(NamedTuple):
    """Where a piece stands: (x, z) on the floor, turned by yaw, and what it is made with."""

    builder: Builder
    random: Random
    palette: Palette
    x: float
    z: float
    yaw: float

    def box(self, right: float, foot: float, ahead: float, size: Point, paint: Paint) -> None:
        """A box whose foot stands `right` and `ahead` of the place, at height `foot`."""
        self.builder.standing(self.at(right, ahead), size, paint, yaw=self.yaw, foot=foot)

    def frustum(
        self, right: float, foot: float, ahead: float, radii: tuple[float, float], height: float, paint: Paint
    ) -> None:
        self.builder.frustum(self.at(right, ahead), radii, height, paint, foot=foot)

    def ellipsoid(self, right: float, height: float, ahead: float, radii: Point, paint: Paint) -> None:
        x, z = self.at(right, ahead)
        self.builder.ellipsoid((x, height, z), radii, paint)

    def at(self, right: float, ahead: float) -> tuple[float, float]:
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + cosine * right - sine * ahead, self.z + sine * right + cosine * ahead

    def accent(self) -> Paint:
        return shaded(self.random.choice(self.palette.accents))


def shaded(color: str, amount: float = 0.86) -> Paint:
    """A paint a little darker at the foot."""
    return Paint(darker(color, amount), color)


def darker(color: str, amount: float) -> str:
    return "#" + "".join(f"{min(255, int(int(color[start : start + 2], 16) * amount)):02x}" for start in (1, 3, 5))


def sofa(place: Place) -> None:
    paint, width = place.accent(), place.random.uniform(1.7, 2.3)
    place.box(0, 0.1, 0, (width, 0.32, 0.85), paint)
    place.box(0, 0.1, -0.36, (width, 0.75, 0.2), paint)
    for side in (-1, 1):
        place.box(side * (width / 2 - 0.1), 0.1, 0, (0.2, 0.52, 0.85), paint)
        place.box(side * width * 0.2, 0.42, 0.06, (width * 0.36, 0.12, 0.62), shaded(paint.high, 0.95))
    place.box(place.random.choice((-1, 1)) * width * 0.3, 0.54, -0.16, (0.4, 0.36, 0.16), place.accent())


def table(place: Place) -> None:
    wood, width, depth = place.palette.wood, place.random.uniform(1.2, 1.8), place.random.uniform(0.8, 1.0)
    place.box(0, 0.7, 0, (width, 0.07, depth), Paint(wood, wood))
    for side in (-1, 1):
        for end in (-1, 1):
            place.box(side * (width / 2 - 0.08), 0, end * (depth / 2 - 0.08), (0.08, 0.7, 0.08), shaded(wood, 0.8))
    _vase(place, place.random.uniform(-0.3, 0.3), 0.77, 0)
    place.ellipsoid(width * 0.3, 0.85, 0.12, (0.09, 0.09, 0.09), place.accent())
    paint = place.accent()
    for side in (-1, 1):
        _chair(place, place.random.uniform(-0.2, 0.2), side * (depth / 2 + 0.3), side, paint)


def _chair(place: Place, right: float, ahead: float, side: int, paint: Paint) -> None:
    place.box(right, 0.4, ahead, (0.44, 0.07, 0.44), paint)
    place.box(right, 0.47, ahead + side * 0.19, (0.44, 0.5, 0.06), paint)
    for one in (-0.17, 0.17):
        for other in (-0.17, 0.17):
            place.box(right + one, 0, ahead + other, (0.05, 0.4, 0.05), shaded(place.palette.wood))


def round_table(place: Place) -> None:
    light = place.palette.light
    place.frustum(0, 0, 0, (0.32, 0.3), 0.04, shaded(place.palette.dark))
    place.frustum(0, 0.04, 0, (0.06, 0.06), 0.64, shaded(place.palette.dark))
    place.frustum(0, 0.68, 0, (0.55, 0.55), 0.06, Paint(light, light))
    _vase(place, 0.1, 0.74, 0.05)
    for turn in range(3):
        angle = turn * 2.1 + place.yaw
        place.frustum(math.cos(angle) * 0.85, 0, math.sin(angle) * 0.85, (0.2, 0.24), 0.45, place.accent())


def _vase(place: Place, right: float, foot: float, ahead: float) -> None:
    paint = place.accent()
    place.ellipsoid(right, foot + 0.12, ahead, (0.1, 0.13, 0.1), paint)
    place.frustum(right, foot + 0.2, ahead, (0.04, 0.06), 0.12, paint)


def shelf(place: Place) -> None:
    wood, width, height = place.palette.wood, place.random.uniform(1.0, 1.6), place.random.uniform(1.6, 2.1)
    place.box(0, 0, -0.15, (width, height, 0.04), shaded(wood, 0.8))
    for side in (-1, 1):
        place.box(side * width / 2, 0, 0, (0.05, height, 0.34), shaded(wood))
    boards = 4
    for board in range(boards + 1):
        foot = 0.02 + board * (height - 0.06) / boards
        place.box(0, foot, 0, (width, 0.045, 0.34), Paint(wood, wood))
        if board < boards:
            _fill_board(place, foot + 0.045, width, height / boards * 0.75)


def _fill_board(place: Place, foot: float, width: float, height: float) -> None:
    right = -width / 2 + 0.06
    while right < width / 2 - 0.3:
        size = place.random.uniform(0.16, 0.4)
        if place.random.random() < 0.7:
            tall = height * place.random.uniform(0.65, 1.0)
            place.box(right + size / 2, foot, 0, (size, tall, 0.22), place.accent())
        else:
            place.ellipsoid(right + size / 2, foot + 0.11, 0, (0.11, 0.11, 0.11), place.accent())
        right += size + place.random.uniform(0.02, 0.16)


def cabinet(place: Place) -> None:
    width, height = place.random.uniform(1.0, 1.8), place.random.uniform(0.6, 0.95)
    body = place.palette.light if place.random.random() < 0.5 else place.palette.wood
    place.box(0, 0.08, 0, (width, height, 0.45), shaded(body, 0.9))
    for part in (-1, 1):
        place.box(part * width / 4, 0.14, 0.225, (width / 2 - 0.06, height - 0.12, 0.03), place.accent())
    _vase(place, -width * 0.28, 0.08 + height, 0)
    _desk_lamp(place, width * 0.3, 0.08 + height)


def _desk_lamp(place: Place, right: float, foot: float) -> None:
    place.frustum(right, foot, 0, (0.03, 0.03), 0.25, shaded(place.palette.dark))
    place.frustum(right, foot + 0.22, 0, (0.17, 0.1), 0.2, Paint(place.palette.light, place.palette.light, glow=0.6))


def bed(place: Place) -> None:
    wood, cover = place.palette.wood, place.accent()
    place.box(0, 0.08, 0.3, (1.6, 0.26, 2.1), shaded(wood))
    place.box(0, 0.34, 0.3, (1.54, 0.2, 2.04), shaded(place.palette.light, 0.94))
    place.box(0, 0.36, 0.62, (1.6, 0.24, 1.44), cover)
    place.box(0, 0.08, -0.76, (1.7, 1.0, 0.1), shaded(wood))
    for side in (-0.4, 0.4):
        place.box(side, 0.5, -0.45, (0.6, 0.16, 0.36), Paint(place.palette.light, place.palette.light))


def floor_lamp(place: Place) -> None:
    dark, light = place.palette.dark, place.palette.light
    place.frustum(0, 0, 0, (0.17, 0.15), 0.05, shaded(dark))
    place.frustum(0, 0.05, 0, (0.025, 0.025), 1.4, shaded(dark))
    place.frustum(0, 1.35, 0, (0.26, 0.16), 0.34, Paint(light, light, glow=0.7))


def plant(place: Place) -> None:
    paint, leaf = place.accent(), place.palette.leaf
    place.frustum(0, 0, 0, (0.16, 0.23), 0.36, paint)
    place.frustum(0, 0.36, 0, (0.03, 0.03), 0.3, shaded(place.palette.wood))
    for turn in range(4):
        angle, lift = turn * 1.7 + place.yaw, place.random.uniform(0, 0.35)
        radius = place.random.uniform(0.17, 0.28)
        crystal(
            place.builder,
            (place.x + 0.17 * math.cos(angle), 0.72 + lift, place.z + 0.17 * math.sin(angle)),
            radius,
            Paint(darker(leaf, 0.8), leaf),
            yaw=angle,
            tall=1.25,
        )


def crates(place: Place) -> None:
    size = place.random.uniform(0.45, 0.65)
    place.box(0, 0, 0, (size, size, size), place.accent())
    place.box(size * 1.05, 0, 0.1, (size * 0.8, size * 0.8, size * 0.8), shaded(place.palette.wood))
    place.box(0.05, size, 0, (size * 0.6, size * 0.6, size * 0.6), place.accent())


def pouf(place: Place) -> None:
    place.frustum(0, 0, 0, (0.32, 0.3), 0.38, place.accent())
    place.ellipsoid(0.75, 0.22, 0.2, (0.22, 0.22, 0.22), place.accent())


def pedestal(place: Place) -> None:
    light = place.palette.light
    place.box(0, 0, 0, (0.5, 0.1, 0.5), shaded(light))
    place.box(0, 0.1, 0, (0.36, 0.8, 0.36), shaded(light, 0.9))
    paint = place.accent()
    if place.random.random() < 0.5:
        place.ellipsoid(0, 1.14, 0, (0.24, 0.24, 0.24), paint)
    else:
        crystal(place.builder, (place.x, 1.22, place.z), 0.26, paint, yaw=place.yaw, tall=1.3)


def crystal(
    builder: Builder, center: Point, radius: float, paint: Paint, *, yaw: float = 0.0, tall: float = 1.0
) -> None:
    """A faceted lump: eight tilted faces, a flat top and a flat foot."""
    planes = []
    for turn in range(4):
        angle = turn * math.pi / 2
        planes.append((math.cos(angle) * radius * 0.75, -0.5 * radius * 0.75, math.sin(angle) * radius * 0.75))
        angle += math.pi / 4
        planes.append((math.cos(angle) * radius * 0.8, 0.45 * radius * 0.8, math.sin(angle) * radius * 0.8))
    planes += [(0.0, -radius * 0.85 * tall, 0.0), (0.0, radius * 0.85 * tall, 0.0)]
    reach = radius * 1.6
    builder.polyhedron(center, planes, (reach, radius * 0.85 * tall, reach), paint, yaw=yaw)


def tree(place: Place) -> None:
    trunk = place.random.uniform(0.9, 1.6)
    leaf = place.palette.leaf
    place.frustum(0, 0, 0, (0.17, 0.1), trunk + 0.3, shaded(place.palette.wood, 0.75))
    style = place.random.random()
    if style < 0.4:
        for level in range(3):
            radius = 1.05 - level * 0.27
            place.frustum(0, trunk * 0.75 + level * 0.62, 0, (radius, 0.16), 0.95, Paint(darker(leaf, 0.78), leaf))
    elif style < 0.7:
        for turn in range(4):
            angle = turn * 1.6 + place.yaw
            center = (place.x + 0.42 * math.cos(angle), trunk + 0.65 + 0.22 * turn, place.z + 0.42 * math.sin(angle))
            crystal(place.builder, center, place.random.uniform(0.65, 0.9), Paint(darker(leaf, 0.8), leaf), yaw=angle)
    else:
        place.ellipsoid(0, trunk + 0.9, 0, (0.95, 1.15, 0.95), Paint(darker(leaf, 0.75), leaf))
        place.ellipsoid(0.45, trunk + 0.5, 0.2, (0.6, 0.6, 0.6), Paint(darker(leaf, 0.8), leaf))


def bench(place: Place) -> None:
    wood, dark = place.palette.wood, place.palette.dark
    place.box(0, 0.4, 0, (1.6, 0.08, 0.45), Paint(wood, wood))
    place.box(0, 0.55, -0.24, (1.6, 0.35, 0.06), shaded(wood, 0.9))
    for side in (-0.65, 0.65):
        place.box(side, 0, 0, (0.08, 0.4, 0.4), shaded(dark))
        place.box(side, 0.4, -0.24, (0.06, 0.5, 0.05), shaded(dark))


def street_lamp(place: Place) -> None:
    dark, light = place.palette.dark, place.palette.light
    place.frustum(0, 0, 0, (0.16, 0.12), 0.25, shaded(dark))
    place.frustum(0, 0.25, 0, (0.05, 0.04), 2.5, shaded(dark))
    place.ellipsoid(0, 2.9, 0, (0.22, 0.24, 0.22), Paint(light, light, glow=0.8))


def planter(place: Place) -> None:
    place.box(0, 0, 0, (1.3, 0.45, 0.7), shaded(place.palette.other_wall))
    for right in (-0.4, 0.0, 0.4):
        radius = place.random.uniform(0.24, 0.34)
        paint = Paint(darker(place.palette.leaf, 0.8), place.palette.leaf)
        if place.random.random() < 0.35:
            paint = place.accent()
        place.ellipsoid(right, 0.55, 0, (radius, radius, radius), paint)


def stall(place: Place) -> None:
    paint = place.accent()
    place.box(0, 0, 0, (1.8, 0.85, 0.8), shaded(place.palette.wood))
    for side in (-0.85, 0.85):
        for end in (-0.55, 0.55):
            place.box(side, 0, end, (0.07, 2.0, 0.07), shaded(place.palette.light))
    place.builder.roof((place.x, place.z), (2.2, 0.55, 1.6), 2.0, paint, yaw=place.yaw)
    for right in (-0.6, -0.2, 0.2, 0.6):
        place.ellipsoid(right, 0.93, 0.1, (0.14, 0.14, 0.14), place.accent())


def rock(place: Place) -> None:
    radius = place.random.uniform(0.4, 0.75)
    paint = shaded(darker(place.palette.other_wall, 0.85), 0.75)
    crystal(place.builder, (place.x, radius * 0.5, place.z), radius, paint, yaw=place.yaw, tall=0.8)


Piece = Callable[[Place], None]

# Piece and half of the square of floor it needs: (across, deep).
ALONG_WALLS: tuple[tuple[Piece, tuple[float, float]], ...] = (
    (sofa, (1.2, 0.5)), (shelf, (0.85, 0.22)), (cabinet, (0.95, 0.28)), (bed, (0.9, 1.4)), (floor_lamp, (0.3, 0.3)),
    (plant, (0.42, 0.42)), (crates, (0.75, 0.4)), (pedestal, (0.32, 0.32)), (shelf, (0.85, 0.22)), (sofa, (1.2, 0.5)),
)  # fmt: skip
FREE: tuple[tuple[Piece, tuple[float, float]], ...] = (
    (table, (1.0, 1.15)), (round_table, (1.1, 1.1)), (pouf, (0.6, 0.4)), (pedestal, (0.32, 0.32)),
    (plant, (0.42, 0.42)),
)  # fmt: skip
OUTDOORS: tuple[tuple[Piece, tuple[float, float]], ...] = (
    (tree, (1.2, 1.2)), (bench, (0.9, 0.4)), (street_lamp, (0.3, 0.3)), (planter, (0.75, 0.45)), (stall, (1.2, 0.9)),
    (rock, (0.8, 0.8)), (tree, (1.2, 1.2)), (crates, (0.8, 0.5)), (round_table, (1.2, 1.2)),
)  # fmt: skip
