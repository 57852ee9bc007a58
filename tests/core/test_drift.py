"""The colour anchor takes an injected drift away and nothing else; filled pictures keep what is kept."""

from __future__ import annotations

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.drift import MAX_GAIN, color_anchor, filled
from mirage_core.latent_grid import LatentGrid
from mirage_core.memory import LatentMemory, lift
from mirage_core.rollout import Rollout

from .scenes import furnished_room, ray_cast

CHANNELS, ROWS, COLUMNS = 8, 12, 20
GRID = LatentGrid(channels=CHANNELS)
IMAGE_SIZE = (ROWS * 16, COLUMNS * 16)


def a_segment(frames: int = 9, seed: int = 0) -> torch.Tensor:
    """[channels frames rows columns] with another mean and spread in every channel."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.3, 1.5, CHANNELS)[:, None, None, None]
    mean = torch.linspace(-0.5, 0.5, CHANNELS)[:, None, None, None]
    return mean + spread * torch.randn(CHANNELS, frames, ROWS, COLUMNS, generator=generator)


def everywhere(latents: torch.Tensor) -> torch.Tensor:
    return torch.ones(latents.shape[1:], dtype=torch.bool)


def test_a_segment_that_equals_the_memory_is_left_as_it_is():
    latents = a_segment()
    anchored = color_anchor(latents, latents, everywhere(latents)).apply(latents)
    assert torch.allclose(anchored, latents, atol=1e-5)


def test_strength_zero_returns_the_latents_bit_for_bit():
    latents = a_segment()
    anchor = color_anchor(latents * 1.2, latents, everywhere(latents))
    assert torch.equal(anchor.apply(latents, strength=0), latents)


def test_a_gain_and_an_offset_are_found_exactly_without_noise():
    truth = a_segment()
    gains, offsets = torch.linspace(0.8, 1.25, CHANNELS), torch.linspace(0.3, -0.3, CHANNELS)
    drifted = truth * gains[:, None, None, None] + offsets[:, None, None, None]
    anchored = color_anchor(drifted, truth, everywhere(truth)).apply(drifted)
    assert torch.allclose(anchored[:, 1:], truth[:, 1:], atol=1e-4)


def test_the_overlap_frame_never_changes():
    truth = a_segment()
    drifted = truth * 1.2
    anchored = color_anchor(drifted, truth, everywhere(truth)).apply(drifted)
    assert torch.equal(anchored[:, 0], drifted[:, 0])


def test_a_drift_that_grows_over_the_segment_is_followed():
    truth = a_segment()
    ramp = torch.linspace(0, 0.4, 9)[:, None, None]
    drifted = truth + ramp
    anchored = color_anchor(drifted, truth, everywhere(truth)).apply(drifted)
    assert (anchored - truth).abs().max() < 1e-4


def test_frames_that_the_memory_does_not_know_get_the_nearest_known_correction():
    truth = a_segment()
    is_known = everywhere(truth)
    is_known[5:] = False
    anchored = color_anchor(truth + 0.2, truth, is_known).apply(truth + 0.2)
    assert torch.allclose(anchored[:, 1:], truth[:, 1:], atol=1e-4)


def test_without_coverage_nothing_changes():
    truth = a_segment()
    anchor = color_anchor(truth * 2, truth, torch.zeros(truth.shape[1:], dtype=torch.bool))
    assert torch.equal(anchor.apply(truth), truth)


def test_what_moves_does_not_turn_the_correction():
    truth = a_segment()
    drifted = truth * 1.1 + 0.15
    drifted[:, :, 2:8, 3:10] = 4 + a_segment(seed=1)[:, :, 2:8, 3:10]  # 17 % of the picture is another thing
    anchored = color_anchor(drifted, truth, everywhere(truth)).apply(drifted)
    error = (anchored - truth)[:, 1:, 9:].abs().max()
    assert error < 0.02


def test_noise_does_not_take_contrast_away():
    truth = a_segment()
    noise = 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    noise_of_memory = 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(6))
    anchor = color_anchor(truth + noise, truth + noise_of_memory, everywhere(truth))
    assert (anchor.gains - 1).abs().max() < 0.1  # a line fitted cell by cell would give 0.5 in the first channel


def test_the_correction_is_bounded():
    truth = a_segment()
    anchor = color_anchor(truth * 10 + 30, truth, everywhere(truth))
    assert anchor.gains.min() >= 1 / MAX_GAIN - 1e-9 and anchor.offsets.abs().max() <= 1


def test_a_view_of_another_size_is_refused():
    latents = a_segment()
    with pytest.raises(ValueError, match="Compare a segment with the view it was made from"):
        color_anchor(latents, latents[:, :3], everywhere(latents))


def panning_film(segments: int) -> tuple[Rollout, torch.Tensor]:
    """A film that swings from side to side in a room, and the latents that a model without drift would make."""
    frames = 1 + 32 * segments
    angles = 0.5 * torch.sin(torch.arange(frames, dtype=torch.float64) * (2 * torch.pi / 64))
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    cam2world[:, 0, 0], cam2world[:, 0, 2] = angles.cos(), angles.sin()
    cam2world[:, 2, 0], cam2world[:, 2, 2] = -angles.sin(), angles.cos()
    intrinsics = pinhole_intrinsics(60, IMAGE_SIZE).repeat(frames, 1, 1)
    cameras = Cameras(cam2world, intrinsics, IMAGE_SIZE)
    truth = texture(cameras[list(range(0, frames, 4))])
    return Rollout.started(LatentMemory.empty(GRID), truth[:, :1], cameras), truth


def texture(cameras: Cameras) -> torch.Tensor:
    """[channels frames rows columns] a smooth pattern painted onto the room's surfaces."""
    depth = ray_cast(furnished_room(), cameras, (ROWS, COLUMNS)).depth
    points = lift(torch.zeros(CHANNELS, *depth.shape), depth, cameras, GRID).points.float()
    waves = torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(3)) * 1.5
    return torch.sin(points @ waves + torch.arange(CHANNELS)).reshape(*depth.shape, CHANNELS).movedim(-1, 0)


