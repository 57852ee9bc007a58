"""Parallax: a still world scores nothing however it is filmed, and what moves by itself does."""

from __future__ import annotations

import pytest
import torch

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.parallax import flow_size, moving_score, reprojected, residual_flow
from training.worlds import World, random_flight

from .moving_scene import Filmed, filmed


def found(film: Filmed, *, step: int = 2) -> torch.Tensor:
    depth = torch.where(film.is_sky, torch.inf, film.depth)
    return moving_score(film.pictures, depth, film.cameras, step=step) >= 0.5


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
    is_found = moving_score(frames.rgb, frames.depth, frames.cameras, step=4) >= 0.5
    assert frames.is_mover.float().mean() > 0.02
    assert overlap(is_found, frames.is_mover) > 0.65


def test_nothing_is_said_where_the_depth_is_unknown() -> None:
    film = filmed(3, speed=0.06)
    assert (moving_score(film.pictures, torch.zeros_like(film.depth), film.cameras, step=1) == 0).all()


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
