"""The colour of surfaces and sky. A point looks the same from every side (Lambert), whatever moves around it.

Light: a sun, sky from above and a soft fill from one side. What the sun reaches on the ground and how dark corners are
is worked out once per world, on a map of the floor (LightMap). Things that move cast no shadow, so that pictures with
and without them differ only where they are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .casting import is_blocked
from .shapes import BOX, BUSY, ELLIPSOID, FRUSTUM, POLYHEDRON, STRIPES, TILES, Shapes, signed_distances, to_own_axes

_FLAT = 0.12  # surfaces up to this height take their light from the map of the floor


@dataclass(frozen=True)
class Light:
    """sun, fill: unit vectors towards them [3].  sun_color, sky_color, fill_color: linear light [3].

    zenith, horizon: linear colours of the sky [3].  sun_reaches_shapes: share of sunlight on what stands on the floor.
    """

    sun: torch.Tensor
    fill: torch.Tensor
    sun_color: torch.Tensor
    sky_color: torch.Tensor
    fill_color: torch.Tensor
    zenith: torch.Tensor
    horizon: torch.Tensor
    sun_reaches_shapes: float


@dataclass(frozen=True)
class LightMap:
    """Light on the floor in a square of half size `reach` around the origin.

    sunlit, open: [1 1 cells cells] in [0, 1]: share of the sun seen, and of the sky not hidden by things close by.
    """

    sunlit: torch.Tensor
    open: torch.Tensor
    reach: float

    def at(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(sunlit, open) [points] below world points [points 3]."""
        places = (points[:, [0, 2]] / self.reach).clamp(-1, 1)[None, None]
        both = torch.cat([self.sunlit, self.open], dim=1)
        found = torch.nn.functional.grid_sample(both, places, align_corners=False, padding_mode="border")
        return found[0, 0, 0], found[0, 1, 0]


def light_map(shapes: Shapes, light: Light, reach: float, *, cells: int = 128) -> LightMap:
    """Cast the sun's light and the soft shade of nearby things onto the floor. `shapes`: those that stand still."""
    steps = (torch.arange(cells) + 0.5) / cells * 2 * reach - reach
    z, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, torch.full_like(x, -0.03), z], dim=-1).view(-1, 3)
    is_near = (shapes.center[:, [0, 2]].abs() < reach + 5).all(1)
    tall = shapes[is_near & (shapes.center[:, 1] - shapes.bounds[:, 1] < -_FLAT)]
    sunlit = torch.zeros(len(points))
    across = torch.linalg.cross(light.sun, torch.tensor([0.0, 1.0, 0.0]))
    jitters = [(0.0, 0.0), (0.035, 0.0), (-0.035, 0.0), (0.0, 0.035), (0.0, -0.035)]
    for first, second in jitters:
        direction = light.sun + first * across + second * torch.linalg.cross(across, light.sun)
        sunlit += (~is_blocked(points, direction, tall)).float() / len(jitters)
    nearest = torch.cat([signed_distances(part, tall).amin(1) for part in points.split(4096)])
    openness = 1 - 0.5 * torch.exp(-nearest.clamp_min(0) / 0.3)
    sunlit, openness = (one.view(1, 1, cells, cells) for one in (sunlit, openness))
    return LightMap(_blurred(sunlit), _blurred(openness), reach)


