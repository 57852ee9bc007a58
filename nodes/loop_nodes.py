"""Segment Loop Start / End: the nodes between them run once per segment, and no finished segment is made twice.

End expands into one Turn per segment, chained by the memory. A Turn whose segment is kept gives that; any other expands
into a copy of the body with the turn's own seed and prompt as literals, whose result is kept. The body stays on the
canvas; its originals never run (Start blocks them), only the copies do.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from comfy_execution.utils import get_executing_context

from ..mirage_core.rollout import Rollout
from . import loop_body
from .conditions import conditions
from .film_starts import film_start
from .host_latents import to_host
from .loop_body import END_ID, START_ID, body_of, copied_body, outside_links, paired_start, result_link
from .loop_run import LoopRun, running, started
from .loop_turns import MAX_SEGMENTS, SEED_RANGE, LoopOrder, count_segments, directed, loop_turns
from .segment_keys import graph_parts
from .segment_store import GIB, check_run_name, film_root
from .sockets import MirageLoop, MirageMemory, MiragePath
from .telling import tell, tell_node

TURN_ID, STEP_ID, KEEP_ID, FILM_ID = "MirageLoopTurn", "MirageLoopStep", "MirageLoopKeep", "MirageLoopFilm"


class SegmentLoopStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=START_ID,
            display_name="Segment Loop Start",
            category="Mirage",
            description="Everything between here and Segment Loop End is done once per segment of the film.",
            search_aliases=["loop", "for each", "iterate", "segments", "resume"],
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
                io.Int.Input("seed", default=0, min=0, max=SEED_RANGE - 1, control_after_generate=io.ControlAfterGenerate.fixed, tooltip="Seed of the first segment. Another one makes the whole film again, so leave the control after it fixed while you resume."),
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
                io.Combo.Input(
                    "keep",
                    options=["on", "off"],
                    default="on",
                    optional=True,
                    tooltip="on: each finished segment is kept in output/mirage, and queueing again goes on at the first one that is "
                    "missing or that you have changed, also after a crash. off: nothing is kept on disk; after any change or a restart all segments are made again.",
                ),
                io.String.Input(
                    "run",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Name of the folder in output/mirage that keeps the segments. Empty: one folder per start picture, by itself.",
                ),
                io.Float.Input(
                    "quota",
                    default=20.0,
                    min=0.1,
                    max=100000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB that kept segments of all films may take. Beyond it, those not used for longest are deleted; never "
                    "those of a film being made.",
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
        )  # fmt: skip

    @classmethod
    def execute(
        cls, memory, segments, seed, seed_mode, prompts, strengths="1", path=None, keep="on", run="", quota=20.0
    ) -> io.NodeOutput:  # fmt: skip
        run = run.strip()
        check_run_name(run)
        memory = directed(memory, path)
        turns = loop_turns(count_segments(memory, segments), seed, seed_mode, prompts, strengths)
        order = LoopOrder(memory, turns, keep == "on", run, int(quota * GIB))
        # Only the pairing wire carries a value: a preview in the body must not run a stray segment.
        return io.NodeOutput(order, *[ExecutionBlocker(None)] * 5)


class SegmentLoopEnd(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=END_ID,
            display_name="Segment Loop End",
            category="Mirage",
            description="Runs the nodes since Segment Loop Start once per segment and gives the finished film.",
            search_aliases=["loop", "end loop", "iterate", "segments", "resume"],
            inputs=[
                MirageLoop.Input("loop", tooltip="From Segment Loop Start."),
                MirageMemory.Input("memory", lazy=True, tooltip="The memory after the segment: from Write Memory."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory after the last segment, with the film in it."),
                io.Latent.Output(display_name="film", tooltip="All frames of the film as one LATENT."),
                io.String.Output(display_name="report", tooltip="Which segments were there already, which were made, and why."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, loop=None, memory=None) -> list[str]:
        """The body must never run on the canvas, so its memory is never asked for."""
        return []

    @classmethod
    def execute(cls, loop: LoopOrder, memory=None) -> io.NodeOutput:
        prompt, end = cls.hidden.dynprompt, cls.hidden.unique_id
        start = paired_start(prompt, end)
        run = _opened(prompt, loop, start=start, end=end)
        report = run.begin()
        logging.info("Mirage: %s", report.splitlines()[0])  # what follows, the log has by itself
        tell_node(report, prompt.get_display_node_id(end))
        graph = GraphBuilder()
        links = outside_links(prompt, body_of(prompt, start, end), start, end)
        carried = None
        for index in range(len(loop.turns)):
            turn = graph.node(TURN_ID, f"turn{index}", run=run.id, index=index, end=end)
            turn.set_override_display_id(end)
            turn.set_input("memory", carried)
            for number, link in enumerate(links):
                turn.set_input(f"outside{number}", link)
            carried = turn.out(0)
        film = graph.node(FILM_ID, "film", memory=carried, run=run.id, is_joined=_is_used(prompt, end, 1), end=end)
        film.set_override_display_id(end)
        return io.NodeOutput(carried, film.out(0), film.out(1), expand=graph.finalize())


class LoopTurn(io.ComfyNode):
    """Inside an unrolled loop: one segment, as it is kept or as the body makes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=TURN_ID,
            display_name="Segment Loop Turn",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[
                io.String.Input("run", tooltip="The loop's own number."),
                io.Int.Input("index", tooltip="The turn, from 0."),
                io.String.Input("end", tooltip="Node id of Segment Loop End."),
                MirageMemory.Input("memory", optional=True, tooltip="The memory before the segment; on the first turn the loop's own."),
            ],
            outputs=[MirageMemory.Output(display_name="memory", tooltip="The memory after the segment.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
            # The body's inputs from outside: a turn that has them cannot lose them when the host frees RAM.
            accept_all_inputs=True,
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, run, index, end, memory=None, **outside) -> io.NodeOutput:
        loop, at, end = running(run[0]), index[0], end[0]
        loop.forget()
        loop.copies.append(cls.hidden.unique_id)
        before = memory[0] if memory else loop.memory
        if isinstance(before, ExecutionBlocker):
            return io.NodeOutput(before)
        kept = loop.reused(at, before)
        if kept is not None:
            return io.NodeOutput(kept)
        prompt = cls.hidden.dynprompt
        start = paired_start(prompt, end)
        graph = GraphBuilder(prefix=f"{end}.0.0.i{at}.")
        step = graph.node(STEP_ID, "step", run=run[0], index=at)
        step.set_override_display_id(start)
        loop.before = before
        turn = loop.order.turns[at]
        outputs = {
            loop_body.MEMORY: step.out(0),
            loop_body.PROMPT: turn.prompt,
            loop_body.SEED: turn.seed,
            loop_body.INDEX: at,
            loop_body.STRENGTH: turn.strength,
        }
        body = body_of(prompt, start, end)
        result = copied_body(prompt, graph, body, start=start, end=end, outputs=outputs)
        keep = graph.node(KEEP_ID, "keep", run=run[0], index=at, memory=result)
        keep.set_override_display_id(end)
        copies = graph.finalize()
        loop.copies.extend(copies)
        return io.NodeOutput(keep.out(0), expand=copies)


class LoopStep(io.ComfyNode):
    """Inside an unrolled loop: the memory before the segment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=STEP_ID,
            display_name="Segment Loop Step",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[
                io.String.Input("run", tooltip="The loop's own number."),
                io.Int.Input("index", tooltip="The turn, from 0."),
            ],
            outputs=[MirageMemory.Output(display_name="memory", tooltip="The memory before the segment.")],
        )

    @classmethod
    def execute(cls, run, index) -> io.NodeOutput:
        return io.NodeOutput(running(run).before)


class LoopKeep(io.ComfyNode):
    """Inside an unrolled loop: keeps what the body has made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=KEEP_ID,
            display_name="Segment Loop Keep",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[
                io.String.Input("run", tooltip="The loop's own number."),
                io.Int.Input("index", tooltip="The turn, from 0."),
                MirageMemory.Input("memory", tooltip="The memory after the segment."),
            ],
            outputs=[MirageMemory.Output(display_name="memory", tooltip="The same, kept on disk.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(cls, run, index, memory: Rollout) -> io.NodeOutput:
        loop = running(run)
        kept = loop.keep(index, memory)
        if notes := loop.notes():
            tell("\n".join(notes), cls.hidden)
        return io.NodeOutput(kept)


class LoopFilm(io.ComfyNode):
    """At the end of an unrolled loop: the film as a LATENT, if anybody wants it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=FILM_ID,
            display_name="Segment Loop Film",
            category="Mirage/internal",
            description="Made by Segment Loop End; not for the canvas.",
            is_dev_only=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory after the last segment."),
                io.String.Input("run", tooltip="The loop's own number."),
                io.Boolean.Input("is_joined", tooltip="Whether the film is wanted as one LATENT."),
                io.String.Input("end", tooltip="Node id of Segment Loop End."),
            ],
            outputs=[
                io.Latent.Output(display_name="film", tooltip="All frames of the film as one LATENT."),
                io.String.Output(display_name="report", tooltip="What the loop did."),
            ],
            hidden=[io.Hidden.dynprompt],
        )

    @classmethod
    def execute(cls, memory: Rollout, run, is_joined, end) -> io.NodeOutput:
        loop = running(run)
        loop.forget()
        report = loop.report()
        tell_node(report, cls.hidden.dynprompt.get_display_node_id(end))
        loop.finish()
        film = {"samples": to_host(memory.film)} if is_joined else ExecutionBlocker(None)
        return io.NodeOutput(film, report)


def _opened(prompt, order: LoopOrder, *, start: str, end: str) -> LoopRun:
    """The run of a loop, with the keys of all its segments."""
    body = graph_parts(prompt, result_link(prompt, end), start=start)
    body = replace(body, parts={**body.parts, **conditions()})
    film, warnings = None, []
    if order.is_keeping:
        link, root = prompt.get_node(start)["inputs"]["memory"], film_root(folder_paths.get_output_directory())
        try:
            film = film_start(order.memory, prompt=prompt, link=link, root=root, run=order.run)
            order = replace(order, memory=film.memory)
        except TypeError as error:  # a memory with something in it that only another pack understands
            warnings = [f"This film cannot be kept. {error}"]
            logging.warning("Mirage: %s", warnings[0])
    context = get_executing_context()
    return started(LoopRun(order, film, body, context.prompt_id if context else "", warnings))


def _is_used(prompt, end: str, output: int) -> bool:
    """Whether something is connected to an output of Segment Loop End."""
    return any([end, output] in loop_body.links_of(prompt, node).values() for node in prompt.all_node_ids())
