"""Init Latent Memory, Project Memory, Write Memory."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mirage_core.camera import Cameras
from ..mirage_core.depth import align_scale, latent_depth, median_depth
from ..mirage_core.latent_grid import WAN22, LatentGrid
from ..mirage_core.masks import latent_frame_mask, latent_mask
from ..mirage_core.memory import LatentMemory, lift
from ..mirage_core.rollout import Rollout, Shot
from ..mirage_core.zbuffer import MemoryView, project
from .geometry import Geometry, picture_intrinsics, read_geometry
from .host_latents import encode_picture, fit_image, fit_maps, latent_preview, to_normalised
from .segment_errors import named_errors
from .sockets import DA3Geometry, MirageMemory, MiragePath, MirageView, MoGeGeometry

SEGMENT_VIEW = "mirage_view"  # key under which Generate Segment hands its view on inside the LATENT


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
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory and the film so far: the one value that travels through all Mirage nodes."),
                io.Image.Output(display_name="start", tooltip="The first picture as the film uses it."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, vae, geometry, path: Shot, static_mask=None, cell_rule="center") -> io.NodeOutput:
        grid = LatentGrid(cell_rule=cell_rule)
        start = fit_image(image[:1], path.image_size)
        latents = encode_picture(vae, start)
        shape = read_geometry(geometry).frames([0])
        _check_same_shape(shape, image)
        shape = shape.fitted(path.image_size)
        intrinsics = picture_intrinsics(shape, path.image_size, path.fov_degrees)
        unit_length = median_depth(shape.depth)
        cameras = path.cameras(intrinsics=intrinsics, unit_length=unit_length)
        rollout = Rollout.started(
            LatentMemory.empty(grid), latents, cameras, fps=path.fps, unit_length=unit_length
        )  # fmt: skip
        is_static = (
            None if static_mask is None else _is_static(fit_maps(static_mask[:1], path.image_size), 1, rollout.size)
        )
        depth = latent_depth(shape.depth, rollout.size)
        block = lift(
            latents,
            depth,
            cameras[[0]],
            grid,
            is_static=is_static,
            confidence=_at_cells(shape.confidence, rollout.size),
        )
        if not (depth > 0).any():
            raise ValueError(
                "No latent cell of the picture has one clear surface in the depth map: it is noise at this size. "
                "Check the depth model, or use Simple Depth."
            )
        if len(block) == 0:
            raise ValueError(
                "Nothing of the first picture may be remembered: the mask excludes every cell that has a depth. "
                "Lower the thresholds of Dynamic/Sky Mask, or leave static_mask unconnected."
            )
        memory = rollout.memory.extended(block)
        return io.NodeOutput(Rollout.started(memory, latents, cameras, fps=path.fps, unit_length=unit_length), start)


class ProjectMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageProjectMemory",
            display_name="Project Memory",
            category="Mirage",
            description="What the memory shows to the cameras of the next segment, as latents: no pixels, no VAE.",
            search_aliases=["mirage", "memory", "read", "render", "coverage"],
            inputs=[
                MirageMemory.Input("memory", tooltip="The memory to look at."),
                MiragePath.Input(
                    "path",
                    optional=True,
                    tooltip="Look along another path, only to see what the memory would show. Generate Segment needs the view without it.",
                ),
            ],
            outputs=[
                MirageView.Output(display_name="view", tooltip="Latents the memory shows and where it covers; connect to Generate Segment."),
                io.Mask.Output(display_name="coverage", tooltip="White where the memory covers the frame, one mask per latent frame, at latent size."),
                io.Image.Output(display_name="preview", tooltip="The view in rough colours, one picture per latent frame; unknown parts are dark."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, path: Shot | None = None) -> io.NodeOutput:
        with named_errors(memory, "Project Memory"):
            if path is None:
                view = memory.view(memory.next_segment)
            else:
                cameras = path.cameras(intrinsics=memory.cameras.intrinsics[0], unit_length=memory.unit_length)
                stride = memory.memory.grid.temporal_stride
                view = project(memory.memory, cameras[list(range(0, len(cameras), stride))], memory.size)
        return io.NodeOutput(view, view.is_covered.float().cpu(), view_picture(view))


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
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory with the segment in it; connect to the next segment or to Segment Loop End."),
                io.String.Output(display_name="report", tooltip="What was written and how well the depth fitted, in one line."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, segment, geometry=None, static_mask=None, align_depth=True) -> io.NodeOutput:
        with named_errors(memory, "Write Memory"):
            planned = memory.next_segment
            latents = to_normalised(segment["samples"], memory.memory.grid)
            view = segment.get(SEGMENT_VIEW) or memory.view(planned)
            if geometry is None:
                block, note = None, "no geometry: nothing new is remembered"
            else:
                block, note = _segment_block(memory, latents, view, read_geometry(geometry), static_mask, align_depth)
            grown = memory.extended(latents, view, block, note=note)
        return io.NodeOutput(grown, f"segment {planned.index + 1}: {note}")


def _segment_block(memory: Rollout, latents, view: MemoryView, shape: Geometry, static_mask, align_depth: bool):
    """The points of a segment's new latent frames, and a line about them."""
    planned, grid = memory.next_segment, memory.memory.grid
    count = planned.latent_frames
    if shape.depth.shape[0] == planned.model_frames and planned.model_frames != count:
        shape = shape.frames(list(range(0, planned.model_frames, grid.temporal_stride)))
    if shape.depth.shape[0] != count:
        raise ValueError(
            f"There are {shape.depth.shape[0]} depth maps; the segment has {planned.model_frames} frames. Give depth of all "
            f"of them, or of the {count} that Frames for Depth picks."
        )
    depth = latent_depth(shape.depth, memory.size)
    note = ""
    if align_depth:
        scale = align_scale(depth, view.depth.cpu(), view.is_covered.cpu())
        depth = scale.apply(depth)
        note = f", depth scaled by {float(scale.scales.mean()):.3f}"
    # The overlap frame is in the memory already, from the segment before.
    new = slice(1, None)
    is_static = torch.ones(count, *memory.size, dtype=torch.bool)
    if static_mask is not None:
        is_static = _is_static(static_mask, count, memory.size)
    cameras: Cameras = memory.cameras_of(planned)[new]
    confidence = _at_cells(shape.confidence, memory.size)
    block = lift(
        latents[:, new],
        depth[new],
        cameras,
        grid,
        is_static=is_static[new],
        confidence=None if confidence is None else confidence[new],
        first_latent_index=memory.film.shape[1],
    )
    cells = depth[new].numel()
    return (
        block,
        f"{len(block.points)} of {cells} cells written{note}, {memory.memory.count + len(block.points)} points in all",
    )


