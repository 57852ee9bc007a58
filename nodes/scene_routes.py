"""What the path editor asks the server: which scenes there are, their points, and what a path does in them.

The editor draws; everything it shows about a path is computed here, by the code that makes the film. Nothing is
written to disk, and only pages of this server are answered. Every error is JSON: {"error": one sentence}.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image
from server import PromptServer

from ..mirage_core.camera import Cameras, fov_degrees, pinhole_intrinsics
from ..mirage_core.latent_grid import WAN22
from ..mirage_core.preflight import preflight
from ..mirage_core.rgb_memory import is_rgb, render
from ..mirage_core.rollout import Rollout, Shot
from ..mirage_core.segments import plan_segments
from ..mirage_core.zbuffer import project
from .camera_nodes import CameraPathNode, ordered_shot
from .memory_colors import PREVIEW, coloring
from .memory_nodes import view_picture
from .route_answers import Worker, answered, asked
from .scenes import SCENES, ColoredPoints, Scene, colored_points

ASSUMED_FOV = 55.0  # until a geometry model has seen the picture
SCENE_CHANGED = "mirage.scene"
_AFTER = "after"
_MAX_CLIENT = 200

# One heavy question at a time, so that an editor never takes more than one core from a film in the making. The shape of
# a path does not wait for them.
_heavy, _light = Worker("mirage-scene"), Worker("mirage-path")


def add_routes() -> None:
    """Put the routes on the running server. Does nothing without one."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.routes.get("/mirage/scenes")(answered(_scenes))
    server.routes.get("/mirage/points")(answered(_points))
    server.routes.post("/mirage/path")(answered(_path))
    server.routes.post("/mirage/view")(answered(_view))
    server.routes.post("/mirage/preflight")(answered(_preflight))
    SCENES.listeners.append(lambda scene: server.send_sync(SCENE_CHANGED, _described(scene)))


async def _scenes(request: web.Request) -> web.Response:
    return web.json_response([_described(scene) for scene in SCENES.newest_first(_client(request.query))])


async def _points(request: web.Request) -> web.Response:
    """uint32 n, then float32 n x 3 positions and n footprints, then uint8 n x 3 colours; all little-endian."""
    scene = SCENES.get(request.query.get("scene", ""), _client(request.query))
    rollout = scene.rollout if request.query.get("stage", _AFTER) == _AFTER else scene.before or scene.rollout
    points = await _heavy.run(_painted, rollout, request.query.get("color", PREVIEW))
    numbers = [one.numpy().astype("<f4").tobytes() for one in (points.positions, points.footprints)]
    body = [struct.pack("<I", len(points.positions)), *numbers, points.colors.numpy().tobytes()]
    return web.Response(body=b"".join(body), content_type="application/octet-stream")


def _painted(rollout: Rollout, by: str) -> ColoredPoints:
    return colored_points(rollout.memory, colors=coloring(rollout, by))


async def _path(request: web.Request) -> web.Response:
    question = await asked(request)
    return web.json_response(await _light.run(_sampled, _shot(question), _scene(question), _from_here(question)))


async def _view(request: web.Request) -> web.Response:
    question = await asked(request)
    shot, scene, frame = _shot(question), _needed_scene(question), question.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < shot.frames:
        raise ValueError(f"frame is {frame!r}; it is a whole number from 0 to {shot.frames - 1}.")
    picture, coverage = await _heavy.run(picture_from, scene.rollout, shot, frame, _from_here(question))
    return web.Response(body=picture, content_type="image/png", headers={"X-Mirage-Coverage": f"{coverage:.6f}"})


async def _preflight(request: web.Request) -> web.Response:
    question = await asked(request)
    shot, scene = _shot(question), _needed_scene(question)
    found = await _heavy.run(_checked, scene.rollout, shot, _from_here(question))
    return web.Response(text=found, content_type="application/json")


