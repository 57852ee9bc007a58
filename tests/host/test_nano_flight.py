"""The small trained models that come with the pack: listed by the host's own loaders, and filming a world."""

from __future__ import annotations

import importlib

import pytest
import torch

from mirage_core.camera import fov_degrees
from real_host.flights import film, flight, of_type, psnr
from training.ship import FILES, SHIPPED
from training.worlds import World, random_flight

LOADERS = {"VAELoader": "vae_name", "UNETLoader": "unet_name", "LoadMoGeModel": "model_name"}


def test_the_hosts_loaders_list_the_shipped_models(client):
    names = {path.rsplit("/", 1)[1] for path in FILES.values()}
    for loader, widget in LOADERS.items():
        options = client.get(f"/object_info/{loader}")[loader]["input"]["required"][widget]
        listed = options[0] if isinstance(options[0], list) else options[1]["options"]
        assert len(names & set(listed)) == 1, f"{loader} lists its own kind of file only"


def test_the_nano_flight_comes_back_to_the_same_place(client):
    prompt = flight("nano_flight", MirageCameraPath={"width": 192, "height": 192, "fov": 75.0},
                    MirageGenerateSegment={"steps": 4})  # fmt: skip
    finished = client.run(prompt, timeout=300)
    frames = film(client, prompt, finished)
    assert len(frames) == 65 and frames[0].shape == (192, 192, 3)
    away, back = psnr(frames[0], frames[32]), psnr(frames[0], frames[-1])
    assert back > away + 2, f"{back:.1f} dB where the camera started, {away:.1f} where it was farthest"
    assert finished.outputs[of_type(prompt, "MirageRevisitScore")]["text"]


@pytest.mark.parametrize("scene", ["plaza", "room"])
def test_an_example_scene_has_the_depth_of_its_world(pack, scene):
    nodes = pack("example_nodes")
    image, geometry, sky, movers, fov = nodes.ExampleScene.execute(scene).args
    about = nodes.json.loads((nodes._SCENES / scene / "scene.json").read_text())
    world = getattr(World, about["world"])(about["seed"], movers=2)
    flown = random_flight(world, 0, frames=5, image_size=(512, 512), fov_degrees=75, name=about["flight"])
    frames = world.render(flown.cameras[:1], flown.times[:1], supersampling=1)
    assert fov == pytest.approx(fov_degrees(flown.cameras.intrinsics[0], (512, 512)))
    assert image.shape == (1, 512, 512, 3) and sky.shape == movers.shape == (1, 512, 512)
    is_seen = ~frames.is_sky & (sky < 0.5)
    error = (geometry["depth"] / frames.depth.float() - 1).abs()[is_seen]
    assert error.quantile(0.98) < 1e-3
    assert ((sky > 0.5) == frames.is_sky).float().mean() > 0.99
    assert torch.equal(geometry["mask"], sky < 0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the host runs it in half precision")
@torch.no_grad()
def test_in_full_precision_the_depth_model_runs_on_a_processor_and_the_one_given_stays(pack, host):
    moge = importlib.import_module("comfy.ldm.moge.model")
    file = SHIPPED / "geometry_estimation" / "mirage_nano_depth.safetensors"
    loaded = moge.MoGeModel(host.comfy.utils.load_torch_file(str(file)))
    picture = torch.rand(1, 3, 64, 64)
    precise = pack("depth_precision_nodes").FullPrecisionDepthModel.execute(loaded).args[0]
    found = precise.infer(picture, resolution_level=0)
    assert found["mask"].any() and torch.isfinite(found["depth"][found["mask"]]).all()
    assert pack("depth_precision_nodes").FullPrecisionDepthModel.execute(precise).args[0] is precise
    with pytest.raises(NotImplementedError):  # once the host can do it, the node has done its work
        loaded.infer(picture, resolution_level=0)


def test_an_example_scene_that_is_not_there_is_refused_with_the_list(pack):
    with pytest.raises(ValueError, match=r"no example scene '\.\./x'. There are: plaza, room"):
        pack("example_nodes").ExampleScene.execute("../x")
