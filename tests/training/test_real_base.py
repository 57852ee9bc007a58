"""The whole way of a real base, made small: own clips, a text of its own, an adapter's file."""

from __future__ import annotations

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.training.flights import film, frames
from training import adapter
from training.stand_in.vae import stand_in_vae
from training.wan import Wan, WanSizes, initialised
from training.worlds.export import export_film


def test_an_adapter_of_a_real_base_is_trained_on_clips_of_ones_own(tmp_path, monkeypatch):
    model = Wan(WanSizes(dim=64, ffn_dim=128, heads=1, layers=2, text_dim=16))
    initialised(model, seed=0)
    torch.nn.init.normal_(model.head.head.weight, std=0.1)
    save_file({name: one.bfloat16() for name, one in model.state_dict().items()}, tmp_path / "wan.safetensors")
    save_file(stand_in_vae(), tmp_path / "tae.safetensors")
    save_file({"context": torch.randn(7, 16), "empty": torch.randn(7, 16)}, tmp_path / "text.safetensors")
    export_film(tmp_path / "mine" / "walk", frames(57))
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("wan", "tae", "text")}
    asked = ["--base", files["wan"], "--autoencoder", files["tae"], "--text", files["text"], "--folder", str(tmp_path)]
    own = ["--own-clips", str(tmp_path / "mine"), "--own-size", "64", "64", "--own-frames", "57"]
    small = ["--steps", "2", "--threads", "1", "--device", "cpu", "--films", str(tmp_path / "films")]
    monkeypatch.setattr(adapter, "check_latents", lambda *_: None)  # of a stand-in for an autoencoder they are anything
    monkeypatch.setattr(sys, "argv", ["x", *asked, *own, *small])
    adapter.main()
    with safe_open(tmp_path / "branch/nano_branch.safetensors", framework="pt") as file:
        said = file.metadata()
    trained_with = json.loads(said["mirage.trained_with"])
    assert trained_with["batch"] == 1 and trained_with["is_checkpointed"] and trained_with["rate"] == 1e-5
    assert said["worlds"] == "none: clips of one's own" and said["steps"] == "2"
    assert said["mirage.resolution"] == "x".join(map(str, film().cameras.image_size))
