"""Rendered clips as files: what the trainers read again and again instead of rendering it each time.

    python -m training.clip_pool FOLDER --worlds 200 --movers 2

writes two flights through every world, each one safetensors file: rgb [frames H W 3] uint8, depth [frames H W] float16
(inf: sky), is_mover [frames H W] bool, cam2world, intrinsics, times. Files that are there already are left alone, so a
run that was cut off goes on where it stopped. Held-out seeds are refused unless --held-out says that they are for
measuring.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mirage_core.camera import Cameras

from .worlds import Frames, World, check_trainable, random_flight

CLIP_FRAMES = 33
_WORLD_CLIP = re.compile(r"(?:.*-)?(?P<kind>room|plaza)-(?P<seed>\d+)-\d+")


def write_clip(path: Path, frames: Frames, note: dict[str, str]) -> None:
    """Write a clip so that no reader ever sees half of it. note: where it comes from."""
    tensors = {
        "rgb": (frames.rgb * 255).round().to(torch.uint8),
        "depth": frames.depth.half(),
        "is_mover": frames.is_mover,
        "cam2world": frames.cameras.cam2world,
        "intrinsics": frames.cameras.intrinsics,
        "times": frames.times,
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=note)
    part.replace(path)


def read_clip(path: Path) -> Frames:
    """The clip as it was rendered, colours rounded to 1/255 and depth to float16. `mover` only says 0 or -1."""
    with safe_open(path, framework="pt") as file:
        part = {name: file.get_tensor(name) for name in file.keys()}
    rgb, depth, is_mover = part["rgb"].float() / 255, part["depth"].float(), part["is_mover"]
    cameras = Cameras(part["cam2world"], part["intrinsics"], (rgb.shape[1], rgb.shape[2]))
    return Frames(rgb, depth, torch.isinf(depth), is_mover, is_mover.long() - 1, cameras, part["times"])


def read_pictures(path: Path, start: int, count: int) -> torch.Tensor:
    """[count H W 3] uint8: only these frames are read from the disk."""
    with safe_open(path, framework="pt") as file:
        return file.get_slice("rgb")[start : start + count]


def clip_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


class ClipNote(NamedTuple):
    """frames: how many.  image_size: (height, width).  kind, seed: of the world, None for clips of one's own."""

    frames: int
    image_size: tuple[int, int]
    kind: str | None
    seed: int | None


def clip_note(path: Path) -> ClipNote:
    """What a clip is, without its pictures. The world is told by its metadata, or else by its name."""
    with safe_open(path, framework="pt") as file:
        frames, height, width, _ = file.get_slice("rgb").get_shape()
        said = file.metadata() or {}
    named = _WORLD_CLIP.fullmatch(path.stem)
    if "world" in said and "seed" in said:
        return ClipNote(frames, (height, width), said["world"], int(said["seed"]))
    if named is not None:
        return ClipNote(frames, (height, width), named["kind"], int(named["seed"]))
    return ClipNote(frames, (height, width), None, None)


class ClipPool:
    """The clips of a folder that may still be growing, to train on. notes: what each of them is.

    Raises ValueError without any clip, and for one of a world that is held out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[Path, ClipNote] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look again what is there."""
        self.notes = {path: self.notes.get(path) or _trainable_note(path) for path in clip_files(self.folder)}
        if not self.notes:
            raise ValueError(
                f"There are no clips in {self.folder}. Render some: python -m training.clip_pool {self.folder}"
            )

    @property
    def longest(self) -> int:
        return max(note.frames for note in self.notes.values())

    def pick(self, frames: int = 1) -> Path:
        """Any clip of at least so many frames. Raises ValueError when all are shorter."""
        long = [path for path, note in self.notes.items() if note.frames >= frames]
        if not long:
            raise ValueError(f"All clips in {self.folder} are shorter than {frames} frames; render some with --frames.")
        return random.choice(long)


def _trainable_note(path: Path) -> ClipNote:
    note = clip_note(path)
    if note.seed is not None:
        check_trainable(note.seed)
    return note


def render_world(folder: Path, kind: str, seed: int, *, flights: int, frames: int, size: int, movers: int) -> None:
    """Render `flights` clips of one world, every second one with things that move."""
    paths = {index: folder / f"{kind}-{seed:07d}-{index}.safetensors" for index in range(flights)}
    missing = {index: path for index, path in paths.items() if not path.exists()}
    if not missing:
        return
    world: World = getattr(World, kind)(seed, movers=movers)
    for index, path in missing.items():
        flight = random_flight(world, index, frames=frames, image_size=(size, size))
        shown = world if (seed + index) % 2 else world.still
        rendered = shown.render(flight.cameras, flight.times, supersampling=2)
        note = {"world": kind, "seed": str(seed), "flight": flight.name, "path": flight.path.to_json()}
        write_clip(path, rendered, note)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.clip_pool", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worlds", type=int, default=200, help="how many worlds; rooms and plazas take turns")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--flights", type=int, default=2, help="clips per world")
    parser.add_argument("--frames", type=int, default=CLIP_FRAMES)
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels")
    parser.add_argument("--movers", type=int, default=3, help="things that move, in every second clip")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--held-out", action="store_true", help="allow held-out seeds: for measuring, never to train on"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.first_seed, asked.first_seed + asked.worlds):
        if not asked.held_out:
            check_trainable(seed)
        kind = "plaza" if seed % 2 else "room"
        render_world(
            asked.folder, kind, seed,
            flights=asked.flights, frames=asked.frames, size=asked.size, movers=asked.movers,
        )  # fmt: skip
        print(f"{kind} {seed}: {len(clip_files(asked.folder))} clips", flush=True)


if __name__ == "__main__":
    main()
