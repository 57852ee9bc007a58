"""Conditioning for stand-in models, which come without a text encoder."""

from __future__ import annotations

import hashlib

import torch
from comfy_api.latest import io


class StandInText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageStandInText",
            display_name="Stand-in Text (tiny models)",
            category="Mirage/internal",
            description="Turns words into repeatable numbers for the tiny stand-in models. Real Wan2.2 uses CLIP Text Encode.",
            is_dev_only=True,
            inputs=[
                io.String.Input("text", default="", multiline=True, tooltip="The prompt. The same words always give the same conditioning."),
                io.Int.Input("width", default=64, min=8, max=4096, tooltip="text_dim of the stand-in model."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For Generate Segment.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, text, width) -> io.NodeOutput:
        words = text.split() or [""]
        rows = []
        for word in words:
            seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "little") >> 1
            rows.append(torch.randn(width, generator=torch.Generator().manual_seed(seed)))
        return io.NodeOutput([[torch.stack(rows)[None], {}]])
