"""Rendered clips on the disk are what was rendered."""

from __future__ import annotations

import sys

import pytest
import torch

from training import clip_pool
from training.clip_pool import clip_files, read_clip, read_pictures, render_world
from training.worlds import World, random_flight


def test_a_clip_read_is_the_clip_rendered(clips):
    frames = read_clip(clips / "room-0000011-0.safetensors")
    world = World.room(11, movers=2)
    flight = random_flight(world, 0, frames=33, image_size=(64, 64))
    wanted = world.render(flight.cameras, flight.times, supersampling=2)
    assert torch.equal(frames.cameras.cam2world, flight.cameras.cam2world)
    assert (frames.rgb - wanted.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(frames.is_sky, wanted.is_sky) and torch.equal(frames.is_mover, wanted.is_mover)
    seen = ~wanted.is_sky
    assert torch.allclose(frames.depth[seen], wanted.depth[seen], rtol=1e-3)


def test_pictures_are_read_without_the_rest(clips):
    path = clip_files(clips)[0]
    assert torch.equal(read_pictures(path, 5, 3).float() / 255, read_clip(path).rgb[5:8])


def test_clips_that_are_there_are_left_alone(clips):
    before = {path: path.stat().st_mtime_ns for path in clip_files(clips)}
    render_world(clips, "room", 11, flights=1, frames=33, size=64, movers=2)
    assert before == {path: path.stat().st_mtime_ns for path in clip_files(clips)}


def test_held_out_worlds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--worlds", "1", "--first-seed", "1000000"])
    with pytest.raises(ValueError, match="held out"):
        clip_pool.main()
