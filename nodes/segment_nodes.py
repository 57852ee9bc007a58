"""Generate Segment: the memory's view and the film so far in, the next 33 frames out."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy_api.latest import io

from ..mirage_core.between_cells import between_cells
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.zbuffer import MemoryView
from .adapter import Adapter, VaeEncoder
from .branch_patch import apply_rollout
from .host_latents import encode_picture, fit_image, to_host
from .memory_nodes import SEGMENT_VIEW
from .sampling import (
    MIRAGE_SAMPLER,
    MIRAGE_SCHEDULE,
    check_model,
    log_segment,
    sample_segment,
    schedule,
    start_latent,
    step_callback,
    with_guidance,
    with_shift,
)
from .segment_errors import named_errors, segment_label
from .sockets import MirageAdapter, MirageMemory, MirageView


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
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed, tooltip="Noise of this segment. In a loop connect seed of Segment Loop Start."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps per segment."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=30.0, step=0.1, tooltip="How strictly the prompt is followed. 1 is twice as fast and ignores negative; Mirage adapters are made for 1."),
                io.Combo.Input("sampler_name", options=[MIRAGE_SAMPLER, *comfy.samplers.SAMPLER_NAMES], default=MIRAGE_SAMPLER, tooltip="mirage_unipc is the sampler Mirage was released with; any sampler of the host works too."),
                io.Combo.Input("scheduler", options=[MIRAGE_SCHEDULE, *comfy.samplers.SCHEDULER_NAMES], default=MIRAGE_SCHEDULE, tooltip="mirage is the schedule Mirage was released with; any scheduler of the host works too."),
                io.Float.Input("shift", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Flow shift: higher spends more steps on the layout, lower on detail. Mirage is made for 5. 0 keeps the shift MODEL has."),
                io.Float.Input("strength", default=1.0, min=0.0, max=4.0, step=0.01, tooltip="How strongly the memory is obeyed. 0 ignores it. With an adapter that has a side branch: the branch's strength. Without: how far the covered part is pulled to the memory, at most 1."),
                io.Float.Input("guide_until", default=0.7, min=0.0, max=1.0, step=0.01, tooltip="Share of the schedule during which the covered part is pulled to the memory; afterwards the model is free to heal seams and light. With a side branch only where pull is above 0."),
                MirageAdapter.Input("adapter", optional=True, tooltip="From Load Mirage Adapter: a trained side branch and / or LoRA. Without it a stock Wan2.2 is guided by the memory as it is."),
                io.Vae.Input("vae", optional=True, tooltip="The Wan2.2 VAE. Needed for end_image, reference_images, and side branches that read an encoded video beside the view."),
                io.Image.Input("end_image", optional=True, tooltip="A picture the film ends on."),
                io.Combo.Input("end_image_at", options=["end of the path", "this segment"], default="end of the path", optional=True, advanced=True, tooltip="Which segment ends on end_image: the last of the path (for loops), or each segment this node makes."),
                io.Image.Input("reference_images", optional=True, tooltip="Pictures of the place or its look that go through the model beside the segment, before the references from the film. Needs an adapter trained with references."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip="Share of the sampling after which the side branch begins to act."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip="Share of the sampling after which the side branch stops."),
                io.Int.Input("references", default=4, min=0, max=8, optional=True, advanced=True, tooltip="At most this many earlier latent frames that saw the same place go through the model beside the segment. Only with an adapter."),
                io.Int.Input("preceding", default=2, min=0, max=8, optional=True, advanced=True, tooltip="This many latent frames just before the segment go through the model beside it. Only with an adapter."),
                io.Float.Input("pull", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip="With a side branch: how far the covered part is also pulled to the memory, until guide_until. 0 as Mirage was released; more helps a branch that was trained for a short time."),
                io.Boolean.Input("even_pull", default=True, optional=True, advanced=True, tooltip="Pull cells to a mix of the remembered points around their centres, so that what is remembered moves evenly with the camera. Off: to the nearest point, crisper, but it stands still and jumps from cell to cell. Only for a memory of the kind latent."),
            ],
            outputs=[
                io.Latent.Output(display_name="segment", tooltip="The segment, its first latent being the last one of the film so far. For VAE Decode and Write Memory."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, view: MemoryView, memory: Rollout, seed, steps, cfg, sampler_name, scheduler,
        shift, strength, guide_until, adapter: Adapter | None = None, vae=None, end_image=None,
        end_image_at="end of the path", reference_images=None, start_percent=0.0, end_percent=1.0, references=4,
        preceding=2, pull=0.0, even_pull=True,
    ) -> io.NodeOutput:  # fmt: skip
        with named_errors(memory, "Generate Segment"):
            check_model(model)
            check_view(view, memory)
            label = segment_label(memory)
            model = with_shift(model, shift)
            if adapter is not None:
                obeying = apply_rollout(
                    model,
                    adapter,
                    memory,
                    view=view,
                    max_references=references,
                    max_preceding=preceding,
                    strength=strength,
                    start_percent=start_percent,
                    end_percent=end_percent,
                    encode=None if vae is None else VaeEncoder(vae),
                    extra_references=_encoded(reference_images, vae, memory, "reference_images"),
                )
            else:
                obeying = model
            pulled = min(strength, 1.0) * (pull if adapter is not None and adapter.branch is not None else 1.0)
            if pulled:
                wanted = view
                if even_pull and not is_rgb(memory.memory):
                    wanted = between_cells(view, memory.memory, memory.cameras_of(memory.next_segment))
                obeying = with_guidance(obeying, wanted, strength=pulled, end_percent=guide_until)
            is_end = end_image_at == "this segment" or memory.segments_done == len(memory.plan) - 1
            end_latents = _encoded(None if end_image is None else end_image[-1:], vae, memory, "end_image")
            sampler, sigmas = schedule(model, sampler_name, scheduler, steps)
            latents = sample_segment(
                obeying,
                positive,
                negative,
                start_latent(memory, end_latents=end_latents if is_end else None),
                seed=seed,
                cfg=cfg,
                sampler=sampler,
                sigmas=sigmas,
                callback=step_callback(model, len(sigmas) - 1, label, shown_node_id(cls.hidden)),
            )
            log_segment(label, memory, view)
        return io.NodeOutput({"samples": to_host(latents), SEGMENT_VIEW: view})


def _encoded(images: torch.Tensor | None, vae, memory: Rollout, name: str) -> torch.Tensor | None:
    """Pictures as latents [channels n rows columns], each encoded by itself; None without pictures."""
    if images is None:
        return None
    if vae is None:
        raise ValueError(f"{name} has to be encoded, and no VAE is connected. Connect the Wan2.2 VAE to vae.")
    fitted = fit_image(images, memory.cameras.image_size)
    return torch.cat([encode_picture(vae, picture[None]) for picture in fitted], dim=1)


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
    if hidden is None or hidden.dynprompt is None or hidden.unique_id is None:  # called by a program
        return None
    return hidden.dynprompt.get_display_node_id(hidden.unique_id)
