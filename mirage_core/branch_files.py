"""Recognising side branches by their tensors' names, and refusing what does not match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from .latent_grid import WAN22, CellRule
from .side_branch import LAYOUTS, Layout, TokenOrder, layout_channels
from .weights import PREFIX, SPATIA_FILE, Shapes, Stated, natural, read_header, stated_in

# width of a model's blocks -> its name and number of layers
KNOWN_MODELS = {1536: ("Wan2.1 1.3B", 30), 3072: ("Wan2.2 TI2V 5B", 30), 5120: ("Wan 14B", 40)}
HEAD_WIDTH = 128  # of every released Wan model; the host assumes it too

_WRAPPERS = {"module", "model", "pipe", "vace", "generator", "state_dict", "diffusion_model"}
_BRANCH_NAME = re.compile(r"^(?P<prefix>(?:[a-z_]+\.)*?)(?P<name>vace_(?:blocks|patch_embedding)\..+)$")
_LAYOUT_WORDS = {
    "view": "48 view",
    "hole_mask": "48 view + 1 hole mask",
    "white_latent": "48 view + 48 white video",
    "hole_map": "48 view + 48 hole map",
}


@dataclass(frozen=True)
class BranchFile:
    """A complete side branch. names: name in the file -> name in the network."""

    file: str
    names: Mapping[str, str]
    blocks: int
    channels: int
    width: int
    ffn_width: int
    heads: int
    layout: Layout
    naming: str
    parameters: int
    stated: Stated

    @property
    def token_order(self) -> TokenOrder:
        """Order of the latent frames in the model; the release's unless the file says otherwise."""
        return self.stated.token_order or "ref_target_preceding"

    @property
    def cell_rule(self) -> CellRule:
        """Cell convention of the views it was trained on; the release's unless the file says otherwise."""
        return self.stated.cell_rule or "corner"

    def layers(self, model_width: int, model_layers: int) -> tuple[int, ...]:
        """Layers of the model that get a hint, for a model of this width and depth.

        Raises ValueError when the branch belongs to another model.
        """
        if model_width != self.width:
            raise ValueError(
                f"{self.file} is {self.width} wide and belongs to {_model_name(self.width)}; the connected model is "
                f"{model_width} wide ({_model_name(model_width)}). Load the model it was trained for."
            )
        layers = self.stated.layers or _spread(self.blocks, model_layers)
        if layers is None or layers[-1] >= model_layers:
            raise ValueError(
                f"{self.file} has {self.blocks} blocks, which do not spread evenly over the model's {model_layers} "
                "layers. A block is missing or too many, or it belongs to another model. Download it again."
            )
        return layers

    def words(self) -> str:
        """What was found, for the user."""
        known = KNOWN_MODELS.get(self.width)
        layers = self.stated.layers or (_spread(self.blocks, known[1]) if known else None)
        where = "" if layers is None else f" on layers {_layer_words(layers)}"
        parts = [
            f"side branch: {self.blocks} blocks{where}",
            f"{self.channels} channels ({_LAYOUT_WORDS[self.layout]})",
            f"for {_model_name(self.width)}",
            f"{self.naming} naming",
            f"{self.parameters / 1e6:.1f} M parameters",
            f"order {self.token_order.replace('_', ', ').replace('ref,', 'references,')}",
            f"cell rule {self.cell_rule}" + ("" if self.stated.cell_rule else " (assumed)"),
        ]
        if self.stated.resolution:
            parts.append("trained at {}x{}".format(*self.stated.resolution))
        return "; ".join(parts)


