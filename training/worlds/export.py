"""A small test scene as files: for workflows and tests that need exact depth, and for who has no depth model.

start.png         the first picture
depth.png         its depth for Simple Depth's "depth map" (16 bits, white near), near and far as scene.json says
sky.png           white where there is sky
movers.png        white where something moves
path.json         the flight for Camera Path and Load Camera Path, in world units
scene.json        world, seed, field of view, near, far, median depth
film/             the flight as rendered: transforms.json (nerfstudio), images/, depth/ (millimetres), sky/, movers/
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mirage_core.camera import fov_degrees
from mirage_core.depth import median_depth
from mirage_core.path_formats import write
from mirage_core.path_formats.track import CameraTrack

from ..pictures import write_mask, write_metres, write_nearness, write_rgb
from .flights import Flight
from .world import FRAMES_PER_SECOND, Frames, World


def export_scene(folder: Path, world: World, flight: Flight, *, supersampling: int = 2) -> list[Path]:
    """Write the scene and return the files and folders written."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = world.render(flight.cameras, flight.times, supersampling=supersampling)
    depth = frames.depth[0]
    seen = depth[~frames.is_sky[0]]
    near, far = float(seen.min()) * 0.99, float(seen.max()) * 1.01
    write_rgb(folder / "start.png", frames.rgb[0])
    write_nearness(folder / "depth.png", depth, near=near, far=far)
    write_mask(folder / "sky.png", frames.is_sky[0])
    write_mask(folder / "movers.png", frames.is_mover[0])
    (folder / "path.json").write_text(flight.path.to_json() + "\n")
    about = {
        "world": world.kind,
        "seed": world.seed,
        "flight": flight.name,
        "fov_degrees": fov_degrees(flight.cameras.intrinsics[0], flight.cameras.image_size),
        "near": near,
        "far": far,
        "median_depth": median_depth(torch.where(frames.is_sky[:1], 0, frames.depth[:1])),
    }
    (folder / "scene.json").write_text(json.dumps(about, indent=1) + "\n")
    export_film(folder / "film", frames)
    names = ("start.png", "depth.png", "sky.png", "movers.png", "path.json", "scene.json", "film")
    return [folder / name for name in names]


def export_film(folder: Path, frames: Frames) -> None:
    """Write frames with all truth in the layout that training.clips reads."""
    names = tuple(f"images/frame_{index:05d}.png" for index in range(len(frames)))
    write(CameraTrack(frames.cameras, FRAMES_PER_SECOND, names), _made(folder) / "transforms.json", "nerfstudio")
    for index, name in enumerate(names):
        plain = Path(name).name
        write_rgb(folder / name, frames.rgb[index])
        write_metres(folder / "depth" / plain, frames.depth[index])
        write_mask(folder / "sky" / plain, frames.is_sky[index])
        write_mask(folder / "movers" / plain, frames.is_mover[index])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
