"""A finished segment written into the memory by one of two rules, with its report and the picture of its cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..mirage_core.fusion import Fusion, Verdict, fused
from ..mirage_core.memory import LatentMemory
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.upkeep import resident_bytes
from .depth_fitting import FittedDepth
from .lifting import new_cells, segment_block
from .memory_words import budget_words

FUSE, APPEND = "fuse", "append"
PRECISIONS = {"half (fp16)": torch.float16, "bf16": torch.bfloat16, "full (fp32)": None}
HALF = "half (fp16)"

_SCALE = 8
_COLORS = {
    Verdict.SKIPPED: (0.06, 0.06, 0.07),
    Verdict.NEW: (0.30, 0.78, 0.45),
    Verdict.KNOWN: (0.30, 0.33, 0.38),
    Verdict.FINER: (0.25, 0.60, 0.95),
    Verdict.EDGE: (0.55, 0.48, 0.25),
    Verdict.IN_FRONT: (0.95, 0.25, 0.28),
    Verdict.BEHIND: (0.92, 0.45, 0.85),
}


@dataclass(frozen=True)
class Written:
    """memory: with the segment in it.  note: one line.  picture: IMAGE, the verdict per cell of each latent frame."""

    memory: LatentMemory
    note: str
    picture: torch.Tensor


def written_segment(
    rollout: Rollout,
    latents: torch.Tensor,
    fitted: FittedDepth,
    static_mask: torch.Tensor | None,
    *,
    images: torch.Tensor | None,
    mode: str = FUSE,
    budget_mib: float = 0.0,
    features: torch.dtype | None = torch.float16,
) -> Written:
    """Write the next segment's new latent frames.

    mode: FUSE stores each place once, see fusion.py; APPEND stores every cell, as the released code does. A memory of
    colours is always thinned by voxels.
    Raises ValueError when latents, depth, mask or images do not belong to the segment.
    """
    memory = rollout.memory
    if mode == APPEND or is_rgb(memory):
        block, note = segment_block(rollout, latents, fitted, static_mask, images=images)
        if budget_mib:
            why = "a memory of colours" if is_rgb(memory) else f"memory_mode {APPEND}"
            note = f"{note}, budget_mib has no effect with {why}"
        return Written(memory.extended(block), note, unwritten_picture(rollout))
    cells = new_cells(rollout, latents, fitted, static_mask)
    result = fused(
        memory,
        cells.latents,
        cells.depth,
        cells.cameras,
        is_static=cells.is_static,
        confidence=cells.confidence,
        first_latent_index=rollout.filmed_latents,
        filmed_cameras=rollout.filmed_cameras(),
        features=features,
        budget_mib=budget_mib,
    )
    size = resident_bytes(result.memory) / 2**20
    total = f"{result.memory.count} points in all, {size:.1f} MiB"
    note = ", ".join([*_reasons(result), *fitted.notes, total, *budget_words(result.memory, budget_mib)])
    return Written(result.memory, note, verdict_picture(result.verdicts))


def verdict_picture(verdicts: torch.Tensor) -> torch.Tensor:
    """IMAGE of verdicts [frames rows columns] of the new latent frames, led by the overlap frame, which writes nothing.

    Green: new. Blue: finer than what was known. Grey: known. Red: a mover before known ground. Pink: contradicts
    something remembered before it. Brown: at an edge. Black: without depth, or masked.
    """
    colors = torch.tensor([_COLORS[verdict] for verdict in Verdict])
    led = torch.cat([torch.zeros_like(verdicts[:1]), verdicts]).cpu()
    picture = colors[led.long()]
    return picture.repeat_interleave(_SCALE, dim=1).repeat_interleave(_SCALE, dim=2)


def unwritten_picture(rollout: Rollout) -> torch.Tensor:
    """The picture of a segment of which no verdicts are known: black, one per latent frame."""
    frames = rollout.next_segment.latent_frames
    return verdict_picture(torch.zeros(frames - 1, *rollout.size, dtype=torch.uint8))


def _reasons(result: Fusion) -> list[str]:
    counts = result.counts
    looked_at = result.verdicts.numel() - counts[Verdict.SKIPPED]
    refused = {
        "in front of known ground": counts[Verdict.IN_FRONT],
        "behind what is remembered": counts[Verdict.BEHIND],
        "at edges": counts[Verdict.EDGE],
    }
    reasons = [
        f"{result.stored} of {looked_at} cells written ({counts[Verdict.NEW]} new, {counts[Verdict.FINER]} finer)",
        f"{counts[Verdict.KNOWN]} already known",
        f"rejected {sum(refused.values())} ({', '.join(f'{count} {why}' for why, count in refused.items())})",
    ]
    removed = {"replaced": result.replaced, "refuted": result.refuted, "forgotten for the budget": result.forgotten}
    if any(removed.values()):
        reasons.append("points " + ", ".join(f"{why} {count}" for why, count in removed.items() if count))
    return reasons
