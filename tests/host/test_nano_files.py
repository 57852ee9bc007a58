"""The files that training leaves, in the host: same weights, same numbers as in plain torch; also those shipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from mirage_core.weights import Stated
from training.adapter_files import load_branch, load_lora, save_branch, save_lora
from training.adapter_model import AdapterOptions, adapter_of
from training.nano import Nano, NanoOptions, load_base, save_base
from training.ship import FILES, SHIPPED, ship
from training.wan import WanSizes
from training.wan_memory import WanWithMemory

TOLERANCE = 1e-4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base, a branch and a LoRA of random weights, written as the trainers write them."""
    folder = tmp_path_factory.mktemp("nano")
    nano = Nano(NanoOptions(WanSizes(dim=64, ffn_dim=128, heads=2, layers=2, text_dim=16)))
    torch.nn.init.normal_(nano.model.head.head.weight, std=0.1)
    save_base(folder / "base.safetensors", nano.state_dict(), nano, {})
    adapter = adapter_of(folder / "base.safetensors", AdapterOptions(stride=1, rank=4), CPU, None)
    for block in adapter.branch.vace_blocks:
        torch.nn.init.normal_(block.after_proj.weight, std=0.1)
    for up in adapter.lora.up:
        torch.nn.init.normal_(up, std=0.1)
    stated = Stated(layout="hole_mask", cell_rule="center", layers=adapter.branch.layers, heads=2)
    save_branch(folder / "branch.safetensors", adapter.branch.state_dict(), stated, {})
    save_lora(folder / "lora.safetensors", adapter.lora, {})
    return folder


def compared(host, pack, forward, view_of, base: Path, branch: Path | None, lora: Path | None) -> tuple:
    """(in the host, in plain torch): the flow of one segment with all there is."""
    model, words = load_base(base)
    generator = torch.Generator().manual_seed(0)
    latents, view, references = (torch.randn(1, 48, frames, 8, 8, generator=generator) for frames in (9, 9, 2))
    times = torch.full((1, 9), 600.0)
    times[:, 0] = 0
    text = words([("room",)]).detach()
    in_host = host.comfy.sd.load_diffusion_model(str(base))
    loading = pack("adapter")
    adapter = loading.Adapter(
        None if branch is None else loading.load_branch(str(branch)),
        None if lora is None else loading.load_lora(str(lora)),
    )
    patched = pack("branch_patch").apply_memory(
        in_host, adapter, view=view_of(view[0]), references=references[0] if branch is not None else None
    )
    expected = forward(patched, latents, times, text)
    if branch is None:
        return expected, model(latents, times, text).detach()
    together = WanWithMemory(model, load_branch(branch, model.sizes))
    if lora is not None:
        load_lora(lora, model).attach(model)
    context = torch.cat([view, torch.zeros_like(view[:, :1])], dim=1)
    with torch.no_grad():
        return expected, together(latents, times, text, context=context, references=references)


def test_a_base_that_was_written_gives_the_same_in_the_host(host, pack, forward, view_of, folder):
    in_host, plain = compared(host, pack, forward, view_of, folder / "base.safetensors", None, None)
    assert (in_host - plain).abs().max() <= TOLERANCE


def test_branch_and_lora_that_were_written_give_the_same_in_the_host(host, pack, forward, view_of, folder):
    files = [folder / f"{name}.safetensors" for name in ("base", "branch", "lora")]
    in_host, plain = compared(host, pack, forward, view_of, *files)
    assert (in_host - plain).abs().max() <= TOLERANCE


def test_the_shipped_weights_give_the_same_in_the_host(host, pack, forward, view_of):
    base, branch, lora = (
        SHIPPED / FILES[name]
        for name in (
            "base/nano_base.safetensors",
            "adapter/branch/nano_branch.safetensors",
            "adapter/lora/nano_lora.safetensors",
        )
    )
    in_host, plain = compared(host, pack, forward, view_of, base, branch, lora)
    assert (in_host - plain).abs().max() <= TOLERANCE


def test_the_shipped_files_are_small_and_are_those_of_their_figures():
    said = json.loads((SHIPPED / "figures.json").read_text())
    assert sorted(said) == sorted(FILES.values())
    files = {name: (SHIPPED / name).read_bytes() for name in said}
    assert sum(map(len, files.values())) <= 60e6
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == {
        name: one["sha256"] for name, one in said.items()
    }


def test_shipping_without_a_stage_writes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nano_vae\.safetensors\. Train that stage first"):
        ship(tmp_path, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
