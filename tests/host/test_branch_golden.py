"""The side branch, references, preceding frames and LoRA inside the real host, against the released reference."""

from __future__ import annotations

import pytest
import torch

TOLERANCE = 1e-4  # wrong reference positions move the output by .04; the host's float32 time embedding by 1.5e-5
CASES = ["r0_p0", "r0_p2", "r3_p0", "r3_p2", "r3_p2_novace", "r3_p2_scale05", "r1_p1_8x6", "single_timestep", "batch2"]
CASES.append("short_vace_context")


def run_case(pack, forward, view_of, model, adapter, case, tensors):
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
    output = forward(patched, clean[1].expand(case["batch"], -1, -1, -1, -1), timesteps, tensors[f"{name}/context"])
    return output, tensors[f"{name}/output"][:, :, references : references + target]


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_the_reference(pack, forward, view_of, model, adapter, golden, name):
    description, tensors = golden("dit_forward")
    case = next(case for case in description["cases"] if case["name"] == name)
    output, expected = run_case(pack, forward, view_of, model, adapter, case, tensors)
    assert (output - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("file", ["tiny_lora_pipe_dit", "tiny_lora_peft"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_lora_of_either_naming_equals_the_reference(
    pack, forward, view_of, model, adapter, golden, golden_folder, file, strength
):
    description, tensors = golden("dit_forward")
    case = next(case for case in description["cases"] if case["name"] == "r3_p2")
    loading = pack("adapter")
    lora = loading.load_lora(str(golden_folder / f"{file}.safetensors"))
    with_lora = loading.Adapter(adapter.branch, lora, strength)
    output, _ = run_case(pack, forward, view_of, model, with_lora, case, tensors)
    expected = tensors[f"lora_{'peft' if 'peft' in file else 'pipe'}_a{strength}/output"][:, :, 3:6]
    assert (output - expected).abs().max() <= TOLERANCE


def test_schedule_equals_the_reference(pack, golden):
    description, _ = golden("sampling")
    assert len(description["tables"]) == 32
    for table in description["tables"]:
        sigmas = pack("flow_unipc").flow_sigmas(table["steps"], table["shift"])
        assert torch.allclose(sigmas, torch.tensor(table["sigmas"]), atol=1e-7, rtol=0)
        assert (sigmas[:-1] * 1000).floor().int().tolist() == table["timesteps"]


@pytest.mark.parametrize("steps", [3, 5, 20])
def test_solver_alone_equals_the_reference(pack, golden, steps):
    _, tensors = golden("sampling")
    unipc = pack("flow_unipc")
    sigmas = unipc.flow_sigmas(steps, 5.0)
    solver, x = unipc.FlowUniPC(sigmas.tolist()), tensors[f"toy{steps}/x_init"]
    for step in range(steps):
        flow = 0.7 * torch.tanh(x) - tensors[f"toy{steps}/A"] * (float((sigmas[step] * 1000).floor()) / 1000) ** 2
        x = solver.step(step, x, x - sigmas[step] * flow)
        assert (x - tensors[f"toy{steps}/x_steps"][step]).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["traj4", "traj4_cfg", "traj8"])
def test_sampling_of_a_segment_equals_the_reference(pack, sample, view_of, model, adapter, golden, name):
    description, tensors = golden("sampling")
    case = next(case for case in description["trajectories"] if case["name"] == name)
    of = {key.split("/", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{name}/")}
    patched = pack("branch_patch").apply_memory(
        model,
        adapter,
        view=view_of(of["target_scene"]),
        references=of["reference_latents"][0],
        preceding_latents=of["preceding_latents"][0],
        preceding_view=view_of(of["preceding_scene"]),
        encode=lambda pictures: of["white_latent"],
    )
    result = sample(
        patched, of["noise"], of["first_frame_latent"], of["context"], of.get("uncond_context"),
        cfg=case["cfg"] or 1.0, steps=case["steps"], shift=case["shift"],
    )  # fmt: skip
    assert (result - of["result"]).abs().max() <= 1e-3
