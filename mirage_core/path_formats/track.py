"""What a camera file holds: cameras, their frame rate and their names; and bringing them into a scene.

Not here: files, axes of other tools (conventions.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..camera import Cameras

MAX_CAMERAS = 100_000  # more than an hour of film; a larger file is not a camera path
Fit = Literal["keep", "median_depth", "known_distance"]


@dataclass(frozen=True)
class CameraTrack:
    """Cameras of a film with what a file says about them.

    fps: frames per second; None when the file does not say.  names: one per camera (file names, timestamps, frame
        numbers), or empty.

    Raises ValueError for no camera, too many, a frame rate <= 0, or names that do not match.
    """

    cameras: Cameras
    fps: float | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.cameras) < 1:
            raise ValueError("The camera path has no cameras. Export at least one frame.")
        if len(self.cameras) > MAX_CAMERAS:
            raise ValueError(f"The camera path has {len(self.cameras)} cameras; at most {MAX_CAMERAS} are read.")
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1e6):
            raise ValueError(f"The frame rate is {self.fps}; it is a number of frames per second above 0.")
        if self.names and len(self.names) != len(self.cameras):
            raise ValueError(f"There are {len(self.cameras)} cameras and {len(self.names)} names; give one per camera.")

    def with_cameras(self, cameras: Cameras) -> CameraTrack:
        """The same track with other cameras, one for one."""
        return replace(self, cameras=cameras)

    def image_names(self) -> tuple[str, ...]:
        """The names, or frame_00000.png and so on for a track without."""
        return self.names or tuple(f"frame_{index:05d}.png" for index in range(len(self.cameras)))


def placed_at(cameras: Cameras, first_cam2world: torch.Tensor) -> Cameras:
    """The whole path moved rigidly so that its first camera stands at first_cam2world [4 4]."""
    return cameras.moved(first_cam2world.double() @ cameras[0].world2cam[0])


def in_first_camera(cameras: Cameras) -> Cameras:
    """The whole path moved rigidly so that the world is the first camera's frame, as in every CameraPath."""
    return placed_at(cameras, torch.eye(4, dtype=torch.float64))


def fit_scale(
    cameras: Cameras,
    how: Fit,
    *,
    scene_median_depth: float | None = None,
    path_median_depth: float = 1.0,
    distance: float | None = None,
    between: tuple[int, int] = (0, -1),
) -> Cameras:
    """The path in the world units of a scene; positions grow away from the first camera, which stays where it is.

    how: "keep": the file's units are the scene's.
        "median_depth": one path_median_depth of the file becomes scene_median_depth. path_median_depth is the median
        depth of the scene the path was made in, in the file's units (1 for files that measure in it).
        "known_distance": the straight line between the two cameras `between` becomes `distance` world units.

    Raises ValueError when the numbers are missing or not above 0, or the two cameras stand in one place.
    """
    if how == "keep":
        return cameras
    if how == "median_depth":
        if scene_median_depth is None:
            raise ValueError("Fitting by median depth needs the scene's median depth. Connect depth, or choose keep.")
        scale = _above_zero(scene_median_depth, "scene_median_depth") / _above_zero(
            path_median_depth, "path_median_depth"
        )
    elif how == "known_distance":
        if distance is None:
            raise ValueError("Fitting by a known distance needs that distance in world units. Give it, or choose keep.")
        first, second = (_frame_index(index, len(cameras)) for index in between)
        length = float((cameras.centers[first] - cameras.centers[second]).norm())
        if length < 1e-9:
            raise ValueError(
                f"Cameras {first} and {second} stand in one place, so no distance can be measured between them. "
                "Choose two cameras that are apart."
            )
        scale = _above_zero(distance, "distance") / length
    else:
        raise ValueError(f"Unknown way to fit the scale: {how!r}. Use keep, median_depth or known_distance.")
    cam2world = cameras.cam2world.clone()
    cam2world[:, :3, 3] = cameras.centers[0] + (cameras.centers - cameras.centers[0]) * scale
    return Cameras(cam2world, cameras.intrinsics, cameras.image_size)


def fitted(cameras: Cameras, image_size: tuple[int, int]) -> Cameras:
    """The same cameras for a film of image_size: the picture is enlarged without stretching and cropped in its middle.

    Unlike Cameras.resized a 16:9 path keeps round things round in a 4:3 film.
    """
    scale = max(new / old for new, old in zip(image_size, cameras.image_size, strict=True))
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] *= scale
    intrinsics[:, 0, 2] += (image_size[1] - cameras.image_size[1] * scale) / 2
    intrinsics[:, 1, 2] += (image_size[0] - cameras.image_size[0] * scale) / 2
    return Cameras(cameras.cam2world, intrinsics, image_size)


def summary(track: CameraTrack) -> str:
    """One sentence a person can check an import by: how many cameras, how far they go, how much they turn."""
    cameras = track.cameras
    steps = cameras.cam2world[1:, :3, 3] - cameras.cam2world[:-1, :3, 3]
    length = float(steps.norm(dim=1).sum())
    forward = cameras.cam2world[:, :3, 2]
    turn = math.degrees(math.acos(max(-1.0, min(1.0, float((forward @ forward[0]).min())))))
    height, width = cameras.image_size
    fov = math.degrees(2 * math.atan(width / 2 / float(cameras.intrinsics[0, 0, 0])))
    rate = "no frame rate" if track.fps is None else f"{track.fps:.6g} fps"
    return (
        f"{len(cameras)} cameras of {width}x{height}, {rate}, path {length:.4g} units long, "
        f"looks up to {turn:.1f} degrees away from the start, field of view {fov:.1f} degrees."
    )


def _above_zero(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it is a length above 0.")
    return float(value)


def _frame_index(index: int, count: int) -> int:
    if not -count <= index < count:
        raise ValueError(f"There is no camera {index} in a path of {count}. Use 0 to {count - 1}.")
    return index % count
