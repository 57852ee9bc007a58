"""What the branch and the model are fed: laws of packing, layouts and positions, and cases to check by hand."""

from __future__ import annotations

import pytest
import torch

from mirage_core.side_branch import (
    LAYOUTS,
    BranchInput,
    RopeRun,
    branch_context,
    hole_pictures,
    layout_channels,
    memory_frames,
    white_pictures,
)

CHANNELS = 48


def latents(frames, *, rows=4, columns=6, seed=0):
    return torch.randn(CHANNELS, frames, rows, columns, generator=torch.Generator().manual_seed(seed))


def a_segment(order="ref_target_preceding", *, references=3, target=4, preceding=2):
    return BranchInput(
        target_frames=target,
        context=torch.zeros(96, target + preceding, 4, 6),
        references=latents(references, seed=1) if references else None,
        preceding=latents(preceding, seed=2) if preceding else None,
        token_order=order,
    )


@pytest.mark.parametrize("order", ["ref_target_preceding", "target_preceding_ref"])
@pytest.mark.parametrize(("references", "preceding"), [(0, 0), (3, 0), (0, 2), (3, 2)])
def test_the_target_comes_back_out_of_the_packing(order, references, preceding):
    segment = a_segment(order, references=references, preceding=preceding)
    video = latents(4)[None].repeat(2, 1, 1, 1, 1)
    packed = segment.packed(video)
    assert packed.shape[2] == segment.frames == references + 4 + preceding
    assert torch.equal(packed[:, :, segment.target], video)


def test_references_come_first_and_preceding_last_as_released():
    segment = a_segment()
    packed = segment.packed(latents(4)[None])
    assert torch.equal(packed[0, :, :3], segment.references) and torch.equal(packed[0, :, 7:], segment.preceding)
    assert (segment.target, segment.seen_by_branch) == (slice(3, 7), slice(3, 9))


def test_the_pre_release_puts_the_target_first():
    segment = a_segment("target_preceding_ref")
    packed = segment.packed(latents(4)[None])
    assert torch.equal(packed[0, :, 4:6], segment.preceding) and torch.equal(packed[0, :, 6:], segment.references)
    assert (segment.target, segment.seen_by_branch) == (slice(0, 4), slice(0, 6))


def test_only_target_frames_have_noise():
    timesteps = a_segment().timesteps(torch.tensor([[0.0, 900.0, 900.0, 900.0]]))
    assert timesteps.tolist() == [[0, 0, 0, 0, 900, 900, 900, 0, 0]]


def test_one_timestep_counts_for_all_target_frames():
    assert a_segment().timesteps(torch.tensor([7.0, 8.0]))[:, 2:8].tolist() == [[0, *[7] * 4, 0], [0, *[8] * 4, 0]]


def test_positions_of_the_release():
    assert a_segment().rope_runs == (RopeRun(3, -3, is_below=True), RopeRun(6, 0))
    assert a_segment(references=0).rope_runs == (RopeRun(6, 0),)


def test_positions_of_the_pre_release():
    runs = a_segment("target_preceding_ref").rope_runs
    assert runs == (RopeRun(4, 0), RopeRun(2, -2), RopeRun(3, 0, is_still=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_its_channels_and_unknown_cells_are_exactly_zero(layout):
    view, second = latents(3), latents(3, seed=5) if layout in ("white_latent", "hole_map") else None
    is_covered = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(3)) > 0.5
    view[:, ~is_covered] = 0
    context = branch_context(view, is_covered, layout, second)
    assert context.shape == (layout_channels(layout), 3, 4, 6)
    assert torch.equal(context[:CHANNELS], view) and (context[:CHANNELS, ~is_covered] == 0).all()


def test_what_lies_under_a_hole_never_reaches_the_branch():
    is_covered = torch.ones(1, 4, 6, dtype=torch.bool)
    is_covered[0, 0, 0] = False
    context = branch_context(torch.full((CHANNELS, 1, 4, 6), torch.nan).where(~is_covered, 1.0), is_covered, "view")
    assert torch.isfinite(context).all() and context[0, 0, 0, 0] == 0


def test_the_hole_mask_is_one_where_nothing_is_known():
    is_covered = torch.tensor([[[True, False]]])
    assert branch_context(torch.ones(CHANNELS, 1, 1, 2), is_covered, "hole_mask")[48].tolist() == [[[0, 1]]]


def test_an_encoded_second_part_must_be_there_and_fit():
    view, is_covered = latents(2), torch.ones(2, 4, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="reads an encoded white video beside the view; nothing can encode it"):
        branch_context(view, is_covered, "white_latent")
    with pytest.raises(ValueError, match="reads an encoded map of the holes"):
        branch_context(view, is_covered, "hole_map")
    with pytest.raises(ValueError, match="Encode it for this segment's size and length"):
        branch_context(view, is_covered, "white_latent", latents(3))


def test_white_pictures_have_the_pixel_frames_of_the_latents():
    assert white_pictures(3, (4, 6)).shape == (9, 64, 96, 3) and (white_pictures(1, (1, 1)) == 1).all()


def test_hole_pictures_show_each_latent_frame_in_the_frames_it_covers():
    is_covered = torch.ones(2, 1, 2, dtype=torch.bool)
    is_covered[1, 0, 1] = False
    pictures = hole_pictures(is_covered)
    assert pictures.shape == (5, 16, 32, 3)
    assert (pictures[0] == 0.5).all() and (pictures[:, :, :16] == 0.5).all()  # Spatia feeds seen pixels as 0, mid grey
    assert (pictures[1:, :, 16:] == 1).all()


def test_the_estimate_grows_with_company_and_with_the_branch():
    alone = BranchInput(target_frames=9)
    with_company = BranchInput(target_frames=9, references=latents(4), preceding=latents(2))
    with_branch = BranchInput(
        target_frames=9, context=torch.zeros(48, 11, 4, 6), references=latents(4), preceding=latents(2)
    )
    estimates = [memory_frames(one, 3072, 14336) for one in (alone, with_company, with_branch)]
    assert estimates == [9, 15, 18]  # 15 + 11 * 3 * 3072 / (8 * 3072 + 14336) = 17.6


def test_a_video_of_another_length_is_refused():
    with pytest.raises(ValueError, match="passes 5 latent frames; the memory was applied for 4"):
        a_segment().packed(latents(5)[None])


def test_company_of_another_size_is_refused():
    with pytest.raises(ValueError, match="references are 4x6 latent cells, the video 4x8"):
        a_segment().packed(latents(4, columns=8)[None])


def test_a_view_longer_than_the_segment_is_refused():
    with pytest.raises(ValueError, match="view has 5 latent frames; this segment has 4 and 0 preceding"):
        BranchInput(target_frames=4, context=torch.zeros(48, 5, 4, 6))


def test_an_unknown_token_order_is_refused():
    with pytest.raises(ValueError, match="token order is 'sideways'; known orders: ref_target_preceding"):
        BranchInput(target_frames=1, token_order="sideways")  # type: ignore[arg-type]


def test_a_segment_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least 1 latent frame, not 0"):
        BranchInput(target_frames=0)
