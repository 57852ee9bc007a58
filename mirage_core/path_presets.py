"""Camera paths in film words: pan, tilt, truck, dolly, orbit, out and back.

Signs, once: panning right turns +z towards +x, tilting up turns +z towards -y, a positive roll turns the camera
clockwise (+x towards +y). Truck right moves along +x, pedestal up along -y, dolly in along +z. An orbit to the right
moves the camera to the right while it keeps looking at the pivot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from .camera_path import EASINGS, CameraPath, Easing, Keyframe, check_choice
from .path_motion import rotations

_KEY_TURN_DEGREES = 90.0  # a key at least this often: at 180 degrees the shortest way round is a coin toss
_RETURN_STEPS = 16  # keys per leg of out_and_back


@dataclass(frozen=True)
class Preset:
    """What a preset does, in film words.

    summary: one sentence.  amount_unit: "degrees", "median depths" or "" (the amount has no effect).
    amount: the default over the whole film.
    """

    summary: str
    amount_unit: Literal["degrees", "median depths", ""]
    amount: float


PRESETS: dict[str, Preset] = {
    "static": Preset("The camera stays where it is.", "", 0.0),
    "pan_left": Preset("The camera turns to the left on its spot.", "degrees", 30.0),
    "pan_right": Preset("The camera turns to the right on its spot.", "degrees", 30.0),
    "tilt_up": Preset("The camera turns upwards on its spot.", "degrees", 20.0),
    "tilt_down": Preset("The camera turns downwards on its spot.", "degrees", 20.0),
    "roll": Preset("The camera turns clockwise about its view direction.", "degrees", 20.0),
    "truck_left": Preset("The camera slides to the left without turning.", "median depths", 0.3),
    "truck_right": Preset("The camera slides to the right without turning.", "median depths", 0.3),
    "pedestal_up": Preset("The camera rises without turning.", "median depths", 0.2),
    "pedestal_down": Preset("The camera sinks without turning.", "median depths", 0.2),
    "dolly_in": Preset("The camera moves forwards.", "median depths", 0.4),
    "dolly_out": Preset("The camera moves backwards.", "median depths", 0.4),
    "orbit_left": Preset("The camera circles to the left around the middle of the scene.", "degrees", 30.0),
    "orbit_right": Preset("The camera circles to the right around the middle of the scene.", "degrees", 30.0),
    "out_and_back": Preset("Another move, and the same way back to exactly the first picture.", "median depths", 0.4),
    "look_around": Preset("The camera turns once all the way round to the right.", "degrees", 360.0),
}

_RIGHT, _DOWN, _FORWARD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_TURNS = {  # axis and sign of the rotation
    "pan_left": (_DOWN, -1.0),
    "pan_right": (_DOWN, 1.0),
    "look_around": (_DOWN, 1.0),
    "tilt_up": (_RIGHT, 1.0),
    "tilt_down": (_RIGHT, -1.0),
    "roll": (_FORWARD, 1.0),
    "orbit_left": (_DOWN, 1.0),
    "orbit_right": (_DOWN, -1.0),
}
_SHIFTS = {  # direction and sign of the translation
    "truck_left": (_RIGHT, -1.0),
    "truck_right": (_RIGHT, 1.0),
    "pedestal_up": (_DOWN, -1.0),
    "pedestal_down": (_DOWN, 1.0),
    "dolly_in": (_FORWARD, 1.0),
    "dolly_out": (_FORWARD, -1.0),
}


def preset(
    name: str,
    *,
    amount: float | None = None,
    easing: Easing = "ease",
    move: str = "dolly_in",
    pivot_depth: float = 1.0,
) -> CameraPath:
    """A path in film words.

    name: one of PRESETS.
    amount: over the whole film, in degrees for turns and orbits and in median depths of the scene for shifts; negative
        goes the other way; None takes the preset's default. For out_and_back it is the amount of `move`.
    easing: of the move. Both legs of out_and_back are eased, so that the camera also comes to rest at the turning
        point when the easing is "ease".
    move: what out_and_back does and undoes, any other preset.
    pivot_depth: distance of an orbit's pivot, straight ahead, in median depths.

    Raises ValueError for an unknown name or move, an amount that is not finite, a pivot_depth that is not above 0.
    """
    check_choice("camera move", name, tuple(PRESETS))
    check_choice("easing", easing, get_args(Easing))
    if not (math.isfinite(pivot_depth) and pivot_depth > 0):
        raise ValueError(f"pivot_depth is {pivot_depth}; the pivot lies in front of the camera, above 0.")
    if name == "out_and_back":
        check_choice("move of out_and_back", move, tuple(one for one in PRESETS if one != "out_and_back"))
        return _out_and_back(move, _amount(move, amount), easing, pivot_depth)
    amount = _amount(name, amount)
    steps = max(1, math.ceil(abs(amount) / _KEY_TURN_DEGREES)) if name in _TURNS else 1
    shares = [step / steps for step in range(steps + 1)]
    keyframes = tuple(Keyframe(share, _moved(name, amount * share, pivot_depth)) for share in shares)
    return CameraPath(keyframes, easing=easing, interpolation="arc")


def _amount(name: str, amount: float | None) -> float:
    if amount is None:
        return PRESETS[name].amount
    if not math.isfinite(amount):
        raise ValueError(f"The amount of {name} is {amount}; give a finite number of {PRESETS[name].amount_unit}.")
    return float(amount)


def _out_and_back(move: str, amount: float, easing: Easing, pivot_depth: float) -> CameraPath:
    # The path's own easing runs once over both legs, so the easing of each leg is in the positions of the keys.
    steps = max(_RETURN_STEPS, math.ceil(abs(amount) / _KEY_TURN_DEGREES * 2)) if move in _TURNS else _RETURN_STEPS
    eased = EASINGS[easing](torch.linspace(0, 1, steps + 1, dtype=torch.float64)).tolist()
    legs = eased + eased[-2::-1]
    keyframes = [
        Keyframe(index / (2 * steps), _moved(move, amount * share, pivot_depth)) for index, share in enumerate(legs)
    ]
    return CameraPath(tuple(keyframes), easing="linear", interpolation="arc")


def _moved(name: str, amount: float, pivot_depth: float) -> tuple[tuple[float, ...], ...]:
    """cam2world rows after a preset's move by `amount` (degrees or median depths)."""
    cam2world = torch.eye(4, dtype=torch.float64)
    if name in _TURNS:
        axis, sign = _TURNS[name]
        cam2world[:3, :3] = rotations(math.radians(sign * amount) * torch.tensor([axis], dtype=torch.float64))[0]
    if name in _SHIFTS:
        direction, sign = _SHIFTS[name]
        cam2world[:3, 3] = sign * amount * torch.tensor(direction, dtype=torch.float64)
    if name.startswith("orbit_"):
        pivot = pivot_depth * torch.tensor(_FORWARD, dtype=torch.float64)
        cam2world[:3, 3] = pivot - cam2world[:3, :3] @ pivot
    return tuple(tuple(row) for row in cam2world.tolist())
