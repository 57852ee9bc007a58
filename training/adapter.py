"""Train an adapter: first the side branch, then a LoRA of the model, as the paper does.

    python -m training.adapter --stage branch --minutes 60
    python -m training.adapter --stage lora --minutes 30
    python -m training.adapter --stage branch --base wan2.2_ti2v_5B_fp16.safetensors --text text.safetensors --plan

The base stays as it is. It is the nano base, or a real Wan2.2-TI2V-5B file, whose sizes are read from its tensors; text
of the real one comes as a file with one tensor `context` [rows 4096], encoded once for all films. Each stage's folder
holds its adapter in the format that Load Mirage Adapter reads, with layout and cell rule in the metadata.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mirage_core.latent_grid import WAN22
from mirage_core.scene_words import scene_words_in
from mirage_core.side_branch import layout_channels
from mirage_core.weights import Stated

from .adapter_examples import SEGMENT, Example, Recipe, batch_of
from .adapter_files import load_branch, load_model, save_branch, save_lora
from .adapter_plan import Stage, plan
from .nano import add_film_arguments, shelves
from .nano_films import Codec, Film
from .nano_sampling import flow_loss
from .nano_words import WordTable
from .run import Training, add_arguments, add_optimizer_argument, asked_run
from .wan import Wan, WanSizes, initialised
from .wan_memory import Lora, SideBranch, WanWithMemory

WAN22_TI2V_5B = WanSizes(dim=3072, ffn_dim=14336, heads=24, layers=30, text_dim=4096)
_REPORT_EVERY = 25  # steps
LAYOUTS = ("view", "hole_mask")  # what a memory of latents gives by itself; the others read an encoded video too


@dataclass(frozen=True)
class AdapterOptions:
    """stride: every how many layers the branch gives a hint.  echo: steps that a batch of examples serves for, each
    with noise of its own; making examples costs about as much as a step of the nano model.
    is_checkpointed: activations are made again on the way back: a 5B on one GPU needs it."""

    stage: Stage = "branch"
    stride: int = 2
    rank: int = 16
    batch: int = 16
    rate: float = 1e-3
    echo: int = 2
    workers: int = 0
    is_checkpointed: bool = False
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)


class Adapter(nn.Module):
    """A frozen model with its branch and LoRA; only the stage's own part has gradients, and is in fp32.

    texts: WordTable of a nano base, or one context [rows text_dim] for all films.
    """

    def __init__(self, model: Wan, texts: WordTable | torch.Tensor, options: AdapterOptions):
        super().__init__()
        self.options, self.sizes = options, model.sizes
        self.branch = SideBranch(
            model.sizes,
            channels=layout_channels(options.recipe.layout),
            layers=tuple(range(0, model.sizes.layers, options.stride)),
        )
        initialised(self.branch, seed=options.seed)
        self.branch.start_from(model)
        self.lora = Lora(model, rank=options.rank, seed=options.seed + 1)
        if options.stage == "lora":
            self.lora.attach(model)
        self.frozen = [WanWithMemory(model, self.branch)]  # in a list: a frozen 5B belongs into no checkpoint
        self.texts = [texts.requires_grad_(False)]
        model.requires_grad_(False)
        model.is_checkpointed = options.is_checkpointed
        self.branch.requires_grad_(options.stage == "branch")
        self.lora.requires_grad_(options.stage == "lora")

    def use(self, branch: SideBranch) -> None:
        """Take over a trained branch.

        Raises ValueError when it gives hints to other layers.
        """
        if branch.layers != self.branch.layers:
            raise ValueError(
                f"The branch gives hints to the layers {branch.layers}, not {self.branch.layers}. Give its --stride."
            )
        self.branch.load_state_dict(branch.state_dict())

    def loss(self, example: Example, generator: torch.Generator, *, device: torch.device) -> torch.Tensor:
        """The flow loss of a batch whose geometry is already made, so that autocast touches the networks only."""
        example = example.to(device)
        together = self.frozen[0]
        with torch.autocast(device.type, torch.bfloat16):
            text = self._text(example.texts, device)
            company = {
                "context": example.context,
                "references": example.references,
                "preceding": example.preceding,
            }
            return flow_loss(
                lambda latents, times: together(latents, times, text, **company), example.target, generator
            )

    def _text(self, texts: Sequence[Sequence[str]], device: torch.device) -> torch.Tensor:
        known = self.texts[0]
        if isinstance(known, torch.Tensor):
            is_told = torch.tensor([bool(text) for text in texts], device=device)
            return known.to(device).expand(len(texts), -1, -1) * is_told[:, None, None]
        return known(texts).to(device)

    def stated(self, films: Sequence[Film]) -> Stated:
        """What the branch's file says about its training. films: those it was trained on, at least one."""
        turn_degrees, speed = camera_range(films)
        return Stated(
            resolution=films[0].cameras.image_size,
            trained_turn_degrees=round(turn_degrees, 4) or None,
            trained_speed=round(speed, 5) or None,
            layout=self.options.recipe.layout,
            cell_rule=self.options.recipe.cell_rule,
            token_order="ref_target_preceding",
            layers=self.branch.layers,
            heads=self.sizes.heads,
        )


