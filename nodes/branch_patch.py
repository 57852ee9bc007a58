"""Giving a MODEL its memory: a clone with the side branch, references, preceding frames and LoRA, all as patches.

The model's own code stays untouched. Whatever other patches, LoRAs or compilers are on the MODEL stay in force.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import comfy.model_base
import torch
from comfy.patcher_extension import WrappersMP

from ..mirage_core.camera import Cameras
from ..mirage_core.references import default_voxel_size, select_references, shown_voxels
from ..mirage_core.side_branch import BranchInput, branch_context, hole_pictures, memory_frames
from .adapter import Adapter, Encoder, LoadedBranch, LoadedLora, lora_patches
from .side_branch_module import BranchPass, SideBranch

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


def reference_latents(rollout: Rollout, *, max_references: int, preceding: int) -> torch.Tensor | None:
    """[channels n rows columns] earlier latents that saw most of what the next segment sees, best first; None without.

    preceding: latent frames that go into the model anyway, before the overlap latent; they are not taken twice.
    """
    memory, film = rollout.landmarks, rollout.film
    if max_references < 1 or not memory.blocks:
        return None
    seen = shown_voxels(
        memory,
        Cameras.joined([rollout.filmed_cameras(), rollout.cameras_of(rollout.next_segment)]),
        rollout.size,
        voxel_size=default_voxel_size(memory),
    )
    count = film.shape[1]
    given_anyway = range(count - 1 - preceding, count)
    chosen = select_references(seen[count:], seen[:count], max_references=max_references, excluded=given_anyway)
    return film[:, chosen] if chosen else None


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


class MemoryInModel:
    """Wraps one call of the diffusion model. Holds nothing that changes from call to call."""

    def __init__(
        self,
        branch_input: BranchInput,
        branch: SideBranch | None,
        layers: tuple[int, ...],
        *,
        strength: float,
        sigmas: tuple[float, float],
    ):
        self._input = branch_input
        self._branch = branch
        self._layers = layers
        self._strength = strength
        self._sigmas = sigmas

    def __call__(
        self, executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs
    ):
        model, options = executor.class_obj, dict(transformer_options or {})
        tokens_per_frame = (x.shape[3] // 2) * (x.shape[4] // 2)
        run = None
        context_latents = self._input.context
        if self._branch is not None and context_latents is not None and self._is_active(options.get("sigmas")):
            frames = self._input.seen_by_branch.stop - self._input.seen_by_branch.start
            tokens = self._branch.embedded(context_latents.to(x.device), frames, x.dtype)
            run = BranchPass(self._branch, self._layers, tokens)
        positions = self._positions(model, x, options)
        existing = options.get("patches_replace", {}).get("dit", {})
        replaced = {
            ("double_block", layer): self._block(
                layer, existing.get(("double_block", layer)), positions, run, tokens_per_frame
            )
            for layer in range(len(model.blocks))
        }
        # The host shares these dicts between steps; copies keep our replacements out of the next call.
        options["patches_replace"] = {**options.get("patches_replace", {}), "dit": {**existing, **replaced}}
        self._show_target_only(options, x, tokens_per_frame)
        output = executor(
            self._input.packed(x),
            self._input.timesteps(timestep),
            context,
            clip_fea,
            time_dim_concat,
            options,
            **kwargs,
        )
        return output[:, :, self._input.target]

    def _is_active(self, sigmas) -> bool:
        if sigmas is None:
            return True
        start, end = self._sigmas
        return end <= float(sigmas[0]) <= start

    def _positions(self, model, x: torch.Tensor, options: dict) -> torch.Tensor:
        """Rotary positions [1 tokens 1 ...] of all latent frames."""
        rows, columns = x.shape[3:]
        parts = []
        for run in self._input.rope_runs:
            rope_options = options.get("rope_options") or {}
            if run.is_below:
                rope_options = {**rope_options, "shift_y": rope_options.get("shift_y", 0.0) + rows // 2}
            part = model.rope_encode(
                1 if run.is_still else run.frames,
                rows,
                columns,
                t_start=run.first_time,
                device=x.device,
                dtype=x.dtype,
                transformer_options={**options, "rope_options": rope_options},
            )
            parts.append(torch.cat([part] * run.frames, dim=1) if run.is_still else part)
        return torch.cat(parts, dim=1)

    def _block(self, layer: int, existing, positions: torch.Tensor, run: BranchPass | None, tokens_per_frame: int):
        """The replacement of one block of the model: our positions in, the branch's hint onto its output."""
        seen = self._input.seen_by_branch
        tokens = slice(seen.start * tokens_per_frame, seen.stop * tokens_per_frame)

        def block(args, extra):
            own = args["pe"][:, positions.shape[1] :]  # of tokens that others appended behind ours
            args = {**args, "pe": torch.cat([positions, own], dim=1) if own.shape[1] else positions}
            out = existing(args, extra) if existing is not None else extra["original_block"](args)
            if run is None or not run.has_layer(layer):
                return out
            hint = run.hint(
                layer,
                args["img"][:, tokens],
                e=args["vec"][:, seen],
                freqs=positions[:, tokens],
                context=args["txt"],
                transformer_options=_without_patches(args["transformer_options"]),
            )
            image = out["img"]
            image[:, tokens] += hint * self._strength
            return {**out, "img": image}

        return block

    def _show_target_only(self, options: dict, x: torch.Tensor, tokens_per_frame: int) -> None:
        """Patches that run behind a block were made for the video alone: show them its tokens and latents only."""
        patches = options.get("patches", {})
        if "double_block" not in patches or self._input.frames == self._input.target_frames:
            return
        target = self._input.target

        def narrowed(patch):
            def call(args):
                seen = {**args, "x": x, "img_offset": args.get("img_offset", 0) + target.start * tokens_per_frame}
                seen["vec"] = args["vec"][:, target] if args["vec"].ndim > 2 else args["vec"]
                return patch(seen)

            return call

        options["patches"] = {**patches, "double_block": [narrowed(patch) for patch in patches["double_block"]]}


def _without_patches(options: dict) -> dict:
    """Patches are made for the model's blocks, not for the branch's; attention backends and the like stay."""
    return {**options, "patches": {}, "patches_replace": {}}
