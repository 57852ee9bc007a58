"""What the side branch and the model are fed: channel layouts, token order, timesteps and positions per latent frame.

Tensors and whole numbers only: the networks themselves belong to the host. All latents here are normalised.
Three groups of latent frames go through the model together: the references (earlier frames that saw the same place),
the target (the segment being made) and the preceding frames (what came just before it). The branch reads the last two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

import torch
from torch.nn.functional import interpolate

from .latent_grid import WAN22, LatentGrid

Layout = Literal["view", "hole_mask", "white_latent", "hole_map"]
TokenOrder = Literal["ref_target_preceding", "target_preceding_ref"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
TOKEN_ORDERS: tuple[TokenOrder, ...] = get_args(TokenOrder)

# Spatia scales its hole map by 1/255 where its pictures are scaled to [-1, 1] (ZhaoJingjing713/Spatia@10ba7a0,
# wan/wan_video_new.py, preprocess_video(control_score, min_value=0)): a seen pixel is 0 for the VAE, a mid grey.
SEEN_GREY = 0.5
HOLE_WHITE = 1.0

_BRANCH_TENSORS = 3  # beside the model's own block: the branch's tokens, the newest hint, the tokens it is added to
_BLOCK_TENSORS = (
    8  # a Wan block's live tensors of the model's width: tokens, norm, q, k, v, attention, output, residual
)


@dataclass(frozen=True)
class RopeRun:
    """Latent frames whose rotary positions follow one rule.

    first_time: temporal position of the first of them; one step per frame, or none when is_still.
    is_below: True when their rows are counted as lying below the picture, from `rows` to `2 rows - 1`.
    """

    frames: int
    first_time: int
    is_still: bool = False
    is_below: bool = False


@dataclass(frozen=True)
class BranchInput:
    """Everything that accompanies the latents of one segment through the model.

    target_frames: latent frames of the segment.
    context: [channels frames rows columns] what the branch reads, for the target and then the preceding frames
        (frames may be fewer: the rest is unknown), or None without a branch.
    references, preceding: [channels frames rows columns] clean latents, or None.
    Source: microsoft/LatentSpatialMemory@b2cd738, src/mirage/spatia/wan_video_new.py lines 849-1010; its pre-release
        for the order target, preceding, references.
    """

    target_frames: int
    context: torch.Tensor | None = None
    references: torch.Tensor | None = None
    preceding: torch.Tensor | None = None
    token_order: TokenOrder = "ref_target_preceding"

    def __post_init__(self) -> None:
        if self.token_order not in TOKEN_ORDERS:
            raise ValueError(f"The token order is {self.token_order!r}; known orders: {', '.join(TOKEN_ORDERS)}.")
        if self.target_frames < 1:
            raise ValueError(f"A segment has at least 1 latent frame, not {self.target_frames}.")
        if self.context is not None and self.context.shape[1] > self.target_frames + self.preceding_frames:
            raise ValueError(
                f"The memory's view has {self.context.shape[1]} latent frames; this segment has {self.target_frames} "
                f"and {self.preceding_frames} preceding ones. Project the memory to the cameras of this segment."
            )

    @property
    def reference_frames(self) -> int:
        """Latent frames of the references."""
        return 0 if self.references is None else self.references.shape[1]

    @property
    def preceding_frames(self) -> int:
        """Latent frames of the preceding group."""
        return 0 if self.preceding is None else self.preceding.shape[1]

    @property
    def frames(self) -> int:
        """Latent frames that go through the model."""
        return self.reference_frames + self.target_frames + self.preceding_frames

    @property
    def target(self) -> slice:
        """Where the segment's own latent frames lie among all."""
        start = self.reference_frames if self.token_order == "ref_target_preceding" else 0
        return slice(start, start + self.target_frames)

    @property
    def seen_by_branch(self) -> slice:
        """Where the latent frames lie that the branch reads and changes: target and preceding, never references."""
        return slice(self.target.start, self.target.stop + self.preceding_frames)

    @property
    def rope_runs(self) -> tuple[RopeRun, ...]:
        """Rotary positions of all latent frames, in the order in which they go through the model."""
        if self.token_order == "ref_target_preceding":
            runs = (
                RopeRun(self.reference_frames, -self.reference_frames, is_below=True),
                RopeRun(self.target_frames + self.preceding_frames, 0),
            )
        else:
            runs = (
                RopeRun(self.target_frames, 0),
                RopeRun(self.preceding_frames, -self.preceding_frames),
                RopeRun(self.reference_frames, 0, is_still=True),
            )
        return tuple(run for run in runs if run.frames)

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        """[batch channels target_frames rows columns] -> [batch channels frames rows columns], with its company.

        Raises ValueError when the latents are not those of this segment.
        """
        if latents.shape[2] != self.target_frames:
            raise ValueError(
                f"The sampler passes {latents.shape[2]} latent frames; the memory was applied for "
                f"{self.target_frames}. Give the latent the length of the segment, and use no context windows with "
                "Mirage: it films in segments already."
            )
        groups = {"target": latents}
        for name, clean in (("references", self.references), ("preceding", self.preceding)):
            if clean is None:
                continue
            if clean.shape[2:] != latents.shape[3:]:
                raise ValueError(
                    f"The {name} are {clean.shape[2]}x{clean.shape[3]} latent cells, the video {latents.shape[3]}x"
                    f"{latents.shape[4]}. Use one picture size for the whole film."
                )
            groups[name] = clean.to(latents).expand(latents.shape[0], *clean.shape)
        order = ("references", "target", "preceding")
        if self.token_order == "target_preceding_ref":
            order = ("target", "preceding", "references")
        return torch.cat([groups[name] for name in order if name in groups], dim=2)

    def timesteps(self, timesteps: torch.Tensor) -> torch.Tensor:
        """[batch target_frames] or [batch] -> [batch frames]; references and preceding frames are clean: 0."""
        if timesteps.ndim == 1 or timesteps.shape[1] == 1:
            timesteps = timesteps.reshape(-1, 1).expand(-1, self.target_frames)
        all_frames = timesteps.new_zeros(timesteps.shape[0], self.frames)
        all_frames[:, self.target] = timesteps
        return all_frames


