"""Nano Scene Words: the text of the nano base, which has learned a few words instead of a language."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..mirage_core.scene_words import scene_words_in
from ..mirage_core.weights import read_header

_FOLDER = "diffusion_models"


class NanoSceneWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageNanoSceneWords",
            display_name="Nano Scene Words",
            category="Mirage",
            description="The prompt of the nano base: a few words that it has learned, in place of CLIP Text Encode.",
            search_aliases=["prompt", "text", "conditioning", "nano", "tiny", "clip"],
            inputs=[
                io.Combo.Input("model_name", options=folder_paths.get_filename_list(_FOLDER), tooltip="The nano base's file, the same as in Load Diffusion Model; its words are in it."),
                io.String.Input("words", default="room", tooltip="Words with commas between them, such as 'room, blue hour': at most 4, in any order. Nothing says nothing. An unknown word is answered with the list of all known ones."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For Generate Segment: positive, and a second one without words for negative.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, model_name, words) -> str:
        path = folder_paths.get_full_path(_FOLDER, model_name)
        return f"{words} {Path(path).stat().st_mtime_ns if path else model_name}"

    @classmethod
    def execute(cls, model_name, words) -> io.NodeOutput:
        known = scene_words_in(read_header(folder_paths.get_full_path_or_raise(_FOLDER, model_name))[1], model_name)
        text = [word.strip().lower() for word in words.split(",")]
        return io.NodeOutput([[known.context([word for word in text if word])[None], {}]])
