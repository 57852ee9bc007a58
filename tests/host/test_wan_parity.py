"""The plain-torch Wan against the host's own classes, with our pack's branch patch: same weights, same numbers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.side_branch import TOKEN_ORDERS
from mirage_core.weights import Stated
from tests.training.wan_models import SIZES, branch_model, clip, everything_matters, plain_model
from training.wan import Wan
from training.wan_memory import Lora, SideBranch, WanWithMemory

TOLERANCE = 1e-4  # float32 sums in another order move the output by 1e-5; a wrong position or time by 1e-2


@pytest.fixture(scope="module")
def plain() -> Wan:
    return plain_model()


@pytest.fixture(scope="module")
def branch() -> SideBranch:
    return branch_model()


@pytest.fixture(scope="module")
def in_host(host, plain, tmp_path_factory):
    """The same weights as a file, through the host's own loader."""
    path = tmp_path_factory.mktemp("wan") / "nano.safetensors"
    save_file(plain.state_dict(), path, metadata=SIZES.metadata())
    return host.comfy.sd.load_diffusion_model(str(path))


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    return torch.randn(1, 5, SIZES.text_dim, generator=torch.Generator().manual_seed(9))


def test_the_model_gives_what_the_hosts_gives(plain, in_host, forward, words):
    latents, times = clip(3, 0), torch.tensor([[0.0, 700.0, 312.5]])
    assert (plain(latents, times, words) - forward(in_host, latents, times, words)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("order", TOKEN_ORDERS)
@pytest.mark.parametrize(("references", "preceding"), [(0, 0), (3, 0), (0, 2), (2, 1)])
def test_branch_references_and_preceding_give_what_the_pack_gives_in_the_host(
    plain, branch, in_host, pack, forward, view_of, words, tmp_path, order, references, preceding
):  # fmt: skip
    path = tmp_path / "branch.safetensors"
    stated = Stated(layout="hole_mask", token_order=order, layers=(0, 2), heads=2, cell_rule="center")
    save_file(branch.state_dict(), path, metadata=stated.to_metadata())
    loading = pack("adapter")
    latents, times = clip(3, 0), torch.tensor([[0.0, 700.0, 312.5]])
    company = {"references": clip(references, 1), "preceding": clip(preceding, 2)}
    company = {name: given for name, given in company.items() if given.shape[2]}
    view, before = clip(3, 3)[0], clip(preceding, 4)[0]
    patched = pack("branch_patch").apply_memory(
        in_host,
        loading.Adapter(loading.load_branch(str(path))),
        view=view_of(view),
        references=company["references"][0] if references else None,
        preceding_latents=company["preceding"][0] if preceding else None,
        preceding_view=view_of(before) if preceding else None,
        strength=0.7,
    )
    expected = forward(patched, latents, times, words)
    context = torch.cat([view, before], dim=1)
    context = torch.cat([context, torch.zeros_like(context[:1])])[None]  # everything is covered: no holes
    together = WanWithMemory(plain, branch, token_order=order)
    made = together(latents, times, words, context=context, strength=0.7, **company)
    assert (made - expected).abs().max() <= TOLERANCE


def test_a_lora_gives_what_it_gives_in_the_host(plain, in_host, pack, forward, view_of, words, tmp_path):
    lora = Lora(plain, rank=4)
    everything_matters(lora, seed=5)
    path = tmp_path / "lora.safetensors"
    save_file(lora.tensors(), path)
    loading = pack("adapter")
    latents, times = clip(3, 0), torch.tensor([[0.0, 700.0, 312.5]])
    adapter = loading.Adapter(None, loading.load_lora(str(path)))
    patched = pack("branch_patch").apply_memory(in_host, adapter, view=view_of(clip(3, 3)[0]))
    without = plain(latents, times, words)
    lora.attach(plain)
    try:
        made = plain(latents, times, words)
    finally:
        lora.detach()
    assert (made - forward(patched, latents, times, words)).abs().max() <= TOLERANCE
    assert (made - without).abs().max() > 0.05
    assert torch.equal(plain(latents, times, words), without)
