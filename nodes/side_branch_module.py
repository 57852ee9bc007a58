"""The side branch as a network, built from the host's own Wan blocks with the host's own operations.

Weights may be of any type the host's manual_cast handles; they are moved and offloaded by the host's model patcher.
"""

from __future__ import annotations

import comfy.ldm.wan.model
import torch
from torch import nn


class SideBranch(nn.Module):
    """Blocks like the model's own, fed with the memory's view; each gives one hint to add to the model's tokens.

    The names of its weights are those of released checkpoints, so they load as they are.
    Source: microsoft/LatentSpatialMemory@b2cd738, src/mirage/spatia/wan_video_vace.py.
    """

    def __init__(
        self, *, blocks: int, channels: int, width: int, ffn_width: int, heads: int, operations, device=None, dtype=None
    ):
        super().__init__()
        self.heads = heads
        settings = {"operations": operations, "device": device, "dtype": dtype}
        self.vace_patch_embedding = operations.Conv3d(
            channels, width, kernel_size=(1, 2, 2), stride=(1, 2, 2), device=device, dtype=torch.float32
        )
        self.vace_blocks = nn.ModuleList(
            comfy.ldm.wan.model.VaceWanAttentionBlock(
                "t2v_cross_attn",
                width,
                ffn_width,
                heads,
                cross_attn_norm=True,
                block_id=index,
                operation_settings=settings,
            )
            for index in range(blocks)
        )

    def embedded(self, context: torch.Tensor, frames: int, dtype: torch.dtype) -> torch.Tensor:
        """[channels frames rows columns] -> tokens [1 tokens width]; frames the context lacks are zero tokens."""
        # The embedding runs in float32 like the model's own: its inputs are latents, not activations.
        tokens = self.vace_patch_embedding(context[None].float()).to(dtype)
        per_frame = tokens.shape[3] * tokens.shape[4]
        tokens = tokens.flatten(2).transpose(1, 2)
        missing = frames * per_frame - tokens.shape[1]
        return nn.functional.pad(tokens, (0, 0, 0, missing)) if missing else tokens


class BranchPass:
    """One run of the branch beside one run of the model: block by block, so that only one hint is alive at a time."""

    def __init__(self, branch: SideBranch, layers: tuple[int, ...], tokens: torch.Tensor):
        self._branch = branch
        self._blocks = {layer: index for index, layer in enumerate(layers)}
        self._tokens = tokens

    def has_layer(self, layer: int) -> bool:
        """True when the branch has a block beside this layer of the model."""
        return layer in self._blocks

    def hint(self, layer: int, model_tokens: torch.Tensor, **block_inputs) -> torch.Tensor:
        """The hint [batch tokens width] for this layer.

        model_tokens: the model's tokens before its first block; only the branch's first block reads them.
        """
        hint, self._tokens = self._branch.vace_blocks[self._blocks[layer]](self._tokens, model_tokens, **block_inputs)
        return hint


def build_side_branch(description, operations, *, device=None, dtype=None) -> SideBranch:
    """A SideBranch with the sizes of a mirage_core.branch_files.BranchFile."""
    return SideBranch(
        blocks=description.blocks,
        channels=description.channels,
        width=description.width,
        ffn_width=description.ffn_width,
        heads=description.heads,
        operations=operations,
        device=device,
        dtype=dtype,
    )
