"""Adapters over HTTP: the output of a segment changes when it should, and only then."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save_file

from mirage_core.weights import Stated
from real_host.client import PromptFailed, PromptInterrupted, made_files
from real_host.flights import film, flight, node, with_tiny_models
from training.stand_in.adapter import random_branch, random_lora

PICTURE = "mirage_room.jpg"


@pytest.fixture(scope="module", autouse=True)
def adapters(base_directory):
    """models/mirage with a branch per layout, a LoRA, and damaged ones."""
    folder = base_directory / "models" / "mirage"
    folder.mkdir(parents=True, exist_ok=True)
    for name, channels, layout in (("view", 48, "view"), ("mask", 49, "hole_mask"), ("white", 96, "white_latent")):
        stated = Stated(layout=layout, cell_rule="center", heads=2).to_metadata()
        save_file(random_branch(channels=channels), folder / f"branch_{name}.safetensors", metadata=stated)
    save_file(random_lora(), folder / "lora.safetensors")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04not tensors")
    broken = random_branch()
    del broken["vace_blocks.1.ffn.0.weight"]
    save_file(broken, folder / "broken.safetensors")


def segment(
    *, branch=None, lora="none", weight_dtype="default", front=None, behind=None, loader=None, **changes
) -> dict:
    """One segment of 9 frames at 64x64 with the random model, its latent saved by node "save"."""
    shape = {
        "shape.width": 5.0,
        "shape.height": 2.8,
        "shape.length": 6.0,
        "shape.camera_height": 1.5,
        "shape.tilt": 0.0,
    }
    path = {
        "preset": "truck_right", "amount": 0.3, "out_move": "roll", "length": 9, "speed": 1.0, "easing": "linear",
        "fov": 60.0, "width": 64, "height": 64, "fps": 16.0,
    }  # fmt: skip
    settings = {
        "seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "mirage_unipc", "scheduler": "mirage", "shift": 5.0,
        "strength": 1.0, "guide_until": 1.0,
    }  # fmt: skip
    prompt = {
        "image": node("LoadImage", image=PICTURE),
        "vae": node("VAELoader", vae_name="mirage_stand_in_vae.safetensors"),
        "unet": node("UNETLoader", unet_name="mirage_random_dit.safetensors", weight_dtype=weight_dtype),
        "text": node("MirageStandInText", text="a room", width=64),
        "path": node("MirageCameraPath", **path),
        "depth": node("MirageSimpleDepth", image=["image", 0], shape="room", fov=60.0, **shape),
        "init": node("MirageInitLatentMemory", image=["image", 0], vae=["vae", 0], geometry=["depth", 0],
            path=["path", 0]),
        "view": node("MirageProjectMemory", memory=["init", 0]),
        "segment": node(
            "MirageGenerateSegment", model=["unet", 0], positive=["text", 0], negative=["text", 0], view=["view", 0],
            memory=["init", 0], vae=["vae", 0], **(settings | changes),
        ),
        "save": node("SaveLatent", samples=["segment", 0], filename_prefix="test/segment"),
    }  # fmt: skip
    model = ["unet", 0]
    if front:
        prompt["front"] = node(front[0], model=model, **front[1])
        model = ["front", 0]
    if branch or lora != "none":
        prompt["adapter"] = node(
            "MirageLoadAdapter", side_branch=branch or "none", lora=lora, lora_strength=1.0,
            channel_layout="from the file",
        ) | {}  # fmt: skip
        prompt["adapter"]["inputs"] |= loader or {}
        prompt["segment"]["inputs"]["adapter"] = ["adapter", 0]
    prompt["segment"]["inputs"]["model"] = model
    return prompt


def latent(client, **changes) -> torch.Tensor:
    finished = client.run(segment(**changes))
    return load_bytes(client.fetch(made_files(finished.outputs["save"])[0]))["latent_tensor"]


def test_the_output_follows_branch_strength_and_repeats(client):
    plain = latent(client, guide_until=0.0)
    none = latent(client, branch="branch_mask.safetensors", strength=0.0)
    full = latent(client, branch="branch_mask.safetensors")
    half = latent(client, branch="branch_mask.safetensors", strength=0.5)
    client.free_memory()
    again = latent(client, branch="branch_mask.safetensors")
    assert torch.equal(plain, none), "strength 0 is the model without memory, bit for bit"
    assert torch.equal(full, again)
    assert (full - plain).abs().max() > 1e-2 and (full - half).abs().max() > 1e-2


@pytest.mark.parametrize("branch", ["branch_view", "branch_mask", "branch_white"])
def test_every_channel_layout_runs_in_the_loop_of_the_host(client, branch):
    made = latent(client, branch=f"{branch}.safetensors")
    assert torch.isfinite(made).all() and made.std() > 0


def test_what_is_pulled_moves_evenly_unless_told_otherwise(client):
    even, jerky = latent(client, even_pull=True), latent(client, even_pull=False)
    assert torch.equal(even, latent(client))
    assert (even[:, :, 1:] - jerky[:, :, 1:]).abs().max() > 1e-2
    obeying = {"branch": "branch_mask.safetensors"}
    assert torch.equal(latent(client, **obeying, even_pull=True), latent(client, **obeying, even_pull=False))


def test_the_output_follows_lora_strength(client):
    plain = latent(client)
    off = latent(client, lora="lora.safetensors", loader={"lora_strength": 0.0})
    on = latent(client, lora="lora.safetensors")
    assert torch.allclose(plain, off, atol=1e-6)
    assert (on - plain).abs().max() > 1e-2


def test_fp8_weights_keep_the_branch_in_force(client):
    plain = latent(client, weight_dtype="fp8_e4m3fn", guide_until=0.0)
    obeying = latent(client, weight_dtype="fp8_e4m3fn", branch="branch_mask.safetensors")
    assert (obeying - plain).abs().max() > 1e-2


def test_a_model_patch_of_the_user_stays_in_force(client):
    rope = (
        "ScaleROPE",
        {"scale_x": 1.0, "shift_x": 0.0, "scale_y": 1.0, "shift_y": 0.0, "scale_t": 3.0, "shift_t": 0.0},
    )
    plain = latent(client, branch="branch_mask.safetensors")
    patched = latent(client, branch="branch_mask.safetensors", front=rope)
    shifted = latent(client, branch="branch_mask.safetensors", front=("ModelSamplingSD3", {"shift": 2.0}), shift=0.0)
    assert (patched - plain).abs().max() > 1e-4
    assert (shifted - plain).abs().max() > 1e-2


@pytest.mark.skipif("MIRAGE_SLOW" not in os.environ, reason="compiles for minutes; set MIRAGE_SLOW=1")
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="compiling needs a C++ compiler")
def test_a_compiled_model_obeys_the_adapter_like_the_plain_one(client):
    compiled = ("TorchCompileModel", {"backend": "inductor"})
    steps = {"branch": "branch_mask.safetensors", "steps": 1}
    plain, made = latent(client, **steps), latent(client, front=compiled, **steps)
    without = latent(client, front=compiled, steps=1, guide_until=0.0)
    assert (made - plain).abs().max() < 1e-3
    assert (made - without).abs().max() > 1e-2


def test_host_samplers_and_schedulers_work_with_an_adapter(client):
    for sampler, scheduler in (("euler", "simple"), ("uni_pc", "normal"), ("dpmpp_2m", "beta")):
        made = latent(client, branch="branch_mask.safetensors", sampler_name=sampler, scheduler=scheduler, cfg=2.0)
        assert torch.isfinite(made).all()


def test_a_run_survives_an_interrupt_and_gives_the_same_when_queued_again(client):
    wanted = latent(client, branch="branch_mask.safetensors", steps=6, seed=11)
    client.free_memory()
    prompt = segment(branch="branch_mask.safetensors", steps=6, seed=11)

    def stop(event):
        if event.kind == "text" and "step 2/6" in event.data["text"]:
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(prompt, on_event=stop)
    assert torch.equal(latent(client, branch="branch_mask.safetensors", steps=6, seed=11), wanted)


@pytest.mark.parametrize("branch, words", [
    ("pickle.safetensors", "not a safetensors file|pickle"), ("broken.safetensors", "missing|lacks|incomplete"),
    ("lora.safetensors", "this is a LoRA"),
])  # fmt: skip
def test_files_that_are_no_branch_are_refused_at_the_loader(client, branch, words):
    with pytest.raises(PromptFailed, match=words) as failed:
        client.run(segment(branch=branch))
    assert failed.value.node_type == "MirageLoadAdapter"


def test_a_white_video_branch_without_a_vae_says_so(client):
    prompt = segment(branch="branch_white.safetensors")
    del prompt["segment"]["inputs"]["vae"]
    with pytest.raises(PromptFailed, match="VAE"):
        client.run(prompt)


def test_apply_mirage_memory_gives_a_model_for_the_users_own_sampling_graph(client):
    prompt = segment(branch="branch_mask.safetensors")
    del prompt["segment"], prompt["save"]
    prompt |= {
        "apply": node(
            "MirageApplyMemory", model=["unet", 0], adapter=["adapter", 0], view=["view", 0], memory=["init", 0],
            strength=1.0, start_percent=0.0, end_percent=1.0, references=4, preceding=2,
        ),
        "sampler": node("MirageFlowUniPC", steps=2, shift=5.0),
        "empty": node(
            "Wan22ImageToVideoLatent", vae=["vae", 0], width=64, height=64, length=9, batch_size=1,
            start_image=["init", 1],
        ),
        "noise": node("RandomNoise", noise_seed=3),
        "guider": node("BasicGuider", model=["apply", 0], conditioning=["text", 0]),
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
            sigmas=["sampler", 1], latent_image=["empty", 0],
        ),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix="test/own"),
    }  # fmt: skip
    finished = client.run(prompt)
    own = load_bytes(client.fetch(made_files(finished.outputs["save"])[0]))["latent_tensor"]
    ours = latent(client, branch="branch_mask.safetensors")
    assert (own - ours).abs().max() < 1e-4, "Generate Segment is Apply Mirage Memory plus sampling"


@pytest.mark.parametrize("name, branch, lora", [
    ("mirage_adapter", "mirage_side_branch.safetensors", "mirage_lora.safetensors"),
    ("spatia_weights", "control_weight_8500.safetensors", "lora_weights_10000.safetensors"),
])  # fmt: skip
def test_the_adapter_workflows_run_with_tiny_files_of_the_same_names(client, base_directory, name, branch, lora):
    folder = base_directory / "models" / "mirage"
    stated = Stated(heads=2, layout="white_latent" if name == "mirage_adapter" else None).to_metadata()
    save_file(random_branch(channels=96), folder / branch, metadata=stated)
    save_file(random_lora(), folder / lora)
    prompt = flight(name, LoadImage={"image": PICTURE}, MirageGenerateSegment={"steps": 1})
    with_tiny_models(prompt)
    finished = client.run(prompt)
    assert len(film(client, prompt, finished)) == 37
