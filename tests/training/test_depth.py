"""The depth model: its truth, and training that survives a kill. Against the host: tests/host/test_nano_formats.py."""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from training import depth
from training.clip_pool import clip_files, read_clip, write_clip
from training.depth import SampleReader, measure, sample_of
from training.moge import MoGe


def test_the_model_is_small():
    assert 0.5e6 < sum(one.numel() for one in MoGe().parameters()) < 1.05e6


def test_rays_and_depth_give_the_points_that_the_cameras_see(clips):
    frames = read_clip(clip_files(clips)[0])
    sample = sample_of(frames, [4])
    intrinsics = frames.cameras.intrinsics[4]
    row, column = 10, 50
    ray = torch.linalg.inv(intrinsics) @ torch.tensor([column + 0.5, row + 0.5, 1], dtype=torch.float64)
    assert torch.allclose(sample.rays[0, :, row, column].double(), ray[:2], atol=1e-5)


@torch.no_grad()
def test_a_perfect_model_has_no_error(clips):
    sample = sample_of(read_clip(clip_files(clips)[0]), [0, 20])

    class Perfect(MoGe):
        def forward(self, pictures, **_):
            index = 0 if torch.equal(pictures[0], sample.pictures[0]) else 1
            z = sample.depth[index].log().nan_to_num(posinf=0) + 0.7  # another scale
            seen = torch.isfinite(sample.depth[index]).float()
            return torch.cat([sample.rays[index], z[None]])[None], seen[None]

    figures = measure(Perfect(), sample)
    assert figures.abs_rel < 1e-3 and figures.within == 1 and figures.sky == 1 and figures.fov_degrees < 0.1


def test_training_lowers_the_loss_and_goes_on_after_a_kill(clips, tmp_path, monkeypatch):
    random.seed(0)
    asked = ["x", "--clips", str(clips), "--folder", str(tmp_path), "--threads", "1", "--pictures", "1"]
    for steps in (3, 12):
        monkeypatch.setattr(sys, "argv", [*asked, "--steps", str(steps)])
        depth.main()
    losses = [entry["loss"] for entry in _log(tmp_path)]
    assert len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])
    weights = load_file(tmp_path / "nano_depth.safetensors")
    assert set(weights) == set(MoGe().state_dict())


def test_a_held_out_world_is_never_trained_on(clips, tmp_path):
    clip = read_clip(clip_files(clips)[0])
    write_clip(tmp_path / "room-1000002-0.safetensors", clip, {})
    with pytest.raises(ValueError, match="held out"):
        SampleReader(tmp_path, 1)


def _log(folder) -> list[dict]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["about"])["log"]