def camera_range(films: Sequence[Film]) -> tuple[float, float]:
    """The largest turn (degrees) and step (median depths) per pixel frame, of what is between latent frames."""
    turns, steps = [], []
    for film in films:
        rotation, centers = film.cameras.cam2world[:, :3, :3], film.cameras.centers
        trace = (rotation[1:] * rotation[:-1]).sum((1, 2))
        turns.append(float(((trace - 1) / 2).clamp(-1, 1).acos().rad2deg().max()))
        known = film.depth[0][film.depth[0] > 0]
        unit = float(known.median()) if len(known) else 1.0
        steps.append(float((centers[1:] - centers[:-1]).norm(dim=1).max()) / unit)
    stride = WAN22.temporal_stride
    return max(turns) / stride, max(steps) / stride


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
    """Films long enough for a segment with all the company it may have.

    Raises ValueError when there is none.
    """
    least = SEGMENT + recipe.max_references + recipe.max_preceding
    found = [film for film in films if len(film) >= least]
    if not found:
        raise ValueError(
            f"None of {len(films)} films has {least} latent frames. Render longer clips: python -m training.clip_pool "
            "output/nano/flights --frames 97 --flights 1."
        )
    return found


def train(adapter: Adapter, films: Sequence[Film], training: Training, *, show=None) -> None:
    """Go on until the run's time or steps are used up."""
    options, run = adapter.options, training.run
    films = usable(films, options.recipe)
    generator = torch.Generator().manual_seed(1_000_003 * options.seed + run.step)
    first = run.step // options.echo
    examples = iter(
        DataLoader(
            Examples(films, options, first=first, last=first + 10_000_000),
            batch_size=None,
            num_workers=options.workers,
            shuffle=False,
        )
    )
    example = next(examples)
    for step in training.steps(show=show):
        if step // options.echo > first:
            first, example = step // options.echo, next(examples)
        training.descend(adapter.loss(example, generator, device=run.device), {})
        if step % _REPORT_EVERY == 0:
            print(f"step {step}: loss {run.log[-1]['loss']:.4f} after {run.seconds / 60:.1f} minutes", flush=True)


def _averaged_adapter(training: Training, adapter: Adapter, stated: Stated, note: dict[str, str]) -> None:
    """Write the stage's own file with the averaged weights."""
    averaged = training.averaged()
    if adapter.options.stage == "branch":
        weights = {name[len("branch.") :]: one for name, one in averaged.items() if name.startswith("branch.")}
        save_branch(training.run.folder / "nano_branch.safetensors", weights, stated, note)
        return
    own = {name: one.detach().clone() for name, one in adapter.lora.state_dict().items()}
    adapter.lora.load_state_dict({name: averaged[f"lora.{name}"] for name in own})
    save_lora(training.run.folder / "nano_lora.safetensors", adapter.lora, note)
    adapter.lora.load_state_dict(own)


def adapter_of(base: Path, options: AdapterOptions, device: torch.device, text: Path | None) -> Adapter:
    """The adapter to train beside a base's file.

    text: of a real base; a nano base brings its words along.
    Raises ValueError for a real base without text.
    """
    is_small = base.stat().st_size < 2**30
    model, metadata = load_model(base, dtype=torch.float32 if is_small else torch.bfloat16, device=device)
    if text is not None:
        return Adapter(model, load_file(text)["context"], options)
    return Adapter(model, WordTable(model.sizes.text_dim, scene_words_in(metadata, base.name)), options)


