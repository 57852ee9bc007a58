"""Train an adapter: first the side branch, then a LoRA of the model, as the paper does.

    python -m training.adapter --stage branch --minutes 60
    python -m training.adapter --stage lora --minutes 30
    python -m training.adapter --plan --base none
    python -m training.adapter --stage branch --base wan2.2_ti2v_5B_fp16.safetensors --text text.safetensors \
        --autoencoder lighttaew2_2.safetensors --own-clips FOLDER --folder output/real

The base stays as it is. It is the nano base, or a real Wan2.2-TI2V-5B file, whose sizes are read from its tensors, with
a text for all films (contexts.py) and a TAEHV of Wan2.2 that makes its latents. Each stage's folder holds its adapter
in the format that Load Mirage Adapter reads, with layout and cell rule in the metadata.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from torch.utils.data import DataLoader, Dataset

from mirage_core.weights import Stated

from .adapter_examples import SEGMENT, Example, Recipe, batch_of
from .adapter_files import load_branch, save_branch, save_lora
from .adapter_model import Adapter, AdapterOptions, adapter_of
from .adapter_plan import WAN22_TI2V_5B, plans, sizes_of
from .encoders import check_encoders, check_latents, is_real
from .film_sources import add_film_arguments, films_of
from .nano_films import Codec, Film
from .notes import note_of
from .run import Training, add_arguments, add_optimizer_argument, asked_run

_MEASURED = 32  # held-out examples
_REPORT_EVERY = 25  # steps
LAYOUTS = ("view", "hole_mask")  # what a memory of latents gives by itself; the others read an encoded video too


class Examples(Dataset):
    """Batch number n of a training, always the same for the same films and seed: a resumed run goes on exactly."""

    def __init__(self, films: Sequence[Film], options: AdapterOptions, *, first: int, last: int):
        self.films, self.options, self.first, self.last = list(films), options, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Example:
        if index >= len(self):
            raise IndexError(index)
        random = Random(f"examples {self.options.seed} {self.first + index}")
        return batch_of(self.films, random, self.options.recipe, size=self.options.batch)


def usable(films: Sequence[Film], recipe: Recipe) -> list[Film]:
    """Films long enough for a segment with all the company it may have, of which something can be remembered.

    Raises ValueError when there is none.
    """
    least = SEGMENT + recipe.max_references + recipe.max_preceding
    long = [film for film in films if len(film) >= least]
    if not long:
        raise ValueError(
            f"None of {len(films)} films has {least} latent frames. Render longer clips: python -m training.clip_pool "
            "output/nano/flights --frames 97 --flights 1."
        )
    found = [film for film in long if bool(((film.depth > 0) & film.depth.isfinite() & film.is_static).any())]
    if not found:
        raise ValueError(
            f"None of {len(long)} films has depth anywhere, so that there is nothing to remember. Put depth/ beside "
            "the pictures of your clips: per picture a 16-bit PNG in millimetres or an .npy in metres."
        )
    if len(found) < len(long):
        print(f"{len(long) - len(found)} of {len(long)} films have no depth and are left out", flush=True)
    return found


def left_to_the_trainer(_worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the trainer needs its workers until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(adapter: Adapter, films: Sequence[Film], training: Training, *, measure=None, show=None) -> None:
    """Go on until the run's time or steps are used up. measure, show: see Training.steps."""
    options, run = adapter.options, training.run
    generator = torch.Generator().manual_seed(1_000_003 * options.seed + run.step)
    first = run.step // options.echo
    examples = iter(
        DataLoader(
            Examples(films, options, first=first, last=first + 10_000_000),
            batch_size=None,
            num_workers=options.workers,
            shuffle=False,
            worker_init_fn=left_to_the_trainer,
        )
    )
    example = next(examples)
    for step in training.steps(measure=measure, show=show):
        if step // options.echo > first:
            first, example = step // options.echo, next(examples)
        training.descend(adapter.loss(example, generator, device=run.device), {})
        if step % _REPORT_EVERY == 0:
            print(f"step {step}: loss {run.log[-1]['loss']:.4f} after {run.seconds / 60:.1f} minutes", flush=True)


def _write_adapter(path: Path, adapter: Adapter, stated: Stated, note: dict[str, str]) -> None:
    """The stage's own file with the weights as they are."""
    if adapter.options.stage == "branch":
        save_branch(path, adapter.branch.state_dict(), stated, note)
    else:
        save_lora(path, adapter.lora, note)


