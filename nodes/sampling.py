"""One segment through the host's sampler: start latent, shift, training-free guidance, previews, progress."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_base
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from server import PromptServer

from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView
from .flow_unipc import flow_sigmas, flow_unipc_sampler
from .host_latents import to_host, to_normalised

MIRAGE_SAMPLER, MIRAGE_SCHEDULE = "mirage_unipc", "mirage"


def check_model(model) -> None:
    """Raise ValueError unless MODEL is a Wan2.2 TI2V (48 latent channels, a timestep per latent frame)."""
    base = model.model
    channels = base.latent_format.latent_channels
    if not isinstance(base, comfy.model_base.WAN22) or channels != 48:
        raise ValueError(
            f"The MODEL is a {type(base).__name__} with {channels} latent channels; Mirage films with Wan2.2 TI2V 5B "
            "(48 channels). Load wan2.2_ti2v_5B with Load Diffusion Model."
        )


def with_shift(model, shift: float):
    """A clone of MODEL with another flow shift; 0 keeps the one it has."""
    return model if shift == 0 else ModelSamplingSD3().patch(model, shift)[0]


def with_guidance(model, view: MemoryView, *, strength: float, end_percent: float):
    """A clone of MODEL whose prediction is pulled to the memory's view where the view is covered.

    After each step's prediction x0 (normalised latents): x0 <- x0 + strength * is_covered * (view - x0), until
    `end_percent` of the schedule; later steps are the model's own and heal seams. Needs no training, so it works on a
    stock Wan2.2; the trained side branch replaces it.
    """
    if strength == 0 or end_percent == 0 or not view.is_covered.any():
        return model
    guided = model.clone()
    last_sigma = model.get_model_object("model_sampling").percent_to_sigma(end_percent)
    latents, weights = view.latents[None], strength * view.is_covered[None, None].float()

    def pull(args: dict) -> torch.Tensor:
        denoised = args["denoised"]
        if float(args["sigma"].max()) < last_sigma:
            return denoised
        known, weight = latents.to(denoised), weights.to(denoised)
        return denoised + weight * (known - denoised)

    guided.set_model_sampler_post_cfg_function(pull)
    return guided


def schedule(model, sampler_name: str, scheduler: str, steps: int):
    """(SAMPLER, SIGMAS) by name; the released ones of Mirage, or the host's."""
    model_sampling = model.get_model_object("model_sampling")
    if scheduler == MIRAGE_SCHEDULE:
        sigmas = flow_sigmas(steps, model_sampling.shift)
    else:
        sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps)
    if sampler_name == MIRAGE_SAMPLER:
        return flow_unipc_sampler(), sigmas
    return comfy.samplers.sampler_object(sampler_name), sigmas


def start_latent(rollout: Rollout, *, end_latents: torch.Tensor | None = None) -> dict:
    """The LATENT a segment starts from: the newest latent kept clean, the rest to be made.

    end_latents: [channels 1 rows columns] normalised, the wanted last latent of the segment, or None.
    """
    segment, (rows, columns) = rollout.next_segment, rollout.size
    channels = rollout.grid.channels
    # What is to be made leaks into the noise at the first sigma, so it is 0 in the normalised space: neutral.
    latents = torch.zeros(channels, segment.latent_frames, rows, columns)
    is_free = torch.ones(1, 1, segment.latent_frames, rows, columns)
    latents[:, :1] = rollout.overlap
    is_free[:, :, :1] = 0
    if end_latents is not None:
        latents[:, -1:] = end_latents
        is_free[:, :, -1:] = 0
    return {"samples": to_host(latents), "noise_mask": is_free}


def step_callback(model, steps: int, label: str, node_id: str | None) -> Callable:
    """A sampler callback: preview of the newest frame, a progress bar, and one line of text on the node."""
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps, node_id=node_id)
    server = getattr(PromptServer, "instance", None)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        preview = previewer.decode_latent_to_preview_image("JPEG", x0[:, :, -1:]) if previewer else None
        if server is not None and node_id is not None:
            server.send_progress_text(f"{label}, step {step + 1}/{total}", node_id)
        bar.update_absolute(step + 1, total, preview)

    return callback


def sample_segment(
    model, positive, negative, start: dict, *, seed: int, cfg: float, sampler, sigmas: torch.Tensor, callback: Callable
) -> torch.Tensor:
    """Sample a segment. Returns normalised latents [channels frames rows columns] on the host's intermediate device.

    sigmas: never changed (some host samplers write into the tensor they get).
    Raises ValueError when the result is not finite.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, start["samples"])
    noise = comfy.sample.prepare_noise(samples, seed)
    mask = start["noise_mask"]
    made = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas.clone(), positive, negative, samples,
        noise_mask=mask, callback=callback, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    made = made.to(comfy.model_management.intermediate_device(), torch.float32)
    if not torch.isfinite(made).all():
        raise ValueError(
            "The model returned NaN or infinite latents. Use bf16 or fp32 weights, a lower cfg, or another sampler."
        )
    # Clean frames come back through the sampler's arithmetic; put the exact ones back so that segments join exactly.
    made = torch.where(mask.to(made.device) == 0, samples.to(made), made)
    return to_normalised(made)


def log_segment(label: str, rollout: Rollout, view: MemoryView) -> None:
    """One line in the log per finished segment."""
    share = float(view.is_covered.float().mean())
    logging.info("Mirage: %s made, %.0f %% of it known from %d points", label, 100 * share, rollout.memory.count)
