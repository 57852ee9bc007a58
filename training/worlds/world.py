"""World: a procedural place with exact truth about every pixel, from a seed. Rendering happens here.

Nothing is read from files, and the same seed gives the same world on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch

from mirage_core.camera import Cameras

from .casting import Hits, cast, pixel_directions
from .layout import Rectangle
from .movers import Mover, add_movers
from .palettes import PALETTES, Palette
from .plazas import build_plaza
from .rooms import build_room
from .shading import Light, LightMap, light_map, sky_colors, surface_colors
from .shapes import Builder, Shapes, linear, signed_distances

FRAMES_PER_SECOND = 16.0


@dataclass(frozen=True)
class Frames:
    """Pictures and the truth about them.

    rgb: [frames H W 3] float32 sRGB in [0, 1].  depth: [frames H W] float32 z-depth, inf where there is sky.
    is_sky, is_mover: [frames H W] bool, True where the pixel's centre sees sky, a thing that moves.
    mover: [frames H W] int64, which mover a pixel sees, -1 for none.
    cameras: one per frame.  times: [frames] float64 seconds.
    """

    rgb: torch.Tensor
    depth: torch.Tensor
    is_sky: torch.Tensor
    is_mover: torch.Tensor
    mover: torch.Tensor
    cameras: Cameras
    times: torch.Tensor

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, index: slice) -> Frames:
        return Frames(
            self.rgb[index],
            self.depth[index],
            self.is_sky[index],
            self.is_mover[index],
            self.mover[index],
            self.cameras[index],
            self.times[index],
        )


@dataclass(frozen=True)
class World:
    """A place: its shapes, its light and what moves in it. Make one with World.room or World.plaza.

    areas: floor rectangles (x from, x to, z from, z to) between walls or houses, where a camera may be.
    ceiling: height a camera stays below.
    """

    kind: str
    seed: int
    palette: Palette
    shapes: Shapes
    movers: tuple[Mover, ...]
    light: Light
    floor: LightMap
    areas: tuple[Rectangle, ...]
    ceiling: float

    @classmethod
    def room(cls, seed: int, *, movers: int = 0, busy: bool = False) -> World:
        """Two furnished chambers with a doorway, windows and a garden outside.

        movers: how many things move (fewer where there is no way for them).
        busy: fine checker and noise on every surface, for tests of geometry.
        """
        random = Random(f"room {seed}")
        palette, builder = random.choice(PALETTES), Builder(busy)
        chambers = build_room(builder, random, palette)
        left, right, front, back = chambers.areas[0]
        moving = _movers(builder, palette, seed, movers, (left + 0.5, right - 0.5, front + 0.5, back - 0.5), 2.4)
        light = _light(random, palette, is_indoors=True)
        return cls._finished("room", seed, palette, builder, moving, light, chambers.areas, chambers.height - 0.3)

    @classmethod
    def plaza(cls, seed: int, *, movers: int = 0, busy: bool = False) -> World:
        """A square under open sky with houses, arcades, trees and a monument. Arguments as of `room`."""
        random = Random(f"plaza {seed}")
        palette, builder = random.choice(PALETTES), Builder(busy)
        area = build_plaza(builder, random, palette)
        moving = _movers(
            builder, palette, seed, movers, (0.75 * area[0], 0.75 * area[1], 0.75 * area[2], 0.75 * area[3]), 3.0
        )
        light = _light(random, palette, is_indoors=False)
        return cls._finished("plaza", seed, palette, builder, moving, light, (area,), 4.0)

    @classmethod
    def _finished(
        cls, kind: str, seed: int, palette: Palette, builder: Builder, movers: tuple[Mover, ...], light: Light,
        areas: tuple[Rectangle, ...], ceiling: float,
    ) -> World:  # fmt: skip
        shapes = builder.shapes()
        reach = 1.3 * max(abs(side) for area in areas for side in area)
        floor = light_map(shapes[shapes.mover < 0], light, reach)
        return cls(kind, seed, palette, shapes, movers, light, floor, areas, ceiling)

    @property
    def still(self) -> World:
        """The same world without anything that moves."""
        return replace(self, shapes=self.shapes[self.shapes.mover < 0], movers=())

    def render(self, cameras: Cameras, times: torch.Tensor | None = None, *, supersampling: int = 1) -> Frames:
        """What the cameras see.

        times: [frames] seconds, 0 for all frames when not given; frame_times() gives those of a film.
        supersampling: n averages n x n colours per pixel; depth and masks are always those of the pixel's centre.

        Raises ValueError when there is not one time per camera.
        """
        times = torch.zeros(len(cameras)) if times is None else times
        if len(times) != len(cameras):
            raise ValueError(f"There are {len(cameras)} cameras and {len(times)} times; each frame needs both.")
        centers = self._centers(times)
        hits = cast(cameras, self.shapes, centers)
        if supersampling == 1:
            rgb = self._colors(cameras, hits, centers)
        else:
            height, width = cameras.image_size
            fine = cameras.resized((height * supersampling, width * supersampling))
            rgb = self._colors(fine, cast(fine, self.shapes, centers), centers)
            rgb = torch.nn.functional.avg_pool2d(rgb.movedim(-1, 1), supersampling).movedim(1, -1)
        is_sky = hits.shape < 0
        mover = torch.where(is_sky, -1, self.shapes.mover[hits.shape.clamp_min(0)])
        return Frames(rgb, hits.depth, is_sky, mover >= 0, mover, cameras, times.double())

    def clearance(self, points: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """How far points [p 3] are from the nearest thing, [p]: 0 on a surface, negative inside. A lower bound.

        times: [p] seconds, where moving things count too; without them only what stands still counts.
        """
        still = self.shapes[self.shapes.mover < 0]
        nearest = signed_distances(points.float(), still).amin(1)
        for mover in self.movers if times is not None else ():
            assert times is not None
            away = (points.double() - mover.positions(times)).norm(dim=-1) - mover.radius
            nearest = torch.minimum(nearest, away.float())
        return nearest

    def _centers(self, times: torch.Tensor) -> torch.Tensor:
        centers = self.shapes.center.double().expand(len(times), -1, -1).clone()
        for index, mover in enumerate(self.movers):
            centers[:, self.shapes.mover == index] += mover.shifts(times)[:, None]
        return centers

    def _colors(self, cameras: Cameras, hits: Hits, centers: torch.Tensor) -> torch.Tensor:
        directions = pixel_directions(cameras)
        rgb = torch.empty_like(directions)
        for frame in range(len(cameras)):  # one frame's temporaries stay in the cache
            seen, depth = hits.shape[frame].flatten(), hits.depth[frame].flatten()
            rays, is_sky = directions[frame].view(-1, 3), seen < 0
            seen = seen.clamp_min(0)
            points = cameras.centers[frame].float() + rays * torch.where(is_sky, 0, depth)[:, None]
            places = centers[frame, seen].float()
            # A moving thing is lit where it is, but its own gradients go with it.
            colors = surface_colors(points, seen, places, self.shapes, self.light, self.floor)
            if is_sky.any():
                colors[is_sky] = sky_colors(rays[is_sky], self.light)
            rgb[frame] = colors.view(*cameras.image_size, 3)
        return rgb


def frame_times(frames: int, *, start: float = 0.0, frames_per_second: float = FRAMES_PER_SECOND) -> torch.Tensor:
    """[frames] float64 seconds of a film's frames."""
    return start + torch.arange(frames, dtype=torch.float64) / frames_per_second