def layout_channels(layout: Layout, grid: LatentGrid = WAN22) -> int:
    """Input channels of a branch of this layout."""
    return {
        "view": grid.channels,
        "hole_mask": grid.channels + 1,
        "white_latent": 2 * grid.channels,
        "hole_map": 2 * grid.channels,
    }[layout]


def branch_context(
    latents: torch.Tensor, is_covered: torch.Tensor, layout: Layout, second: torch.Tensor | None = None
) -> torch.Tensor:
    """What a branch of this layout reads.

    latents: [channels frames rows columns] the memory's view, normalised.  is_covered: [frames rows columns] bool.
    second: [channels frames rows columns] for "white_latent" the encoded white video, for "hole_map" the encoded
        hole map; None for the others.
    Returns [layout_channels(layout) frames rows columns]. Unknown cells are exactly 0 in normalised latent space,
    except for "hole_map", whose first part is an encoded picture and is passed on as it is.
    Raises ValueError when `second` is missing or has another shape.
    """
    if layout == "hole_map":
        known = latents
    else:
        known = torch.where(is_covered, latents, torch.zeros((), dtype=latents.dtype, device=latents.device))
    if layout == "view":
        return known
    if layout == "hole_mask":
        return torch.cat([known, (~is_covered)[None].to(known)])
    if second is None:
        what = "an encoded white video" if layout == "white_latent" else "an encoded map of the holes"
        raise ValueError(f"This side branch reads {what} beside the view; nothing can encode it. Connect the VAE.")
    if second.shape != latents.shape:
        raise ValueError(
            f"The second part of the branch's input has shape {list(second.shape)}, the view {list(latents.shape)}. "
            "Encode it for this segment's size and length."
        )
    return torch.cat([known, second.to(known)])


def white_pictures(latent_frames: int, size: tuple[int, int], grid: LatentGrid = WAN22) -> torch.Tensor:
    """[frames height width 3] white pictures that encode to `latent_frames` frames of `size` (rows, columns)."""
    stride = grid.spatial_stride
    return torch.ones(grid.frames(latent_frames), size[0] * stride, size[1] * stride, 3)


def hole_pictures(is_covered: torch.Tensor, grid: LatentGrid = WAN22) -> torch.Tensor:
    """The holes of a view [frames rows columns] bool as pictures [frames height width 3] in [0, 1], hole = white."""
    is_hole = (~is_covered).float()
    levels = SEEN_GREY + (HOLE_WHITE - SEEN_GREY) * is_hole
    times = torch.tensor([1] + [grid.temporal_stride] * (levels.shape[0] - 1), device=levels.device)
    large = interpolate(levels[None], scale_factor=grid.spatial_stride, mode="nearest")[0]
    return large.repeat_interleave(times, dim=0)[..., None].expand(-1, -1, -1, 3)


def memory_frames(branch_input: BranchInput, width: int, ffn_width: int) -> int:
    """Latent frames of a plain run that would need as much memory for activations as this one.

    width, ffn_width: of the model's blocks. The host estimates memory from the latent's shape, which contains neither
    references nor preceding frames nor the branch.
    """
    frames = float(branch_input.frames)
    if branch_input.context is not None:
        seen = branch_input.seen_by_branch
        share = _BRANCH_TENSORS * width / (_BLOCK_TENSORS * width + ffn_width)
        frames += (seen.stop - seen.start) * share
    return ceil(frames)
