"""Which file is this: recognising side branches and LoRAs by their tensors' names, and refusing what does not match.

Only headers are read here (safetensors only: nothing is unpickled); loading the tensors is the host's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError, safe_open

from .latent_grid import WAN22, CellRule
from .side_branch import LAYOUTS, TOKEN_ORDERS, Layout, TokenOrder, layout_channels

# width of a model's blocks -> its name and number of layers
KNOWN_MODELS = {1536: ("Wan2.1 1.3B", 30), 3072: ("Wan2.2 TI2V 5B", 30), 5120: ("Wan 14B", 40)}
HEAD_WIDTH = 128  # of every released Wan model; the host assumes it too

_PREFIX = "mirage."
_WRAPPERS = {"module", "model", "pipe", "vace", "generator", "state_dict", "diffusion_model"}
_BRANCH_NAME = re.compile(r"^(?P<prefix>(?:[a-z_]+\.)*?)(?P<name>vace_(?:blocks|patch_embedding)\..+)$")
# microsoft/LatentSpatialMemory@b2cd738, mirage_pipeline.py lines 1085-1135; the last two: the host's
_LORA_PREFIXES = (
    "module.",
    "model.",
    "pipe.dit.",
    "dit.",
    "base_model.model.",
    "base_model.",
    "diffusion_model.",
    "lora_unet_",
)
_LORA_PARTS = {
    "lora_A": "lora_A.weight",
    "lora_down": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_up": "lora_B.weight",
}
# Spatia's tensors have the released trainer's names; only its files' names tell them apart.
_SPATIA_FILE = re.compile(r"control_weight|lora_weights_\d|spatia", re.IGNORECASE)
_KOHYA_NAME = re.compile(r"^blocks_(\d+)_(self_attn|cross_attn|ffn)_(\w+)$")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stated:
    """What a file's metadata says about its training; None where it says nothing.

    resolution: (height, width) in pixels.  lora_alpha: what the trainer scaled by, for files without alpha tensors.
    trained_turn_degrees, trained_speed: the largest camera moves of the training, per pixel frame (preflight.py).
    """

    layout: Layout | None = None
    cell_rule: CellRule | None = None
    token_order: TokenOrder | None = None
    resolution: tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None
    heads: int | None = None
    lora_alpha: float | None = None
    trained_turn_degrees: float | None = None
    trained_speed: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """safetensors metadata; the inverse of stated_in."""
        entries = {
            "layout": self.layout,
            "cell_rule": self.cell_rule,
            "token_order": self.token_order,
            "resolution": None if self.resolution is None else "x".join(map(str, self.resolution)),
            "layers": None if self.layers is None else ",".join(map(str, self.layers)),
            "heads": self.heads,
            "lora_alpha": self.lora_alpha,
            "trained_turn_degrees": self.trained_turn_degrees,
            "trained_speed": self.trained_speed,
        }
        return {_PREFIX + name: str(value) for name, value in entries.items() if value is not None}


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


@dataclass(frozen=True)
class LoraFile:
    """A complete LoRA for the model. names: name in the file -> `<module>.lora_A.weight`, .lora_B.weight, .alpha."""

    file: str
    names: Mapping[str, str]
    modules: tuple[str, ...]
    ranks: tuple[int, ...]
    has_alpha: bool
    width: int | None
    naming: str
    stated: Stated

    @property
    def only_continues(self) -> bool:
        """True for Spatia's LoRA, which is not applied to the first segment.

        Source: ZhaoJingjing713/Spatia@10ba7a0, inference.py generate_video: unload_lora in the first round.
        """
        return self.naming == "Spatia"

    @property
    def strength(self) -> float:
        """What to multiply the user's strength by: alpha / rank where only the metadata has the alpha, else 1."""
        if self.has_alpha or self.stated.lora_alpha is None:
            return 1.0
        return self.stated.lora_alpha / self.ranks[0]

    def words(self) -> str:
        """What was found, for the user."""
        kinds = sorted(
            {module.split(".")[-1] if "attn" in module else module.split(".", 2)[-1] for module in self.modules}
        )
        blocks = {module.split(".")[1] for module in self.modules if module.startswith("blocks.")}
        alpha = "alpha in the file" if self.has_alpha else "no alpha"
        return "; ".join(
            [
                f"LoRA: rank {', '.join(map(str, self.ranks))} on {', '.join(kinds)} of {len(blocks)} blocks",
                f"{len(self.modules)} modules",
                f"{alpha}, applied at {self.strength:g} x strength" if not self.has_alpha else alpha,
                f"{self.naming} naming",
                *(["acts from the second segment on"] if self.only_continues else []),
            ]
        )


