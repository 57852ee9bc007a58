"""The autoencoder: latents that move like pictures, and training that survives a kill.

Against the host: tests/host/test_nano_formats.py.
"""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from training import autoencoder
from training.autoencoder import latent_penalty
from training.autoencoder_clips import ClipReader
from training.autoencoder_figures import psnr
from training.clip_pool import clip_files, read_clip, write_clip
from training.nano_films import Codec
from training.taehv import Autoencoder, MemBlock
from training.warps import Warp, random_warp


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    """Random weights in which every layer matters."""
    torch.manual_seed(3)
    made = Autoencoder().eval()
    with torch.no_grad():
        for one in made.parameters():
            one.add_(torch.randn_like(one) * (0.3 / max(1, one[0].numel()) ** 0.5))
    return made


@torch.no_grad()
def test_later_frames_change_no_earlier_latent(model):
    frames = torch.rand(1, 9, 3, 32, 32)
    assert torch.allclose(model.encode(frames)[:, :2], model.encode(frames[:, :5]), atol=1e-5)


def test_other_numbers_of_frames_are_refused(model):
    with pytest.raises(ValueError, match="6 frames"):
        model.encode(torch.rand(1, 6, 3, 32, 32))


@torch.no_grad()
def test_a_network_grows_deeper_without_a_jump():
    made = Autoencoder().eval()
    frames = torch.rand(1, 5, 3, 32, 32)
    outputs = []
    for depth in range(4):
        made.set_depth(depth)
        outputs.append(made.decode(made.encode(frames)))
    assert all(torch.allclose(outputs[0], other, atol=1e-6) for other in outputs[1:])
    made.skip_idle()
    assert all(one.is_idle for one in made.modules() if isinstance(one, MemBlock))
    assert torch.allclose(outputs[0], made.decode(made.encode(frames)), atol=1e-6)
    made.set_depth(1)
    assert sum(isinstance(one, MemBlock) and not one.is_idle for one in made.encoder) == 3


@torch.no_grad()
def test_pictures_alone_take_the_short_way_to_the_same_result(model):
    model.set_depth(0)
    picture = torch.rand(2, 3, 32, 48)
    latents = model.encode(picture[:, None])
    assert torch.allclose(model.encode_still(picture), latents[:, 0], atol=1e-4)
    assert torch.allclose(model.decode_still(latents[:, 0]), model.decode(latents)[:, 0], atol=1e-4)
    model.set_depth(3)


def test_a_warp_that_moves_nothing_changes_nothing():
    pictures = torch.rand(2, 3, 4, 8, 8)
    still = random_warp(2, moved=0)
    assert torch.allclose(still.of(pictures), pictures, atol=1e-5)
    assert still.is_inside((8, 8), 0.0).min() == 1


def test_latents_and_pictures_are_warped_to_the_same_place():
    shift = Warp(torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]]))  # a quarter of the picture to the left
    pictures, latents = torch.zeros(1, 1, 1, 32, 32), torch.zeros(1, 1, 1, 8, 8)
    pictures[..., 8:12, 16:20], latents[..., 2, 4] = 1, 1
    assert (shift.of(pictures)[0, 0, 0, 8:12, 8:12] == 1).all() and shift.of(latents)[0, 0, 0, 2, 2] == 1


def test_penalty_is_small_for_white_latents_only():
    white = torch.randn(4, 1, 48, 40, 40)
    assert latent_penalty(white) < 0.05
    assert latent_penalty(white + 1) > 0.9
    assert latent_penalty(white[:, :, :1].expand(-1, -1, 48, -1, -1)) > 40


def test_psnr_of_a_known_error():
    picture = torch.full((2, 1, 3, 4, 4), 0.5)
    assert psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)


def test_training_lowers_the_loss_and_goes_on_after_a_kill(clips, tmp_path, monkeypatch):
    random.seed(0)
    asked = ["x", "--clips", str(clips), "--folder", str(tmp_path), "--threads", "1", "--latents-per-step", "2"]
    monkeypatch.setattr(autoencoder, "GROW_AT", (2, 5, 8))
    monkeypatch.setattr(autoencoder, "WARP_FROM", 3)
    losses = []
    for steps in ("4", "10"):
        monkeypatch.setattr(sys, "argv", [*asked, "--steps", steps])
        autoencoder.main()
        losses = [entry["loss"] for entry in _log(tmp_path)]
        assert len(losses) == int(steps)
        (tmp_path / "checkpoint.9.part").write_bytes(b"what a kill leaves behind")
    assert sum(losses[-3:]) < sum(losses[:3])
    assert (tmp_path / "loss.png").stat().st_size > 500
    weights = load_file(tmp_path / "nano_vae.safetensors")
    assert all(one.dtype == torch.float16 for one in weights.values())
    assert set(weights) == set(Autoencoder().state_dict())


