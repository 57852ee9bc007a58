"""The side branch, references, preceding frames and LoRA inside the real host, against the released reference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4  # wrong reference positions move the output by .04; the host's float32 time embedding by 1.5e-5
CASES = ["r0_p0", "r0_p2", "r3_p0", "r3_p2", "r3_p2_novace", "r3_p2_scale05", "r1_p1_8x6", "single_timestep", "batch2"]
CASES.append("short_vace_context")


@pytest.fixture(scope="session")
def models(host, golden_folder, tmp_path_factory):
    """Folder with the reference's tiny model and branch as float32 files, known to the host's loaders."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny_dit", "tiny_vace"):
        tensors = {key: value.float() for key, value in load_file(golden_folder / f"{name}.safetensors").items()}
        save_file(tensors, folder / f"{name}.safetensors")
    host.folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder


@pytest.fixture(scope="session")
def model(host, models):
    return host.nodes.UNETLoader().load_unet("tiny_dit.safetensors", "default")[0]


@pytest.fixture(scope="session")
def adapter(pack, models):
    loading = pack("adapter")
    branch, patcher = loading.load_branch(str(models / "tiny_vace.safetensors"), layout="white_latent")
    return loading.Adapter(branch, patcher)


def view_of(scene):
    return SimpleNamespace(latents=scene, is_covered=torch.ones(scene.shape[1:], dtype=torch.bool))


def forward(host, patched, latents, timesteps, context):
    """One call of the diffusion model as the host's sampling makes it: loaded, with the clone's wrappers."""
    host.comfy.model_management.load_models_gpu([patched, *patched.get_nested_additional_models()])
    options = host.comfy.model_patcher.create_model_options_clone(patched.model_options)["transformer_options"]
    options["wrappers"] = patched.wrappers
    with torch.inference_mode():
        return patched.model.diffusion_model(latents, timesteps, context=context, transformer_options=options)


def run_case(host, pack, model, adapter, case, tensors):
    name, references, target = case["name"], case["num_ref"], case["num_target"]
    latents = tensors[f"{name}/latents"]
    clean = latents.split([references, target, case["num_preceding"]], dim=2)
    context = tensors.get(f"{name}/vace_context", torch.zeros(96, target, *latents.shape[3:]))
    patched = pack("branch_patch").apply_memory(
        model,
        adapter if case["vace"] else None,
        view=view_of(context[:48, :target]),
        references=clean[0][0] if references else None,
        preceding_latents=clean[2][0] if case["num_preceding"] else None,
        preceding_view=view_of(context[:48, target:]) if context.shape[1] > target else None,
        strength=case["vace_scale"],
        encode=lambda pictures: context[48:],
    )
    timesteps = tensors[f"{name}/timestep"]
    if case["single_timestep"]:  # the reference's short form: the first frame is clean
        timesteps = torch.cat([torch.zeros(1), timesteps.expand(target - 1)])
    timesteps = timesteps[references : references + target].expand(case["batch"], -1)
    output = forward(
        host, patched, clean[1].expand(case["batch"], -1, -1, -1, -1), timesteps, tensors[f"{name}/context"]
    )
    return output, tensors[f"{name}/output"][:, :, references : references + target]


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_the_reference(host, pack, model, adapter, golden, name):
    description, tensors = golden("dit_forward")
    case = next(case for case in description["cases"] if case["name"] == name)
    output, expected = run_case(host, pack, model, adapter, case, tensors)
    assert (output - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("file", ["tiny_lora_pipe_dit", "tiny_lora_peft"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_lora_of_either_naming_equals_the_reference(host, pack, model, adapter, golden, golden_folder, file, strength):
    description, tensors = golden("dit_forward")
    case = next(case for case in description["cases"] if case["name"] == "r3_p2")
    loading = pack("adapter")
    lora, lora_tensors = loading.load_lora(str(golden_folder / f"{file}.safetensors"))
    with_lora = loading.Adapter(adapter.branch, adapter.patcher, lora, lora_tensors, strength)
    output, _ = run_case(host, pack, model, with_lora, case, tensors)
    expected = tensors[f"lora_{'peft' if 'peft' in file else 'pipe'}_a{strength}/output"][:, :, 3:6]
    assert (output - expected).abs().max() <= TOLERANCE
