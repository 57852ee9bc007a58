"""A film as pieces: what each piece is made of, by content, and which latents it has to be decoded with.

Piece 0 is the start picture; piece k is segment k without its overlap. A film's files say which pieces they hold by
these keys; nothing here reads or writes a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

TAEHV_CONTEXT = 8
"""Latent frames before a piece that a TAEHV decoder still sees: 3 blocks of one frame each at every temporal rate,
3 + 3 + ceil(3 / 2).
Source: ComfyUI v0.30 comfy/taesd/taehv.py, decoder for 48 channels."""

WAN22_CONTEXT = 38
"""The same for the decoder of the Wan2.2 VAE: every causal convolution sees 2 frames back, at 1, 1, 2, 4 and 4 frames
per latent: 2 + 8 + 14 + ceil(14 / 2) + ceil(26 / 4).
Source: ComfyUI v0.30 comfy/ldm/wan/vae2_2.py, Decoder3d."""


def piece_key(previous: str, latents: torch.Tensor) -> str:
    """Name of a piece by content: of its latents and of all latents before it, which its first frames depend on.

    previous: key of the piece before, "" for the first.  latents: [channels frames rows columns], any dtype.
    Returns 64 hexadecimal digits.
    """
    digest = hashlib.sha256(previous.encode())
    digest.update(f"{latents.dtype} {list(latents.shape)}".encode())
    digest.update(latents.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def window(latents: Sequence[torch.Tensor], piece: int, context: int) -> torch.Tensor:
    """The latents of a piece with up to `context` latent frames before it, joined; the rest of the film is not touched.

    latents: per piece [channels n rows columns].  Returns [channels frames rows columns]; the piece is its end.
    """
    parts, missing = [latents[piece]], context
    for earlier in reversed(latents[:piece]):
        if missing < 1:
            break
        parts.append(earlier[:, -missing:])
        missing -= parts[-1].shape[1]
    return torch.cat(parts[::-1], dim=1)


def shared_prefix(one: Sequence[str], other: Sequence[str]) -> int:
    """How many entries two lists have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def seam_energy(frames: torch.Tensor, joins: Sequence[int], *, stride: int = 4) -> tuple[float, float]:
    """How abruptly the picture changes at joins, and at all other borders between two latent frames.

    frames: [frames height width 3] in [0, 1].  joins: frames that begin a piece, from 2 up.
    stride: frames per latent frame; only its borders are compared, since a decoder changes less inside of them.
    Returns the mean squared second difference in time over the two kinds of borders.
    """
    borders = [frame for frame in range(1 + stride, len(frames), stride) if frame not in set(joins)]

    def energy(at: Sequence[int]) -> float:
        jumps = [(frames[i] - 2 * frames[i - 1] + frames[i - 2]).square().mean() for i in at]
        return float(torch.stack(jumps).mean())

    return energy([join for join in joins if join > 1]), energy(borders)
