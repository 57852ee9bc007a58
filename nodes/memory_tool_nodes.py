"""Inspect Memory, Edit Memory, Merge Memories."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..mirage_core import memory_edits as edits
from ..mirage_core.memory_merge import align, check_alike, compared, merged
from ..mirage_core.memory_numbers import known_now, latent_frames_of, memory_numbers
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from ..mirage_core.upkeep import tidied
from .host_latents import fit_maps
from .memory_colors import COLORINGS, PREVIEW
from .memory_pictures import plan_picture
from .memory_words import budget_words, memory_words
from .pictures import coverage_plot
from .scenes import remember_scene
from .sockets import MirageMemory
from .telling import tell

_FORGET, _KEEP, _LOCK, _UNLOCK = _ACTIONS = ["forget", "forget all else", "lock", "unlock"]
_SHARED, _OFFSET, _FIT = _PLACES = ["shared frame", "given offset", "fit surfaces"]
_MASK_CELLS = 2  # mask cells per latent cell and axis
_MAX_BOX_TEXT = 400
_OTHER_VAE = (
    "The two memories were made with different VAEs: what is added shows as noise. Merge memories of films that were made "
    "with the same VAE."
)


class InspectMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageInspectMemory",
            display_name="Inspect Memory",
            category="Mirage",
            description="Shows what is remembered: numbers, a plan from above, how much of the path is known; and the points in 3D on the node.",
            search_aliases=["memory size", "point cloud viewer", "coverage", "statistics", "age", "confidence"],
            is_output_node=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="A memory, at any moment of the film."),
                io.Combo.Input("color", options=list(COLORINGS), default=PREVIEW, tooltip="Colours of the points: as in the pictures; by age; by confidence, which rises with every sighting; by segment; or locked and free."),
            ],
            outputs=[
                io.Image.Output(display_name="plan", tooltip="All points from above with the film's path."),
                io.Image.Output(display_name="known", tooltip="How much of each frame of the path the memory knows now, over time."),
                io.String.Output(display_name="report", tooltip="Points, MiB by kind, segments, age, confidence, extent."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, color) -> io.NodeOutput:
        remember_scene(memory)
        shares = known_now(memory)
        known = coverage_plot(shares)
        text = memory_words(memory, memory_numbers(memory), shares)
        tell(text, cls.hidden)
        if memory.memory.count == 0:
            return io.NodeOutput(known, known, text, ui=_shown([known], text, cls))
        plan = plan_picture(memory, color)
        return io.NodeOutput(plan, known, text, ui=_shown([plan, known], text, cls))


def _shown(pictures: list[torch.Tensor], text: str, node: type[io.ComfyNode]) -> dict[str, Any]:
    """Pictures of several sizes on a node, one after the other, and the text for programs that read the outputs."""
    shown = [ui.PreviewImage(picture, cls=node).as_dict() for picture in pictures]
    return shown[0] | {"images": [image for one in shown for image in one["images"]], "text": (text,)}


class EditMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEditMemory",
            display_name="Edit Memory",
            category="Mirage",
            description="Forgets or locks part of what is remembered. Several of these one after the other combine rules.",
            search_aliases=["delete points", "forget", "remove object", "lock", "prune", "crop", "erase"],
            inputs=[
                MirageMemory.Input("memory", tooltip="A memory, at any moment of the film."),
                io.Combo.Input("action", options=_ACTIONS, default=_FORGET, tooltip="forget: the chosen points go, except for locked ones. forget all else: only they stay. lock: they are never forgotten, neither here nor to save space."),
                io.DynamicCombo.Input(
                    "rule",
                    options=[
                        io.DynamicCombo.Option("box", [
                            io.String.Input("box", default="-1 -1 0  1 1 2", tooltip="Two corners in world units: right, down and forward of the first camera, first the smaller numbers, then the larger. Draw it in the viewer of this node."),
                        ]),
                        io.DynamicCombo.Option("mask", [
                            io.Mask.Input("mask", tooltip="White = chosen: what shows there in the frame."),
                            io.Int.Input("frame", default=0, min=-1, max=100000, tooltip="Frame of the film that the mask belongs to; -1 is the newest."),
                            io.Boolean.Input("behind", default=False, tooltip="Also choose everything hidden behind, as far as the memory goes."),
                        ]),
                        io.DynamicCombo.Option("segments", [
                            io.Int.Input("first", default=1, min=-1, max=10000, tooltip="First segment: 1 and so on, 0 is the first picture, -1 all earlier films."),
                            io.Int.Input("last", default=1, min=-1, max=10000, tooltip="Last segment, included."),
                        ]),
                        io.DynamicCombo.Option("age", [
                            io.Int.Input("older_than", default=4, min=0, max=10000, tooltip="Points remembered more than so many segments before the newest."),
                        ]),
                        io.DynamicCombo.Option("confidence", [
                            io.Float.Input("below", default=0.3, min=0.0, max=1.0, step=0.01, tooltip="Points of less confidence than this. With memory_mode fuse, being seen once by a sure depth model gives 0.5, twice 0.75: 0.3 takes what was seen once by an unsure one or contradicted since, 0.51 all that was seen once. Points of the first picture, and of append, have what the depth model said."),
                        ]),
                        io.DynamicCombo.Option("everything", []),
                    ],
                    tooltip="Which points are chosen: in a box; under a mask seen from a frame of the film; from some segments; old ones; those of little confidence; all.",
                ),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The edited memory. The one that was given stays as it is."),
                io.String.Output(display_name="report", tooltip="How many points were chosen, and what is left."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, action, rule) -> io.NodeOutput:
        known = memory.memory
        choice = _chosen(memory, rule)
        if action == _FORGET:
            after = edits.forgotten(known, choice)
        elif action == _KEEP:
            after = edits.forgotten(known, edits.inverted(choice))
        else:
            after = (edits.locked if action == _LOCK else edits.unlocked)(known, choice)
        edited = replace(memory, memory=after)
        remember_scene(edited, before=memory)
        report = (
            f"{action}: {edits.count(choice)} of {known.count} points chosen by {rule['rule']}, {after.count} are left"
        )
        if action in (_FORGET, _KEEP):
            dropped = edits.count(choice if action == _FORGET else edits.inverted(choice))
            if held := dropped - (known.count - after.count):
                report += f"; {held} locked ones stayed"
        tell(report, cls.hidden)
        return io.NodeOutput(edited, report, ui={"text": (report,)})


class MergeMemories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageMergeMemories",
            display_name="Merge Memories",
            category="Mirage",
            description="Puts what a second memory knows into the first, in the first one's world.",
            search_aliases=["join", "combine", "icp", "register", "align worlds", "stitch"],
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory of the film that goes on; its world stays."),
                MirageMemory.Input("second", tooltip="The memory whose points are added, from Load Memory or another branch of the same film."),
                io.DynamicCombo.Input(
                    "placing",
                    options=[
                        io.DynamicCombo.Option(_SHARED, []),
                        io.DynamicCombo.Option(_OFFSET, _offset_inputs("The second's first camera, seen from the first's")),
                        io.DynamicCombo.Option(_FIT, [
                            *_offset_inputs("First guess of the second's first camera, seen from the first's"),
                            io.Boolean.Input("with_scale", default=False, tooltip="Also find how much larger one world is: depth models guess the scale anew."),
                            io.Float.Input("min_overlap", default=0.25, min=0.01, max=1.0, step=0.01, tooltip="Least share of the second that has to lie on the first's surfaces; less is an error."),
                        ]),
                    ],
                    tooltip="shared frame: both began with the same first camera, as two forks of one film do. given offset: you know where the "
                    "second lies. fit surfaces: from that first guess, its surfaces are laid on the first's.",
                ),
                io.Float.Input("budget_mib", default=0.0, min=0.0, max=1048576.0, step=1.0, optional=True, tooltip="What both together may take, in MiB; 0 = no limit. When it would be more, repeated, rarely seen and old points go first, locked ones never."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The first film, with both memories."),
                io.String.Output(display_name="report", tooltip="How well they fit: overlap, residual, scale; and how many points were added."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, second: Rollout, placing, budget_mib=0.0) -> io.NodeOutput:
        first, other = memory.memory, second.memory
        check_alike(first, other)
        guess = _offset(placing)
        if placing["placing"] == _FIT:
            found = align(
                first, other, guess=guess, with_scale=placing["with_scale"], min_overlap=placing["min_overlap"]
            )
        else:
            found = compared(first, other, guess)
        joined, left_out = merged(first, other, found.motion, scale=found.scale)
        forgotten = 0
        if budget_mib:
            joined, forgotten = tidied(joined, budget_mib=budget_mib)
        grown = replace(memory, memory=joined)
        remember_scene(grown, before=memory)
        cell = memory_numbers(memory).footprint
        report = (
            f"{found.overlap:.0%} of the second lies on the first's surfaces, {found.residual:.3g} away "
            f"({found.residual / cell if cell else 0:.2f} cells), scale {found.scale:.4f}; "
            f"{other.count - left_out} of its {other.count} points added"
        )
        if forgotten:
            report += f", {forgotten} forgotten for the budget"
        report = "; ".join([f"{report}, {joined.count} in all", *budget_words(joined, budget_mib)])
        if not is_rgb(first) and memory.origin.is_other_than(second.origin):
            report += f"\n{_OTHER_VAE}"
            logging.warning("Merge Memories: %s", _OTHER_VAE)
        tell(report, cls.hidden)
        return io.NodeOutput(grown, report, ui={"text": (report,)})


def _offset_inputs(what: str) -> list[io.Input]:
    def length(name: str) -> io.Input:
        return io.Float.Input(
            name, default=0.0, min=-1e6, max=1e6, step=0.01, tooltip=f"{what}: so far {name}, in world units."
        )

    return [
        length("right"), length("up"), length("forward"),
        io.Float.Input("pan", default=0.0, min=-360.0, max=360.0, step=1.0, tooltip=f"{what}: turned so many degrees to the right."),
        io.Float.Input("tilt", default=0.0, min=-90.0, max=90.0, step=1.0, tooltip=f"{what}: then so many degrees upwards."),
    ]  # fmt: skip


def _offset(placing: dict[str, Any]) -> torch.Tensor:
    motion = torch.eye(4, dtype=torch.float64)
    if placing["placing"] == _SHARED:
        return motion
    pan, tilt = math.radians(placing["pan"]), math.radians(placing["tilt"])
    cos, sin = math.cos(pan), math.sin(pan)
    to_right = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=torch.float64)
    cos, sin = math.cos(tilt), math.sin(tilt)
    motion[:3, :3] = to_right @ torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float64)
    motion[:3, 3] = torch.tensor([placing["right"], -placing["up"], placing["forward"]], dtype=torch.float64)
    return motion


def _chosen(memory: Rollout, rule: dict[str, Any]) -> edits.Choice:
    known, name = memory.memory, rule["rule"]
    if name == "box":
        return edits.in_box(known, *_box(rule["box"]))
    if name == "mask":
        return _under_mask(memory, rule["mask"], rule["frame"], rule["behind"])
    if name == "segments":
        return edits.of_latent_frames(known, *latent_frames_of(memory, rule["first"], rule["last"]))
    if name == "age":
        newest = memory.segments_done - rule["older_than"] - 1
        if newest < -1:
            return edits.inverted(edits.everything(known))
        return edits.of_latent_frames(known, *latent_frames_of(memory, -1, newest))
    if name == "confidence":
        return edits.less_sure_than(known, rule["below"])
    return edits.everything(known)


def _box(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two corners [3] from six numbers in a text, apart by spaces, commas or semicolons."""
    try:
        numbers = [float(one) for one in text[:_MAX_BOX_TEXT].replace(",", " ").replace(";", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"The box is {text[:60]!r}; it is six numbers: right, down and forward of its near corner, then of its far "
            "one, such as -1 -1 0  1 1 2."
        )
    corners = torch.tensor(numbers, dtype=torch.float64).view(2, 3)
    return corners.amin(0), corners.amax(0)


def _under_mask(memory: Rollout, mask: torch.Tensor, frame: int, with_hidden: bool) -> edits.Choice:
    filmed = memory.grid.frames(sum(one.shape[1] for one in memory.latents))
    frame = filmed - 1 if frame < 0 else frame
    if frame >= len(memory.cameras):
        raise ValueError(f"The mask belongs to frame {frame}; the film has frames 0 to {len(memory.cameras) - 1}.")
    cut = fit_maps(mask[:1].float().cpu(), memory.cameras.image_size)
    cells = (memory.size[0] * _MASK_CELLS, memory.size[1] * _MASK_CELLS)
    is_masked = torch.nn.functional.adaptive_avg_pool2d(cut[:, None], cells)[0, 0] >= 0.5
    if not is_masked.any():
        raise ValueError("The mask marks nothing: no cell of the film is at least half white. Paint a larger part.")
    return edits.under_mask(memory.memory, memory.cameras[[frame]], is_masked, with_hidden=with_hidden)
