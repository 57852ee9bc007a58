"""How latents cover pixels and time."""

from __future__ import annotations

import pytest
import torch

from mirage_core.latent_grid import WAN22, LatentGrid


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (33, 9), (97, 25), (121, 31)])
def test_wan_packs_4n_plus_1_frames(frames, latent_frames):
    assert WAN22.latent_frames(frames) == latent_frames
    assert WAN22.frames(latent_frames) == frames


@pytest.mark.parametrize("frames", [0, -3, 2, 32, 34, 80])
def test_other_frame_counts_are_refused(frames):
    assert not WAN22.is_frame_count(frames)
    with pytest.raises(ValueError, match=r"4n\+1"):
        WAN22.latent_frames(frames)


def test_the_refusal_names_the_two_nearest_counts_that_work():
    with pytest.raises(ValueError, match="Use 77 or 81"):
        WAN22.latent_frames(80)


def test_no_latent_frames_is_no_clip():
    with pytest.raises(ValueError, match="at least 1"):
        WAN22.frames(0)


def test_each_latent_frame_ends_where_a_clip_of_that_many_does():
    assert [WAN22.last_frame_of(latent) for latent in range(4)] == [0, 4, 8, 12]
    assert all(WAN22.last_frame_of(latent) == WAN22.frames(latent + 1) - 1 for latent in range(20))


@pytest.mark.parametrize(("image_size", "size"), [((704, 1280), (44, 80)), ((719, 1295), (44, 80)), ((16, 16), (1, 1))])
def test_a_grid_has_only_whole_cells(image_size, size):
    assert WAN22.size_of(image_size) == size
    assert WAN22.cropped_size(image_size) == (size[0] * 16, size[1] * 16)


def test_an_image_smaller_than_a_cell_is_refused():
    with pytest.raises(ValueError, match="1280x15"):
        WAN22.size_of((15, 1280))


def test_the_ray_of_a_cell_is_at_its_centre_unless_the_release_rule_is_asked_for():
    assert WAN22.cell_offset == 0.5
    assert LatentGrid(cell_rule="corner").cell_offset == 0.0


def test_latents_of_the_grid_pass():
    WAN22.check_latents(torch.zeros(48, 2, 3, 4))


@pytest.mark.parametrize(
    ("latents", "reason"),
    [
        (torch.zeros(16, 2, 3, 4), "16 channels"),
        (torch.zeros(1, 48, 2, 3, 4), r"\[channels frames rows columns\]"),
        (torch.full((48, 1, 1, 1), torch.nan), "NaN or infinite"),
        (torch.full((48, 1, 1, 1), torch.inf), "NaN or infinite"),
    ],
)
def test_latents_that_do_not_fit_are_refused_with_the_reason(latents, reason):
    with pytest.raises(ValueError, match=reason):
        WAN22.check_latents(latents)
