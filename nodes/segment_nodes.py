"""Generate Segment: the memory's view and the film so far in, the next 33 frames out."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy_api.latest import io

from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView
from .host_latents import to_host
from .memory_nodes import SEGMENT_VIEW
from .sampling import (
    check_model,
    log_segment,
    sample_segment,
    start_latent,
    step_callback,
    with_guidance,
    with_shift,
)
from .segment_errors import named_errors, segment_label
from .sockets import MirageMemory, MirageView


class GenerateSegment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGenerateSegment",
            display_name="Generate Segment (Wan2.2+LoRA)",
            category="Mirage",
            description="Makes the next segment of the film with Wan2.2 TI2V, so that it obeys what the memory shows.",
            search_aliases=["mirage", "wan", "sample", "ksampler", "segment", "video"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2 TI2V 5B, with any LoRA, fp8 or compile you put on it."),
                io.Conditioning.Input("positive", tooltip="What this segment shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show. Only used when cfg is not 1."),
                MirageView.Input("view", tooltip="From Project Memory."),
                MirageMemory.Input("memory", tooltip="The memory that the view was made from."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="Noise of this segment. In a loop connect seed of Segment Loop Start."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps per segment."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=30.0, step=0.1, tooltip="How strictly the prompt is followed. 1 is twice as fast and ignores negative; Mirage adapters are made for 1."),
                io.Combo.Input("sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="uni_pc", tooltip="Any sampler of the host."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", tooltip="Any scheduler of the host."),
                io.Float.Input("shift", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Flow shift: higher spends more steps on the layout, lower on detail. 0 keeps the shift MODEL has."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How strongly the covered part is pulled to the memory. 0 ignores the memory."),
                io.Float.Input("guide_until", default=0.7, min=0.0, max=1.0, step=0.01, tooltip="Share of the schedule during which the memory guides; afterwards the model is free to heal seams and light. 1 = to the end."),
            ],
            outputs=[
                io.Latent.Output(display_name="segment", tooltip="The segment, its first latent being the last one of the film so far. For VAE Decode and Write Memory."),
                io.Latent.Output(display_name="film", tooltip="The whole film so far, this segment included."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, view: MemoryView, memory: Rollout, seed, steps, cfg, sampler_name, scheduler,
        shift, strength, guide_until,
    ) -> io.NodeOutput:  # fmt: skip
        with named_errors(memory, "Generate Segment"):
            check_model(model)
            check_view(view, memory)
            label = segment_label(memory)
            model = with_shift(model, shift)
            guided = with_guidance(model, view, strength=strength, end_percent=guide_until)
            sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
            latents = sample_segment(
                guided,
                positive,
                negative,
                start_latent(memory),
                seed=seed,
                cfg=cfg,
                sampler=comfy.samplers.sampler_object(sampler_name),
                sigmas=sigmas,
                callback=step_callback(model, len(sigmas) - 1, label, shown_node_id(cls.hidden)),
            )
            log_segment(label, memory, view)
        film = torch.cat([memory.film, latents[:, 1:].to(memory.film)], dim=1)
        return io.NodeOutput({"samples": to_host(latents), SEGMENT_VIEW: view}, {"samples": to_host(film)})


def check_view(view: MemoryView, memory: Rollout) -> None:
    """Raise ValueError unless the view is one of the next segment's cameras."""
    expected = (memory.next_segment.latent_frames, *memory.size)
    if tuple(view.is_covered.shape) != expected:
        raise ValueError(
            f"The view has {view.is_covered.shape[0]} latent frames of {list(view.is_covered.shape[1:])} cells; the next "
            f"segment has {expected[0]} of {list(expected[1:])}. Connect Project Memory of the same memory, without a path."
        )


def shown_node_id(hidden) -> str | None:
    """The node on the canvas that a node stands for, also inside an unrolled loop."""
    if hidden.dynprompt is None or hidden.unique_id is None:
        return None
    return hidden.dynprompt.get_display_node_id(hidden.unique_id)