def held_out_loss(adapter: Adapter, batches: Sequence[Example], *, device: torch.device) -> float:
    """The mean loss of the same examples in the same noise at the same times, whenever it is asked for."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [float(adapter.loss(one, generator, device=device)) for one in batches]
    return sum(losses) / len(losses)


def held_out_batches(films: Sequence[Film], options: AdapterOptions) -> list[Example]:
    """Examples to measure with, always the same for the same films."""
    count = -(-_MEASURED // options.batch)
    return [
        batch_of(list(films), Random(f"held out {index}"), options.recipe, size=options.batch) for index in range(count)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.adapter", description=(__doc__ or "").split("\n")[0])
    defaults = AdapterOptions()
    add_arguments(parser, folder="output/nano/adapter")
    parser.set_defaults(save_minutes=None)
    add_optimizer_argument(parser)
    add_film_arguments(parser)
    parser.add_argument("--stage", choices=("branch", "lora"), default="branch")
    parser.add_argument("--base", type=Path, default=Path("output/nano/base/nano_base.safetensors"))
    parser.add_argument("--branch", type=Path, help="of the stage lora; default that of the stage branch")
    parser.add_argument("--text", type=Path, help="a real base's text, made by training.encode_text")
    parser.add_argument("--stride", type=int, default=defaults.stride, help="every how many layers the branch hints")
    parser.add_argument("--rank", type=int, default=defaults.rank, help="of the LoRA")
    parser.add_argument("--batch", type=int, help="examples per step; default 16, for a real base 1")
    parser.add_argument("--rate", type=float, help="learning rate; default 1e-3, for a real base 1e-5")
    parser.add_argument("--echo", type=int, default=defaults.echo, help="steps per batch of examples")
    parser.add_argument("--workers", type=int, default=defaults.workers, help="processes that make examples")
    parser.add_argument(
        "--checkpoint-activations", action=argparse.BooleanOptionalAction,
        help="less memory, a third more time; default for a real base",
    )  # fmt: skip
    parser.add_argument("--layout", choices=LAYOUTS, default=defaults.recipe.layout)
    parser.add_argument("--cell-rule", choices=("center", "corner"), default=defaults.recipe.cell_rule)
    parser.add_argument("--references", type=int, default=defaults.recipe.max_references)
    parser.add_argument("--preceding", type=int, default=defaults.recipe.max_preceding)
    parser.add_argument(
        "--keep-movers", action="store_true", help="leave movers in the memory, to measure what they do"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plan", action="store_true", help="print what both stages would need; without a base's file, for the 5B"
    )
    parser.add_argument("--height", type=int, default=704, help="of --plan")
    parser.add_argument("--width", type=int, default=1280, help="of --plan")
    parser.add_argument("--teraflops", type=float, default=300.0, help="of --plan: what the card reaches in bf16")
    return parser


def _options(asked: argparse.Namespace, *, is_real: bool) -> AdapterOptions:
    """is_real: of a 5B, which learns slowly and needs a whole card for one sample."""
    recipe = replace(
        Recipe(), layout=asked.layout, max_references=asked.references, max_preceding=asked.preceding,
        cell_rule=asked.cell_rule, static_rate=1.0 if not asked.keep_movers else 0.0,
    )  # fmt: skip
    batch, rate, is_checkpointed = (1, 1e-5, True) if is_real else (16, 1e-3, False)
    if asked.checkpoint_activations is not None:
        is_checkpointed = asked.checkpoint_activations
    return AdapterOptions(
        stage=asked.stage, stride=asked.stride, rank=asked.rank, batch=asked.batch or batch, rate=asked.rate or rate,
        echo=asked.echo, workers=asked.workers, is_checkpointed=is_checkpointed, seed=asked.seed, recipe=recipe,
    )  # fmt: skip


def main() -> None:
    asked = _parser().parse_args()
    if asked.plan:
        has_base = asked.base.is_file()
        options = _options(asked, is_real=is_real(asked.base) if has_base else True)
        sizes = sizes_of(asked.base) if has_base else WAN22_TI2V_5B
        print(plans(sizes, options, size=(asked.height // 16, asked.width // 16), steps=asked.steps or 10_000,
                    teraflops=asked.teraflops))  # fmt: skip
        return
    is_large = is_real(asked.base)
    options = _options(asked, is_real=is_large)
    if asked.save_minutes is None:
        asked.save_minutes = 30.0 if is_large else 3.0
    branch = asked.branch or asked.folder / "branch/nano_branch.safetensors"
    if options.stage == "lora" and not branch.is_file():
        raise FileNotFoundError(
            f"There is no side branch at {branch}. Train it first, --stage branch, or give --branch."
        )
    if is_large and asked.text is None:
        raise ValueError(
            f"{asked.base.name} is a real Wan2.2: give a --text, which python -m training.encode_text writes."
        )
    asked.folder = asked.folder / asked.stage
    run = asked_run(asked)
    codec = Codec(asked.autoencoder, run.device)
    check_encoders(codec, asked.base, *([branch] if options.stage == "lora" else []))
    films = films_of(codec, asked)
    shown = usable(films.shown, options.recipe)
    if is_large:
        check_latents(codec, shown)
    adapter = adapter_of(asked.base, options, run.device, asked.text)
    if options.stage == "lora":
        adapter.use(load_branch(branch, adapter.sizes))
    fixed = {"autoencoder": codec.stamp, "--layout": asked.layout, "--cell-rule": asked.cell_rule}
    training = Training(
        adapter, run, rate=options.rate, warmup=50, decay_steps=4000, is_orthogonal=asked.muon, fixed=fixed
    )
    measured = held_out_batches(usable(films.held_out, options.recipe), options) if films.held_out else []
    stated = adapter.stated(shown)

    def measure() -> dict[str, float]:
        with training.averaging():
            return {"held_out": held_out_loss(adapter, measured, device=run.device)}

    def show() -> None:
        note = note_of(run, encoder=codec.stamp, options=options, worlds=films.worlds)
        with training.averaging():
            _write_adapter(run.folder / f"nano_{options.stage}.safetensors", adapter, stated, note)

    train(adapter, shown, training, measure=measure if measured else None, show=show)


if __name__ == "__main__":
    main()
