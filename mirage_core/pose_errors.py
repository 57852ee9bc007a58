"""How far estimated cameras are from those that were asked for.

An estimate has its own world and its own length unit: it is aligned by a similarity first, or measured by WorldScore's
definition. Estimating poses from pictures is not done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .camera import Cameras
from .segments import Segment

WORLDSCORE_LIMITS = (15.0, 0.5)  # degrees and units of camera_speed from which on its score is 0

_STILL = 1e-6  # of a unit: a path that moves less has no scale to be measured by


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation, from the estimate's world to the path's.

    rotation: [3 3].  translation: [3], units of the path.  scale: at least 0.
    """

    scale: float
    rotation: torch.Tensor
    translation: torch.Tensor

    def applied(self, cameras: Cameras) -> Cameras:
        """The estimated cameras in the path's world."""
        cam2world = cameras.cam2world.clone()
        cam2world[:, :3, :3] = self.rotation @ cameras.cam2world[:, :3, :3]
        cam2world[:, :3, 3] = self.scale * cameras.centers @ self.rotation.mT + self.translation
        return Cameras(cam2world, cameras.intrinsics, cameras.image_size)


@dataclass(frozen=True)
class SegmentError:
    """Errors of one segment's frames: means and maxima. Translations in units; NaN where the path does not move."""

    index: int
    frames: int
    rotation_degrees: float
    max_rotation_degrees: float
    translation: float
    max_translation: float


@dataclass(frozen=True)
class WorldScoreError:
    """WorldScore's camera control of a film.

    rotation_degrees, translation: means over the frames, the latter in units.  score: in [0, 1], 1 is perfect.
    """

    rotation_degrees: float
    translation: float
    score: float


@dataclass(frozen=True)
class PoseErrors:
    """Errors of a film's cameras.

    rotation_degrees, translation: per compared frame, after alignment; translations in units, NaN where the path does
        not move at all, since an estimate without a scale cannot tell how far it moved then.
    alignment: what brought the estimate into the path's world.
    segments: by segment of the film, those with at least one compared frame.
    """

    rotation_degrees: tuple[float, ...]
    translation: tuple[float, ...]
    alignment: Similarity
    segments: tuple[SegmentError, ...]
    worldscore: WorldScoreError


def evenly_spaced(count: int, frames: int) -> list[int]:
    """`count` different frames of a film of `frames`, first and last included; all of them when there are not more.

    Raises ValueError for less than 2.
    """
    if count < 2 or frames < 2:
        raise ValueError(f"{count} frames of a film of {frames} were asked for; at least 2 can be compared.")
    count = min(count, frames)
    return [round(index * (frames - 1) / (count - 1)) for index in range(count)]


def pose_errors(
    estimated: Cameras, path: Cameras, frames: list[int], plan: tuple[Segment, ...], *, unit: float
) -> PoseErrors:
    """Compare estimated cameras with the path.

    estimated: one camera per compared frame, in any world and scale.  path: one camera per pixel frame of the film.
    frames: which pixel frames were estimated.  plan: the film's segments.
    unit: what translations are measured in, world units of the path: its median depth, or WorldScore's camera_speed.

    Raises ValueError when there are not as many estimates as frames, fewer than 2, a frame the film does not have, or
    a unit that is not above 0.
    """
    if len(estimated) != len(frames) or len(frames) < 2:
        raise ValueError(
            f"There are {len(estimated)} estimated cameras for {len(frames)} frames; give one per frame, at least 2."
        )
    if not all(0 <= frame < len(path) for frame in frames):
        raise ValueError(f"The film has frames 0 to {len(path) - 1}; {min(frames)} to {max(frames)} were compared.")
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"The unit of translations is {unit}; it is a length above 0.")
    asked = path[frames]
    alignment = aligning_similarity(estimated, asked)
    aligned = alignment.applied(estimated)
    rotation = angles_between(aligned.cam2world[:, :3, :3], asked.cam2world[:, :3, :3])
    translation = (aligned.centers - asked.centers).norm(dim=1) / unit
    if not moves(asked, unit):
        translation = torch.full_like(translation, math.nan)
    return PoseErrors(
        tuple(rotation.tolist()),
        tuple(translation.tolist()),
        alignment,
        _by_segment(frames, plan, rotation, translation),
        worldscore_error(estimated, asked, unit=unit),
    )


def moves(cameras: Cameras, unit: float) -> bool:
    """True when the cameras do not all stand in one place."""
    return bool(((cameras.centers - cameras.centers[0]).norm(dim=1) > _STILL * unit).any())


