"""A memory kept for later films: with the places of its film at which a new shot can start.

One file, that of memory_files.py, with the latents and cameras of the first picture and of the end of each segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .camera import Cameras
from .latent_grid import WAN22, LatentGrid
from .latent_origin import UNKNOWN, LatentOrigin, checked_origin
from .memory import LatentMemory
from .memory_edits import moved
from .memory_files import EXTRA, load_with_film, save_memory
from .rollout import Rollout, Shot
from .tensor_files import opened_tensors

MAX_PLACES = 65  # at which later films can start; 17 to 44 MB at the usual sizes
_TENSORS = {"latents", "cam2world", "intrinsics"}


@dataclass(frozen=True)
class KeptScene:
    """A memory from a file, and where a film can start in it.

    latents: [channels places rows columns] normalised; the first is that of the film's first picture.
    cameras: one per place, in the memory's world.  frames: the pixel frame of the film each place is at.
    latent_frames: length of the film that is remembered.  unit_length: median depth of its first picture.
    grid: of the latents; the memory's own may be that of pixels.  provenance: what the file tells of its origin.
    origin: of the latents, which older files do not tell.
    """

    memory: LatentMemory
    latents: torch.Tensor
    cameras: Cameras
    frames: tuple[int, ...]
    latent_frames: int
    fps: float
    unit_length: float
    grid: LatentGrid
    provenance: Mapping[str, object]
    origin: LatentOrigin

    def started(self, place: int, *, shot: Shot | None = None, first_latents: torch.Tensor | None = None) -> Rollout:
        """A new film in this memory, whose world is the camera of the place.

        place: index into the places; -1 is the newest.
        shot: where the camera goes from there; without one the film has a single frame, and goes on along a path
            that Rollout.redirected() gives it.
        first_latents: [channels 1 rows columns] of another picture, taken from the very camera of the place.
        Points keep the order in which they were remembered: their latent frames are below 0.
        Raises ValueError for a place that is not in the file, or a shot of another picture size.
        """
        camera, latents = self._at(place)
        if shot is not None and shot.image_size != camera.image_size:
            height, width = camera.image_size
            raise ValueError(
                f"The memory was filmed at {width}x{height}, the path is {shot.image_size[1]}x{shot.image_size[0]}. "
                f"Set width and height of Camera Path to {width} and {height}."
            )
        first = Cameras(torch.eye(4, dtype=torch.float64)[None], camera.intrinsics, camera.image_size)
        if shot is None:
            cameras = first
        else:
            cameras = shot.cameras(intrinsics=camera.intrinsics[0], unit_length=self.unit_length)
        memory = moved(self.memory, camera.world2cam[0], later=-self.latent_frames)
        return Rollout.started(
            memory,
            latents if first_latents is None else first_latents,
            cameras,
            fps=self.fps if shot is None else shot.fps,
            unit_length=self.unit_length,
            grid=self.grid,
            origin=self.origin,
        )

    def _at(self, place: int) -> tuple[Cameras, torch.Tensor]:
        places = len(self.frames)
        if not -places <= place < places:
            raise ValueError(
                f"There is no place {place} in this memory; it has 0 (the first picture) to {places - 1} (the end of "
                "the film). Use -1 for the end."
            )
        index = place % places
        return self.cameras[[index]], self.latents[:, index : index + 1]


def save_scene(rollout: Rollout, path: str | Path, *, provenance: Mapping[str, object] | None = None) -> None:
    """Write a film's memory, with the places at which later films can start.

    provenance: what is known of its origin beside that, plain JSON values.
    """
    ends = torch.tensor([one.shape[1] for one in rollout.latents]).cumsum(0) - 1
    count = min(MAX_PLACES, len(ends))
    chosen = torch.linspace(0, len(ends) - 1, count).round().long().tolist()
    cameras = rollout.filmed_cameras()[ends[chosen].tolist()]
    film = {
        "frames": (ends[chosen] * rollout.grid.temporal_stride).tolist(),
        "latent_frames": int(ends[-1]) + 1,
        "image_size": list(cameras.image_size),
        "fps": rollout.fps,
        "unit_length": rollout.unit_length,
        "grid": asdict(rollout.grid),
        "origin": asdict(rollout.origin),
    }
    tensors = {
        "latents": torch.cat([rollout.latents[index][:, -1:] for index in chosen], dim=1),
        "cam2world": cameras.cam2world,
        "intrinsics": cameras.intrinsics,
    }
    save_memory(rollout.memory, path, provenance={**(provenance or {}), "film": film}, tensors=tensors)


def has_places(path: str | Path) -> bool:
    """True for a file with places at which a film can start; reads its header only. False for what is no file."""
    try:
        with opened_tensors(path) as file:
            return any(name.startswith(EXTRA) for name in file.entries)
    except (ValueError, OSError):
        return False


def load_scene(path: str | Path, *, device: str | torch.device = "cpu") -> KeptScene:
    """Read a file written by save_scene().

    Raises FileNotFoundError, and ValueError with one sentence, as load_memory() does, and when the file holds a memory
    alone, without a place to start at.
    """
    memory, provenance, tensors = load_with_film(path, device=device)
    name = Path(path).name
    if not tensors:
        raise ValueError(f"{name} holds a memory without its film: no shot can start in it. Save it with Save Memory.")
    try:
        return _checked(memory, provenance, tensors)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{name} cannot be used as a memory ({reason}); save the memory again.") from error


def _checked(memory: LatentMemory, provenance: Mapping[str, object], tensors: dict[str, torch.Tensor]) -> KeptScene:
    film = provenance.get("film")
    if not isinstance(film, dict) or set(tensors) != _TENSORS:
        raise ValueError("the description of its film is not complete")
    grid = LatentGrid(**film["grid"])
    if (grid.spatial_stride, grid.temporal_stride) != (WAN22.spatial_stride, WAN22.temporal_stride):
        raise ValueError("its film is on another latent grid than Wan2.2's")
    told = film.get("origin", asdict(UNKNOWN))
    origin = checked_origin(told["latent_format"], told["vae"])
    latents, image_size, frames = tensors["latents"], film["image_size"], film["frames"]
    if not _is_counts(image_size, 1) or len(image_size) != 2 or not _is_counts(frames, 0) or not frames:
        raise ValueError("its film has no plain picture size and frames")
    expected = (grid.channels, len(frames), *grid.size_of((image_size[0], image_size[1])))
    if tuple(latents.shape) != expected or not latents.dtype.is_floating_point:
        raise ValueError(f"its start latents have shape {list(latents.shape)} and not {list(expected)}")
    grid.check_latents(latents)
    cameras = Cameras(tensors["cam2world"], tensors["intrinsics"], (image_size[0], image_size[1]))
    if len(cameras) != len(frames) or not _is_counts([film["latent_frames"]], 1):
        raise ValueError(f"it has {len(cameras)} cameras for {len(frames)} places")
    for number in ("fps", "unit_length"):
        if type(film[number]) not in (int, float) or not 0 < film[number] < 1e9 or not math.isfinite(film[number]):
            raise ValueError(f"its {number} is no number above 0")
    return KeptScene(
        memory,
        latents,
        cameras,
        tuple(frames),
        film["latent_frames"],
        float(film["fps"]),
        float(film["unit_length"]),
        grid,
        provenance,
        origin,
    )


def _is_counts(values: object, least: int) -> bool:
    return isinstance(values, list) and all(type(one) is int and least <= one < 1 << 24 for one in values)
