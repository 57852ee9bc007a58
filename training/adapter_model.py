"""What a training of an adapter trains: a frozen model, and beside it a side branch and a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mirage_core.latent_grid import WAN22
from mirage_core.scene_words import scene_words_in
from mirage_core.side_branch import layout_channels
from mirage_core.weights import Stated

from .adapter_examples import Example, Recipe
from .adapter_files import load_model
from .adapter_plan import Stage
from .contexts import Contexts, read_contexts
from .nano_films import Film
from .nano_sampling import flow_loss
from .nano_words import WordTable
from .wan import Wan, initialised
from .wan_memory import Lora, SideBranch, WanWithMemory


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

    texts: of a nano base, or the contexts of a real one.
    """

    def __init__(self, model: Wan, texts: WordTable | Contexts, options: AdapterOptions):
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
        self.texts: list[WordTable | Contexts] = [texts.requires_grad_(False)]
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
            text = self.texts[0](example.texts).to(device)
            company = {
                "context": example.context,
                "references": example.references,
                "preceding": example.preceding,
            }
            return flow_loss(
                lambda latents, times: together(latents, times, text, **company), example.target, generator
            )

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


def adapter_of(base: Path, options: AdapterOptions, device: torch.device, text: Path | None) -> Adapter:
    """The adapter to train beside a base's file.

    text: of a real base (contexts.py); a nano base brings its words along.
    Raises ValueError for a real base without text, or with one of another width.
    """
    is_small = base.stat().st_size < 2**30
    model, metadata = load_model(base, dtype=torch.float32 if is_small else torch.bfloat16, device=device)
    if text is not None:
        return Adapter(model, read_contexts(text, model.sizes.text_dim), options)
    return Adapter(model, WordTable(model.sizes.text_dim, scene_words_in(metadata, base.name)), options)
