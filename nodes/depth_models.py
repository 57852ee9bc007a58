"""Which MoGe a geometry is from, where the packet does not say: looked up in the workflow and the model's file."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context
from safetensors import SafetensorError, safe_open

_MOGE2 = "encoder.backbone."  # how the names of its weights begin; those of MoGe 1 begin with "backbone."


def is_moge2_behind(hidden: Any, name: str) -> bool:
    """True where the running node's input `name` is from Run MoGe Inference with a file of MoGe 2.

    hidden: the node's, with dynprompt.  False also where that cannot be known: a program calls, the link goes through
    another node, or the file is no .safetensors.
    Source: ComfyUI v0.30 comfy/ldm/moge/model.py, build_from_state_dict (the host's own way to tell the two apart).
    """
    running = get_executing_context()
    if hidden is None or hidden.dynprompt is None or running is None:
        return False
    made = _linked(hidden.dynprompt, running.node_id, name, "MoGeInference")
    precise = made and _linked(hidden.dynprompt, made, "moge_model", "MirageFullPrecisionDepthModel")
    loader = made and _linked(hidden.dynprompt, precise or made, "moge_model", "LoadMoGeModel")
    model_name = loader and hidden.dynprompt.get_node(loader)["inputs"].get("model_name")
    path = folder_paths.get_full_path("geometry_estimation", model_name) if isinstance(model_name, str) else None
    return path is not None and _has_names(path, _MOGE2)


def _linked(prompt: Any, node_id: str, name: str, kind: str) -> str | None:
    """The node that input `name` of a node comes from, if it is of class `kind`."""
    link = prompt.get_node(node_id)["inputs"].get(name) if prompt.has_node(node_id) else None
    if link is None or not is_link(link) or not prompt.has_node(link[0]):
        return None
    return link[0] if prompt.get_node(link[0])["class_type"] == kind else None


def _has_names(path: str, beginning: str) -> bool:
    try:
        with safe_open(path, framework="pt") as weights:
            return any(name.startswith(beginning) for name in weights.keys())
    except SafetensorError:
        return False
