"""Load Mirage Adapter, Apply Mirage Memory, Mirage Sampler: the trained parts, for any sampling graph."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import io, ui

from ..mirage_core.rollout import Rollout
from ..mirage_core.side_branch import Layout
from ..mirage_core.zbuffer import MemoryView
from .adapter import Adapter, VaeEncoder, load_branch, load_lora
from .branch_patch import apply_rollout
from .flow_unipc import flow_sigmas, flow_unipc_sampler
from .sockets import MirageAdapter, MirageMemory, MirageView
from .telling import tell

_FOLDER = "mirage"
_NONE = "none"
_LORAS = "loras/"  # marks a file of models/loras in the list of LoRAs
_LAYOUTS: dict[str, Layout | None] = {
    "from the file": None,
    "view (48)": "view",
    "view + hole mask (49)": "hole_mask",
    "view + white video (96)": "white_latent",
    "view + hole map (96)": "hole_map",
}


def register_model_folder() -> None:
    """Make models/mirage known to the host; it and every path the user adds to it lists .safetensors files only."""
    folder = os.path.join(folder_paths.models_dir, _FOLDER)
    folder_paths.add_model_folder_path(_FOLDER, folder, is_default=True)
    paths, _ = folder_paths.folder_names_and_paths[_FOLDER]
    # The helper alone registers no extensions, which lists every file.
    folder_paths.folder_names_and_paths[_FOLDER] = (paths, {".safetensors"})


def _lora_path(name: str) -> str:
    folder = "loras" if name.startswith(_LORAS) else _FOLDER
    return folder_paths.get_full_path_or_raise(folder, name.removeprefix(_LORAS) if folder == "loras" else name)


class LoadMirageAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list(_FOLDER)
        loras = [name for name in folder_paths.get_filename_list("loras") if name.endswith(".safetensors")]
        return io.Schema(
            node_id="MirageLoadAdapter",
            display_name="Load Mirage Adapter",
            category="Mirage",
            description=(
                "Loads the side branch and the LoRA that make Wan2.2 obey the memory, and says what it found in the "
                "files."
            ),
            search_aliases=["mirage", "spatia", "vace", "control", "side branch", "lora", "checkpoint"],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Combo.Input(
                    "side_branch",
                    options=[_NONE, *files],
                    tooltip=(
                        "Weights of the side branch, from models/mirage: Mirage's, Spatia's control_weight_*, or your "
                        "own. Recognised by content; .safetensors only."
                    ),
                ),
                io.Combo.Input(
                    "lora",
                    options=[_NONE, *files, *(_LORAS + name for name in loras)],
                    tooltip=(
                        "The LoRA that belongs to the side branch, from models/mirage or models/loras. Names of every "
                        "known trainer are understood; every tensor must match."
                    ),
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip=(
                        "Multiplies the LoRA. 1 is what it was trained for; 0.5 for rank 64 trained with alpha 32 and "
                        "exported without it."
                    ),
                ),
                io.Combo.Input(
                    "channel_layout",
                    options=list(_LAYOUTS),
                    default="from the file",
                    advanced=True,
                    tooltip=(
                        "What the side branch reads beside the 48 channels of the memory's view. Only needed for a "
                        "file with 96 channels that does not say it: white video for the released Mirage trainer, hole"
                        " map for Spatia."
                    ),
                ),
            ],
            outputs=[
                MirageAdapter.Output(
                    display_name="adapter", tooltip="Connect to Generate Segment or Apply Mirage Memory."
                ),
                io.String.Output(display_name="report", tooltip="What was found in the files, in words."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, side_branch, lora, lora_strength, channel_layout):
        paths = [] if side_branch == _NONE else [folder_paths.get_full_path_or_raise(_FOLDER, side_branch)]
        paths += [] if lora == _NONE else [_lora_path(lora)]
        stamps = [(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in paths]
        return [*stamps, lora_strength, channel_layout]

    @classmethod
    def execute(cls, side_branch, lora, lora_strength, channel_layout="from the file") -> io.NodeOutput:
        if side_branch == _NONE and lora == _NONE:
            raise ValueError(
                "Neither a side branch nor a LoRA is chosen. Put the .safetensors files into models/mirage and "
                "choose them, "
                "or leave the adapter of Generate Segment unconnected."
            )
        branch = weights = None
        if side_branch != _NONE:
            path = folder_paths.get_full_path_or_raise(_FOLDER, side_branch)
            branch = load_branch(path, layout=_LAYOUTS[channel_layout])
        if lora != _NONE:
            weights = load_lora(_lora_path(lora))
        adapter = Adapter(branch, weights, lora_strength)
        tell(adapter.words(), cls.hidden)
        return io.NodeOutput(adapter, adapter.words(), ui=ui.PreviewText(adapter.words()))


class ApplyMirageMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageApplyMemory",
            display_name="Apply Mirage Memory",
            category="Mirage",
            description=(
                "Gives a MODEL that obeys the memory while it samples the next segment, for your own sampling graph."
            ),
            search_aliases=["mirage", "memory", "patch model", "control"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "Wan2.2 TI2V 5B, with any LoRA, fp8 or compile you put on it. It is not changed: a patched "
                        "copy comes out."
                    ),
                ),
                MirageAdapter.Input("adapter", tooltip="From Load Mirage Adapter."),
                MirageView.Input("view", tooltip="From Project Memory, made from the same memory."),
                MirageMemory.Input(
                    "memory", tooltip="The film so far: references and preceding frames are taken from it."
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "The Wan2.2 VAE. Needed by side branches that read an encoded white video or hole map beside "
                        "the view; encoded once per size."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip=(
                        "How strongly the side branch acts. 0 turns branch, references and preceding frames off; a LoRA of the "
                        "adapter stays."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the sampling after which the side branch begins to act.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=(
                        "Share of the sampling after which the side branch stops. References and preceding frames stay."
                    ),
                ),
                io.Int.Input(
                    "references",
                    default=4,
                    min=0,
                    max=8,
                    advanced=True,
                    tooltip=(
                        "At most this many earlier latent frames that saw the same place go through the model beside "
                        "the segment. More cost time and memory."
                    ),
                ),
                io.Int.Input(
                    "preceding",
                    default=2,
                    min=0,
                    max=8,
                    advanced=True,
                    tooltip="This many latent frames just before the segment go through the model beside it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip=(
                        "For one segment: its latent must have the view's length and size, with the first frame masked"
                        " clean."
                    )
                )
            ],
        )

    @classmethod
    def execute(
        cls, model, adapter: Adapter, view: MemoryView, memory: Rollout, vae=None, strength=1.0, start_percent=0.0,
        end_percent=1.0, references=4, preceding=2,
    ) -> io.NodeOutput:  # fmt: skip
        patched = apply_rollout(
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
        )
        return io.NodeOutput(patched)


class FlowUniPCSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFlowUniPC",
            display_name="Mirage Sampler",
            category="Mirage",
            description="The sampler and schedule Mirage was released with: flow UniPC of order 2.",
            search_aliases=["mirage", "unipc", "uni_pc", "sampler", "sigmas", "flow"],
            inputs=[
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Sampling steps: 20 in the release, 40 in the paper."
                ),
                io.Float.Input(
                    "shift",
                    default=5.0,
                    min=0.1,
                    max=100.0,
                    step=0.1,
                    tooltip=(
                        "Flow shift: higher spends more steps on the layout, lower on detail. Mirage is made for 5."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(tooltip="For Sampler Custom Advanced, together with these sigmas."),
                io.Sigmas.Output(tooltip="Noise levels from nearly 1 to 0."),
            ],
        )

    @classmethod
    def execute(cls, steps, shift) -> io.NodeOutput:
        return io.NodeOutput(flow_unipc_sampler(), flow_sigmas(steps, shift))
