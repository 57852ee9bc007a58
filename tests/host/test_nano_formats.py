"""The nano world's autoencoder and depth model: the host loads their files and finds what plain torch finds.

Once with random weights, in which every layer matters, and once with those that are shipped.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from safetensors.torch import load_file

from training.autoencoder import export
from training.moge import MoGe
from training.run import Run, Training
from training.ship import FILES, SHIPPED
from training.stand_in.vae import LATENTS_MEAN, LATENTS_STD
from training.taehv import Autoencoder

SHIPPED_VAE, SHIPPED_DEPTH = FILES["autoencoder/nano_vae.safetensors"], FILES["depth/nano_depth.safetensors"]


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """Random weights in which every layer matters."""
    torch.manual_seed(3)
    made = Autoencoder().eval()
    with torch.no_grad():
        for one in made.parameters():
            one.add_(torch.randn_like(one) * (0.3 / max(1, one[0].numel()) ** 0.5))
    return made


@pytest.fixture(scope="module", params=["random", "shipped"])
def trained(request, autoencoder) -> Autoencoder:
    if request.param == "random":
        return autoencoder
    made = Autoencoder().eval()
    made.load_state_dict({name: one.float() for name, one in load_file(SHIPPED / SHIPPED_VAE).items()})
    return made


@pytest.fixture
def hosts_autoencoder(host, trained):
    """The host's own class with the same weights, as its VAELoader makes it."""
    return host.comfy.sd.VAE(sd=dict(trained.state_dict())).first_stage_model.float()


@pytest.fixture
def hosts_moge(host):
    return importlib.import_module("comfy.ldm.moge.model")


@torch.no_grad()
def test_host_decodes_the_same_pictures(trained, hosts_autoencoder):
    latents = torch.randn(1, 3, 48, 4, 6)
    raw = (latents * trained.std + trained.mean).movedim(2, 1)
    assert (hosts_autoencoder.decode(raw).movedim(1, 2) - trained.decode(latents)).abs().max() < 1e-4


@torch.no_grad()
def test_host_encodes_a_first_frame_to_the_same_latent(trained, hosts_autoencoder):
    frames = torch.rand(1, 9, 3, 64, 96)
    raw = hosts_autoencoder.encode(frames[:, :1].movedim(2, 1)).movedim(1, 2)
    latents = trained.encode(frames)
    assert ((raw - trained.mean) / trained.std - latents[:, :1]).abs().max() < 1e-4
    assert latents.shape == (1, 3, 48, 4, 6)


def test_latent_statistics_are_those_of_the_host(host):
    wan = importlib.import_module("comfy.latent_formats").Wan22()
    assert torch.allclose(wan.latents_mean.flatten(), torch.tensor(LATENTS_MEAN))
    assert torch.allclose(wan.latents_std.flatten(), torch.tensor(LATENTS_STD))


def test_the_trainers_file_is_a_vae_of_48_channels_to_the_host(host, tmp_path):
    run = Run(tmp_path, minutes=0, device=torch.device("cpu"))
    export(tmp_path / "nano_vae.safetensors", Training(Autoencoder(), run, rate=1e-3), None)
    vae = host.comfy.sd.VAE(sd=host.comfy.utils.load_torch_file(str(tmp_path / "nano_vae.safetensors")))
    vae.throw_exception_if_invalid()
    assert vae.latent_channels == 48


@torch.no_grad()
@pytest.mark.parametrize("weights", ["random", "shipped"])
def test_host_finds_the_same_points_and_mask(hosts_moge, weights):
    torch.manual_seed(1)
    model = MoGe().eval()
    if weights == "shipped":
        model.load_state_dict({name: one.float() for name, one in load_file(SHIPPED / SHIPPED_DEPTH).items()})
    for one in model.parameters():
        if one.ndim > 1 and weights == "random":
            one.add_(torch.randn_like(one) * 0.02)
    theirs = hosts_moge.build_from_state_dict(dict(model.state_dict()), dtype=torch.float32, device="cpu").eval()
    pictures = torch.rand(1, 3, 48, 80)
    points, mask = model(pictures)
    made = theirs(pictures, 1200)
    z = points[:, 2].exp()
    assert (torch.stack([points[:, 0] * z, points[:, 1] * z, z], -1) - made["points"]).abs().max() < 1e-4
    assert (mask - made["mask"]).abs().max() < 1e-4


@torch.no_grad()
def test_host_loads_the_depth_model_and_gives_its_depth(hosts_moge, monkeypatch):
    model = MoGe().eval()
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "fp32_text_enc", True)
    loaded = hosts_moge.MoGeModel({name: one.half() for name, one in model.state_dict().items()})
    assert loaded.version == "v1"
    found = loaded.infer(torch.rand(1, 3, 64, 64), num_tokens=1200)
    assert found["depth"].shape == (1, 64, 64) and found["mask"].dtype == torch.bool
