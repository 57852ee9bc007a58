"""Files of different encoders are refused together, before anything is trained on them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.training.flights import film
from training import adapter
from training.adapter_crew import Crew
from training.encoders import check_encoders, check_latents
from training.nano import Nano, NanoOptions, save_base
from training.nano_films import Codec
from training.stand_in.vae import stand_in_vae
from training.wan import Wan, WanSizes

SIZES = WanSizes(dim=64, ffn_dim=128, heads=2, layers=1, text_dim=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """real_vae, nano_vae: two autoencoders; base: of nano_vae; wan: a real Wan2.2, made small."""
    folder = tmp_path_factory.mktemp("files")
    torch.set_num_threads(1)
    save_file(stand_in_vae(), folder / "real_vae.safetensors")
    nano_vae = {name: one + 0.01 for name, one in stand_in_vae().items()}
    save_file(nano_vae, folder / "nano_vae.safetensors", {"steps": "5000"})
    nano = Nano(NanoOptions(SIZES))
    stamp = {"mirage.autoencoder": Codec(folder / "nano_vae.safetensors").stamp}
    save_base(folder / "base.safetensors", nano.state_dict(), nano, stamp)
    save_base(folder / "silent.safetensors", nano.state_dict(), nano, {})
    save_file(Wan(SIZES).state_dict(), folder / "wan.safetensors")
    return folder


def test_a_base_of_another_encoder_is_refused(folder):
    nano_vae, real_vae, base = (folder / f"{name}.safetensors" for name in ("nano_vae", "real_vae", "base"))
    Crew.of(nano_vae, base, None, None)
    Crew.of(real_vae, folder / "silent.safetensors", None, None)
    with pytest.raises(ValueError, match=r"base\.safetensors was trained on latents of the autoencoder \w{12}"):
        Crew.of(real_vae, base, None, None)


@pytest.mark.parametrize("name", ["branch", "lora"])
def test_an_adapter_of_another_encoder_is_refused(folder, name, tmp_path):
    path = tmp_path / f"{name}.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"mirage.autoencoder": "0123456789ab"})
    asked = {"branch": None, "lora": None, name: path}
    with pytest.raises(ValueError, match=f"{name}.safetensors was trained on latents of the autoencoder 0123456789ab"):
        Crew.of(folder / "nano_vae.safetensors", folder / "base.safetensors", **asked)


def test_a_real_base_is_not_trained_on_latents_of_the_nano_world(folder, tmp_path, monkeypatch):
    asked = ["x", "--base", str(folder / "wan.safetensors"), "--autoencoder", str(folder / "nano_vae.safetensors")]
    for further, sentence in (
        ((), r"is a real Wan2\.2: give a --text, which python -m training\.encode_text"),
        (("--text", "text.safetensors"), r"is a real Wan2\.2, and nano_vae.*Give --autoencoder lighttaew2_2"),
    ):
        monkeypatch.setattr(sys, "argv", [*asked, "--folder", str(tmp_path), "--threads", "1", *further])
        with pytest.raises(ValueError, match=sentence):
            adapter.main()
    check_encoders(Codec(folder / "real_vae.safetensors"), folder / "wan.safetensors")


def test_latents_that_were_normalised_twice_are_refused(folder):
    codec = Codec(folder / "real_vae.safetensors")
    check_latents(codec, [film()])
    std, mean = codec.network.std[:, None], codec.network.mean[:, None]
    twice = replace(film(), latents=(film().latents - mean) / std)
    with pytest.raises(ValueError, match=r"normalised twice, as those of taew2_2 are"):
        check_latents(codec, [twice])


def test_a_base_that_is_not_there_is_asked_for(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.nano"):
        Crew.of(folder / "nano_vae.safetensors", tmp_path / "none.safetensors", None, None)
