"""Movers across a segment's border: where they are shown, against where they truly are, in a ray-cast scene."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics, unproject_cells
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.movers import MoverLayer, mover_layer, with_movers
from mirage_core.rollout import Rollout
from mirage_core.zbuffer import MemoryView, project
from tests.core.scenes import Rectangle, box, ray_cast, wall

SIZE, IMAGE = (22, 40), (352, 640)
LAST, NEXT = 8, 5  # the border's latent frame, and the frames looked at from there on
POST = box((0.9, -2.0, 2.0), (1.3, 2.0, 2.2))
MOVED, STILL = 1.0, -1.0  # what the latents of a mover, of all else hold


def mover(time: float, *, height: float = 0.0, speed: float = 0.15) -> list[Rectangle]:
    """A box that slides to the right and a little away, at a time in latent frames."""
    x, z = -2.2 + speed * time, 3.0 + 0.02 * time
    return box((x, height - 0.4, z), (x + 0.8, height + 0.4, z + 0.3))


def cameras(frames: range, *, truck: float = 0.03) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(len(frames), 1, 1)
    cam2world[:, 0, 3] = -truck * torch.tensor(frames, dtype=torch.float64)
    return Cameras(cam2world, pinhole_intrinsics(70, IMAGE).expand(len(frames), 3, 3), IMAGE)


@functools.cache
def filmed(first: int, last: int, truck: float = 0.03, count: int = 1):
    """(depth, is_mover, latents, cameras) of latent frames first to last, with one or two movers."""
    frames, depth, moving = range(first, last + 1), [], []
    path = cameras(frames, truck=truck)
    still = [wall(6.0), *POST]
    for index, time in enumerate(frames):
        movers = mover(time, height=-0.6 if count > 1 else 0.0)
        if count > 1:
            movers = movers + mover(16 - time, height=0.6)
        hits = ray_cast(still + movers, path[index], SIZE)
        depth.append(hits.depth)
        moving.append(hits.surface >= len(still))
    is_mover = torch.cat(moving)
    latents = torch.where(is_mover, MOVED, STILL).expand(WAN22.channels, -1, -1, -1).clone()
    return torch.cat(depth).float(), is_mover, latents, path


def layer_of(truck: float = 0.03, count: int = 1) -> MoverLayer:
    depth, is_mover, latents, path = filmed(0, LAST, truck, count)
    layer = mover_layer(latents, depth, path, is_mover, WAN22, first_latent_index=0)
    assert layer is not None
    return layer


def static_memory(truck: float = 0.03) -> LatentMemory:
    depth, is_mover, latents, path = filmed(0, LAST, truck)
    memory = LatentMemory.empty(WAN22)
    for frame in (0, LAST):
        at = slice(frame, frame + 1)
        memory = memory.extended(lift(latents[:, at], depth[at], path[frame], WAN22, is_static=~is_mover[at]))
    return memory


def views(truck: float = 0.03, count: int = 1) -> tuple[MemoryView, MemoryView]:
    """What the next segment is shown, without and with the movers."""
    path = filmed(LAST, LAST + NEXT, truck, count)[3]
    plain = project(static_memory(truck), path, SIZE)
    return plain, with_movers(plain, layer_of(truck, count), path, WAN22, first_latent_index=LAST)


def middle(is_mover: torch.Tensor, depth: torch.Tensor, path: Cameras) -> torch.Tensor:
    points = unproject_cells(depth[None].double(), path, WAN22)[0]
    return points[is_mover].mean(0)


@pytest.mark.parametrize("truck", [0.0, 0.03, -0.05])
def test_a_mover_is_shown_where_it_will_be_whatever_the_camera_does(truck: float) -> None:
    depth, is_mover, _, path = filmed(LAST, LAST + NEXT, truck)
    _, shown = views(truck)
    for frame in range(4):
        is_shown = shown.point_index[frame].eq(-1) & shown.is_covered[frame]
        error = middle(is_shown, shown.depth[frame], path[frame]) - middle(is_mover[frame], depth[frame], path[frame])
        assert float(error.norm()) < 0.11  # a cell at its depth
        assert float((is_shown & is_mover[frame]).sum() / is_shown.sum()) > 0.8
    at_border = shown.point_index[0].eq(-1) & shown.is_covered[0]
    assert float((at_border & is_mover[0]).sum() / (at_border | is_mover[0]).sum()) > 0.65


def test_without_the_layer_nothing_is_shown_there() -> None:
    is_mover = filmed(LAST, LAST + NEXT)[1]
    plain, _ = views()
    assert not (plain.latents[0].eq(MOVED) & is_mover).any()


def test_the_velocity_is_the_true_one() -> None:
    velocity = layer_of().velocities.mean(0)
    torch.testing.assert_close(velocity, torch.tensor([0.15, 0.0, 0.02], dtype=torch.float64), atol=0.02, rtol=0)


def test_two_movers_that_pass_each_other_each_keep_their_way() -> None:
    velocities = layer_of(count=2).velocities[:, 0]
    assert float(velocities.max()) == pytest.approx(0.15, abs=0.03)
    assert float(velocities.min()) == pytest.approx(-0.15, abs=0.03)


def test_a_mover_behind_a_post_is_hidden_by_it() -> None:
    path, plain = filmed(LAST, LAST + NEXT)[3], views()[0]
    layer = layer_of()
    points = layer.block.points + torch.tensor([2.0, 0.0, 0.0])
    behind = replace(layer, block=replace(layer.block, points=points), velocities=0 * layer.velocities)
    shown = with_movers(plain, behind, path, WAN22, first_latent_index=LAST)
    is_post = (plain.depth > 1.5) & (plain.depth < 2.5)
    assert torch.equal(shown.latents[:, is_post], plain.latents[:, is_post])
    assert shown.point_index.eq(-1).any()


def test_coverage_latents_and_depth_of_a_mover_belong_together() -> None:
    plain, shown = views()
    is_new = shown.is_covered & (shown.point_index == -1)
    assert (shown.latents[:, is_new] == MOVED).all() and (shown.depth[is_new] > 0).all()
    assert torch.equal(shown.latents[:, ~is_new], plain.latents[:, ~is_new])
    assert torch.equal(shown.point_index[~is_new], plain.point_index[~is_new])
    assert (shown.is_covered | ~plain.is_covered).all()


def test_a_mover_is_shown_for_so_many_frames_and_then_no_more() -> None:
    path, plain = filmed(LAST, LAST + NEXT)[3], views()[0]
    shown = with_movers(plain, replace(layer_of(), shown_frames=2), path, WAN22, first_latent_index=LAST)
    has_mover = (shown.is_covered & (shown.point_index == -1)).flatten(1).any(1)
    assert has_mover.tolist() == [True, True, True, False, False, False]


def test_a_mover_fades_frame_by_frame_from_its_outline_inwards() -> None:
    _, shown = views()
    cells = (shown.is_covered & (shown.point_index == -1)).flatten(1).sum(1)
    shares = cells[:5] / cells[0]
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]), atol=0.1, rtol=0)
    assert int(cells[5]) == 0
    layer = layer_of()
    middle_of_all = layer.block.points.mean(0)
    last = layer.block_at(LAST + 4).points - 4 * layer.velocities[:1].float()
    assert (last - middle_of_all).norm(dim=1).max() < 0.6 * (layer.block.points - middle_of_all).norm(dim=1).max()


def test_each_of_two_movers_fades_alike() -> None:
    layer = layer_of(count=2)
    is_first = layer.velocities[:, 0] > 0
    for later in range(5):
        is_shown = layer.ranks < layer.share_at(LAST + later)
        shares = [float(is_shown[one].double().mean()) for one in (is_first, ~is_first)]
        assert shares == pytest.approx([1 - later / 5] * 2, abs=0.05)


def test_a_layer_of_another_time_is_shown_at_its_own_time_only() -> None:
    path, plain = filmed(LAST, LAST + NEXT)[3], views()[0]
    shown = with_movers(plain, layer_of(), path, WAN22, first_latent_index=LAST + 20)
    assert torch.equal(shown.latents, plain.latents) and torch.equal(shown.is_covered, plain.is_covered)


def test_what_was_not_there_a_frame_before_stays_where_it_is() -> None:
    depth, is_mover, latents, path = filmed(0, LAST)
    only_last = is_mover.clone()
    only_last[:-1] = False
    layer = mover_layer(latents, depth, path, only_last, WAN22, first_latent_index=0)
    assert layer is not None and not layer.velocities.any()
    assert layer.latent_index == LAST


@pytest.mark.parametrize("cells", [0, 3])
def test_nothing_that_moves_or_only_specks_make_no_layer(cells: int) -> None:
    depth, is_mover, latents, path = filmed(0, LAST)
    specks = torch.zeros_like(is_mover)
    specks[:, 5, :cells] = True
    assert mover_layer(latents, depth, path, specks, WAN22, first_latent_index=0) is None


def test_a_rollout_without_movers_is_the_same_bit_for_bit_and_with_them_forgets_them_after_a_segment() -> None:
    path = cameras(range(65), truck=0.01)
    latents = torch.zeros(WAN22.channels, 1, *SIZE)
    rollout = Rollout.started(static_memory(), latents, path)
    plain = rollout.view(rollout.next_segment)
    layer = replace(layer_of(), latent_index=0)
    shown = replace(rollout, movers=layer).view(rollout.next_segment)
    expected = project(rollout.memory, rollout.cameras_of(rollout.next_segment), SIZE)
    assert all(
        torch.equal(getattr(plain, name), getattr(expected, name)) for name in ("latents", "depth", "is_covered")
    )
    assert (shown.point_index == -1).logical_and(shown.is_covered).any()
    made = torch.zeros(WAN22.channels, 9, *SIZE)
    assert replace(rollout, movers=layer).extended(made, shown).movers is None
    assert rollout.extended(made, shown, movers=layer).movers is layer
    assert rollout.extended(made, shown, movers=layer).memory is rollout.memory
