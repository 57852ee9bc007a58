"""Giving a MODEL its memory: a clone with the side branch, references, preceding frames and LoRA, all as patches.

The model's own code stays untouched. Whatever other patches, LoRAs or compilers are on the MODEL stay in force.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import comfy.model_base
import torch
from comfy.patcher_extension import WrappersMP

from ..mirage_core.camera import Cameras
from ..mirage_core.references import default_voxel_size, select_references, shown_voxels
from ..mirage_core.side_branch import BranchInput, branch_context, hole_pictures, memory_frames
from .adapter import Adapter, Encoder, LoadedBranch, LoadedLora, lora_patches
from .memory_in_model import MemoryInModel

if TYPE_CHECKING:
    from ..mirage_core.rollout import Rollout
    from ..mirage_core.zbuffer import MemoryView

_KEY = "mirage"


def apply_memory(
    model,
    adapter: Adapter | None,
    *,
    view: MemoryView,
    references: torch.Tensor | None = None,
    preceding_latents: torch.Tensor | None = None,
    preceding_view: MemoryView | None = None,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    encode: Encoder | None = None,
    hole_map: torch.Tensor | None = None,
):
    """A clone of `model` that sees the memory while it samples one segment.

    adapter: side branch and / or LoRA; None for neither.
    view: what the memory shows to the cameras of the segment's latent frames, the overlap included.
    references: [channels R rows columns] clean latents of earlier frames of the same place, best first.
    preceding_latents: [channels P rows columns] clean latents just before the segment; preceding_view: what the memory
        showed to them. All latents are normalised.
    strength: of the branch; 0 gives the model without branch, references and preceding frames, bit for bit.
    start_percent, end_percent: share of sampling, in [0, 1], between which the branch acts. References and preceding
        frames stay throughout.
    encode: pictures -> normalised latents, for branches that read an encoded video beside the view.
    hole_map: [channels frames rows columns] an already encoded hole map, for branches that read one; without it the
        view's own is taken, and else one is drawn from what the view covers and encoded.

    Spatia's LoRA was trained to continue and acts only beside references or preceding frames; any other acts always.

    Raises ValueError for a model, adapter or latents that do not belong together.
    """
    check_model(model)
    patched = model.clone()
    is_continued = references is not None or preceding_latents is not None
    if adapter is not None and adapter.lora is not None and (is_continued or not adapter.lora.file.only_continues):
        _add_lora(patched, adapter.lora, adapter.lora_strength * adapter.lora.file.strength)
    if strength == 0:
        return patched
    branch = None if adapter is None else adapter.branch
    context = None
    if branch is not None:
        context = _context(branch, view, preceding_view, encode, hole_map)
    branch_input = BranchInput(
        target_frames=view.latents.shape[1],
        context=context,
        references=references,
        preceding=preceding_latents,
        token_order="ref_target_preceding" if branch is None else branch.file.token_order,
    )
    if context is None and branch_input.frames == branch_input.target_frames:
        return patched
    _check_size(view)
    _add_wrappers(patched, branch, branch_input, strength, start_percent, end_percent)
    return patched


def apply_rollout(
    model,
    adapter: Adapter | None,
    rollout: Rollout,
    *,
    view: MemoryView,
    max_references: int = 4,
    max_preceding: int = 2,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    encode: Encoder | None = None,
    extra_references: torch.Tensor | None = None,
):
    """apply_memory for the next segment of a film: references and preceding frames are taken from the film so far.

    extra_references: [channels n rows columns] latents that the user chose; they go before those of the film.
    Without an adapter both stay away: a stock model has not learned to read them.
    Raises ValueError as apply_memory.
    """
    references, preceding = None, None
    if adapter is not None and adapter.branch is not None:
        _tell_cell_rule(adapter.branch.file.cell_rule, rollout)
    if adapter is not None and strength != 0:
        preceding = rollout.preceding(max_preceding)
        references = reference_latents(
            rollout, max_references=max_references, preceding=0 if preceding is None else preceding[0].shape[1]
        )
        chosen = [latents for latents in (extra_references, references) if latents is not None]
        references = torch.cat(chosen, dim=1) if chosen else None
    return apply_memory(
        model,
        adapter,
        view=view,
        references=references,
        preceding_latents=None if preceding is None else preceding[0],
        preceding_view=None if preceding is None else preceding[1],
        strength=strength,
        start_percent=start_percent,
        end_percent=end_percent,
        encode=encode,
    )


def _tell_cell_rule(trained: str, rollout: Rollout) -> None:
    """Half a cell off is no error, only a slightly shifted memory: say it and go on."""
    used = rollout.memory.grid.cell_rule
    if trained != used:
        logging.warning(
            "Mirage: the side branch was trained with cell rule %s, and the memory uses %s. Set cell_rule of Init "
            "Latent Memory to %s for the best fit.", trained, used, trained,
        )  # fmt: skip


def reference_latents(rollout: Rollout, *, max_references: int, preceding: int) -> torch.Tensor | None:
    """[channels n rows columns] earlier latents that saw most of what the next segment sees, best first; None without.

    preceding: latent frames that go into the model anyway, before the overlap latent; they are not taken twice.
    """
    memory = rollout.landmarks
    if max_references < 1 or not memory.blocks:
        return None
    seen = shown_voxels(
        memory,
        Cameras.joined([rollout.filmed_cameras(), rollout.cameras_of(rollout.next_segment)]),
        rollout.size,
        voxel_size=default_voxel_size(memory),
    )
    count = rollout.filmed_latents
    given_anyway = range(count - 1 - preceding, count)
    chosen = select_references(seen[count:], seen[:count], max_references=max_references, excluded=given_anyway)
    return rollout.latent_frames(chosen) if chosen else None


def check_model(model) -> None:
    """Raise ValueError unless this is a MODEL whose latent frames can have timesteps of their own."""
    inner = model.model
    if not isinstance(inner, comfy.model_base.WAN22):
        raise ValueError(
            f"The connected model is {type(inner).__name__} with {inner.latent_format.latent_channels}-channel "
            "latents; Mirage films with Wan2.2 TI2V 5B (48 channels). Load that one."
        )


def _check_size(view: MemoryView) -> None:
    rows, columns = view.latents.shape[2:]
    if rows % 2 or columns % 2:
        raise ValueError(
            f"The view is {columns}x{rows} latent cells; the model works on 2x2 cells at once. "
            "Use a picture whose width and height are multiples of 32."
        )


def _context(
    branch: LoadedBranch,
    view: MemoryView,
    preceding_view: MemoryView | None,
    encode: Encoder | None,
    hole_map: torch.Tensor | None,
) -> torch.Tensor:
    """What the branch reads: the views of the target and then of the preceding frames, in the branch's layout."""
    views = [view] if preceding_view is None else [view, preceding_view]
    latents = torch.cat([one.latents for one in views], dim=1)
    is_covered = torch.cat([one.is_covered for one in views])
    layout = branch.file.layout
    second = None
    if layout == "white_latent" and encode is not None:
        second = branch.white_latents(latents.shape[1], (latents.shape[2], latents.shape[3]), encode)
    elif layout == "hole_map":
        maps = [one.hole_latents for one in views if one.hole_latents is not None]
        second = hole_map
        if second is None and len(maps) == len(views):
            second = torch.cat(maps, dim=1)
        if second is None and encode is not None:
            second = torch.cat([encode(hole_pictures(one.is_covered)).to(latents) for one in views], dim=1)
    return branch_context(latents, is_covered, layout, second)


