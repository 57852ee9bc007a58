"""Train the depth model of the nano world on rendered clips: python -m training.depth --clips FOLDER

Pictures go in; rays, the logarithm of depth and a mask of everything but sky come out, in the format that the stock
LoadMoGeModel reads. Depth is in world units of the worlds it was trained on; errors are given after one scale per
picture, because a picture alone does not tell the scale.
"""

from __future__ import annotations

import argparse
import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.nn import functional

from .clip_pool import ClipPool, clip_files, read_clip
from .moge import MoGe, view_plane
from .run import Run, Training, add_arguments, add_optimizer_argument, asked_run, write_weights
from .worlds import Frames

FARTHEST = 30.0  # world units: depth beyond is trained as this far


class Sample(NamedTuple):
    """pictures [n 3 H W] in [0, 1]; depth [n H W] (inf: sky); rays [n 2 H W]: x and y of what is at z = 1."""

    pictures: torch.Tensor
    depth: torch.Tensor
    rays: torch.Tensor

    def to(self, device: torch.device) -> Sample:
        return Sample(*(one.to(device) for one in self))


def sample_of(frames: Frames, picked: list[int]) -> Sample:
    height, width = frames.cameras.image_size
    plane = view_plane((height, width), width / height, frames.rgb)
    half_diagonal = (height**2 + width**2) ** 0.5 / 2
    focal = (frames.cameras.intrinsics[picked, 0, 0] / half_diagonal).float()
    rays = plane / focal[:, None, None, None]
    return Sample(frames.rgb[picked].movedim(-1, 1), frames.depth[picked], rays)


class SampleReader:
    """Random pictures out of a pool of clips; a clip is read once for `reuse` samples."""

    def __init__(self, folder: Path, pictures: int, *, reuse: int = 6) -> None:
        self.pool, self.pictures, self.reuse = ClipPool(folder), pictures, reuse
        self.ready: list[Sample] = []

    def read(self) -> Sample:
        while len(self.ready) < self.pictures * 3:
            self.pool.refresh()
            frames = read_clip(self.pool.pick())
            picked = random.sample(range(len(frames)), min(self.reuse, len(frames)))
            self.ready += [sample_of(frames, [index]) for index in picked]
            random.shuffle(self.ready)
        taken, self.ready = self.ready[: self.pictures], self.ready[self.pictures :]
        flipped = [_mirrored(one) if random.random() < 0.5 else one for one in taken]
        return Sample(*(torch.cat(parts) for parts in zip(*flipped, strict=True)))


def _mirrored(sample: Sample) -> Sample:
    rays = sample.rays.flip(-1) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    return Sample(sample.pictures.flip(-1), sample.depth.flip(-1), rays)


def training_loss(model: MoGe, sample: Sample) -> tuple[torch.Tensor, dict[str, float]]:
    """Depth up to scale, depth itself, its edges and bends, the rays, and the mask."""
    with _autocast(sample.pictures.device):
        points, mask = model(sample.pictures, coarse=True)
    size = (points.shape[-2], points.shape[-1])
    depth = functional.interpolate(sample.depth[:, None], size, mode="nearest")[:, 0]
    rays = functional.interpolate(sample.rays, size, mode="bilinear")
    seen = torch.isfinite(depth).float()
    count = seen.sum((1, 2)).clamp_min(1)
    error = (points[:, 2] - depth.clamp(0.05, FARTHEST).log()) * seen
    offset = error.sum((1, 2)) / count
    shape = ((error - offset[:, None, None] * seen).abs().sum((1, 2)) / count).mean()
    scale = offset.abs().mean()
    edges = sum(_edges(error, seen, step) for step in (1, 4))
    bends = torch.stack([_bends(points[:, 2] - offset[:, None, None], depth, step) for step in (1, 2, 4)]).sum()
    ray = ((points[:, :2] - rays).abs().sum(1) * seen).sum((1, 2)).div(count).mean()
    sky = (mask - seen).square().mean()
    parts = {"shape": shape, "scale": scale, "bends": bends, "ray": ray, "sky": sky}
    figures = {name: float(one.detach()) for name, one in parts.items()}
    return shape + 0.2 * scale + 0.3 * edges + bends + 0.3 * ray + sky, figures


def _edges(error: torch.Tensor, seen: torch.Tensor, step: int) -> torch.Tensor:
    total = error.new_zeros(())
    for axis in (-1, -2):
        length = error.shape[axis] - step
        first, second = (error.narrow(axis, start, length) for start in (0, step))
        both = seen.narrow(axis, 0, length) * seen.narrow(axis, step, length)
        total = total + ((first - second).abs() * both).mean()
    return total


def _bends(log_depth: torch.Tensor, depth: torch.Tensor, step: int) -> torch.Tensor:
    """Second differences of the error of inverse depth, as shares of it: 0 for planes that are made planes.

    A cell is remembered when one plane explains it, so a smooth error costs less than a rough one of the same size.
    """
    true = 1 / depth.clamp(0.05, FARTHEST)
    error, seen = (-log_depth.clamp(-5, 5)).exp() - true, torch.isfinite(depth)
    total = error.new_zeros(())
    for axis in (-1, -2):
        length = error.shape[axis] - 2 * step
        before, here, after = (error.narrow(axis, step * place, length) for place in range(3))
        is_known = seen.narrow(axis, 0, length) & seen.narrow(axis, step, length) & seen.narrow(axis, 2 * step, length)
        bend = (before - 2 * here + after).abs() / true.narrow(axis, step, length)
        total = total + (bend.clamp(max=1) * is_known).mean()
    return total


