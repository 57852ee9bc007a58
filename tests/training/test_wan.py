"""The plain-torch Wan: sizes, starting weights, gradients. Against the host: tests/host/test_wan_parity.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.branch_files import branch_file, branch_shapes
from mirage_core.weights import Stated
from tests.training.wan_models import SIZES, branch_model, clip, everything_matters, plain_model
from training.wan import Wan, WanSizes, initialised
from training.wan_memory import Lora, SideBranch, WanWithMemory


@pytest.fixture(scope="module")
def plain() -> Wan:
    return plain_model()


@pytest.fixture(scope="module")
def branch() -> SideBranch:
    return branch_model()


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    return torch.randn(1, 5, SIZES.text_dim, generator=torch.Generator().manual_seed(9))


def test_a_branch_that_was_not_trained_changes_nothing(plain, words):
    branch = SideBranch(SIZES, channels=49, layers=(0, 2))
    initialised(branch, seed=0)
    latents, times = clip(3, 0), torch.full((1, 3), 500.0)
    made = WanWithMemory(plain, branch)(latents, times, words, context=torch.randn(1, 49, 3, 4, 6))
    assert torch.equal(made, plain(latents, times, words))


def test_a_branch_that_starts_as_a_copy_still_changes_nothing(plain, words):
    branch = SideBranch(plain.sizes, channels=49, layers=(0, 1))
    initialised(branch, seed=3)
    branch.start_from(plain)
    assert torch.equal(branch.vace_blocks[1].ffn[0].weight, plain.blocks[1].ffn[0].weight)
    assert torch.equal(branch.vace_patch_embedding.weight[:, :48], plain.patch_embedding.weight)
    latents, times = torch.randn(1, 48, 3, 4, 4), torch.tensor([[0.0, 500.0, 500.0]])
    with torch.no_grad():
        made = WanWithMemory(plain, branch)(latents, times, words, context=torch.randn(1, 49, 3, 4, 4))
    assert torch.equal(made, plain(latents, times, words))


def test_checkpointed_activations_change_no_gradient(words):
    gradients = []
    for is_checkpointed in (False, True):
        model = Wan(SIZES)
        everything_matters(model)
        model.is_checkpointed = is_checkpointed
        model(clip(2, 0), torch.full((1, 2), 300.0), words).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_sizes_are_read_back_from_a_file(plain):
    shapes = {name: tuple(weight.shape) for name, weight in plain.state_dict().items()}
    assert WanSizes.of(shapes, SIZES.metadata()) == SIZES


def test_the_real_models_sizes_are_read_from_its_shapes_alone():
    real = WanSizes(dim=3072, ffn_dim=14336, heads=24, layers=30, text_dim=4096)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in Wan(real).state_dict().items()}
    assert WanSizes.of(shapes) == real


def test_another_kind_of_file_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"no patch_embedding\.weight"):
        WanSizes.of({"blocks.0.ffn.0.weight": (4, 4)})


def test_uneven_heads_are_refused():
    with pytest.raises(ValueError, match="heads"):
        WanSizes(dim=100, heads=3)


def test_a_branch_has_the_tensors_that_the_pack_expects(branch, tmp_path):
    shapes = {name: tuple(weight.shape) for name, weight in branch.state_dict().items()}
    assert shapes == branch_shapes(2, 49, SIZES.dim, SIZES.ffn_dim)
    path = tmp_path / "branch.safetensors"
    save_file(branch.state_dict(), path, metadata=Stated(layers=(0, 2), heads=2).to_metadata())
    assert SideBranch.of(branch_file(path), SIZES).layers == (0, 2)


def test_layers_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match="layers"):
        SideBranch(SIZES, channels=49, layers=(0, 3))


def test_a_lora_of_another_rank_is_refused(plain):
    with pytest.raises(ValueError, match="tensors"):
        Lora(plain, rank=2).load_tensors(Lora(plain, rank=2, parts=("q",)).tensors())