def _add_lora(patched, lora: LoadedLora, strength: float) -> None:
    if strength == 0:
        return
    base = patched.patches_uuid
    patched.add_patches(lora_patches(patched, lora), strength)
    # The host patches weights anew whenever this id changes; the same LoRA on the same model must not, per segment.
    patched.patches_uuid = uuid.uuid5(base, f"{lora.identity} {strength}")


def _add_wrappers(
    patched,
    branch: LoadedBranch | None,
    branch_input: BranchInput,
    strength: float,
    start_percent: float,
    end_percent: float,
) -> None:
    network = patched.get_model_object("diffusion_model")
    module, layers = None, ()
    if branch is not None:
        layers = branch.file.layers(network.dim, len(network.blocks))
        module = branch.patcher.model
        if module.heads != network.num_heads:
            raise ValueError(
                f"{branch.file.file} has {module.heads} attention heads, the connected model {network.num_heads}. "
                "Load the model it was trained for."
            )
        patched.set_additional_models(_KEY, [branch.patcher])
    sampling = patched.get_model_object("model_sampling")
    memory = MemoryInModel(
        branch_input,
        module,
        layers,
        strength=strength,
        sigmas=(sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent)),
    )
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, _KEY, memory)
    frames = memory_frames(branch_input, network.dim, network.ffn_dim)
    _add_memory_estimate(patched, branch_input.target_frames, frames)


def _add_memory_estimate(patched, target_frames: int, frames: int) -> None:
    """Let the host reckon with `frames` latent frames where it sees only the segment's own."""

    def widened(shape):
        shape = list(shape)
        if len(shape) == 5 and shape[2] == target_frames:
            shape[2] = frames
        return shape

    def prepare_sampling(executor, model, noise_shape, *args, **kwargs):
        return executor(model, widened(noise_shape), *args, **kwargs)

    plain = patched.get_model_object("memory_required")

    def memory_required(input_shape, *args, **kwargs):
        return plain(widened(input_shape), *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, _KEY, prepare_sampling)
    # The wrapper above serves the loading of the model; this one the decision how many prompts run as one batch.
    patched.add_object_patch("memory_required", memory_required)
