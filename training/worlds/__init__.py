"""Procedural worlds with exact truth: rooms and plazas, what moves in them, and flights through them.

Read in this order: seeds, shapes, palettes, furniture, layout, rooms, plazas, movers, casting, shading, world, flights,
export.
"""

from .flights import Flight, random_flight, start_camera
from .seeds import FIRST_HELD_OUT, check_trainable, is_held_out
from .world import FRAMES_PER_SECOND, Frames, World, frame_times

__all__ = [
    "FIRST_HELD_OUT",
    "FRAMES_PER_SECOND",
    "Flight",
    "Frames",
    "World",
    "check_trainable",
    "frame_times",
    "is_held_out",
    "random_flight",
    "start_camera",
]
