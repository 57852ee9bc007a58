"""The nodes Load Mirage Adapter, Apply Mirage Memory and Mirage Sampler in the real host."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def nodes(host, pack, models, golden_folder, tmp_path_factory):
    """Our node classes, with a models/mirage and a models/loras of their own on the host's search path."""
    module = pack("branch_nodes")
    module.register_model_folder()
    folder, loras = tmp_path_factory.mktemp("mirage"), tmp_path_factory.mktemp("loras")
    host.folder_paths.add_model_folder_path("mirage", str(folder))
    host.folder_paths.add_model_folder_path("loras", str(loras))
    save_file(load_file(models / "tiny_vace.safetensors"), folder / "control_weight_1.safetensors")
    (folder / "notes.txt").write_text("not a model")
    (folder / "old.pt").write_bytes(b"PK")
    for place, name in ((folder, "tiny_lora_pipe_dit.safetensors"), (loras, "tiny_lora_peft.safetensors")):
        (place / name).write_bytes((golden_folder / name).read_bytes())
    return module


def choices(schema, name):
    return next(one for one in schema.inputs if one.id == name).options


def test_the_folder_lists_safetensors_only_and_loras_from_both_folders(host, nodes):
    assert host.folder_paths.get_filename_list("mirage") == [
        "control_weight_1.safetensors",
        "tiny_lora_pipe_dit.safetensors",
    ]
    schema = nodes.LoadMirageAdapter.define_schema()
    assert choices(schema, "side_branch")[0] == "none"
    assert {"tiny_lora_pipe_dit.safetensors", "loras/tiny_lora_peft.safetensors"} <= set(choices(schema, "lora"))


def test_registering_twice_keeps_the_users_own_folders(host, nodes):
    before = list(host.folder_paths.folder_names_and_paths["mirage"][0])
    nodes.register_model_folder()
    assert host.folder_paths.folder_names_and_paths["mirage"] == (before, {".safetensors"})


@pytest.mark.parametrize("lora", ["tiny_lora_pipe_dit.safetensors", "loras/tiny_lora_peft.safetensors"])
def test_the_loader_says_what_it_found(nodes, lora):
    adapter, report = nodes.LoadMirageAdapter.execute("control_weight_1.safetensors", lora, 1.0).result
    branch, weights = report.splitlines()
    assert "2 blocks" in branch and "48 hole map" in branch and "Spatia naming" in branch
    assert "rank 4" in weights and "40 modules" in weights
    assert adapter.branch.file.layout == "hole_map" and len(adapter.lora.tensors) == 80


def test_a_lora_may_come_alone_and_nothing_is_refused(nodes):
    adapter = nodes.LoadMirageAdapter.execute("none", "tiny_lora_pipe_dit.safetensors", 0.5).result[0]
    assert adapter.branch is None and adapter.lora_strength == 0.5
    with pytest.raises(ValueError, match="Neither a side branch nor a LoRA is chosen"):
        nodes.LoadMirageAdapter.execute("none", "none", 1.0)


def test_a_lora_in_the_side_branch_input_is_refused(nodes):
    with pytest.raises(ValueError, match="this is a LoRA: use the LoRA input"):
        nodes.LoadMirageAdapter.execute("tiny_lora_pipe_dit.safetensors", "none", 1.0)


def test_a_replaced_file_is_read_again(host, nodes):
    chosen = {
        "side_branch": "control_weight_1.safetensors",
        "lora": "none",
        "lora_strength": 1.0,
        "channel_layout": "from the file",
    }
    before = nodes.LoadMirageAdapter.fingerprint_inputs(**chosen)
    assert nodes.LoadMirageAdapter.fingerprint_inputs(**chosen) == before
    path = host.folder_paths.get_full_path("mirage", "control_weight_1.safetensors")
    os.utime(path, ns=(1, 1))
    assert nodes.LoadMirageAdapter.fingerprint_inputs(**chosen) != before