class Figures(NamedTuple):
    """On pictures that were never trained on.

    abs_rel: mean of |made / true - 1| after one median scale per picture.  within: share of pixels within 1.25 times.
    sky: share of pixels whose mask is right.  fov_degrees: mean error of the horizontal field of view.
    """

    abs_rel: float
    within: float
    sky: float
    fov_degrees: float


@torch.no_grad()
def measure(model: MoGe, sample: Sample) -> Figures:
    found = []
    for index in range(len(sample.pictures)):
        with _autocast(sample.pictures.device):
            points, mask = model(sample.pictures[index : index + 1])
        depth, seen = sample.depth[index], torch.isfinite(sample.depth[index])
        ratio = points[0, 2].exp()[seen] / depth[seen]
        ratio = ratio / ratio.median()
        edge = sample.rays[index, 0].abs() > 0.3
        widening = (points[0, 0][edge] / sample.rays[index, 0][edge]).median() * sample.rays[index, 0].abs().max()
        fov = 2 * torch.rad2deg(torch.atan(widening) - torch.atan(sample.rays[index, 0].abs().max()))
        within = (torch.maximum(ratio, 1 / ratio) < 1.25).float().mean()
        right = ((mask[0] > 0.5) == seen).float().mean()
        found.append([float((ratio - 1).abs().mean()), float(within), float(right), float(fov.abs())])
    return Figures(*torch.tensor(found).mean(0).tolist())


def held_out_sample(folder: Path, pictures: int = 12) -> Sample:
    """The first frame of the first clips of a folder."""
    samples = [sample_of(read_clip(path), [0]) for path in clip_files(folder)[:pictures]]
    return Sample(*(torch.cat(parts) for parts in zip(*samples, strict=True)))


@torch.no_grad()
def write_sheet(path: Path, model: MoGe, sample: Sample) -> None:
    """Rows of: picture, true depth, depth made (near is bright, sky is blue)."""
    rows = []
    for index in range(min(6, len(sample.pictures))):
        with _autocast(sample.pictures.device):
            points, mask = model(sample.pictures[index : index + 1])
        true, made = sample.depth[index], points[0, 2].exp()
        seen = torch.isfinite(true)
        made = made * (true[seen] / made[seen]).median()
        panels = [sample.pictures[index], _shown(true, seen), _shown(made, mask[0] > 0.5)]
        rows.append(torch.cat([panel.cpu() for panel in panels], dim=-1))
    picture = (torch.cat(rows, dim=-2).clamp(0, 1) * 255).round().byte().movedim(0, -1)
    Image.fromarray(picture.numpy()).save(path)


def _shown(depth: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    near = (1 / depth.clamp_min(0.5)).mul(1.5).clamp(0, 1)
    return torch.where(seen, near.expand(3, -1, -1), torch.tensor([0.3, 0.5, 0.9]).view(3, 1, 1).to(near))


def averaged_model(training: Training) -> MoGe:
    model = MoGe()
    model.load_state_dict(training.averaged())
    return model.to(training.run.device).eval()


def train(
    run: Run, clips: Path, held_out: Path | None, *, pictures: int, rate: float, is_orthogonal: bool = False
) -> Training:
    """Train for as long as `run` says; writes checkpoint, plot, sheet.png and nano_depth.safetensors to its folder.

    is_orthogonal: Muon instead of AdamW.
    """
    torch.manual_seed(0)
    training = Training(MoGe(), run, rate=rate, is_orthogonal=is_orthogonal)
    random.seed(run.step + 1)
    reader, kept = SampleReader(clips, pictures), held_out_sample(held_out) if held_out else None

    def show() -> None:
        shown, about = averaged_model(training), {"steps": str(run.step), "minutes": f"{run.seconds / 60:.0f}"}
        if kept is not None:
            figures = measure(shown, kept.to(run.device))
            write_sheet(run.folder / "sheet.png", shown, kept.to(run.device))
            about |= {name: f"{value:.4g}" for name, value in figures._asdict().items()}
            told = ", ".join(f"{name} {value:.3f}" for name, value in figures._asdict().items())
            print(f"step {run.step}, {run.seconds / 60:.1f} min: {told}", flush=True)
        weights = {name: one.half() for name, one in shown.state_dict().items()}
        write_weights(run.folder / "nano_depth.safetensors", weights, about)

    for step in training.steps(show=show):
        loss, figures = training_loss(training.model, reader.read().to(run.device))  # pyright: ignore[reportArgumentType]
        training.descend(loss, figures)
        if step % 20 == 0:
            print(f"step {step}: {figures} {run.seconds / max(1, step):.2f} s/step", flush=True)
    return training


def _autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.depth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, default=Path("output/nano/clips"), help="made by training.clip_pool")
    parser.add_argument("--held-out", type=Path, help="folder of held-out clips to measure on")
    parser.add_argument("--pictures", type=int, help="per step: 4 on a CPU, 64 on a GPU")
    parser.add_argument("--rate", type=float, default=1e-3)
    add_arguments(parser, folder="output/nano/depth")
    add_optimizer_argument(parser)
    asked = parser.parse_args()
    run = asked_run(asked)
    pictures = asked.pictures or (64 if run.device.type == "cuda" else 4)
    train(run, asked.clips, asked.held_out, pictures=pictures, rate=asked.rate, is_orthogonal=asked.muon)


if __name__ == "__main__":
    main()