_LAYOUT_WORDS = {
    "view": "48 view",
    "hole_mask": "48 view + 1 hole mask",
    "white_latent": "48 view + 48 white video",
    "hole_map": "48 view + 48 hole map",
}


def read_header(path: str | Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Names and shapes of the tensors of a safetensors file, and its metadata. No tensor is loaded.

    Raises ValueError for an empty file, a pickle, a broken or truncated file.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path.name} is empty (0 bytes): the download stopped before it began. Download it again.")
    # A header may be as long as these letters say; no file is as long as a pickle's or an archive's first eight are.
    is_cut = int.from_bytes(start, "little") > path.stat().st_size
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and is_cut:
        raise ValueError(
            f"{path.name} is a PyTorch pickle under a .safetensors name. Pickles can run code, so it is not opened. "
            "Get the .safetensors version, or convert it with a tool you trust."
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            return shapes, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a whole safetensors file ({error}). Download it again.") from error


def stated_in(metadata: Mapping[str, str], file: str) -> Stated:
    """Mirage's own entries of a file's metadata.

    Raises ValueError for an entry with an unknown value: another version wrote it, and guessing would ruin the film.
    """
    entries = {name[len(_PREFIX) :]: value for name, value in metadata.items() if name.startswith(_PREFIX)}
    choices = {"layout": LAYOUTS, "token_order": TOKEN_ORDERS, "cell_rule": get_args(CellRule)}
    readers = {
        **{name: (lambda value, known=known: known[known.index(value)]) for name, known in choices.items()},
        "resolution": lambda value: tuple(int(part) for part in value.split("x", 1)),
        "layers": lambda value: tuple(int(part) for part in value.split(",")),
        "heads": int,
        "lora_alpha": _positive,
        "trained_turn_degrees": _positive,
        "trained_speed": _positive,
    }
    values = {}
    for name, value in entries.items():
        if name not in readers:
            continue
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            known = f"; known values: {', '.join(choices[name])}" if name in choices else ""
            raise ValueError(
                f"{file} states {_PREFIX}{name} = {value[:60]!r}, which this version cannot read{known}. Update Mirage."
            ) from error
    return Stated(**values)


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not above 0")
    return number


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
    spatia = _SPATIA_FILE.search(file) is not None
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


def lora_file(path: str | Path) -> LoraFile:
    """Recognise a LoRA for the model.

    Raises ValueError, each with its own sentence, for a file that is something else, or not complete.
    """
    shapes, metadata = read_header(path)
    file = Path(path).name
    names, naming = _lora_names(shapes, file)
    found = {names[key]: shape for key, shape in shapes.items()}
    if len(found) != len(names):
        raise ValueError(
            f"{file} has {len(names) - len(found)} LoRA tensors twice under different names. Use one export of it."
        )
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in found if ".lora_" in name}, key=_natural)
    pairs = [(found.get(f"{module}.lora_A.weight"), found.get(f"{module}.lora_B.weight")) for module in modules]
    halves = [module for module, (down, up) in zip(modules, pairs, strict=True) if down is None or up is None]
    alone = [name for name in found if name.endswith(".alpha") and name[: -len(".alpha")] not in modules]
    if halves or alone:
        first = halves[0] if halves else alone[0]
        raise ValueError(
            f"{file} is half a LoRA: {len(halves) + len(alone)} of {len(modules)} modules lack lora_A or lora_B "
            f"(first: {first}). Download it again."
        )
    for module, (down, up) in zip(modules, pairs, strict=True):
        if down is None or up is None or down[0] != up[1]:
            raise ValueError(
                f"{file}: lora_A {down} and lora_B {up} of {module} do not fit together. The file is damaged."
            )
    widths = {
        down[1] for module, (down, _) in zip(modules, pairs, strict=True) if down and module.endswith("self_attn.q")
    }
    return LoraFile(
        file=file,
        names=names,
        modules=tuple(modules),
        ranks=tuple(sorted({down[0] for down, _ in pairs if down})),
        has_alpha=any(name.endswith(".alpha") for name in found),
        width=widths.pop() if len(widths) == 1 else None,
        naming="Spatia" if _SPATIA_FILE.search(file) else naming,
        stated=stated_in(metadata, file),
    )


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
    first = min(shapes, key=_natural)
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
    missing = sorted(expected.keys() - found.keys(), key=_natural)
    extra = sorted(found.keys() - expected.keys(), key=_natural)
    wrong = sorted((name for name in found.keys() & expected.keys() if found[name] != expected[name]), key=_natural)
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
        raise ValueError(
            f"{file} is {width} wide, no multiple of {HEAD_WIDTH}; its metadata must state {_PREFIX}heads."
        )
    return width // HEAD_WIDTH


