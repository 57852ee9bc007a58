"""Scene Evidence: everything that speaks against remembering a pixel, asked once."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mirage_core.rollout import Rollout
from .evidence_sources import gathered_evidence
from .geometry import read_geometry
from .segment_errors import segment_label
from .sockets import DA3Geometry, MirageEvidence, MirageMemory, MirageView, MoGeGeometry
from .telling import tell


class SceneEvidence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSceneEvidence",
            display_name="Scene Evidence",
            category="Mirage",
            description="Collects once what may be sky, what may move and where depth may be wrong. Dynamic/Sky Mask is tuned on it "
            "without running anything again. Every source is optional.",
            search_aliases=["evidence", "sky", "movers", "parallax", "optical flow", "confidence", "mask scores"],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Image.Input("images", tooltip="The picture, or the frames of a segment: all of them, or those that Frames for Depth picks."),
                io.MultiType.Input("geometry", types=[MoGeGeometry, DA3Geometry], optional=True, tooltip="Depth of the same frames. Gives sky, confidence, edges and thin structures, and parallax together with memory."),
                MirageMemory.Input("memory", optional=True, tooltip="The memory that the segment was made from: its cameras tell how a still world would move. Leave it unconnected for the first picture."),
                MirageView.Input("view", optional=True, tooltip="From Project Memory. Without it a memory of the kind latent is projected here; one of the kind rgb needs it."),
                io.Latent.Input("segment", optional=True, tooltip="The segment from Generate Segment, to compare its latents with what the memory showed."),
                io.Mask.Input("sky_mask", optional=True, tooltip="White = sky, such as from SAM3 Detect with the text sky. One mask per frame, or one for all."),
                io.Mask.Input("mover_mask", optional=True, tooltip="White = moves, such as from SAM3 with the text person, or from a SAM3 video track. One mask per frame, or one for all."),
            ],
            outputs=[
                MirageEvidence.Output(display_name="evidence", tooltip="Scores per pixel and frame; connect to Dynamic/Sky Mask."),
                io.String.Output(display_name="report", tooltip="What each source found, and why others were not asked."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, geometry=None, memory: Rollout | None = None, view=None, segment=None, sky_mask=None,
        mover_mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        try:
            evidence = gathered_evidence(
                images,
                geometry=None if geometry is None else read_geometry(geometry),
                memory=memory,
                view=view,
                segment=None if segment is None else segment["samples"],
                sky_mask=sky_mask,
                mover_mask=mover_mask,
            )
        except ValueError as error:
            label = "" if memory is None else f"{segment_label(memory)}, Scene Evidence: "
            raise ValueError(f"{label}{error}") from error
        report = evidence.report()
        tell(report, cls.hidden)
        return io.NodeOutput(evidence, report, ui=ui.PreviewText(report))
