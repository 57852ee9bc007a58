"""glTF 2.0 camera animation: .gltf with an embedded buffer (read and write), .gltf with a .bin beside it, .glb (read).

A node with a perspective camera, translation and rotation (quaternion x y z w) animated; y-up world, the camera looks
down -z; vertical field of view in radians; keyframe times in seconds; all numbers float32. A glTF camera has one field
of view for the whole film. Source: registry.khronos.org/glTF/specs/2.0.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from typing import Any

import numpy as np
import torch

from ..camera import Cameras
from .conventions import in_y_up_world, quaternions_of, rigid, rotations_of, without_sign_jumps
from .reading import (
    MAX_BYTES,
    ReadOptions,
    check_count,
    image_size_of,
    intrinsics_of_vertical_fov,
    json_of,
    number,
    numbers,
    objects,
    vertical_fov_degrees,
    whole_number,
)
from .track import CameraTrack

_FLOAT = 5126
_NORMALISED = {5120: ("<i1", 127.0), 5121: ("<u1", 255.0), 5122: ("<i2", 32767.0), 5123: ("<u2", 65535.0)}
_WIDTH = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_REST = {"translation": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0), "scale": (1.0, 1.0, 1.0)}


def read_gltf(data: bytes, options: ReadOptions) -> CameraTrack:
    """The animated camera, sampled at its keyframes, or at fps when those are not evenly spaced.

    options.camera: the camera node's name, needed when the file has several.  options.image_size: needed unless Mirage
    wrote the file.  options.fps: samples at that rate instead.

    Raises ValueError that names the node, accessor or buffer at fault.
    """
    document, chunk = _unpacked(data)
    nodes = objects(document.get("nodes", []), "nodes")
    index = _camera_node(document, nodes, options.camera)
    file = _File(document, chunk, options)
    curves = _curves(document, nodes, file)
    chain = _chain(nodes, index)
    keys = [times for node in chain for times, _, _ in curves.get(node, {}).values()]
    times, fps = _sample_times(keys, options.fps)
    world = np.tile(np.eye(4), (len(times), 1, 1))
    for node in chain:
        world = _local(nodes[node], node, curves.get(node, {}), times) @ world
    size = np.cbrt(np.abs(np.linalg.det(world[:, :3, :3])))
    if not np.isfinite(size).all() or (size < 1e-12).any():
        raise ValueError(
            f"node {index}: the camera's world scale is 0. Apply the scale in the tool that wrote the file."
        )
    world[:, :3, :3] /= size[:, None, None]
    poses = rigid(torch.from_numpy(world), lambda sample: f"node {index}, time {times[sample]:.4g} s")
    fov, image_size = _field_of_view(document, nodes[index], options)
    intrinsics = intrinsics_of_vertical_fov([fov] * len(times), image_size, f"node {index}")
    return CameraTrack(Cameras(in_y_up_world(poses), intrinsics, image_size), fps)


def _unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and, for .glb, its binary chunk."""
    if data[:4] != b"glTF":
        return json_of(data, "glTF file"), b""
    if len(data) < 20 or struct.unpack_from("<I", data, 4)[0] != 2:
        raise ValueError("The .glb is not version 2, or is cut off. Export it again as glTF 2.0.")
    chunks, offset = {}, 12
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from("<I4s", data, offset)
        if offset + 8 + length > len(data):
            raise ValueError("The .glb is cut off in the middle. Copy or export it again.")
        chunks.setdefault(kind, data[offset + 8 : offset + 8 + length])
        offset += 8 + length
    if b"JSON" not in chunks:
        raise ValueError("The .glb has no JSON chunk. Export it again.")
    return json_of(chunks[b"JSON"], "glTF file"), chunks.get(b"BIN\0", b"")


def _camera_node(document: dict[str, Any], nodes: list[dict[str, Any]], name: str | None) -> int:
    cameras = [index for index, node in enumerate(nodes) if "camera" in node]
    names = [str(nodes[index].get("name", f"node {index}")) for index in cameras]
    if name is not None:
        cameras = [index for index, one in zip(cameras, names, strict=True) if one == name]
    if len(cameras) == 1:
        return cameras[0]
    if not names:
        raise ValueError("The glTF file has no camera. In Blender tick Include > Cameras when exporting.")
    raise ValueError(f"The glTF file holds the cameras {', '.join(names)}. Choose one by its name.")


