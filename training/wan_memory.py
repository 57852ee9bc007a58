"""Wan with a memory: the side branch beside its blocks, references and preceding frames among its tokens, a LoRA.

Order, positions and timesteps come from mirage_core.side_branch, as they do in the host: one truth for both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import nn

from mirage_core.branch_files import BranchFile
from mirage_core.side_branch import BranchInput, TokenOrder

from .wan import Block, Wan, WanSizes

LORA_PARTS = ("q", "k", "v", "o", "ffn.0", "ffn.2")


class BranchBlock(Block):
    """A block of the side branch, which also gives a hint to the model's tokens."""

    def __init__(self, sizes: WanSizes, *, is_first: bool):
        super().__init__(sizes)
        if is_first:
            self.before_proj = nn.Linear(sizes.dim, sizes.dim)
        self.after_proj = nn.Linear(sizes.dim, sizes.dim)
        self.is_first = is_first

    def forward(self, x, time, positions, text, model_tokens=None):  # type: ignore[override]
        """Returns (hint, x), both [batch tokens dim]; the first block adds model_tokens to what the branch reads."""
        if self.is_first:
            x = self.before_proj(x) + model_tokens
        x = super().forward(x, time, positions, text)
        return self.after_proj(x), x


class SideBranch(nn.Module):
    """Reads the memory's view. layers: those of the model that get a hint, one per block.

    Raises ValueError without layers, or for layers the model does not have.
    """

    def __init__(self, sizes: WanSizes, *, channels: int, layers: tuple[int, ...]):
        super().__init__()
        if not layers or max(layers) >= sizes.layers:
            raise ValueError(f"The branch has layers {layers}; the model has {sizes.layers}. Use 0 and every second.")
        self.layers = layers
        self.vace_patch_embedding = nn.Conv3d(channels, sizes.dim, (1, 2, 2), (1, 2, 2))
        self.vace_blocks = nn.ModuleList(BranchBlock(sizes, is_first=index == 0) for index in range(len(layers)))

    @staticmethod
    def of(found: BranchFile, sizes: WanSizes) -> SideBranch:
        """An empty branch of the sizes of a file, for the model it belongs to."""
        return SideBranch(sizes, channels=found.channels, layers=found.layers(sizes.dim, sizes.layers))

    @torch.no_grad()
    def start_from(self, model: Wan) -> None:
        """Take over the model's patch embedding and those of its blocks that get a hint; hints stay as they are.

        The release starts from random blocks. A copy knows from the first step on how pictures hang together, so that a
        short training need not find it out.
        """
        own, theirs = self.vace_patch_embedding, model.patch_embedding
        shared = min(own.in_channels, theirs.in_channels)
        own.weight[:, :shared].copy_(theirs.weight[:, :shared])
        for layer, block in zip(self.layers, self.vace_blocks, strict=True):
            block.load_state_dict(model.blocks[layer].state_dict(), strict=False)

    def embedded(self, context: torch.Tensor, frames: int) -> torch.Tensor:
        """[batch channels frames rows columns] -> [batch tokens dim]; frames that it lacks are zero tokens."""
        x = self.vace_patch_embedding(context).flatten(3)
        x = functional.pad(x, (0, 0, 0, frames - x.shape[2]))
        return x.flatten(2).transpose(1, 2)


