"""Parallax: a still world scores nothing however it is filmed, and what moves by itself does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.parallax import LIKELY_MOVING, WAVERING, Moving, flow_size, moving_score, reprojected, residual_flow
from training.worlds import World, random_flight

from .moving_scene import Filmed, filmed


def found(film: Filmed, *, step: int = 2) -> torch.Tensor:
    depth = torch.where(film.is_sky, torch.inf, film.depth)
    return moving_score(film.pictures, depth, film.cameras, step=step).score >= 0.5


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp_min(1))


@pytest.mark.parametrize("truck", [0.0, 0.06, 0.15])
def test_the_mover_is_found_however_the_camera_moves(truck: float) -> None:
    film = filmed(5, speed=0.06, truck=truck)
    assert overlap(found(film), film.is_moving) > 0.75


def test_a_still_world_does_not_move_however_the_camera_does() -> None:
    film = filmed(5, speed=0.0, truck=0.15)
    assert found(film).float().mean() < 0.005


def test_movers_of_a_procedural_plaza_are_found() -> None:
    world = World.plaza(5, movers=6)
    flight = random_flight(world, 5, frames=33, image_size=(176, 320))
    frames = world.render(flight.cameras[12:21], flight.times[12:21], supersampling=2)
    is_found = moving_score(frames.rgb, frames.depth, frames.cameras, step=4).score >= 0.5
    assert frames.is_mover.float().mean() > 0.02
    assert overlap(is_found, frames.is_mover) > 0.65


def test_nothing_is_said_where_the_depth_is_unknown() -> None:
    film = filmed(3, speed=0.06)
    assert (moving_score(film.pictures, torch.zeros_like(film.depth), film.cameras, step=1).score == 0).all()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.3, -0.6), (6.0, 3.0)])
def test_the_flow_of_a_shifted_picture_is_the_shift(shift: tuple[float, float]) -> None:
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(96.0), indexing="ij")

    def picture(dx: float, dy: float) -> torch.Tensor:
        u, v = x - dx, y - dy
        return 0.5 + 0.2 * torch.stack([(u / 5).sin() + (v / 7).cos(), (u / 11 + v / 6).sin(), (v / 9 - u / 8).sin()])

    flow = residual_flow(picture(0, 0), picture(*shift))[:, 12:-12, 12:-12]
    assert (flow - torch.tensor(shift)[:, None, None]).norm(dim=0).median() < 0.1


def test_a_pixel_is_where_its_point_is_seen() -> None:
    intrinsics = pinhole_intrinsics(90, (10, 20))[None]  # focal length 10 pixels
    pose = torch.eye(4, dtype=torch.float64)[None].clone()
    here = Cameras(pose, intrinsics, (10, 20))
    moved = pose.clone()
    moved[:, 0, 3] = 1.0
    seen = reprojected(torch.full((10, 20), 5.0), here, Cameras(moved, intrinsics, (10, 20)))
    assert torch.allclose(seen.positions[4, 7], torch.tensor([7.5 - 2.0, 4.5]))
    assert seen.parallax[4, 7] == pytest.approx(2.0) and seen.depth[4, 7] == 5
    assert not seen.is_seen[:, :1].any() and seen.is_seen[:, 2:].all()


def test_flow_is_found_on_small_pictures() -> None:
    assert flow_size((704, 1280)) == (176, 320)
    assert flow_size((60, 100)) == (60, 100)


def test_what_cannot_be_compared_is_refused() -> None:
    film = filmed(2, (32, 48))
    with pytest.raises(ValueError, match="2 pictures, 1 depth maps and 2 cameras"):
        moving_score(film.pictures, film.depth[:1], film.cameras)
    with pytest.raises(ValueError, match="one frame; parallax needs at least two"):
        moving_score(film.pictures[:1], film.depth[:1], film.cameras[[0]])
    with pytest.raises(ValueError, match="step is 0"):
        moving_score(film.pictures, film.depth, film.cameras, step=0)


def shifted(film: Filmed, by: list[int]) -> Filmed:
    """The film as a model makes it that is held to cells: pictures lie so many pixels beside their cameras."""
    pictures = torch.stack([one.roll(pixels, dims=1) for one, pixels in zip(film.pictures, by, strict=True)])
    is_moving = torch.stack([one.roll(pixels, dims=1) for one, pixels in zip(film.is_moving, by, strict=True)])
    return replace(film, pictures=pictures, is_moving=is_moving)


def judged(film: Filmed, is_still: torch.Tensor | None) -> Moving:
    return moving_score(film.pictures, film.depth, film.cameras, step=1, is_still=is_still)


@pytest.mark.parametrize("by", [[0, 3, 0, 3, 0], [0, 0, 3, 3, 3]], ids=["jerks", "jumps once"])
def test_a_film_that_jerks_does_not_move_where_the_memory_tells_by_how_much(by: list[int]) -> None:
    film = shifted(filmed(5, speed=0.0, truck=0.15), by)
    told, untold = judged(film, torch.ones_like(film.is_moving)), judged(film, None)
    assert (untold.score >= 0.5).float().mean() > 0.2 and (untold.wavering == 0).all()
    assert (told.score >= 0.5).float().mean() < 0.03
    assert told.wavering.amax() == pytest.approx(3, abs=0.6)
    assert told.likely.amax() == WAVERING * told.wavering.amax() and (told.likely >= LIKELY_MOVING).all()


def test_plain_walls_that_stand_still_say_nothing_about_a_film() -> None:
    film = shifted(filmed(5, speed=0.0, truck=0.0), [0, 3, 0, 3, 0])
    film.pictures[:, :, 40:] = 0.5  # 75 % of the picture
    assert judged(film, torch.ones_like(film.is_moving)).wavering.amin() > 2


def test_what_moves_more_than_a_jerking_film_is_still_found() -> None:
    film = shifted(filmed(5, speed=0.5, truck=0.0), [0, 1, 0, 1, 0])
    found = judged(film, ~film.is_moving[:, ::4, ::4])
    assert found.likely.amin() > 2 * LIKELY_MOVING
    assert overlap(found.score >= 0.5, film.is_moving) > 0.6


def test_movers_before_what_stands_still_do_not_raise_the_bar() -> None:
    film = filmed(5, speed=0.06, truck=0.06)
    told, untold = judged(film, torch.ones_like(film.is_moving)), judged(film, None)
    assert (told.wavering < LIKELY_MOVING / WAVERING).all()
    assert torch.equal(told.score, untold.score)


def test_from_a_latent_cell_on_everything_is_a_motion() -> None:
    film = filmed(5, (192, 320), speed=0.35, truck=0.0)
    found = judged(film, film.is_moving)  # a memory of nothing but what moves now
    assert found.wavering.amax() == 8 and found.likely.amax() == 16
    film = shifted(film, [0, 20, 0, 20, 0])
    assert (judged(film, torch.ones_like(film.is_moving)).score >= 0.5).float().mean() > 0.5


def test_a_handful_of_still_pixels_tells_nothing() -> None:
    film = shifted(filmed(3, speed=0.0), [0, 3, 0])
    is_still = torch.zeros_like(film.is_moving)
    is_still[:, 40:44, 40:48] = True
    assert (judged(film, is_still).wavering == 0).all()


def test_still_frames_have_to_be_as_many_as_the_pictures() -> None:
    film = filmed(2, (32, 48))
    with pytest.raises(ValueError, match="is_still has 3 frames for 2 pictures"):
        judged(film, torch.ones(3, 4, 4, dtype=torch.bool))
