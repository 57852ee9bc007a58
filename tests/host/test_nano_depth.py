"""The shipped depth model in plain torch and in the host: the same depth, its shift included."""

from __future__ import annotations

import importlib

import pytest
import torch

from training.moge_depth import load_depth_model, seen_depth
from training.ship import SHIPPED

FILE = SHIPPED / "geometry_estimation" / "mirage_nano_depth.safetensors"
FOV = 60.0


@pytest.mark.parametrize("scene", ["room", "plaza"])
@torch.no_grad()
def test_plain_torch_and_the_host_give_the_same_depth(pack, host, monkeypatch, scene):
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "fp32_text_enc", True)
    pictures = pack("example_nodes").ExampleScene.execute(scene).args[0][:, ::2, ::2][:, :192, :256]
    loaded = importlib.import_module("comfy.ldm.moge.model").MoGeModel(host.comfy.utils.load_torch_file(str(FILE)))
    theirs = loaded.infer(pictures.movedim(-1, 1), resolution_level=0, fov_x=FOV)
    ours = seen_depth(load_depth_model(FILE), pictures, FOV)
    assert torch.equal(ours > 0, theirs["mask"])
    error = (ours / theirs["depth"].cpu() - 1).abs()[ours > 0]
    assert error.max() < 2e-3, "the host stops looking for the shift at 1e-3"
