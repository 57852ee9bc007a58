"""Scene Evidence and Dynamic/Sky Mask beside the real host: what is connected is asked, what is not is told."""

from __future__ import annotations

import dataclasses
import math
import types

import pytest
import torch

from mirage_core.camera import Cameras
from mirage_core.latent_grid import WAN22
from mirage_core.mask_rules import MaskRules
from mirage_core.memory import LatentMemory, lift
from mirage_core.rollout import Rollout
from training.worlds import World, random_flight

SIZE = (160, 288)
OLD = {"sky_threshold": 0.5, "drop_unsure": 0.0, "depth_edge": 0.0, "grow": 4}


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


@pytest.fixture(scope="module")
def nodes(pack):
    return types.SimpleNamespace(
        evidence=pack("evidence_nodes").SceneEvidence,
        mask=pack("mask_nodes").DynamicSkyMask,
        previews=pack("mask_previews"),
        routes=pack("mask_routes"),
        pictures=pack("mask_pictures"),
    )


@pytest.fixture(scope="module")
def film():
    """A plaza with movers, filmed for one segment of 9 latent frames, and a memory of its first frame without them."""
    world = World.plaza(5, movers=6)
    flight = random_flight(world, 5, frames=33, image_size=SIZE)
    times = flight.times[::4]
    frames = world.render(flight.cameras[::4], times)
    start = flight.cameras.cam2world[0].inverse()
    cameras = Cameras(start @ flight.cameras.cam2world, flight.cameras.intrinsics, SIZE)
    size = WAN22.size_of(SIZE)
    latents = torch.nn.functional.interpolate(frames.rgb.movedim(-1, 1), size, mode="area").movedim(1, 0)
    latents = latents.repeat(16, 1, 1, 1) * 2 - 1
    still = world.still.render(flight.cameras[[0]])
    depth = torch.nn.functional.interpolate(still.depth[:, None], size, mode="nearest-exact")[:, 0]
    memory = LatentMemory.empty(WAN22).extended(lift(latents[:, :1], depth, cameras[[0]], WAN22))
    rollout = Rollout.started(memory, latents[:, :1], cameras)
    geometry = {"depth": frames.depth * 1.7, "mask": ~frames.is_sky, "image": frames.rgb}
    return types.SimpleNamespace(frames=frames, rollout=rollout, geometry=geometry, latents=latents)


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp_min(1))


def test_every_source_is_asked_when_everything_is_connected(nodes, film):
    geometry = film.geometry | {"confidence": torch.rand(9, *SIZE)}
    masks = {"sky_mask": film.frames.is_sky.float(), "mover_mask": film.frames.is_mover.float()}
    segment = {"samples": host_samples(film.latents)}
    evidence, report = run(
        nodes.evidence, images=film.frames.rgb, geometry=geometry, memory=film.rollout, segment=segment, **masks
    )
    from mirage_core.evidence import SOURCES

    assert list(evidence.scores) == list(SOURCES)
    assert "not asked" not in report and "parallax: moving in" in report and "depth scaled by 0.5" in report
    assert evidence.stride == 4


def host_samples(latents: torch.Tensor) -> torch.Tensor:
    import comfy.latent_formats

    return comfy.latent_formats.Wan22().process_out(latents[None])


def test_movers_and_sky_of_a_plaza_are_found_though_the_depth_has_another_scale(nodes, film):
    evidence, _ = run(nodes.evidence, images=film.frames.rgb, geometry=film.geometry, memory=film.rollout)
    rules = {"grow": 0, "hold": 0, "weights": {"moving_depth": 0.0, "moving_latents": 0.0}}
    mask, overlay, cells = run(nodes.mask, images=film.frames.rgb, evidence=evidence, tuning=rules, **OLD)
    excluded = mask < 0.5
    truth = film.frames.is_mover | film.frames.is_sky
    assert overlap(excluded, truth) > 0.9
    assert overlap(excluded & ~film.frames.is_sky, film.frames.is_mover & ~film.frames.is_sky) > 0.45
    assert mask.shape == (9, *SIZE) and overlay.shape == cells.shape == (9, *SIZE, 3)


def test_a_film_that_does_not_obey_its_cameras_is_not_taken_for_moving_as_a_whole(nodes, film):
    jerked = film.frames.rgb.clone()
    jerked[1::2] = jerked[1::2].roll(5, dims=2)
    evidence, report = run(nodes.evidence, images=jerked, geometry=film.geometry, memory=film.rollout)
    assert "stand still wavers by" in report and "of 288 pixels, in this film or by its depth" in report
    assert (evidence.scores["moving_parallax"] >= 128).float().mean() < 0.1
    # Cells of the mover layer, which are not of the memory, do not tell how still things look.
    view = film.rollout.view(film.rollout.next_segment)
    view = dataclasses.replace(view, point_index=torch.full_like(view.point_index, -1))
    _, report = run(nodes.evidence, images=jerked, geometry=film.geometry, memory=film.rollout, view=view)
    assert "wavers" not in report


