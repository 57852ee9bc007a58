"""Load Camera Path, Save Camera Path, WorldScore Moves: paths of other tools as the film's own, and back."""

from __future__ import annotations

import json
from typing import Literal

import torch
from comfy_api.latest import io

from ..mirage_core.camera import Cameras, fov_degrees, pinhole_intrinsics
from ..mirage_core.camera_path import FORMAT, CameraPath, Unit
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.path_formats import (
    FORMATS,
    WORLDSCORE_MOVES,
    CameraTrack,
    ReadOptions,
    decode,
    encode,
    fit_scale,
    fitted,
    read,
    summary,
    worldscore_cameras,
)
from ..mirage_core.path_formats.reading import Axes, Direction
from ..mirage_core.rollout import Rollout, Shot
from .host_files import (
    filled,
    input_path,
    input_problem,
    input_stamp,
    listed_input,
    output_name,
    saved,
    taken_place,
)
from .sockets import MirageMemory, MiragePath

ASSUMED_FOV = 55.0  # fits most phone and film pictures
_NO_FILE = "none"
_EXTENSIONS = {".json", ".txt", ".npy", ".chan", ".gltf", ".glb"}
_SCALES = {"keep": "keep", "fit median depth": "median_depth", "known distance": "known_distance"}
_OFF_CENTER_PIXELS = 0.5

Lens = Literal["picture", "file"]


class LoadCameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoadCameraPath",
            display_name="Load Camera Path",
            category="Mirage/camera",
            description="A camera move from another tool: Blender, Nuke, COLMAP, nerfstudio, glTF, RealEstate10K and more.",
            search_aliases=["import camera", "blender", "colmap", "nerfstudio", "nuke", "chan", "gltf", "realestate10k", "omnicam", "trajectory"],
            inputs=[
                io.Combo.Input("file", options=[_NO_FILE, *listed_input(_EXTENSIONS)], default=_NO_FILE, tooltip="A camera file, or a COLMAP folder, in ComfyUI's input folder. 'none' reads the pasted text instead."),
                io.Combo.Input("format", options=["auto", *FORMATS], default="auto", tooltip="auto recognises the file by its content. Choose one when it cannot."),
                io.Combo.Input(
                    "scale",
                    options=list(_SCALES),
                    default="fit median depth",
                    tooltip="How long the move becomes in your scene. fit median depth: one scene_depth of the file is as far as the middle "
                    "of your picture. known distance: first and last camera end up distance apart. keep: the file's units are those of the depth model.",
                ),
                io.Float.Input("scene_depth", default=1.0, min=1e-6, max=1e6, step=0.01, tooltip="For fit median depth: how far the middle of the scene was where the path was made, in the file's units. A larger number makes the move smaller."),
                io.Float.Input("distance", default=1.0, min=1e-6, max=1e6, step=0.01, tooltip="For known distance: from the first to the last camera, in the depth model's units (metres for metric models)."),
                io.Combo.Input("lens", options=["picture", "file"], default="picture", tooltip="picture: the film keeps the field of view of the first picture. file: it takes the file's, zooms included; right when the path was made for this very picture."),
                io.Int.Input("length", default=0, min=0, max=4097, step=1, tooltip="Frames of the film, 4n+1: the whole move is stretched to it. 0 keeps the file's own frames, at most three left out at the end."),
                io.Int.Input("width", default=1280, min=64, max=4096, step=32, tooltip="Width of the film in pixels, a multiple of 32."),
                io.Int.Input("height", default=704, min=64, max=4096, step=32, tooltip="Height of the film in pixels, a multiple of 32."),
                io.Float.Input("fps", default=0.0, min=0.0, max=120.0, step=1.0, tooltip="Frames per second of the film. 0 takes the file's, or 16 where it has none."),
                io.String.Input("text", default="", multiline=True, optional=True, tooltip="A camera file's content, pasted; read when file is 'none'."),
                io.Float.Input("file_fov", default=ASSUMED_FOV, min=1.0, max=170.0, step=0.5, optional=True, advanced=True, tooltip="Horizontal field of view in degrees for files that do not say theirs (.npy, ReCamMaster, Spatia). Only for lens = file."),
                io.Combo.Input("axes", options=["opencv", "opengl"], default="opencv", optional=True, advanced=True, tooltip="For .npy: which way the cameras look. opencv: y down, z forward. opengl and Blender: y up, looks down -z."),
                io.Combo.Input("direction", options=["cam2world", "world2cam"], default="cam2world", optional=True, advanced=True, tooltip="For .npy: whether the matrices take camera points to the world or world points to the camera."),
                io.String.Input("rotation_order", default="", optional=True, advanced=True, tooltip="For .chan: the order of its angles, such as ZXY (Nuke's own, used when empty) or XYZ."),
                io.String.Input("camera", default="", optional=True, advanced=True, tooltip="Which camera of a file that holds several, by the name or number it has there."),
            ],
            outputs=[
                MiragePath.Output(display_name="path", tooltip="The move with its length and picture size; its first camera is that of the first picture."),
                io.String.Output(display_name="report", tooltip="What was read, in one sentence to check it by, and what was left out."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        return True if file == _NO_FILE else input_problem(file) or True

    @classmethod
    def fingerprint_inputs(cls, file, **others) -> str:
        return file if file == _NO_FILE else input_stamp(file)

    @classmethod
    def execute(
        cls, file, format, scale, scene_depth, distance, lens: Lens, length, width, height, fps, text="",
        file_fov=ASSUMED_FOV, axes: Axes = "opencv", direction: Direction = "cam2world", rotation_order="", camera="",
    ) -> io.NodeOutput:  # fmt: skip
        image_size = (height, width)
        own = _own_path(file, text)
        if own is not None:
            shot = Shot(own, length or 97, image_size, fps=fps or 16.0)
            return io.NodeOutput(
                shot, f"A Mirage camera path with {len(own.keyframes)} keyframes; its own unit and lens are kept."
            )
        options = ReadOptions(
            image_size=image_size,
            intrinsics=pinhole_intrinsics(file_fov, image_size),
            fps=fps or None,
            axes=axes,
            direction=direction,
            rotation_order=rotation_order.strip() or None,
            camera=camera.strip() or None,
        )
        track = read(input_path(file), format, options) if file != _NO_FILE else decode(_pasted(text), format, options)
        cameras, unit = scaled(track.cameras, _SCALES[scale], scene_depth=scene_depth, distance=distance)
        shot = shot_of(CameraTrack(cameras, fps or track.fps), image_size, unit=unit, lens=lens, length=length)
        return io.NodeOutput(shot, f"{summary(track)} {_kept(track, shot, lens)}".strip())


class SaveCameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSaveCameraPath",
            display_name="Save Camera Path",
            category="Mirage/camera",
            description="Writes a camera move as a file for another tool: Blender, Nuke, COLMAP, nerfstudio, glTF and more.",
            search_aliases=["export camera", "blender", "colmap", "nerfstudio", "nuke", "chan", "gltf", "trajectory"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("format", options=[name for name, row in FORMATS.items() if row.write], default="json", tooltip="The tool's format; the help page has the conventions of each. json is also for Blender, by the script in workflows/blender."),
                io.String.Input("filename_prefix", default="cameras/mirage", tooltip="Name in ComfyUI's output folder; '/' makes subfolders, a number is put behind it."),
                MiragePath.Input("path", optional=True, tooltip="The path to write. Without it, the cameras of memory's film."),
                MirageMemory.Input("memory", optional=True, tooltip="Gives the scene's scale and field of view, so that the file fits an exported memory. Without it one median depth is 1 unit and the field of view the path's own, or 55 degrees."),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The written file or folder, within the output folder.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, format, filename_prefix, path: Shot | None = None, memory: Rollout | None = None) -> io.NodeOutput:
        track = track_of(path, memory)
        files = encode(track, format)
        target = taken_place(filename_prefix, FORMATS[format].extension if len(files) == 1 else "")
        written = [target] if len(files) == 1 else [target / name for name in files]
        with filled(target):
            for file, content in zip(written, files.values(), strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        name = output_name(target)
        return io.NodeOutput(name, ui=saved(written, text=f"{name}: {summary(track)}"))


class WorldScoreMoves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        moves = list(WORLDSCORE_MOVES)
        return io.Schema(
            node_id="MirageWorldScoreMoves",
            display_name="WorldScore Moves",
            category="Mirage/camera",
            description="The ten camera moves of the WorldScore benchmark, one or up to three in a row.",
            search_aliases=["benchmark", "worldscore", "preset", "push in", "pull out", "orbit"],
            inputs=[
                io.Combo.Input("move", options=moves, default=moves[0], tooltip="The first move, exactly as the benchmark makes it: 30 degrees for turns and orbits, whole or part units for shifts."),
                io.Combo.Input("then", options=[_NO_FILE, *moves], default=_NO_FILE, optional=True, tooltip="A second move that begins where the first ends."),
                io.Combo.Input("last", options=[_NO_FILE, *moves], default=_NO_FILE, optional=True, tooltip="A third move."),
                io.Int.Input("frames_per_move", default=33, min=5, max=1025, step=4, tooltip="Frames of each move, 4n+1; neighbouring moves share one frame."),
                io.Float.Input("unit", default=1.0, min=0.01, max=100.0, step=0.05, tooltip="Length of the benchmark's camera_speed in median depths of the scene: 1 orbits the middle of the scene, 0.5 moves half as far."),
                io.Int.Input("width", default=1280, min=64, max=4096, step=32, tooltip="Width of the film in pixels, a multiple of 32."),
                io.Int.Input("height", default=704, min=64, max=4096, step=32, tooltip="Height of the film in pixels, a multiple of 32."),
                io.Float.Input("fps", default=16.0, min=1.0, max=120.0, step=1.0, tooltip="Frames per second of the film."),
            ],
            outputs=[MiragePath.Output(display_name="path", tooltip="The moves as a path; connect to Init Latent Memory.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, move, frames_per_move, unit, width, height, fps, then=_NO_FILE, last=_NO_FILE
    ) -> io.NodeOutput:  # fmt: skip
        WAN22.latent_frames(frames_per_move)
        moves = [one for one in (move, then, last) if one != _NO_FILE]
        image_size = (height, width)
        cameras = worldscore_cameras(
            moves,
            frames_per_move,
            intrinsics=pinhole_intrinsics(ASSUMED_FOV, image_size),
            image_size=image_size,
            unit=unit,
        )
        track = CameraTrack(cameras, fps)
        return io.NodeOutput(shot_of(track, image_size, unit="median_depth", lens="picture", length=0))


def scaled(cameras: Cameras, how: str, *, scene_depth: float, distance: float) -> tuple[Cameras, Unit]:
    """The cameras at the scale a user chose, and the unit their lengths then have.

    how: keep, median_depth or known_distance.  scene_depth: median depth of the path's own scene, units of the file.
    distance: from the first to the last camera, world units.
    """
    if how == "median_depth":
        # Measured in median depths, a path waits for the depth of the picture that it will be filmed with.
        return fit_scale(cameras, "median_depth", scene_median_depth=1.0, path_median_depth=scene_depth), "median_depth"
    if how == "known_distance":
        return fit_scale(cameras, "known_distance", distance=distance), "world"
    return cameras, "world"


def shot_of(track: CameraTrack, image_size: tuple[int, int], *, unit: Unit, lens: Lens, length: int) -> Shot:
    """A film along given cameras; the first becomes the identity.

    length: pixel frames the whole move is stretched to; 0 keeps the cameras as they are, the last up to three left out
        so that there are 4n+1.
    lens: "picture" leaves the field of view to the first picture; "file" takes that of the cameras.
    Raises ValueError for fewer than 5 cameras with length 0.
    """
    cameras = fitted(track.cameras, image_size)
    if length == 0:
        stride = WAN22.temporal_stride
        length = (len(cameras) - 1) // stride * stride + 1
        if length < stride + 1:
            raise ValueError(
                f"The file has {len(cameras)} cameras, too few for a film of their own. Set length, so that the move is "
                "stretched to it."
            )
        cameras = cameras[list(range(length))]
    fov = None
    if lens == "file":
        fov = fov_degrees(cameras.intrinsics[0], image_size)
    else:
        same = pinhole_intrinsics(ASSUMED_FOV, image_size).expand(len(cameras), 3, 3)
        cameras = Cameras(cameras.cam2world, same, image_size)
    path = CameraPath.through(cameras, unit=unit)
    if lens == "picture":
        path = without_lens(path)
    return Shot(path, length, image_size, fps=track.fps or 16.0, fov_degrees=fov)


def without_lens(path: CameraPath) -> CameraPath:
    """The same path, whose field of view is that of the scene."""
    keyframes = tuple(type(key)(key.time, key.cam2world) for key in path.keyframes)
    return CameraPath(keyframes, path.unit, path.easing, path.interpolation)


def track_of(path: Shot | None, memory: Rollout | None) -> CameraTrack:
    """The cameras of a path in a film's scene, of a film, or of a path alone.

    Raises ValueError when there is neither.
    """
    if path is None and memory is None:
        raise ValueError("There is nothing to write: connect a path, a memory, or both.")
    if path is None:
        assert memory is not None
        return CameraTrack(memory.cameras, memory.fps)
    if memory is not None:
        intrinsics, unit_length = _intrinsics_in(memory, path), memory.unit_length
    else:
        intrinsics, unit_length = pinhole_intrinsics(path.fov_degrees or ASSUMED_FOV, path.image_size), 1.0
    return CameraTrack(path.cameras(intrinsics=intrinsics, unit_length=unit_length), path.fps)


def _intrinsics_in(memory: Rollout, path: Shot) -> torch.Tensor:
    return fitted(memory.cameras[[0]], path.image_size).intrinsics[0]


def _own_path(file: str, text: str) -> CameraPath | None:
    """A path in Mirage's own keyframe form, which is no file of cameras; None for everything else."""
    content = text
    if file != _NO_FILE:
        path = input_path(file)
        if path.suffix.lower() != ".json" or path.stat().st_size > 2**24:
            return None
        content = path.read_text(encoding="utf-8", errors="replace")
    if FORMAT not in content[:200]:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    is_own = isinstance(document, dict) and document.get("format") == FORMAT
    return CameraPath.from_json(content) if is_own else None


def _pasted(text: str) -> str:
    if not text.strip():
        raise ValueError(
            "No camera file is chosen and no text is pasted. Choose a file, or paste a camera file's content."
        )
    return text


def _kept(track: CameraTrack, shot: Shot, lens: Lens) -> str:
    """What the film takes over from the file and what it does not."""
    cameras = track.cameras
    notes = []
    if shot.frames != len(cameras):
        notes.append(f"{len(cameras)} cameras became {shot.frames} frames.")
    fovs = [fov_degrees(one, cameras.image_size) for one in cameras.intrinsics[[0, -1]]]
    if lens == "picture" and abs(fovs[0] - fovs[1]) > 0.1:
        notes.append("The file zooms; lens = picture leaves that out.")
    height, width = cameras.image_size
    off = (cameras.intrinsics[:, :2, 2] - torch.tensor([width / 2, height / 2])).abs().max()
    if float(off) > _OFF_CENTER_PIXELS:
        notes.append(f"The file's lens is {float(off):.1f} pixels off its middle; the film's is centred.")
    return " ".join(notes)
