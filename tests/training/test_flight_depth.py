"""Flights that see depth with a model: one that is right films what exact depth films; scale and shift are found."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.camera import fov_degrees
from tests.training.flights import SIZE, frames
from training.adapter_flight import Pilot, Way, fly
from training.depth import sample_of
from training.moge import MoGe
from training.moge_depth import seen_depth
from training.nano_films import Codec
from training.stand_in.vae import stand_in_vae
from training.wan import Wan, WanSizes
from training.wan_memory import WanWithMemory

FILM = frames(65)


class Told(MoGe):
    """Says the true depth of the film, latent frame by latent frame, `scale` times as large and `shift` farther."""

    def __init__(self, *, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.sample, self.scale, self.shift = sample_of(FILM, list(range(len(FILM)))), scale, shift
        # The first picture, then the segments' latent frames, of which the first is the last one of those before.
        self.order = iter([0, *range(0, 33, 4), *range(32, 65, 4)])

    def forward(self, pictures, **_):
        index = next(self.order)
        z = self.sample.depth[index] * self.scale
        points = torch.cat([self.sample.rays[index] * (z / (z + self.shift)), (z + self.shift).log()[None]])
        return points[None], torch.ones(1, *SIZE)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "vae.safetensors"
    save_file(stand_in_vae(), path)
    torch.manual_seed(0)
    sizes = WanSizes(dim=64, ffn_dim=128, heads=2, layers=1, text_dim=16)
    together = WanWithMemory(Wan(sizes).eval().requires_grad_(False), None)

    def made(model: MoGe | None = None) -> Pilot:
        return Pilot(together, torch.zeros(1, 4, 16), Codec(path), steps=1, depth_model=model)

    return made


def test_a_model_that_is_right_films_what_exact_depth_films(pilot):
    way = Way(has_branch=False, guidance=0.9, is_aligned=True)
    exact = fly(pilot(), FILM, way, seed=1)
    seen = fly(
        pilot(Told(scale=3.0)), FILM, Way(has_branch=False, guidance=0.9, is_aligned=True, depth="model"), seed=1
    )
    assert torch.equal(seen.is_covered, exact.is_covered)
    # Rounding may decide whether a cell is known well enough, so one point more or less is the same memory.
    apart = torch.cdist(seen.rollout.memory.points.double(), exact.rollout.memory.points.double())
    assert apart.amin(1).max() < 1e-3 and abs(len(apart) - apart.shape[1]) <= 1


@pytest.mark.parametrize("shift", [-0.5, 0.0, 2.0])
def test_the_shift_is_found_that_puts_the_points_on_the_rays(shift):
    fov = fov_degrees(FILM.cameras.intrinsics[0], SIZE)
    depth = seen_depth(Told(shift=shift), FILM.rgb[:1], fov)
    assert torch.allclose(depth[0], FILM.depth[0].float(), rtol=1e-3)
