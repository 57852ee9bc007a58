"""Export Memory: what is remembered and where the camera was, for 3D tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from comfy_api.latest import io

from ..mirage_core.camera import Cameras
from ..mirage_core.path_formats import CameraTrack, encode, frame_table, write_colmap, write_ply
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout
from .host_files import filled, output_name, saved, taken_place
from .host_latents import fit_image, latent_preview
from .sockets import MirageMemory
from .telling import tell

_ALL = ["points .ply", "COLMAP folder", "cameras .json and .csv"]


class ExportMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageExportMemory",
            display_name="Export Memory",
            category="Mirage",
            description="Writes the memory's points, the film's cameras and their metadata for Blender, COLMAP, nerfstudio, splat trainers.",
            search_aliases=["ply", "point cloud", "colmap", "3d", "gaussian splat", "save points"],
            is_output_node=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="A memory, at any moment of the film."),
                io.Combo.Input("what", options=["everything", *_ALL], default="everything", tooltip="Coloured points; a COLMAP model of the film's cameras and the points; or the camera of every frame as a table."),
                io.String.Input("filename_prefix", default="exports/mirage", tooltip="Name of a folder in ComfyUI's output folder; '/' makes subfolders, a number is put behind it."),
                io.Image.Input("images", optional=True, tooltip="All decoded frames of the film: points then get the colours of the pictures. Without them, the rough colours of latents."),
                io.Combo.Input("world", options=["opencv", "y_up", "z_up"], default="opencv", optional=True, tooltip="Axes of the .ply. opencv fits the COLMAP folder and nerfstudio; y_up glTF, Nuke and ComfyUI's 3D viewers; z_up Blender."),
                io.Float.Input("min_confidence", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip="Leave out points of less confidence than this. With memory_mode fuse, seen once gives up to 0.5, twice 0.75; points of the first picture, and of append, have what the depth model said, or 1."),
            ],
            outputs=[
                io.String.Output(display_name="folder", tooltip="The written folder, within the output folder."),
                io.String.Output(display_name="ply", tooltip="The written .ply within the output folder, empty when none was asked for."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        memory: Rollout,
        what,
        filename_prefix,
        images=None,
        world: Literal["opencv", "y_up", "z_up"] = "opencv",
        min_confidence=0.0,
    ) -> io.NodeOutput:
        wanted = _ALL if what == "everything" else [what]
        points, colors, confidence, latent_index = _points(memory, images, min_confidence)
        names = tuple(f"frame_{frame:05d}.png" for frame in range(len(memory.cameras)))
        track = CameraTrack(memory.cameras, memory.fps, names)
        files: dict[str, bytes] = {}
        if _ALL[0] in wanted:
            files["points.ply"] = write_ply(
                points, colors, world=world, confidence=confidence, latent_index=latent_index
            )
        if _ALL[1] in wanted:
            model = write_colmap(track, points, colors)
            files |= {f"colmap/sparse/0/{name}": content for name, content in model.items()}
        if _ALL[2] in wanted:
            files["cameras.json"] = encode(track, "json")["camera.json"]
            files["cameras.csv"] = frame_table(track).encode()
            files["film.json"] = _film(memory)
        folder = taken_place(filename_prefix, "")
        name = output_name(folder)
        written = _write(folder, files)
        ply = f"{name}/points.ply" if "points.ply" in files else ""
        text = f"{name}: {len(points)} points, {len(memory.cameras)} cameras, {len(files)} files"
        tell(text, cls.hidden)
        return io.NodeOutput(name, ply, ui=saved(written, text=text))


def _points(memory: Rollout, images, min_confidence: float):
    """Points, their colours [points 3], confidence and latent frame, for the points that are sure enough."""
    known = memory.memory
    joined = {
        name: torch.cat([getattr(block, name).cpu() for block in known.blocks])
        for name in ("points", "latents", "confidence", "latent_index")
    } if known.blocks else {}  # fmt: skip
    if not joined or not (keep := joined["confidence"] >= min_confidence).any():
        raise ValueError(
            "The memory has no point to export. Connect a memory after Init Latent Memory, or lower min_confidence."
        )
    joined = {name: values[keep] for name, values in joined.items()}
    if is_rgb(known):
        colors = joined["latents"].float()
    elif images is None:
        colors = latent_preview(joined["latents"].float().T[:, :, None, None])[:, 0, 0]
    else:
        colors = latent_preview(joined["latents"].float().T[:, :, None, None])[:, 0, 0]
        is_own = joined["latent_index"] >= 0  # those of earlier films are not in the frames of this one
        colors[is_own] = frame_colors(joined["points"][is_own], joined["latent_index"][is_own], images, memory)
    return joined["points"], colors, joined["confidence"], joined["latent_index"]


def frame_colors(
    points: torch.Tensor, latent_index: torch.Tensor, images: torch.Tensor, memory: Rollout
) -> torch.Tensor:
    """[points 3] colours in [0, 1]: each point as the decoded frame shows it from which it was remembered.

    points: [points 3].  latent_index: [points].  images: [frames height width 3], all decoded frames of the film.
    Raises ValueError when the frames are not those of the film.
    """
    stride, filmed = memory.grid.temporal_stride, memory.filmed_frames
    if images.shape[0] != filmed:
        raise ValueError(
            f"There are {images.shape[0]} images; the film has {filmed} frames so far. Connect all decoded frames of this "
            "film (Get Video Components behind Decode Film), or none."
        )
    colors = torch.zeros(len(points), 3)
    for latent_frame in latent_index.unique().tolist():
        rows = (latent_index == latent_frame).nonzero()[:, 0]
        frame = latent_frame * stride
        picture = fit_image(images[frame : frame + 1], memory.cameras.image_size)[0].cpu().float()
        colors[rows] = _seen(points[rows].double(), memory.cameras[[frame]], picture)
    return colors


def _seen(points: torch.Tensor, camera: Cameras, picture: torch.Tensor) -> torch.Tensor:
    """Colours [points 3] of a picture [height width 3] at the places of points; each lies in front of the camera."""
    to_image = camera.intrinsics[0] @ camera.world2cam[0, :3]
    u, v, z = (points @ to_image[:, :3].T + to_image[:, 3]).unbind(1)
    height, width = camera.image_size
    place = torch.stack([2 * u / z / width - 1, 2 * v / z / height - 1], dim=1).float()[None, None]
    sampled = torch.nn.functional.grid_sample(
        picture.movedim(-1, 0)[None], place, padding_mode="border", align_corners=False
    )
    return sampled[0, :, 0].T


def _film(memory: Rollout) -> bytes:
    """What a cutter wants to know about the film: rate, size, segments, what each frame knew."""
    height, width = memory.cameras.image_size
    segments = [
        {
            "first_frame": segment.output.start,
            "frames": len(segment.output),
            "known": list(memory.coverage[segment.index]) if segment.index < memory.segments_done else None,
        }
        for segment in memory.plan
    ]
    document = {
        "frames": len(memory.cameras),
        "filmed_frames": memory.filmed_frames,
        "fps": memory.fps,
        "width": width,
        "height": height,
        "median_depth": memory.unit_length,
        "points": memory.memory.count,
        "segments": segments,
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files into a folder. Raises UnwritableFolder when the disk takes no more; nothing of them stays then."""
    with filled(folder):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return [folder / name for name in files]
