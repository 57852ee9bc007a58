"""What travels from segment to segment: counts, joins, and that nothing is ever changed in place."""

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.path_presets import preset
from mirage_core.rollout import Rollout, Shot

SIZE = (64, 96)
CELLS = (4, 6)


def shot(**changes):
    settings = {"path": preset("truck_right", amount=0.4), "frames": 65, "image_size": SIZE}
    return Shot(**(settings | changes))


def started(frames=65):
    intrinsics = pinhole_intrinsics(60, SIZE)
    cameras = shot(frames=frames).cameras(intrinsics=intrinsics, unit_length=4.0)
    latents = torch.randn(48, 1, *CELLS, generator=torch.Generator().manual_seed(1))
    block = lift(latents, torch.full((1, *CELLS), 4.0), cameras[0], WAN22)
    return Rollout.started(LatentMemory.empty(WAN22).extended(block), latents, cameras, unit_length=4.0)


def filmed(rollout, seed=0):
    segment = rollout.next_segment
    latents = torch.randn(48, segment.latent_frames, *CELLS, generator=torch.Generator().manual_seed(seed))
    latents[:, :1] = rollout.overlap
    return latents, rollout.extended(latents, rollout.view(segment))


def test_a_film_grows_by_eight_latent_frames_per_segment():
    rollout = started(97)
    lengths = []
    while not rollout.is_finished:
        _, rollout = filmed(rollout)
        lengths.append(rollout.film.shape[1])
    assert lengths == [9, 17, 25]
    assert WAN22.frames(rollout.film.shape[1]) == 97


def test_each_segment_starts_with_the_last_latent_of_the_film():
    rollout = started()
    latents, after = filmed(rollout)
    assert torch.equal(after.overlap, latents[:, -1:])
    assert torch.equal(rollout.overlap, rollout.latents[0])


def test_extending_leaves_the_old_rollout_as_it_was():
    rollout = started()
    before = rollout.film.clone()
    filmed(rollout)
    assert rollout.segments_done == 0 and torch.equal(rollout.film, before)


def test_preceding_latents_are_those_before_the_overlap_with_what_the_memory_showed():
    rollout = started()
    assert rollout.preceding(2) is None
    view = rollout.view(rollout.next_segment)
    latents, after = filmed(rollout)
    preceding = after.preceding(2)
    assert preceding is not None
    assert torch.equal(preceding[0], latents[:, -3:-1])
    assert torch.equal(preceding[1].latents, view.latents[:, -3:-1])
    assert preceding[1].is_covered.shape == (2, *CELLS)


def test_latent_frames_are_those_of_the_joined_film():
    rollout = started(97)
    while not rollout.is_finished:
        _, rollout = filmed(rollout)
    chosen = [0, 24, 1, 8, 9, 16, 17]
    assert torch.equal(rollout.latent_frames(chosen), rollout.film[:, chosen])
    assert (rollout.filmed_latents, rollout.filmed_frames) == (25, 97)


def test_the_first_camera_sees_the_whole_start_picture():
    rollout = started()
    view = rollout.view(rollout.next_segment)
    assert view.is_covered[0].all()
    assert torch.equal(view.latents[:, :1], rollout.latents[0])


def test_cameras_of_filmed_latents_are_those_of_their_last_frames():
    _, after = filmed(started())
    assert torch.equal(after.filmed_cameras().cam2world, after.cameras[list(range(0, 33, 4))].cam2world)


def test_a_redirected_film_keeps_what_is_filmed_and_moves_on_from_there():
    _, after = filmed(started(33))
    here = after.cameras.cam2world[32]
    onward = after.redirected(shot(frames=37, path=preset("dolly_in")).cameras(
        intrinsics=pinhole_intrinsics(60, SIZE), unit_length=4.0))  # fmt: skip
    assert len(onward.cameras) == 32 + 37 and len(onward.plan) == 3
    assert torch.allclose(onward.cameras.cam2world[32], here)
    assert onward.next_segment.output == range(33, 65)
    assert onward.next_segment.target_frames[0] == 32
    assert [frame for segment in onward.plan for frame in segment.output] == list(range(69))


def test_redirecting_a_fresh_film_replaces_its_path():
    onward = started(33).redirected(shot(frames=65).cameras(intrinsics=pinhole_intrinsics(60, SIZE), unit_length=4.0))
    assert len(onward.cameras) == 65 and len(onward.plan) == 2


def test_half_speed_walks_the_first_half_of_the_path():
    intrinsics = pinhole_intrinsics(60, SIZE)
    whole = shot(frames=33).cameras(intrinsics=intrinsics, unit_length=1.0)
    slow = shot(frames=65, speed=0.5).cameras(intrinsics=intrinsics, unit_length=1.0)
    assert len(slow) == 65
    middle = shot(frames=129).cameras(intrinsics=intrinsics, unit_length=1.0).centers[64]
    assert torch.allclose(slow.centers[-1], middle) and not torch.allclose(slow.centers[-1], whole.centers[-1])


def test_double_speed_arrives_in_half_the_film_and_rests():
    cameras = shot(speed=2.0).cameras(intrinsics=pinhole_intrinsics(60, SIZE), unit_length=1.0)
    assert torch.equal(cameras.centers[32], cameras.centers[64]) and cameras.centers[32, 0] > cameras.centers[16, 0]


def test_latents_of_another_segment_are_refused():
    rollout = started()
    view = rollout.view(rollout.next_segment)
    with pytest.raises(ValueError, match="Segment 1 has 9 latent frames"):
        rollout.extended(torch.zeros(48, 5, *CELLS), view)


def test_a_finished_film_has_no_next_segment():
    _, after = filmed(started(33))
    with pytest.raises(ValueError, match="All 1 segments of the path are filmed"):
        _ = after.next_segment


@pytest.mark.parametrize("changes, words", [
    ({"frames": 64}, "4n\\+1"), ({"image_size": (64, 100)}, "multiples of 32. Use 96x64"),
    ({"speed": 0.0}, "speed is 0.0"), ({"fps": float("nan")}, "fps is nan"),
])  # fmt: skip
def test_a_shot_that_cannot_be_filmed_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        shot(**changes)


def test_a_start_picture_of_another_size_is_refused():
    cameras = Cameras(torch.eye(4)[None], pinhole_intrinsics(60, (96, 96))[None], (96, 96))
    with pytest.raises(ValueError, match="needs"):
        Rollout.started(LatentMemory.empty(WAN22), torch.zeros(48, 1, *CELLS), cameras)


def test_more_than_one_start_latent_is_refused():
    with pytest.raises(ValueError, match="one latent frame"):
        Rollout.started(LatentMemory.empty(WAN22), torch.zeros(48, 2, *CELLS), started().cameras)
