"""Train the nano base: a Wan2.2-TI2V of a few million parameters that films procedural worlds from a first frame.

    python -m training.clip_pool output/nano/flights --worlds 120 --flights 1 --frames 97 --movers 2 --size 192
    python -m training.nano --autoencoder output/nano/autoencoder_final.safetensors --minutes 60

The next run goes on where this one stopped. The folder then holds nano_base.safetensors, which the host's Load
Diffusion Model reads, the loss as a plot, and pictures of what the model films.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mirage_core.scene_words import scene_words_in

from .clip_pool import clip_files
from .nano_films import Codec, Film, FilmShelf, own_clips
from .nano_sampling import flow_loss, sampled
from .nano_words import WordTable
from .run import Training, add_arguments, add_optimizer_argument, asked_run, write_weights
from .wan import Wan, WanSizes, initialised

SEGMENT = 9  # latent frames
_HELD_OUT_EVERY = 50  # steps


@dataclass(frozen=True)
class NanoOptions:
    """What the base is and how it learns. Learning rate and batch fit two CPU cores as well as one GPU.

    first_rate: share of windows that begin with a film's first latent, which alone is of one frame.
    text_loss: share of windows without words, so that guidance has something to lead away from.
    """

    sizes: WanSizes = field(default_factory=WanSizes)
    batch: int = 16
    rate: float = 1e-3
    first_rate: float = 0.3
    text_loss: float = 0.15
    seed: int = 0


class Nano(nn.Module):
    """The base and its words, trained together."""

    def __init__(self, options: NanoOptions):
        super().__init__()
        self.options = options
        self.model = Wan(options.sizes)
        initialised(self.model, seed=options.seed)
        self.words = WordTable(options.sizes.text_dim, seed=options.seed + 1)

    def loss(self, films: Sequence[Film], random: Random, *, device: torch.device) -> torch.Tensor:
        """The flow loss of a batch of random windows."""
        chosen = [random.choice(films) for _ in range(self.options.batch)]
        clean = torch.stack([self._window(film, random) for film in chosen]).to(device)
        texts = [() if random.random() < self.options.text_loss else film.words for film in chosen]
        generator = torch.Generator().manual_seed(random.getrandbits(62))
        with torch.autocast(device.type, torch.bfloat16):
            text = self.words(texts)
            return flow_loss(lambda latents, times: self.model(latents, times, text), clean, generator)

    def _window(self, film: Film, random: Random) -> torch.Tensor:
        is_first = random.random() < self.options.first_rate
        start = 0 if is_first else random.randint(0, len(film) - SEGMENT)
        return film.latents[:, start : start + SEGMENT]


def save_base(path: Path, tensors: dict[str, torch.Tensor], nano: Nano, note: dict[str, str]) -> None:
    """The base as the host reads it, in float16. tensors: of Nano's state dict.  note: further metadata."""
    weights = {name[len("model.") :]: one.half() for name, one in tensors.items() if name.startswith("model.")}
    words = WordTable(nano.options.sizes.text_dim)
    words.load_state_dict({"vectors": tensors["words.vectors"].cpu()})
    write_weights(path, weights, {**nano.options.sizes.metadata(), **words.scene_words.to_metadata(), **note})