def _spread(blocks: int, layers: int) -> tuple[int, ...] | None:
    """Layers 0, s, 2s ... for so many blocks, or None when no step s gives exactly that many."""
    spread = tuple(range(0, layers, -(-layers // blocks)))
    return spread if len(spread) == blocks else None


def _lora_names(shapes: Shapes, file: str) -> tuple[dict[str, str], str]:
    if not shapes:
        raise ValueError(f"{file} contains no tensors. Download it again.")
    first = min(shapes, key=_natural)
    if not any("lora_" in name for name in shapes):
        what = (
            "this looks like a side branch: use the side branch input"
            if any("vace_blocks." in n for n in shapes)
            else "this is no LoRA"
        )
        raise ValueError(f"{file} has no lora_* tensors ({len(shapes)} tensors, first: {first}); {what}.")
    names = {name: _lora_name(name) for name in shapes}
    odd = sorted(name for name, normalised in names.items() if normalised is None or normalised.startswith("vace"))
    if odd:
        raise ValueError(
            f"{file} has {len(odd)} tensors of {len(shapes)} that are no LoRA of the model (first: {odd[0]}). "
            "Every tensor must match, or the film would be made with half of the training."
        )
    prefix = next(
        (one for one in ("lora_unet_", "pipe.dit.", "base_model.", "diffusion_model.") if first.startswith(one)), ""
    )
    words = {
        "lora_unet_": "kohya",
        "pipe.dit.": "pipe.dit. (trainer)",
        "base_model.": "PEFT",
        "diffusion_model.": "ComfyUI",
    }
    return {name: normalised for name, normalised in names.items() if normalised}, words.get(prefix, "bare")


def _lora_name(name: str) -> str | None:
    """Normalised name of a LoRA tensor, or None for a tensor of another kind."""
    while prefix := next((one for one in _LORA_PREFIXES if name.startswith(one)), None):
        name = name[len(prefix) :]
    name = name.removesuffix(".weight").removesuffix(".default")
    module, _, part = name.rpartition(".")
    if kohya := _KOHYA_NAME.match(module):
        module = "blocks.{}.{}.{}".format(*kohya.groups())
    if part == "alpha" and module:
        return f"{module}.alpha"
    return f"{module}.{_LORA_PARTS[part]}" if part in _LORA_PARTS and module else None


def _model_name(width: int) -> str:
    return KNOWN_MODELS[width][0] if width in KNOWN_MODELS else f"a model {width} wide"


def _layer_words(layers: tuple[int, ...]) -> str:
    return ",".join(map(str, layers)) if len(layers) < 4 else f"{layers[0]},{layers[1]},..,{layers[-1]}"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that counts block 10 after block 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
