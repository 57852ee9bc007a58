"""Alignment of new depth to what is known: scale and shift in noise, outliers and little overlap, and without drift."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch

from benchmarks.scale_drift import WAYS, flown
from mirage_core.alignment import DEPTH_KINDS, Alignment, align_depth
from mirage_core.anchors import anchors
from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.zbuffer import project
from tests.core.scenes import furnished_room, ray_cast

nan, inf = math.nan, math.inf
FRAMES, SIZE = 9, (44, 80)
SMALL = (22, 40)


def compared(scale: torch.Tensor, *, noise: float, outliers: float, overlap: float, seed: int = 0):
    """New depth that is wrong by 1 / scale per frame, and known depth for a share of its cells."""
    generator = torch.Generator().manual_seed(seed)
    known = 2 + 4 * torch.rand(len(scale), *SIZE, generator=generator)
    wrong = known / scale[:, None, None] * (1 + noise * torch.randn(known.shape, generator=generator))
    is_outlier = torch.rand(known.shape, generator=generator) < outliers
    wrong = torch.where(is_outlier, wrong * 2.5, wrong)
    is_known = torch.rand(known.shape, generator=generator) < overlap
    return wrong, known, is_known


@functools.cache
def room_truth() -> torch.Tensor:
    """[frames rows columns] of a furnished room, the camera turning through it."""
    return ray_cast(furnished_room(), turning(FRAMES, 30.0), SMALL).depth


def turning(frames: int, degrees: float, first: float = 0.0) -> Cameras:
    """Cameras that turn on the spot in the middle of the room."""
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    angle = torch.deg2rad(first + torch.linspace(0, degrees, frames, dtype=torch.float64))
    cam2world[:, 0, 0] = cam2world[:, 2, 2] = angle.cos()
    cam2world[:, 0, 2], cam2world[:, 2, 0] = angle.sin(), -angle.sin()
    cam2world[:, 2, 3] = 2.0
    return Cameras(cam2world, pinhole_intrinsics(70, SIZE).expand(frames, 3, 3), SIZE)


def distorted(depth: torch.Tensor, kind: str, scale: float, shift: float) -> torch.Tensor:
    """Depth that aligning with `scale` and `shift` would put right."""
    if kind == "scale + shift":
        return (depth - shift) / scale
    if kind == "scale + disparity shift":
        return scale / (1 / depth - shift)
    return depth / scale


# The bar: random scale and shift per segment, noise, outliers, little overlap.


@pytest.mark.parametrize("kind", DEPTH_KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("outliers", [0.0, 0.3])
@pytest.mark.parametrize(("overlap", "is_strip"), [(0.1, False), (0.1, True), (1.0, False)])
def test_aligned_depth_is_hardly_worse_than_the_noise_alone(kind, noise, outliers, overlap, is_strip: bool) -> None:
    truth = room_truth()
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        scale = float(2 ** (2 * torch.rand(1, generator=generator) - 1))
        shift = float(torch.rand(1, generator=generator) - 0.5) * (0.1 if "disparity" in kind else 1.5)
        error = noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        is_outlier = torch.rand(truth.shape, generator=generator) < outliers
        new = distorted(truth * (1 + error), kind, scale, shift)
        new = torch.where(is_outlier, new * (0.4 + 3 * torch.rand(truth.shape, generator=generator)), new)
        is_known = torch.rand(truth.shape, generator=generator) < overlap
        if is_strip:
            is_known = (torch.arange(SMALL[1]) < overlap * SMALL[1]).expand(truth.shape)
        aligned = align_depth(new.float(), truth.float(), is_known, kind=kind).apply(new)
        off = (aligned / truth - 1).abs()[~is_outlier].median()
        assert float(off) <= 1.2 * float(error.abs()[~is_outlier].median()) + 1e-4


@pytest.mark.parametrize(("kind", "seed"), [("scale + shift", 1), ("scale + disparity shift", 3)])
def test_frames_that_fit_exactly_do_not_lose_those_that_are_slower_to_fit(kind, seed: int) -> None:
    truth, generator = room_truth(), torch.Generator().manual_seed(seed)
    scale = float(2 ** (2 * torch.rand(1, generator=generator) - 1))
    shift = float(torch.rand(1, generator=generator) - 0.5) * (0.1 if "disparity" in kind else 1.5)
    new = distorted(truth, kind, scale, shift)
    is_outlier = torch.rand(truth.shape, generator=generator) < 0.3
    new = torch.where(is_outlier, new * (0.4 + 3 * torch.rand(truth.shape, generator=generator)), new)
    is_known = (torch.arange(SMALL[1]) < 4).expand(truth.shape)
    off = (align_depth(new, truth, is_known, kind=kind).apply(new) / truth - 1).abs()
    assert float(off[~is_outlier].max()) < 1e-6


def test_without_alignment_the_same_depth_would_be_far_off() -> None:
    assert float((distorted(room_truth(), "scale + shift", 1.6, 0.5) / room_truth() - 1).abs().median()) > 0.3


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("outliers", [0.0, 0.3])
@pytest.mark.parametrize("overlap", [0.1, 1.0])
def test_the_scale_of_each_frame_is_found_in_noise_and_outliers(noise: float, outliers: float, overlap: float) -> None:
    scales = torch.tensor([0.5, 0.8, 1.0, 1.3, 2.0])
    alignment = align_depth(*compared(scales, noise=noise, outliers=outliers, overlap=overlap))
    assert alignment.is_aligned.all()
    torch.testing.assert_close(alignment.scales.float(), scales, rtol=0.005 + noise / 10, atol=0)
    assert float(alignment.residuals.max()) <= 0.8 * noise + 1e-6  # the median of |noise| is 0.67 of its deviation


@pytest.mark.parametrize("kind", DEPTH_KINDS)
def test_depth_that_fits_already_is_left_alone(kind) -> None:
    truth = room_truth()
    alignment = align_depth(truth, truth, truth > 0, kind=kind)
    assert alignment.scales.tolist() == pytest.approx([1] * FRAMES, abs=1e-5)
    assert alignment.shifts.tolist() == pytest.approx([0] * FRAMES, abs=1e-5)


@pytest.mark.parametrize("kind", DEPTH_KINDS)
def test_the_unit_of_known_depth_does_not_matter(kind) -> None:
    truth = room_truth()
    new = distorted(truth, kind, 0.7, 0.05)
    one, thousand = (align_depth(new, truth * unit, truth > 0, kind=kind) for unit in (1.0, 1000.0))
    torch.testing.assert_close(thousand.apply(new), 1000 * one.apply(new), rtol=1e-5, atol=0)


def test_a_shift_that_one_wall_cannot_tell_stays_small() -> None:
    wall = torch.full((FRAMES, *SIZE), 4.0, dtype=torch.float64)
    new = wall / 1.5 * (1 + 0.02 * torch.randn(wall.shape, generator=torch.Generator().manual_seed(0)))
    alignment = align_depth(new, wall, wall > 0, kind="scale + shift")
    assert float(alignment.shifts.abs().max()) < 0.1 * 4.0
    assert float(alignment.apply(wall / 1.5).median()) == pytest.approx(4.0, rel=0.01)


def test_frames_share_what_they_cannot_tell_alone_only_when_told_to_be_one() -> None:
    scales = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.03])
    wrong, known, is_known = compared(scales, noise=0.01, outliers=0, overlap=1)
    free, one = align_depth(wrong, known, is_known), align_depth(wrong, known, is_known, frame_change=1e-4)
    assert float(free.scales[-1]) == pytest.approx(1.03, abs=0.003)
    assert float(one.scales.max() - one.scales.min()) < 0.003


# Too little overlap.


def test_a_frame_without_overlap_takes_a_scale_between_its_neighbours() -> None:
    wrong, known, is_known = compared(torch.tensor([9.0, 2.0, 9.0, 8.0, 9.0]), noise=0, outliers=0, overlap=1)
    is_known[[0, 2, 4]] = False
    alignment = align_depth(wrong, known, is_known)
    assert alignment.is_aligned.tolist() == [False, True, False, True, False]
    assert alignment.scales.tolist() == pytest.approx([2, 2, 4, 8, 8])
    assert alignment.residuals.isnan().tolist() == [True, False, True, False, True]
    assert alignment.shares.tolist() == pytest.approx([0, 1, 0, 1, 0])


def test_without_any_overlap_the_depth_stays_as_it_is() -> None:
    wrong, known, is_known = compared(torch.tensor([2.0, 3.0]), noise=0, outliers=0, overlap=1)
    alignment = align_depth(wrong, known, torch.zeros_like(is_known))
    assert alignment.scales.tolist() == [1, 1] and not alignment.is_aligned.any()
    assert torch.equal(alignment.apply(wrong), wrong)


def test_without_any_overlap_the_last_segment_s_fit_goes_on() -> None:
    wrong, known, is_known = compared(torch.tensor([2.0, 3.0]), noise=0, outliers=0, overlap=1)
    alignment = align_depth(wrong, known, torch.zeros_like(is_known), kind="scale + shift", fallback=(1.7, 0.2))
    assert alignment.scales.tolist() == [1.7, 1.7] and alignment.shifts.tolist() == [0.2, 0.2]
    assert alignment.last == (1.7, 0.2)


def test_too_small_an_overlap_counts_as_none() -> None:
    wrong, known, is_known = compared(torch.tensor([2.0]), noise=0, outliers=0, overlap=0.03)
    assert not align_depth(wrong, known, is_known).is_aligned.any()
    assert align_depth(wrong, known, is_known, min_share=0.01).is_aligned.all()


def test_unknown_depth_on_either_side_is_not_compared() -> None:
    wrong, known, is_known = compared(torch.tensor([2.0]), noise=0, outliers=0, overlap=1)
    wrong[0, :10], wrong[0, 10:20], known[0, 20:25] = 0, nan, inf
    alignment = align_depth(wrong, known, is_known)
    assert float(alignment.scales[0]) == pytest.approx(2)
    assert float(alignment.shares[0]) == pytest.approx(19 / 24)


# Applying.


def test_applying_an_alignment_brings_depth_of_any_size_to_the_known_scale() -> None:
    alignment = align_depth(*compared(torch.tensor([0.5, 3.0]), noise=0, outliers=0, overlap=1))
    applied = alignment.apply(torch.ones(2, 8, 8))
    assert applied[:, 0, 0].tolist() == pytest.approx([0.5, 3.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("scale", [2.0, 8.0]),
        ("scale + shift", [0.5, 6.5]),
        # 1 / (2 / 1 - 1.5) = 2; at depth 4 it is 1 / (2 / 4 - 1.5), behind the camera.
        ("scale + disparity shift", [2.0, 0.0]),
    ],
)
def test_unknown_depth_stays_unknown_and_nothing_comes_to_lie_behind_the_camera(kind, expected) -> None:
    one = torch.tensor([1.0], dtype=torch.float64)
    alignment = Alignment(2 * one, -1.5 * one, one, one, one > 0, kind)
    applied = alignment.apply(torch.tensor([[[1.0, 4.0, 0.0, inf]]]))[0, 0]
    assert applied[:2].tolist() == expected
    assert applied[2] == 0 and applied[3] == inf


# No drift.


def start_and_late(late_scale: float, late_columns: int) -> tuple[LatentMemory, Cameras]:
    """A wall remembered in the start picture, and on its right side once more by a late segment that was off."""
    camera = turning(1, 0)
    depth = torch.full((1, *SIZE), 6.0)
    latents = torch.zeros(WAN22.channels, 1, *SIZE)
    is_late = (torch.arange(SIZE[1]) >= SIZE[1] - late_columns).expand(depth.shape)
    memory = LatentMemory.empty(WAN22).extended(lift(latents, depth, camera, WAN22, is_static=~is_late))
    late = lift(latents, depth * late_scale, camera, WAN22, is_static=is_late, first_latent_index=73)
    return memory.extended(late), camera


def test_few_cells_of_the_start_outweigh_many_of_a_late_segment() -> None:
    memory, camera = start_and_late(1.03, late_columns=60)
    view = project(memory, camera, SIZE)
    noise = 1 + 0.01 * torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    known = anchors(memory, view, camera)
    weighted = align_depth(6.0 * noise, known.depth, view.is_covered, weights=known.weights)
    assert float(weighted.scales[0]) == pytest.approx(1, abs=0.005)
    assert float(align_depth(6.0 * noise, view.depth, view.is_covered).scales[0]) > 1.02


def test_single_old_points_that_are_far_off_do_not_outweigh_a_view_full_of_young_ones() -> None:
    camera, latents = turning(1, 0), torch.zeros(WAN22.channels, 1, *SIZE)
    young, old = torch.full((1, *SIZE), 6.0), torch.zeros(1, *SIZE)
    old[0, 5, 10:18] = 4.5
    memory = LatentMemory.empty(WAN22).extended(lift(latents, old, camera, WAN22))
    memory = memory.extended(lift(latents, young, camera, WAN22, first_latent_index=120))
    view = project(memory, camera, SIZE)
    assert (view.depth < 5).sum() == 8
    noise = 1 + 0.01 * torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    known = anchors(memory, view, camera)
    fit = align_depth(6.0 * noise, known.depth, view.is_covered, weights=known.weights)
    assert float(fit.scales[0]) == pytest.approx(1, abs=0.002)
    assert len(known.weights[view.depth < 5].unique()) == 1, "also the last point, which fills up its tile"


def test_a_patch_that_shows_in_many_cells_is_one_sighting() -> None:
    far, near = turning(1, 0), turning(1, 0)
    near.cam2world[:, 2, 3] += 4.5
    memory = LatentMemory.empty(WAN22).extended(
        lift(torch.zeros(WAN22.channels, 1, *SIZE), torch.full((1, *SIZE), 6.0), far, WAN22)
    )
    view = project(memory, near, SIZE)
    weights = anchors(memory, view, near).weights
    assert view.is_covered.all() and (weights > 0).all()
    in_view = view.point_index.unique()
    assert float(weights.sum()) < 2 * len(in_view) < 0.2 * weights.numel()
    # What shows nothing is no sighting of the memory's first point.
    first = int(view.point_index[0, 0, 0])
    order = torch.tensor([first, *(i for i in range(memory.count) if i != first)])
    memory = LatentMemory(memory.grid, (memory.blocks[0].chosen(order),))
    view = project(memory, near, SIZE)
    is_covered = view.point_index == 0
    hidden = replace(view, point_index=view.point_index.where(is_covered, -1))
    alone = anchors(memory, hidden, near).weights[is_covered]
    cells = int(is_covered.sum())
    assert cells > 4 and float(alone.max() / alone.min()) == pytest.approx(cells)


@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.002), (1.0, 0.05)])
def test_a_walk_through_many_rooms_keeps_its_scale(noise: float, most: float) -> None:
    flight = flown(WAYS[-1], 36, size=(22, 40), noise=noise)
    assert max(abs(here) for here, _ in flight) < most
    assert max(abs(at_start) for _, at_start in flight) < most / 2


def test_weights_fall_with_age_and_are_0_where_nothing_shows() -> None:
    memory, camera = start_and_late(1.0, late_columns=40)
    weights = anchors(memory, project(memory, camera, SIZE), camera).weights[0]
    assert float(weights[:, :39].min()) > 0.9 and 0 < float(weights[:, 41:].max()) < 0.2
    nothing = LatentMemory.empty(WAN22)
    assert not anchors(nothing, project(nothing, camera, SIZE), camera).weights.any()


def test_a_sure_point_counts_more_than_an_unsure_one_at_the_same_place() -> None:
    camera, latents = turning(1, 0), torch.zeros(WAN22.channels, 1, *SIZE)
    memory = LatentMemory.empty(WAN22)
    for depth, confidence in ((6.0, 0.9), (6.1, 0.1)):
        cells = torch.full((1, *SIZE), depth)
        memory = memory.extended(lift(latents, cells, camera, WAN22, confidence=torch.full_like(cells, confidence)))
    known = anchors(memory, project(memory, camera, SIZE), camera)
    assert float(known.depth.median()) == pytest.approx(6.0 * (6.1 / 6.0) ** 0.1, rel=1e-3)


def test_of_many_noisy_frames_the_middle_counts_and_not_the_nearest() -> None:
    camera, latents = turning(1, 0), torch.zeros(WAN22.channels, 1, *SIZE)
    generator, memory = torch.Generator().manual_seed(0), LatentMemory.empty(WAN22)
    for _ in range(8):
        cells = 6 * (1 + 0.02 * torch.randn(1, *SIZE, generator=generator))
        memory = memory.extended(lift(latents, cells, camera, WAN22))
    view = project(memory, camera, SIZE)
    assert float(view.depth.median()) < 6 * 0.98
    assert float(anchors(memory, view, camera).depth.median()) == pytest.approx(6, rel=0.003)


@pytest.mark.parametrize("size", [SIZE, (16, 28)])
def test_anchors_of_one_noiseless_frame_are_its_own_depth(size) -> None:
    camera = turning(1, 0)
    depth = ray_cast(furnished_room(), camera, size).depth
    memory = LatentMemory.empty(WAN22).extended(lift(torch.zeros(WAN22.channels, 1, *size), depth, camera, WAN22))
    known = anchors(memory, project(memory, camera, size), camera)
    torch.testing.assert_close(known.depth, depth, rtol=1e-6, atol=0)


def test_what_is_not_of_the_memory_is_no_anchor() -> None:
    memory, camera = start_and_late(1.0, late_columns=40)
    view = project(memory, camera, SIZE)
    index = view.point_index.clone()
    index[:, 10:20] = -1
    known = anchors(memory, replace(view, point_index=index), camera)
    assert not known.weights[:, 10:20].any() and not known.depth[:, 10:20].any()
    assert (known.weights[:, 20:] > 0).all()


def test_a_loop_of_drifting_depth_ends_with_the_start_wall_in_its_place() -> None:
    aligned, plain = (displacement_after_a_round(is_aligned) for is_aligned in (True, False))
    assert aligned < 0.01
    assert plain == pytest.approx(1.03**10 - 1, rel=0.02)


def displacement_after_a_round(is_aligned: bool, *, drift: float = 0.03, noise: float = 0.01) -> float:
    """Relative median displacement of the start view's depth as the tenth segment of a full turn writes it."""
    generator, size, frames = torch.Generator().manual_seed(1), (16, 28), 5
    latents = torch.zeros(WAN22.channels, frames, *size)
    start = turning(1, 0)
    depth = ray_cast(furnished_room(), start, size).depth.float()
    memory = LatentMemory.empty(WAN22).extended(lift(latents[:, :1], depth, start, WAN22))
    aligned = truth = depth
    for segment in range(10):
        cameras = turning(frames, 36.0, first=36.0 * segment)
        truth = ray_cast(furnished_room(), cameras, size).depth.float()
        # A network's error is smooth over the image, and its own in every frame.
        error = noise * torch.randn(frames, 1, 5, 8, generator=generator)
        error = torch.nn.functional.interpolate(error, size, mode="bicubic")[:, 0]
        aligned = truth * (1 + error) * (1 + drift) ** (segment + 1)
        if is_aligned:
            view = project(memory, cameras, size)
            known = anchors(memory, view, cameras)
            aligned = align_depth(aligned, known.depth, view.is_covered, weights=known.weights).apply(aligned)
        block = lift(latents[:, 1:], aligned[1:], cameras[1:], WAN22, first_latent_index=1 + 8 * segment)
        memory = memory.extended(block)
    return abs(float((aligned[-1] / truth[-1]).median()) - 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: align_depth(torch.ones(1, 2, 2), torch.ones(1, 2, 3), torch.ones(1, 2, 2) > 0), "of one size"),
        (lambda: align_depth(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2) > 0), "of one size"),
        (lambda: align_depth(*3 * [torch.ones(1, 2, 2) > 0], kind="affine"), "one of scale, scale"),
    ],
)
def test_what_cannot_be_aligned_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
