"""The shapes a world is made of: boxes, cone frusta, ellipsoids and small convex polyhedra, as stacked tensors.

World axes as everywhere (+x right, +y down, +z forward); the floor is the plane y = 0, so a height h is y = -h.
A shape stands upright and may be turned about the vertical ("yaw", +x towards +z). Colours are linear light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch

BOX, FRUSTUM, ELLIPSOID, POLYHEDRON = range(4)
PLAIN, TILES, STRIPES, BUSY = range(4)
MAX_PLANES = 10

Color = tuple[float, float, float]
Point = tuple[float, float, float]


class Paint(NamedTuple):
    """How a surface looks.

    low, high: sRGB hex ("#rrggbb") at the foot and the top of the shape; between them a gradient.
    pattern: PLAIN, TILES (a checker of large tiles), STRIPES (boards) or BUSY (fine checker and noise).
    second: sRGB hex of the other tiles or boards.  size: of a tile or board, world units.
    glow: share of the colour that shines by itself.
    """

    low: str
    high: str
    pattern: int = PLAIN
    second: str = "#ffffff"
    size: float = 1.0
    glow: float = 0.0


@dataclass(frozen=True)
class Shapes:
    """All shapes of a world; n of them.

    kind [n]; center [n 3] at time 0; half [n 3]: half sizes of a box, radii of an ellipsoid, (radius at the foot, half
    height, radius at the top) of a frustum, half sizes of the bounding box of a polyhedron; yaw [n] radians;
    planes [n 10 4]: outward normal and offset of a polyhedron in its own frame (rows of zeros and a 1 are unused);
    low, high, second [n 3] linear colours; pattern [n]; size [n]; glow [n]; mover [n]: index of the mover the shape
    belongs to, -1 for what stands still.
    """

    kind: torch.Tensor
    center: torch.Tensor
    half: torch.Tensor
    yaw: torch.Tensor
    planes: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    second: torch.Tensor
    pattern: torch.Tensor
    size: torch.Tensor
    glow: torch.Tensor
    mover: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: torch.Tensor | slice) -> Shapes:
        return Shapes(*(getattr(self, one.name)[index] for one in fields(self)))

    def to(self, device: torch.device | str) -> Shapes:
        return Shapes(*(getattr(self, one.name).to(device) for one in fields(self)))

    @property
    def bounds(self) -> torch.Tensor:
        """[n 3] half sizes of the upright box, turned like the shape, that holds it."""
        half = self.half.clone()
        is_frustum = self.kind == FRUSTUM
        widest = torch.maximum(self.half[:, 0], self.half[:, 2])
        half[:, 0] = torch.where(is_frustum, widest, half[:, 0])
        half[:, 2] = torch.where(is_frustum, widest, half[:, 2])
        return half

    def corners(self) -> torch.Tensor:
        """[n 8 3] corners of the bounding boxes relative to `center`, turned."""
        signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
        corners = self.bounds[:, None] * signs.to(self.half.device)
        return to_world_axes(corners, self.yaw[:, None])


def to_own_axes(vectors: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """World vectors [... 3] in the axes of shapes turned by yaw [...]."""
    cosine, sine = yaw.cos(), yaw.sin()
    x, y, z = vectors.unbind(-1)
    return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x], dim=-1)


def to_world_axes(vectors: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """The inverse of to_own_axes."""
    return to_own_axes(vectors, -yaw)


def signed_distances(points: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    """How far points [p 3] are outside of each shape, [p n]: 0 on the surface, negative inside.

    Outside the value is at most the true distance: exact for boxes, a lower bound for the others.
    """
    local = to_own_axes(points[:, None] - shapes.center, shapes.yaw)
    found = _box_distances(local, shapes.half)
    for kind, distances in (
        (FRUSTUM, _frustum_distances),
        (ELLIPSOID, _ellipsoid_distances),
        (POLYHEDRON, _polyhedron_distances),
    ):
        index = (shapes.kind == kind).nonzero()[:, 0]
        if len(index):
            found[:, index] = distances(local[:, index], shapes[index])
    return found


def _box_distances(local: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    beyond = local.abs() - half
    return beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)


def _frustum_distances(local: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    foot, half_height, top = shapes.half.unbind(-1)
    slope = (top - foot) / (2 * half_height)
    radius = (foot + top) / 2 - slope * local[..., 1]
    sideways = (local[..., [0, 2]].norm(dim=-1) - radius) / (1 + slope.square()).sqrt()
    return torch.maximum(sideways, local[..., 1].abs() - half_height)


def _ellipsoid_distances(local: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    return ((local / shapes.half).norm(dim=-1) - 1) * shapes.half.amin(-1)


def _polyhedron_distances(local: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    beyond = torch.einsum("pnc,nkc->pnk", local, shapes.planes[..., :3]) - shapes.planes[..., 3]
    return beyond.amax(-1)


@dataclass
class Builder:
    """Collects shapes one by one; positions are (x, height, z)."""

    busy: bool = False
    rows: list[tuple] = field(default_factory=list)
    mover: int = -1

    def box(self, center: Point, size: Point, paint: Paint, *, yaw: float = 0.0) -> None:
        """size: full width, height and depth."""
        half = (size[0] / 2, size[1] / 2, size[2] / 2)
        self._add(BOX, center, half, yaw, None, paint)

    def standing(
        self, at: tuple[float, float], size: Point, paint: Paint, *, yaw: float = 0.0, foot: float = 0.0
    ) -> None:
        """A box whose foot is at a height, at (x, z)."""
        self.box((at[0], foot + size[1] / 2, at[1]), size, paint, yaw=yaw)

    def frustum(
        self, at: tuple[float, float], radii: tuple[float, float], height: float, paint: Paint, *, foot: float = 0.0
    ) -> None:
        """An upright cone frustum or cylinder; radii at foot and top."""
        half = (max(radii[0], 1e-3), height / 2, max(radii[1], 1e-3))
        self._add(FRUSTUM, (at[0], foot + height / 2, at[1]), half, 0.0, None, paint)

    def ellipsoid(self, center: Point, radii: Point, paint: Paint) -> None:
        self._add(ELLIPSOID, center, radii, 0.0, None, paint)

    def polyhedron(self, center: Point, planes: list[Point], half: Point, paint: Paint, *, yaw: float = 0.0) -> None:
        """The convex solid n . x <= |n|^2 for every n in `planes` (own axes, +y down), inside half sizes `half`."""
        self._add(POLYHEDRON, center, half, yaw, planes, paint)

    def roof(self, center: tuple[float, float], size: Point, foot: float, paint: Paint, *, yaw: float = 0.0) -> None:
        """A gable roof over (x, z): size is width, height and depth; the ridge runs along the depth."""
        half = (size[0] / 2, size[1] / 2, size[2] / 2)
        # Through the eaves (half width, bottom) and the ridge (0, top), as offset along the unit normal.
        length = math.hypot(size[1], half[0])
        normal, reach = (size[1] / length, -half[0] / length), half[1] * half[0] / length
        side = (normal[0] * reach, normal[1] * reach, 0.0)
        planes = [side, (-side[0], side[1], 0.0), (0.0, half[1], 0.0), (0.0, 0.0, half[2]), (0.0, 0.0, -half[2])]
        self.polyhedron((center[0], foot + half[1], center[1]), planes, half, paint, yaw=yaw)

    def _add(self, kind: int, center: Point, half: Point, yaw: float, planes: list[Point] | None, paint: Paint) -> None:
        table = [[0.0, 0.0, 0.0, 1.0]] * MAX_PLANES
        for index, normal in enumerate(planes or []):
            length = math.sqrt(sum(part * part for part in normal))
            table[index] = [*(part / length for part in normal), length]
        pattern, size = (BUSY, 0.28) if self.busy else (paint.pattern, paint.size)
        colors = (linear(paint.low), linear(paint.high), linear(paint.second))
        middle = (center[0], -center[1], center[2])
        self.rows.append((kind, middle, half, yaw, table, *colors, pattern, size, paint.glow, self.mover))

    def shapes(self) -> Shapes:
        columns = list(zip(*self.rows, strict=True))
        whole = {0: torch.int64, 8: torch.int64, 11: torch.int64}
        return Shapes(
            *(torch.tensor(column, dtype=whole.get(index, torch.float32)) for index, column in enumerate(columns))
        )


def linear(color: str) -> Color:
    """Linear light of an sRGB hex colour, by the square that rendering undoes with a root."""
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red * red, green * green, blue * blue
