"""Revisit Score and Nano Scene Words beside the real host."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.depth import room_depth
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.path_presets import preset
from mirage_core.rollout import Rollout
from mirage_core.scene_words import SceneWords

SIZE = (32, 48)
CELLS = WAN22.size_of(SIZE)
FRAMES = 97


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def cameras_of(name: str, **options) -> Cameras:
    return preset(name, **options).cameras(FRAMES, intrinsics=pinhole_intrinsics(60, SIZE), image_size=SIZE)


def finished(cameras: Cameras) -> Rollout:
    """A film of three segments through a box room, all of it remembered as it was filmed."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(48, 1, *CELLS, generator=generator)
    depth = room_depth(cameras[:: WAN22.temporal_stride].resized(CELLS))
    memory = LatentMemory.empty(WAN22).extended(lift(first, depth[:1], cameras[:1], WAN22))
    rollout = Rollout.started(memory, first, cameras)
    for segment in rollout.plan:
        latents = torch.randn(48, segment.latent_frames, *CELLS, generator=generator)
        at = [frame // WAN22.temporal_stride for frame in segment.target_frames][1:]
        block = lift(latents[:, 1:], depth[at], rollout.cameras_of(segment)[1:], WAN22, first_latent_index=at[0])
        rollout = rollout.extended(latents, rollout.view(segment), block)
    return rollout


@pytest.fixture(scope="module")
def returning() -> Rollout:
    return finished(cameras_of("out_and_back", move="pan_left", amount=40, easing="linear"))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """A film whose frames are those of its way out, seen again on its way back."""
    out = torch.rand(FRAMES // 2 + 1, *SIZE, 3, generator=torch.Generator().manual_seed(1))
    return torch.cat([out, out[:-1].flip(0)])


def test_a_film_that_is_the_same_on_its_way_back_scores_perfectly(pack, returning, pictures):
    report, picture = run(pack("metric_nodes").RevisitScore, memory=returning, images=pictures)
    assert report.startswith("32 pairs of frames from one pose, 34 to 96 frames apart")
    assert "PSNR inf dB, SSIM 1.000" in report and "0.00 in segment 3" in report
    assert picture.shape[0] == 1 and picture.shape[-1] == 3


def test_noise_on_the_way_back_costs_likeness(pack, returning, pictures):
    noisy = pictures.clone()
    noisy[49:] = (noisy[49:] - 0.1).clamp(0, 1)
    report, _ = run(pack("metric_nodes").RevisitScore, memory=returning, images=noisy)
    assert "PSNR 20." in report


def test_colour_drift_is_told_for_each_segment_that_comes_back(pack, returning, pictures):
    darker = pictures.clone()
    darker[65:] = (darker[65:] - 0.1).clamp(0, 1)
    report, _ = run(pack("metric_nodes").RevisitScore, memory=returning, images=darker, min_gap=9)
    (found,) = re.findall(r"([\d.]+) in segment 2, ([\d.]+) in segment 3", report)
    assert float(found[0]) == 0 and float(found[1]) > 5


def test_only_what_was_written_before_the_segment_counts_as_known(pack, returning):
    known_before = pack("metric_nodes").known_before
    assert known_before(returning, 96).all()
    turning_point = known_before(returning, 48)
    assert not turning_point[..., 0].any(), "the left side of the farthest view had not been filmed before segment 2"


def test_a_path_that_never_returns_says_so(pack, pictures):
    report, picture = run(pack("metric_nodes").RevisitScore, memory=finished(cameras_of("dolly_in")), images=pictures)
    assert "nothing to compare" in report and picture.ndim == 4


def test_without_pictures_the_node_says_what_to_connect(pack, returning):
    with pytest.raises(ValueError, match="Connect the film"):
        run(pack("metric_nodes").RevisitScore, memory=returning)


def test_a_film_that_is_too_short_is_refused(pack, returning, pictures):
    with pytest.raises(ValueError, match="frame 96 is missing"):
        run(pack("metric_nodes").RevisitScore, memory=returning, images=pictures[:50])


def test_words_of_the_base_become_its_conditioning(host, pack, tmp_path):
    words = SceneWords(("room", "blue hour"), torch.randn(3, 8))
    save_file({"head.modulation": torch.zeros(1)}, tmp_path / "mirage_words.safetensors", words.to_metadata())
    host.folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    node = pack("nano_nodes").NanoSceneWords
    (conditioning,) = run(node, model_name="mirage_words.safetensors", words=" Blue Hour,room")
    assert torch.allclose(conditioning[0][0], words.context(["blue hour", "room"])[None], atol=1e-5)
    assert run(node, model_name="mirage_words.safetensors", words="")[0][0][0].shape == (1, 4, 8)
    with pytest.raises(ValueError, match="'cellar'"):
        run(node, model_name="mirage_words.safetensors", words="cellar")
