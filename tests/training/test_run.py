"""The frame of all trainers: steps that fail, options that must stay, signals, checkpoints."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from training.run import MOST_SKIPPED, Run, Training

CPU = torch.device("cpu")


def started(folder: Path, *, steps: int = 10, **options) -> Training:
    torch.manual_seed(0)
    run = Run(folder, 10, CPU, steps, save_minutes=options.pop("save_minutes", 3))
    return Training(nn.Linear(40, 40), run, rate=0.01, warmup=1, **options)


def loss_of(training: Training) -> torch.Tensor:
    return training.model(torch.ones(2, 40)).square().mean()


def test_a_finite_loss_with_infinite_gradients_changes_nothing(tmp_path):
    training = started(tmp_path, steps=3)
    for step in training.steps():
        if step == 1:
            before = {name: one.clone() for name, one in training.model.state_dict().items()}
        loss = loss_of(training)
        if step == 1:
            loss = loss + (training.model.weight - training.model.weight.detach()).abs().sqrt().sum()
        training.descend(loss, {})
        if step == 1:
            assert all(torch.equal(one, before[name]) for name, one in training.model.state_dict().items())
    assert all(bool(torch.isfinite(one).all()) for one in load_file(training.checkpoint).values())
    assert started(tmp_path).run.skipped == 1, "counted over all runs"


def test_too_many_failed_steps_in_a_row_end_the_training_with_a_sentence(tmp_path):
    training = started(tmp_path, steps=100)
    with pytest.raises(FloatingPointError, match=r"smaller --rate"):
        for _ in training.steps():
            training.descend(loss_of(training) * torch.nan, {})
    assert training.run.skipped == MOST_SKIPPED and not training.checkpoint.exists()


@pytest.mark.parametrize("is_old", [False, True])
def test_a_checkpoint_of_muon_is_not_taken_up_without_it(tmp_path, is_old):
    training = started(tmp_path, steps=2, is_orthogonal=True)
    for _ in training.steps():
        training.descend(loss_of(training), {})
    if is_old:  # as written before options were kept
        with safe_open(training.checkpoint, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        del about["fixed"]
        save_file(load_file(training.checkpoint), training.checkpoint, {"about": json.dumps(about)})
    with pytest.raises(ValueError, match=r"--muon on, and this run has --muon off"):
        started(tmp_path)
    assert started(tmp_path, is_orthogonal=True).run.step == 2


def test_what_must_stay_the_same_is_compared(tmp_path):
    training = started(tmp_path, fixed={"autoencoder": "one"})
    training.save()
    with pytest.raises(ValueError, match="autoencoder one, and this run has autoencoder other"):
        started(tmp_path, fixed={"autoencoder": "other"})
    started(tmp_path, fixed={"autoencoder": "one"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_after_its_step_and_saves_it(tmp_path, number):
    training, shown, before = started(tmp_path), [], signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        for step in training.steps(show=lambda: shown.append(training.run.step)):
            if step == 2:
                os.kill(os.getpid(), number)
            training.descend(loss_of(training), {})
    assert end.value.code == 128 + number and shown == [3]
    assert started(tmp_path).run.step == 3
    assert signal.getsignal(number) is before


def test_checkpoints_come_as_often_as_asked_and_keep_what_was_measured(tmp_path):
    training, shown = started(tmp_path, steps=3, save_minutes=0), []
    for _ in training.steps(measure=lambda: {"held_out": 0.5}, show=lambda: shown.append(training.run.step)):
        training.descend(loss_of(training), {})
    assert shown == [1, 2, 3, 3]
    assert [entry["held_out"] for entry in started(tmp_path).run.log] == [0.5] * 3


def test_inside_averaging_the_model_has_the_average_and_afterwards_its_own_weights(tmp_path):
    training = started(tmp_path, steps=4)
    for _ in training.steps():
        training.descend(loss_of(training), {})
    own, average = training.model.weight.detach().clone(), training.averages["weight"].clone()
    with training.averaging():
        assert torch.equal(training.model.weight, average)
    assert torch.equal(training.model.weight, own) and torch.equal(training.averages["weight"], average)
    assert not torch.equal(own, average)