@pytest.mark.parametrize("name", ["LoadMirageAdapter", "ApplyMirageMemory", "FlowUniPCSampler"])
def test_every_input_and_output_has_a_tooltip_and_a_help_page(nodes, name):
    schema = getattr(nodes, name).define_schema()
    assert all(one.tooltip for one in [*schema.inputs, *schema.outputs])
    page = os.path.join(os.path.dirname(nodes.__file__), "..", "js", "docs", f"{schema.node_id}.md")
    text = open(page, encoding="utf-8").read()
    assert all(f"`{one.id}`" in text for one in schema.inputs)


def test_the_sampler_node_gives_the_released_schedule(nodes):
    sampler, sigmas = nodes.FlowUniPCSampler.execute(20, 5.0).result
    assert callable(sampler.sampler_function)
    assert (sigmas[:-1] * 1000).int().tolist()[:4] == [999, 989, 978, 965] and sigmas[-1] == 0
    with pytest.raises(ValueError, match="at least 1 step"):
        nodes.FlowUniPCSampler.execute(0, 5.0)


def a_film(pack, *, segments=2):
    """A film of `segments` finished segments over a still camera; rows of 6x10 cells."""
    import importlib

    core = {name: importlib.import_module(f"mirage_pack.mirage_core.{name}") for name in (
        "camera", "latent_grid", "memory", "rollout")}  # fmt: skip
    grid, size = core["latent_grid"].WAN22, (96, 160)
    frames = 1 + 32 * (segments + 1)
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    cam2world[:, 0, 3] = torch.linspace(0, 2, frames)
    intrinsics = core["camera"].pinhole_intrinsics(60, size).repeat(frames, 1, 1)
    cameras = core["camera"].Cameras(cam2world, intrinsics, size)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(48, 1 + 8 * segments, 6, 10, generator=generator)
    depth = torch.full((latents.shape[1], 6, 10), 3.0)
    start = core["memory"].LatentMemory.empty(grid)
    film = core["rollout"].Rollout.started(start, latents[:, :1], cameras)
    for index in range(segments):
        chosen = slice(8 * index, 8 * index + 9)
        at = cameras[list(range(0, frames, 4))[chosen]]
        block = core["memory"].lift(latents[:, chosen], depth[chosen], at, grid, first_latent_index=8 * index)
        film = film.extended(latents[:, chosen], film.view(film.next_segment), block)
    return film


def test_references_are_never_what_the_model_is_given_anyway(pack, nodes):
    film = a_film(pack)
    found = pack("branch_patch").reference_latents(film, max_references=4, preceding=2)
    assert found is not None and 1 <= found.shape[1] <= 4
    indices = [next(i for i in range(17) if torch.equal(film.film[:, i], one)) for one in found.unbind(1)]
    assert max(indices) < 14  # 14 and 15 precede the overlap latent 16


def test_the_first_segment_has_no_references(pack, nodes):
    film = a_film(pack, segments=0)
    assert pack("branch_patch").reference_latents(film, max_references=4, preceding=0) is None


def test_apply_memory_node_brings_references_and_preceding_frames(pack, nodes, models, model, sample, golden, tmp_path):
    film = a_film(pack)
    view = film.view(film.next_segment)
    context = golden("dit_forward")[1]["r3_p2/context"]
    tensors = load_file(models / "tiny_vace.safetensors")
    tensors["vace_patch_embedding.weight"] = tensors["vace_patch_embedding.weight"][:, :48].clone()
    save_file(tensors, tmp_path / "view_only.safetensors")
    adapter = pack("adapter").Adapter(pack("adapter").load_branch(str(tmp_path / "view_only.safetensors")))
    noise = torch.randn(1, 48, 9, 6, 10, generator=torch.Generator().manual_seed(0))
    made = {}
    for name, options in {
        "full": {},
        "no references": {"references": 0},
        "no preceding": {"preceding": 0},
        "off": {"strength": 0.0},
    }.items():
        patched = nodes.ApplyMirageMemory.execute(model, adapter, view, film, **options).result[0]
        made[name] = sample(patched, noise, film.overlap[None], context, steps=2)
    assert torch.equal(made["off"], sample(model, noise, film.overlap[None], context, steps=2))
    for name in ("no references", "no preceding", "off"):
        assert (made[name] - made["full"]).abs().max() > 1e-3
