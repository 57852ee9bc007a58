"""Which encoder a file's latents come from: files of different encoders mean nothing to each other and are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mirage_core.weights import read_header

from .nano_films import Codec, Film

ENTRY = "mirage.autoencoder"  # of safetensors metadata
_WORDS = "mirage.scene_words"  # only nano bases have it
_MOST_VARIANCE = 2.0  # of real Wan2.2 latents it is about 1; normalised twice it is about 3
_REAL_ENCODER = "--autoencoder lighttaew2_2.safetensors (a TAEHV of Wan2.2: huggingface.co/lightx2v/Autoencoders)"


def is_real(base: Path) -> bool:
    """True for a Wan2.2 of the real world: a base without scene words.

    Raises FileNotFoundError with what to do when there is no such file, ValueError for one that is no safetensors.
    """
    if not base.is_file():
        raise FileNotFoundError(f"There is no base at {base}. Train it (python -m training.nano), or give --base.")
    return _WORDS not in read_header(base)[1]


def check_encoders(codec: Codec, base: Path, *adapters: Path) -> None:
    """Raise ValueError unless base, branch and LoRA are of the codec's encoder. Files that do not say are taken."""
    if is_real(base) and codec.is_of_nano_world:
        raise ValueError(
            f"{base.name} is a real Wan2.2, and {codec.path.name} encodes the nano world only. Give {_REAL_ENCODER}."
        )
    for path in (base, *adapters):
        stated = read_header(path)[1].get(ENTRY)
        if stated is not None and stated != codec.stamp:
            raise ValueError(
                f"{path.name} was trained on latents of the autoencoder {stated}, and {codec.path.name} is "
                f"{codec.stamp}. Give the --autoencoder that it was trained with, or train it again."
            )


def check_latents(codec: Codec, films: Sequence[Film]) -> None:
    """Raise ValueError for latents that are not normalised as a real Wan2.2 knows them.

    There are two kinds of TAEHV files of Wan2.2, which nothing in them tells apart: lighttaew2_2 gives latents as its
    VAE does, taew2_2 normalised ones, which are normalised once too often here and by the host's Load VAE.
    """
    variance = float(torch.stack([film.latents.square().mean() for film in films]).mean())
    if variance > _MOST_VARIANCE:
        raise ValueError(
            f"The latents of {codec.path.name} have a mean square of {variance:.1f} instead of about 1: they were "
            f"normalised twice, as those of taew2_2 are. Give {_REAL_ENCODER}."
        )