def _log(folder) -> list[dict]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["about"])["log"]


def test_a_decoder_trained_on_alone_leaves_the_latents_as_they_are(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "GROW_AT", (2, 5, 8))
    monkeypatch.setattr(autoencoder, "WARP_FROM", 3)

    def trained(folder, *further, steps="4"):
        arguments = ["--clips", str(clips), "--folder", str(folder), "--minutes", "9", "--threads", "1"]
        monkeypatch.setattr(sys, "argv", ["x", *arguments, "--steps", steps, "--latents-per-step", "2", *further])
        autoencoder.main()
        return folder / "nano_vae.safetensors"

    whole = trained(tmp_path / "whole")
    polished = trained(tmp_path / "polished", "--decoder-of", str(whole), "--crop", "32")
    before, after = load_file(whole), load_file(polished)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert Codec(whole).stamp == Codec(polished).stamp, "films encoded by one are films of the other"
    with safe_open(polished, framework="pt") as file:
        assert file.metadata()["steps"] == "8"
    young = trained(tmp_path / "young", steps="2")
    for further, sentence in (
        (("--decoder-of", str(young)), "trained for 2 steps"),
        (("--decoder-of", str(tmp_path / "none.safetensors")), "no autoencoder at"),
        (("--decoder-of", str(whole), "--match"), "Give one of them"),
        (("--crop", "999"), "too small to cut 999 out"),
    ):
        with pytest.raises(ValueError, match=sentence):
            trained(tmp_path / "refused", *further)


def test_a_resumed_training_sees_other_pictures(clips, tmp_path, monkeypatch):
    seen = []
    loss = autoencoder.training_loss

    def looked_at(model, frames, **options):
        seen.append((frames.clone(), torch.rand(3)))
        return loss(model, frames, **options)

    monkeypatch.setattr(autoencoder, "training_loss", looked_at)
    asked = ["x", "--clips", str(clips), "--folder", str(tmp_path), "--threads", "1", "--latents-per-step", "2"]
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [*asked, "--steps", steps])
        autoencoder.main()
    (first, noise), (second, other_noise) = seen
    assert not torch.equal(first, second) and not torch.equal(noise, other_noise)


def test_clips_are_read_to_their_end_and_short_ones_are_read_too(clips, tmp_path):
    long = read_clip(clip_files(clips)[0])
    for frames in (3, 7):
        write_clip(tmp_path / f"own-{frames}.safetensors", long[:frames], {})
    reader = ClipReader(tmp_path, 2)
    random.seed(0)
    assert {reader.read().shape[1] for _ in range(20)} == {1, 5}
    last = (long.rgb[6] * 255).round().byte().movedim(-1, 0)
    shown = [(reader.clip(5)[-1] * 255).round().byte() for _ in range(20)]
    assert any(torch.equal(one, last) or torch.equal(one.flip(-1), last) for one in shown)
    with pytest.raises(ValueError, match="shorter than 9 frames"):
        reader.clip(9)


def test_a_held_out_world_is_refused_whatever_its_file_is_called(clips, tmp_path):
    clip = read_clip(clip_files(clips)[0])
    write_clip(tmp_path / "mine.safetensors", clip, {"world": "room", "seed": "1000003"})
    with pytest.raises(ValueError, match="held out"):
        ClipReader(tmp_path, 2)
    (tmp_path / "mine.safetensors").unlink()
    write_clip(tmp_path / "all-room-1000003-0.safetensors", clip, {})
    with pytest.raises(ValueError, match="held out"):
        ClipReader(tmp_path, 2)


def test_a_pool_without_clips_says_how_to_fill_it(tmp_path):
    with pytest.raises(ValueError, match=r"training\.clip_pool"):
        ClipReader(tmp_path, 4)


@torch.no_grad()
def test_what_single_pictures_taught_holds_for_the_last_frames_of_a_clip(model):
    model.set_depth(0)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    frames = torch.rand(1, 9, 3, 32, 32)
    stills = model.encode(frames[0, ::4, None])
    model.spread_stills()
    assert torch.allclose(model.encode(frames[0, ::4, None]), stills, atol=1e-4)
    latents = model.encode(frames)
    assert torch.allclose(latents[0], stills[:, 0], atol=1e-4)
    made = model.decode(latents)
    assert torch.allclose(made[0, ::4], model.decode(stills)[:, 0], atol=1e-4)
    assert torch.allclose(made[:, 5:8], made[:, 8:].expand(-1, 3, -1, -1, -1), atol=1e-5)
    model.load_state_dict(before)
    model.set_depth(3)