def _options(asked: argparse.Namespace) -> AdapterOptions:
    recipe = replace(
        Recipe(), layout=asked.layout, max_references=asked.references, max_preceding=asked.preceding,
        cell_rule=asked.cell_rule, static_rate=1.0 if not asked.keep_movers else 0.0,
    )  # fmt: skip
    return AdapterOptions(
        stage=asked.stage, stride=asked.stride, rank=asked.rank, batch=asked.batch, rate=asked.rate, echo=asked.echo,
        workers=asked.workers, is_checkpointed=asked.checkpoint_activations, seed=asked.seed, recipe=recipe,
    )  # fmt: skip


def _planned(asked: argparse.Namespace, options: AdapterOptions) -> str:
    sizes = WAN22_TI2V_5B
    if asked.base.is_file():
        with safe_open(asked.base, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            sizes = WanSizes.of(shapes, file.metadata())
    needs = plan(
        sizes,
        stage=options.stage,
        layers=tuple(range(0, sizes.layers, options.stride)),
        channels=layout_channels(options.recipe.layout),
        rank=options.rank,
        size=(asked.height // 16, asked.width // 16),
        batch=options.batch,
        is_checkpointed=options.is_checkpointed,
        recipe=options.recipe,
    )
    return needs.words(asked.steps or 10_000, options.batch, asked.teraflops)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.adapter", description=(__doc__ or "").split("\n")[0])
    defaults = AdapterOptions()
    add_arguments(parser, folder="output/nano/adapter")
    add_optimizer_argument(parser)
    add_film_arguments(parser)
    parser.add_argument("--stage", choices=("branch", "lora"), default="branch")
    parser.add_argument("--base", type=Path, default=Path("output/nano/base/nano_base.safetensors"))
    parser.add_argument("--branch", type=Path, help="of the stage lora; default that of the stage branch")
    parser.add_argument("--text", type=Path, help="a real base's encoded text: safetensors with `context` [rows 4096]")
    parser.add_argument("--stride", type=int, default=defaults.stride, help="every how many layers the branch hints")
    parser.add_argument("--rank", type=int, default=defaults.rank, help="of the LoRA")
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--rate", type=float, default=defaults.rate, help="learning rate; 1e-5 for the real model")
    parser.add_argument("--echo", type=int, default=defaults.echo, help="steps per batch of examples")
    parser.add_argument("--workers", type=int, default=defaults.workers, help="processes that make examples")
    parser.add_argument("--checkpoint-activations", action="store_true", help="less memory, a third more time")
    parser.add_argument("--layout", choices=LAYOUTS, default=defaults.recipe.layout)
    parser.add_argument("--cell-rule", choices=("center", "corner"), default=defaults.recipe.cell_rule)
    parser.add_argument("--references", type=int, default=defaults.recipe.max_references)
    parser.add_argument("--preceding", type=int, default=defaults.recipe.max_preceding)
    parser.add_argument(
        "--keep-movers", action="store_true", help="leave movers in the memory, to measure what they do"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plan", action="store_true", help="print what this would need; without a base's file, for the 5B"
    )
    parser.add_argument("--height", type=int, default=704, help="of --plan")
    parser.add_argument("--width", type=int, default=1280, help="of --plan")
    parser.add_argument("--teraflops", type=float, default=300.0, help="of --plan: what the card reaches in bf16")
    return parser


def main() -> None:
    asked = _parser().parse_args()
    options = _options(asked)
    if asked.plan:
        print(_planned(asked, options))
        return
    asked.folder = asked.folder / asked.stage
    run = asked_run(asked)
    adapter = adapter_of(asked.base, options, run.device, asked.text)
    if options.stage == "lora":
        trained = load_branch(asked.branch or asked.folder.parent / "branch/nano_branch.safetensors", adapter.sizes)
        adapter.use(trained)
    training = Training(adapter, run, rate=options.rate, warmup=50, decay_steps=4000, is_orthogonal=asked.muon)
    codec = Codec(asked.autoencoder, run.device)
    films, _ = shelves(codec, asked)
    note = {"mirage.autoencoder": codec.stamp, "mirage.trained_with": json.dumps(asdict(options))}
    stated = adapter.stated(usable(films, options.recipe))
    train(adapter, films, training, show=lambda: _averaged_adapter(training, adapter, stated, note))


if __name__ == "__main__":
    main()
