"""The files of a training: the frozen base as it is, side branch and LoRA as Load Mirage Adapter reads them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mirage_core.branch_files import branch_file
from mirage_core.weights import Stated

from .run import write_weights
from .wan import Wan, WanSizes
from .wan_memory import Lora, SideBranch


def save_branch(path: Path, branch: dict[str, torch.Tensor], stated: Stated, note: dict[str, str]) -> None:
    """branch: tensors of the SideBranch.  stated: what it was trained on.  note: further metadata."""
    halved = {name: one.half() for name, one in branch.items()}
    write_weights(path, halved, {**stated.to_metadata(), **note})


def save_lora(path: Path, lora: Lora, note: dict[str, str]) -> None:
    """The LoRA's weights as they are in the module; rank and alpha are equal, so no scale is lost."""
    halved = {name: one.half() for name, one in lora.tensors().items()}
    write_weights(path, halved, {**Stated(lora_alpha=float(lora.rank)).to_metadata(), **note})


def load_branch(path: Path, sizes: WanSizes) -> SideBranch:
    """A branch for a model of these sizes, in fp32.

    Raises ValueError for a file that is no branch of such a model.
    """
    found = branch_file(path)
    branch = SideBranch.of(found, sizes)
    branch.load_state_dict({found.names[name]: one.float() for name, one in load_file(path).items()})
    return branch


def load_lora(path: Path, model: Wan) -> Lora:
    """A LoRA of this model, in fp32, not attached.

    Raises ValueError for a file of another model.
    """
    tensors = {name: one.float() for name, one in load_file(path).items()}
    ranks = {one.shape[0] for name, one in tensors.items() if name.endswith("lora_A.weight")}
    if len(ranks) != 1:
        raise ValueError(f"{path.name} has LoRA matrices of {len(ranks)} ranks; give one that this trainer wrote.")
    lora = Lora(model, rank=ranks.pop())
    lora.load_tensors(tensors)
    return lora


def load_model(path: Path, *, dtype: torch.dtype, device: torch.device) -> tuple[Wan, dict[str, str]]:
    """A frozen Wan2.2-TI2V of the file's own sizes, and its metadata. Tensors go straight to where they stay.

    Raises ValueError for a file that is no bare Wan2.2 model.
    """
    with safe_open(path, framework="pt", device=str(device)) as file:
        metadata = file.metadata() or {}
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        sizes = WanSizes.of(shapes, metadata)
        with torch.device("meta"):
            model = Wan(sizes)
        model.load_state_dict({name: file.get_tensor(name).to(dtype) for name in names}, assign=True)
    return model.requires_grad_(False), metadata
