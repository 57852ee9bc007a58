"""Clips of the real world, or of any other tool: pictures with cameras and depth in folders, read as Frames.

A clip is a folder with

* pictures: images/ (sorted by name, or named by the camera file), or one video (needs PyAV, which ComfyUI installs);
* cameras: transforms.json (nerfstudio), cameras.json (ours), camera.txt (RealEstate10K), images.txt (COLMAP);
* depth, optional: depth/ with one file per picture of the same name, 16-bit PNG in millimetres or .npy in metres;
* sky/ and movers/, optional: masks of the same names, white where there is sky or something moves.

Where depth is not known it is infinite; without masks that counts as sky, so that no memory is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

    Raises ValueError when there is none.
    """
    found = clip_folders(folder)
    if not found:
        raise ValueError(f"No clip below {folder}: a clip is a folder with one of {', '.join(_CAMERAS)}.")
    for one in found:
        clip = read_clip_folder(one, image_size=image_size)
        for start in range(0, len(clip) - frames + 1, frames):
            yield clip[start : start + frames]


def read_clip_folder(folder: Path, *, image_size: tuple[int, int]) -> Frames:
    """One clip, pictures scaled and cropped around the middle to `image_size` (height, width), cameras with them.

    Raises ValueError when there are no pictures, no cameras, or not as many of one as of the other.
    """
    names, pictures = _pictures_of(folder)
    path = next((folder / name for name in _CAMERAS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no camera file; give one of {', '.join(_CAMERAS)}.")
    track = read(path, options=ReadOptions(image_size=(pictures.shape[1], pictures.shape[2])))
    named = {Path(name).name: index for index, name in enumerate(track.names)}
    if set(names) <= set(named):
        cameras = track.cameras[[named[name] for name in names]]
    elif len(track.cameras) == len(pictures):
        cameras = track.cameras
    else:
        raise ValueError(
            f"{folder} has {len(pictures)} pictures and {len(track.cameras)} cameras that do not name them. "
            "Give one camera per picture."
        )
    depth = _depth_of(folder, names, (pictures.shape[1], pictures.shape[2]))
    is_sky = _masks_of(folder / "sky", names, depth)
    is_mover = _masks_of(folder / "movers", names, depth)
    is_sky = torch.isinf(depth) if is_sky is None else is_sky
    is_mover = torch.zeros_like(is_sky) if is_mover is None else is_mover
    times = torch.arange(len(pictures), dtype=torch.float64) / (track.fps or FRAMES_PER_SECOND)
    cameras = cameras.resized((pictures.shape[1], pictures.shape[2]))
    frames = Frames(pictures, depth, is_sky, is_mover, is_mover.long() - 1, cameras, times)
    return _fitted(frames, image_size)


def _pictures_of(folder: Path) -> tuple[list[str], torch.Tensor]:
    """Names and pictures [frames H W 3] in [0, 1]."""
    for place in (folder / "images", folder):
        files = [path for path in place.iterdir() if path.suffix.lower() in _PICTURES] if place.is_dir() else []
        if files:
            files = sorted(files, key=lambda path: natural_key(path.name))
            return [path.name for path in files], torch.stack([read_rgb(path) for path in files])
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in _VIDEOS)
    if not videos:
        raise ValueError(f"{folder} has neither pictures in images/ nor a video ({', '.join(sorted(_VIDEOS))}).")
    pictures = _video_frames(videos[0])
    return [f"frame_{index:05d}.png" for index in range(len(pictures))], pictures


def _video_frames(path: Path) -> torch.Tensor:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"Reading {path.name} needs PyAV: pip install av. Or give pictures in images/.") from error
    with av.open(str(path)) as video:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]
    return torch.stack(frames).float() / 255


def _depth_of(folder: Path, names: list[str], size: tuple[int, int]) -> torch.Tensor:
    depth = torch.full((len(names), *size), torch.inf)
    for index, name in enumerate(names):
        for suffix in (".png", ".npy"):
            path = folder / "depth" / Path(name).with_suffix(suffix)
            if path.is_file():
                found = read_metres(path)[None, None]
                depth[index] = functional.interpolate(found, size, mode="nearest")[0, 0]
    return depth


def _masks_of(folder: Path, names: list[str], like: torch.Tensor) -> torch.Tensor | None:
    """[frames H W] bool, or None where the folder is not there. A picture without a mask has nothing to mask."""
    if not folder.is_dir():
        return None
    masks = torch.zeros(like.shape, dtype=torch.bool)
    for index, name in enumerate(names):
        path = folder / Path(name).with_suffix(".png")
        if path.is_file():
            found = read_mask(path).float()[None, None]
            masks[index] = functional.interpolate(found, (like.shape[1], like.shape[2]), mode="nearest")[0, 0] > 0.5
    return masks


def _fitted(frames: Frames, image_size: tuple[int, int]) -> Frames:
    """Everything scaled to cover image_size, then cut around the middle. Depth and masks take the nearest pixel."""
    height, width = frames.cameras.image_size
    scale = max(image_size[0] / height, image_size[1] / width)
    size = (max(image_size[0], round(height * scale)), max(image_size[1], round(width * scale)))
    top, left = ((old - new) // 2 for old, new in zip(size, image_size, strict=True))

    def cut(picture: torch.Tensor, mode: str) -> torch.Tensor:
        smooth = {"antialias": True} if mode == "bilinear" else {}
        resized = picture if size == (height, width) else functional.interpolate(picture, size, mode=mode, **smooth)
        return resized[..., top : top + image_size[0], left : left + image_size[1]]

    rgb = cut(frames.rgb.movedim(-1, 1), "bilinear").movedim(1, -1)
    depth, is_sky, is_mover = (
        cut(one[:, None].float(), "nearest")[:, 0] for one in (frames.depth, frames.is_sky, frames.is_mover)
    )
    cameras: Cameras = frames.cameras.resized(size).center_cropped(image_size)
    is_mover = is_mover > 0.5
    return Frames(rgb, depth, is_sky > 0.5, is_mover, is_mover.long() - 1, cameras, frames.times)