def test_without_anything_connected_the_evidence_is_empty_and_says_why(nodes, film):
    evidence, report = run(nodes.evidence, images=film.frames.rgb[:1])
    assert evidence.scores == {}
    for words in ("sky mask: not asked", "mover mask: not asked", "no geometry is connected", "no memory is connected"):
        assert words in report
    mask = run(nodes.mask, images=film.frames.rgb[:1], evidence=evidence, tuning={}, **OLD)[0]
    assert (mask == 1).all()


def test_frames_that_are_not_the_segments_are_told_and_no_error(nodes, film):
    _, report = run(nodes.evidence, images=film.frames.rgb[:4], memory=film.rollout)
    assert "there are 4 frames and the next segment of this memory has 33 (9 latent frames)" in report


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": torch.full((1, 32, 32, 3), math.nan)}, "images contain NaN"),
        ({"images": torch.zeros(0, 32, 32, 3)}, "not empty"),
        ({"sky_mask": torch.ones(4, *SIZE)}, "sky_mask has 4 frames for 9 pictures"),
        ({"mover_mask": torch.ones(9, 32, 32)}, "not the same crop"),
        ({"geometry": {"depth": torch.ones(5, *SIZE)}}, "The geometry has 5 frames for 9 pictures"),
        ({"geometry": {"depth": torch.ones(9, 64, 64)}}, "depth map is 64x64 and the frames 288x160"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(nodes, film, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(nodes.evidence, **({"images": film.frames.rgb} | changes))


def test_an_error_within_a_film_names_the_segment(nodes, film):
    with pytest.raises(ValueError, match="segment 1/1, Scene Evidence: sky_mask has 4 frames"):
        run(nodes.evidence, images=film.frames.rgb, memory=film.rollout, sky_mask=torch.ones(4, *SIZE))


def test_the_mask_wants_the_images_of_its_evidence_and_rules_it_knows(nodes, film):
    evidence, _ = run(nodes.evidence, images=film.frames.rgb)
    with pytest.raises(ValueError, match="evidence is of 9 frames of 288x160, the images are 2 of 288x160"):
        run(nodes.mask, images=film.frames.rgb[:2], evidence=evidence, **OLD)
    with pytest.raises(ValueError, match="The tuning has 'glow'"):
        run(nodes.mask, images=film.frames.rgb, evidence=evidence, tuning={"glow": 1}, **OLD)
    with pytest.raises(ValueError, match="moving has 4 frames for 9 pictures"):
        run(nodes.mask, images=film.frames.rgb, evidence=evidence, moving=torch.ones(4, *SIZE), **OLD)


def test_painted_masks_add_and_protect(nodes, film):
    evidence, _ = run(nodes.evidence, images=film.frames.rgb)
    moving, keep = torch.zeros(1, *SIZE), torch.zeros(1, *SIZE)
    moving[:, 40:120, 40:120], keep[:, 60:80, 60:80] = 1, 1
    mask = run(nodes.mask, images=film.frames.rgb, evidence=evidence, moving=moving, keep=keep, **OLD)[0]
    assert (mask[:, 45, 45] == 0).all() and (mask[:, 70, 70] == 1).all() and (mask[:, 150, 200] == 1).all()


def test_the_preview_is_the_overlay_of_the_run(nodes, film):
    import io

    import numpy as np
    from PIL import Image

    evidence, _ = run(nodes.evidence, images=film.frames.rgb, geometry=film.geometry, memory=film.rollout)
    rules = MaskRules.of({"grow": 6})
    pictures = nodes.pictures.small_pictures(film.frames.rgb, evidence.size)
    tuned = nodes.previews.Tuned(evidence, pictures, None, None)
    _, overlay, cells = run(nodes.mask, images=film.frames.rgb, evidence=evidence, tuning=rules.to_json(), **OLD)
    for view, pictured in (("pixels", overlay), ("cells", cells)):
        body, shares = nodes.routes.shown(tuned, rules, 4, view)
        shown = torch.from_numpy(np.asarray(Image.open(io.BytesIO(body))).astype(np.float32) / 255)
        assert (shown - pictured[4]).abs().mean() < 0.02, view
        assert 0 < shares["written"] < 1


def test_only_the_newest_runs_are_kept(nodes, film):
    previews = nodes.previews.Previews(limit=2)
    evidence, _ = run(nodes.evidence, images=film.frames.rgb[:1])
    heard = []
    previews.listeners.append(lambda node, tuned: heard.append((node, tuned.version)))
    for node in ("a", "b", "a", "c"):
        previews.remember(node, evidence, torch.zeros(1, 1, 1, 3), None, None)
    assert set(previews.all()) == {"a", "c"} and heard == [("a", 1), ("b", 2), ("a", 3), ("c", 4)]
    with pytest.raises(ValueError, match="Node 'b' has no evidence in memory"):
        previews.get("b")
