"""Depth Model in Full Precision: lets the host's MoGe run on a processor, which cannot compute in half precision."""

from __future__ import annotations

import copy

import torch
from comfy.model_management import is_device_cpu
from comfy_api.latest import io

from .sockets import MoGeModel


class FullPrecisionDepthModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFullPrecisionDepthModel",
            display_name="Depth Model in Full Precision",
            category="Mirage",
            description="For computers without a graphics card: there ComfyUI runs MoGe in half precision, which stops "
            "with an error about Half. With a graphics card nothing changes.",
            search_aliases=["moge", "cpu", "fp32", "float32", "half", "not implemented for 'Half'"],
            inputs=[MoGeModel.Input("moge_model", tooltip="From Load MoGe Model.")],
            outputs=[MoGeModel.Output(display_name="moge_model", tooltip="The same weights, for Run MoGe Inference.")],
        )

    @classmethod
    def execute(cls, moge_model) -> io.NodeOutput:
        if not is_device_cpu(moge_model.load_device) or moge_model.dtype == torch.float32:
            return io.NodeOutput(moge_model)
        # The host casts each weight to what its input is, so the pictures alone decide. The caller's model stays.
        precise = copy.copy(moge_model)
        precise.dtype = torch.float32
        return io.NodeOutput(precise)
