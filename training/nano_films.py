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
from mirage_core.weights import read_header

from .clip_pool import clip_files, clip_note, read_clip, write_clip
from .clips import read_clips
from .nano_words import words_of
from .taehv import Autoencoder
from .worlds import Frames, World, check_trainable

_TENSORS = ("latents", "depth", "is_static", "cam2world", "intrinsics")


class Codec:
    """An autoencoder's file in use. All latents are normalised [48 frames rows columns].

    stamp: tells encoders apart: latents of one mean nothing to the decoder of another.
    is_of_nano_world: True for a file of training/autoencoder.py, which knows nothing but rendered worlds.

    Raises FileNotFoundError without the file, ValueError for one that is no TAEHV of 48 channels.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no autoencoder at {path}. Train it (python -m training.autoencoder), or give another with "
                "--autoencoder, such as workflows/nano/vae/mirage_nano_vae.safetensors."
            )
        self.path = path
        self.is_of_nano_world = "steps" in read_header(path)[1]
        self.network = Autoencoder().to(device).requires_grad_(False).eval()
        tensors = load_file(path)
        if {name: one.shape for name, one in tensors.items()} != {
            name: one.shape for name, one in self.network.state_dict().items()
        }:
            raise ValueError(
                f"{path.name} is no TAEHV autoencoder of 48 channels ({len(tensors)} tensors). Give one: Wan2.2's own "
                "VAE is not read here, but a TAEHV of it is, lighttaew2_2.safetensors."
            )
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

    into: where they go, in a folder of their own for every source, size and length; what is there is not read again.
    Raises ValueError when `folder` holds none, or none that is so long.
    """
    source = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    into = into / f"{folder.resolve().name}-{source}-{image_size[1]}x{image_size[0]}-{frames}"
    if not into.is_dir():
        partial = into.with_name(f"{into.name}.{os.getpid()}.part")
        partial.mkdir(parents=True)
        for index, clip in enumerate(read_clips(folder, image_size=image_size, frames=frames)):
            write_clip(partial / f"own-{index:06d}.safetensors", clip, {"from": folder.name})
        if not clip_files(partial):
            partial.rmdir()
            raise ValueError(f"All clips below {folder} are shorter than {frames} frames. Give a smaller --own-frames.")
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

        Raises ValueError for a world that is held out, and for a film that was made of another clip of the same name.
        """
        for clip in clips:
            paths = self._paths_of(clip)
            missing = [path for path in paths if not path.is_file()]
            for path in paths:
                if path not in missing:
                    _refuse_other_clip(path, clip)
            if missing:
                frames = read_clip(clip)
                words = words_of_clip(clip, frames, is_held_out=self.is_held_out)
                for path in missing:
                    film_of(codec, frames if path.name == clip.name else mirrored(frames), words).save(path)
            yield from paths

    def films(self, clips: Sequence[Path]) -> list[Film]:
        """The films of these clips, whatever else the shelf holds. fill() has to have made them."""
        return [Film.load(path) for path in dict.fromkeys(path for clip in clips for path in self._paths_of(clip))]

    def _paths_of(self, clip: Path) -> list[Path]:
        names = [clip.name, f"{clip.stem}-mirrored.safetensors"] if self.is_mirrored else [clip.name]
        return [self.folder / name for name in names]


def _refuse_other_clip(film: Path, clip: Path) -> None:
    note = clip_note(clip)
    with safe_open(film, framework="pt") as file:
        size, frames = tuple(json.loads(file.metadata()["image_size"])), file.get_slice("latents").get_shape()[1]
    if size != note.image_size or frames != WAN22.latent_frames(note.frames):
        raise ValueError(
            f"{film} was made of another {clip.name}, of {size[1]}x{size[0]} pixels and {frames} latent frames; the "
            f"one in {clip.parent} has {note.frames} frames of {note.image_size[1]}x{note.image_size[0]}. Give another "
            "--films."
        )
