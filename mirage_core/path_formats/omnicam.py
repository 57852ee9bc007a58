"""ComfyUI-Majoor-OmniCam scenes: a motion scene (version 1) with cameras, or one bare camera track.

A track has keyframes of position, target, roll and vertical field of view in degrees, in a y-up world, and an easing
from each keyframe to the next. Source: MajoorWaldi/ComfyUI-Majoor-OmniCam@3a60ffd, omnicam/core/track.py,
camera_math.py, motion_scene.py.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable
from typing import Any

import torch

from ..camera import Cameras
from .conventions import in_y_up_world, looking_at, roll_of
from .reading import (
    ReadOptions,
    check_count,
    image_size_of,
    intrinsics_of_vertical_fov,
    json_of,
    named,
    number,
    numbers,
    objects,
    shown,
    vertical_fov_degrees,
    whole_number,
)
from .track import CameraTrack

_MAX_NAMED = 8  # cameras in a message
_EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "hold": lambda t: 0.0,
    "ease_in": lambda t: t * t,
    "ease_out": lambda t: 1 - (1 - t) ** 2,
    "smooth": lambda t: t**3 * (t * (6 * t - 15) + 10),
    "ease": lambda t: t * t * (3 - 2 * t),
    "ease_in_out": lambda t: t * t * (3 - 2 * t),
    "smoothstep": lambda t: t * t * (3 - 2 * t),
}


def read_omnicam(data: bytes, options: ReadOptions) -> CameraTrack:
    """Every frame of one camera. options.camera: its id or label; else the scene's playblast camera.

    Raises ValueError that names the keyframe at fault; for Bezier curves, constraints, cuts between cameras and
    orthographic cameras, which only OmniCam itself can bake.
    """
    document = json_of(data, "OmniCam scene")
    track = _track(document, options.camera)
    if int(number(track.get("schema_version", 0), "schema_version")) > 1:
        raise ValueError(
            f"The OmniCam track has version {named(track['schema_version'])}; version 1 is read. Update Mirage."
        )
    if track.get("constraints"):
        raise ValueError("The OmniCam camera has constraints. Bake it in OmniCam (export .chan or glTF) and load that.")
    keys = sorted(objects(track.get("keyframes"), "keyframes"), key=lambda key: number(key.get("frame"), "frame"))
    by_frame = {whole_number(key.get("frame"), f"keyframe {index}: frame"): key for index, key in enumerate(keys)}
    if not by_frame:
        raise ValueError("The OmniCam camera has no keyframes. Add one.")
    count = whole_number(track.get("duration_frames", max(by_frame) + 1), "duration_frames")
    check_count(count)
    image_size = image_size_of(track.get("height"), track.get("width"), "The OmniCam track")
    frames = sorted(by_frame)
    states = [_state(by_frame[frame], frame) for frame in frames]
    sampled = torch.tensor([_sampled(frames, states, frame) for frame in range(max(count, 1))], dtype=torch.float64)
    opengl = looking_at(sampled[:, 0:3], sampled[:, 3:6], sampled[:, 7])
    # three.js zoom multiplies the focal length.
    fov = torch.rad2deg(2 * torch.atan(torch.tan(torch.deg2rad(sampled[:, 6]) / 2) / sampled[:, 8]))
    intrinsics = intrinsics_of_vertical_fov(fov.tolist(), image_size, "The OmniCam camera")
    fps = number(track["fps"], "fps") if "fps" in track else options.fps
    return CameraTrack(Cameras(in_y_up_world(opengl), intrinsics, image_size), fps)


def _track(document: dict[str, Any], camera: str | None) -> dict[str, Any]:
    if "keyframes" in document:
        return document
    cameras = objects(document.get("cameras"), '"cameras"')
    cuts = document.get("cuts")
    if camera is None and isinstance(cuts, list) and len({str(cut) for cut in _cut_cameras(cuts)}) > 1:
        raise ValueError("The OmniCam scene cuts between several cameras. Choose one camera by its name.")
    wanted = camera or document.get("playblast_camera_id") or document.get("active_camera_id")
    for item in cameras:
        if wanted in (item.get("id"), item.get("label")) or (len(cameras) == 1 and camera is None):
            if isinstance(item.get("track"), dict):
                return item["track"]
    names = ", ".join(named(item.get("label", item.get("id"))) for item in cameras[:_MAX_NAMED])
    raise ValueError(f"The OmniCam scene has no camera {shown(wanted)}; it has {names or 'none'}.")


def _cut_cameras(cuts: list[Any]) -> list[Any]:
    return [cut.get("camera_id") for cut in cuts if isinstance(cut, dict)]


def _state(key: dict[str, Any], frame: int) -> tuple[list[float], str]:
    """[position 3, target 3, fov, roll, zoom] and the easing of one keyframe."""
    where = f"keyframe at frame {frame}"
    camera = key["camera"] if isinstance(key.get("camera"), dict) else key
    if str(camera.get("camera_type", "perspective")) != "perspective":
        raise ValueError(f"{where} is {named(camera['camera_type'])}; Mirage's cameras are perspective ones.")
    easing = str(key.get("interpolation", "ease"))
    if easing not in _EASINGS:
        raise ValueError(
            f"{where} uses {shown(easing)} curves, which only OmniCam can bake. Export .chan or glTF there and load "
            f"that, or use one of {', '.join(_EASINGS)}."
        )
    values = numbers(camera.get("position"), 3, f"{where}: position")
    values += numbers(camera.get("target"), 3, f"{where}: target")
    values += [
        number(camera.get(name, rest), f"{where}: {name}") for name, rest in (("fov", 35), ("roll", 0), ("zoom", 1))
    ]
    if values[8] <= 0:
        raise ValueError(f"{where}: zoom is {values[8]:.6g}; it is above 0.")
    return values, easing


def _sampled(frames: list[int], states: list[tuple[list[float], str]], frame: int) -> list[float]:
    index = bisect.bisect_right(frames, frame) - 1
    if index < 0 or index == len(frames) - 1:
        return states[max(index, 0)][0]
    (left, easing), (right, _) = states[index], states[index + 1]
    t = _EASINGS[easing]((frame - frames[index]) / (frames[index + 1] - frames[index]))
    values = [a + (b - a) * t for a, b in zip(left, right, strict=True)]
    values[7] = left[7] + ((right[7] - left[7] + 540) % 360 - 180) * t  # roll takes the short way
    return values


def write_omnicam(track: CameraTrack) -> bytes:
    """A motion scene with one camera and a linear keyframe per frame. OmniCam has whole frame rates: fps is rounded."""
    cameras = track.cameras
    fov = vertical_fov_degrees(cameras, "OmniCam")
    opengl = in_y_up_world(cameras.cam2world)
    roll = roll_of(opengl).tolist()
    positions = opengl[:, :3, 3]
    targets = (positions - opengl[:, :3, 2]).tolist()
    height, width = cameras.image_size
    fps = max(1, round(track.fps or 24.0))
    keyframes = [
        {
            "frame": frame,
            "camera": {
                "position": position,
                "target": target,
                "fov": angle,
                "roll": lean,
                "camera_type": "perspective",
                "zoom": 1.0,
                "near": 0.01,
                "far": 10000.0,
            },
            "interpolation": "linear",
        }
        for frame, (position, target, angle, lean) in enumerate(
            zip(positions.tolist(), targets, fov, roll, strict=True)
        )
    ]
    camera = {
        "schema_version": 1,
        "fps": fps,
        "duration_frames": len(cameras),
        "width": width,
        "height": height,
        "render_mode": "omni_ref",
        "keyframes": keyframes,
        "objects": [],
        "metadata": {},
    }
    scene = {
        "version": 1,
        "timeline": {"duration_seconds": len(cameras) / fps, "authoring_fps": float(fps)},
        "canvas": {"width": width, "height": height},
        "cameras": [{"id": "mirage", "label": "Mirage", "enabled": True, "track": camera}],
        "active_camera_id": "mirage",
        "playblast_camera_id": "mirage",
        "objects": [],
        "motion_layers": [],
        "cuts": [],
        "metadata": {},
    }
    return (json.dumps(scene, allow_nan=False, indent=1) + "\n").encode()