def filmed_drift(segments: int, *, strength: float) -> list[float]:
    """Mean distance of each segment from what a model without drift would have made.

    The model continues in the colours of its newest latent and adds its own drift, a gain and an offset per segment.
    """
    rollout, truth = panning_film(segments)
    depth = ray_cast(furnished_room(), rollout.filmed_cameras(), rollout.size).depth
    rollout = Rollout.started(
        rollout.memory.extended(lift(truth[:, :1], depth, rollout.filmed_cameras(), GRID)), truth[:, :1],
        rollout.cameras,
    )  # fmt: skip
    generator, errors = torch.Generator().manual_seed(1), []
    gain, offset = torch.linspace(1.04, 0.97, CHANNELS), torch.linspace(-0.03, 0.05, CHANNELS)
    for _ in range(segments):
        segment = rollout.next_segment
        own = truth[:, [frame // 4 for frame in segment.target_frames]]
        carried_gain = (rollout.overlap.std((1, 2, 3)) / own[:, :1].std((1, 2, 3)))[:, None, None, None]
        carried = own.mean((2, 3), keepdim=True)
        shift = (rollout.overlap.mean((1, 2, 3)) - own[:, 0].mean((1, 2)))[:, None, None, None]
        made = (own - carried) * carried_gain + carried + shift
        steps = torch.linspace(0, 1, own.shape[1])[:, None, None]
        made = made * (gain[:, None, None, None] ** steps) + offset[:, None, None, None] * steps
        made += 0.05 * torch.randn(made.shape, generator=generator)
        made[:, :1] = rollout.overlap
        view = rollout.view(segment)
        made = color_anchor(made, view.latents, view.is_covered).apply(made, strength=strength)
        cameras = rollout.cameras_of(segment)
        depth = ray_cast(furnished_room(), cameras, rollout.size).depth
        new = lift(made[:, 1:], depth[1:], cameras[1:], GRID, first_latent_index=rollout.film.shape[1])
        rollout = rollout.extended(made, view, new)
        errors.append(float((made - own).mean((1, 2, 3)).abs().mean()))
    return errors


def test_the_anchor_keeps_a_film_of_six_segments_from_drifting():
    without, anchored = filmed_drift(6, strength=0), filmed_drift(6, strength=1)
    assert without[-1] > 0.1
    assert anchored[-1] < 0.2 * without[-1]


def test_kept_pixels_stay_and_the_rest_is_between_them():
    pictures = torch.rand(2, 37, 50, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.6
    is_kept = torch.ones(2, 37, 50, dtype=torch.bool)
    is_kept[:, 5:30, 10:40] = False
    pictures[~is_kept] = 0
    full = filled(pictures, is_kept)
    assert torch.equal(full[is_kept], pictures[is_kept])
    assert full[~is_kept].min() >= 0.6 - 1e-5 and full[~is_kept].max() <= 0.8 + 1e-5


def test_a_picture_of_which_nothing_is_kept_turns_grey():
    full = filled(torch.ones(1, 8, 12, 3), torch.zeros(1, 8, 12, dtype=torch.bool))
    assert torch.equal(full, torch.full((1, 8, 12, 3), 0.5))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="one mask per picture"):
        filled(torch.ones(1, 8, 12, 3), torch.ones(1, 4, 12, dtype=torch.bool))
