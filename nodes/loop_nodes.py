"""Segment Loop Start / End: the nodes between them run once per segment.

End clones the body once per segment in one flat expansion and chains the carried memory by links, so that each
segment's nodes have their own place in the host's cache and its own seed and prompt are literals there. The body stays
on the canvas; its originals never run (Start blocks them), only the clones do.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, is_link

from ..mirage_core.rollout import Rollout
from .host_latents import to_host
from .sockets import MirageLoop, MirageMemory, MiragePath

START_ID, END_ID, STEP_ID, FILM_ID = "MirageLoopStart", "MirageLoopEnd", "MirageLoopStep", "MirageLoopFilm"
MAX_SEGMENTS = 1000
_SEED_RANGE = 2**64
# Outputs of Start, by position.
_LOOP, _MEMORY, _PROMPT, _SEED, _INDEX, _STRENGTH = range(6)


@dataclass(frozen=True)
class Turn:
    """What is different in each turn of a loop."""

    seed: int
    prompt: str
    strength: float


class SegmentLoopStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=START_ID,
            display_name="Segment Loop Start",
            category="Mirage",
            description="Everything between here and Segment Loop End is done once per segment of the film.",
            search_aliases=["loop", "for each", "iterate", "segments"],
            inputs=[
                MirageMemory.Input("memory", tooltip="From Init Latent Memory, or a film you want to go on with."),
                MiragePath.Input(
                    "path",
                    optional=True,
                    tooltip="A new path for this loop, beginning where the film is now. Not needed on a fresh memory, which brings its own.",
                ),
                io.Int.Input(
                    "segments",
                    default=0,
                    min=0,
                    max=MAX_SEGMENTS,
                    tooltip="How many segments to make. 0 films the path to its end. A path shorter than this is an error.",
                ),
                io.Int.Input("seed", default=0, min=0, max=_SEED_RANGE - 1, control_after_generate=True, tooltip="Seed of the first segment."),
                io.Combo.Input(
                    "seed_mode",
                    options=["increment", "fixed", "random"],
                    default="increment",
                    tooltip="increment: seed, seed + 1, ... per segment; fixed: the same for all; random: unrelated numbers, "
                    "always the same ones for the same first seed.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What each segment shows: one line per segment. The last line serves all further segments; "
                    "an empty line repeats the one before.",
                ),
                io.String.Input(
                    "strengths",
                    default="1",
                    optional=True,
                    tooltip="How strongly each segment obeys the memory: numbers separated by spaces or commas; the last serves "
                    "all further segments. Only used where strength is connected to Generate Segment.",
                ),
            ],
            outputs=[
                MirageLoop.Output(display_name="loop", tooltip="Connect to loop on Segment Loop End; this wire pairs the two."),
                MirageMemory.Output(display_name="memory", tooltip="The memory before this segment."),
                io.String.Output(display_name="prompt", tooltip="The prompt of this segment; connect to text of CLIP Text Encode."),
                io.Int.Output(display_name="seed", tooltip="The seed of this segment; connect to Generate Segment."),
                io.Int.Output(display_name="index", tooltip="Number of this segment in the loop, from 0."),
                io.Float.Output(display_name="strength", tooltip="The strength of this segment; connect to Generate Segment."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory, segments, seed, seed_mode, prompts, strengths="1", path=None) -> io.NodeOutput:
        count = segments or len(_redirected(memory, path).plan) - memory.segments_done
        turns = loop_turns(count, seed, seed_mode, prompts, strengths)
        if cls.hidden.dynprompt.get_parent_node_id(cls.hidden.unique_id) is None:
            # On the canvas only the pairing wire carries a value: a preview in the body must not run a stray segment.
            return io.NodeOutput(turns, *[ExecutionBlocker(None)] * 5)
        return io.NodeOutput(turns, memory, turns[0].prompt, seed, 0, turns[0].strength)


class SegmentLoopEnd(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=END_ID,
            display_name="Segment Loop End",
            category="Mirage",
            description="Runs the nodes since Segment Loop Start once per segment and gives the finished film.",
            search_aliases=["loop", "end loop", "iterate", "segments"],
            inputs=[
                MirageLoop.Input("loop", lazy=True, tooltip="From Segment Loop Start."),
                MirageMemory.Input("memory", lazy=True, tooltip="The memory after the segment: from Write Memory."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory after the last segment, with the film in it."),
                io.Latent.Output(display_name="film", tooltip="All frames of the film as one LATENT."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, loop=None, memory=None) -> list[str]:
        """Ask for the pairing wire only when Start has to count the segments; the body must never run on the canvas.

        With typed-in settings nothing runs before End, so that after an edit the host still has the untouched segments.
        """
        prompt = cls.hidden.dynprompt
        settings = prompt.get_node(_paired_start(prompt, cls.hidden.unique_id))["inputs"]
        return ["loop"] if loop is None and _typed_turns(settings) is None else []

    @classmethod
    def execute(cls, loop=None, memory=None) -> io.NodeOutput:
        prompt, end = cls.hidden.dynprompt, cls.hidden.unique_id
        start = _paired_start(prompt, end)
        settings = prompt.get_node(start)["inputs"]
        turns = loop if loop is not None else _typed_turns(settings) or ()
        graph = GraphBuilder()
        carried = _unrolled(prompt, graph, start=start, end=end, turns=turns)
        film = graph.node(FILM_ID, "film", memory=carried)
        film.set_override_display_id(end)
        return io.NodeOutput(carried, film.out(0), expand=graph.finalize())


class LoopStep(io.ComfyNode):
    """Inside an unrolled loop: hands on the memory, and checks that this segment can be made at all."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=STEP_ID,
            display_name="Segment Loop Step",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory before the segment."),
                MiragePath.Input("path", optional=True, tooltip="The loop's own path, on its first segment."),
                io.Int.Input("remaining", default=1, min=0, max=MAX_SEGMENTS, tooltip="Segments still to make, this one included."),
            ],
            outputs=[MirageMemory.Output(display_name="memory", tooltip="The memory before the segment.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory, remaining, path=None) -> io.NodeOutput:
        memory = _redirected(memory, path)
        left = len(memory.plan) - memory.segments_done
        if remaining > left:
            raise ValueError(
                f"The camera path has {left} segments left ({len(memory.cameras)} frames in all), and {remaining} are to "
                "be made. Make the path longer, or use fewer segments on Segment Loop Start."
            )
        return io.NodeOutput(memory)


class LoopFilm(io.ComfyNode):
    """At the end of an unrolled loop: the film as a LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=FILM_ID,
            display_name="Segment Loop Film",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[MirageMemory.Input("memory", tooltip="The memory after the last segment.")],
            outputs=[io.Latent.Output(display_name="film", tooltip="All frames of the film as one LATENT.")],
        )

    @classmethod
    def execute(cls, memory) -> io.NodeOutput:
        return io.NodeOutput({"samples": to_host(memory.film)})


def prompt_of(prompts: str, index: int) -> str:
    """The prompt of segment `index`: one line per segment, empty lines repeat the one before, the last serves the rest."""
    lines = prompts.splitlines() or [""]
    for line in reversed(lines[: index + 1]):
        if line.strip():
            return line.strip()
    return ""


def seed_of(seed: int, mode: str, index: int) -> int:
    """The seed of segment `index`; the same on every machine."""
    if mode == "fixed" or index == 0:
        return seed
    if mode == "increment":
        return (seed + index) % _SEED_RANGE
    mixed = (seed + index * 0x9E3779B97F4A7C15) % _SEED_RANGE  # splitmix64 (Steele, Lea, Flood 2014)
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % _SEED_RANGE
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % _SEED_RANGE
    return mixed ^ (mixed >> 31)


def strength_of(strengths: str, index: int) -> float:
    """The strength of segment `index`; the last number serves the rest. Raises ValueError for what is no number >= 0."""
    words = strengths.replace(",", " ").split() or ["1"]
    word = words[min(index, len(words) - 1)]
    try:
        strength = float(word)
    except ValueError:
        strength = math.nan
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(
            f"strengths has {word!r} for segment {index + 1}; it needs numbers from 0 up, such as 1 0.8 0.5."
        )
    return strength


def loop_turns(count: int, seed: int, seed_mode: str, prompts: str, strengths: str = "1") -> tuple[Turn, ...]:
    """What differs in every turn of a loop. Raises ValueError for no segments, or more than a loop can hold."""
    if not 1 <= count <= MAX_SEGMENTS:
        raise ValueError(
            f"The loop has {count} segments; it needs 1 to {MAX_SEGMENTS}. "
            "When the path is filmed to its end, connect a new path to Segment Loop Start."
        )
    return tuple(
        Turn(seed_of(seed, seed_mode, index), prompt_of(prompts, index), strength_of(strengths, index))
        for index in range(count)
    )


def _typed_turns(settings: dict) -> tuple[Turn, ...] | None:
    """The turns when all settings of Start are typed in, or None when one is connected or the path has to be counted."""
    names = ("segments", "seed", "seed_mode", "prompts", "strengths")
    typed: dict[str, Any] = {"strengths": "1"} | {name: settings[name] for name in names if name in settings}
    if any(is_link(value) for value in typed.values()) or not typed.get("segments"):
        return None
    return loop_turns(typed.pop("segments"), **typed)


def _redirected(memory: Rollout, path) -> Rollout:
    if path is None:
        return memory
    if path.image_size != memory.cameras.image_size:
        raise ValueError(
            f"The loop's path is {path.image_size[1]}x{path.image_size[0]} pixels, the film "
            f"{memory.cameras.image_size[1]}x{memory.cameras.image_size[0]}. Use the film's size on Camera Path."
        )
    here = memory.filmed_cameras().intrinsics[-1]
    return memory.redirected(path.cameras(intrinsics=here, unit_length=memory.unit_length))


def _paired_start(prompt, end: str) -> str:
    link = prompt.get_node(end)["inputs"].get("loop")
    if not is_link(link) or prompt.get_node(link[0])["class_type"] != START_ID:
        raise ValueError(
            "Segment Loop End is not paired. Connect loop of Segment Loop Start to it; a bypassed or muted Start breaks the pair."
        )
    return link[0]


def _unrolled(prompt, graph: GraphBuilder, *, start: str, end: str, turns: tuple[Turn, ...]) -> list:
    """Add one copy of the body per turn to `graph`, chained by the memory; returns the link to the last memory."""
    settings = prompt.get_node(start)["inputs"]
    carried, result = settings["memory"], prompt.get_node(end)["inputs"].get("memory")
    if not is_link(result):
        raise ValueError("Segment Loop End has no memory. Connect the memory that Write Memory gives to it.")
    body = _body(prompt, start, end)
    for index, turn in enumerate(turns):
        step = graph.node(STEP_ID, f"i{index}.step", memory=carried, remaining=len(turns) - index)
        if index == 0 and "path" in settings:
            step.set_input("path", settings["path"])
        step.set_override_display_id(start)
        outputs = {
            _MEMORY: step.out(0),
            _PROMPT: turn.prompt,
            _SEED: turn.seed,
            _INDEX: index,
            _STRENGTH: turn.strength,
        }
        clones = {node: graph.node(prompt.get_node(node)["class_type"], f"i{index}.{node}") for node in body}

        def moved(value, clones=clones, outputs=outputs):
            if not is_link(value):
                return value
            if value[0] == start:
                return outputs[value[1]]
            return clones[value[0]].out(value[1]) if value[0] in clones else value

        for node, clone in clones.items():
            clone.set_override_display_id(node)
            for name, value in prompt.get_node(node)["inputs"].items():
                clone.set_input(name, moved(value))
        carried = moved(result)
    return carried


def _body(prompt, start: str, end: str) -> list[str]:
    """Nodes to repeat: what Start feeds, as far as End's memory or an output node inside the loop needs it."""
    # The host's registry, complete only after all packs are loaded; our own folder has the same name for a type checker.
    known = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
    ids = list(prompt.all_node_ids())
    sources = {i: [v[0] for v in prompt.get_node(i).get("inputs", {}).values() if is_link(v)] for i in ids}

    def reach(seeds: set[str], neighbours) -> set[str]:
        seen, stack = set(), list(seeds)
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(neighbours(node))
        return seen

    consumers: dict[str, list[str]] = {i: [] for i in ids}
    for node, feeding in sources.items():
        for source in feeding:
            consumers[source].append(node)
    downstream = reach({start}, lambda node: [] if node == end else consumers[node]) - {start, end}
    after_end = reach({end}, lambda node: consumers[node])
    inside = downstream - after_end
    result = prompt.get_node(end)["inputs"].get("memory")
    is_output = {
        node for node in inside if getattr(known.get(prompt.get_node(node)["class_type"]), "OUTPUT_NODE", False)
    }
    wanted = reach(is_output | ({result[0]} if is_link(result) else set()), lambda node: sources[node])
    return sorted(wanted & inside)
