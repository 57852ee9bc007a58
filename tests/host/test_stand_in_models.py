"""The stand-in models in the host's own classes: what the demo's pictures and the tests rely on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import to_tensor

from training.stand_in import dit, vae
from training.stand_in.files import write_demo_models
from training.stand_in.picture import PICTURE


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """[9 160 256 3] the demo's room, moving sideways."""
    room = to_tensor(Image.open(PICTURE).resize((256, 160))).movedim(0, -1)
    return torch.stack([room.roll(3 * step, 1) for step in range(9)])


@pytest.fixture(scope="module")
def autoencoder(host):
    return host.comfy.sd.VAE(sd=vae.stand_in_vae())


@pytest.fixture(scope="module")
def decoded(autoencoder, frames) -> torch.Tensor:
    with torch.inference_mode():
        return autoencoder.decode(autoencoder.encode(frames))[0]


@pytest.fixture(scope="module")
def forgetful(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_in")
    return host.comfy.sd.load_diffusion_model(str(write_demo_models(folder)[1]))


def means(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return F.avg_pool2d(pictures.movedim(-1, 1), size)


@pytest.mark.parametrize(("size", "worst"), [(16, 0.005), (4, 0.04)])
def test_decoding_gives_back_the_mean_colours_of_the_first_frame_of_each_group(frames, decoded, size, worst):
    shown = frames[[0, 4, 4, 4, 4, 8, 8, 8, 8]]  # the host's tanh clamp bends bright and dark colours by .004
    assert (means(decoded, size) - means(shown, size)).abs().max() < worst


def test_borders_of_the_picture_are_no_darker_than_its_inside(autoencoder):
    with torch.inference_mode():
        flat = autoencoder.decode(autoencoder.encode(torch.full((1, 64, 96, 3), 0.75)))[0]
    assert (flat - 0.75).abs().max() < 0.005


def test_neutral_latents_decode_to_grey(host, autoencoder):
    wan22 = host.comfy.latent_formats.Wan22()
    with torch.inference_mode():
        picture = autoencoder.decode(wan22.process_out(torch.zeros(1, 48, 1, 4, 4)))
    assert (picture - 0.5).abs().max() < 1e-3


@pytest.mark.parametrize("sigma", [1.0, 0.6, 0.2])
def test_forgetful_model_takes_everything_for_noise(host, forgetful, sigma):
    host.comfy.model_management.load_models_gpu([forgetful])
    noise = torch.randn(1, 48, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    context = torch.randn(1, 4, dit.TEXT_DIM, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        velocity = forgetful.model.diffusion_model(noise * sigma, torch.tensor([sigma * 1000]), context=context)
    assert (velocity - noise).std() < 0.03 / sigma  # the blocks add .016


def test_what_nothing_guides_turns_grey_and_seeds_still_differ(host, forgetful):
    context, latents = [[torch.zeros(1, 4, dit.TEXT_DIM), {}]], torch.zeros(1, 48, 2, 8, 8)
    made = []
    for seed in (0, 1):
        noise = host.comfy.sample.prepare_noise(latents, seed)
        with torch.inference_mode():
            sampled = host.comfy.sample.sample(
                forgetful, noise, 8, 1.0, "euler", "simple", context, context, latents, disable_pbar=True, seed=seed
            )
        made.append(forgetful.model.process_latent_in(sampled))
    assert made[0].std() < 0.03
    assert not torch.equal(made[0], made[1])


def test_a_dim_too_small_for_a_token_is_refused():
    with pytest.raises(ValueError, match="192 numbers"):
        dit.forgetful_dit(dim=128)


def test_stand_ins_are_the_same_bits_every_time():
    for make in (vae.stand_in_vae, dit.forgetful_dit, dit.random_dit):
        first, second = make(), make()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_file_that_is_there_is_kept_and_a_half_written_one_is_made_again(tmp_path):
    files = write_demo_models(tmp_path)
    before = files[1].stat().st_mtime_ns
    files[0].with_suffix(".stamp").unlink()  # as if the first file had been cut off
    damaged = files[0].stat().st_mtime_ns
    write_demo_models(tmp_path)
    assert files[1].stat().st_mtime_ns == before
    assert files[0].stat().st_mtime_ns > damaged
