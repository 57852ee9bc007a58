"""Init Latent Memory, Project Memory, Write Memory."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mirage_core.depth import median_depth
from ..mirage_core.latent_grid import CellRule, LatentGrid
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout, Shot
from ..mirage_core.zbuffer import MemoryView
from .depth_fitting import ALIGNMENTS, AUTO, OFF, fitted_depth
from .depth_models import is_moge2_behind
from .fusing import APPEND, FUSE, HALF, PRECISIONS, unwritten_picture, written_segment
from .geometry import picture_intrinsics, read_geometry
from .host_latents import encode_picture, fit_image, fit_maps, latent_preview, to_normalised
from .lifting import re_encoded, started_memory
from .mover_layers import kept_movers
from .rgb_views import next_view, view_along
from .scenes import remember_scene
from .segment_errors import named_errors
from .sockets import DA3Geometry, MirageMemory, MiragePath, MirageView, MoGeGeometry
from .telling import tell
from .vae_origin import origin_of

SEGMENT_VIEW = "mirage_view"  # key under which Generate Segment hands its view on inside the LATENT
_LATENTS, _RE_ENCODE = "latents", "re-encode static regions"


class InitLatentMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageInitLatentMemory",
            display_name="Init Latent Memory",
            category="Mirage",
            description="Starts a film: puts the first picture into the memory as latent points in 3D.",
            search_aliases=["mirage", "memory", "start", "point cloud"],
            inputs=[
                io.Image.Input("image", tooltip="The first picture. It is cut to the shape of the film around its middle and resized."),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE (48 channels)."),
                io.MultiType.Input(
                    "geometry",
                    types=[MoGeGeometry, DA3Geometry],
                    tooltip="Depth of the picture: from Run MoGe Inference, Run Depth Anything 3, or Simple Depth.",
                ),
                MiragePath.Input("path", tooltip="From Camera Path. It also sets the length and the size of the film."),
                io.Mask.Input(
                    "static_mask",
                    optional=True,
                    tooltip="White = may be remembered. From Dynamic/Sky Mask. Without it everything with a depth is remembered.",
                ),
                io.Combo.Input(
                    "cell_rule",
                    options=["center", "corner"],
                    default="center",
                    optional=True,
                    advanced=True,
                    tooltip="Where the ray of a latent cell passes: center is true geometry; corner is what the released Mirage "
                    "code did, for weights trained with it.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["latent", "rgb"],
                    default="latent",
                    optional=True,
                    tooltip="What a point remembers. latent: the model's own latents, small and fast. rgb: colours of pixels, which are "
                    "rendered and encoded for every segment, as Spatia's weights expect it; needs vae on Project Memory and images "
                    "on Write Memory.",
                ),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory and the film so far: the one value that travels through all Mirage nodes."),
                io.Image.Output(display_name="start", tooltip="The first picture as the film uses it."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image, vae, geometry, path: Shot, static_mask=None, cell_rule: CellRule = "center", kind="latent"
    ) -> io.NodeOutput:
        grid = LatentGrid(cell_rule=cell_rule)
        start = fit_image(image[:1], path.image_size)
        latents = encode_picture(vae, start)
        shape = read_geometry(geometry).frames([0])
        shape.check_same_crop((image.shape[1], image.shape[2]), what="the picture")
        shape = shape.fitted(path.image_size)
        intrinsics = picture_intrinsics(shape, path.image_size, path.fov_degrees)
        unit_length = median_depth(shape.depth)
        cameras = path.cameras(intrinsics=intrinsics, unit_length=unit_length)
        if static_mask is not None:
            static_mask = fit_maps(static_mask[:1], path.image_size)
        memory = started_memory(latents, start.cpu(), shape, cameras[[0]], static_mask, grid=grid, is_rgb=kind == "rgb")
        rollout = Rollout.started(
            memory, latents, cameras, fps=path.fps, unit_length=unit_length, grid=grid, origin=origin_of(vae)
        )
        remember_scene(rollout)
        return io.NodeOutput(rollout, start)


class ProjectMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageProjectMemory",
            display_name="Project Memory",
            category="Mirage",
            description="What the memory shows to the cameras of the next segment, as latents.",
            search_aliases=["mirage", "memory", "read", "render", "coverage"],
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory to look at."),
                MiragePath.Input(
                    "path",
                    optional=True,
                    tooltip="Look along another path, only to see what the memory would show. Generate Segment needs the view without it.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The Wan2.2 VAE. Only a memory of the kind rgb needs it, to encode what it shows."),
            ],
            outputs=[
                MirageView.Output(display_name="view", tooltip="Latents the memory shows and where it covers; connect to Generate Segment."),
                io.Mask.Output(display_name="coverage", tooltip="White where the memory covers the frame, one mask per latent frame, at latent size."),
                io.Image.Output(display_name="preview", tooltip="The view, one picture per latent frame: in rough colours, or as rendered from an rgb memory. Unknown parts are dark."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, path: Shot | None = None, vae=None) -> io.NodeOutput:
        with named_errors(memory, "Project Memory"):
            view, pictures = next_view(memory, vae) if path is None else view_along(memory, path, vae)
        return io.NodeOutput(
            view, view.is_covered.float().cpu(), view_picture(view) if pictures is None else pictures.cpu()
        )


class WriteMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageWriteMemory",
            display_name="Write Memory",
            category="Mirage",
            description="Puts what a finished segment shows for the first time into the memory.",
            search_aliases=["mirage", "memory", "update", "append"],
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory that the segment was made from."),
                io.Latent.Input("segment", tooltip="The segment that Generate Segment made."),
                io.MultiType.Input(
                    "geometry",
                    types=[MoGeGeometry, DA3Geometry],
                    optional=True,
                    tooltip="Depth of the segment's frames: of all of them, or of those that Frames for Depth picks. "
                    "Without it the film goes on but nothing new is remembered.",
                ),
                io.Mask.Input(
                    "static_mask",
                    optional=True,
                    tooltip="White = may be remembered; one mask per frame, or per frame that Frames for Depth picks.",
                ),
                io.Boolean.Input(
                    "align_depth",
                    default=True,
                    tooltip="Depth models guess the scale anew for each segment. On: each frame's depth is scaled to fit what the "
                    "memory already shows from the same camera.",
                ),
                io.Image.Input("images", optional=True, tooltip="All decoded frames of the segment, from VAE Decode. Needed by a memory of the kind rgb, and to re-encode."),
                io.Vae.Input("vae", optional=True, tooltip="The Wan2.2 VAE. Needed to re-encode, and by a memory of the kind rgb for a segment that Generate Segment did not make."),
                io.Combo.Input(
                    "update",
                    options=[_LATENTS, _RE_ENCODE],
                    default=_LATENTS,
                    optional=True,
                    tooltip="latents: the segment's latents are remembered as they were made, nothing is decoded and encoded again. "
                    "re-encode static regions: the decoded frames, with what moves filled from around it, are encoded again and those "
                    "latents remembered, as in the paper: movers leave no trace, at the cost of the VAE's losses. No effect on a memory "
                    "of the kind rgb.",
                ),
                io.Combo.Input(
                    "alignment",
                    options=ALIGNMENTS,
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="What align_depth may change. auto: what the connected depth model leaves open. scale: one factor per frame. "
                    "scale + shift: also an offset, for models of relative depth. scale + disparity shift: the same for depth that was "
                    "read off a picture of nearness. off: nothing, as with align_depth off.",
                ),
                io.Combo.Input(
                    "memory_mode",
                    options=[FUSE, APPEND],
                    default=FUSE,
                    optional=True,
                    tooltip="fuse: every place is remembered once, at the finest it was seen; what is known already is "
                    "confirmed and settles at the mean of its depths, and what stands where the camera has looked "
                    "through does not enter. append: every cell is stored again, as the released Mirage does. No "
                    "effect on a memory of the kind rgb.",
                ),
                io.Float.Input(
                    "budget_mib",
                    default=0.0,
                    min=0.0,
                    max=1048576.0,
                    step=1.0,
                    optional=True,
                    tooltip="What the memory may take, in MiB; 0 = no limit. When it would be more, repeated, rarely seen and old points go first. "
                    "An hour of new ground takes some hundred MiB. Only with fuse and a memory of latents; the report says when it is not kept.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=HALF,
                    optional=True,
                    advanced=True,
                    tooltip="How latents are kept in the memory. half: errors of 0.03 %, far below what a VAE does, at half the size. Only with fuse.",
                ),
                io.Boolean.Input(
                    "refine_poses",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="The model does not follow the path exactly. On: the cameras are corrected, by a few degrees at most, so that the "
                    "segment's depth lies on what is remembered. The film's path stays as it is; the report says how far they went.",
                ),
                io.Boolean.Input(
                    "keep_movers",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Experimental. What moves at the end of the segment is shown to the next one for a second, going on at its speed and "
                    "fading from its outline inwards, so that it does not vanish at the border. It is never remembered. Needs mover_mask.",
                ),
                io.Mask.Input(
                    "mover_mask",
                    optional=True,
                    tooltip="White = moves, one mask per frame, or per frame that Frames for Depth picks. Only read with keep_movers.",
                ),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory with the segment in it; connect to the next segment or to Segment Loop End."),
                io.String.Output(display_name="report", tooltip="What was written and how well the depth fitted, in one line."),
                io.Image.Output(
                    display_name="written",
                    tooltip="What became of each latent cell, one picture per latent frame (the overlap first, black). Green: new. Blue: finer than "
                    "before. Grey: already known. Red: moves, in front of known ground. Pink: contradicts what is remembered. Brown: at an "
                    "edge. Black: masked or without depth.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, memory: Rollout, segment, geometry=None, static_mask=None, align_depth=True, images=None, vae=None,
        update=_LATENTS, alignment=AUTO, memory_mode=FUSE, budget_mib=0.0, precision=HALF,
        refine_poses=False, keep_movers=False, mover_mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        with named_errors(memory, "Write Memory"):
            planned = memory.next_segment
            latents = to_normalised(segment["samples"], memory.grid)
            view = segment.get(SEGMENT_VIEW) or next_view(memory, vae)[0]
            fitted = None
            if geometry is None:
                known, note = memory.memory, "no geometry: nothing new is remembered"
                picture = unwritten_picture(memory)
            else:
                lifted, how = latents, ""
                if update == _RE_ENCODE and not is_rgb(memory.memory):
                    lifted, how = re_encoded(memory, images, static_mask, vae), "re-encoded, "
                shape = read_geometry(geometry, is_moge2=is_moge2_behind(cls.hidden, "geometry"))
                alignment = alignment if align_depth else OFF
                fitted = fitted_depth(memory, view, shape, static_mask, alignment=alignment, refine_poses=refine_poses)
                written = written_segment(
                    memory,
                    lifted,
                    fitted,
                    static_mask,
                    images=images,
                    mode=memory_mode,
                    budget_mib=budget_mib,
                    features=PRECISIONS[precision],
                )
                known, note, picture = written.memory, how + written.note, written.picture
            movers = None
            if keep_movers:
                movers, kept = kept_movers(memory, latents, fitted, mover_mask)
                note = f"{note}, {kept}"
            fit = None if fitted is None else fitted.last_fit
            grown = memory.extended(latents, view, memory=known, note=note, depth_fit=fit, movers=movers)
        remember_scene(grown)
        report = f"segment {planned.index + 1}: {note}"
        tell(report, cls.hidden)
        return io.NodeOutput(grown, report, picture)


def view_picture(view: MemoryView, *, scale: int = 8) -> torch.Tensor:
    """The view in rough colours [frames height width 3] in [0, 1], unknown cells dark, enlarged cell by cell."""
    rgb = latent_preview(view.latents)
    rgb = torch.where(view.is_covered.cpu()[..., None], rgb, 0.06)
    return rgb.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
