"""The frame of every trainer: time limit, steps that may fail, checkpoints that survive a kill.

A checkpoint is one safetensors file (weights, their running average, the optimizer's moments; step, time, log and
options in its metadata), written under another name first, so that a kill leaves the last whole one. No pickle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from .loss_plot import thinned, write_plot
from .muon import Muon

MOST_SKIPPED = 20  # steps in a row without finite gradients, after which a training ends


@dataclass
class Run:
    """What a trainer was asked for.

    folder: of checkpoint, log and plot.  minutes: to train now.  steps: to stop after, counted over all runs.
    settle_minutes: at the end, in which the learning rate falls to 0: the weights come to rest, and little is learned
        afterwards. Keep a copy of the checkpoint from before to train on.
    save_minutes: between two checkpoints; 0 saves after every step.
    skipped: steps that changed nothing, because loss or gradients were not finite.
    """

    folder: Path
    minutes: float
    device: torch.device
    steps: int | None = None
    settle_minutes: float = 0.0
    save_minutes: float = 3.0
    log: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0


class Training:
    """Weights on their way: a model in fp32, AdamW or Muon, and a running average of the weights that is what one uses.

    The learning rate warms up and then falls with the root of the step, so that training can stop or go on anywhere.
    shares: of the rate, for parameters whose names start so.  is_orthogonal: Muon instead of AdamW.
    fixed: what may not change from one run to the next, by the name of its option.
    Raises ValueError for a checkpoint of another model, or of other options than `fixed` or is_orthogonal say.
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
        fixed: Mapping[str, str] | None = None,
    ) -> None:
        self.fixed = {"--muon": "on" if is_orthogonal else "off", **(fixed or {})}
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
        self.skipped_in_a_row = 0
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.run.folder / "checkpoint.safetensors"

    def steps(
        self, *, measure: Callable[[], dict[str, float]] | None = None, show: Callable[[], None] | None = None
    ) -> Iterator[int]:
        """Yield step numbers until time or steps are used up; saves now and then, and at the end.

        measure: called before each save; what it returns goes into the log.  show: called after each save, to write
        files and pictures.
        SIGINT (Ctrl-C) or SIGTERM end it after the step they come in: it saves, shows, and raises SystemExit. A second
        one ends it at once.
        """
        saved = time.monotonic()
        self.ends_at = saved + 60 * self.run.minutes
        with _signals_heard() as heard:
            while not heard and time.monotonic() < self.ends_at:
                if self.run.steps is not None and self.run.step >= self.run.steps:
                    break
                begin = time.monotonic()
                yield self.run.step
                self.run.step += 1
                self.run.seconds += time.monotonic() - begin
                if not heard and time.monotonic() - saved > self.run.save_minutes * 60:
                    self._saved_and_shown(measure, show)
                    saved = time.monotonic()
            self._saved_and_shown(measure, show)
        if heard:
            print(f"stopped by {signal.Signals(heard[0]).name} and saved at step {self.run.step}", flush=True)
            raise SystemExit(128 + heard[0])

    def _saved_and_shown(self, measure, show) -> None:
        if measure is not None and self.run.log:
            self.run.log[-1] |= measure()
        self.save()
        if show is not None:
            show()

    def descend(self, loss: torch.Tensor, figures: dict[str, float]) -> None:
        """One step down `loss`; `figures` go into the log. A loss or gradients that are not finite change nothing.

        Raises FloatingPointError after MOST_SKIPPED such steps in a row.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        value, norm = float(loss.detach()), math.nan
        if math.isfinite(value):
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0))
        self.run.log.append({"step": self.run.step, "loss": value, **figures})
        if math.isfinite(norm):
            self._stepped()
            self.skipped_in_a_row = 0
            return
        self.run.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise FloatingPointError(
                f"{MOST_SKIPPED} steps in a row had no finite loss and gradients, the last of them step "
                f"{self.run.step}. {self.checkpoint} is from before: go on from it with a smaller --rate."
            )

    def _stepped(self) -> None:
        self.optimizer.step()
        share = min(self.average, (1 + self.run.step) / (10 + self.run.step))
        with torch.no_grad():
            for name, one in self.parameters.items():
                self.averages[name].lerp_(one, 1 - share)

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

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Inside, the model has its averaged weights: for measuring and writing files, not for save() or a step."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, one in self.parameters.items():
            one.data, self.averages[name] = self.averages[name], one.data

    def save(self) -> None:
        """Write the checkpoint and the plot."""
        tensors = {f"average.{name}": one for name, one in self.averages.items()}
        for name, one in self.parameters.items():
            tensors[f"model.{name}"] = one.detach()
            for key, moment in self.optimizer.state.get(one, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(moment)
        run = self.run
        about = {"step": run.step, "seconds": run.seconds, "skipped": run.skipped, "log": thinned(run.log)}
        about["fixed"] = self.fixed
        run.folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.checkpoint, tensors, {"about": json.dumps(about)})
        write_plot(run.folder / "loss.png", about["log"])

    def _load(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        self._refuse_other(about.get("fixed") or _fixed_of_old(tensors))
        self.run.step, self.run.seconds, self.run.log = about["step"], about["seconds"], about["log"]
        self.run.skipped = about.get("skipped", 0)
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

    def _refuse_other(self, fixed: Mapping[str, str]) -> None:
        for name, before in fixed.items():
            now = self.fixed.get(name, before)
            if now != before:
                raise ValueError(
                    f"{self.checkpoint} was trained with {name} {before}, and this run has {name} {now}. Ask for the "
                    "same as before, or give another --folder."
                )


def _fixed_of_old(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """What a checkpoint from before options were kept in it tells by its tensors: only Muon leaves out squares."""
    moments = [name.partition(".") for name in tensors if name.startswith("exp_avg.")]
    if not moments:
        return {}
    is_muon = any(f"exp_avg_sq.{name}" not in tensors for _, _, name in moments)
    return {"--muon": "on" if is_muon else "off"}


@contextmanager
def _signals_heard() -> Iterator[list[int]]:
    """A list that gets the first SIGINT and SIGTERM; a second one of a kind does what it always did."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard  # only the main thread may listen
        return

    def hear(number: int, _frame: object) -> None:
        heard.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that is whole whenever it is there."""
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part, metadata=metadata)
    part.replace(path)


def add_arguments(parser: argparse.ArgumentParser, *, folder: str) -> None:
    """--folder, --minutes, --save-minutes, --steps, --device and --threads, the same for every trainer."""
    parser.add_argument("--folder", type=Path, default=Path(folder), help="of checkpoint, log, plot and pictures")
    parser.add_argument("--minutes", type=float, default=60, help="to train now; the next run goes on from there")
    parser.add_argument("--settle", type=float, default=0.0, help="minutes at the end in which the rate falls to 0")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="between checkpoints; 0 saves every step")
    parser.add_argument("--steps", type=int, help="stop after so many steps, counted over all runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")


def add_optimizer_argument(parser: argparse.ArgumentParser) -> None:
    """--muon, for trainers of networks; pass it on as Training's is_orthogonal."""
    parser.add_argument("--muon", action="store_true", help="Muon instead of AdamW: for short trainings")


def asked_run(asked: argparse.Namespace) -> Run:
    torch.set_num_threads(asked.threads)
    asked.folder.mkdir(parents=True, exist_ok=True)
    return Run(asked.folder, asked.minutes, torch.device(asked.device), asked.steps, asked.settle, asked.save_minutes)