class _File:
    """Accessors of one glTF file, checked against the buffers' sizes."""

    def __init__(self, document: dict[str, Any], chunk: bytes, options: ReadOptions) -> None:
        self.accessors = objects(document.get("accessors", []), "accessors")
        self.views = objects(document.get("bufferViews", []), "bufferViews")
        self.buffers = objects(document.get("buffers", []), "buffers")
        self.chunk, self.options = chunk, options
        self._bytes: dict[int, bytes] = {}

    def values(self, index: Any, kind: tuple[str, ...]) -> np.ndarray:
        """[count width] float64 of one accessor of an allowed type."""
        accessor = self.item(self.accessors, index, "accessor")
        where = f"accessor {index}"
        if accessor.get("type") not in kind:
            raise ValueError(f"{where} has type {accessor.get('type')!r}; {' or '.join(kind)} is expected.")
        if "sparse" in accessor:
            raise ValueError(f"{where} is sparse, which is not read for animations. Export without compression.")
        count, width = whole_number(accessor.get("count"), f"{where}: count"), _WIDTH[accessor["type"]]
        check_count(count // 3)  # CUBICSPLINE has three values per keyframe
        component = accessor.get("componentType")
        if component == _FLOAT:
            dtype, scale = np.dtype("<f4"), 1.0
        elif isinstance(component, int) and component in _NORMALISED and accessor.get("normalized") is True:
            code, scale = _NORMALISED[component]
            dtype = np.dtype(code)
        else:
            raise ValueError(f"{where} has component type {component!r}; animations are float32.")
        view = self.item(self.views, accessor.get("bufferView"), "bufferView")
        data = self._buffer(view.get("buffer"))
        start = whole_number(view.get("byteOffset", 0), where) + whole_number(accessor.get("byteOffset", 0), where)
        stride = whole_number(view.get("byteStride", 0), where) or width * dtype.itemsize
        end = start + stride * (count - 1) + width * dtype.itemsize
        if count < 1 or min(start, stride) < 0 or stride < width * dtype.itemsize or end > len(data):
            raise ValueError(f"{where} lies outside its buffer; the file is damaged or cut off. Export it again.")
        array = np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize)).astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{where} holds NaN or infinite values. Export the animation again.")
        return np.maximum(array / scale, -1.0) if scale != 1.0 else array

    def item(self, items: list[dict[str, Any]], index: Any, what: str) -> dict[str, Any]:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(items):
            raise ValueError(f"The glTF file points to {what} {index!r}, which it does not have.")
        return items[index]

    def _buffer(self, index: Any) -> bytes:
        buffer = self.item(self.buffers, index, "buffer")
        if index not in self._bytes:
            self._bytes[index] = self._load(buffer.get("uri"), index)
        return self._bytes[index]

    def _load(self, uri: Any, index: int) -> bytes:
        if uri is None:
            return self.chunk
        uri = str(uri)
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            if not head.endswith(";base64"):
                raise ValueError(f"buffer {index} is embedded without base64. Export it again as glTF embedded.")
            try:
                return base64.b64decode(body, validate=True)
            except binascii.Error as error:
                raise ValueError(f"buffer {index} holds damaged base64 ({error}). Export it again.") from error
        # Only a plain name beside the .gltf: a path from a downloaded file must not reach other folders or the network.
        is_plain = uri not in ("", ".", "..") and not any(mark in uri for mark in ("/", "\\", ":", "%", "\0"))
        if not is_plain or self.options.folder is None:
            raise ValueError(
                f"buffer {index} is the file {uri!r}; only a .bin in the same folder as the .gltf is read. "
                "Export as .glb or glTF embedded."
            )
        path = self.options.folder / uri
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"buffer {index} is the file {uri!r}, which is not beside the .gltf. Copy it there.")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{uri!r} is larger than {MAX_BYTES >> 20} MiB. Export only the camera.")
        return path.read_bytes()


_Curve = tuple[np.ndarray, np.ndarray, str]  # times [n], values [n width] (3n for CUBICSPLINE), interpolation


