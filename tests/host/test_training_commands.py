"""The trainers as one runs them: command after command with their own defaults, each killed once and started again.

The files that they leave are loaded by the host. Everything is as small as it can be and learns a little all the same.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = {"autoencoder": 14, "depth": 14, "base": 28, "adapter/branch": 14, "adapter/lora": 14}
FREQUENT = ("--save-minutes", "0", "--threads", "1", "--device", "cpu")
# Measured on the one film that they learn: of another world so few steps teach them nothing.
MODEL = ("--held-out-clips", "output/nano/flights", "--rate", "3e-3")
ADAPTER = ("--rank", "4", "--batch", "4", *MODEL)


def started(folder: Path, module: str, *arguments: str) -> subprocess.Popen:
    """A command in a folder of its own, so that its defaults are those of a fresh clone."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ran(folder: Path, module: str, *arguments: str) -> str:
    command = started(folder, module, *arguments)
    said, _ = command.communicate(timeout=600)
    assert command.returncode == 0, said
    return said


def about(checkpoint: Path) -> dict:
    with safe_open(checkpoint, framework="pt") as file:
        return json.loads(file.metadata()["about"])


def killed_and_resumed(folder: Path, trained: str, module: str, *arguments: str) -> list[dict]:
    """The log of a training that was killed after its first checkpoint and then started again by the same command."""
    checkpoint = folder / "output/nano" / trained / "checkpoint.safetensors"
    steps = STEPS[trained]
    arguments = (*arguments, *FREQUENT, "--steps", str(steps))
    command = started(folder, module, *arguments)
    deadline = time.monotonic() + 300
    while not checkpoint.is_file() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    command.send_signal(signal.SIGKILL)
    said, _ = command.communicate()
    assert command.returncode == -signal.SIGKILL and checkpoint.is_file(), said
    before = about(checkpoint)
    assert 0 < before["step"] < steps
    ran(folder, module, *arguments)
    after = about(checkpoint)
    assert after["step"] == steps and [entry["step"] for entry in after["log"]] == list(range(steps))
    assert after["log"][: before["step"]][0]["loss"] == before["log"][0]["loss"], "what was before the kill is kept"
    return after["log"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With clips of two worlds, one of them held out."""
    folder = tmp_path_factory.mktemp("training")
    small = ("--worlds", "1", "--flights", "1", "--movers", "1", "--size", "64")
    ran(folder, "clip_pool", "output/nano/clips", *small, "--frames", "5")
    ran(folder, "clip_pool", "output/nano/flights", *small, "--frames", "57")
    ran(folder, "clip_pool", "output/nano/held_out", *small, "--frames", "57", "--first-seed", "1000000", "--held-out")
    return folder


@pytest.fixture(scope="module")
def autoencoder(folder) -> list[dict]:
    return killed_and_resumed(folder, "autoencoder", "autoencoder", "--latents-per-step", "2")


@pytest.fixture(scope="module")
def depth(folder) -> list[dict]:
    return killed_and_resumed(folder, "depth", "depth", "--pictures", "1")


@pytest.fixture(scope="module")
def base(folder, autoencoder) -> list[dict]:
    return killed_and_resumed(folder, "base", "nano", "--layers", "2", *MODEL)


@pytest.fixture(scope="module")
def branch(folder, base) -> list[dict]:
    return killed_and_resumed(folder, "adapter/branch", "adapter", "--stage", "branch", *ADAPTER)


@pytest.fixture(scope="module")
def lora(folder, branch) -> list[dict]:
    return killed_and_resumed(folder, "adapter/lora", "adapter", "--stage", "lora", *ADAPTER)


@pytest.mark.parametrize("stage", ["autoencoder", "depth"])
def test_a_killed_training_of_pictures_goes_on_and_learns(stage, request):
    losses = [entry["loss"] for entry in request.getfixturevalue(stage)]
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("stage", ["base", "branch", "lora"])
def test_a_killed_training_of_a_model_goes_on_and_learns(stage, request):
    """By the loss that is measured at every save, whose noise is always the same."""
    measured = [entry["held_out"] for entry in request.getfixturevalue(stage)]
    assert measured[-1] < measured[0]


@pytest.fixture(scope="module")
def shipped(folder, autoencoder, depth, base, branch, lora) -> Path:
    ran(folder, "ship", "--into", "shipped")
    return folder / "shipped"


def test_what_is_shipped_is_loaded_by_the_host(shipped, host, pack, monkeypatch):
    vae = host.comfy.sd.VAE(sd=host.comfy.utils.load_torch_file(str(shipped / "vae/mirage_nano_vae.safetensors")))
    vae.throw_exception_if_invalid()
    assert vae.latent_channels == 48
    model = host.comfy.sd.load_diffusion_model(str(shipped / "diffusion_models/mirage_nano_base.safetensors"))
    assert len(model.model.diffusion_model.blocks) == 2
    loading = pack("adapter")
    loading.Adapter(
        loading.load_branch(str(shipped / "mirage/mirage_nano_side_branch.safetensors")),
        loading.load_lora(str(shipped / "mirage/mirage_nano_lora.safetensors")),
    )
    moge = importlib.import_module("comfy.ldm.moge.model")
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "fp32_text_enc", True)
    found = moge.MoGeModel(load_file(shipped / "geometry_estimation/mirage_nano_depth.safetensors"))
    assert found.infer(torch.rand(1, 3, 64, 64), num_tokens=1200)["depth"].shape == (1, 64, 64)


def test_what_is_shipped_says_how_it_was_trained(shipped):
    said = json.loads((shipped / "figures.json").read_text())
    assert sorted(int(one["steps"]) for one in said.values()) == sorted(STEPS.values())
    assert all("minutes" in one for one in said.values())
    for name in ("diffusion_models/mirage_nano_base", "mirage/mirage_nano_side_branch", "mirage/mirage_nano_lora"):
        one = said[f"{name}.safetensors"]
        assert float(one["held_out_loss"]) > 0 and one["worlds"] == "1" and one["seed"] == "0"
        assert one["mirage.autoencoder"] == said["mirage/mirage_nano_lora.safetensors"]["mirage.autoencoder"]
