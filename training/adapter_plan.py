"""What a training of an adapter needs, by calculation: parameters, memory, disk, arithmetic. Nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from mirage_core.side_branch import layout_channels
from mirage_core.weights import read_header

from .adapter_examples import SEGMENT, Recipe
from .wan import Wan, WanSizes
from .wan_memory import Lora, SideBranch

if TYPE_CHECKING:
    from .adapter_model import AdapterOptions

Stage = Literal["branch", "lora"]
WAN22_TI2V_5B = WanSizes(dim=3072, ffn_dim=14336, heads=24, layers=30, text_dim=4096)

_GIB = 2**30
# Per trained number: weight, running average and gradient in fp32, two moments of AdamW, autocast's copy in bf16.
_MASTER_BYTES = 4 + 4 + 4 + 8 + 2
_CHECKPOINT_BYTES = 4 + 4 + 8  # weight, running average and AdamW's moments in fp32
_ADAPTER_BYTES = 2  # fp16
_FROZEN_BYTES = 2  # bf16
_BLOCK_WIDTHS = 34  # a block's live activations while its gradient is made, in bytes per token and width, plus its ffn
_KEPT_BYTES = 2  # of each token and width that is kept per block when activations are made again


@dataclass(frozen=True)
class Plan:
    """parameters, trained: counts.  tokens: per sample.  gib: by kind, summing to what the GPU must hold.
    teraflop: per sample, forward and backward."""

    parameters: int
    trained: int
    tokens: int
    gib: dict[str, float]
    teraflop: float

    @property
    def total_gib(self) -> float:
        return sum(self.gib.values())

    @property
    def checkpoint_gib(self) -> float:
        """On the disk, and of main memory while it is written."""
        return self.trained * _CHECKPOINT_BYTES / _GIB

    def words(self, steps: int, batch: int, teraflops: float) -> str:
        """For --plan. teraflops: what the card really reaches in bf16."""
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.gib.items())
        hours = steps * batch * self.teraflop / teraflops / 3600
        return (
            f"{self.parameters / 1e9:.2f} G parameters, {self.trained / 1e6:.1f} M of them trained; {self.tokens:,} "
            f"tokens per sample\n{self.total_gib:.1f} GiB of GPU memory: {parts}\n"
            f"{self.teraflop:.1f} TFLOP per sample; {steps:,} steps of batch {batch} take {hours:.1f} hours at "
            f"{teraflops:g} TFLOP/s\n{self.checkpoint_gib:.1f} GiB of disk for the checkpoint (twice that, and as much "
            f"main memory, while it is written), {self.trained * _ADAPTER_BYTES / _GIB:.2f} GiB for the adapter"
        )


def plan(
    sizes: WanSizes,
    *,
    stage: Stage,
    layers: tuple[int, ...],
    channels: int,
    rank: int,
    size: tuple[int, int],
    batch: int,
    is_checkpointed: bool,
    recipe: Recipe | None = None,
) -> Plan:
    """The needs of one stage at the recipe's most references and preceding frames.

    layers, channels: of the side branch.  size: (rows, columns) in latent cells.
    is_checkpointed: activations inside blocks are made again on the way back.
    """
    recipe = recipe or Recipe()
    with torch.device("meta"):
        model = Wan(sizes)
        branch = SideBranch(sizes, channels=channels, layers=layers)
        lora = Lora(model, rank=rank) if stage == "lora" else None
    counts = [sum(one.numel() for one in part.parameters()) for part in (model, branch)]
    added = sum(one.numel() for one in lora.parameters()) if lora is not None else 0
    trained = counts[1] if stage == "branch" else added
    frozen = sum(counts) + added - trained
    frames = SEGMENT + recipe.max_references + recipe.max_preceding
    tokens = frames * (size[0] // 2) * (size[1] // 2)
    seen = (SEGMENT + recipe.max_preceding) * (size[0] // 2) * (size[1] // 2)
    inner = _BLOCK_WIDTHS * sizes.dim + 6 * sizes.ffn_dim
    passes = sizes.layers * tokens + len(layers) * seen
    kept = _KEPT_BYTES * sizes.dim * passes + inner * tokens if is_checkpointed else inner * passes
    gib = {
        "frozen weights in bf16": frozen * _FROZEN_BYTES / _GIB,
        "trained weights with gradients, moments and average in fp32": trained * _MASTER_BYTES / _GIB,
        "activations": batch * kept / _GIB,
    }
    return Plan(sum(counts) + added, trained, tokens, gib, _flops(sizes, tokens, seen, len(layers), is_checkpointed))


def plans(sizes: WanSizes, options: AdapterOptions, *, size: tuple[int, int], steps: int, teraflops: float) -> str:
    """What both stages need, in words. size: (rows, columns) in latent cells.  steps: of each."""
    told = []
    for stage in get_args(Stage):
        needs = plan(
            sizes,
            stage=stage,
            layers=tuple(range(0, sizes.layers, options.stride)),
            channels=layout_channels(options.recipe.layout),
            rank=options.rank,
            size=size,
            batch=options.batch,
            is_checkpointed=options.is_checkpointed,
            recipe=options.recipe,
        )
        told.append(f"{stage}: {needs.words(steps, options.batch, teraflops)}")
    return "\n\n".join(told)


def sizes_of(base: Path) -> WanSizes:
    """The sizes of a base's file. Raises ValueError for a file that is no bare Wan2.2 model."""
    return WanSizes.of(*read_header(base))


def _flops(sizes: WanSizes, tokens: int, seen: int, blocks: int, is_checkpointed: bool) -> float:
    """TFLOP: two per weight and token and for attention's two products; twice that on the way back."""
    weights = 6 * sizes.dim**2 + 2 * sizes.dim * sizes.ffn_dim  # cross-attention's keys and values are few

    def block(count: int) -> float:
        return 2 * weights * count + 4 * count**2 * sizes.dim

    forward = sizes.layers * block(tokens) + blocks * (block(seen) + 2 * sizes.dim**2 * seen)
    return (4 if is_checkpointed else 3) * forward / 1e12
