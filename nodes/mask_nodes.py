"""Dynamic/Sky Mask: what may be remembered, from thresholds alone or from Scene Evidence and tuned rules."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..mirage_core.evidence import Evidence, mask_score
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.mask_rules import DerivedMask, MaskRules, derived_cells, derived_mask, static_mask
from ..mirage_core.masks import area_resampled, grown, is_depth_edge, is_least_sure, is_sky
from .geometry import Geometry, read_geometry
from .mask_pictures import cell_overlay, mask_overlay, small_pictures
from .mask_previews import PREVIEWS, running_node
from .sockets import DA3Geometry, MirageEvidence, MirageMaskRules, MoGeGeometry

_WITHOUT = " With evidence connected the tuning decides instead."


class DynamicSkyMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageDynamicSkyMask",
            display_name="Dynamic/Sky Mask",
            category="Mirage",
            description="Says what may be remembered: not the sky, not what moves, not what the depth model is unsure of.",
            search_aliases=["mask", "sky", "dynamic", "static", "movers", "sam3", "tune"],
            inputs=[
                io.Image.Input("images", tooltip="The picture, or the frames of a segment."),
                io.MultiType.Input("geometry", types=[MoGeGeometry, DA3Geometry], optional=True, tooltip="Its sky and its confidence are used where the depth model gives them. Not needed with evidence, which has them already."),
                io.Mask.Input("moving", optional=True, tooltip="White = moves, not remembered: from SAM3, or painted. One mask per frame, or one for all."),
                io.Mask.Input("keep", optional=True, tooltip="White = remember in any case: painted over what the other masks take away by mistake."),
                io.Float.Input("sky_threshold", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="A pixel is sky from this probability on. Lower takes more for sky; 1 ignores the sky of models that are never fully sure." + _WITHOUT),
                io.Float.Input("drop_unsure", default=0.0, min=0.0, max=0.9, step=0.01, tooltip="Share of each frame's pixels with the lowest depth confidence that is not remembered (0.1 = the worst tenth). Needs a depth model with confidence." + _WITHOUT),
                io.Float.Input("depth_edge", default=0.0, min=0.0, max=2.0, step=0.01, tooltip="Leave out pixels at depth steps larger than this share of the depth (0.1 = 10 %). 0 = off; Mirage finds the dominant surface of edge cells by itself." + _WITHOUT, advanced=True),
                io.Int.Input("grow", default=4, min=0, max=256, tooltip="Grow sky and movers by this many pixels, for soft edges and shadows." + _WITHOUT),
                MirageEvidence.Input("evidence", optional=True, tooltip="From Scene Evidence, of the same images. The mask is then tuned with the sliders below, live and without running anything again."),
                MirageMaskRules.Input("tuning", optional=True, extra_dict={"default": {}}, tooltip="The sliders of the tuner, as plain JSON. What is not in it keeps its default. Only used with evidence."),
            ],
            outputs=[
                io.Mask.Output(display_name="static_mask", tooltip="White = may be remembered; connect to Init Latent Memory or Write Memory."),
                io.Image.Output(display_name="overlay", tooltip="The frames in four colours: green will be written, blue is sky, red moves, amber is uncertain."),
                io.Image.Output(display_name="cells", tooltip="The same at latent cells, one picture per latent frame: exactly what the memory takes, with the cells that the VAE mixes with a left-out neighbour left out too."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, sky_threshold, drop_unsure, depth_edge, grow, geometry=None, moving=None, keep=None,
        evidence: Evidence | None = None, tuning=None,
    ) -> io.NodeOutput:  # fmt: skip
        frames, image_size = images.shape[0], (int(images.shape[1]), int(images.shape[2]))
        if evidence is None:
            shape = None if geometry is None else _same_frames(read_geometry(geometry), frames)
            moves = None if moving is None else _painted(moving, "moving", frames, image_size)
            kept = None if keep is None else _painted(keep, "keep", frames, image_size)
            mask = _thresholded(
                (frames, *image_size), shape, moves, kept, sky_threshold=sky_threshold, drop_unsure=drop_unsure,
                depth_edge=depth_edge, grow=grow,
            )  # fmt: skip
            return io.NodeOutput(*_shown(images, mask, stride=1))
        rules = MaskRules.of(tuning)
        _check_same_images(evidence, frames, image_size)
        painted, kept = (
            None if mask is None else mask_score(mask.cpu(), frames, image_size, name=name)
            for name, mask in (("moving", moving), ("keep", keep))
        )
        node = running_node()
        if node is not None:
            PREVIEWS.remember(node, evidence, small_pictures(images, evidence.size), painted, kept)
        mask = derived_mask(evidence, rules, painted=painted, kept=kept)
        told = "   ".join(f"{name} {share:.1%}" for name, share in mask.shares.items())
        return io.NodeOutput(*_shown(images, mask, stride=evidence.stride), ui=ui.PreviewText(told))


def _shown(images: torch.Tensor, mask: DerivedMask, *, stride: int) -> tuple[torch.Tensor, ...]:
    """static_mask, overlay and cells."""
    images, image_size = images.cpu(), (int(images.shape[1]), int(images.shape[2]))
    size = (max(1, image_size[0] // WAN22.spatial_stride), max(1, image_size[1] // WAN22.spatial_stride))
    cells = derived_cells(mask, size, stride=stride)
    ends = images if len(cells.is_static) == len(images) else images[:: WAN22.temporal_stride]
    return static_mask(mask, image_size), mask_overlay(images, mask), cell_overlay(ends, cells)


def _thresholded(
    shape: tuple[int, int, int], geometry: Geometry | None, moves: torch.Tensor | None, kept: torch.Tensor | None,
    *, sky_threshold: float, drop_unsure: float, depth_edge: float, grow: int,
) -> DerivedMask:  # fmt: skip
    """The mask without evidence, at the frames' own size. moves, kept: [frames H W] bool."""
    none = torch.zeros(shape, dtype=torch.bool)
    sky, unsure, size = none, none, shape[1:]
    if geometry is not None:
        if geometry.sky is not None:
            sky = _at_size(is_sky(geometry.sky, threshold=sky_threshold), size)
        if geometry.confidence is not None and drop_unsure > 0:
            unsure = _at_size(is_least_sure(geometry.confidence, share=drop_unsure), size)
        if depth_edge > 0:
            unsure = unsure | _at_size(is_depth_edge(geometry.depth, min_step=depth_edge), size)
    moves, kept = none if moves is None else moves, none if kept is None else kept
    sky, moves = _grown_or_none(sky, grow) & ~kept, _grown_or_none(moves, grow) & ~kept
    unsure = unsure & ~kept
    return DerivedMask(sky, moves, unsure, (sky | moves | unsure).byte() * 255)