class Lora(nn.Module):
    """Low-rank changes of a Wan's attention and feed-forward layers; acts while attached.

    alpha equals the rank, so that the file needs no scale. Names are those of the released trainer's files.
    """

    def __init__(self, model: Wan, *, rank: int, parts: tuple[str, ...] = LORA_PARTS, seed: int = 0):
        super().__init__()
        self.rank = rank
        self.names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(parts)
        ]
        generator = torch.Generator().manual_seed(seed)
        linears = [model.get_submodule(name) for name in self.names]
        self.down = nn.ParameterList(
            torch.randn(rank, linear.in_features, generator=generator) * linear.in_features**-0.5  # type: ignore
            for linear in linears
        )
        self.up = nn.ParameterList(torch.zeros(linear.out_features, rank) for linear in linears)  # type: ignore
        self._handles = []

    def attach(self, model: Wan) -> None:
        """From now on the model's layers give their own output plus the LoRA's."""
        for index, name in enumerate(self.names):
            self._handles.append(model.get_submodule(name).register_forward_hook(self._hook(index)))

    def detach(self) -> None:
        """The model is as it was."""
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, index: int):
        def add(_module, inputs, output):
            low = functional.linear(inputs[0], self.down[index].to(inputs[0].dtype))
            return output + functional.linear(low, self.up[index].to(low.dtype))

        return add

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a LoRA file holds."""
        pairs = zip(self.names, self.down, self.up, strict=True)
        return {
            f"{name}.{part}.weight": weight.detach()
            for name, down, up in pairs
            for part, weight in (("lora_A", down), ("lora_B", up))
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over the weights of a LoRA file that tensors() made.

        Raises ValueError when names differ.
        """
        expected = self.tensors().keys()
        if tensors.keys() != expected:
            raise ValueError(
                f"The LoRA has {len(tensors)} tensors, this model's has {len(expected)}. Use a file of the same "
                "training and the same rank."
            )
        with torch.no_grad():
            for index, name in enumerate(self.names):
                self.down[index].copy_(tensors[f"{name}.lora_A.weight"])
                self.up[index].copy_(tensors[f"{name}.lora_B.weight"])


class WanWithMemory(nn.Module):
    """A model and its side branch as one function of latents. branch: None for references and preceding frames only."""

    def __init__(
        self, model: Wan, branch: SideBranch | None, *, token_order: TokenOrder = "ref_target_preceding"
    ) -> None:
        super().__init__()
        self.model, self.branch = model, branch
        self.token_order: TokenOrder = token_order

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        *,
        context: torch.Tensor | None = None,
        references: torch.Tensor | None = None,
        preceding: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """The flow of the target frames [batch channels frames rows columns].

        latents: that shape.  timesteps: [batch frames] in [0, 1000].  text: [batch words text_dim].
        context: [batch branch_channels frames rows columns] of target and preceding frames.
        references, preceding: [batch channels n rows columns], clean.
        """
        plan = BranchInput(
            latents.shape[2],
            references=None if references is None else references[0],
            preceding=None if preceding is None else preceding[0],
            token_order=self.token_order,
        )
        groups = {"references": references, "target": latents, "preceding": preceding}
        order = ("references", "target", "preceding")
        if self.token_order == "target_preceding_ref":
            order = ("target", "preceding", "references")
        packed = torch.cat([group for name in order if (group := groups[name]) is not None], dim=2)
        output = self._through(packed, plan, plan.timesteps(timesteps), text, context, strength)
        return output[:, :, plan.target]

    def _through(self, packed, plan: BranchInput, timesteps, text, context, strength: float) -> torch.Tensor:
        model, (rows, columns) = self.model, packed.shape[3:]
        per_frame = (rows // 2) * (columns // 2)
        seen = plan.seen_by_branch
        tokens = slice(seen.start * per_frame, seen.stop * per_frame)
        positions = self._positions(plan, rows, columns).to(packed.device)
        x, time, words = model.tokens(packed), model.times(timesteps), model.text_embedding(text)
        projected = model.projected(time)
        hints, own = {}, x[:, :0]
        if self.branch is not None and context is not None and strength:
            own = self.branch.embedded(context, seen.stop - seen.start)
            hints = dict(zip(self.branch.layers, self.branch.vace_blocks, strict=True))
        for layer, block in enumerate(model.blocks):
            before = x[:, tokens]
            x = model.through(block, x, projected, positions, words)
            if layer in hints:
                hint, own = model.through(hints[layer], own, projected[:, seen], positions[tokens], words, before)
                x = x + functional.pad(hint * strength, (0, 0, tokens.start, x.shape[1] - tokens.stop))
        return model.unpacked(model.head(x, time), packed)

    def _positions(self, plan: BranchInput, rows: int, columns: int) -> torch.Tensor:
        parts = []
        for run in plan.rope_runs:
            step = 0 if run.is_still else 1
            times = run.first_time + step * torch.arange(run.frames)
            parts.append(self.model.positions(times, rows, columns, first_row=rows // 2 if run.is_below else 0))
        return torch.cat(parts)
