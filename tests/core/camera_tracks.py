"""Random camera tracks, one hand-checked pair of cameras, and how far two tracks are apart."""

from __future__ import annotations

import functools
import math

import torch

from mirage_core.camera import Cameras
from mirage_core.path_formats import CameraTrack, ReadOptions
from mirage_core.path_formats.conventions import rotations_of

SIZE = (120, 200)  # height, width
K = torch.tensor([[150.0, 0, 100], [0, 150, 60], [0, 0, 1]], dtype=torch.float64)
VERTICAL_FOV = math.degrees(2 * math.atan(60 / 150))

# The first camera is the world. The second stands one unit to its right and looks left, back at the first: what was
# ahead (+z) is now on its right hand, what was down stays down, and it looks along -x.
LEFT_LOOKING = [[0.0, 0, -1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]


def left_looking_track() -> CameraTrack:
    poses = torch.stack([torch.eye(4, dtype=torch.float64), torch.tensor(LEFT_LOOKING, dtype=torch.float64)])
    return CameraTrack(Cameras(poses, K.expand(2, 3, 3), SIZE), 24.0)


@functools.cache
def random_track(seed: int, *, is_centred: bool = False, is_one_lens: bool = False) -> CameraTrack:
    """Cameras anywhere, turned anyhow, in worlds of a hundredth to a thousand units."""
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(2, 9, (1,), generator=random))
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = rotations_of(torch.randn(count, 4, generator=random, dtype=torch.float64))
    size = 10 ** float(torch.rand(1, generator=random, dtype=torch.float64) * 5 - 2)
    poses[:, :3, 3] = torch.randn(count, 3, generator=random, dtype=torch.float64) * size
    focal = 60 + 500 * torch.rand(count, generator=random, dtype=torch.float64)
    intrinsics = K.repeat(count, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    if not is_centred:
        intrinsics[:, 1, 1] = focal * 1.1
        intrinsics[:, :2, 2] += torch.randn(count, 2, generator=random, dtype=torch.float64)
    if is_one_lens:
        intrinsics = intrinsics[:1].repeat(count, 1, 1)
    names = tuple(f"images/{index:04d}.png" for index in range(count))
    return CameraTrack(Cameras(poses, intrinsics, SIZE), 16.0, names)


def said(track: CameraTrack) -> ReadOptions:
    """What a user would have to say about a file that holds nothing but this track's poses."""
    return ReadOptions(image_size=track.cameras.image_size, intrinsics=track.cameras.intrinsics[0], fps=track.fps)


def turn_between(a: Cameras, b: Cameras) -> float:
    """The largest angle in radians between the orientations of two sequences of cameras."""
    chord = (a.cam2world[:, :3, :3] - b.cam2world[:, :3, :3]).flatten(1).norm(dim=1).max()
    return 2 * math.asin(min(1.0, float(chord) / (2 * math.sqrt(2))))


def shift_between(a: Cameras, b: Cameras) -> float:
    """The largest distance between their centres, as a share of how far the cameras are from the origin."""
    return float((a.centers - b.centers).norm(dim=1).max() / a.centers.norm(dim=1).max())


def lens_between(a: Cameras, b: Cameras) -> float:
    """The largest difference of their intrinsics, in pixels."""
    return float((a.intrinsics - b.intrinsics).abs().max())
