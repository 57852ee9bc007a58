"""The demo's own first picture: a ray-cast room, always the same. python -m training.stand_in.picture writes it.

The box of the room is the one Simple Depth assumes by default (5 x 2.8 x 6 metres, camera 1.5 m above the floor) seen
with 60 degrees, so that the demo's plain depth is right for floor, ceiling and walls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

SIZE = (640, 1024)  # height, width
FOV_DEGREES = 60.0
PICTURE = Path(__file__).parents[2] / "workflows" / "input" / "mirage_room.jpg"

_LEFT, _RIGHT, _FLOOR, _CEILING, _BACK, _FRONT = -2.5, 2.5, 1.5, -1.3, 6.0, -1.0
_WINDOW = ((-1.05, 0.45), (2.3, 4.3))  # y and z of the window in the left wall
_SKY = torch.tensor([0.78, 0.90, 1.0]) * 1.5


@dataclass(frozen=True)
class Box:
    """An axis-aligned box; camera axes: x right, y down, z forward, metres."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    color: tuple[float, float, float]


def furniture() -> list[Box]:
    wood, dark, cream = (0.50, 0.30, 0.16), (0.30, 0.17, 0.10), (0.86, 0.80, 0.68)
    teal, red, leaf = (0.10, 0.42, 0.45), (0.78, 0.24, 0.16), (0.20, 0.46, 0.18)
    sofa = [
        Box((0.95, 0.98, 3.1), (2.30, 1.22, 5.1), teal),
        Box((2.05, 0.45, 3.1), (2.45, 1.42, 5.1), teal),
        Box((0.95, 0.78, 2.88), (2.45, 1.42, 3.1), (0.08, 0.35, 0.38)),
        Box((0.95, 0.78, 5.1), (2.45, 1.42, 5.32), (0.08, 0.35, 0.38)),
        Box((1.02, 1.22, 3.14), (2.3, 1.42, 5.06), (0.06, 0.26, 0.29)),
        Box((1.78, 0.62, 3.25), (2.05, 0.98, 3.75), (0.92, 0.66, 0.18)),
        Box((1.80, 0.64, 4.5), (2.05, 0.98, 4.95), red),
    ]
    table = [Box((-0.62, 1.02, 3.15), (0.52, 1.08, 4.25), wood)]
    table += [Box((x, 1.08, z), (x + 0.07, 1.5, z + 0.07), dark) for x in (-0.58, 0.41) for z in (3.2, 4.13)]
    table += [Box((-0.35, 0.97, 3.45), (0.0, 1.02, 3.7), red), Box((-0.31, 0.93, 3.48), (-0.03, 0.97, 3.68), cream)]
    table += [Box((0.14, 0.80, 3.72), (0.28, 1.02, 3.86), (0.20, 0.40, 0.66))]
    shelf = [Box((-2.5, -0.75, 5.55), (-2.42, 1.5, 6.0), wood), Box((-1.18, -0.75, 5.55), (-1.10, 1.5, 6.0), wood)]
    shelf += [Box((-2.5, y, 5.55), (-1.10, y + 0.06, 6.0), wood) for y in (-0.78, -0.22, 0.34, 0.90, 1.44)]
    books = torch.Generator().manual_seed(7)
    for top, floor in ((-0.72, -0.22), (-0.16, 0.34), (0.40, 0.90)):
        x = -2.40
        while x < -1.32:
            width, height, shade = (torch.rand(3, generator=books) * torch.tensor([0.05, 0.16, 1.0])).tolist()
            palette = [red, teal, (0.88, 0.70, 0.30), cream, (0.26, 0.28, 0.50), leaf]
            color = palette[int(shade * len(palette))]
            if shade < 0.9:
                shelf.append(Box((x, top + 0.06 + height, 5.66), (x + 0.04 + width, floor, 5.92), color))
            x += 0.045 + width
    shelf += [
        Box((-2.35, 1.02, 5.62), (-1.85, 1.44, 5.9), (0.62, 0.50, 0.34)),
        Box((-1.7, 1.1, 5.62), (-1.3, 1.44, 5.9), cream),
    ]
    plant = [Box((-2.2, 1.08, 4.72), (-1.86, 1.5, 5.06), (0.72, 0.40, 0.26))]
    leaves = torch.Generator().manual_seed(3)
    for _ in range(26):
        x, y, z, side = (torch.rand(4, generator=leaves) * torch.tensor([0.62, 0.85, 0.6, 0.12])).tolist()
        plant.append(Box((-2.40 + x, 0.20 + y, 4.55 + z), (-2.33 + x + side, 0.25 + y, 4.60 + z + side), leaf))
    lamp = [
        Box((2.02, -0.42, 5.55), (2.36, -0.06, 5.88), (1.0, 0.90, 0.66)),
        Box((2.16, -0.06, 5.69), (2.22, 1.5, 5.75), dark),
    ]
    frame = [Box((_LEFT, -1.12, 3.27), (-2.44, 0.5, 3.33), cream), Box((_LEFT, -0.33, 2.3), (-2.44, -0.28, 4.3), cream)]
    frame += [Box((_LEFT, 0.45, 2.2), (-2.32, 0.52, 4.4), cream)]
    curtains = [
        Box((_LEFT, -1.2, z), (-2.40, 1.35, z + 0.09), (0.86, 0.52, 0.30)) for z in (1.95, 2.08, 2.21, 4.32, 4.45, 4.58)
    ]
    return sofa + table + shelf + plant + lamp + frame + curtains


