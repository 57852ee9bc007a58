"""What an autoencoder is measured by: pictures that it has never seen, encoded, warped and decoded."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from .clip_pool import clip_files, read_pictures
from .taehv import Autoencoder
from .warps import random_warp


class Figures(NamedTuple):
    """On clips that were never trained on: PSNR in dB (higher is better) of pictures encoded and decoded, of those of
    the first latents alone, of warped latents decoded, of warped pictures encoded and decoded; rank of the latents'
    covariance (48 at best), largest mean and largest deviation of the variance from 1, largest activation."""

    psnr: float
    psnr_first: float
    psnr_warped_latents: float
    psnr_warped_pictures: float
    rank: float
    mean: float
    variance: float
    activation: float


@torch.no_grad()
def measure(model: Autoencoder, clips: torch.Tensor) -> Figures:
    """clips: [clips frames 3 H W] in [0, 1]. Warps are the same in every call."""
    state = random.getstate()
    random.seed(1)
    warp = random_warp(len(clips), moved=len(clips))
    random.setstate(state)
    with autocast(clips.device):
        latents = model.encode(clips).float()
        plain = model.decode(latents).float()
        moved_clips = warp.of(clips)
        from_latents = model.decode(warp.of(latents)).float()
        from_pictures = model.decode(model.encode(moved_clips).float()).float()
    inside = warp.is_inside((clips.shape[-2], clips.shape[-1]), 32 / clips.shape[-1]).to(clips)
    values = latents.movedim(2, 0).flatten(1)
    covariance = torch.cov(values)
    spectrum = torch.linalg.eigvalsh(covariance).clamp_min(0)
    share = spectrum / spectrum.sum()
    return Figures(
        psnr(plain, clips),
        psnr(plain[:, :1], clips[:, :1]),
        psnr(from_latents, moved_clips, inside),
        psnr(from_pictures, moved_clips, inside),
        float(torch.exp(-(share * share.clamp_min(1e-9).log()).sum())),
        float(values.mean(1).abs().max()),
        float((covariance.diagonal() - 1).abs().max()),
        float(latents.abs().max()),
    )


def psnr(made: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, the mean over clips; weight [clips 1 1 H W] of 0 and 1 picks pixels."""
    error = (made.clamp(0, 1) - wanted).square()
    weight = torch.ones_like(error[:, :1, :1]) if weight is None else weight
    per_clip = (error * weight).mean(dim=(1, 2, 3, 4)) / weight.mean(dim=(1, 2, 3, 4))
    return float(-10 * torch.log10(per_clip.clamp_min(1e-10)).mean())


def write_sheet(path: Path, model: Autoencoder, clips: torch.Tensor) -> None:
    """Rows of: picture, decoded, warped picture, decoded warped latents."""
    with torch.no_grad(), autocast(clips.device):
        warp = random_warp(len(clips), moved=len(clips))
        latents = model.encode(clips).float()
        columns = [clips, model.decode(latents).float(), warp.of(clips), model.decode(warp.of(latents)).float()]
    rows = torch.cat([column[:, -1].cpu() for column in columns], dim=-1).clamp(0, 1)
    picture = (torch.cat(list(rows), dim=-2) * 255).round().byte().movedim(0, -1)
    Image.fromarray(picture.numpy()).save(path)


def held_out_clips(folder: Path, count: int = 12) -> torch.Tensor:
    """[clips 5 3 H W] of `count` clips spread over a folder, in which those of one kind of world come first."""
    files = clip_files(folder)
    chosen = files[:: max(1, len(files) // count)][:count]
    return torch.stack([read_pictures(path, 0, 5).movedim(-1, 1).float() / 255 for path in chosen])


def told(figures: Figures) -> str:
    """One line for the log."""
    return ", ".join(f"{name} {value:.2f}" for name, value in figures._asdict().items())


def autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16)
