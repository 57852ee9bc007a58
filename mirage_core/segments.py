"""Cutting a film into the segments that the model can make at once. Whole numbers only: no tensors, no cameras."""

from __future__ import annotations

from dataclasses import dataclass

from .latent_grid import LatentGrid

SEGMENT_FRAMES = 33  # 9 latent frames, the length Mirage is trained on (arXiv 2606.09828 section 4)


@dataclass(frozen=True)
class Segment:
    """One pass of the model.

    index: 0 for the first segment.
    output: pixel frames of the film that this segment adds.
    model_frames: pixel frames the model makes, 4n+1. From the second segment on the first of them repeats the last
        frame of the film so far (the overlap).
    target_frames: the film frame whose camera each latent frame of this segment has; the first is the frame of the
        overlap latent (for the first segment: the start picture).
    """

    index: int
    output: range
    model_frames: int
    target_frames: tuple[int, ...]

    @property
    def latent_frames(self) -> int:
        """Latent frames the model makes, the overlap included."""
        return len(self.target_frames)


def plan_segments(frames: int, grid: LatentGrid, *, segment_frames: int = SEGMENT_FRAMES) -> tuple[Segment, ...]:
    """Segments that cover a film of `frames` pixel frames, each frame once, each starting on the last latent before it.

    frames, segment_frames: pixel frames, 4n+1.
    Raises ValueError for other frame counts, and when one segment could not add anything.
    Source: the released plan (microsoft/LatentSpatialMemory@b2cd738, src/mirage/inference/utils.py).
    """
    grid.latent_frames(frames)
    grid.latent_frames(segment_frames)
    if segment_frames == 1 and frames > 1:
        raise ValueError("A segment of 1 frame adds nothing to the film. Use 5 frames or more, 33 as a rule.")
    stride = grid.temporal_stride
    first = min(frames, segment_frames)
    segments = [Segment(0, range(first), first, tuple(range(0, first, stride)))]
    while segments[-1].output.stop < frames:
        start = segments[-1].output.stop
        stop = min(frames, start + segment_frames - 1)
        targets = tuple(range(start - 1, stop, stride))
        segments.append(Segment(len(segments), range(start, stop), stop - start + 1, targets))
    return tuple(segments)


def frames_of_segments(segments: int, grid: LatentGrid, *, segment_frames: int = SEGMENT_FRAMES) -> int:
    """Pixel frames of a film of so many full segments: 33, 65, 97 ...

    Raises ValueError for less than one segment.
    """
    if segments < 1:
        raise ValueError(f"A film has at least 1 segment, not {segments}.")
    grid.latent_frames(segment_frames)
    return 1 + segments * (segment_frames - 1)
