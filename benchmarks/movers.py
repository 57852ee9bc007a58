"""How far a mover is from its true place after a segment's border, with and without a layer of movers.

Run: python -m benchmarks.movers
"""

from __future__ import annotations

import math

import torch

from benchmarks.reporting import print_table, save_results
from mirage_core.camera import Cameras, unproject_cells
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.movers import mover_layer, with_movers
from mirage_core.zbuffer import project
from training.worlds import FRAMES_PER_SECOND, World, start_camera

SIZE, LAST, AFTER = (22, 40), 8, 4


def measured(kind: str, seed: int) -> list[dict]:
    """One row per latent frame after the border in which a mover is in view; none where the world shows too little."""
    world = getattr(World, kind)(seed, movers=3)
    frames = LAST + 1 + AFTER
    camera = start_camera(world, seed, image_size=SIZE)
    cam2world = camera.cam2world.repeat(frames, 1, 1)
    cam2world[:, :3, 3] += 0.02 * torch.arange(frames)[:, None] * cam2world[:, :3, 0]
    cameras = Cameras(cam2world, camera.intrinsics.repeat(frames, 1, 1), SIZE)
    times = torch.arange(frames, dtype=torch.float64) * WAN22.temporal_stride / FRAMES_PER_SECOND
    film = world.render(cameras, times)
    depth, is_mover = torch.where(film.depth.isfinite(), film.depth, 0.0), film.is_mover
    latents = torch.zeros(WAN22.channels, frames, *SIZE)
    before = slice(0, LAST + 1)
    layer = mover_layer(
        latents[:, before], depth[before], cameras[before], is_mover[before], WAN22, first_latent_index=0
    )
    if layer is None:
        return []
    memory = LatentMemory.empty(WAN22).extended(
        lift(latents[:, before], depth[before], cameras[before], WAN22, is_static=~is_mover[before])
    )
    coming = cameras[LAST:]
    shown = with_movers(project(memory, coming, SIZE), layer, coming, WAN22, first_latent_index=LAST)
    points = unproject_cells(depth.double(), cameras, WAN22)
    there = unproject_cells(shown.depth.double(), coming, WAN22)
    rows = []
    for step in range(1, AFTER + 1):
        is_true, is_shown = is_mover[LAST + step], shown.is_covered[step] & (shown.point_index[step] == -1)
        if int(is_true.sum()) < 8 or not is_shown.any() or int(is_mover[LAST].sum()) < 8:
            continue
        middle, still = points[LAST + step][is_true].mean(0), points[LAST][is_mover[LAST]].mean(0)
        rows.append(
            {
                "step": step,
                "with": float((there[step][is_shown].mean(0) - middle).norm()),
                "stopped": float((still - middle).norm()),
                "share": float((is_shown & is_true).sum() / (is_shown | is_true).sum()),
            }
        )
    return rows


def main() -> None:
    rows = [row for kind in ("room", "plaza") for seed in range(4) for row in measured(kind, seed)]
    table = []
    for step in range(1, AFTER + 1):
        chosen = [row for row in rows if row["step"] == step]
        if chosen:
            table.append(
                {
                    "latent frames after the border": step,
                    "films": len(chosen),
                    "error with the layer (m, median)": _median([row["with"] for row in chosen]),
                    "error if it stood still (m, median)": _median([row["stopped"] for row in chosen]),
                    "shown and true cells over all (median)": _median([row["share"] for row in chosen]),
                    "the same without a layer": 0.0,
                }
            )
    title = "Position error of movers across a segment's border, procedural worlds"
    print_table(table, title)
    save_results("movers", title, table)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


if __name__ == "__main__":
    main()
