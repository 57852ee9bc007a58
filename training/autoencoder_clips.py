"""What an autoencoder is trained on: short random pieces of clips."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from .clip_pool import ClipPool, read_pictures

_REFRESH = 200  # reads between two looks for new clips
_LATENT_FRAMES = (1, 1, 2, 3)  # lengths of pieces, each as likely as it is often here


class ClipReader:
    """Random clips of 1, 5 or 9 frames out of a pool on the disk that may still be growing.

    crop: side of the square in pixels that is cut out of each, for clips larger than needed; None takes all of it.
    """

    def __init__(self, folder: Path, latents_per_step: int, crop: int | None = None) -> None:
        self.pool, self.latents_per_step, self.crop, self.reads = ClipPool(folder), latents_per_step, crop, 0

    def read(self) -> torch.Tensor:
        """[clips frames 3 H W] in [0, 1]."""
        self.reads += 1
        if self.reads % _REFRESH == 0:
            self.pool.refresh()
        latent_frames = random.choice([one for one in _LATENT_FRAMES if 4 * one - 3 <= self.pool.longest])
        clips = max(2, self.latents_per_step // latent_frames)
        return torch.stack([self.clip(4 * latent_frames - 3) for _ in range(clips)])

    def pictures(self, count: int) -> torch.Tensor:
        """[count 1 3 H W], one from each of as many clips."""
        return torch.stack([self.clip(1) for _ in range(count)])

    def clip(self, count: int) -> torch.Tensor:
        """[count 3 H W] in [0, 1], neighbouring frames or every second one."""
        path = self.pool.pick(count)
        frames = self.pool.notes[path].frames
        pace = random.choice([pace for pace in (1, 1, 1, 2) if (count - 1) * pace < frames])
        length = (count - 1) * pace + 1
        whole = read_pictures(path, random.randint(0, frames - length), length)
        if self.crop is not None:
            if self.crop > min(whole.shape[1:3]):
                raise ValueError(
                    f"{path.name} has pictures of {whole.shape[2]}x{whole.shape[1]}, too small to cut {self.crop} out."
                )
            top, left = (random.randint(0, side - self.crop) for side in whole.shape[1:3])
            whole = whole[:, top : top + self.crop, left : left + self.crop]
        clip = whole[::pace].movedim(-1, 1).float() / 255
        return clip.flip(-1) if random.random() < 0.5 else clip
