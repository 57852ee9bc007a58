"""The patched MODEL among the host's other patches: what composes, what stays bit-identical, what it costs."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def inputs(golden):
    """Latents, timesteps and text of one forward call, and what the reference had beside them (case r3_p2)."""
    _, tensors = golden("dit_forward")
    clean = tensors["r3_p2/latents"].split([3, 3, 2], dim=2)
    return {
        "latents": clean[1],
        "timesteps": tensors["r3_p2/timestep"][None, 3:6],
        "context": tensors["r3_p2/context"],
        "references": clean[0][0],
        "preceding": clean[2][0],
        "scene": tensors["r3_p2/vace_context"],
    }


@pytest.fixture
def patched(pack, inputs, view_of, adapter):
    """patched(model, **options): the model with branch, references and preceding frames."""

    def apply(model, **options):
        scene = inputs["scene"]
        options = {
            "references": inputs["references"],
            "preceding_latents": inputs["preceding"],
            "preceding_view": view_of(scene[:48, 3:]),
            "encode": lambda pictures: scene[48:],
            "adapter": adapter,
            **options,
        }
        used = options.pop("adapter")
        return pack("branch_patch").apply_memory(model, used, view=view_of(scene[:48, :3]), **options)

    return apply


@pytest.fixture
def run(forward, inputs):
    """run(model): the output of one forward call."""
    return lambda model, sigma=None: forward(
        model, inputs["latents"], inputs["timesteps"], inputs["context"], sigma=sigma
    )


def test_the_callers_model_is_not_changed(model, patched, run):
    before, options = run(model), repr(model.model_options)
    run(patched(model))
    assert repr(model.model_options) == options and not model.wrappers and not model.additional_models
    assert torch.equal(run(model), before)


def test_strength_zero_is_the_base_model_bit_for_bit(model, patched, run):
    assert torch.equal(run(patched(model, strength=0.0)), run(model))


def test_the_output_moves_with_strength(model, patched, run):
    full, half = run(patched(model)), run(patched(model, strength=0.5))
    assert (full - half).abs().max() > 0.1


def test_the_branch_acts_only_inside_its_range(model, patched, run):
    without = run(patched(model, adapter=None))
    sampling = model.get_model_object("model_sampling")
    early, late = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8)
    first_half = patched(model, end_percent=0.5)
    assert (run(first_half, early) - without).abs().max() > 0.1 and torch.equal(run(first_half, late), without)
    second_half = patched(model, start_percent=0.5)
    assert torch.equal(run(second_half, early), without) and (run(second_half, late) - without).abs().max() > 0.1


def test_a_batch_is_the_same_as_its_entries_one_by_one(model, patched, forward, inputs):
    many = patched(model)
    latents = torch.cat([inputs["latents"], inputs["latents"].flip(2)])
    timesteps, context = inputs["timesteps"].repeat(2, 1), inputs["context"].repeat(2, 1, 1)
    together = forward(many, latents, timesteps, context)
    alone = [forward(many, one[None], timesteps[:1], context[:1]) for one in latents]
    assert (together - torch.cat(alone)).abs().max() < 1e-5


def doubling(args, extra):
    out = extra["original_block"](args)
    return {**out, "img": out["img"] * 2}


@pytest.mark.parametrize("layer", [0, 1])
def test_another_block_replacement_acts_the_same_in_front_and_behind(model, patched, run, layer):
    plain = run(patched(model))
    other = model.clone()
    other.set_model_patch_replace(doubling, "dit", "double_block", layer)
    in_front = run(patched(other))
    behind = patched(model)
    behind.set_model_patch_replace(doubling, "dit", "double_block", layer)
    assert (in_front - plain).abs().max() > 0.1
    assert torch.equal(in_front, run(behind))


def test_a_patch_behind_a_block_sees_the_video_alone(model, patched, run, inputs):
    seen = {}

    def look(args):
        seen.setdefault("latents", args["x"])
        seen.setdefault("offset", args["img_offset"])
        seen.setdefault("timesteps", args["vec"].shape[1])
        return args

    other = model.clone()
    other.set_model_double_block_patch(look)
    output = run(patched(other))
    assert torch.equal(seen["latents"], inputs["latents"])
    assert seen["offset"] == 3 * 3 * 5 and seen["timesteps"] == 3  # three references of 3x5 tokens lie before it
    assert torch.equal(output, run(patched(model)))


def test_loras_of_the_host_and_of_the_adapter_add_up(host, pack, model, adapter, patched, run, golden_folder, tmp_path):
    path = golden_folder / "tiny_lora_pipe_dit.safetensors"
    loading = pack("adapter")
    lora = loading.load_lora(str(path))
    named = {name.replace("pipe.dit.", "diffusion_model."): tensor for name, tensor in load_file(path).items()}
    (tmp_path / "loras").mkdir()
    save_file(named, tmp_path / "loras" / "host_form.safetensors")
    host.folder_paths.add_model_folder_path("loras", str(tmp_path / "loras"))
    by_host = host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, "host_form.safetensors", 0.5)[0]
    half = loading.Adapter(adapter.branch, lora, 0.5)
    whole = loading.Adapter(adapter.branch, lora, 1.0)
    stacked, alone = run(patched(by_host, adapter=half)), run(patched(model, adapter=whole))
    assert (stacked - alone).abs().max() < 1e-4
    assert (alone - run(patched(model))).abs().max() > 0.1


def test_the_next_segment_finds_the_lora_already_in_the_weights(pack, model, adapter, patched, golden_folder):
    loading = pack("adapter")
    with_lora = loading.Adapter(adapter.branch, loading.load_lora(str(golden_folder / "tiny_lora_peft.safetensors")))
    first, second = patched(model, adapter=with_lora), patched(model, adapter=with_lora)
    assert first.patches_uuid == second.patches_uuid != model.patches_uuid
    assert first.clone_has_same_weights(second)


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_fp8_weights_keep_their_branch_and_lora(
    host, pack, models, model, adapter, patched, run, golden_folder, weight_dtype
):
    small = host.nodes.UNETLoader().load_unet("tiny_dit.safetensors", weight_dtype)[0]
    assert small.model.diffusion_model.blocks[0].ffn[0].weight.element_size() == 1
    plain, with_branch = run(small), run(patched(small))
    assert (with_branch - plain).abs().max() > 0.1
    error = (with_branch - run(patched(model))).pow(2).mean().sqrt() / with_branch.pow(2).mean().sqrt()
    assert error < 0.5  # a tiny random net in 2 or 3 bits of mantissa; a lost branch gives more than 1
    loading = pack("adapter")
    lora = loading.load_lora(str(golden_folder / "tiny_lora_peft.safetensors"))
    assert (run(patched(small, adapter=loading.Adapter(adapter.branch, lora))) - with_branch).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_branch_in_a_smaller_type_is_cast_by_the_host(pack, models, model, patched, run, tmp_path, dtype):
    tensors = load_file(models / "tiny_vace.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "small.safetensors")
    loading = pack("adapter")
    small = loading.Adapter(loading.load_branch(str(tmp_path / "small.safetensors"), layout="white_latent"))
    assert small.branch.patcher.model.vace_blocks[0].ffn[0].weight.dtype == dtype
    output, exact = run(patched(model, adapter=small)), run(patched(model))
    assert (output - exact).pow(2).mean().sqrt() < 0.3 * exact.pow(2).mean().sqrt()


def test_guidance_runs_both_prompts_as_with_two_calls(model, patched, sample, inputs, golden):
    noise = torch.randn(inputs["latents"].shape, generator=torch.Generator().manual_seed(4))
    first, text = inputs["latents"][:, :, :1], inputs["context"]
    call = lambda cfg: sample(patched(model), noise, first, text, text * 0.5, cfg=cfg, steps=1)  # noqa: E731
    conditioned, guided = call(1.0), call(3.0)
    only_negative = sample(patched(model), noise, first, text * 0.5, steps=1)
    assert (guided - (only_negative + 3 * (conditioned - only_negative))).abs().max() < 1e-4


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc", "res_multistep"])
def test_every_sampler_of_the_host_keeps_the_first_frame_clean(host, model, patched, sample, inputs, sampler):
    noise = torch.randn(inputs["latents"].shape, generator=torch.Generator().manual_seed(4))
    first = inputs["latents"][:, :, :1]
    chosen = host.comfy.samplers.sampler_object(sampler)
    made = sample(patched(model), noise, first, inputs["context"], steps=3, sampler=chosen)
    assert torch.isfinite(made).all()
    assert (made[:, :, :1] - first).abs().max() < 1e-2  # uni_pc divides by 0.999 at its end


def test_the_callers_sigmas_are_not_changed(host, pack, model, inputs):
    unipc = pack("flow_unipc")
    sigmas = unipc.flow_sigmas(3, 5.0)
    before = sigmas.clone()
    latents = torch.zeros_like(inputs["latents"])
    text = [[inputs["context"], {}]]
    with torch.inference_mode():
        host.comfy.sample.sample_custom(
            model, torch.randn_like(latents), 1.0, unipc.flow_unipc_sampler(), sigmas, text, text, latents,
            disable_pbar=True, seed=0,
        )  # fmt: skip
    assert torch.equal(sigmas, before)


def test_the_solver_goes_on_from_a_half_finished_run(host, pack, model, inputs):
    """Schedules split by the host: a second part without noise starts from its latent, not from noise."""
    unipc, text = pack("flow_unipc"), [[inputs["context"], {}]]
    latents = inputs["latents"]
    with torch.inference_mode():
        made = host.comfy.sample.sample_custom(
            model, torch.zeros_like(latents), 1.0, unipc.flow_unipc_sampler(), torch.tensor([0.01, 0.0]), text, text,
            model.model.latent_format.process_out(latents), disable_pbar=True, seed=0,
        )  # fmt: skip
    assert (model.model.latent_format.process_in(made) - latents).abs().max() < 0.1


def test_the_estimate_of_memory_counts_references_preceding_frames_and_branch(host, model, patched):
    shape = [1, 48, 3, 6, 10]
    widths = {}
    for name, one in {"plain": model, "company": patched(model, adapter=None), "branch": patched(model)}.items():
        host.comfy.model_management.load_models_gpu([one])
        widths[name] = one.memory_required(shape) / model.model.memory_usage_factor
    assert widths["company"] / widths["plain"] == pytest.approx(8 / 3)
    assert widths["branch"] > widths["company"]
    host.comfy.model_management.load_models_gpu([model])
    assert model.memory_required(shape) / model.model.memory_usage_factor == pytest.approx(widths["plain"])


def test_the_host_hears_of_the_whole_run_before_it_loads_the_model(host, model, patched):
    asked = []
    executor = host.comfy.patcher_extension.WrapperExecutor.new_executor(
        lambda model, shape, *rest, **more: asked.append(list(shape)),
        patched(model).get_all_wrappers(host.comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING),
    )
    executor.execute(model, torch.Size([1, 48, 3, 6, 10]), {})
    assert asked[0][2] > 8


def test_the_branch_is_loaded_by_the_host_beside_the_model(model, adapter, patched):
    one = patched(model)
    assert [loaded.model for loaded in one.get_nested_additional_models()] == [adapter.branch.patcher.model]


def test_only_one_hint_is_alive_at_a_time(model, adapter, patched, run):
    alive, most = [], []

    def watch(module, args, output):
        gc.collect()
        alive[:] = [one for one in alive if one() is not None]
        most.append(len(alive) + 1)
        alive.append(weakref.ref(output))

    handles = [block.after_proj.register_forward_hook(watch) for block in adapter.branch.patcher.model.vace_blocks]
    run(patched(model))
    for handle in handles:
        handle.remove()
    assert most == [1, 1]


def test_white_is_encoded_once_per_length_and_size_and_vae(pack, models, model, patched, inputs):
    loading = pack("adapter")
    fresh = loading.Adapter(loading.load_branch(str(models / "tiny_vace.safetensors"), layout="white_latent"))
    calls = []

    def encode(pictures):
        calls.append(tuple(pictures.shape))
        return inputs["scene"][48:]

    for _ in range(3):
        patched(model, adapter=fresh, encode=encode)
    assert calls == [(17, 96, 160, 3)]

    def another_vae(pictures):
        calls.append("another")
        return inputs["scene"][48:]

    patched(model, adapter=fresh, encode=another_vae)
    assert calls[1:] == ["another"]


def test_the_same_file_is_not_read_twice_while_it_is_in_use(pack, models, adapter):
    again = pack("adapter").load_branch(str(models / "tiny_vace.safetensors"), layout="hole_map")
    assert again.patcher is adapter.branch.patcher and again.file.layout == "hole_map"


def test_a_hole_map_is_made_from_the_view_where_none_is_given(pack, models, model, patched, run, inputs):
    loading = pack("adapter")
    spatia = loading.Adapter(loading.load_branch(str(models / "tiny_vace.safetensors"), layout="hole_map"))
    seen = []

    def encode(pictures):
        seen.append((pictures.shape[0], float(pictures.min()), float(pictures.max())))
        return inputs["scene"][48:, : (pictures.shape[0] + 3) // 4]

    patched(model, adapter=spatia, encode=encode)
    assert seen == [(9, 0.5, 0.5), (5, 0.5, 0.5)]  # all seen; target and preceding frames are clips of their own
    given = run(patched(model, adapter=spatia, encode=None, hole_map=inputs["scene"][48:]))
    assert (given - run(patched(model))).abs().max() == 0  # the same second half as the white one of this test


def test_a_views_own_hole_map_is_read(pack, models, model, patched, run, inputs, view_of):
    loading = pack("adapter")
    spatia = loading.Adapter(loading.load_branch(str(models / "tiny_vace.safetensors"), layout="hole_map"))
    scene = inputs["scene"]
    view, before = view_of(scene[:48, :3]), view_of(scene[:48, 3:])
    view.hole_latents, before.hole_latents = scene[48:, :3], scene[48:, 3:]
    one = pack("branch_patch").apply_memory(
        model,
        spatia,
        view=view,
        references=inputs["references"],
        preceding_latents=inputs["preceding"],
        preceding_view=before,
    )
    assert torch.equal(run(one), run(patched(model)))


def test_spatias_lora_is_left_out_of_the_first_segment(pack, model, adapter, patched, golden_folder, tmp_path):
    path = tmp_path / "lora_weights_10000.safetensors"
    path.write_bytes((golden_folder / "tiny_lora_pipe_dit.safetensors").read_bytes())
    with_lora = pack("adapter").Adapter(adapter.branch, pack("adapter").load_lora(str(path)))
    alone = {"references": None, "preceding_latents": None, "preceding_view": None}
    assert patched(model, adapter=with_lora).patches
    assert not patched(model, adapter=with_lora, encode=lambda pictures: torch.zeros(48, 3, 6, 10), **alone).patches


@pytest.mark.skipif("MIRAGE_SLOW" not in os.environ, reason="compiles for minutes; set MIRAGE_SLOW=1")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_model_gives_the_same_with_memory_in_front_and_behind(model, patched, sample, inputs, backend):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def is_guarded(entries):  # as the host's own TorchCompileModel node
        return ["transformer_options" not in entry.name for entry in entries]

    def compiled(one):
        one = one.clone(disable_dynamic=True)
        set_torch_compile_wrapper(model=one, backend=backend, options={"guard_filter_fn": is_guarded})
        return one

    def run(one):
        noise = torch.randn(inputs["latents"].shape, generator=torch.Generator().manual_seed(4))
        return sample(one, noise, inputs["latents"][:, :, :1], inputs["context"], steps=1)

    expected = run(patched(model))
    assert (run(patched(compiled(model))) - expected).abs().max() < 1e-4
    assert (run(compiled(patched(model))) - expected).abs().max() < 1e-4


def test_a_branch_that_needs_a_vae_says_so(model, patched):
    with pytest.raises(ValueError, match="reads an encoded white video beside the view; nothing can encode it"):
        patched(model, encode=None)


def test_a_model_of_another_kind_is_refused(host, models, patched, tmp_path):
    # Without a 48-channel head the host takes the file for another Wan.
    tensors = load_file(models / "tiny_dit.safetensors")
    tensors["head.head.weight"], tensors["head.head.bias"] = torch.zeros(64, 256), torch.zeros(64)
    tensors["patch_embedding.weight"] = torch.zeros(256, 16, 1, 2, 2)
    other = host.comfy.sd.load_diffusion_model_state_dict(tensors)
    with pytest.raises(ValueError, match=r"16-channel latents; Mirage films with Wan2.2 TI2V 5B"):
        patched(other)


def test_a_lora_of_another_model_is_refused(pack, model, patched, tmp_path):
    loading = pack("adapter")
    module = "blocks.{}.self_attn.q.lora_{}.weight"
    save_file(
        {module.format(9, "A"): torch.zeros(4, 256), module.format(9, "B"): torch.zeros(256, 4)},
        tmp_path / "a.safetensors",
    )
    save_file(
        {module.format(0, "A"): torch.zeros(4, 512), module.format(0, "B"): torch.zeros(512, 4)},
        tmp_path / "b.safetensors",
    )
    absent, wide = (loading.load_lora(str(tmp_path / f"{name}.safetensors")) for name in "ab")
    with pytest.raises(ValueError, match=r"1 of 1 modules are not in the connected model .first: blocks.9.self_attn.q"):
        patched(model, adapter=loading.Adapter(None, absent))
    with pytest.raises(ValueError, match="as a 512x512 weight; the connected model's is 256x256"):
        patched(model, adapter=loading.Adapter(None, wide))


def test_branch_and_lora_of_different_widths_are_refused(pack, adapter, tmp_path):
    loading = pack("adapter")
    module = "blocks.0.self_attn.q.lora_{}.weight"
    save_file(
        {module.format("A"): torch.zeros(4, 512), module.format("B"): torch.zeros(512, 4)},
        tmp_path / "wide.safetensors",
    )
    with pytest.raises(
        ValueError, match=r"wide.safetensors is for a model 512 wide, tiny_vace.safetensors for one 256 wide"
    ):
        loading.Adapter(adapter.branch, loading.load_lora(str(tmp_path / "wide.safetensors")))