def _blurred(picture: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([1.0, 2, 1]) / 4
    kernel = (kernel[:, None] * kernel)[None, None]
    return torch.nn.functional.conv2d(torch.nn.functional.pad(picture, (1, 1, 1, 1), mode="replicate"), kernel)


def surface_colors(
    points: torch.Tensor, index: torch.Tensor, centers: torch.Tensor, shapes: Shapes, light: Light, floor: LightMap
) -> torch.Tensor:
    """sRGB colours [p 3] of world points [p 3] on the shapes `index` [p], whose centres are `centers` [p 3]."""
    yaw = shapes.yaw[index]
    relative = points - centers
    local = to_own_axes(relative, yaw)
    normals = _local_normals(local, index, shapes)
    world_normals = to_own_axes(normals, -yaw)
    albedo = _albedo(local, normals, index, shapes)
    return (albedo * _irradiance(points, local, world_normals, index, shapes, light, floor)).clamp(0, 1).sqrt()


def _local_normals(local: torch.Tensor, index: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    kind, half = shapes.kind[index], shapes.half[index]
    share = local / half
    axis = share.abs().argmax(-1, keepdim=True)
    normals = torch.zeros_like(local).scatter_(1, axis, share.gather(1, axis).sign())
    for other, of_kind in ((FRUSTUM, _frustum_normals), (ELLIPSOID, _ellipsoid_normals)):
        part = (kind == other).nonzero()[:, 0]
        if len(part):
            normals[part] = of_kind(local[part], half[part])
    part = (kind == POLYHEDRON).nonzero()[:, 0]
    if len(part):
        planes = shapes.planes[index[part]]
        beyond = (planes[..., :3] * local[part, None]).sum(-1) - planes[..., 3]
        normals[part] = planes[torch.arange(len(part)), beyond.argmax(-1), :3]
    return normals


def _frustum_normals(local: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    foot, half_height, top = half.unbind(-1)
    slope = (foot - top) / (2 * half_height)
    across = local[:, [0, 2]].norm(dim=-1)
    radius = (foot + top) / 2 + slope * local[:, 1]
    is_cap = half_height - local[:, 1].abs() < (radius - across).abs()
    outward = local / across.clamp_min(1e-6)[:, None]
    side = torch.stack([outward[:, 0], -slope, outward[:, 2]], dim=-1) / (1 + slope.square()).sqrt()[:, None]
    cap = torch.stack([torch.zeros_like(slope), local[:, 1].sign(), torch.zeros_like(slope)], dim=-1)
    return torch.where(is_cap[:, None], cap, side)


def _ellipsoid_normals(local: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(local / half.square(), dim=-1)


def _albedo(local: torch.Tensor, normals: torch.Tensor, index: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    height = (0.5 - 0.5 * local[:, 1] / shapes.half[index, 1]).clamp(0, 1)
    low, high = shapes.low[index], shapes.high[index]
    albedo = low + (high - low) * height[:, None]
    pattern = shapes.pattern[index]
    patterned = (pattern != 0).nonzero()[:, 0]
    if len(patterned):
        where, flat = index[patterned], local[patterned]
        # Across a flat face, not along its normal: there rounding errors would decide between two tiles.
        is_box = (shapes.kind[where] == BOX)[:, None]
        flat = torch.where(is_box & (normals[patterned].abs() > 0.5), 0.0, flat) / shapes.size[where, None]
        share = _pattern_share(flat + 0.137, pattern[patterned])[:, None]
        albedo[patterned] += (shapes.second[where] - albedo[patterned]) * share
    return albedo


def _pattern_share(places: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Share [p] of the second colour at places [p 3] in tiles."""
    cell = places.floor()
    checker = cell.sum(-1).remainder(2)
    boards = cell[:, 0].remainder(2)
    share = torch.where(pattern == TILES, checker, torch.where(pattern == STRIPES, boards, 0.0))
    if (pattern == BUSY).any():
        fine = (places * 2.5).floor() @ torch.tensor([12.9898, 78.233, 37.719])
        noise = (fine.sin() * 43758.5453).remainder(1)
        share = torch.where(pattern == BUSY, 0.55 * checker + 0.45 * noise, share)
    return share


def _irradiance(
    points: torch.Tensor,
    local: torch.Tensor,
    normals: torch.Tensor,
    index: torch.Tensor,
    shapes: Shapes,
    light: Light,
    floor: LightMap,
) -> torch.Tensor:
    height, up = -points[:, 1], -normals[:, 1]
    sunlit, openness = floor.at(points)
    is_ground = (height < _FLAT) & (up > 0.9)
    # Standing things darken softly towards the floor, as corners do.
    corner = 1 - 0.3 * torch.exp(-height.clamp_min(0) / 0.35)
    openness = torch.where(is_ground, openness, corner)[:, None]
    sunlit = torch.where(is_ground, sunlit, light.sun_reaches_shapes) * (normals @ light.sun).clamp_min(0)
    fill = 0.5 + 0.5 * (normals @ light.fill)
    sky = 0.62 + 0.38 * up
    soft = sky[:, None] * light.sky_color + fill[:, None] * light.fill_color
    received = soft * openness + sunlit[:, None] * light.sun_color
    glow = shapes.glow[index][:, None]
    return received + glow * (1.05 - received).clamp_min(0)


def sky_colors(directions: torch.Tensor, light: Light) -> torch.Tensor:
    """sRGB colours [p 3] of the sky in world directions [p 3]."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    up = (-unit[:, 1]).clamp(0, 1)[:, None].sqrt()
    glow = (unit @ light.sun).clamp_min(0).pow(24)[:, None]
    colors = light.horizon + (light.zenith - light.horizon) * up + 0.25 * glow * light.sun_color
    return colors.clamp(0, 1).sqrt()
