"""The procedural worlds tell the truth about their own pixels."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import grid_sample

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.path_presets import PRESETS
from training.worlds import (
    FIRST_HELD_OUT,
    World,
    check_trainable,
    frame_times,
    is_held_out,
    random_flight,
    start_camera,
)
from training.worlds.casting import pixel_directions
from training.worlds.shading import Light, light_map
from training.worlds.shapes import Builder, Paint, signed_distances

SIZE = (48, 64)
WORLDS = [("room", False), ("plaza", False), ("room", True)]


@pytest.fixture(scope="module", params=WORLDS, ids=["room", "plaza", "busy room"])
def world(request) -> World:
    kind, busy = request.param
    return getattr(World, kind)(FIRST_HELD_OUT + 3, movers=3, busy=busy)


@pytest.fixture(scope="module")
def flight(world):
    return random_flight(world, 1, frames=9, image_size=SIZE, fov_degrees=80, name="truck_left")


@pytest.fixture(scope="module")
def frames(world, flight):
    return world.render(flight.cameras, flight.times)


def points_of(frames) -> torch.Tensor:
    """[frames H W 3] float64 world points of all pixels; NaN or infinite in the sky."""
    along = pixel_directions(frames.cameras).double() * frames.depth.double()[..., None]
    return frames.cameras.centers[:, None, None] + along


def test_seen_points_lie_on_the_surface_of_a_shape(world, frames):
    still = ~frames.is_sky & ~frames.is_mover
    distances = world.clearance(points_of(frames)[still])
    assert distances.abs().max() < 2e-3 * 60  # float32 hills 60 units away
    near = world.clearance(points_of(frames)[still & (frames.depth < 12)])
    assert near.abs().max() < 5e-4


def test_nothing_stands_between_camera_and_seen_point(world, frames):
    ends = points_of(frames)[:1][~frames.is_sky[:1] & ~frames.is_mover[:1] & (frames.depth[:1] < 12)]
    start = frames.cameras.centers[0]
    for share in torch.linspace(0.05, 0.97, 12):
        assert world.clearance(start + (ends - start) * float(share)).min() > -1e-3


def test_a_surface_has_the_same_colour_from_every_side(world, frames):
    points = points_of(frames)
    checked = 0
    for other in (1, 3):
        seen = ~frames.is_sky[0] & ~frames.is_mover[0]
        camera = frames.cameras[other]
        in_camera = (points[0] - camera.centers[0]) @ camera.cam2world[0, :3, :3]
        pixel = in_camera @ camera.intrinsics[0].T
        places = pixel[..., :2] / pixel[..., 2:] / torch.tensor([SIZE[1] / 2, SIZE[0] / 2]) - 1
        inside = seen & (places.abs() < 0.98).all(-1) & (pixel[..., 2] > 0.1)
        # Beside an edge the four neighbours differ: only where they all agree are colours compared.
        near = [_around(frames.rgb[other], places, pick) for pick in ("nearest", "bilinear")]
        depth = _around(frames.depth[other].nan_to_num(posinf=1e3)[..., None], places, "bilinear")[..., 0]
        visible = inside & ((depth / pixel[..., 2] - 1).abs() < 0.004) & ((near[0] - near[1]).abs().amax(-1) < 0.01)
        visible &= _around(frames.is_mover[other].float()[..., None], places, "bilinear")[..., 0] == 0
        difference = (near[1] - frames.rgb[0]).abs().amax(-1)[visible]
        checked += len(difference)
        assert difference.median() < 0.01 and difference.quantile(0.95) < 0.1
    assert checked > 300


def _around(picture: torch.Tensor, places: torch.Tensor, mode: str) -> torch.Tensor:
    picture = picture.movedim(-1, 0)[None].double()
    return grid_sample(picture, places[None], mode=mode, align_corners=False)[0].movedim(0, -1)


def test_mover_mask_is_where_pictures_with_and_without_movers_differ(world, flight, frames):
    without = world.still.render(flight.cameras, flight.times)
    differs = (without.rgb != frames.rgb).any(-1) | (without.depth != frames.depth)
    assert not differs[~frames.is_mover].any()
    assert differs[frames.is_mover].float().mean() > 0.99 or not frames.is_mover.any()
    assert not without.is_mover.any()


def test_movers_move_as_their_velocity_says():
    world = World.plaza(FIRST_HELD_OUT, movers=3)
    assert len(world.movers) == 3
    times = torch.tensor([0.4, 3.0], dtype=torch.float64)
    for mover in world.movers:
        step = mover.positions(times + 1e-4) - mover.positions(times - 1e-4)
        assert torch.allclose(step / 2e-4, mover.velocities(times), atol=1e-3)
        assert mover.velocities(times).norm(dim=-1).max() > 0.05


def test_a_mover_is_seen_where_it_says_it_is():
    world = World.plaza(FIRST_HELD_OUT + 1, movers=2)
    times = frame_times(3)
    for index, mover in enumerate(world.movers):
        place = mover.positions(times)
        cam2world = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
        cam2world[:, :3, 3] = place - torch.tensor([0.0, 0, 1.2])
        cameras = Cameras(cam2world, pinhole_intrinsics(60, (33, 33)).expand(3, 3, 3), (33, 33))
        seen = world.render(cameras, times)
        assert (seen.mover[:, 16, 16] == index).all()
        assert (seen.depth[:, 16, 16] - 1.2).abs().max() < mover.radius


def test_sky_has_no_depth_and_everything_else_has(frames):
    assert torch.equal(frames.is_sky, torch.isinf(frames.depth))
    assert (frames.depth > 0).all()
    assert not (frames.is_sky & frames.is_mover).any()


def test_a_plaza_shows_sky_and_a_room_shows_walls():
    for kind, shares in (("plaza", (0.05, 0.7)), ("room", (0.0, 0.3))):
        world = getattr(World, kind)(FIRST_HELD_OUT + 9)
        camera = start_camera(world, 0, image_size=SIZE)
        assert shares[0] <= world.render(camera).is_sky.float().mean() <= shares[1]


def test_same_seed_same_pixels_and_another_seed_another_world():
    cameras = start_camera(World.room(5), 2, image_size=SIZE)
    pictures = [World.room(seed).render(cameras).rgb for seed in (5, 5, 6)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_what_a_pixel_sees_does_not_depend_on_its_tile():
    world = World.room(7)
    camera = start_camera(world, 1, image_size=(50, 70))  # not whole tiles
    whole = world.render(camera)
    upper = Cameras(camera.cam2world, camera.intrinsics, (20, 70))
    assert torch.equal(whole.depth[:, :20], world.render(upper).depth)


def test_supersampling_keeps_the_truth_and_softens_edges():
    world = World.room(8)
    camera = start_camera(world, 1, image_size=SIZE)
    plain, fine = world.render(camera), world.render(camera, supersampling=2)
    assert torch.equal(plain.depth, fine.depth)
    assert 0 < (plain.rgb - fine.rgb).abs().mean() < 0.05


def test_flights_keep_clear_of_everything_and_start_where_their_path_starts(world):
    for seed in range(3):
        flight = random_flight(world, seed, frames=33, image_size=SIZE)
        assert (world.clearance(flight.cameras.centers, flight.times) > 0.25).all()
        relative = flight.path.cameras(33, intrinsics=flight.cameras.intrinsics[0], image_size=SIZE)
        again = relative.moved(flight.cameras.cam2world[0])
        assert torch.allclose(again.cam2world, flight.cameras.cam2world, atol=1e-6)


@pytest.mark.parametrize("name", [*PRESETS, "loop"])
def test_every_move_of_camera_path_finds_room_in_a_world(name):
    world = (World.room if len(name) % 2 else World.plaza)(FIRST_HELD_OUT + 3)
    flown = random_flight(world, 0, frames=33, image_size=SIZE, name=name)
    assert flown.name == name, "it fell back to turning on the spot"
    moved = (flown.cameras.cam2world - flown.cameras.cam2world[0]).abs().amax(dim=(1, 2))
    assert bool(moved.max() > 0.01) is (name != "static")


def test_a_ball_on_a_floor_is_where_geometry_says():
    builder = Builder()
    builder.box((0, -0.5, 0), (100, 1, 100), Paint("#808080", "#808080"))
    builder.ellipsoid((0, 1, 5), (1, 1, 1), Paint("#ff0000", "#ff0000"))
    shapes = builder.shapes()
    points = torch.tensor([[0.0, -1, 3], [0, -1, 4], [3, -2, 5], [0, 0.25, 0]])
    distances = signed_distances(points, shapes)
    assert torch.allclose(distances[:, 1][:2], torch.tensor([1.0, 0.0]))
    assert torch.allclose(distances[:, 0], torch.tensor([1.0, 1.0, 2.0, -0.25]))


def test_the_sun_casts_a_shadow_beside_a_box():
    builder = Builder()
    builder.standing((0, 0), (1, 2, 1), Paint("#808080", "#808080"))
    sun = torch.tensor([1.0, -1.0, 0.0]) / 2**0.5
    white = torch.ones(3)
    floor = light_map(builder.shapes(), Light(sun, sun, white, white, white, white, white, 1.0), 4.0)
    sunlit, openness = floor.at(torch.tensor([[-1.5, 0.0, 0], [1.5, 0, 0], [0.52, 0, 0]]))
    assert sunlit[0] < 0.05 and sunlit[1] > 0.95
    assert openness[2] < 0.7 < openness[1]


def test_held_out_worlds_are_not_for_training():
    assert not is_held_out(FIRST_HELD_OUT - 1) and is_held_out(FIRST_HELD_OUT)
    check_trainable(12)
    with pytest.raises(ValueError, match="held out"):
        check_trainable(FIRST_HELD_OUT + 5)


def test_every_frame_needs_a_time():
    world = World.room(1)
    camera = start_camera(world, 0, image_size=(16, 16))
    with pytest.raises(ValueError, match="1 cameras and 2 times"):
        world.render(camera, torch.zeros(2))
