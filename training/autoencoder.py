"""Train the autoencoder of the nano world on rendered clips: python -m training.autoencoder --clips FOLDER

Single pictures come first, through a network without residual blocks, then clips, then one block after the other
(GROW_AT). From WARP_FROM on a third of the latents are warped (shifted, turned, scaled) and must decode to the warped
pictures, the others to the pictures themselves. Warping latents is what a memory does, so they must move as pictures
do. Penalties hold mean, variance and correlation of the latents at those that Wan2.2's latents have, so that the host's
own normalisation fits. The result is a file for the stock VAELoader.
"""

from __future__ import annotations

import argparse
import math
import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from .autoencoder_start import start
from .clip_pool import clip_files, read_pictures
from .run import Run, Training, add_arguments, asked_run, write_weights
from .taehv import Autoencoder

GROW_AT = (1150, 2800, 5000)  # steps from which one, two and three blocks per stage are trained; before, pictures alone
WARP_FROM = 2000  # step from which latents are warped: before, a decoder that sees warped ones learns to blur
STILL_BATCH = 3  # times as many pictures per step while there is no block
_NOISE = 0.1  # most noise on a latent while training, in standard deviations: a diffusion model's are never exact


class Warp(NamedTuple):
    """A similarity of the picture plane per clip: grid_sample's affine matrices [clips 2 3]."""

    matrices: torch.Tensor

    def of(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures or latents [clips frames channels rows columns] moved; the border is repeated outside."""
        frames = pictures.shape[1]
        flat = pictures.flatten(0, 1)
        matrices = self.matrices.repeat_interleave(frames, 0).to(flat)
        grid = functional.affine_grid(matrices, list(flat.shape), align_corners=False)
        return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(pictures)

    def is_inside(self, size: tuple[int, int], margin: float) -> torch.Tensor:
        """[clips 1 1 H W] 1 where the moved picture shows something that is `margin` (of 2) inside of the old one."""
        shape = [len(self.matrices), 1, *size]
        grid = functional.affine_grid(self.matrices, shape, align_corners=False)
        return (grid.abs().amax(-1) < 1 - margin).float()[:, None, None]


def random_warp(clips: int, *, moved: int) -> Warp:
    """Shifts up to a fifth of the picture, scales 0.8 to 1.25, turns up to 12 degrees for the first `moved` clips."""
    matrices = torch.zeros(clips, 2, 3)
    for index in range(clips):
        scale, turn, right, down = 1.0, 0.0, 0.0, 0.0
        if index < moved:
            scale, turn = math.exp(random.uniform(-0.22, 0.22)), math.radians(random.uniform(-12, 12))
            right, down = random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4)
        cosine, sine = math.cos(turn) * scale, math.sin(turn) * scale
        matrices[index] = torch.tensor([[cosine, -sine, right], [sine, cosine, down]])
    return Warp(matrices)


def latent_penalty(latents: torch.Tensor) -> torch.Tensor:
    """How far normalised latents [clips frames 48 rows columns] are from mean 0, variance 1 and no correlation."""
    values = latents.movedim(2, 0).flatten(1).float()
    mean = values.mean(1, keepdim=True)
    covariance = (values - mean) @ (values - mean).T / values.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(covariance), device=values.device)).square().sum(1).mean()


def picture_loss(made: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error, and the absolute error of differences between neighbours, where weight is 1."""
    error = (made - wanted) * weight
    share = weight.mean().clamp_min(0.05)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return (error.abs().mean() + 4 * error.square().mean() + 0.5 * edges) / share


def training_loss(
    model: Autoencoder, frames: torch.Tensor, *, moved: int, is_still: bool = False
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss on clips [clips frames 3 H W] in [0, 1], the first `moved` of them warped, and figures for the log.

    is_still: single pictures through a network without blocks, in a quarter of the time.
    """
    warp = random_warp(len(frames), moved=moved)
    with _autocast(frames.device):
        latents = (model.encode_still(frames[:, 0])[:, None] if is_still else model.encode(frames)).float()
        given = _moved(warp, latents, moved)
        given = given + torch.randn_like(given) * (random.random() * _NOISE)
        made = (model.decode_still(given[:, 0])[:, None] if is_still else model.decode(given)).float()
    wanted = _moved(warp, frames, moved)
    weight = warp.is_inside((frames.shape[-2], frames.shape[-1]), 16 / frames.shape[-1]).to(frames)
    weight[moved:] = 1
    picture, penalty = picture_loss(made, wanted, weight), latent_penalty(latents)
    figures = {"picture": float(picture.detach()), "penalty": float(penalty.detach())}
    return picture + 0.05 * penalty, figures


def _moved(warp: Warp, pictures: torch.Tensor, moved: int) -> torch.Tensor:
    """The first `moved` clips warped, the others untouched."""
    if not moved:
        return pictures
    return torch.cat([Warp(warp.matrices[:moved]).of(pictures[:moved]), pictures[moved:]])


class ClipReader:
    """Random clips of 1, 5 or 9 frames out of a pool on the disk that may still be growing.

    crop: side of the square in pixels that is cut out of each, for clips larger than needed; None takes all of it.
    """

    def __init__(self, folder: Path, latents_per_step: int, crop: int | None = None) -> None:
        self.folder, self.latents_per_step, self.files, self.reads = folder, latents_per_step, clip_files(folder), 0
        self.crop = crop
        if not self.files:
            raise ValueError(f"There are no clips in {folder}. Render some: python -m training.clip_pool {folder}")

    def read(self) -> torch.Tensor:
        """[clips frames 3 H W] in [0, 1]."""
        self.reads += 1
        if self.reads % 200 == 0:
            self.files = clip_files(self.folder)
        latent_frames = random.choice((1, 1, 2, 3))
        clips = max(2, self.latents_per_step // latent_frames)
        return torch.stack([self.clip(4 * latent_frames - 3) for _ in range(clips)])

    def pictures(self, count: int) -> torch.Tensor:
        """[count 1 3 H W], one from each of as many clips."""
        return torch.stack([self.clip(1) for _ in range(count)])

    def clip(self, count: int) -> torch.Tensor:
        """[count 3 H W] in [0, 1], neighbouring frames or every second one."""
        path = random.choice(self.files)
        pace = random.choice((1, 1, 1, 2))
        whole = read_pictures(path, random.randint(0, 33 - 1 - (count - 1) * pace), (count - 1) * pace + 1)
        if self.crop is not None:
            if self.crop > min(whole.shape[1:3]):
                raise ValueError(
                    f"{path.name} has pictures of {whole.shape[2]}x{whole.shape[1]}, too small to cut {self.crop} out."
                )
            top, left = (random.randint(0, side - self.crop) for side in whole.shape[1:3])
            whole = whole[:, top : top + self.crop, left : left + self.crop]
        clip = whole[::pace].movedim(-1, 1).float() / 255
        return clip.flip(-1) if random.random() < 0.5 else clip


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
    with _autocast(clips.device):
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
    with torch.no_grad(), _autocast(clips.device):
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


def averaged_model(training: Training) -> Autoencoder:
    model = Autoencoder()
    model.load_state_dict(training.averaged(), strict=False)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.to(training.run.device).eval()


def export(path: Path, training: Training, figures: Figures | None, *, steps_before: int = 0) -> None:
    """The averaged weights in half precision, for the stock VAELoader. steps_before: of another run, of the encoder."""
    about = {"steps": str(steps_before + training.run.step), "minutes": f"{training.run.seconds / 60:.0f}"}
    if figures is not None:
        about |= {name: f"{value:.4g}" for name, value in figures._asdict().items()}
    write_weights(path, {name: one.half() for name, one in averaged_model(training).state_dict().items()}, about)


@torch.no_grad()
def match_statistics(model: Autoencoder, clips: torch.Tensor) -> None:
    """Give every latent channel mean 0 and variance 1 on clips [clips frames 3 H W], and let the decoder undo it.

    Exact but for the decoder's clamp, which bends large latents a little: some training has to follow.
    """
    with _autocast(clips.device):
        values = model.encode(clips).float().movedim(2, 0).flatten(1)
    mean, spread = values.mean(1), values.std(1).clamp_min(1e-3)
    host_mean, host_std = model.get_buffer("mean").flatten(), model.get_buffer("std").flatten()
    last, first = model.encoder[-1], model.decoder[1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    # raw' = (raw - shift) / spread with raw = latent * host_std + host_mean. The decoder's zero padding now stands for
    # another raw value at the border, by as much as the shift is off zero.
    shift = host_mean + host_std * mean - spread * host_mean
    last.weight.div_(spread[:, None, None, None])
    last.bias.sub_(shift).div_(spread)
    first.bias.add_((first.weight * shift[:, None, None]).sum((1, 2, 3)))
    first.weight.mul_(spread[:, None, None])


def train(
    run: Run,
    clips: Path,
    held_out: Path | None,
    *,
    latents_per_step: int,
    rate: float,
    is_matched: bool = False,
    crop: int | None = None,
    decoder_of: Path | None = None,
) -> Training:
    """Train for as long as `run` says; writes checkpoint, plot, sheet.png and nano_vae.safetensors to its folder.

    is_matched: bring the latents' statistics to the host's first.  crop: see ClipReader.
    decoder_of: a nano_vae.safetensors whose decoder is trained on and whose encoder stays: all latents stay valid.
    Raises ValueError when decoder_of is no such file or has only seen single pictures, or is to be matched too.
    """
    model = Autoencoder()
    reader, kept = ClipReader(clips, latents_per_step, crop), held_out_clips(held_out) if held_out else None
    random.seed(run.step + 1)
    steps_before = 0
    if decoder_of is None:
        start(model, reader.pictures(200))
    elif is_matched:
        raise ValueError("--match changes the encoder, and --decoder-of leaves it as it is. Give one of them.")
    else:
        steps_before = _load_for_its_decoder(model, decoder_of)
    # The encoder starts well and is soon spoilt by steps that the decoder needs.
    training = Training(model, run, rate=rate, shares={"encoder": 0.25}, is_orthogonal=True)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if is_matched:
        model.set_depth(_depth_at(run.step))
        match_statistics(model, torch.stack([reader.clip(9) for _ in range(64)]).to(run.device))
        training.restart_average()

    def show() -> None:
        figures = None
        if kept is not None:
            shown = averaged_model(training)
            figures = measure(shown, kept.to(run.device))
            write_sheet(run.folder / "sheet.png", shown, kept[:6].to(run.device))
            print(f"step {run.step}, {run.seconds / 60:.1f} min: {_told(figures)}", flush=True)
        export(run.folder / "nano_vae.safetensors", training, figures, steps_before=steps_before)

    for step in training.steps(show=show):
        age = steps_before + step
        depth = _depth_at(age)
        model.set_depth(depth)
        if age == GROW_AT[0]:
            model.spread_stills()
            training.restart_average()
        frames = reader.read() if depth else reader.pictures(STILL_BATCH * latents_per_step)
        moved = len(frames) // 3 if age >= WARP_FROM else 0
        loss, figures = training_loss(model, frames.to(run.device), moved=moved, is_still=depth == 0)
        training.descend(loss, figures)
        if step % 20 == 0:
            print(f"step {step}: {figures} {run.seconds / max(1, step):.2f} s/step", flush=True)
    return training


def _load_for_its_decoder(model: Autoencoder, path: Path) -> int:
    """Take over an exported autoencoder and hold its encoder still. Returns for how many steps it was trained."""
    if not path.is_file():
        raise ValueError(f"There is no autoencoder at {path}. Give a nano_vae.safetensors of this trainer.")
    with safe_open(path, framework="pt") as file:
        steps = (file.metadata() or {}).get("steps", "")
    if not steps.isdecimal() or int(steps) <= GROW_AT[0]:
        raise ValueError(
            f"{path.name} was trained for {steps or 'an unknown number of'} steps, at first on single pictures alone. "
            f"Train it whole for more than {GROW_AT[0]} steps before its decoder alone."
        )
    model.load_state_dict({name: one.float() for name, one in load_file(path).items()})
    model.encoder.requires_grad_(False)
    return int(steps)


def _depth_at(step: int) -> int:
    return sum(step >= grow for grow in GROW_AT)


def _told(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures._asdict().items())


def _autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.autoencoder", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, default=Path("output/nano/clips"), help="made by training.clip_pool")
    parser.add_argument("--held-out", type=Path, help="folder of held-out clips to measure on")
    parser.add_argument("--latents-per-step", type=int, help="6 on a CPU, 96 on a GPU")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--match", action="store_true", help="first give the latents mean 0 and variance 1; train on")
    parser.add_argument("--crop", type=int, help="side of a random square of each clip to train on; default all of it")
    parser.add_argument("--decoder-of", type=Path, help="a nano_vae.safetensors: train only its decoder, into --folder")
    add_arguments(parser, folder="output/nano/autoencoder")
    asked = parser.parse_args()
    run = asked_run(asked)
    latents = asked.latents_per_step or (96 if run.device.type == "cuda" else 6)
    train(
        run, asked.clips, asked.held_out, latents_per_step=latents, rate=asked.rate, is_matched=asked.match,
        crop=asked.crop, decoder_of=asked.decoder_of,
    )  # fmt: skip


if __name__ == "__main__":
    main()
