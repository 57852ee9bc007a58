"""Recognising LoRAs of the model by their tensors' names, and refusing what does not match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .weights import SPATIA_FILE, Shapes, Stated, natural, read_header, stated_in

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
_KOHYA_NAME = re.compile(r"^blocks_(\d+)_(self_attn|cross_attn|ffn)_(\w+)$")


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
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in found if ".lora_" in name}, key=natural)
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
        naming="Spatia" if SPATIA_FILE.search(file) else naming,
        stated=stated_in(metadata, file),
    )


def _lora_names(shapes: Shapes, file: str) -> tuple[dict[str, str], str]:
    if not shapes:
        raise ValueError(f"{file} contains no tensors. Download it again.")
    first = min(shapes, key=natural)
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
