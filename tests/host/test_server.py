"""The pack as a user's ComfyUI loads it."""

from __future__ import annotations

import re

import pytest

from real_host.client import Client, PromptRefused


@pytest.fixture(scope="module")
def mirage_nodes(server) -> dict[str, dict]:
    listed = Client(server.url).get("/object_info")
    return {name: node for name, node in listed.items() if name.startswith("Mirage")}


def test_pack_is_imported_without_a_complaint(server):
    about_us = [line for line in server.log.read_text().splitlines() if "ComfyUI-Mirage" in line]
    assert about_us, "the log does not name the pack among the imported ones"
    assert not [line for line in about_us if re.search(r"IMPORT FAILED|Cannot import|Traceback|Error", line)]


def test_the_six_nodes_and_the_loop_are_listed(mirage_nodes):
    wanted = {"MirageInitLatentMemory", "MirageCameraPath", "MirageDynamicSkyMask", "MirageProjectMemory"}
    wanted |= {"MirageGenerateSegment", "MirageWriteMemory", "MirageLoopStart", "MirageLoopEnd", "MirageSimpleDepth"}
    assert wanted <= mirage_nodes.keys()


def test_every_mirage_node_is_in_the_category_mirage_and_described(mirage_nodes):
    for name, node in mirage_nodes.items():
        assert node["category"].split("/")[0] == "Mirage", name
        assert len(node["description"]) > 20, name
        assert node["python_module"] == "custom_nodes.ComfyUI-Mirage", name


def test_every_input_has_a_tooltip(mirage_nodes):
    without = [f"{name}.{at}" for name, node in mirage_nodes.items() for at in _inputs_without_tooltip(node["input"])]
    assert without == []


def test_every_output_has_a_tooltip(mirage_nodes):
    without = [
        f"{name}.{output}"
        for name, node in mirage_nodes.items()
        for output, tip in zip(node["output_name"], node["output_tooltips"], strict=True)
        if not tip
    ]
    assert without == []


def test_an_unknown_node_is_refused_by_name(client):
    with pytest.raises(PromptRefused, match="MirageNoSuchNode"):
        client.queue({"1": {"class_type": "MirageNoSuchNode", "inputs": {}}})


def test_all_stand_in_models_are_offered_by_the_stock_loaders(client):
    wanted = {
        "VAELoader": "mirage_stand_in_vae.safetensors",
        "UNETLoader": "mirage_stand_in_dit.safetensors",
        "LoadMoGeModel": "mirage_random_moge2.safetensors",
        "LoadDA3Model": "mirage_random_da3.safetensors",
    }
    for loader, file in wanted.items():
        assert file in str(client.get(f"/object_info/{loader}")), loader


def _inputs_without_tooltip(inputs: dict) -> list[str]:
    """Names of inputs without a tooltip, those inside the options of a dynamic combo included."""
    without = []
    for group in ("required", "optional"):
        for name, (_, *more) in inputs.get(group, {}).items():
            settings = more[0] if more else {}
            if not settings.get("tooltip"):
                without.append(name)
            for option in settings.get("options", []):
                if isinstance(option, dict):
                    without += [f"{name}.{inner}" for inner in _inputs_without_tooltip(option.get("inputs", {}))]
    return without
