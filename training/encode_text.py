"""Write the text of a real base, for training.adapter --text, with a ComfyUI's text encoder:

    python -m training.encode_text text.safetensors --text "a slow flight through a furnished house" \\
        --comfyui ../.. --encoder umt5_xxl_fp8_e4m3fn_scaled.safetensors

Run it with the Python of that ComfyUI. The file holds `context`, the text for all films, and `empty`, that of an empty
prompt, which some examples get so that guidance has something to lead away from; contexts.py reads it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from .run import write_weights


def write_contexts(path: Path, clip: Any, text: str) -> None:
    """clip: a text encoder of ComfyUI's. Writes its outputs for the text and for an empty one, each [rows text_dim]."""
    said = {"context": text, "empty": ""}
    encoded = {name: clip.encode_from_tokens(clip.tokenize(one))[0].float() for name, one in said.items()}
    write_weights(path, encoded, {"text": text})


def text_encoder(comfyui: Path, encoder: str) -> Any:
    """Wan's text encoder as the node Load CLIP makes it. encoder: a file, or its name in models/text_encoders.

    Raises FileNotFoundError without a ComfyUI or the encoder's file.
    """
    if not (comfyui / "comfy").is_dir():
        raise FileNotFoundError(f"There is no ComfyUI in {comfyui}. Give its folder as --comfyui.")
    sys.path.insert(0, str(comfyui))  # before this pack, whose nodes/ would hide ComfyUI's nodes.py
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.sd
    import folder_paths

    found = encoder if Path(encoder).is_file() else folder_paths.get_full_path("text_encoders", encoder)
    if found is None:
        raise FileNotFoundError(f"There is no text encoder {encoder}. Give a file, or one of models/text_encoders.")
    return comfy.sd.load_clip([found], clip_type=comfy.sd.CLIPType.WAN)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.encode_text", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="to write")
    parser.add_argument("--text", required=True, help="what is to be seen in all films")
    parser.add_argument("--encoder", required=True, help="umt5_xxl: a file, or its name in models/text_encoders")
    parser.add_argument("--comfyui", type=Path, default=Path(__file__).parents[3], help="default: where this pack lies")
    asked = parser.parse_args()
    write_contexts(asked.file, text_encoder(asked.comfyui, asked.encoder), asked.text)
    print(f"wrote {asked.file}")


if __name__ == "__main__":
    main()
