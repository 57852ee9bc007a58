"""Save Memory and Load Memory: a library of worlds, so that tomorrow's shot starts in yesterday's."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..mirage_core.camera import pinhole_intrinsics
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.memory import LatentMemory
from ..mirage_core.memory_files import load_memory
from ..mirage_core.rgb_memory import is_rgb
from ..mirage_core.rollout import Rollout, Shot
from ..mirage_core.scene_files import MAX_PLACES, KeptScene, has_places, load_scene
from .host_files import output_name, saved
from .host_latents import encode_picture, fit_image
from .memory_library import FOLDER, keep_memory, listed_memories, memory_path
from .path_nodes import ASSUMED_FOV
from .scenes import remember_scene
from .sockets import MirageMemory, MiragePath
from .telling import tell
from .vae_origin import origin_of

_NO_FILE = "none"
_MAX_TOLD = 60
_OTHER_VAE = (
    "The memory was made with another VAE than the one that is connected, which reads its latents as noise. Connect the "
    "VAE the memory was made with."
)


class SaveMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSaveMemory",
            display_name="Save Memory",
            category="Mirage",
            description="Keeps the memory in a file, with the places of the film at which a later film can start.",
            search_aliases=["keep world", "store memory", "scene library", "point cloud"],
            is_output_node=True,
            inputs=[
                MirageMemory.Input("memory", tooltip="A memory, at any moment of the film."),
                io.String.Input("name", default="world", tooltip=f"Name of the file in output/{FOLDER}; '/' makes subfolders, a number is put behind it."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The same memory."),
                io.String.Output(display_name="file", tooltip="The written file, within the output folder."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def execute(cls, memory: Rollout, name) -> io.NodeOutput:
        path = keep_memory(memory, name)
        text = (
            f"{output_name(path)}: {memory.memory.count} points, {path.stat().st_size / 2**20:.1f} MiB, "
            f"{min(MAX_PLACES, memory.segments_done + 1)} places to start at"
        )
        tell(text, cls.hidden)
        return io.NodeOutput(memory, output_name(path), ui=saved([path], text=text))


class LoadMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoadMemory",
            display_name="Load Memory",
            category="Mirage",
            description="Starts a new film in the world of an earlier one: everything it remembered is there.",
            search_aliases=["open world", "continue", "scene library", "start from memory"],
            inputs=[
                io.Combo.Input("file", options=[_NO_FILE, *listed_memories()], default=_NO_FILE, tooltip=f"A memory in output/{FOLDER} or models/{FOLDER}, newest first. Press R after saving a new one."),
                io.Int.Input("place", default=-1, min=-1000, max=1000, tooltip="Where the new film starts: 0 at the first picture of the old one, 1 at the end of its segment 1 and so on, -1 where it ended."),
                MiragePath.Input("path", optional=True, tooltip="Where the camera goes from there. Not needed in front of Segment Loop Start that has a path, nor to look at, edit or merge the memory."),
                io.Image.Input("image", optional=True, tooltip="Another first picture, taken from the very camera of the place: the last frame repainted, for example. Needs vae."),
                io.Vae.Input("vae", optional=True, tooltip="The Wan2.2 VAE; only for image."),
            ],
            outputs=[
                MirageMemory.Output(display_name="memory", tooltip="The memory, at the start of a new film; connect it like that of Init Latent Memory."),
                io.String.Output(display_name="report", tooltip="What the file holds and where the film starts."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        if file == _NO_FILE:
            return "Choose a memory; Save Memory makes one."
        try:
            memory_path(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file, **others) -> str:
        try:
            stat = memory_path(file).stat()
        except (ValueError, OSError):
            return file
        return f"{file} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(cls, file, place, path: Shot | None = None, image=None, vae=None) -> io.NodeOutput:
        source = memory_path(file)
        if image is not None and vae is None:
            raise ValueError("image is connected and vae is not. Connect the Wan2.2 VAE, which encodes the picture.")
        if not has_places(source):
            rollout = _without_places(load_memory(source), path, image, vae, name=source.name)
            report = f"{source.name}: {rollout.memory.count} points, without places"
        else:
            scene = load_scene(source)
            first = None if image is None else encode_picture(vae, fit_image(image[:1], scene.cameras.image_size))
            rollout = scene.started(place, shot=path, first_latents=first)
            report = _report(source.name, rollout, scene, place)
            if vae is not None and not is_rgb(scene.memory) and origin_of(vae).is_other_than(scene.origin):
                report += f"\n{_OTHER_VAE}"
                logging.warning("Load Memory: %s", _OTHER_VAE)
        remember_scene(rollout)
        tell(report, cls.hidden)
        return io.NodeOutput(rollout, report)


def _without_places(memory: LatentMemory, path: Shot | None, image, vae, *, name: str) -> Rollout:
    """A film in a memory that has no places, from the camera that is its world."""
    if path is None or image is None:
        raise ValueError(
            f"{name} holds a memory without its film. Connect path, and image with vae: the film then starts at the "
            "camera that the memory's world is made from."
        )
    depth = memory.points[:, 2]
    in_front = depth[depth > 0]
    unit_length = float(in_front.median()) if len(in_front) else 1.0
    intrinsics = pinhole_intrinsics(path.fov_degrees or ASSUMED_FOV, path.image_size)
    latents = encode_picture(vae, fit_image(image[:1], path.image_size))
    cameras = path.cameras(intrinsics=intrinsics, unit_length=unit_length)
    grid = WAN22 if is_rgb(memory) else memory.grid
    return Rollout.started(
        memory, latents, cameras, fps=path.fps, unit_length=unit_length, grid=grid, origin=origin_of(vae)
    )


def _report(name: str, rollout: Rollout, scene: KeptScene, place: int) -> str:
    points = f"{name}: {rollout.memory.count} points"
    height, width = scene.cameras.image_size
    places = len(scene.frames)
    return (
        f"{points} of {scene.latent_frames} latent frames at {width}x{height}, {places} places; the film starts at place "
        f"{place % places}, frame {scene.frames[place]} of the old film. {_told(scene, 'made_by')} {_told(scene, 'made_at')}".strip()
    )


def _told(scene: KeptScene, name: str) -> str:
    """A stranger's word on where a file is from: short, on one line."""
    text = str(scene.provenance.get(name, ""))[:_MAX_TOLD]
    return text if text.isprintable() else ascii(text)
