"""Camera paths: keyframes over the time of a film. A path becomes Cameras here; the presets are path_presets.py.

A path starts at the identity: its world is the frame of the film's first camera (OpenCV axes: +x right, +y down,
+z forward). Reading and writing the files of other tools is not done here (path_formats.py), nor is drawing.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from .camera import Cameras
from .path_motion import monotone_slopes, rotation_vectors, rotations, screw_translations

Unit = Literal["world", "median_depth"]
Easing = Literal["linear", "ease", "ease_in", "ease_out"]
Interpolation = Literal["smooth", "linear", "arc"]

FORMAT = "mirage camera path"
VERSION = 1
MAX_KEYFRAMES = 10_000  # ten minutes at 16 frames per second, one key per frame; more is a damaged file

_RIGID_TOLERANCE = 1e-3  # keys come from files with 6 digits and from float32 editors, as in camera.py
_MAX_TURN_DEGREES = 179.9  # at 180 the shortest way round is a coin toss

EASINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda time: time,
    "ease": lambda time: time * time * (3 - 2 * time),
    "ease_in": lambda time: time * time,
    "ease_out": lambda time: time * (2 - time),
}


@dataclass(frozen=True)
class Keyframe:
    """Where the camera is at one moment of the path.

    time: in [0, 1], the share of the film that has passed (before easing).
    cam2world: 4 x 4 rows, rigid, relative to the path's first camera; the translation is in the path's unit.
    fov_degrees: horizontal field of view, or None for that of the scene.

    Raises ValueError for a time outside [0, 1], a matrix that is not a rigid motion, a field of view outside (0, 180).
    """

    time: float
    cam2world: tuple[tuple[float, ...], ...]
    fov_degrees: float | None = None

    def __post_init__(self) -> None:
        rows = self.cam2world.tolist() if isinstance(self.cam2world, torch.Tensor) else self.cam2world
        object.__setattr__(self, "time", float(self.time))
        object.__setattr__(self, "cam2world", tuple(tuple(float(value) for value in row) for row in rows))
        if self.fov_degrees is not None:
            object.__setattr__(self, "fov_degrees", float(self.fov_degrees))
        if not 0 <= self.time <= 1:
            raise ValueError(f"A keyframe is at time {self.time}; times run from 0 (first frame) to 1 (last frame).")
        if self.fov_degrees is not None and not 0 < self.fov_degrees < 180:
            raise ValueError(
                f"The keyframe at time {self.time:g} has a field of view of {self.fov_degrees} degrees; it lies "
                "between 0 and 180. Leave it empty for the field of view of the scene."
            )
        self._check_rigid()

    def _check_rigid(self) -> None:
        if [len(row) for row in self.cam2world] != [4, 4, 4, 4]:
            raise ValueError(f"cam2world of the keyframe at time {self.time:g} is not 4 rows of 4 numbers.")
        cam2world = torch.tensor(self.cam2world, dtype=torch.float64)
        if not torch.isfinite(cam2world).all():
            raise ValueError(f"cam2world of the keyframe at time {self.time:g} contains NaN or infinite values.")
        rotation = cam2world[:3, :3]
        is_off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max() > _RIGID_TOLERANCE
        is_off |= torch.linalg.det(rotation) < 0
        is_off |= (cam2world[3] - torch.tensor([0.0, 0, 0, 1])).abs().max() > _RIGID_TOLERANCE
        if is_off:
            raise ValueError(
                f"cam2world of the keyframe at time {self.time:g} is not a rotation and a translation (scaled, "
                "mirrored or transposed). Write camera-to-world rows in OpenCV axes, without scale."
            )


@dataclass(frozen=True)
class CameraPath:
    """A camera move: keyframes, and how to go from one to the next.

    keyframes: times strictly increasing from 0 to 1; the first is the identity. Between neighbours the rotation takes
        the shortest arc at constant speed, so a turn of 180 degrees or more needs keys on its way.
    unit: of the translations. "median_depth": in median depths of the scene, so that one path fits every scene;
        "world": world units of the depth.
    easing: of time over the whole path; it never changes where the path goes.
    interpolation: of positions between keys. "smooth": piecewise cubic, monotone along each axis of the first camera
        (Fritsch and Butland 1984), so that a camera never leaves the box of two neighbouring keys, and two equal keys
        hold it still; with two keys this is a straight line. "linear": straight lines. "arc": one screw motion per
        pair of keys, the motion that orbits exactly; pure translations stay straight.
    The field of view goes from key to key at constant zoom speed (linear in the log of the focal length).

    Raises ValueError when one of these does not hold.
    """

    keyframes: tuple[Keyframe, ...]
    unit: Unit = "median_depth"
    easing: Easing = "ease"
    interpolation: Interpolation = "smooth"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keyframes", tuple(self.keyframes))
        check_choice("unit", self.unit, get_args(Unit))
        check_choice("easing", self.easing, get_args(Easing))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        _check_times([keyframe.time for keyframe in self.keyframes])
        self._check_turns()

    def _check_turns(self) -> None:
        cam2world = self._key_cam2world()
        if (cam2world[0] - torch.eye(4, dtype=torch.float64)).abs().max() > _RIGID_TOLERANCE:
            raise ValueError(
                "The first keyframe is not the identity; a path starts at the camera of the first picture. "
                "Use CameraPath.through(cameras), which makes cameras relative to the first."
            )
        turns = torch.rad2deg(rotation_vectors(cam2world[:-1, :3, :3].mT @ cam2world[1:, :3, :3]).norm(dim=-1))
        if len(turns) and float(turns.max()) > _MAX_TURN_DEGREES:
            first = int(turns.argmax())
            raise ValueError(
                f"Between keyframes {first} and {first + 1} the camera turns by 180 degrees, so the way round is not "
                "defined. Add a keyframe between them."
            )

    @classmethod
    def through(cls, cameras: Cameras, *, unit: Unit = "world", easing: Easing = "linear") -> CameraPath:
        """The path through given cameras at equal time steps, relative to the first; it keeps their fields of view.

        cameras: at least 2 and at most MAX_KEYFRAMES, centred.  unit: what the lengths of `cameras` are measured in.
        """
        if len(cameras) < 2:
            raise ValueError(f"A path needs at least 2 cameras, not {len(cameras)}.")
        relative = cameras.world2cam[:1] @ cameras.cam2world
        relative[0] = torch.eye(4, dtype=torch.float64)
        halves = cameras.image_size[1] / 2 / cameras.intrinsics[:, 0, 0]
        fovs = torch.rad2deg(2 * torch.atan(halves)).tolist()
        times = torch.linspace(0, 1, len(cameras), dtype=torch.float64).tolist()
        rows = [tuple(tuple(row) for row in cam2world) for cam2world in relative.tolist()]
        keyframes = [Keyframe(*key) for key in zip(times, rows, fovs, strict=True)]
        return cls(tuple(keyframes), unit=unit, easing=easing)

    def cameras(
        self, frames: int, *, intrinsics: torch.Tensor, image_size: tuple[int, int], unit_length: float = 1.0
    ) -> Cameras:
        """The camera of every frame of a film of `frames` frames. The first has the identity as its cam2world.

        intrinsics: [3 3] of the scene, pixels of image_size.  image_size: (height, width).
        unit_length: world units per unit of the path: the scene's median depth when unit is "median_depth", and 1 when
            unit is "world", unless the path shall be scaled.

        Raises ValueError for frames < 1 and for a unit_length that is not finite and > 0.
        """
        if frames < 1:
            raise ValueError(f"The film has {frames} frames; it needs at least 1.")
        times = torch.linspace(0, 1, frames, dtype=torch.float64) if frames > 1 else torch.zeros(1, dtype=torch.float64)
        cam2world = self.cam2world_at(times, unit_length=unit_length)
        cam2world[0] = torch.eye(4, dtype=torch.float64)
        return Cameras(cam2world, self._intrinsics_at(times, intrinsics.double().cpu(), image_size), image_size)

    def cam2world_at(self, times: torch.Tensor, *, unit_length: float = 1.0) -> torch.Tensor:
        """[times 4 4] float64, cam2world at `times` in [0, 1] of the film (easing is applied here)."""
        if not (math.isfinite(unit_length) and unit_length > 0):
            raise ValueError(
                f"One unit of the path is {unit_length} world units long; it must be above 0. "
                "Check the depth of the first picture: its median is this length."
            )
        index, share = self._segment_at(times)
        keys = self._key_cam2world()
        start = keys[index]
        steps = keys[:-1].inverse() @ keys[1:]
        turns = rotation_vectors(steps[:, :3, :3])[index]
        cam2world = start.clone()
        cam2world[:, :3, :3] = start[:, :3, :3] @ rotations(turns * share[:, None])
        if self.interpolation == "arc":
            along = screw_translations(turns, steps[index, :3, 3], share)
            cam2world[:, :3, 3] += (start[:, :3, :3] @ along[..., None])[..., 0]
        else:
            cam2world[:, :3, 3] = self._interpolated(keys[:, :3, 3], index, share)
        cam2world[:, :3, 3] *= unit_length
        return cam2world

    def to_json(self) -> str:
        """The path as JSON text; numbers survive exactly."""
        keyframes = [
            {"time": key.time, "cam2world": [list(row) for row in key.cam2world], "fov_degrees": key.fov_degrees}
            for key in self.keyframes
        ]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "unit": self.unit,
            "easing": self.easing,
            "interpolation": self.interpolation,
            "keyframes": keyframes,
        }
        return json.dumps(document, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CameraPath:
        """The path that to_json wrote, or that a person or an editor wrote in the same form.

        Only "keyframes" is required; "format" and "version" are checked when given, the others take their defaults.
        A keyframe needs "time" and "cam2world".

        Raises ValueError for text that is not JSON, unknown or repeated fields, another version, and everything that
        Keyframe and CameraPath refuse.
        """
        document = _parsed(text)
        _check_fields(
            document,
            "The path",
            required={"keyframes"},
            optional={"format", "version", "unit", "easing", "interpolation"},
        )
        if document.get("format", FORMAT) != FORMAT:
            raise ValueError(f'The file says format {document["format"]!r}; a camera path says "{FORMAT}".')
        version = document.get("version", VERSION)
        if version != VERSION or isinstance(version, bool):
            raise ValueError(
                f"The path is of version {version!r}; this is version {VERSION}. Update Mirage to read it."
            )
        entries = document["keyframes"]
        if not isinstance(entries, list):
            raise ValueError('"keyframes" of the path is a list of keyframes.')
        _check_keyframe_count(len(entries))
        keyframes = tuple(_keyframe(entry, index) for index, entry in enumerate(entries))
        choices = {name: document[name] for name in ("unit", "easing", "interpolation") if name in document}
        return cls(keyframes, **choices)

    def _key_cam2world(self) -> torch.Tensor:
        cam2world = torch.tensor([keyframe.cam2world for keyframe in self.keyframes], dtype=torch.float64)
        # Six-digit rotations of files would otherwise leak scale into every camera between the keys.
        left, _, right = torch.linalg.svd(cam2world[:, :3, :3])
        is_exact = (
            (cam2world[:, :3, :3] @ cam2world[:, :3, :3].mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
        )
        cam2world[:, :3, :3] = torch.where(is_exact[:, None, None] < 1e-14, cam2world[:, :3, :3], left @ right)
        cam2world[:, 3] = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
        return cam2world

    def _key_times(self) -> torch.Tensor:
        return torch.tensor([keyframe.time for keyframe in self.keyframes], dtype=torch.float64)

    def _segment_at(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each time, the index of the keyframe before it and the share of the way to the next."""
        if not ((times >= 0) & (times <= 1)).all():
            raise ValueError("A path is asked for at a time outside [0, 1].")
        keys = self._key_times()
        eased = EASINGS[self.easing](times.double())
        index = (torch.searchsorted(keys, eased, right=True) - 1).clamp(0, len(keys) - 2)
        return index, ((eased - keys[index]) / (keys[index + 1] - keys[index])).clamp(0, 1)

    def _interpolated(self, values: torch.Tensor, index: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """values [keys axes] at segment `index` and `share` of its way, -> [times axes]."""
        share = share[:, None]
        if self.interpolation != "smooth" or len(values) < 3:
            return torch.lerp(values[index], values[index + 1], share)
        lengths = self._key_times().diff()[:, None]
        slopes = monotone_slopes(lengths, values.diff(dim=0) / lengths)
        rise, rest = values[index + 1] - values[index], 1 - share
        start, end = slopes[index] * lengths[index], slopes[index + 1] * lengths[index]
        return values[index] + share * share * (3 - 2 * share) * rise + share * rest * (rest * start - share * end)

    def _intrinsics_at(
        self, times: torch.Tensor, intrinsics: torch.Tensor, image_size: tuple[int, int]
    ) -> torch.Tensor:
        """[times 3 3]: the scene's intrinsics, zoomed about their principal point by the keys' fields of view."""
        repeated = intrinsics.expand(len(times), 3, 3).clone()
        fovs = [keyframe.fov_degrees for keyframe in self.keyframes]
        if all(fov is None for fov in fovs):
            return repeated
        own = float(intrinsics[0, 0]) / (image_size[1] / 2)
        zooms = [1.0 if fov is None else 1 / math.tan(math.radians(fov) / 2) / own for fov in fovs]
        logs = torch.tensor(zooms, dtype=torch.float64).log()[:, None]
        repeated[:, :2, :2] *= self._interpolated(logs, *self._segment_at(times)).exp()[..., None]
        return repeated


def check_choice(what: str, given: object, choices: Sequence[str]) -> None:
    """Raises ValueError when `given` is none of `choices`. what: its name, for the sentence."""
    if given not in choices:
        raise ValueError(f"The {what} is {given!r}; it is one of {', '.join(choices)}.")


def _check_keyframe_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"The path has {count} keyframes; it needs at least 2, the first at time 0 and the last at 1.")
    if count > MAX_KEYFRAMES:
        raise ValueError(f"The path has {count} keyframes; at most {MAX_KEYFRAMES} are allowed. Keep every n-th.")