def _grown_or_none(mask: torch.Tensor, steps: int) -> torch.Tensor:
    """The mask grown by `steps` pixels; an empty mask costs nothing."""
    return grown(mask, steps) if steps and mask.any() else mask


def _check_same_images(evidence: Evidence, frames: int, image_size: tuple[int, int]) -> None:
    if (evidence.frames, evidence.image_size) != (frames, image_size):
        height, width = evidence.image_size
        raise ValueError(
            f"The evidence is of {evidence.frames} frames of {width}x{height}, the images are {frames} of "
            f"{image_size[1]}x{image_size[0]}. Connect the same images to Scene Evidence and to Dynamic/Sky Mask."
        )


def _same_frames(shape: Geometry, frames: int) -> Geometry:
    count = shape.depth.shape[0]
    if count == frames:
        return shape
    if count == WAN22.frames(frames):
        return shape.frames(list(range(0, count, WAN22.temporal_stride)))
    raise ValueError(f"There are {frames} frames and {count} depth maps. Make the geometry from the same frames.")


def _at_size(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return mask if tuple(mask.shape[1:]) == tuple(size) else area_resampled(mask, size) > 0.5


def _painted(mask: torch.Tensor, name: str, frames: int, size: tuple[int, int]) -> torch.Tensor:
    mask = mask.float().cpu()
    if mask.shape[0] == WAN22.frames(frames) != frames:
        mask = mask[:: WAN22.temporal_stride]
    if mask.shape[0] not in (1, frames):
        raise ValueError(f"{name} has {mask.shape[0]} masks for {frames} frames. Give one per frame, or one for all.")
    return _at_size(mask > 0.5, size).expand(frames, -1, -1)