def _curves(document: dict[str, Any], nodes: list[dict[str, Any]], file: _File) -> dict[int, dict[str, _Curve]]:
    """Animation curves by node and property, over all animations (exporters split them)."""
    curves: dict[int, dict[str, _Curve]] = {}
    for animation in objects(document.get("animations", []), "animations"):
        samplers = objects(animation.get("samplers", []), "samplers")
        for channel in objects(animation.get("channels", []), "channels"):
            target = channel.get("target")
            if not isinstance(target, dict) or str(target.get("path")) not in _REST or "node" not in target:
                continue
            file.item(nodes, target["node"], "node")
            sampler = file.item(samplers, channel.get("sampler"), "sampler")
            times = file.values(sampler.get("input"), ("SCALAR",))[:, 0]
            values = file.values(sampler.get("output"), ("VEC4",) if target["path"] == "rotation" else ("VEC3",))
            how = str(sampler.get("interpolation", "LINEAR"))
            expected = len(times) * (3 if how == "CUBICSPLINE" else 1)
            if len(values) != expected or (np.diff(times) <= 0).any():
                raise ValueError(f"An animation of node {target['node']} has unsorted or missing keyframes.")
            curves.setdefault(target["node"], {}).setdefault(target["path"], (times, values, how))
    return curves


def _chain(nodes: list[dict[str, Any]], index: int) -> list[int]:
    """The node and its parents, innermost first."""
    parent = {}
    for number_of, node in enumerate(nodes):
        children = node.get("children", [])
        for child in children if isinstance(children, list) else []:
            if isinstance(child, int):
                parent[child] = number_of
    chain = [index]
    while chain[-1] in parent:
        chain.append(parent[chain[-1]])
        if len(chain) > len(nodes):
            raise ValueError("The glTF nodes are each other's parents. Export the file again.")
    return chain


def _sample_times(keys: list[np.ndarray], fps: float | None) -> tuple[np.ndarray, float | None]:
    if not keys:
        return np.zeros(1), fps
    start, end = min(times[0] for times in keys), max(times[-1] for times in keys)
    if fps is None:
        longest = max(keys, key=len)
        steps = np.diff(longest)
        is_even = len(steps) > 0 and np.abs(steps - steps.mean()).max() < 1e-3 * steps.mean()
        if is_even and len(longest) > 2 and (longest[0], longest[-1]) == (start, end):
            rate = (len(longest) - 1) / (end - start)
            return longest, round(rate, 4)
        fps = 24.0
    count = int(min((end - start) * fps, 1e9) + 1e-3) + 1
    check_count(count)
    return start + np.arange(count) / fps, fps


def _local(node: dict[str, Any], index: int, curves: dict[str, _Curve], times: np.ndarray) -> np.ndarray:
    """[samples 4 4] the node's own transform at the times."""
    if "matrix" in node:
        matrix = np.array(numbers(node["matrix"], 16, f"node {index}: matrix")).reshape(4, 4).T
        return np.tile(matrix, (len(times), 1, 1))
    parts = {}
    for name, rest in _REST.items():
        still = np.array(numbers(node.get(name, list(rest)), len(rest), f"node {index}: {name}"))
        parts[name] = _sampled(curves[name], times, name) if name in curves else np.tile(still, (len(times), 1))
    quaternions = parts["rotation"]
    if (np.linalg.norm(quaternions, axis=1) < 1e-6).any():
        raise ValueError(f"node {index} has a rotation of length 0. Export the animation again.")
    result = np.tile(np.eye(4), (len(times), 1, 1))
    turned = rotations_of(torch.from_numpy(np.ascontiguousarray(quaternions[:, [3, 0, 1, 2]]))).numpy()
    result[:, :3, :3] = turned * parts["scale"][:, None, :]
    result[:, :3, 3] = parts["translation"]
    return result


def _sampled(curve: _Curve, times: np.ndarray, name: str) -> np.ndarray:
    """[samples width] values of a curve at the times, held before its first and after its last keyframe."""
    keys, values, how = curve
    # Keyframe times are float32: without the margin a sample meant to be on a key would fall just before it.
    margin = 1e-6 + 1e-6 * np.abs(times)
    left = np.clip(np.searchsorted(keys, times + margin, side="right") - 1, 0, len(keys) - 1)
    right = np.minimum(left + 1, len(keys) - 1)
    span = np.where(right > left, keys[right] - keys[left], 1.0)
    t = np.clip((times - keys[left]) / span, 0, 1)[:, None]
    if how == "STEP":
        return values[left]
    if how == "CUBICSPLINE":
        into, point, out = values[0::3], values[1::3], values[2::3]
        span = span[:, None]
        return (
            (2 * t**3 - 3 * t**2 + 1) * point[left]
            + span * (t**3 - 2 * t**2 + t) * out[left]
            + (-2 * t**3 + 3 * t**2) * point[right]
            + span * (t**3 - t**2) * into[right]
        )
    if name == "rotation":
        return _slerped(values[left], values[right], t)
    return values[left] + t * (values[right] - values[left])