def branch_file(path: str | Path, *, layout: Layout | None = None) -> BranchFile:
    """Recognise a side branch.

    layout: what its input channels are, or None to take it from the file.
    Raises ValueError, each with its own sentence, for a file that is something else, incomplete, of an unknown layout.
    """
    shapes, metadata = read_header(path)
    file = Path(path).name
    stated = stated_in(metadata, file)
    names, prefixes = _branch_names(shapes, file)
    found = {names[key]: shape for key, shape in shapes.items()}
    embedding = found.get("vace_patch_embedding.weight")
    if embedding is None or len(embedding) != 5:
        raise ValueError(f"{file} has no vace_patch_embedding.weight ({len(found)} tensors). The file is not complete.")
    width, channels = embedding[0], embedding[1]
    blocks = _block_count(found, file)
    ffn_width = found.get("vace_blocks.0.ffn.0.weight", (0,))[0]
    _check_shapes(found, branch_shapes(blocks, channels, width, ffn_width), file)
    spatia = SPATIA_FILE.search(file) is not None
    description = BranchFile(
        file=file,
        names=names,
        blocks=blocks,
        channels=channels,
        width=width,
        ffn_width=ffn_width,
        heads=stated.heads or _heads(width, file),
        layout=_resolve_layout(
            file, channels, layout, stated.layout or ("hole_map" if spatia and channels == 96 else None)
        ),
        naming=_branch_naming(prefixes, spatia),
        parameters=sum(prod(shape) for shape in found.values()),
        stated=stated,
    )
    if width in KNOWN_MODELS:
        description.layers(width, KNOWN_MODELS[width][1])
    return description


def branch_shapes(blocks: int, channels: int, width: int, ffn_width: int) -> dict[str, tuple[int, ...]]:
    """Every tensor a side branch of these sizes has."""
    linear = {}
    for attention in ("self_attn", "cross_attn"):
        linear |= {f"{attention}.{part}": (width, width) for part in "qkvo"}
    linear |= {"ffn.0": (ffn_width, width), "ffn.2": (width, ffn_width), "after_proj": (width, width)}
    shapes: dict[str, tuple[int, ...]] = {"vace_patch_embedding.weight": (width, channels, 1, 2, 2)}
    shapes["vace_patch_embedding.bias"] = (width,)
    for block in range(blocks):
        prefix = f"vace_blocks.{block}."
        for name, shape in linear.items() if block else [*linear.items(), ("before_proj", (width, width))]:
            shapes[f"{prefix}{name}.weight"] = shape
            shapes[f"{prefix}{name}.bias"] = shape[:1]
        for attention in ("self_attn", "cross_attn"):
            shapes[f"{prefix}{attention}.norm_q.weight"] = shapes[f"{prefix}{attention}.norm_k.weight"] = (width,)
        shapes[f"{prefix}norm3.weight"] = shapes[f"{prefix}norm3.bias"] = (width,)
        shapes[f"{prefix}modulation"] = (1, 6, width)
    return shapes


def _branch_names(shapes: Shapes, file: str) -> tuple[dict[str, str], set[str]]:
    """File name -> network name for every tensor, and the prefixes seen."""
    if not shapes:
        raise ValueError(f"{file} contains no tensors. Download it again.")
    first = min(shapes, key=natural)
    if any("lora_" in name for name in shapes):
        raise ValueError(
            f"{file} has {_no_blocks(shapes)} ({len(shapes)} tensors, first: {first}); this is a LoRA: "
            "use the LoRA input."
        )
    matches = {name: _BRANCH_NAME.match(name) for name in shapes}
    odd = sorted(
        name for name, match in matches.items() if not match or not set(match["prefix"].split(".")) <= _WRAPPERS | {""}
    )
    if len(odd) == len(shapes):
        whole = any(name.endswith("head.modulation") for name in shapes)
        hint = (
            "this is a whole Wan model: use Load Diffusion Model" if whole else "it is no side branch that Mirage knows"
        )
        raise ValueError(f"{file} has {_no_blocks(shapes)} ({len(shapes)} tensors, first: {first}); {hint}.")
    if odd:
        raise ValueError(
            f"{file} has {len(odd)} tensors of {len(shapes)} that are no part of a side branch (first: {odd[0]}). "
            "Export the branch alone."
        )
    names = {name: match["name"] for name, match in matches.items() if match}
    if len(set(names.values())) != len(names):
        raise ValueError(f"{file} has some tensors twice under different prefixes. Use one export of it.")
    return names, {match["prefix"] for match in matches.values() if match}


