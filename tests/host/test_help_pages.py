"""The help page of every node: it is there, and it names what the node has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from real_host.client import Client

DOCS = Path(__file__).resolve().parents[2] / "js" / "docs"


@pytest.fixture(scope="module")
def mirage_nodes(server) -> dict[str, dict]:
    listed = Client(server.url).get("/object_info")
    return {
        name: node
        for name, node in listed.items()
        if name.startswith("Mirage") and not node["category"].endswith("internal")
    }


def inputs_of(inputs: dict, prefix: str = "") -> list[str]:
    """Names of all inputs, those inside the options of a dynamic combo as "shape.width"."""
    names = []
    for group in ("required", "optional"):
        for name, (_, *more) in inputs.get(group, {}).items():
            names.append(prefix + name)
            for option in (more[0] if more else {}).get("options", []):
                if isinstance(option, dict):
                    names += inputs_of(option.get("inputs", {}), f"{prefix}{name}.")
    return names


def test_every_node_has_a_page_that_names_all_its_inputs(mirage_nodes):
    missing = {}
    for name, node in mirage_nodes.items():
        page = DOCS / f"{name}.md"
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        told = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
        if untold := [one for one in inputs_of(node["input"]) if one not in told]:
            missing[name] = untold
    assert missing == {}


def test_every_page_belongs_to_a_node_and_begins_with_its_name(mirage_nodes):
    for page in DOCS.glob("*.md"):
        assert page.stem in mirage_nodes, page.name
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert mirage_nodes[page.stem]["display_name"].split(" (")[0] == title


def test_the_server_hands_the_pages_to_its_help_panel(server, mirage_nodes):
    for name in mirage_nodes:
        if (DOCS / f"{name}.md").is_file():
            shown = Client(server.url).get_bytes(f"/extensions/ComfyUI-Mirage/docs/{name}.md")
            assert shown.startswith(b"# "), name