def aligning_similarity(estimated: Cameras, truth: Cameras) -> Similarity:
    """The similarity that brings estimated cameras closest to the true ones.

    The rotation is that of least squared distance between the orientations, scale and translation those of least
    squared distance between the centres under it (Umeyama 1991). His rotation comes from the centres too; a straight
    path leaves the turn about it open, a camera on its spot every turn, and a film that goes the wrong way would be
    turned until it fits. The scale is 0 where the estimate moves against the path.
    """
    offset, true_offset = (cameras.centers - cameras.centers.mean(0) for cameras in (estimated, truth))
    agreement = torch.einsum("fij,fkj->ik", truth.cam2world[:, :3, :3], estimated.cam2world[:, :3, :3])
    left, _, right = torch.linalg.svd(agreement)
    mirror = torch.ones(3, dtype=torch.float64)
    mirror[2] = torch.sign(torch.linalg.det(left @ right))
    rotation = left @ torch.diag(mirror) @ right
    square = float((offset * offset).sum())
    scale = max(0.0, float((true_offset * (offset @ rotation.mT)).sum()) / square) if square > 0 else 0.0
    translation = truth.centers.mean(0) - scale * rotation @ estimated.centers.mean(0)
    return Similarity(scale, rotation, translation)


def angles_between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[n] degrees by which rotations [n 3 3] differ from others [n 3 3]."""
    turned = one.mT @ other
    trace = turned.diagonal(dim1=1, dim2=2).sum(1)
    # atan2 of the skew part: the arc cosine of the trace loses half of the digits of small angles.
    sine = (turned - turned.mT).flatten(1).norm(dim=1) / math.sqrt(2)
    return torch.rad2deg(torch.atan2(sine, trace - 1))


def worldscore_error(estimated: Cameras, truth: Cameras, *, unit: float) -> WorldScoreError:
    """WorldScore's camera control: both films seen from their first camera, no rotation aligned.

    The estimate's length unit is the factor that makes the sum of the distances between the centres least; a negative
    one is possible. Errors are means over the frames, the first included. The score is the geometric mean of
    1 - error / limit of both, limits 15 degrees and 0.5 units.

    Source: WorldScore (arXiv 2504.00983), camera_error: metric and limits as its evaluation code has them
    (FofGofx/WorldCache@56c3606, worldscore/benchmark/utils/utils.py and helpers/evaluator.py). WorldScore estimates the
    poses by DROID-SLAM; another estimator gives other numbers.
    """
    seen, asked = (cameras.world2cam[:1] @ cameras.cam2world for cameras in (estimated, truth))
    rotation = float(angles_between(seen[:, :3, :3], asked[:, :3, :3]).mean())
    centers, true_centers = seen[:, :3, 3], asked[:, :3, 3] / unit
    translation = float((_least_distance_factor(centers, true_centers) * centers - true_centers).norm(dim=1).mean())
    shares = [
        max(0.0, 1 - error / limit) for error, limit in zip((rotation, translation), WORLDSCORE_LIMITS, strict=True)
    ]
    return WorldScoreError(rotation, translation, math.sqrt(shares[0] * shares[1]))


def _least_distance_factor(points: torch.Tensor, targets: torch.Tensor) -> float:
    """The factor c that makes the sum of |c points - targets| least; points and targets: [n 3]."""
    square = (points * points).sum(1)
    is_off = square > 0
    if not is_off.any():
        return 0.0
    points, targets, square = points[is_off], targets[is_off], square[is_off]
    best_of_each = (points * targets).sum(1) / square
    low, high = float(best_of_each.min()), float(best_of_each.max())
    for _ in range(200):  # each term is convex with its least value between low and high, and so is the sum
        middle = (low + high) / 2
        distance = (middle * points - targets).norm(dim=1).clamp_min(1e-300)
        if float(((middle * square - (points * targets).sum(1)) / distance).sum()) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _by_segment(
    frames: list[int], plan: tuple[Segment, ...], rotation: torch.Tensor, translation: torch.Tensor
) -> tuple[SegmentError, ...]:
    errors = []
    for segment in plan:
        rows = [row for row, frame in enumerate(frames) if frame in segment.output]
        if rows:
            turned, moved = rotation[rows], translation[rows]
            errors.append(
                SegmentError(
                    segment.index,
                    len(rows),
                    float(turned.mean()),
                    float(turned.max()),
                    float(moved.mean()),
                    float(moved.max()),
                )
            )
    return tuple(errors)
