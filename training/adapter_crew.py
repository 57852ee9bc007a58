"""All trained files of a nano world loaded together, ready to fly: autoencoder, base, side branch, LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from .adapter_files import load_branch, load_lora
from .adapter_flight import Flown, Pilot, Way, fly
from .encoders import check_encoders
from .moge import MoGe
from .moge_depth import load_depth_model
from .nano import load_base
from .nano_films import Codec
from .nano_words import WordTable
from .wan import Wan
from .wan_memory import Lora, SideBranch, WanWithMemory
from .worlds import Frames


@dataclass(frozen=True)
class Crew:
    """branch, lora and depth_model are None where there is no such file. stamp: differs for every set of files."""

    base: Wan
    words: WordTable
    codec: Codec
    branch: SideBranch | None
    lora: Lora | None
    stamp: str
    depth_model: MoGe | None = None

    @staticmethod
    def of(
        autoencoder: Path,
        base: Path,
        branch: Path | None,
        lora: Path | None,
        depth: Path | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Crew:
        """Load what is there.

        Raises FileNotFoundError without autoencoder or base, ValueError for files that do not belong together: of
        another model, or of another encoder.
        """
        codec = Codec(autoencoder, device)
        adapters = [path for path in (branch, lora) if path is not None and path.is_file()]
        check_encoders(codec, base, *adapters)
        model, words = load_base(base)
        model, files = model.to(device).requires_grad_(False), [autoencoder, base, *adapters]
        side, low = None, None
        if branch is not None and branch in adapters:
            side = load_branch(branch, model.sizes).to(device).requires_grad_(False)
        if lora is not None and lora in adapters:
            low = load_lora(lora, model).to(device).requires_grad_(False)
        depth_model = None
        if depth is not None and depth.is_file():
            depth_model = load_depth_model(depth, device)
            files.append(depth)
        stamp = sha256(b"".join(sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:12]
        return Crew(model, words, codec, side, low, stamp, depth_model)

    def fly(
        self, way: Way, frames: Frames, words: tuple[str, ...], *, seed: int, steps: int = 8, has_lora: bool = True
    ) -> Flown:
        """One flight; see adapter_flight.fly. has_lora: the LoRA acts, where there is one."""
        branch = self.branch if way.has_branch else None
        text = self.words([words]).detach()
        pilot = Pilot(WanWithMemory(self.base, branch), text, self.codec, steps=steps, depth_model=self.depth_model)
        lora = self.lora if has_lora else None
        if lora is not None:
            lora.attach(self.base)
        try:
            return fly(pilot, frames, way, seed=seed)
        finally:
            if lora is not None:
                lora.detach()