def draw(size: tuple[int, int] = SIZE, *, samples: int = 4, lights: int = 6) -> torch.Tensor:
    """The picture, [height width 3] in [0, 1]."""
    boxes, generator = furniture(), torch.Generator().manual_seed(0)
    total = torch.zeros(size[0] * size[1], 3)
    for sample in range(samples):
        shift = torch.tensor([(sample % 2 + 0.5) / 2, (sample // 2 + 0.5) / 2])
        rays = F.normalize(_rays(size, shift), dim=-1)
        total += torch.cat([_seen(part, boxes, lights, generator) for part in rays.split(65536)])
    linear = (total / samples).view(*size, 3)
    mapped = 1 - torch.exp(-1.5 * linear)  # a soft shoulder, so that the window does not burn out
    return mapped.clamp(0, 1) ** (1 / 2.2)


def _rays(size: tuple[int, int], shift: torch.Tensor) -> torch.Tensor:
    height, width = size
    focal = width / 2 / math.tan(math.radians(FOV_DEGREES) / 2)
    y, x = torch.meshgrid(torch.arange(height) + shift[1], torch.arange(width) + shift[0], indexing="ij")
    return torch.stack([(x - width / 2) / focal, (y - height / 2) / focal, torch.ones_like(x)], -1).view(-1, 3)


def _seen(rays: torch.Tensor, boxes: list[Box], lights: int, generator: torch.Generator) -> torch.Tensor:
    """Light along rays [rays 3] from the origin."""
    distance, normal, which = _nearest(torch.zeros_like(rays), rays, boxes)
    points = rays * distance[:, None]
    color = _surface_color(points, which, boxes)
    light = _window_light(points + normal * 1e-3, normal, boxes, lights, generator)
    light = light + _lamp_light(points, normal) + _ambient(points, normal)
    seen = color * light
    is_lamp = which == next(index for index, box in enumerate(boxes) if box.color == (1.0, 0.90, 0.66))
    seen[is_lamp] = torch.tensor([2.4, 1.9, 1.1])
    seen[which == -2] = _outside(points)[which == -2]
    return seen


def _nearest(
    origins: torch.Tensor, rays: torch.Tensor, boxes: list[Box]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distance, normal and box index; -1 is the room itself, -2 the window opening."""
    low, high = torch.tensor([_LEFT, _CEILING, _FRONT]), torch.tensor([_RIGHT, _FLOOR, _BACK])
    safe = torch.where(rays.abs() < 1e-9, torch.full_like(rays, 1e-9), rays)
    exits = torch.maximum((low - origins) / safe, (high - origins) / safe)
    distance, axis = exits.min(-1)
    normal = -F.one_hot(axis, 3) * torch.sign(safe)
    which = torch.full_like(axis, -1)
    for index, box in enumerate(boxes):
        near, far = _slabs(origins, safe, box)
        entry, entry_axis = near.max(-1)
        hit = (entry < far.min(-1).values) & (entry > 1e-4) & (entry < distance)
        distance = torch.where(hit, entry, distance)
        normal = torch.where(hit[:, None], -F.one_hot(entry_axis, 3) * torch.sign(safe), normal)
        which = torch.where(hit, index, which)
    points = origins + rays * distance[:, None]
    return distance, normal, torch.where((which == -1) & _is_window(points), -2, which)


def _slabs(origins: torch.Tensor, rays: torch.Tensor, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = (torch.tensor(box.low) - origins) / rays, (torch.tensor(box.high) - origins) / rays
    return torch.minimum(one, other), torch.maximum(one, other)


def _is_window(points: torch.Tensor) -> torch.Tensor:
    (top, bottom), (near, far) = _WINDOW
    x, y, z = points.unbind(-1)
    return (x < _LEFT + 1e-3) & (y > top) & (y < bottom) & (z > near) & (z < far)


def _window_light(
    points: torch.Tensor, normal: torch.Tensor, boxes: list[Box], lights: int, generator: torch.Generator
) -> torch.Tensor:
    """Soft daylight: visibility of random points in the window, one from each of `lights` strips of it.

    Only boxes larger than a litre throw shadows.
    """
    casters = [box for box in boxes if math.prod(b - a for a, b in zip(box.low, box.high, strict=True)) > 1e-3]
    (top, bottom), (near, far) = _WINDOW
    total = torch.zeros(len(points), 1)
    area = (bottom - top) * (far - near)
    for strip in range(lights):
        jitter = torch.rand(len(points), 2, generator=generator)
        y, z = top + (bottom - top) * jitter[:, 0], near + (far - near) * (strip + jitter[:, 1]) / lights
        to_light = torch.stack([torch.full_like(y, _LEFT + 0.12), y, z], -1) - points
        length = to_light.norm(dim=-1, keepdim=True).clamp(min=0.2)
        direction = to_light / length
        facing = (direction * normal).sum(-1, keepdim=True).clamp(min=0) * (-direction[:, :1]).clamp(min=0)
        is_lit = ~_is_blocked(points, to_light, casters)
        total += facing * is_lit[:, None] / length**2
    return total * area / lights * torch.tensor([1.0, 0.97, 0.90]) * 3.4


def _is_blocked(points: torch.Tensor, to_light: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
    safe = torch.where(to_light.abs() < 1e-9, torch.full_like(to_light, 1e-9), to_light)
    blocked = torch.zeros(len(points), dtype=torch.bool)
    for box in boxes:
        near, far = _slabs(points, safe, box)
        blocked |= (near.max(-1).values < far.min(-1).values) & (far.min(-1).values > 0) & (near.max(-1).values < 1)
    return blocked


def _lamp_light(points: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    to_lamp = torch.tensor([2.19, -0.24, 5.4]) - points
    length = to_lamp.norm(dim=-1, keepdim=True).clamp(min=0.25)
    facing = ((to_lamp / length) * normal).sum(-1, keepdim=True).clamp(min=0)
    return facing / length**2 * torch.tensor([0.50, 0.34, 0.16])


def _ambient(points: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Light from all sides, less in corners and under things near the floor."""
    x, y, z = points.unbind(-1)
    corners = torch.stack([x - _LEFT, _RIGHT - x, y - _CEILING, _FLOOR - y, _BACK - z], -1).sort(-1).values
    open_ = 1 - 0.45 * torch.exp(-corners[:, 1] * 3) - 0.2 * torch.exp(-corners[:, 2] * 2)
    up = 0.5 - 0.5 * normal[:, 1]
    return (open_ * (0.24 + 0.10 * up))[:, None] * torch.tensor([1.0, 0.98, 0.96])


def _outside(points: torch.Tensor) -> torch.Tensor:
    height = ((points[:, 1] + 1.1) / 1.6).clamp(0, 1)[:, None]
    hills = (height > 0.66 + 0.05 * torch.sin(points[:, 2:] * 4)).float()
    return (_SKY * (1 - 0.25 * height)) * (1 - hills) + torch.tensor([0.42, 0.62, 0.34]) * hills


def _surface_color(points: torch.Tensor, which: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
    palette = torch.tensor([box.color for box in boxes])
    color = palette[which.clamp(min=0)] * (0.94 + 0.06 * torch.sin(points[:, :1] * 70 + points[:, 1:2] * 45))
    return torch.where((which < 0)[:, None], _room_color(points), color)


def _room_color(points: torch.Tensor) -> torch.Tensor:
    x, y, z = points.unbind(-1)
    wall = torch.tensor([0.80, 0.74, 0.64]).expand(len(points), 3).clone()
    back = z > _BACK - 1e-3
    wall[back] = torch.tensor([0.56, 0.66, 0.60])
    wall[(y > _FLOOR - 0.11) & (y < _FLOOR - 1e-3)] = torch.tensor([0.90, 0.88, 0.82])
    _hang_picture(wall, back, x, y, (-0.75, -0.72), (0.35, 0.18))
    _hang_picture(wall, back, x, y, (0.62, -0.55), (1.22, 0.25))
    _hang_picture(wall, x > _RIGHT - 1e-3, z, y, (2.0, -0.75), (2.75, 0.15))
    wall[y < _CEILING + 1e-3] = torch.tensor([0.92, 0.91, 0.88])
    floor = y > _FLOOR - 1e-3
    wall[floor] = _floor_color(x, z)[floor]
    return wall


def _floor_color(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    plank = torch.floor(x / 0.22)
    board = torch.floor((z + plank * 1.37) / 1.5)
    tone = 0.5 + 0.5 * torch.sin(plank * 12.9898 + board * 78.233)
    grain = 0.04 * torch.sin(x * 160 + torch.sin(z * 3 + plank) * 4)
    seam = ((x / 0.22) % 1 < 0.05) | (((z + plank * 1.37) / 1.5) % 1 < 0.012)
    wood = torch.tensor([0.52, 0.33, 0.18]) * (0.82 + 0.26 * tone + grain)[:, None]
    wood = torch.where(seam[:, None], wood * 0.45, wood)
    rug = (x > -1.35) & (x < 0.85) & (z > 2.75) & (z < 4.75)
    border = rug & ~((x > -1.22) & (x < 0.72) & (z > 2.88) & (z < 4.62))
    stripe = (torch.floor((z - 2.75) / 0.16) % 3 == 0)[:, None]
    woven = torch.where(stripe, torch.tensor([0.72, 0.22, 0.16]), torch.tensor([0.86, 0.76, 0.58]))
    woven = torch.where(border[:, None], torch.tensor([0.20, 0.24, 0.40]), woven)
    return torch.where(rug[:, None], woven, wood)


def _hang_picture(
    wall: torch.Tensor, on_wall: torch.Tensor, a: torch.Tensor, b: torch.Tensor, low: tuple, high: tuple
) -> None:
    """A framed landscape between the corners `low` and `high`, given like `a` and `b` along the wall in metres."""
    where = on_wall & (a > low[0]) & (a < high[0]) & (b > low[1]) & (b < high[1])
    u, v = (a[where] - low[0]) / (high[0] - low[0]), (b[where] - low[1]) / (high[1] - low[1])
    hill = 0.55 + 0.14 * torch.sin(u * 7 + 1)
    paint = torch.where((v > hill)[:, None], torch.tensor([0.20, 0.38, 0.30]), torch.tensor([0.92, 0.66, 0.36]))
    paint = torch.where((v > hill + 0.2)[:, None], torch.tensor([0.12, 0.22, 0.30]), paint)
    sun = (u - 0.68) ** 2 + (v - 0.3) ** 2 < 0.018
    paint[sun] = torch.tensor([0.98, 0.90, 0.62])
    edge = (u < 0.07) | (u > 0.93) | (v < 0.09) | (v > 0.91)
    paint[edge] = torch.tensor([0.22, 0.14, 0.09])
    wall[where] = paint


def main() -> None:
    picture = (draw() * 255).round().byte().numpy()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(PICTURE, quality=90, optimize=True)
    print(f"{PICTURE} ({PICTURE.stat().st_size // 1024} KB)")


if __name__ == "__main__":
    main()