def load_base(path: Path) -> tuple[Wan, WordTable]:
    """A base's file as a model of its own sizes and its words, float32.

    Raises ValueError for a file that is no nano base.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    tensors = {name: one.float() for name, one in load_file(path).items()}
    sizes = WanSizes.of({name: tuple(one.shape) for name, one in tensors.items()}, metadata)
    model = Wan(sizes)
    model.load_state_dict(tensors)
    return model, WordTable(sizes.text_dim, scene_words_in(metadata, path.name))


def picture_rows(path: Path, rows: Sequence[torch.Tensor], *, frames: int = 5) -> None:
    """Clips [frames H W 3] in [0, 1], one below the other, each as some of its frames, into a PNG."""
    strips = []
    for clip in rows:
        chosen = torch.linspace(0, len(clip) - 1, frames).round().long()
        strips.append(torch.cat([*clip[chosen]], dim=1))
    sheet = (torch.cat(strips) * 255).round().byte()
    part = path.with_suffix(f".{os.getpid()}.part")
    Image.fromarray(sheet.numpy()).save(part, format="PNG")
    part.replace(path)


@torch.no_grad()
def film_first_segments(model: Wan, words: WordTable, films: Sequence[Film], *, steps: int = 8) -> list[torch.Tensor]:
    """[48 9 rows columns] per film: what the model makes of its first latent, noise from the film's number."""
    made = []
    device = next(model.parameters()).device
    for index, film in enumerate(films):
        first = film.latents[None, :, :1].to(device)
        noise = torch.randn(1, *film.latents[:, :SEGMENT].shape, generator=torch.Generator().manual_seed(index))
        text = words([film.words]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            clip = sampled(
                lambda latents, times, text=text: model(latents, times, text).float(),
                first,
                noise.to(device),
                steps=steps,
            )
        made.append(clip[0].float().cpu())
    return made


def _shown(training: Training, nano: Nano, codec: Codec, films: Sequence[Film], note: dict[str, str]) -> None:
    """Save the base as it is now, and a picture: the truth above what the base makes of its first frame."""
    folder = training.run.folder
    save_base(folder / "nano_base.safetensors", training.averaged(), nano, note)
    if not films:
        return
    model, words = load_base(folder / "nano_base.safetensors")
    films = films[:3]
    rows = []
    for film, made in zip(films, film_first_segments(model.to(training.run.device), words, films), strict=True):
        rows += [codec.decode(film.latents[:, :SEGMENT]), codec.decode(made)]
    picture_rows(folder / "filmed.png", rows)


def train(nano: Nano, films: Sequence[Film], training: Training, *, held_out: Sequence[Film], show) -> None:
    """Go on until the run's time or steps are used up."""
    run, options = training.run, nano.options
    # Resumed, the random numbers go on from another place: no window is seen twice in the same noise.
    random = Random(f"{options.seed} {run.step}")
    for step in training.steps(show=show):
        figures = {}
        if held_out and step % _HELD_OUT_EVERY == 0:
            with torch.no_grad():
                figures["held_out"] = float(nano.loss(held_out, Random("held out"), device=run.device))
        training.descend(nano.loss(films, random, device=run.device), figures)
        if step % _HELD_OUT_EVERY == 0:
            print(f"step {step}: {json.dumps(run.log[-1])} after {run.seconds / 60:.1f} minutes", flush=True)


def shelves(codec: Codec, asked: argparse.Namespace) -> tuple[list[Film], list[Film]]:
    """Films to train on and films to measure with, encoded where they are not yet.

    asked: with the arguments of add_film_arguments(). Films of one autoencoder lie in a folder of their own.
    Raises ValueError without any clip.
    """
    folder: Path = asked.films
    if asked.own_clips is None:
        shelf = FilmShelf(folder / codec.stamp, is_mirrored=asked.mirror)
        clips = [clip for one in asked.clips for clip in clip_files(one)]
    else:
        size, frames = (asked.own_size[0], asked.own_size[1]), asked.own_frames
        clips = own_clips(asked.own_clips, folder, image_size=size, frames=frames)
        shelf = FilmShelf(folder / codec.stamp / "own", is_mirrored=asked.mirror)
    for index, path in enumerate(shelf.fill(codec, clips)):
        if index % 20 == 0:
            print(f"{path.name}, {index + 1} of {len(clips) * (1 + asked.mirror)} films", flush=True)
    measured = FilmShelf(folder / codec.stamp / "held_out", is_held_out=True)
    found = clip_files(asked.held_out_clips) if asked.held_out_clips is not None else []
    list(measured.fill(codec, found))
    films = shelf.films()
    print(f"{len(films)} films to train on, {len(found)} to measure with", flush=True)
    return films, [film for film in measured.films() if len(film) >= SEGMENT] if found else []


def add_film_arguments(parser: argparse.ArgumentParser) -> None:
    """Where films come from, the same for the base and the adapter."""
    parser.add_argument("--autoencoder", type=Path, default=Path("output/nano/autoencoder_final.safetensors"))
    parser.add_argument("--clips", type=Path, nargs="+", default=[Path("output/nano/flights")], help="all of one size")
    parser.add_argument("--held-out-clips", type=Path, help="of worlds that are only measured; default none")
    parser.add_argument("--mirror", action="store_true", help="show every clip also as a mirror shows it")
    parser.add_argument("--films", type=Path, default=Path("output/nano/latents"), help="of the encoded clips")
    parser.add_argument("--own-clips", type=Path, help="clips of your own instead: folders as training/clips.py reads")
    parser.add_argument("--own-size", type=int, nargs=2, default=[704, 1280], help="height and width to cut them to")
    parser.add_argument("--own-frames", type=int, default=97, help="frames per film, 4n+1; longer ones are cut up")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.nano", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser, folder="output/nano/base")
    add_optimizer_argument(parser)
    add_film_arguments(parser)
    parser.add_argument("--dim", type=int, default=256, help="width; 128 per head")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    asked = parser.parse_args()
    run = asked_run(asked)
    sizes = WanSizes(dim=asked.dim, ffn_dim=4 * asked.dim, heads=max(1, asked.dim // 128), layers=asked.layers)
    nano = Nano(NanoOptions(sizes, batch=asked.batch, rate=asked.rate))
    training = Training(nano, run, rate=asked.rate, warmup=50, decay_steps=4000, is_orthogonal=asked.muon)
    codec = Codec(asked.autoencoder, run.device)
    films, held_out = shelves(codec, asked)
    note = {"mirage.autoencoder": codec.stamp, "mirage.trained_with": json.dumps(asdict(nano.options))}
    shown = held_out or films
    train(nano, films, training, held_out=held_out, show=lambda: _shown(training, nano, codec, shown, note))


if __name__ == "__main__":
    main()