def picture_from(rollout: Rollout, shot: Shot, frame: int, from_here: bool = False) -> tuple[bytes, float]:
    """What a memory shows to one frame of a path, as the PNG of Project Memory's preview, and the share it knows.

    from_here: the path goes on from the newest filmed frame, as one that is given to Segment Loop Start does.
    """
    camera = _cameras_in(rollout, shot, from_here)[[frame]]
    if is_rgb(rollout.memory):
        rendered = render(rollout.memory, camera)
        pictures, is_covered = rendered.pictures, rendered.is_covered
    else:
        view = project(rollout.memory, camera, rollout.size)
        pictures, is_covered = view_picture(view), view.is_covered
    # The host's own preview nodes cut off; rounding would differ from them by one level.
    levels = np.clip(255.0 * pictures[0].cpu().numpy(), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG", compress_level=1)
    return file.getvalue(), float(is_covered.float().mean())


def _checked(rollout: Rollout, shot: Shot, from_here: bool) -> str:
    cameras = _cameras_in(rollout, shot, from_here)
    return preflight(rollout.memory, cameras, rollout.size, unit_length=rollout.unit_length).to_json()


def _sampled(shot: Shot, scene: Scene | None, from_here: bool) -> dict[str, Any]:
    """The path as it will be filmed, in units of the path (median depths, or world units)."""
    if scene is not None and scene.rollout.cameras.image_size == shot.image_size:
        intrinsics, source = _start(scene.rollout, from_here).intrinsics[0], "scene"
    else:
        source = "node" if shot.fov_degrees else "assumed"
        intrinsics = pinhole_intrinsics(shot.fov_degrees or ASSUMED_FOV, shot.image_size)
    cameras = shot.cameras(intrinsics=intrinsics, unit_length=1.0)
    segments = plan_segments(shot.frames, WAN22)
    return {
        "path": json.loads(shot.path.to_json()),
        "cam2world": cameras.cam2world.flatten(1).tolist(),
        "fov_degrees": [fov_degrees(one, shot.image_size) for one in cameras.intrinsics],
        "scene_fov_degrees": fov_degrees(intrinsics, shot.image_size),
        "fov_source": source,
        "image_size": shot.image_size,
        "fps": shot.fps,
        "whole_frames": shot.whole_frames,
        "segments": [[segment.output.start, segment.output.stop - 1] for segment in segments],
    }


def _start(rollout: Rollout, from_here: bool) -> Cameras:
    """The one camera that a path begins at: of the newest filmed frame, or of the first."""
    return rollout.filmed_cameras()[[-1]] if from_here else rollout.cameras[[0]]


def _cameras_in(rollout: Rollout, shot: Shot, from_here: bool) -> Cameras:
    if shot.image_size != rollout.cameras.image_size:
        height, width = rollout.cameras.image_size
        raise ValueError(
            f"The scene was made at {width}x{height}, the path is {shot.image_size[1]}x{shot.image_size[0]}. "
            "Run the workflow once at the new size."
        )
    start = _start(rollout, from_here)
    cameras = shot.cameras(intrinsics=start.intrinsics[0], unit_length=rollout.unit_length)
    return cameras.moved(start.cam2world[0]) if from_here else cameras


def _described(scene: Scene) -> dict[str, Any]:
    rollout = scene.rollout
    return {
        "node": scene.node,
        "client": scene.client,
        "is_edited": scene.before is not None,
        "version": scene.version,
        "points": rollout.memory.count,
        "segments_done": rollout.segments_done,
        "unit_length": rollout.unit_length,
        "image_size": rollout.cameras.image_size,
        "fov_degrees": fov_degrees(rollout.cameras.intrinsics[0], rollout.cameras.image_size),
        "here": _start(rollout, from_here=True).cam2world.flatten().tolist(),
    }


def _shot(asked: dict[str, Any]) -> Shot:
    """The shot that the inputs of Camera Path order, checked like the host checks them."""
    settings = asked.get("settings")
    if not isinstance(settings, dict):
        raise ValueError("settings are the inputs of Camera Path by name.")
    inputs = {one.id: one for one in CameraPathNode.define_schema().inputs}
    if unknown := sorted(settings.keys() - inputs.keys()):
        raise ValueError(f"Camera Path has no input {unknown[0]!r}.")
    return ordered_shot(**{name: _value(settings, name, one) for name, one in inputs.items()})


def _value(settings: dict[str, Any], name: str, declared: Any) -> Any:
    value = settings.get(name, declared.default)
    kind = declared.io_type
    if kind in ("STRING", "COMBO"):
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; it is a text.")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it is a number.")
    if kind == "INT" and value != int(value):
        raise ValueError(f"{name} is {value}; it is a whole number.")
    if not declared.min <= value <= declared.max:
        raise ValueError(f"{name} is {value}; it lies between {declared.min} and {declared.max}.")
    return int(value) if kind == "INT" else float(value)


def _scene(asked: dict[str, Any]) -> Scene | None:
    node = asked.get("scene")
    if node is not None and not isinstance(node, str):
        raise ValueError("scene is the id of the node that made it, or null.")
    return None if node is None else SCENES.get(node, _client(asked))


def _client(asked: Mapping[str, Any]) -> str:
    """The page that asks, as it names itself to the host; a scene of its own is preferred to others'."""
    client = asked.get("client", "")
    if not isinstance(client, str) or len(client) > _MAX_CLIENT:
        raise ValueError(f"client is the id of a page, a text of at most {_MAX_CLIENT} letters.")
    return client


def _from_here(asked: dict[str, Any]) -> bool:
    from_here = asked.get("from_here", False)
    if not isinstance(from_here, bool):
        raise ValueError(f"from_here is {from_here!r}; it is true or false.")
    return from_here


def _needed_scene(asked: dict[str, Any]) -> Scene:
    scene = _scene(asked)
    if scene is None:
        raise ValueError("There is no scene yet. Run the workflow once up to Init Latent Memory.")
    return scene
