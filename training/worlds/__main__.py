"""Write a world as files: python -m training.worlds export FOLDER --seed 1000000, or look at many: ... sheet FILE."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..pictures import write_rgb
from .export import export_scene
from .flights import random_flight, start_camera
from .seeds import FIRST_HELD_OUT
from .world import World


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.worlds", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scene = commands.add_parser("export", help="a start picture with depth, masks, a camera path and a film")
    scene.add_argument("folder", type=Path)
    scene.add_argument("--flight", default="out_and_back", help='a preset of Camera Path, or "loop"')
    scene.add_argument("--frames", type=int, default=33)
    sheet = commands.add_parser("sheet", help="one picture of many worlds")
    sheet.add_argument("file", type=Path)
    sheet.add_argument("--worlds", type=int, default=12)
    for command, size in ((scene, "512x320"), (sheet, "256x192")):
        command.add_argument("--world", choices=("room", "plaza"), default="room")
        command.add_argument("--seed", type=int, default=FIRST_HELD_OUT)
        command.add_argument("--size", default=size, help="width x height in pixels")
        command.add_argument("--fov", type=float, default=75.0, help="horizontal field of view in degrees")
        command.add_argument("--movers", type=int, default=2, help="how many things move")
    asked = parser.parse_args()
    width, _, height = asked.size.partition("x")
    size = (int(height), int(width))
    if asked.command == "export":
        world: World = getattr(World, asked.world)(asked.seed, movers=asked.movers)
        flight = random_flight(world, 0, frames=asked.frames, image_size=size, fov_degrees=asked.fov, name=asked.flight)
        written = export_scene(asked.folder, world, flight)
        print("\n".join(str(path) for path in written))
        return
    pictures = []
    for seed in range(asked.seed, asked.seed + asked.worlds):
        world = getattr(World, asked.world)(seed, movers=asked.movers)
        camera = start_camera(world, 0, image_size=size, fov_degrees=asked.fov)
        pictures.append(world.render(camera, supersampling=2).rgb[0])
    pictures += [torch.ones_like(pictures[0])] * (-len(pictures) % 4)
    rows = [torch.cat(pictures[start : start + 4], dim=1) for start in range(0, len(pictures), 4)]
    write_rgb(asked.file, torch.cat(rows))


if __name__ == "__main__":
    main()
