"""Movers at a segment's border, with and without a layer of movers; and their ghosts, with and without a mask.

Run: python -m benchmarks.movers (a minute on one core)

Procedural worlds with three movers each, whose places, colours and masks are exact.
"""

from __future__ import annotations

import statistics

import torch
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle

from benchmarks.reporting import print_table, save_results
from mirage_core.camera import Cameras, unproject_cells
from mirage_core.depth import latent_depth
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.metrics import ghosting
from mirage_core.movers import MoverLayer, mover_layer, with_movers
from mirage_core.zbuffer import project
from training.worlds import FRAMES_PER_SECOND, Frames, World, start_camera

SIZE, LAST, AFTER, SEEDS = (44, 80), 8, 4, 8
CELL = 4  # pixels along the side of a latent cell, here: 48 channels are 4 x 4 colours, and nothing is lost
LEAST = 20  # cells that a mover must show to be measured
TRUCK = 0.02  # metres per latent frame


def filmed(world: World, camera: Cameras, frames: int, *, truck: float) -> Frames:
    """One frame per latent frame; the camera moves to the right."""
    cam2world = camera.cam2world.repeat(frames, 1, 1)
    cam2world[:, :3, 3] += truck * torch.arange(frames)[:, None] * cam2world[:, :3, 0]
    cameras = Cameras(cam2world, camera.intrinsics.repeat(frames, 1, 1), camera.image_size)
    return world.render(cameras, torch.arange(frames) * WAN22.temporal_stride / FRAMES_PER_SECOND)


def places(world: World, camera: Cameras) -> list[dict]:
    """One row per mover and latent frame after the border in which both it and what is shown of it can be measured."""
    film = filmed(world, camera.resized(SIZE), LAST + 1 + AFTER, truck=TRUCK)
    cameras, depth = film.cameras, torch.where(film.depth.isfinite(), film.depth, 0.0)
    points = unproject_cells(depth.double(), cameras, WAN22)
    latents = torch.zeros(WAN22.channels, LAST + 1, *SIZE)
    before, coming = slice(0, LAST + 1), cameras[LAST:]
    memory = LatentMemory.empty(WAN22).extended(
        lift(latents, depth[before], cameras[before], WAN22, is_static=~film.is_mover[before])
    )
    view, rows = project(memory, coming, SIZE), []
    for index in range(len(world.movers)):
        is_own = film.mover == index
        if int(is_own[LAST].sum()) < LEAST:
            continue
        layer = mover_layer(latents, depth[before], cameras[before], is_own[before], WAN22, first_latent_index=0)
        if layer is None:
            continue
        shown = with_movers(view, layer, coming, WAN22, first_latent_index=LAST)
        there = unproject_cells(shown.depth.double(), coming, WAN22)
        last_seen = points[LAST][is_own[LAST]].mean(0)
        for step in range(AFTER + 1):
            is_true, is_shown = is_own[LAST + step], shown.is_covered[step] & (shown.point_index[step] == -1)
            if int(is_true.sum()) < max(LEAST, 0.5 * int(is_own[LAST].sum())) or not is_shown.any():
                continue  # it has left the view, or gone behind something
            middle = points[LAST + step][is_true].mean(0)
            rows.append(
                {
                    "step": step,
                    "with": float((there[step][is_shown].mean(0) - middle).norm()),
                    "stopped": float((last_seen - middle).norm()),
                    "on it": float((is_shown & is_true).sum() / is_shown.sum()),
                    "covered": float((is_shown & is_true).sum() / is_true.sum()),
                    "stopped on it": _share_if_stopped(layer, coming[[step]], is_true),
                }
            )
    return rows


def _share_if_stopped(layer: MoverLayer, camera: Cameras, is_true: torch.Tensor) -> float:
    """Share of the cells on the mover if it were shown where it was last seen."""
    seen = project(LatentMemory(WAN22, (layer.block,)), camera, SIZE).is_covered[0]
    return float((seen & is_true).sum() / seen.sum().clamp_min(1))


def ghosts(world: World, camera: Cameras) -> dict:
    """How much of the movers' colours a memory of nine latent frames shows where they were and no longer are."""
    film = filmed(world, camera.resized((CELL * 22, CELL * 40)), LAST + 1, truck=0.0)
    size = (22, 40)
    latents = pixel_unshuffle(film.rgb.movedim(-1, 1), CELL).movedim(1, 0)
    depth = latent_depth(torch.where(film.depth.isfinite(), film.depth, 0.0), size)
    is_still = avg_pool2d(film.is_mover[:, None].float(), CELL)[:, 0] == 0
    color, was_seen = torch.zeros_like(film.rgb[-1]), torch.zeros_like(film.is_mover[-1])
    for frame in range(LAST):
        color = torch.where(film.is_mover[frame][..., None], film.rgb[frame], color)
        was_seen |= film.is_mover[frame]
    where = was_seen & ~film.is_mover[LAST]
    row: dict = {"pixels left by movers": int(where.sum())}
    for name, is_static in (("without a mask", torch.ones_like(is_still)), ("with it", is_still)):
        memory = LatentMemory.empty(WAN22).extended(lift(latents, depth, film.cameras, WAN22, is_static=is_static))
        view = project(memory, film.cameras[[LAST]], size)
        made = pixel_shuffle(view.latents.movedim(1, 0), CELL).movedim(1, -1)
        is_made = view.is_covered[0].repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        row[f"ghosting {name}"] = ghosting(made, film.rgb[LAST:], color[None], (where & is_made)[None])
        row[f"known {name}"] = float((where & is_made).sum() / where.sum().clamp_min(1))
    return row


def main() -> None:
    rows, haunted = [], []
    for kind, seed in [(kind, seed) for kind in ("room", "plaza") for seed in range(SEEDS)]:
        world = getattr(World, kind)(seed, movers=3)
        camera = start_camera(world, seed, image_size=SIZE)
        rows += places(world, camera)
        left = ghosts(world, camera)
        haunted += [{"world": f"{kind} {seed}", **left}] if left["pixels left by movers"] else []
    table = [_medians(step, [row for row in rows if row["step"] == step]) for step in range(AFTER + 1)]
    for name, title, one in (
        (
            "movers",
            f"Place of movers after a segment's border, {2 * SEEDS} procedural worlds of 3 movers, medians",
            table,
        ),
        ("ghosting", "Movers' colours left in the memory where they no longer are: 0 none, 1 all", haunted),
    ):
        print_table(one, title)
        save_results(name, title, one)


def _medians(step: int, rows: list[dict]) -> dict:
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {
        "latent frames after the border": step,
        "movers in view": len(rows),
        "error with the layer (m)": middle["with"],
        "error if it stood still (m)": middle["stopped"],
        "shown cells that are on it": middle["on it"],
        "the same if it stood still": middle["stopped on it"],
        "share of it that is covered": middle["covered"],
        "the same without a layer": 0.0,
    }


if __name__ == "__main__":
    main()
