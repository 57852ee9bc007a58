"""Camera flights through a world that run into nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.camera_path import CameraPath
from mirage_core.path_presets import PRESETS, preset

from .world import World, frame_times

_CLEARANCE = 0.3  # of the camera from all surfaces, world units
_TRIES = 200


@dataclass(frozen=True)
class Flight:
    """A film's cameras, and the path they fly relative to the first.

    name: of the preset, or "loop".  cameras: in the world.  times: [frames] seconds.
    path: the same relative to the first camera, in world units.
    """

    name: str
    cameras: Cameras
    times: torch.Tensor
    path: CameraPath


def start_camera(world: World, seed: int, *, image_size: tuple[int, int], fov_degrees: float = 75.0) -> Cameras:
    """One camera at eye height that has room around it and looks across the world, not at a near wall."""
    random = Random(f"start {world.kind} {world.seed} {seed}")
    best, best_view = None, -1.0
    for _ in range(12):
        camera = _free_camera(world, random, image_size, fov_degrees)
        view = _openness(world, camera)
        if view > best_view:
            best, best_view = camera, view
    assert best is not None
    return best


def random_flight(
    world: World,
    seed: int,
    *,
    frames: int,
    image_size: tuple[int, int],
    fov_degrees: float | None = None,
    name: str | None = None,
) -> Flight:
    """A smooth flight of `frames` frames that stays clear of everything.

    name: a preset of Camera Path, "loop" (a closed curve, looking ahead), or None for any of them.
    fov_degrees: horizontal field of view; None draws one between 55 and 95.
    Falls back to turning on the spot where a move finds no room.
    """
    random = Random(f"flight {world.kind} {world.seed} {seed}")
    fov = random.uniform(55, 95) if fov_degrees is None else fov_degrees
    times = frame_times(frames, start=random.uniform(0, 10))
    for attempt in range(_TRIES):
        start = start_camera(world, random.randrange(10**9), image_size=image_size, fov_degrees=fov)
        chosen = name or random.choice(_NAMES)
        if attempt == _TRIES - 1:
            chosen = "pan_right"
        scale = _depth_unit(world, start)
        path = _loop(random) if chosen == "loop" else _preset(random, chosen)
        relative = path.cameras(frames, intrinsics=start.intrinsics[0], image_size=image_size, unit_length=scale)
        cameras = relative.moved(start.cam2world[0])
        if _is_clear(world, cameras, times):
            return Flight(chosen, cameras, times, CameraPath.through(cameras))
    raise ValueError(f"World {world.kind} {world.seed} has no room for a camera. This is a fault of the world's plan.")


_NAMES = (
    tuple(
        name for name in PRESETS for _ in range(2 if name.startswith(("orbit", "dolly", "truck", "out", "look")) else 1)
    )
    + ("loop",) * 3
)


def _preset(random: Random, name: str) -> CameraPath:
    size = PRESETS[name].amount * random.uniform(0.5, 1.6)
    easing = random.choice(("linear", "ease"))
    if name == "look_around":
        return preset(name, amount=360.0, easing=easing)
    if name == "out_and_back":
        move = random.choice(("dolly_in", "truck_left", "truck_right", "orbit_left", "orbit_right", "pan_right"))
        amount = PRESETS[move].amount * random.uniform(0.7, 1.8)
        return preset(name, amount=amount, easing=easing, move=move)
    return preset(name, amount=size, easing=easing)


def _loop(random: Random) -> CameraPath:
    """Round an ellipse and back to the start, the view turning to and fro."""
    width, depth = random.uniform(0.15, 0.5), random.uniform(0.1, 0.4)
    turn, side = random.uniform(-35, 35), random.choice((-1, 1))
    cam2world = torch.eye(4, dtype=torch.float64).repeat(33, 1, 1)
    for index, share in enumerate(torch.linspace(0, 1, 33).tolist()):
        angle, yaw = 2 * math.pi * share, math.radians(turn) * math.sin(2 * math.pi * share)
        cam2world[index, 0, 0] = cam2world[index, 2, 2] = math.cos(yaw)
        cam2world[index, 0, 2], cam2world[index, 2, 0] = math.sin(yaw), -math.sin(yaw)
        cam2world[index, 0, 3] = side * width * math.sin(angle)
        cam2world[index, 2, 3] = depth * (1 - math.cos(angle))
    intrinsics = pinhole_intrinsics(60, (64, 64)).expand(33, 3, 3)
    return CameraPath.through(Cameras(cam2world, intrinsics, (64, 64)), unit="median_depth")


def _free_camera(world: World, random: Random, image_size: tuple[int, int], fov: float) -> Cameras:
    for _ in range(_TRIES):
        left, right, front, back = random.choice((world.areas[0], *world.areas))
        x, z = random.uniform(left + 0.6, right - 0.6), random.uniform(front + 0.6, back - 0.6)
        height = random.uniform(1.15, min(2.0, world.ceiling - 0.4))
        place = torch.tensor([[x, -height, z]])
        if world.clearance(place).item() > 0.6:
            # Towards the middle more often than not: walls close by say little.
            to_middle = math.atan2((left + right) / 2 - x, (front + back) / 2 - z)
            yaw = to_middle + random.gauss(0, 0.8)
            pitch = random.gauss(0.06, 0.07)  # downwards
            return _camera(place[0], yaw, pitch, image_size, fov)
    raise ValueError(f"World {world.kind} {world.seed} has no free place for a camera. This is a fault of its plan.")


def _camera(place: torch.Tensor, yaw: float, pitch: float, image_size: tuple[int, int], fov: float) -> Cameras:
    cosine, sine = math.cos(yaw), math.sin(yaw)
    down, ahead = math.sin(pitch), math.cos(pitch)
    forward = [sine * ahead, down, cosine * ahead]
    below = [-sine * down, ahead, -cosine * down]
    right = [cosine, 0.0, -sine]
    cam2world = torch.eye(4, dtype=torch.float64)
    cam2world[:3, :3] = torch.tensor([right, below, forward], dtype=torch.float64).T
    cam2world[:3, 3] = place.double()
    return Cameras(cam2world[None], pinhole_intrinsics(fov, image_size)[None], image_size)


def _openness(world: World, camera: Cameras) -> float:
    """How interesting a view is: far things and many different ones, few close ones."""
    small = world.render(camera.resized((16, 16)))
    depth = small.depth.clamp_max(12)
    return float(depth.median() * (depth > 1.2).float().mean() + 4 * small.rgb.std())


def _depth_unit(world: World, camera: Cameras) -> float:
    """The median depth of what is not sky, which paths are measured in; at most 5 world units."""
    depth = world.still.render(camera.resized((16, 16))).depth
    seen = depth[torch.isfinite(depth)]
    return min(5.0, float(seen.median())) if len(seen) else 5.0


def _is_clear(world: World, cameras: Cameras, times: torch.Tensor) -> bool:
    centers = cameras.centers
    is_low = bool((-centers[:, 1] < world.ceiling).all() and (-centers[:, 1] > 0.4).all())
    return is_low and bool((world.clearance(centers, times) > _CLEARANCE).all())
