"""A Mirage adapter: the side branch and the LoRA, loaded by the host's own means and checked.

What the files are is decided in mirage_core.branch_files and lora_files; how they act on a model is in branch_patch.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch

from ..mirage_core.branch_files import BranchFile, branch_file
from ..mirage_core.lora_files import LoraFile, lora_file
from ..mirage_core.side_branch import Layout, white_pictures
from .host_latents import to_normalised
from .side_branch_module import build_side_branch

# pictures [frames height width 3] in [0, 1] -> normalised latents [channels frames rows columns]
Encoder = Callable[[torch.Tensor], torch.Tensor]


class VaeEncoder:
    """An Encoder that uses the host's VAE."""

    def __init__(self, vae):
        self.vae = vae  # LoadedBranch.white_latents keeps one white per VAE

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return to_normalised(self.vae.encode(pictures))


# Branches that some Adapter still holds: another LoRA strength must not read gigabytes again.
_LOADED: WeakValueDictionary = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class LoadedBranch:
    """A side branch in the host's hands. patcher: loads, moves and offloads its network, a SideBranch."""

    file: BranchFile
    patcher: comfy.model_patcher.ModelPatcher
    _white: WeakKeyDictionary = field(default_factory=WeakKeyDictionary)

    def white_latents(self, frames: int, size: tuple[int, int], encode: Encoder) -> torch.Tensor:
        """[channels frames rows columns] of a white video of `frames` latent frames, encoded once per length and size.

        encode: kept apart by its `vae` where it has one, so that another VAE gets its own white.
        """
        of_this_vae = self._white.setdefault(getattr(encode, "vae", encode), {})
        key = (frames, *size)
        if key not in of_this_vae:
            of_this_vae[key] = encode(white_pictures(frames, size)).cpu()
        return of_this_vae[key]


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA's tensors under the names that mirage_core.lora_files gives them. identity: differs for every loading."""

    file: LoraFile
    tensors: Mapping[str, torch.Tensor]
    identity: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A side branch, a LoRA, or both. lora_strength: the user's; 1 is the training's.

    Raises ValueError when the two are made for models of different width.
    """

    branch: LoadedBranch | None = None
    lora: LoadedLora | None = None
    lora_strength: float = 1.0

    def __post_init__(self) -> None:
        if self.branch is None or self.lora is None or self.lora.file.width in (None, self.branch.file.width):
            return
        raise ValueError(
            f"{self.lora.file.file} is for a model {self.lora.file.width} wide, {self.branch.file.file} for one "
            f"{self.branch.file.width} wide. Use a side branch and a LoRA of the same training."
        )

    def words(self) -> str:
        """What was found, for the user: one line per file."""
        return "\n".join(loaded.file.words() for loaded in (self.branch, self.lora) if loaded is not None)


def load_branch(path: str, *, layout: Layout | None = None) -> LoadedBranch:
    """Load a side branch the way the host loads its model patches.

    Raises ValueError, from mirage_core.branch_files, for a file that is not one complete side branch.
    """
    found = branch_file(path, layout=layout)
    stamp = (path, os.stat(path).st_mtime_ns, os.stat(path).st_size)
    if (loaded := _LOADED.get(stamp)) is not None:
        return LoadedBranch(found, loaded)
    tensors = cast(dict[str, torch.Tensor], comfy.utils.load_torch_file(path, safe_load=True))
    _check_finite(tensors, found.file)
    weights = {found.names[name]: tensor for name, tensor in tensors.items()}
    offload_device = comfy.model_management.unet_offload_device()
    network = build_side_branch(
        found, comfy.ops.manual_cast, device=offload_device, dtype=comfy.utils.weight_dtype(weights)
    )
    # main.py replaces CoreModelPatcher at start-up: it has to be looked up now, not at import.
    patcher = comfy.model_patcher.CoreModelPatcher(
        network, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )
    network.load_state_dict(weights, strict=True, assign=patcher.is_dynamic())
    network.requires_grad_(False).eval()
    _LOADED[stamp] = patcher
    return LoadedBranch(found, patcher)


def load_lora(path: str) -> LoadedLora:
    """Load a LoRA's tensors under normalised names.

    Raises ValueError, from mirage_core.lora_files, for a file that is not one complete LoRA of the model.
    """
    found = lora_file(path)
    tensors = cast(dict[str, torch.Tensor], comfy.utils.load_torch_file(path, safe_load=True))
    _check_finite(tensors, found.file)
    return LoadedLora(found, {found.names[name]: tensor for name, tensor in tensors.items()})


def _check_finite(tensors: Mapping[str, torch.Tensor], file: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1 and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{file} contains NaN or infinite values in {name}: the film would be black. Get it again."
            )


def lora_patches(model, lora: LoadedLora) -> dict:
    """The host's weight patches for this model.

    Raises ValueError unless every module of the LoRA exists in the model with a weight of the right shape.
    """
    found, tensors = lora.file, lora.tensors
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = model.model.state_dict()
    absent = [module for module in found.modules if f"diffusion_model.{module}" not in known]
    if absent:
        raise ValueError(
            f"{found.file}: {len(absent)} of {len(found.modules)} modules are not in the connected model (first: "
            f"{absent[0]}). Load the model it was trained for."
        )
    for module in found.modules:
        expected = tuple(weights[known[f"diffusion_model.{module}"]].shape)
        given = (tensors[f"{module}.lora_B.weight"].shape[0], tensors[f"{module}.lora_A.weight"].shape[1])
        if expected != given:
            raise ValueError(
                f"{found.file} changes {module} as a {given[0]}x{given[1]} weight; the connected model's is "
                f"{expected[0]}x{expected[1]}. Load the model it was trained for."
            )
    named = {f"diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    return comfy.lora.load_lora(named, known)
