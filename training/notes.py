"""What base, side branch and LoRA say about their own training, as safetensors metadata; ship.py gathers it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .encoders import ENTRY
from .run import Run


def note_of(run: Run, *, encoder: str, options: Any, worlds: str) -> dict[str, str]:
    """encoder: stamp of the autoencoder's.  options: a dataclass with a seed.  worlds: seeds of those it was shown."""
    measured = [entry["held_out"] for entry in run.log if "held_out" in entry]
    note = {
        ENTRY: encoder,
        "mirage.trained_with": json.dumps(asdict(options)),
        "steps": str(run.step),
        "minutes": f"{run.seconds / 60:.0f}",
        "skipped_steps": str(run.skipped),
        "seed": str(options.seed),
        "worlds": worlds or "none: clips of one's own",
    }
    return note | ({"held_out_loss": f"{measured[-1]:.4g}"} if measured else {})