def _is_static(static_mask: torch.Tensor, latent_frames: int, size: tuple[int, int]) -> torch.Tensor:
    is_excluded = 1 - static_mask.float().cpu()
    if is_excluded.shape[0] == 1:
        is_excluded = is_excluded.expand(latent_frames, -1, -1)
    elif is_excluded.shape[0] == WAN22.frames(latent_frames):
        is_excluded = latent_frame_mask(is_excluded, WAN22)
    if is_excluded.shape[0] != latent_frames:
        raise ValueError(
            f"The static mask has {is_excluded.shape[0]} frames; the segment has {WAN22.frames(latent_frames)} "
            f"({latent_frames} latent frames). Make the mask from the segment's own frames."
        )
    return latent_mask(is_excluded, size)


def _at_cells(confidence: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor | None:
    return None if confidence is None else torch.nn.functional.adaptive_avg_pool2d(confidence, size)


def _check_same_shape(shape: Geometry, image: torch.Tensor) -> None:
    height, width = shape.depth.shape[1:]
    if abs(width / height - image.shape[2] / image.shape[1]) > 0.02 * width / height:
        raise ValueError(
            f"The depth map is {width}x{height} and the picture {image.shape[2]}x{image.shape[1]}: not the same crop. "
            "Estimate the depth from the very picture that goes into image."
        )


def view_picture(view: MemoryView, *, scale: int = 8) -> torch.Tensor:
    """The view in rough colours [frames height width 3] in [0, 1], unknown cells dark, enlarged cell by cell."""
    rgb = latent_preview(view.latents)
    rgb = torch.where(view.is_covered.cpu()[..., None], rgb, 0.06)
    return rgb.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