def _no_blocks(shapes: Shapes) -> str:
    return "no vace_blocks.* tensors" if not any("vace_blocks." in name for name in shapes) else "vace_blocks.* tensors"


def _branch_naming(prefixes: set[str], spatia: bool) -> str:
    if spatia:
        return "Spatia"
    known = {"": "bare (released trainer)", "vace.": "vace.", "pipe.vace.": "pipe.vace. (trainer)"}
    if prefixes == {"diffusion_model."} or prefixes == {"model.diffusion_model."}:
        return "ComfyUI"
    return " and ".join(sorted(known.get(prefix, prefix) for prefix in prefixes))


def _block_count(found: Shapes, file: str) -> int:
    indices = {int(name.split(".")[1]) for name in found if name.startswith("vace_blocks.")}
    if not indices:
        raise ValueError(f"{file} has no vace_blocks.* tensors ({len(found)} tensors). The file is not complete.")
    gaps = sorted(set(range(max(indices) + 1)) - indices)
    if gaps:
        raise ValueError(
            f"{file} lacks block {', '.join(map(str, gaps))} of the blocks 0 to {max(indices)}. Download it again."
        )
    return len(indices)


def _check_shapes(found: Shapes, expected: Shapes, file: str) -> None:
    missing = sorted(expected.keys() - found.keys(), key=natural)
    extra = sorted(found.keys() - expected.keys(), key=natural)
    wrong = sorted((name for name in found.keys() & expected.keys() if found[name] != expected[name]), key=natural)
    matched = len(found) - len(extra) - len(wrong)
    if missing:
        raise ValueError(
            f"{file} is not complete: {len(missing)} of {len(expected)} tensors are missing (first: {missing[0]}), "
            f"{matched} match. Download it again."
        )
    if extra:
        raise ValueError(
            f"{file} has {len(extra)} tensors a side branch does not have (first: {extra[0]}); {matched} match. "
            "It belongs to another kind of model."
        )
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{file}: {len(wrong)} of {len(expected)} tensors have another shape (first: {name} is "
            f"{list(found[name])}, expected {list(expected[name])}). The file is damaged or of another kind of model."
        )


def _resolve_layout(file: str, channels: int, chosen: Layout | None, known: Layout | None) -> Layout:
    fitting: list[Layout] = [layout for layout in LAYOUTS if layout_channels(layout) == channels]
    if not fitting:
        counts = ", ".join(str(count) for count in sorted({layout_channels(layout) for layout in LAYOUTS}))
        raise ValueError(
            f"{file} takes {channels} channels; side branches for {WAN22.channels}-channel latents take {counts}."
        )
    layout = chosen or known or (fitting[0] if len(fitting) == 1 else None)
    if layout is None:
        raise ValueError(
            f"{file} takes {channels} channels and does not say what the second half is. Choose the channel layout: "
            "white video for weights of the released Mirage trainer, hole map for Spatia's."
        )
    if layout not in fitting:
        raise ValueError(
            f"{file} takes {channels} channels; the layout {_LAYOUT_WORDS[layout]!r} has {layout_channels(layout)}. "
            f"Choose {' or '.join(_LAYOUT_WORDS[one] for one in fitting)}."
        )
    return layout


def _heads(width: int, file: str) -> int:
    if width % HEAD_WIDTH:
        raise ValueError(f"{file} is {width} wide, no multiple of {HEAD_WIDTH}; its metadata must state {PREFIX}heads.")
    return width // HEAD_WIDTH


def _spread(blocks: int, layers: int) -> tuple[int, ...] | None:
    """Layers 0, s, 2s ... for so many blocks, or None when no step s gives exactly that many."""
    spread = tuple(range(0, layers, -(-layers // blocks)))
    return spread if len(spread) == blocks else None


def _model_name(width: int) -> str:
    return KNOWN_MODELS[width][0] if width in KNOWN_MODELS else f"a model {width} wide"


def _layer_words(layers: tuple[int, ...]) -> str:
    return ",".join(map(str, layers)) if len(layers) < 4 else f"{layers[0]},{layers[1]},..,{layers[-1]}"
