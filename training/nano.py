"""Train the nano base: a Wan2.2-TI2V of a few million parameters that films procedural worlds from a first frame.

    python -m training.clip_pool output/nano/flights --worlds 120 --flights 1 --frames 97 --movers 2 --size 192
    python -m training.nano --minutes 60

The next run goes on where this one stopped. The folder then holds nano_base.safetensors, which the host's Load
Diffusion Model reads, the loss as a plot, and pictures of what the model films.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mirage_core.scene_words import scene_words_in

from .film_sources import add_film_arguments, films_of
from .nano_films import Codec, Film
from .nano_sampling import flow_loss, sampled
from .nano_words import WordTable
from .notes import note_of
from .run import Training, add_arguments, add_optimizer_argument, asked_run, write_weights
from .wan import Wan, WanSizes, initialised

SEGMENT = 9  # latent frames
_REPORT_EVERY = 50  # steps


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


def _filmed(path: Path, nano: Nano, codec: Codec, films: Sequence[Film]) -> None:
    """A picture: the truth above what the base as it is makes of its first frame."""
    rows = []
    for film, made in zip(films, film_first_segments(nano.model, nano.words, films), strict=True):
        rows += [codec.decode(film.latents[:, :SEGMENT]), codec.decode(made)]
    picture_rows(path, rows)


def train(nano: Nano, films: Sequence[Film], training: Training, *, measure=None, show=None) -> None:
    """Go on until the run's time or steps are used up. measure, show: see Training.steps."""
    run, options = training.run, nano.options
    # Resumed, the random numbers go on from another place: no window is seen twice in the same noise.
    random = Random(f"{options.seed} {run.step}")
    for step in training.steps(measure=measure, show=show):
        training.descend(nano.loss(films, random, device=run.device), {})
        if step % _REPORT_EVERY == 0:
            print(f"step {step}: {json.dumps(run.log[-1])} after {run.seconds / 60:.1f} minutes", flush=True)


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
    codec = Codec(asked.autoencoder, run.device)
    films = films_of(codec, asked)
    held_out = [film for film in films.held_out if len(film) >= SEGMENT]
    sizes = WanSizes(dim=asked.dim, ffn_dim=4 * asked.dim, heads=max(1, asked.dim // 128), layers=asked.layers)
    nano = Nano(NanoOptions(sizes, batch=asked.batch, rate=asked.rate))
    training = Training(
        nano, run, rate=asked.rate, warmup=50, decay_steps=4000, is_orthogonal=asked.muon,
        fixed={"autoencoder": codec.stamp},
    )  # fmt: skip

    def measure() -> dict[str, float]:
        with training.averaging(), torch.no_grad():
            return {"held_out": float(nano.loss(held_out, Random("held out"), device=run.device))}

    def show() -> None:
        note = note_of(run, encoder=codec.stamp, options=nano.options, worlds=films.worlds)
        with training.averaging():
            save_base(run.folder / "nano_base.safetensors", nano.state_dict(), nano, note)
            _filmed(run.folder / "filmed.png", nano, codec, (held_out or films.shown)[:3])

    train(nano, films.shown, training, measure=measure if held_out else None, show=show)


if __name__ == "__main__":
    main()