def _movers(
    builder: Builder, palette: Palette, seed: int, count: int, area: Rectangle, top: float
) -> tuple[Mover, ...]:
    # A random stream of their own: a world is the same with and without movers.
    return add_movers(builder, Random(f"movers {seed}"), palette, count, area=area, top=top) if count else ()


def _light(random: Random, palette: Palette, *, is_indoors: bool) -> Light:
    height = random.uniform(0.55, 0.95) if is_indoors else random.uniform(0.7, 1.3)
    sun = _direction(random.uniform(-3.14, 3.14), height)
    fill = _direction(random.uniform(-3.14, 3.14), 0.6)
    sun_color, shade = torch.tensor(linear(palette.sun)), torch.tensor(linear(palette.shade))
    zenith, horizon = torch.tensor(linear(palette.zenith)), torch.tensor(linear(palette.horizon))
    if is_indoors:
        return Light(sun, fill, 0.8 * sun_color, 0.66 * shade, 0.5 * sun_color, zenith, horizon, 0.0)
    return Light(sun, fill, 0.62 * sun_color, 0.42 * shade, 0.2 * shade, zenith, horizon, 1.0)


def _direction(heading: float, height: float) -> torch.Tensor:
    angle = torch.tensor(heading)
    direction = torch.stack([angle.sin(), torch.tensor(-height), angle.cos()])
    return direction / direction.norm()
