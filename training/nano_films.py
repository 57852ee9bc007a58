"""Films as the trainers of models read them: latents with exact geometry, encoded once and kept as files.

A film is a segment long, or several. Its latents are those of one causal encoding (the start frame alone first), so
any nine neighbouring ones look like a segment. Depth, masks and cameras are per latent frame, as the memory takes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mirage_core.camera import Cameras
from mirage_core.depth import latent_depth
from mirage_core.latent_grid import WAN22
from mirage_core.masks import latent_frame_mask, latent_mask

from .clip_pool import clip_files, clip_note, read_clip, write_clip
from .clips import read_clips
from .nano_words import words_of
from .taehv import Autoencoder
from .worlds import Frames, World, check_trainable

_TENSORS = ("latents", "depth", "is_static", "cam2world", "intrinsics")


class Codec:
    """An autoencoder's file in use. All latents are normalised [48 frames rows columns].

    stamp: tells encoders apart: latents of one mean nothing to the decoder of another.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        self.network = Autoencoder().to(device).requires_grad_(False).eval()
        tensors = load_file(path)
        self.network.load_state_dict({name: one.float() for name, one in tensors.items()})
        self.network.skip_idle()
        encoder = sorted(name for name in tensors if name.startswith("encoder."))
        stamp = hashlib.sha256()
        for name in encoder:
            stamp.update(name.encode() + tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
        self.stamp = stamp.hexdigest()[:12]
        self._device = device

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures [4n+1 H W 3] in [0, 1] -> [48 n+1 H/16 W/16]; the first of them alone is the first latent."""
        frames = pictures[None].movedim(-1, 2).to(self._device)
        return self.network.encode(frames)[0].movedim(1, 0).cpu()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of encode, in [0, 1]."""
        frames = self.network.decode(latents.movedim(0, 1)[None].to(self._device))[0]
        return frames.movedim(1, -1).clamp(0, 1).cpu()


@dataclass(frozen=True)
class Film:
    """One flight through one world.

    latents: [48 frames rows columns] normalised float32.
    depth: [frames rows columns] z-depth of the cells, 0 where there is no clear surface.
    is_static: [frames rows columns] bool, False where anything moves or sky shows.
    cameras: one per latent frame, image_size in pixels, world = camera of the first frame.
    words: what is said about the world.  predicted: the latents as a model made them, where that has been done.
    """

    latents: torch.Tensor
    depth: torch.Tensor
    is_static: torch.Tensor
    cameras: Cameras
    words: tuple[str, ...]
    predicted: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.latents.shape[1]

    def save(self, path: Path) -> None:
        """Write the film; a half-written file never gets the name."""
        tensors = {
            "latents": self.latents.half(),
            "depth": self.depth.float(),
            "is_static": self.is_static,
            "cam2world": self.cameras.cam2world,
            "intrinsics": self.cameras.intrinsics,
        }
        if self.predicted is not None:
            tensors["predicted"] = self.predicted.half()
        metadata = {"words": json.dumps(self.words), "image_size": json.dumps(self.cameras.image_size)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Film:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}
        latents, depth, is_static, cam2world, intrinsics = (found[name] for name in _TENSORS)
        height, width = json.loads(metadata["image_size"])
        cameras = Cameras(cam2world, intrinsics, (height, width))
        predicted = found["predicted"].float() if "predicted" in found else None
        return Film(latents.float(), depth, is_static, cameras, tuple(json.loads(metadata["words"])), predicted)


def film_of(codec: Codec, frames: Frames, words: tuple[str, ...]) -> Film:
    """Rendered or filmed frames as a film. frames: 4n+1 of them, one per pixel frame."""
    every = slice(None, None, WAN22.temporal_stride)
    size = WAN22.size_of(frames.cameras.image_size)
    is_excluded = latent_frame_mask(frames.is_mover | frames.is_sky, WAN22)
    first = torch.linalg.inv(frames.cameras.cam2world[0])
    return Film(
        latents=codec.encode(frames.rgb),
        depth=latent_depth(torch.where(frames.is_sky, 0.0, frames.depth)[every], size),
        is_static=latent_mask(is_excluded, size),
        cameras=frames.cameras[every].moved(first),
        words=words,
    )


def words_of_clip(path: Path, frames: Frames, *, is_held_out: bool = False) -> tuple[str, ...]:
    """What is said about a clip: of clip_pool.py by its world, of any other nothing.

    Raises ValueError for a world that is held out, unless is_held_out says that it is meant.
    """
    note = clip_note(path)
    if note.kind is None or note.seed is None:
        return ()
    if not is_held_out:
        check_trainable(note.seed)
    world = getattr(World, note.kind)(note.seed)
    return words_of(world, has_movers=bool(frames.is_mover.any()))


def own_clips(folder: Path, into: Path, *, image_size: tuple[int, int], frames: int) -> list[Path]:
    """Clips of one's own (clips.py: pictures or a video with cameras and depth) as files of the clip pool's format.

    into: where they go; what is there already is not read again.
    Raises ValueError when `folder` holds none.
    """
    into = into / f"{folder.resolve().name}-{image_size[1]}x{image_size[0]}-{frames}"
    if not into.is_dir():
        partial = into.with_name(f"{into.name}.{os.getpid()}.part")
        partial.mkdir(parents=True)
        for index, clip in enumerate(read_clips(folder, image_size=image_size, frames=frames)):
            write_clip(partial / f"own-{index:06d}.safetensors", clip, {"from": folder.name})
        partial.rename(into)
    return clip_files(into)


def mirrored(frames: Frames) -> Frames:
    """The frames with left and right exchanged: films of the world mirrored at x = 0, by mirrored cameras."""
    cameras = frames.cameras
    mirror = torch.diag(cameras.cam2world.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] = cameras.image_size[1] - intrinsics[:, 0, 2]
    intrinsics[:, 0, 1].neg_()
    return Frames(
        rgb=frames.rgb.flip(2),
        depth=frames.depth.flip(2),
        is_sky=frames.is_sky.flip(2),
        is_mover=frames.is_mover.flip(2),
        mover=frames.mover.flip(2),
        cameras=Cameras(mirror @ cameras.cam2world @ mirror, intrinsics, cameras.image_size),
        times=frames.times,
    )


@dataclass(frozen=True)
class FilmShelf:
    """A folder of films, one for each clip that has been encoded. One folder per autoencoder: they must not be mixed.

    is_held_out: True for films that are only measured, of worlds that no trainer may see.
    is_mirrored: every clip makes a second film, that of its mirror image: new views for half the price.
    """

    folder: Path
    is_held_out: bool = False
    is_mirrored: bool = False

    def fill(self, codec: Codec, clips: Sequence[Path]) -> Iterator[Path]:
        """Encode what is missing, and yield each film's path when it is there.

        Raises ValueError for a world that is held out.
        """
        for clip in clips:
            paths = {False: self.folder / clip.name}
            if self.is_mirrored:
                paths[True] = self.folder / f"{clip.stem}-mirrored.safetensors"
            missing = [one for one, path in paths.items() if not path.is_file()]
            if missing:
                frames = read_clip(clip)
                words = words_of_clip(clip, frames, is_held_out=self.is_held_out)
                for one in missing:
                    film_of(codec, mirrored(frames) if one else frames, words).save(paths[one])
            yield from paths.values()

    def films(self) -> list[Film]:
        """All films that are there, in the order of their names.

        Raises ValueError for an empty shelf.
        """
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise ValueError(f"There are no films in {self.folder}. Render clips first: python -m training.clip_pool.")
        return [Film.load(path) for path in paths]
