"""Clips of the real world, or of any other tool: pictures with cameras and depth in folders, read as Frames.

A clip is a folder with

* pictures: images/ (sorted by name, or named by the camera file), or one video (needs PyAV, which ComfyUI installs);
* cameras: transforms.json (nerfstudio), cameras.json (ours), camera.txt (RealEstate10K), images.txt (COLMAP);
* depth, optional: depth/ with one file per picture of the same name, 16-bit PNG in millimetres or .npy in metres;
* sky/ and movers/, optional: masks of the same names, white where there is sky or something moves.

Where depth is not known it is infinite; without masks that counts as sky, so that no memory is made of it: clips
without any depth, such as RealEstate10K, can train a base but no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from mirage_core.camera import Cameras
from mirage_core.path_formats import read
from mirage_core.path_formats.reading import ReadOptions, natural_key

from .pictures import read_mask, read_metres, read_rgb
from .worlds import FRAMES_PER_SECOND, Frames

_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_VIDEOS = {".mp4", ".mov", ".mkv", ".webm"}
_CAMERAS = ("transforms.json", "cameras.json", "camera.json", "camera.txt", "images.txt")


def clip_folders(folder: Path) -> list[Path]:
    """All clips at or below a folder: those folders that hold a camera file."""
    return sorted({path.parent for name in _CAMERAS for path in folder.rglob(name)})


def read_clips(folder: Path, *, image_size: tuple[int, int], frames: int) -> Iterator[Frames]:
    """All clips below a folder, cut into pieces of `frames` frames; what is left over at the end of one is dropped.

    One piece is held at a time, so that a film of any length can be read.
    Raises ValueError when there is none.
    """
    found = clip_folders(folder)
    if not found:
        raise ValueError(f"No clip below {folder}: a clip is a folder with one of {', '.join(_CAMERAS)}.")
    for one in found:
        yield from (piece for piece in _pieces(one, image_size=image_size, frames=frames) if len(piece) == frames)


def read_clip_folder(folder: Path, *, image_size: tuple[int, int]) -> Frames:
    """One clip, pictures scaled and cropped around the middle to `image_size` (height, width), cameras with them.

    Raises ValueError when there are no pictures, no cameras, or not as many of one as of the other.
    """
    (whole,) = _pieces(folder, image_size=image_size, frames=None)
    return whole


def _pieces(folder: Path, *, image_size: tuple[int, int], frames: int | None) -> Iterator[Frames]:
    """A clip in pieces of `frames` frames, the last one shorter; None: all in one. Pictures are fitted one by one."""
    names, pictures = _pictures_of(folder)
    first = next(pictures)
    pictures = chain([first], pictures)
    fit = _Fit((first.shape[0], first.shape[1]), image_size)
    cameras, frames_per_second = _cameras_of(folder, names, fit.size)
    cameras = fit.cameras(cameras)
    step = frames or len(names)
    for start in range(0, len(names), step):
        some = names[start : start + step]
        rgb = torch.stack([fit.picture(one) for one in islice(pictures, len(some))])
        depth = torch.stack([fit.map(_depth_of(folder, name)) for name in some])
        sky, movers = (_masks_of(folder / name, some, fit) for name in ("sky", "movers"))
        is_sky = torch.isinf(depth) if sky is None else sky
        is_mover = torch.zeros_like(is_sky) if movers is None else movers
        times = torch.arange(start, start + len(some), dtype=torch.float64) / frames_per_second
        yield Frames(
            rgb, depth, is_sky, is_mover, is_mover.long() - 1, cameras[list(range(start, start + len(some)))], times
        )


class _Fit:
    """Scales to cover `wanted` (height, width), then cuts around the middle. Maps of numbers take the nearest pixel.

    size: (height, width) of the pictures as they are.
    """

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        self.size, self.wanted = size, wanted
        scale = max(wanted[0] / size[0], wanted[1] / size[1])
        self.scaled = (max(wanted[0], round(size[0] * scale)), max(wanted[1], round(size[1] * scale)))

    def picture(self, rgb: torch.Tensor) -> torch.Tensor:
        """[H W 3] of any size -> [height width 3]."""
        rows = rgb.movedim(-1, 0)[None]
        if rows.shape[-2:] != self.scaled:
            rows = functional.interpolate(rows, self.scaled, mode="bilinear", antialias=True)
        return self._cut(rows)[0].movedim(0, -1)

    def map(self, values: torch.Tensor | None) -> torch.Tensor:
        """[H W] of any size -> [height width]; infinite without any."""
        if values is None:
            return torch.full(self.wanted, torch.inf)
        for size in (self.size, self.scaled):
            values = functional.interpolate(values[None, None], size, mode="nearest")[0, 0]
        return self._cut(values)

    def cameras(self, cameras: Cameras) -> Cameras:
        return cameras.resized(self.scaled).center_cropped(self.wanted)

    def _cut(self, picture: torch.Tensor) -> torch.Tensor:
        top, left = ((old - new) // 2 for old, new in zip(self.scaled, self.wanted, strict=True))
        return picture[..., top : top + self.wanted[0], left : left + self.wanted[1]]


def _cameras_of(folder: Path, names: list[str], size: tuple[int, int]) -> tuple[Cameras, float]:
    """One camera per picture, and the frames per second. size: (height, width) of the pictures as they are."""
    path = next((folder / name for name in _CAMERAS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no camera file; give one of {', '.join(_CAMERAS)}.")
    track = read(path, options=ReadOptions(image_size=size))
    named = {Path(name).name: index for index, name in enumerate(track.names)}
    frames_per_second = track.fps or FRAMES_PER_SECOND
    if set(names) <= set(named):
        return track.cameras[[named[name] for name in names]].resized(size), frames_per_second
    if len(track.cameras) == len(names):
        return track.cameras.resized(size), frames_per_second
    raise ValueError(
        f"{folder} has {len(names)} pictures and {len(track.cameras)} cameras that do not name them. "
        "Give one camera per picture."
    )


def _pictures_of(folder: Path) -> tuple[list[str], Iterator[torch.Tensor]]:
    """Names, and pictures [H W 3] in [0, 1] one after the other."""
    for place in (folder / "images", folder):
        files = [path for path in place.iterdir() if path.suffix.lower() in _PICTURES] if place.is_dir() else []
        if files:
            files = sorted(files, key=lambda path: natural_key(path.name))
            return [path.name for path in files], map(read_rgb, files)
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in _VIDEOS)
    if not videos:
        raise ValueError(f"{folder} has neither pictures in images/ nor a video ({', '.join(sorted(_VIDEOS))}).")
    count = sum(1 for _ in _decoded(videos[0]))
    pictures = (torch.from_numpy(one.to_ndarray(format="rgb24")).float() / 255 for one in _decoded(videos[0]))
    return [f"frame_{index:05d}.png" for index in range(count)], pictures


def _decoded(path: Path) -> Iterator[Any]:
    """A video's frames, as PyAV gives them."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"Reading {path.name} needs PyAV: pip install av. Or give pictures in images/.") from error
    with av.open(str(path)) as video:
        yield from video.decode(video=0)


def _depth_of(folder: Path, name: str) -> torch.Tensor | None:
    """[H W] depth of a picture, None where there is no file of it."""
    files = (folder / "depth" / Path(name).with_suffix(suffix) for suffix in (".npy", ".png"))
    found = next((path for path in files if path.is_file()), None)
    return None if found is None else read_metres(found)


def _masks_of(folder: Path, names: list[str], fit: _Fit) -> torch.Tensor | None:
    """[frames H W] bool, or None where the folder is not there. A picture without a mask has nothing to mask."""
    if not folder.is_dir():
        return None
    masks = torch.zeros(len(names), *fit.wanted, dtype=torch.bool)
    for index, name in enumerate(names):
        path = folder / Path(name).with_suffix(".png")
        if path.is_file():
            masks[index] = fit.map(read_mask(path).float()) > 0.5
    return masks
