"""The frame of every trainer: time limit, checkpoints that survive a kill, the loss as numbers and as a picture.

A checkpoint is one safetensors file (weights, their running average, the optimizer's moments) and one JSON file beside
it, written under another name first, so that a kill leaves the last whole one. No pickle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from .muon import Muon

SMOOTHING = 0.98  # of the loss that is shown


@dataclass
class Run:
    """What a trainer was asked for.

    folder: of checkpoint, log and plot.  minutes: to train now.  steps: to stop after, counted over all runs.
    settle_minutes: at the end, in which the learning rate falls to 0: the weights come to rest, and little is learned
        afterwards. Keep a copy of the checkpoint from before to train on.
    """

    folder: Path
    minutes: float
    device: torch.device
    steps: int | None = None
    settle_minutes: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0


class Training:
    """Weights on their way: a model in fp32, AdamW or Muon, and a running average of the weights that is what one uses.

    The learning rate warms up and then falls with the root of the step, so that training can stop or go on anywhere.
    shares: of the rate, for parameters whose names start so.  is_orthogonal: Muon instead of AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Run,
        *,
        rate: float,
        decay_steps: int = 2000,
        warmup: int = 100,
        average: float = 0.995,
        shares: Mapping[str, float] | None = None,
        is_orthogonal: bool = False,
    ) -> None:
        self.model, self.run = model.to(run.device), run
        self.rate, self.decay_steps, self.warmup, self.average = rate, decay_steps, warmup, average
        self.parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        groups = [
            {"params": [one], "share": next((v for k, v in (shares or {}).items() if name.startswith(k)), 1.0)}
            for name, one in self.parameters.items()
        ]
        self.optimizer = Muon(groups, rate) if is_orthogonal else torch.optim.AdamW(groups, rate, (0.9, 0.99))
        self.averages = {name: one.detach().clone() for name, one in self.parameters.items()}
        self.ends_at = time.monotonic() + 60 * run.minutes
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.run.folder / "checkpoint.safetensors"

    def steps(self, *, save_every_minutes: float = 3.0, show: Callable[[], None] | None = None) -> Iterator[int]:
        """Yield step numbers until time or steps are used up; saves now and then, and at the end.

        show: called after each save, to write pictures.
        """
        saved = time.monotonic()
        self.ends_at = saved + 60 * self.run.minutes
        while time.monotonic() < self.ends_at:
            if self.run.steps is not None and self.run.step >= self.run.steps:
                break
            begin = time.monotonic()
            yield self.run.step
            self.run.step += 1
            self.run.seconds += time.monotonic() - begin
            if time.monotonic() - saved > save_every_minutes * 60:
                self.save()
                if show is not None:
                    show()
                saved = time.monotonic()
        self.save()
        if show is not None:
            show()

    def descend(self, loss: torch.Tensor, figures: dict[str, float]) -> None:
        """One step of AdamW down `loss`; `figures` go into the log. A loss that is not finite changes nothing."""
        step = self.run.step
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
            self.optimizer.step()
            share = min(self.average, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, one in self.parameters.items():
                    self.averages[name].lerp_(one, 1 - share)
        self.run.log.append({"step": step, "loss": value, **figures})

    def _rate(self) -> float:
        step, settling = self.run.step, 60 * self.run.settle_minutes
        left = min(1.0, max(0.0, self.ends_at - time.monotonic()) / settling) if settling else 1.0
        fallen = math.sqrt(1 + max(0, step - self.warmup) / self.decay_steps)
        return self.rate * min(1, (step + 1) / self.warmup) / fallen * left

    def restart_average(self) -> None:
        """Forget the average: for weights that were changed by hand."""
        with torch.no_grad():
            for name, one in self.parameters.items():
                self.averages[name].copy_(one)

    def averaged(self) -> dict[str, torch.Tensor]:
        """The averaged weights by name, fp32, with all other tensors of the model's state dict."""
        return {**{name: one.detach() for name, one in self.model.state_dict().items()}, **self.averages}

    def save(self) -> None:
        tensors = {f"average.{name}": one for name, one in self.averages.items()}
        for name, one in self.parameters.items():
            tensors[f"model.{name}"] = one.detach()
            for key, moment in self.optimizer.state.get(one, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(moment)
        about = {"step": self.run.step, "seconds": self.run.seconds, "log": _thinned(self.run.log)}
        self.run.folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.checkpoint, tensors, {"about": json.dumps(about)})
        write_plot(self.run.folder / "loss.png", about["log"])

    def _load(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.run.step, self.run.seconds, self.run.log = about["step"], about["seconds"], about["log"]
        with torch.no_grad():
            for name, one in self.parameters.items():
                if f"model.{name}" not in tensors or tensors[f"model.{name}"].shape != one.shape:
                    raise ValueError(
                        f"{self.checkpoint} was written by another model: {name} is missing or of another shape. "
                        "Give another --folder, or delete it to start again."
                    )
                one.copy_(tensors[f"model.{name}"])
                self.averages[name].copy_(tensors[f"average.{name}"])
                state = {key: tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                if state["exp_avg"] is not None:
                    self.optimizer.state[one] = {
                        key: value if key == "step" else value.to(one.device)
                        for key, value in state.items()
                        if value is not None
                    }


def write_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that is whole whenever it is there."""
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part, metadata=metadata)
    part.replace(path)


def add_arguments(parser: argparse.ArgumentParser, *, folder: str) -> None:
    """--folder, --minutes, --steps, --device and --threads, the same for every trainer."""
    parser.add_argument("--folder", type=Path, default=Path(folder), help="of checkpoint, log, plot and pictures")
    parser.add_argument("--minutes", type=float, default=60, help="to train now; the next run goes on from there")
    parser.add_argument("--settle", type=float, default=0.0, help="minutes at the end in which the rate falls to 0")
    parser.add_argument("--steps", type=int, help="stop after so many steps, counted over all runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")


def add_optimizer_argument(parser: argparse.ArgumentParser) -> None:
    """--muon, for trainers of networks; pass it on as Training's is_orthogonal."""
    parser.add_argument("--muon", action="store_true", help="Muon instead of AdamW: for short trainings")


def asked_run(asked: argparse.Namespace) -> Run:
    torch.set_num_threads(asked.threads)
    asked.folder.mkdir(parents=True, exist_ok=True)
    return Run(asked.folder, asked.minutes, torch.device(asked.device), asked.steps, asked.settle)


def _thinned(log: list[dict[str, float]], keep: int = 3000) -> list[dict[str, float]]:
    """Every second entry of the older half, again and again, until few are left."""
    while len(log) > keep:
        half = len(log) // 2
        log = log[:half:2] + log[half:]
    return log


def write_plot(path: Path, log: list[dict[str, float]], *, size: tuple[int, int] = (960, 480)) -> None:
    """The loss over steps, single values in grey and smoothed in blue, both axes logarithmic in the loss."""
    values = [(entry["step"], entry["loss"]) for entry in log if math.isfinite(entry["loss"]) and entry["loss"] > 0]
    if len(values) < 2:
        return
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left, top, width, height = 70, 20, size[0] - 90, size[1] - 60
    logs = [math.log10(loss) for _, loss in values]
    ordered = sorted(logs)
    low, high = ordered[0], ordered[int(0.995 * (len(ordered) - 1))] + 1e-9
    last = max(1, values[-1][0])

    def at(step: float, value: float) -> tuple[float, float]:
        return left + width * step / last, top + height * (1 - (min(value, high) - low) / (high - low))

    for share in range(5):
        level = low + (high - low) * share / 4
        draw.line([at(0, level), at(last, level)], fill="#dddddd")
        draw.text((5, at(0, level)[1] - 6), f"{10**level:.4g}", fill="#555555")
        draw.text((at(last * share / 4, low)[0] - 10, top + height + 8), f"{last * share // 4}", fill="#555555")
    draw.point([at(step, value) for (step, _), value in zip(values, logs, strict=True)], fill="#b0b0b0")
    smooth, line = logs[0], []
    for (step, _), value in zip(values, logs, strict=True):
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * value
        line.append(at(step, smooth))
    draw.line(line, fill="#2563eb", width=2)
    draw.text((left + width // 2 - 10, size[1] - 18), "step", fill="#555555")
    part = path.with_suffix(f".{os.getpid()}.part")
    picture.save(part, format="PNG")
    part.replace(path)
