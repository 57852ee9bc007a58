"""What a camera path will ask of the memory and of the machine, before anything is sampled.

Per frame: how much of the view is known, how fast the camera moves and turns, how near it comes to what is there.
For the film: segments, points, time and memory by formula. Drawing all this is not done here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch

from .camera import Cameras
from .latent_grid import WAN22, LatentGrid
from .memory import LatentMemory, lift
from .segments import SEGMENT_FRAMES, Segment, plan_segments
from .zbuffer import project

Level = Literal["green", "amber", "red"]
Cause = Literal["", "unknown", "fast", "turn", "near", "through", "length"]

NEAR_SHARE = 0.05  # of the scene's median depth: nearer than this a surface fills the view with a handful of cells
KNOWN_SHARE = 0.25  # below, most of a frame is the model's own invention and the camera is hardly held
TOO_FAST = 2.0  # times the trained range, from where on a frame is red
_LEVELS: tuple[Level, ...] = ("green", "amber", "red")
_PREFIX = "mirage.trained_"


@dataclass(frozen=True)
class TrainedRange:
    """The camera moves an adapter has seen in training, per pixel frame.

    turn_degrees: largest turn of the view direction or roll.  speed: largest step of the camera, median depths of the
    scene.  segment_frames: length of the trained clips.

    The default: clips of 33 frames at 16 fps (the recipe of microsoft/LatentSpatialMemory@b2cd738, whose SpatialVID-HQ
    clips come without a stated speed limit), and in them the largest of WorldScore's ten moves, on which Mirage was
    measured: 30 degrees, or one camera_speed, which is the distance to the orbit's pivot. Files may say otherwise.
    """

    turn_degrees: float = 30.0 / (SEGMENT_FRAMES - 1)
    speed: float = 1.0 / (SEGMENT_FRAMES - 1)
    segment_frames: int = SEGMENT_FRAMES

    def __post_init__(self) -> None:
        for name in ("turn_degrees", "speed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"The trained range says {name} = {value}; it is a number per frame above 0.")

    @staticmethod
    def stated_in(metadata: Mapping[str, str]) -> TrainedRange:
        """The range that a weights file's metadata states, under mirage.trained_turn_degrees and mirage.trained_speed.

        Raises ValueError when an entry is not a number above 0.
        """
        stated = {}
        for name in ("turn_degrees", "speed"):
            if (text := metadata.get(_PREFIX + name)) is not None:
                try:
                    stated[name] = float(text)
                except ValueError as error:
                    raise ValueError(
                        f"The metadata entry {_PREFIX}{name} is {text!r}; it is a number per frame above 0."
                    ) from error
        return TrainedRange(**stated)


@dataclass(frozen=True)
class Preflight:
    """What was found. Tuples with one entry per pixel frame of the film, unless they say otherwise.

    known: share of the view that the memory shows now, in [0, 1].  expected: the same when the film up to the segment
        before has been remembered, with what is not known yet taken to lie at the depth of its surroundings.
    speed: step from the frame before, in median depths.  turn_degrees: turn from the frame before.
    clearance: distance to the nearest remembered surface on the way from the frame before, in median depths; infinite
        when nothing is known around.  is_through: True where that way crosses a remembered surface.
    levels, causes: the verdict per frame and what it is for ("" for green).
    plan: segments of the film.  points: of the memory after the film, at most.  mib: what they take.
    level, suggestion: the worst of the frames, and one sentence on what to do ("" when nothing is to be done).
    """

    known: tuple[float, ...]
    expected: tuple[float, ...]
    speed: tuple[float, ...]
    turn_degrees: tuple[float, ...]
    clearance: tuple[float, ...]
    is_through: tuple[bool, ...]
    levels: tuple[Level, ...]
    causes: tuple[Cause, ...]
    plan: tuple[Segment, ...]
    points: int
    mib: float
    level: Level
    suggestion: str

    @property
    def frames(self) -> int:
        """Pixel frames of the film."""
        return len(self.known)

    def to_json(self) -> str:
        """For an editor's strip: all fields but the plan, of which it gets segment_starts; infinity as null."""
        fields = {name: value for name, value in vars(self).items() if name != "plan"}
        fields["clearance"] = [value if math.isfinite(value) else None for value in self.clearance]
        fields["segment_starts"] = [segment.target_frames[0] for segment in self.plan]
        return json.dumps(fields, allow_nan=False)


def preflight(
    memory: LatentMemory,
    cameras: Cameras,
    size: tuple[int, int],
    *,
    unit_length: float,
    trained: TrainedRange | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    grid: LatentGrid = WAN22,
) -> Preflight:
    """Check a camera path against a memory.

    memory: of latents (for one of colours give Rollout.landmarks).  cameras: one per pixel frame of the film, in the
    memory's world.  size: (rows, columns) of the film's latents.  unit_length: median depth of the scene, world units.
    A number of frames that is not 4n+1 is a finding, no error.

    Raises ValueError for a unit_length that is not above 0.
    """
    raise NotImplementedError