def _slerped(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    cosine = (a * b).sum(axis=1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    is_near = sine < 1e-6
    sine = np.where(is_near, 1.0, sine)
    weights = np.where(is_near, 1 - t, np.sin((1 - t) * angle) / sine), np.where(is_near, t, np.sin(t * angle) / sine)
    return weights[0] * a + weights[1] * b


def _field_of_view(
    document: dict[str, Any], node: dict[str, Any], options: ReadOptions
) -> tuple[float, tuple[int, int]]:
    """Vertical field of view in degrees, and the image size."""
    cameras = objects(document.get("cameras", []), "cameras")
    index = node["camera"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(cameras):
        raise ValueError(f"The camera node points to camera {index!r}, which the file does not have.")
    camera = cameras[index]
    lens = camera.get("perspective")
    if not isinstance(lens, dict):
        raise ValueError(f"camera {index} is {camera.get('type')!r}; Mirage's cameras are perspective ones.")
    fov = math.degrees(number(lens.get("yfov"), f"camera {index}: yfov"))
    extras = camera.get("extras")
    size = extras.get("image_size") if isinstance(extras, dict) else None
    if isinstance(size, list) and len(size) == 2:
        return fov, image_size_of(size[0], size[1], f"camera {index}: image_size")
    return fov, options.needed_image_size("A glTF camera holds its field of view but not the image size.")


def write_gltf(track: CameraTrack) -> bytes:
    """.gltf JSON with the keyframes embedded in base64; frames run at fps (24 if unknown).

    Raises ValueError for a field of view that changes: glTF cannot animate it.
    """
    cameras = track.cameras
    fov = vertical_fov_degrees(cameras, "glTF")
    if max(fov) - min(fov) > 1e-3:
        raise ValueError(
            f"The field of view changes from {min(fov):.4g} to {max(fov):.4g} degrees; a glTF camera has one for the "
            "whole film. Use json (Blender), chan or nerfstudio."
        )
    height, width = cameras.image_size
    opengl = in_y_up_world(cameras.cam2world)
    quaternions = without_sign_jumps(quaternions_of(opengl[:, :3, :3])).numpy()[:, [1, 2, 3, 0]]
    count = len(cameras)
    arrays = [np.arange(count)[:, None] / (track.fps or 24.0), opengl[:, :3, 3].numpy(), quaternions]
    blobs = [array.astype("<f4").tobytes() for array in arrays]
    offsets = np.cumsum([0, *map(len, blobs)]).tolist()
    types = ["SCALAR", "VEC3", "VEC4"]
    uri = "data:application/octet-stream;base64," + base64.b64encode(b"".join(blobs)).decode()
    lens = {"yfov": math.radians(fov[0]), "aspectRatio": width / height, "znear": 0.01}
    document = {
        "asset": {"version": "2.0", "generator": "Mirage"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {
                "name": "Mirage camera",
                "camera": 0,
                "translation": arrays[1][0].tolist(),
                "rotation": quaternions[0].tolist(),
            }
        ],
        "cameras": [{"type": "perspective", "perspective": lens, "extras": {"image_size": [height, width]}}],
        "animations": [
            {
                "name": "Mirage camera path",
                "samplers": [{"input": 0, "output": output, "interpolation": "LINEAR"} for output in (1, 2)],
                "channels": [
                    {"sampler": sampler, "target": {"node": 0, "path": path}}
                    for sampler, path in enumerate(("translation", "rotation"))
                ],
            }
        ],
        "accessors": [
            {
                "bufferView": index,
                "componentType": _FLOAT,
                "count": count,
                "type": kind,
                "min": array.astype("<f4").min(axis=0).tolist(),
                "max": array.astype("<f4").max(axis=0).tolist(),
            }
            for index, (kind, array) in enumerate(zip(types, arrays, strict=True))
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": len(blob)}
            for offset, blob in zip(offsets, blobs, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1], "uri": uri}],
    }
    return (json.dumps(document, allow_nan=False, indent=1) + "\n").encode()
