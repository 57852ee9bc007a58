"""Train the autoencoder of the nano world on rendered clips: python -m training.autoencoder --clips FOLDER

Single pictures come first, through a network without residual blocks, then clips, then one block after the other
(GROW_AT). From WARP_FROM on a third of the latents are warped (shifted, turned, scaled) and must decode to the warped
pictures, the others to the pictures themselves. Warping latents is what a memory does, so they must move as pictures
do. Penalties hold mean, variance and correlation of the latents at those that Wan2.2's latents have, so that the host's
own normalisation fits. The result is a file for the stock VAELoader.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from .autoencoder_clips import ClipReader
from .autoencoder_figures import Figures, autocast, held_out_clips, measure, told, write_sheet
from .autoencoder_start import start
from .run import Run, Training, add_arguments, asked_run, write_weights
from .taehv import Autoencoder
from .warps import Warp, random_warp

GROW_AT = (1150, 2800, 5000)  # steps from which one, two and three blocks per stage are trained; before, pictures alone
WARP_FROM = 2000  # step from which latents are warped: before, a decoder that sees warped ones learns to blur
STILL_BATCH = 3  # times as many pictures per step while there is no block
_NOISE = 0.1  # most noise on a latent while training, in standard deviations: a diffusion model's are never exact


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
    with autocast(frames.device):
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
    with autocast(clips.device):
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
    # Resumed, the random numbers go on from another place. After start(), which seeds them too.
    random.seed(run.step + 1)
    torch.manual_seed(run.step + 1)
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
            print(f"step {run.step}, {run.seconds / 60:.1f} min: {told(figures)}", flush=True)
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
