"""The adapter of depth models, fitting as Write Memory does it, EXIF; the host's own loaders with random weights."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, lift
from mirage_core.rollout import Rollout

SIZE, IMAGE = (8, 10), (128, 160)
DEPTH = torch.full((1, 8, 10), 2.0)


@pytest.fixture
def read(pack):
    return pack("geometry").read_geometry


# What a packet says about the model behind it.


def multiview(frames: int = 1) -> dict:
    intrinsics = pinhole_intrinsics(60, (8, 10)).float().expand(1, frames, 3, 3)
    extrinsics = torch.eye(4).repeat(1, frames, 1, 1)
    return {
        "depth": DEPTH.expand(frames, -1, -1),
        "mode": "multiview",
        "intrinsics": intrinsics,
        "extrinsics": extrinsics,
    }


@pytest.mark.parametrize(
    ("packet", "kind", "is_one_scale"),
    [
        ({"depth": DEPTH, "intrinsics": torch.eye(3)[None]}, "scale + shift", False),  # MoGe 1
        ({"depth": DEPTH, "intrinsics": torch.eye(3)[None], "normal": torch.ones(1, 8, 10, 3)}, "scale", False),  # 2
        ({"depth": DEPTH, "mode": "mono", "sky": 0 * DEPTH}, "scale + shift", False),
        ({"depth": DEPTH, "mode": "mono", "confidence": DEPTH}, "scale", False),
        (multiview(), "scale", True),
        ({"depth": DEPTH, "intrinsics": torch.eye(3)[None], "mirage_kind": "scale + disparity shift"},
         "scale + disparity shift", False),
    ],
)  # fmt: skip
def test_each_model_leaves_open_what_it_does(read, packet, kind, is_one_scale) -> None:
    geometry = read(packet)
    assert (geometry.kind, geometry.is_one_scale) == (kind, is_one_scale)


def test_confidence_comes_into_0_to_1_in_its_order(read) -> None:
    told = torch.linspace(1, 50, 80).reshape(1, 8, 10)
    confidence = read({"depth": DEPTH, "mode": "mono", "confidence": told}).confidence
    assert float(confidence.min()) == 0 and float(confidence.max()) == pytest.approx(0.98)
    assert (confidence.flatten().diff() > 0).all()


def test_what_the_mask_leaves_out_is_unknown_also_where_it_has_a_depth(read) -> None:
    mask = torch.ones(1, 8, 10, dtype=torch.bool)
    mask[:, :4] = False
    geometry = read({"depth": DEPTH, "intrinsics": torch.eye(3)[None], "mask": mask})
    assert geometry.depth[:, :4].isinf().all() and (geometry.depth[:, 4:] == 2).all()


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        ({}, "no depth map"),
        ({"depth": DEPTH, "points": torch.ones(1, 8, 10, 3)}, "panorama"),
        ({"depth": DEPTH, "intrinsics": torch.eye(3)[None], "mask": torch.zeros(1, 8, 10)}, "leaves out every pixel"),
        ({"depth": DEPTH * math.inf, "mode": "mono"}, "no valid pixel"),
        ({"depth": DEPTH[0], "mode": "mono"}, r"\[frames height width\]"),
        ({"depth": DEPTH, "mode": "mono", "sky": DEPTH[:, :4]}, "as of its depth"),
    ],
)
def test_what_is_no_depth_is_refused_and_says_what_to_do(read, packet, says) -> None:
    with pytest.raises(ValueError, match=says):
        read(packet)


def test_a_mono_model_without_a_field_of_view_asks_for_one(pack, read) -> None:
    geometry = read({"depth": DEPTH, "mode": "mono"})
    with pytest.raises(ValueError, match="Set fov on the Camera Path"):
        pack("geometry").picture_intrinsics(geometry, IMAGE, None)


# Fitting a segment.


def truck(frames: int) -> Cameras:
    cam2world = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    cam2world[:, 0, 3] = 0.01 * torch.arange(frames)
    return Cameras(cam2world, pinhole_intrinsics(60, IMAGE).expand(frames, 3, 3), IMAGE)


def floor_depth(size: tuple[int, int]) -> torch.Tensor:
    """[1 H W] of a slanted floor: inverse depth from 1/2 below to 1/8 above."""
    height = (torch.arange(size[0]) + 0.5) / size[0]
    return (1 / (1 / 8 + height * 3 / 8))[None, :, None].expand(1, *size).contiguous()


@pytest.fixture
def rollout() -> Rollout:
    cameras = truck(33)
    latents = torch.zeros(WAN22.channels, 1, *SIZE)
    block = lift(latents, floor_depth(SIZE), cameras[0], WAN22)
    return Rollout.started(LatentMemory.empty(WAN22).extended(block), latents, cameras)


def up_to_scale(depth: torch.Tensor) -> dict:
    """What Depth Anything 3 Small gives in mode mono."""
    return {"depth": depth, "mode": "mono", "confidence": torch.ones_like(depth)}


def fitted(pack, rollout, packet, **options):
    view = rollout.view(rollout.next_segment)
    shape = pack("geometry").read_geometry(packet)
    return pack("depth_fitting").fitted_depth(rollout, view, shape, None, **options)


def test_relative_depth_is_brought_to_the_memory_by_scale_and_shift(pack, rollout) -> None:
    true = floor_depth(IMAGE).expand(9, -1, -1)
    packet = {"depth": (true - 0.8) / 1.7, "intrinsics": torch.eye(3)[None].expand(9, 3, 3)}
    result = fitted(pack, rollout, packet)
    assert float((result.maps / true - 1).abs().median()) < 0.03
    assert "shifted by" in result.notes[0] and result.last_fit[0] == pytest.approx(1.7, rel=0.1)
    off = fitted(pack, rollout, packet, alignment="off")
    assert torch.equal(off.maps, packet["depth"]) and off.notes == ()


def test_without_overlap_a_multiview_model_s_own_way_gives_the_scale(pack, rollout) -> None:
    empty = Rollout.started(LatentMemory.empty(WAN22), rollout.latents[0], rollout.cameras)
    packet = multiview(9)
    packet["depth"] = torch.full((9, *IMAGE), 2.0)
    packet["extrinsics"] = packet["extrinsics"].clone()
    packet["extrinsics"][0, :, 0, 3] = -0.04 / 2.5 * torch.arange(9)  # the path goes 0.04 per latent frame
    result = fitted(pack, empty, packet)
    assert result.depth[result.depth > 0].median() == pytest.approx(5.0, rel=1e-3)
    assert "the way the depth model saw the camera go" in result.notes[0]


def test_without_overlap_the_fit_of_the_segment_before_goes_on(pack, rollout) -> None:
    empty = Rollout.started(LatentMemory.empty(WAN22), rollout.latents[0], rollout.cameras)
    result = fitted(pack, replace(empty, depth_fit=(3.0, 0.5)), up_to_scale(torch.full((9, *IMAGE), 2.0)))
    assert float(result.maps.median()) == pytest.approx(6.0) and "as the segment before" in result.notes[0]
    assert result.last_fit == (3.0, 0.5)


def test_depth_of_another_crop_is_refused(pack, rollout) -> None:
    with pytest.raises(ValueError, match="not the same crop"):
        fitted(pack, rollout, {"depth": torch.ones(9, 128, 128), "mode": "mono"})


def test_refining_cameras_before_one_floor_says_why_it_does_not(pack, rollout) -> None:
    packet = up_to_scale(floor_depth(IMAGE).expand(9, -1, -1))
    result = fitted(pack, rollout, packet, refine_poses=True)
    assert any("cameras not refined" in note for note in result.notes)
    assert torch.equal(result.cameras.cam2world, rollout.cameras_of(rollout.next_segment).cam2world)


def test_movers_of_a_mask_are_kept_and_shown_to_the_next_segment(pack, rollout) -> None:
    packet = up_to_scale(floor_depth(IMAGE).expand(9, -1, -1))
    result = fitted(pack, rollout, packet)
    mask = torch.zeros(33, *IMAGE)
    mask[:, 48:112, 48:112] = 1
    layer, word = pack("mover_layers").kept_movers(rollout, torch.ones(WAN22.channels, 9, *SIZE), result, mask)
    assert layer.latent_index == 8 and word == f"movers kept: {len(layer.block)} cells"
    assert pack("mover_layers").kept_movers(rollout, torch.ones(WAN22.channels, 9, *SIZE), result, 0 * mask)[0] is None
    with pytest.raises(ValueError, match="mover_mask"):
        pack("mover_layers").kept_movers(rollout, torch.ones(WAN22.channels, 9, *SIZE), result, None)


# The host's own models.


@pytest.mark.parametrize("model", ["mirage_random_moge1", "mirage_random_moge2", "mirage_random_da3"])
def test_the_host_s_own_depth_models_are_read_and_fitted(pack, host, base_directory, rollout, model) -> None:
    torch.manual_seed(0)
    folder = base_directory / "models" / "geometry_estimation"
    host.folder_paths.add_model_folder_path("geometry_estimation", str(folder))
    pictures = torch.rand(9, *IMAGE, 3)
    with torch.inference_mode():
        if "moge" in model:
            nodes = importlib.import_module("comfy_extras.nodes_moge")
            loaded = nodes.LoadMoGeModel.execute(f"{model}.safetensors").args[0]
            loaded = pack("depth_precision_nodes").FullPrecisionDepthModel.execute(loaded).args[0]
            packet = nodes.MoGeInference.execute(loaded, pictures, 0, 60.0, 4, True, False).args[0]
        else:
            nodes = importlib.import_module("comfy_extras.nodes_depth_anything_3")
            loaded = nodes.LoadDA3Model.execute(f"{model}.safetensors", "fp32").args[0]
            packet = nodes.DA3Inference.execute(loaded, pictures, 140, "upper_bound_resize", {"mode": "mono"}).args[0]
        packet = {**packet, "depth": packet["depth"].abs() + 0.1}  # random weights put half of it behind the camera
        if "mask" in packet:
            packet["mask"] = torch.ones_like(packet["mask"])
        result = fitted(pack, rollout, packet)
    # The MoGe 2 file here is the one without normals: nothing in its packet alone tells it from MoGe 1.
    assert pack("geometry").read_geometry(packet).kind == "scale + shift"
    assert "shifted by" in result.notes[0]
    assert result.maps.shape == (9, *IMAGE) and result.depth.shape == (9, *SIZE)


def hidden_in(workflow: dict):
    """What the host hands to a node besides its inputs."""
    api = importlib.import_module("comfy_api.latest").io
    prompt = importlib.import_module("comfy_execution.graph").DynamicPrompt(workflow)
    return api.HiddenHolder.from_dict({api.Hidden.dynprompt: prompt})


def moge_workflow(file: str, *, is_precise: bool = False) -> dict:
    return {
        "1": {"class_type": "LoadMoGeModel", "inputs": {"model_name": file}},
        "1b": {"class_type": "MirageFullPrecisionDepthModel", "inputs": {"moge_model": ["1", 0]}},
        "2": {"class_type": "MoGeInference", "inputs": {"moge_model": ["1b" if is_precise else "1", 0]}},
        "3": {"class_type": "MirageWriteMemory", "inputs": {"geometry": ["2", 0]}},
        "4": {"class_type": "MirageWriteMemory", "inputs": {"geometry": ["1", 0]}},
        "5": {"class_type": "MirageWriteMemory", "inputs": {}},
    }


@pytest.mark.parametrize(
    ("file", "node", "is_moge2"),
    [
        ("mirage_random_moge2", "3", True),
        ("mirage_random_moge1", "3", False),
        ("mirage_random_da3", "3", False),
        ("not_there", "3", False),
        ("mirage_random_moge2", "4", False),
        ("mirage_random_moge2", "5", False),
        ("mirage_random_moge2", "6", False),
    ],
)
def test_moge_2_without_normals_is_known_by_its_file(pack, host, base_directory, file, node, is_moge2) -> None:
    folder = base_directory / "models" / "geometry_estimation"
    host.folder_paths.add_model_folder_path("geometry_estimation", str(folder))
    hidden = hidden_in(moge_workflow(f"{file}.safetensors"))
    with importlib.import_module("comfy_execution.utils").CurrentNodeContext("prompt", node):
        assert pack("depth_models").is_moge2_behind(hidden, "geometry") is is_moge2
        assert not pack("depth_models").is_moge2_behind(None, "geometry")
    assert not pack("depth_models").is_moge2_behind(hidden, "geometry")


def test_moge_2_is_known_behind_the_node_for_full_precision_too(pack, host, base_directory) -> None:
    folder = base_directory / "models" / "geometry_estimation"
    host.folder_paths.add_model_folder_path("geometry_estimation", str(folder))
    hidden = hidden_in(moge_workflow("mirage_random_moge2.safetensors", is_precise=True))
    with importlib.import_module("comfy_execution.utils").CurrentNodeContext("prompt", "3"):
        assert pack("depth_models").is_moge2_behind(hidden, "geometry")


def test_a_file_that_is_no_safetensors_is_not_taken_for_moge_2(pack, host, tmp_path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"encoder.backbone.")
    host.folder_paths.add_model_folder_path("geometry_estimation", str(tmp_path))
    with importlib.import_module("comfy_execution.utils").CurrentNodeContext("prompt", "3"):
        assert not pack("depth_models").is_moge2_behind(hidden_in(moge_workflow("broken.safetensors")), "geometry")


def test_depth_of_a_known_moge_2_is_fitted_by_scale_alone(pack, read) -> None:
    packet = {"depth": DEPTH, "intrinsics": torch.eye(3)[None]}
    assert (read(packet).kind, read(packet, is_moge2=True).kind) == ("scale + shift", "scale")


# EXIF.


def photo(path, tags: dict[int, float], size=(300, 200)):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    Image.new("RGB", size).save(path, exif=exif)
    with Image.open(path) as picture:
        return picture.getexif()


def test_the_equivalent_focal_length_is_the_field_of_view_of_35_mm_film(pack, tmp_path) -> None:
    exif_nodes = pack("exif_nodes")
    exif = photo(tmp_path / "a.jpg", {0xA405: 28})
    assert exif_nodes.equivalent_focal(exif, "a.jpg") == 28
    expected = math.degrees(2 * math.atan(18 / 28))
    assert exif_nodes.field_of_view(28, (200, 300), (200, 300)) == pytest.approx(expected)
    half = math.degrees(2 * math.atan(9 / 28))
    assert exif_nodes.field_of_view(28, (200, 300), (200, 150)) == pytest.approx(half)


def test_a_sensor_s_size_stands_in_for_the_equivalent(pack, tmp_path) -> None:
    tags = {0x920A: 10.0, 0xA20E: 100.0, 0xA20F: 100.0, 0xA210: 4, 0xA002: 1800, 0xA003: 1200}  # 18 x 12 mm
    exif = photo(tmp_path / "b.jpg", tags)
    assert pack("exif_nodes").equivalent_focal(exif, "b.jpg") == pytest.approx(20.0)


def test_a_picture_without_exif_says_what_to_do(pack, tmp_path) -> None:
    with pytest.raises(ValueError, match="Set fov on Camera Path"):
        pack("exif_nodes").equivalent_focal(photo(tmp_path / "c.jpg", {}), "c.jpg")
