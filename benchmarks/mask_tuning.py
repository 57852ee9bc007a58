"""How long a slider of Dynamic/Sky Mask takes: the mask of a whole segment from its evidence, and of one frame.

python -m benchmarks.mask_tuning [--threads 2]
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.reporting import best_milliseconds, print_table, save_results, threads_asked_for
from mirage_core.evidence import SOURCES, Evidence, working_size
from mirage_core.mask_rules import PRESETS, MaskRules, derived_cells, derived_mask, static_mask

IMAGE_SIZE, FRAMES = (704, 1280), 33
TITLE = "Re-deriving the mask of 33 frames of 704x1280 from ten sources, milliseconds"


def blobs(seed: int, *, low: float, high: float) -> torch.Tensor:
    """[frames rows columns] uint8 scores that are smooth in space and time, over about a tenth of the picture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 7, 11, 20, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (FRAMES, *working_size(IMAGE_SIZE)), mode="trilinear")[0, 0]
    return ((smooth - low) / (high - low)).clamp(0, 1).mul(255).byte()


def main() -> None:
    threads = threads_asked_for(__doc__ or "")
    scores = {name: blobs(seed, low=0.5, high=0.9) for seed, name in enumerate(SOURCES)}
    scores["unsure_edge"] = (torch.rand(FRAMES, *working_size(IMAGE_SIZE)) > 0.97).byte() * 200  # noise: many regions
    evidence = Evidence(FRAMES, IMAGE_SIZE, scores)
    painted = blobs(20, low=0.6, high=0.9)
    rules = {name: MaskRules.of(value) for name, value in PRESETS.items()}
    rules["every source, feathered"] = MaskRules(feather=8, weights=dict.fromkeys(SOURCES, 1.0))
    rows = []
    for name, one in rules.items():
        derive = partial(derived_mask, evidence, one, painted=painted)
        whole = derive()
        timed = {
            "whole segment": derive,
            "one frame": partial(derive, frames=range(16, 17)),
            "latent cells": partial(derived_cells, whole, (44, 80)),
            "mask at full size": partial(static_mask, whole, IMAGE_SIZE),
        }
        rows.append({"rules": name} | {what: best_milliseconds(work) for what, work in timed.items()})
    print_table(rows, TITLE)
    save_results(f"mask_tuning_{threads}_threads", TITLE, rows)


if __name__ == "__main__":
    main()
