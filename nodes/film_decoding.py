"""The frames of a film, piece by piece: what Decode Film and Write Film decode, and never more than a piece at once."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Iterator

import comfy.model_management
import torch

from ..mirage_core.film import TAEHV_CONTEXT, WAN22_CONTEXT, piece_key, window
from ..mirage_core.rollout import Rollout
from .film_taehv import TaehvEnd, is_taehv
from .film_wan22 import EndOnly, is_wan22
from .host_latents import to_host

_OTHER_CONTEXT = 8
_fingerprints: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
# Keys of latents that were hashed before, by identity: (the tensor, key of the piece before, key).
_keys: dict[int, tuple[weakref.ref[torch.Tensor], str, str]] = {}


def film_keys(memory: Rollout) -> list[str]:
    """The key of every piece of the film; tensors seen before are not read again."""
    keys, previous = [], ""
    for latents in memory.latents:
        known = _keys.get(id(latents))
        if known is None or known[0]() is not latents or known[1] != previous:
            known = (weakref.ref(latents), previous, piece_key(previous, latents))
            _keys[id(latents)] = known
        previous = known[2]
        keys.append(previous)
    for gone in [one for one, (tensor, _, _) in _keys.items() if tensor() is None]:
        del _keys[gone]
    return keys


def decoded_pieces(memory: Rollout, vae, first: int = 0, *, tile_size: int = 0) -> Iterator[torch.Tensor]:
    """The frames of the pieces from `first` on: [frames height width 3] in [0, 1] on the CPU, one piece at a time.

    A piece is decoded together with the latents before it that its frames depend on, and those frames are thrown away:
    a causal VAE that starts cold shows a seam. The frames of a piece do not depend on `first`.
    """
    stride, context = memory.grid.temporal_stride, context_of(vae)
    for piece in range(first, len(memory.latents)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents = window(memory.latents, piece, context)
        count = memory.latents[piece].shape[1]
        frames = count * stride if piece else 1 + (count - 1) * stride
        yield _decoded(_of_the_end(vae, count, frames), latents, tile_size)[-frames:]


def context_of(vae) -> int:
    """Latent frames before a piece that are decoded with it: as many as its frames depend on."""
    if is_taehv(vae.first_stage_model):
        return TAEHV_CONTEXT
    return WAN22_CONTEXT if is_wan22(vae.first_stage_model) else _OTHER_CONTEXT


def vae_fingerprint(vae) -> str:
    """Names a VAE by its layers and the first numbers of each: another VAE, or another version, has another name."""
    model = vae.first_stage_model
    if model not in _fingerprints:
        digest = hashlib.sha256(f"{type(model).__name__} {vae.vae_dtype}".encode())
        for name, tensor in sorted(vae.get_sd().items()):
            numbers = [] if tensor.is_meta else tensor.flatten()[:8].float().tolist()
            digest.update(f"{name} {list(tensor.shape)} {numbers}".encode())
        _fingerprints[model] = digest.hexdigest()[:16]
    return _fingerprints[model]


def _decoded(vae, latents: torch.Tensor, tile_size: int) -> torch.Tensor:
    """[frames height width 3] in [0, 1], on the CPU."""
    samples = to_host(latents)
    if tile_size:
        tile = max(2, tile_size // 16)
        frames = vae.decode_tiled(samples, tile_x=tile, tile_y=tile, overlap=max(1, tile // 4))
    else:
        frames = vae.decode(samples)
    return frames[0].cpu().float()


def _of_the_end(vae, count: int, frames: int):
    """The same VAE; of those known here, one that makes only the `frames` frames of the last `count` latent frames."""
    model = vae.first_stage_model
    if not (is_taehv(model) or is_wan22(model)):
        return vae
    short = copy.copy(vae)
    short.first_stage_model = TaehvEnd(model, count) if is_taehv(model) else EndOnly(model, count)
    # In tiles (asked for, or by itself when memory is short) the host lays out as many frames as this tells it.
    short.upscale_ratio = (lambda latent_frames: frames, *vae.upscale_ratio[1:])
    return short
