"""The nodes between Segment Loop Start and End: which they are, and copies of them for one turn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from comfy_execution.graph_utils import GraphBuilder, is_link

START_ID, END_ID = "MirageLoopStart", "MirageLoopEnd"
# Outputs of Start, by position.
LOOP, MEMORY, PROMPT, SEED, INDEX, STRENGTH = range(6)

Link = list[Any]


def paired_start(prompt, end: str) -> str:
    """The id of the Start that an End belongs to. Raises ValueError for an End without one."""
    link = prompt.get_node(end)["inputs"].get("loop")
    if not is_link(link) or prompt.get_node(link[0])["class_type"] != START_ID:
        raise ValueError(
            "Segment Loop End is not paired. Connect loop of Segment Loop Start to it; a bypassed or muted Start "
            "breaks the pair."
        )
    return link[0]


def result_link(prompt, end: str) -> Link:
    """Where the memory after a turn comes from. Raises ValueError when nothing is connected."""
    result = prompt.get_node(end)["inputs"].get("memory")
    if not is_link(result):
        raise ValueError("Segment Loop End has no memory. Connect the memory that Write Memory gives to it.")
    return result


def body_of(prompt, start: str, end: str) -> list[str]:
    """Nodes to repeat: what Start feeds, as far as End's memory or an output node inside the loop needs it."""
    # Copies that loops have made meanwhile are fed by Start too, and are no part of the body.
    level = prompt.get_parent_node_id(start)
    ids = [one for one in prompt.all_node_ids() if prompt.get_parent_node_id(one) == level]
    sources = {one: [link[0] for link in links_of(prompt, one).values()] for one in ids}
    consumers: dict[str, list[str]] = {one: [] for one in ids}
    for node, feeding in sources.items():
        for source in feeding:
            consumers.setdefault(source, []).append(node)
    downstream = reached({start}, lambda node: [] if node == end else consumers[node]) - {start, end}
    inside = downstream - reached({end}, lambda node: consumers[node])
    is_output = {node for node in inside if getattr(class_of(prompt, node), "OUTPUT_NODE", False)}
    wanted = reached(is_output | {result_link(prompt, end)[0]}, lambda node: sources.get(node, []))
    return sorted(wanted & inside)


def outside_links(prompt, body: Iterable[str], start: str, end: str) -> list[Link]:
    """What the result of a turn needs from outside of the body, each link once; lazy inputs are left out."""
    body = set(body)
    needed = reached({result_link(prompt, end)[0]}, lambda node: _sources(prompt, node) if node in body else [])
    found: list[Link] = []
    for node in sorted(needed & body):
        for name, link in links_of(prompt, node).items():
            if link[0] not in body and link[0] != start and link not in found and not _is_lazy(prompt, node, name):
                found.append(link)
    return found


def copied_body(prompt, graph: GraphBuilder, body: list[str], *, start: str, end: str, outputs: dict[int, Any]) -> Link:
    """Add a copy of the body to `graph`. Returns the link to its result.

    outputs: what stands in for each output of Start: a link or a literal.
    """
    copies = {node: graph.node(prompt.get_node(node)["class_type"], node) for node in body}

    def moved(value: Any) -> Any:
        if not is_link(value):
            return value
        if value[0] == start:
            return outputs[value[1]]
        return copies[value[0]].out(value[1]) if value[0] in copies else value

    for node, copy in copies.items():
        copy.set_override_display_id(node)
        for name, value in prompt.get_node(node)["inputs"].items():
            copy.set_input(name, moved(value))
    return moved(result_link(prompt, end))


def links_of(prompt, node: str) -> dict[str, Link]:
    """The connected inputs of a node."""
    return {name: value for name, value in prompt.get_node(node).get("inputs", {}).items() if is_link(value)}


def reached(seeds: set[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    """The seeds and all that can be reached from them."""
    seen, stack = set(), list(seeds)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(neighbours(node))
    return seen


def class_of(prompt, node: str) -> Any:
    """The class of a node, or None."""
    # The host's registry, complete only after all packs are loaded; for a type checker our own folder has its name.
    known = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
    return known.get(prompt.get_node(node)["class_type"])


def _sources(prompt, node: str) -> list[str]:
    return [link[0] for link in links_of(prompt, node).values()]


def _is_lazy(prompt, node: str, name: str) -> bool:
    inputs = class_of(prompt, node).INPUT_TYPES()
    for group in ("required", "optional"):
        told = inputs.get(group, {}).get(name)
        if told is not None:
            return len(told) > 1 and bool(told[1].get("lazy"))
    return False
