"""Colour Anchor: an optional step between Generate Segment and Write Memory against drifting colours."""

from __future__ import annotations

from comfy_api.latest import io

from ..mirage_core.drift import color_anchor
from ..mirage_core.rollout import Rollout
from .host_latents import to_host, to_normalised
from .memory_nodes import SEGMENT_VIEW
from .segment_errors import named_errors
from .sockets import MirageMemory, MirageView


class ColorAnchorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageColorAnchor",
            display_name="Colour Anchor",
            category="Mirage",
            description="Keeps a long film from drifting in colour and contrast: gives a segment the look of what the memory shows of it.",
            search_aliases=["mirage", "color", "colour", "drift", "match", "statistics"],
            inputs=[
                io.Latent.Input("segment", tooltip="The segment that Generate Segment made. Decode and write what comes out of this node."),
                MirageMemory.Input("memory", tooltip="The memory that the segment was made from."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="1 brings mean and spread of every latent channel fully back to the memory's, 0 changes nothing."),
                MirageView.Input("view", optional=True, tooltip="From Project Memory. Only needed for a segment that Generate Segment did not make; that one brings its view along."),
            ],
            outputs=[
                io.Latent.Output(display_name="segment", tooltip="The anchored segment; for VAE Decode and Write Memory."),
                io.String.Output(display_name="report", tooltip="How far the colours had drifted, in one line."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, segment, memory: Rollout, strength, view=None) -> io.NodeOutput:
        with named_errors(memory, "Colour Anchor"):
            view = view or segment.get(SEGMENT_VIEW) or memory.view(memory.next_segment)
            latents = to_normalised(segment["samples"], memory.grid)
            anchor = color_anchor(latents, view.latents.to(latents), view.is_covered.to(latents.device))
            anchored = anchor.apply(latents, strength=strength)
        drift = float(anchor.offsets[:, 1:].abs().mean()), float((anchor.gains[:, 1:] - 1).abs().mean())
        share = float(anchor.compared.sum()) / view.is_covered.numel()
        report = f"offsets {drift[0]:.3f} and gains {drift[1]:.1%} off on average, judged by {share:.0%} of the segment"
        if strength == 0:
            return io.NodeOutput(segment, report)
        return io.NodeOutput({**segment, "samples": to_host(anchored)}, report)
