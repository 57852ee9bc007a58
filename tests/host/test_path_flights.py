"""Path Check, camera files, exports and Camera Receipt through the HTTP interface of the real server."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from safetensors.torch import save_file

from real_host.client import PromptFailed, PromptRefused, made_files
from real_host.flights import flight, node, of_type

DA3_FILE = "mirage_random_da3_multiview.safetensors"


@pytest.fixture(scope="module")
def multiview_model(host, base_directory) -> str:
    """Depth Anything 3 Small with its camera decoder and random weights, where the host's loader finds it."""
    made = importlib.import_module("comfy.ldm.depth_anything_3.model")
    torch.manual_seed(0)
    network = made.DepthAnything3Net(
        backbone_name="vits", out_layers=(5, 7, 9, 11), alt_start=4, qknorm_start=4, rope_start=4, cat_token=True,
        head_type="dualdpt", head_dim_in=768, head_output_dim=2, head_features=16, head_out_channels=(16, 16, 16, 16),
        has_cam_enc=True, has_cam_dec=True, cam_dim_out=384, cam_dec_dim_in=768, device="cpu", dtype=torch.float32,
        operations=host.comfy.ops.disable_weight_init,
    )  # fmt: skip
    weights = {}
    for name, weight in network.state_dict().items():
        is_norm = weight.ndim < 2 and name.endswith("weight")
        weights[name] = torch.ones_like(weight) if is_norm else 0.05 * torch.randn(weight.shape)
    folder = base_directory / "models" / "geometry_estimation"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / DA3_FILE)
    return DA3_FILE


@pytest.fixture
def flown(server) -> dict:
    """The shipped first flight at tiny size: two segments wired by hand."""
    return flight("stand_in_first_flight", LoadImage={"image": "mirage_room.jpg"}, MirageCameraPath={"length": 65})


def memory_after(prompt: dict) -> list:
    """The link that carries the finished film."""
    return prompt[of_type(prompt, "MirageWriteFilm")]["inputs"]["memory"]


def test_a_receipt_goes_through_the_hosts_own_depth_anything_loader(client, flown, multiview_model):
    prompt, memory = flown, memory_after(flown)
    modes = {"mode": "multiview", "mode.ref_view_strategy": "first", "mode.pose_method": "cam_dec"}
    prompt |= {
        "frames": node("MirageFilmFrames", memory=memory, video=[of_type(prompt, "MirageWriteFilm"), 1], count=6),
        "load": node("LoadDA3Model", model_name=multiview_model, weight_dtype="fp32"),
        "poses": node("DA3Inference", da3_model=["load", 0], image=["frames", 0], resolution=140,
                      resize_method="upper_bound_resize", **modes),
        "receipt": node("MirageCameraReceipt", memory=memory, geometry=["poses", 0]),
        "json": node("SaveText", text=["receipt", 1], filename_prefix="receipt", format="json"),
        "plot": node("SaveImage", images=["receipt", 2], filename_prefix="receipt"),
    }  # fmt: skip
    outputs = client.run(prompt).outputs
    told = json.loads(outputs["json"]["text"][0])
    assert told["frames"] == [0, 13, 26, 38, 51, 64] and len(told["rotation_degrees"]) == 6
    assert sum(segment["frames"] for segment in told["segments"]) == 6 and 0 <= told["worldscore"]["score"] <= 1
    assert outputs["receipt"]["text"][0].startswith("6 frames compared")
    assert made_files(outputs["plot"])


def test_mono_depth_is_refused_by_the_receipt(client, flown):
    prompt, memory = flown, memory_after(flown)
    prompt |= {
        "frames": node("MirageFilmFrames", memory=memory, video=[of_type(prompt, "MirageWriteFilm"), 1], count=2),
        "load": node("LoadDA3Model", model_name="mirage_random_da3.safetensors", weight_dtype="fp32"),
        "depth": node("DA3Inference", da3_model=["load", 0], image=["frames", 0], resolution=140,
                      resize_method="upper_bound_resize", mode="mono"),
        "receipt": node("MirageCameraReceipt", memory=memory, geometry=["depth", 0]),
    }  # fmt: skip
    with pytest.raises(PromptFailed, match="multiview, with a Small or Base model"):
        client.run(prompt)


def test_a_path_is_checked_exported_and_loaded_without_a_sampler(client, flown, base_directory):
    path, start = of_type(flown, "MirageCameraPath"), of_type(flown, "MirageInitLatentMemory")
    prompt = {
        key: one for key, one in flown.items()
        if one["class_type"] in {"LoadImage", "VAELoader", "UNETLoader", "MirageSimpleDepth", "MirageCameraPath",
                                 "MirageInitLatentMemory", "MirageSceneEvidence", "MirageDynamicSkyMask"}
    }  # fmt: skip
    memory = [start, 0]
    prompt |= {
        "check": node("MiragePathCheck", memory=memory, path=[path, 0], model=[of_type(flown, "UNETLoader"), 0]),
        "strip": node("SaveImage", images=["check", 1], filename_prefix="strip"),
        "save": node("MirageSaveCameraPath", format="colmap", filename_prefix="cameras/http", path=[path, 0],
                     memory=memory),
        "export": node("MirageExportMemory", memory=memory, what="everything", filename_prefix="exports/http"),
    }  # fmt: skip
    outputs = client.run(prompt).outputs
    assert "65 frames" in outputs["check"]["text"][0] and "2 segments" in outputs["check"]["text"][0]
    assert client.fetch(made_files(outputs["strip"])[0])[:4] == b"\x89PNG"
    ply = next(file for file in made_files(outputs["export"]) if file["filename"] == "points.ply")
    assert client.fetch(ply).startswith(b"ply\nformat binary_little_endian")
    assert (base_directory / "output" / "cameras" / "http_00001" / "images.txt").is_file()
    load = {
        "file": "cameras/http_00001 [output]", "format": "auto", "scale": "keep", "scene_depth": 1.0, "distance": 1.0,
        "lens": "file", "length": 0, "width": 96, "height": 64, "fps": 0.0,
    }  # fmt: skip
    again = {
        "load": node("MirageLoadCameraPath", **load),
        "report": node("SaveText", text=["load", 1], filename_prefix="report", format="txt"),
    }
    assert "65 cameras of 96x64" in client.run(again).outputs["report"]["text"][0]


def test_a_file_outside_the_input_folder_is_refused_before_anything_runs(client):
    load = {
        "file": "../../secret.json", "format": "auto", "scale": "keep", "scene_depth": 1.0, "distance": 1.0,
        "lens": "file", "length": 0, "width": 96, "height": 64, "fps": 0.0,
    }  # fmt: skip
    prompt = {
        "load": node("MirageLoadCameraPath", **load),
        "report": node("SaveText", text=["load", 1], filename_prefix="report", format="txt"),
    }
    with pytest.raises(PromptRefused, match=r"is no file name .* ComfyUI's input folder"):
        client.run(prompt)
