"""What the path editor asks the server: which scenes there are, their points, and what a path does in them.

The editor draws; everything it shows about a path is computed here, by the code that makes the film. Nothing is
written to disk, and only pages of this server are answered. Every error is JSON: {"error": one sentence}.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import struct
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
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
from .memory_nodes import view_picture
from .scenes import SCENES, Scene, colored_points

MAX_BYTES = 4_000_000  # 10 000 keyframes written with all their digits
ASSUMED_FOV = 55.0  # until a geometry model has seen the picture
SCENE_CHANGED = "mirage.scene"

Answer = Callable[[web.Request], Awaitable[web.Response]]

# One heavy question at a time, so that an editor never takes more than one core from a film in the making.
_heavy = ThreadPoolExecutor(1, thread_name_prefix="mirage-scene")


def add_routes() -> None:
    """Put the routes on the running server. Does nothing without one."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.routes.get("/mirage/scenes")(_answered(_scenes))
    server.routes.get("/mirage/points")(_answered(_points))
    server.routes.post("/mirage/path")(_answered(_path))
    server.routes.post("/mirage/view")(_answered(_view))
    server.routes.post("/mirage/preflight")(_answered(_preflight))
    SCENES.listeners.append(lambda scene: server.send_sync(SCENE_CHANGED, _described(scene)))


def is_same_origin(request: web.BaseRequest) -> bool:
    """True for questions of this server's own pages, and of programs, which send neither header."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


def _answered(answer: Answer) -> Answer:
    async def handler(request: web.Request) -> web.Response:
        if not is_same_origin(request):
            return web.json_response({"error": "Only pages of this ComfyUI may ask for its scenes."}, status=403)
        try:
            return await answer(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handler


async def _scenes(request: web.Request) -> web.Response:
    return web.json_response([_described(scene) for scene in SCENES.newest_first()])


async def _points(request: web.Request) -> web.Response:
    """uint32 n, then float32 n x 3 positions and n footprints, then uint8 n x 3 colours; all little-endian."""
    scene = SCENES.get(request.query.get("scene", ""))
    points = await _run(_heavy, colored_points, scene.rollout.memory)
    numbers = [one.numpy().astype("<f4").tobytes() for one in (points.positions, points.footprints)]
    body = [struct.pack("<I", len(points.positions)), *numbers, points.colors.numpy().tobytes()]
    return web.Response(body=b"".join(body), content_type="application/octet-stream")


async def _path(request: web.Request) -> web.Response:
    asked = await _asked(request)
    return web.json_response(await _run(None, _sampled, _shot(asked), _scene(asked), _from_here(asked)))


async def _view(request: web.Request) -> web.Response:
    asked = await _asked(request)
    shot, scene, frame = _shot(asked), _needed_scene(asked), asked.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < shot.frames:
        raise ValueError(f"frame is {frame!r}; it is a whole number from 0 to {shot.frames - 1}.")
    picture, coverage = await _run(_heavy, picture_from, scene.rollout, shot, frame, _from_here(asked))
    return web.Response(body=picture, content_type="image/png", headers={"X-Mirage-Coverage": f"{coverage:.6f}"})


async def _preflight(request: web.Request) -> web.Response:
    asked = await _asked(request)
    shot, scene = _shot(asked), _needed_scene(asked)
    found = await _run(_heavy, _checked, scene.rollout, shot, _from_here(asked))
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
        "version": scene.version,
        "points": rollout.memory.count,
        "segments_done": rollout.segments_done,
        "unit_length": rollout.unit_length,
        "image_size": rollout.cameras.image_size,
        "fov_degrees": fov_degrees(rollout.cameras.intrinsics[0], rollout.cameras.image_size),
        "here": _start(rollout, from_here=True).cam2world.flatten().tolist(),
    }


async def _asked(request: web.Request) -> dict[str, Any]:
    """The JSON object of a question. Raises ValueError for anything else, and for what is too large."""
    if request.content_length is not None and request.content_length > MAX_BYTES:
        raise ValueError(f"The question has {request.content_length} bytes; at most {MAX_BYTES} are read.")
    body = await request.content.read(MAX_BYTES + 1)
    while len(body) <= MAX_BYTES and (more := await request.content.read(MAX_BYTES + 1)):
        body += more
    if len(body) > MAX_BYTES:
        raise ValueError(f"The question has more than {MAX_BYTES} bytes.")
    try:
        asked = json.loads(body, parse_constant=_not_finite)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("The question is not JSON.") from error
    if not isinstance(asked, dict):
        raise ValueError("The question is a JSON object with settings.")
    return asked


def _not_finite(name: str) -> float:
    raise ValueError(f"The question contains {name}; all numbers are finite.")


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
    return None if node is None else SCENES.get(node)


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


async def _run(executor: Executor | None, work: Callable, *given: Any) -> Any:
    """Do work off the server's event loop; memories come from the host's inference mode and stay in it."""

    def in_inference_mode() -> Any:
        with torch.inference_mode():
            return work(*given)

    return await asyncio.get_running_loop().run_in_executor(executor, in_inference_mode)
