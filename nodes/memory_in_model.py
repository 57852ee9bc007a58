"""One call of the diffusion model with memory: what goes along, where it sits, and the branch beside its blocks.

Host objects in and out; the rules are in mirage_core.side_branch, the network is in side_branch_module.py.
"""

from __future__ import annotations

import torch

from ..mirage_core.side_branch import BranchInput
from .side_branch_module import BranchPass, SideBranch


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
