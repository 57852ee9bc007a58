"""A Mirage adapter: the side branch and the LoRA, loaded by the host's own means and checked.

What the files are is decided in mirage_core.weights; how they act on a model is in branch_patch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch

from ..mirage_core.side_branch import Layout, white_pictures
from ..mirage_core.weights import BranchFile, LoraFile, branch_file, lora_file
from .host_latents import to_normalised
from .side_branch_module import build_side_branch

# pictures [frames height width 3] in [0, 1] -> normalised latents [channels frames rows columns]
Encoder = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A loaded side branch and / or LoRA.

    patcher: the host's handle on the branch's network; it loads, moves and offloads it.
    lora_tensors: tensors under the names of lora.names.
    lora_strength: the user's; 1 is the training's.
    """

    branch: BranchFile | None = None
    patcher: comfy.model_patcher.ModelPatcher | None = None
    lora: LoraFile | None = None
    lora_tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    lora_strength: float = 1.0
    _white: WeakKeyDictionary = field(default_factory=WeakKeyDictionary)

    def words(self) -> str:
        """What was found, for the user: one line per file."""
        return "\n".join(found.words() for found in (self.branch, self.lora) if found is not None)

    def white_latents(self, frames: int, size: tuple[int, int], encode: Encoder) -> torch.Tensor:
        """[channels frames rows columns] of a white video of `frames` latent frames, encoded once per length and size.

        encode: kept apart by its `vae` where it has one, so that another VAE gets its own white.
        """
        of_this_vae = self._white.setdefault(getattr(encode, "vae", encode), {})
        key = (frames, *size)
        if key not in of_this_vae:
            of_this_vae[key] = encode(white_pictures(frames, size)).cpu()
        return of_this_vae[key]


def load_branch(path: str, *, layout: Layout | None = None) -> tuple[BranchFile, comfy.model_patcher.ModelPatcher]:
    """Load a side branch the way the host loads its model patches.

    Raises ValueError, from mirage_core.weights, for a file that is not one complete side branch.
    """
    found = branch_file(path, layout=layout)
    tensors = comfy.utils.load_torch_file(path, safe_load=True)
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
    return found, patcher


def load_lora(path: str) -> tuple[LoraFile, dict[str, torch.Tensor]]:
    """Load a LoRA's tensors under normalised names.

    Raises ValueError, from mirage_core.weights, for a file that is not one complete LoRA of the model.
    """
    found = lora_file(path)
    tensors = comfy.utils.load_torch_file(path, safe_load=True)
    return found, {found.names[name]: tensor for name, tensor in tensors.items()}


def check_pair(branch: BranchFile | None, lora: LoraFile | None) -> None:
    """Raise ValueError when side branch and LoRA are made for models of different width."""
    if branch is not None and lora is not None and lora.width not in (None, branch.width):
        raise ValueError(
            f"{lora.file} is for a model {lora.width} wide, {branch.file} for one {branch.width} wide. "
            "Use a side branch and a LoRA of the same training."
        )


def vae_encoder(vae) -> Encoder:
    """An Encoder that uses the host's VAE."""

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        return to_normalised(vae.encode(pictures))

    encode.vae = vae  # Adapter.white_latents keeps one white per VAE
    return encode


def lora_patches(model, found: LoraFile, tensors: Mapping[str, torch.Tensor]) -> dict:
    """The host's weight patches for this model.

    Raises ValueError unless every module of the LoRA exists in the model with a weight of the right shape.
    """
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