def _check_times(times: list[float]) -> None:
    _check_keyframe_count(len(times))
    if times[0] != 0 or times[-1] != 1:
        raise ValueError(f"The keyframes run from time {times[0]:g} to {times[-1]:g}; they must run from 0 to 1.")
    for index, (time, following) in enumerate(itertools.pairwise(times)):
        if following <= time:
            raise ValueError(
                f"Keyframe {index + 1} at time {following:g} does not come after keyframe {index} at {time:g}. "
                "Sort the keyframes and remove doubles."
            )


def _parsed(text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError(
                f"The path gives a field twice: {sorted(name for name in set(names) if names.count(name) > 1)}."
            )
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The camera path is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from error
    except RecursionError as error:
        raise ValueError("The camera path is nested too deeply to be a list of keyframes.") from error
    if not isinstance(document, dict):
        raise ValueError('A camera path is a JSON object with "keyframes"; this is something else.')
    return document


def _check_fields(entry: dict[str, Any], what: str, *, required: set[str], optional: set[str]) -> None:
    missing, unknown = sorted(required - entry.keys()), sorted(entry.keys() - required - optional)
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}.")
    if unknown:
        known = ", ".join(sorted(required | optional))
        raise ValueError(f"{what} has unknown fields: {', '.join(unknown)}. Known are {known}.")


def _keyframe(entry: Any, index: int) -> Keyframe:
    what = f"Keyframe {index}"
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is not a JSON object with time and cam2world.")
    _check_fields(entry, what, required={"time", "cam2world"}, optional={"fov_degrees"})
    rows = entry["cam2world"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{what}: cam2world is a list of 4 rows of 4 numbers.")
    cam2world = tuple(tuple(_number(value, what) for value in row) for row in rows)
    fov = entry.get("fov_degrees")
    return Keyframe(_number(entry["time"], what), cam2world, None if fov is None else _number(fov, what))


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what} holds {value!r} where a number belongs.")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{what} holds a number that is too large.") from error
