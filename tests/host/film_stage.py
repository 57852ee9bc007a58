"""What tests of films on disk share: latents that drift, decoding in one go, ways to read what was written."""

from __future__ import annotations

import copy
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

SIZE = (32, 64)  # height, width in pixels
NEW = 4  # latent frames per segment beside its overlap: small, for the time these tests take


def drifting(seed: int, frames: int, *, start=None) -> torch.Tensor:
    """Latents [48 frames rows columns] that wander on from `start`."""
    generator = torch.Generator().manual_seed(seed)
    step = 0.1 * torch.randn(48, frames, SIZE[0] // 16, SIZE[1] // 16, generator=generator)
    made = [step[:, :1] if start is None else 0.95 * start + step[:, :1]]
    for index in range(1, frames):
        made.append(0.95 * made[-1] + step[:, index : index + 1])
    return torch.cat(made, dim=1)


def read(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """(frames [height width 3] of 0..255, their times in seconds)."""
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in shown], [frame.time for frame in shown]


def decoded(films, memory, vae) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(films["film_decoding"].decoded_pieces(memory, vae)))


def to_host(latents: torch.Tensor) -> torch.Tensor:
    import comfy.latent_formats

    return comfy.latent_formats.Wan22().process_out(latents[None])


def whole(vae, memory) -> torch.Tensor:
    """The film decoded in one go, as the host's VAE Decode does."""
    with torch.inference_mode():
        return vae.decode(to_host(torch.cat(memory.latents, dim=1)))[0]


def counting(vae, *, at_third=lambda: None):
    """The same VAE with a list of how many latents it was asked to decode; at_third is called before the third time."""

    class Counting(type(vae)):
        def decode(self, samples):
            self.decoded.append(samples.shape[2])
            if len(self.decoded) == 3:
                at_third()
            return super().decode(samples)

    counted = copy.copy(vae)
    counted.__class__, counted.decoded = Counting, []
    return counted


def contents(path: Path) -> list[bytes]:
    return [path.read_bytes()] if path.is_file() else [one.read_bytes() for one in sorted(path.iterdir())]


def pixels(path: Path) -> list[bytes]:
    if path.is_file():
        return [frame.tobytes() for frame in read(path)[0]]
    return [np.asarray(Image.open(one)).tobytes() for one in sorted(path.glob("frame_*.png"))]
