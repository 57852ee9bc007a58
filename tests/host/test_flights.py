"""The shipped workflows through the HTTP interface of the real server, at tiny size."""

from __future__ import annotations

import copy
import json
from io import BytesIO

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from real_host.client import PromptFailed, PromptInterrupted, made_files
from real_host.flights import API, film, film_writer, find, flight, node, of_type, psnr, video, with_tiny_models
from training.stand_in.dit import dit_metadata


@pytest.fixture(scope="module")
def picture(server, tmp_path_factory):
    """A picture of our own in the server's input folder."""
    return "mirage_room.jpg"


def test_two_segments_wired_by_hand_fly_out_and_find_the_room_again(client, picture):
    prompt = flight("stand_in_first_flight", LoadImage={"image": picture})
    finished = client.run(prompt)
    frames = film(client, prompt, finished)
    assert len(frames) == 65 and frames[0].shape == (64, 96, 3)
    assert psnr(frames[0], frames[-1]) > 20, "the camera is back at the start, so the picture is too"
    assert psnr(frames[0], frames[32]) < psnr(frames[0], frames[-1]) - 3, "the camera was somewhere else in between"
    (score,) = finished.outputs[of_type(prompt, "MirageRevisitScore")]["text"]
    assert "pairs of frames from one pose" in score and "remembered pixels" in score


def test_the_loop_films_each_segment_and_says_so(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture}, MirageCameraPath={
        "width": 96, "height": 64, "length": 97, "fov": 60.0})  # fmt: skip
    finished = client.run(prompt)
    assert len(film(client, prompt, finished)) == 97
    told = [event.data["text"] for event in finished.events if event.kind == "text"]
    assert [line for line in told if "step 2/2" in line] == [f"segment {k}/3, step 2/2" for k in (1, 2, 3)]
    assert [event for event in finished.events if event.kind == "preview"], "the newest frame is shown while it is made"
    previews = [key for key in finished.outputs if key.endswith("." + find(prompt, "What the memory shows"))]
    assert len(previews) == 3, "previews in the body are made once per segment"
    sheet = made_files(finished.outputs[find(prompt, "Contact sheet")])
    assert Image.open(BytesIO(client.fetch(sheet[0]))).size[0] > 1000


def test_a_loop_inside_a_subgraph_films_the_same(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture})
    nested = {}
    for key, one in copy.deepcopy(prompt).items():  # the frontend flattens a subgraph to ids such as "8:5"
        for name, value in one["inputs"].items():
            if isinstance(value, list):
                one["inputs"][name] = [f"8:{value[0]}", value[1]]
        nested[f"8:{key}"] = one
    finished = client.run(nested)
    assert len(video(client, finished.outputs[f"8:{film_writer(prompt)}"])) == 65


def tiny(name: str, **changes) -> dict:
    """A shipped workflow as it is, with the stock loaders, on tiny files."""
    prompt = flight(name, MirageGenerateSegment={"steps": 1, "cfg": 2.0}, **changes)
    with_tiny_models(prompt)
    return prompt


def test_the_stock_depth_loaders_and_a_random_model_carry_a_flight_wired_by_hand(client, picture):
    prompt = tiny("first_flight", LoadImage={"image": picture})
    # A MoGe 2 without normals: Write Memory knows it by its file, and fits no shift.
    prompt[of_type(prompt, "LoadMoGeModel")]["inputs"]["model_name"] = "mirage_random_moge2.safetensors"
    prompt["report"] = node("PreviewAny", source=[of_type(prompt, "MirageWriteMemory"), 1])
    finished = client.run(prompt)
    assert len(film(client, prompt, finished)) == 37
    (report,) = finished.outputs["report"]["text"]
    assert "depth scaled by" in report and "shifted by" not in report


def test_second_shot_runs_in_the_world_that_long_flight_has_left(client, picture):
    first = tiny("long_flight", LoadImage={"image": picture}, MirageSaveMemory={"name": "shots/world"})
    finished = client.run(first)
    assert len(film(client, first, finished)) == 37
    (kept,) = made_files(finished.outputs[of_type(first, "MirageSaveMemory")])
    file = {"file": f"shots/{kept['filename']}"}
    second = tiny("second_shot", MirageLoadMemory=file, MirageSaveMemory={"name": "shots/world"})
    assert second[of_type(second, "MirageLoopStart")]["inputs"]["memory"] == [of_type(second, "MirageEditMemory"), 0]
    finished = client.run(second)
    assert len(film(client, second, finished)) == 37
    assert made_files(finished.outputs[of_type(second, "MirageInspectMemory")]), "the world is seen from above"
    (again,) = made_files(finished.outputs[of_type(second, "MirageSaveMemory")])
    assert again["filename"] != kept["filename"]


def test_the_memory_that_long_flight_keeps_first_is_the_one_that_second_shot_opens():
    first, second = (json.loads((API / f"{name}.json").read_text()) for name in ("long_flight", "second_shot"))
    name = first[of_type(first, "MirageSaveMemory")]["inputs"]["name"]
    assert second[of_type(second, "MirageLoadMemory")]["inputs"]["file"] == f"{name}_00001.safetensors"
    paths = [one[of_type(one, "MirageCameraPath")]["inputs"] for one in (first, second)]
    assert [paths[0][side] for side in ("width", "height")] == [paths[1][side] for side in ("width", "height")]


def test_depth_anything_3_starts_a_memory(client, picture):
    path = {
        "preset": "pan_right", "amount": 10.0, "out_move": "roll", "length": 5, "speed": 1.0, "easing": "linear",
        "fov": 55.0, "width": 512, "height": 320, "fps": 16.0,
    }  # fmt: skip
    inference = {"image": ["1", 0], "resolution": 140, "resize_method": "upper_bound_resize", "mode": "mono"}
    memory = {"image": ["1", 0], "vae": ["5", 0], "geometry": ["3", 0], "path": ["4", 0]}
    prompt = {
        "1": node("LoadImage", image=picture),
        "2": node("LoadDA3Model", model_name="mirage_random_da3.safetensors", weight_dtype="fp32"),
        "3": node("DA3Inference", da3_model=["2", 0], **inference),
        "4": node("MirageCameraPath", **path),
        "5": node("VAELoader", vae_name="mirage_stand_in_vae.safetensors"),
        "6": node("MirageInitLatentMemory", **memory),
        "7": node("MirageProjectMemory", memory=["6", 0]),
        "8": node("SaveImage", images=["7", 2], filename_prefix="test/view"),
    }
    assert len(made_files(client.run(prompt).outputs["8"])) == 2


def test_changing_the_prompt_of_segment_two_makes_only_segment_two_again(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture})
    start, generate = of_type(prompt, "MirageLoopStart"), of_type(prompt, "MirageGenerateSegment")
    prompt[start]["inputs"] |= {"segments": 2, "prompts": "a room\na room"}
    # A preview inside the loop makes the host run Start on the canvas, and its default cache then forgets the rest.
    prompt = {key: one for key, one in prompt.items() if one["class_type"] != "PreviewImage"}
    client.run(prompt)
    prompt[start]["inputs"]["prompts"] = "a room\na garden"
    again = [node for node in client.run(prompt).executed_nodes() if node.endswith(f".{generate}")]
    assert len(again) == 1 and ".i1." in again[0]


def test_an_interrupted_run_can_be_queued_again(client, picture):
    prompt = flight(
        "stand_in_long_flight", LoadImage={"image": picture}, MirageGenerateSegment={"steps": 30, "seed": 5}
    )
    prompt[of_type(prompt, "MirageLoopStart")]["inputs"]["seed"] = 4242

    def stop(event):
        if event.kind == "text" and "segment 2/2" in event.data["text"]:
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(prompt, on_event=stop)
    prompt[of_type(prompt, "MirageGenerateSegment")]["inputs"]["steps"] = 1
    assert len(film(client, prompt, client.run(prompt))) == 65


def test_an_error_in_the_loop_names_the_segment_and_the_node(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture})

    prompt[of_type(prompt, "MirageWriteMemory")]["inputs"]["geometry"] = [of_type(prompt, "MirageSimpleDepth"), 0]
    with pytest.raises(PromptFailed, match="segment 1/2, Write Memory: The depth map is"):
        client.run(prompt)


def test_a_path_shorter_than_the_loop_is_said_before_anything_is_made(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture}, MirageLoopStart={"segments": 5})
    with pytest.raises(PromptFailed, match=r"camera path has 2 segments left \(65 frames in all\), and 5"):
        client.run(prompt)


def test_a_loop_end_without_its_start_is_refused(client, picture):
    prompt = flight("stand_in_long_flight", LoadImage={"image": picture})
    prompt[of_type(prompt, "MirageLoopEnd")]["inputs"]["loop"] = [of_type(prompt, "MirageInitLatentMemory"), 0]
    with pytest.raises((PromptFailed, ValueError), match=r"paired|MIRAGE_LOOP|type"):
        client.run(prompt)


def test_the_wan21_vae_is_refused_with_the_one_to_use(client, picture, base_directory):
    stand_in = base_directory / "models/vae/mirage_stand_in_vae.safetensors"
    narrow = load_file(stand_in)
    narrow["encoder.0.weight"] = narrow["encoder.0.weight"][:, :3]
    narrow["decoder.1.weight"] = narrow["decoder.1.weight"][:, :16]
    for key, value in narrow.items():  # 16 latent channels, no pixel shuffle: the shape of the Wan2.1 files
        narrow[key] = (
            value[:3] if key.startswith("decoder.22") else value[:16] if len(value) == 48 else value
        ).contiguous()
    save_file(narrow, stand_in.with_name("wan21.safetensors"))
    prompt = flight("stand_in_first_flight", LoadImage={"image": picture}, VAELoader={"vae_name": "wan21.safetensors"})
    with pytest.raises(PromptFailed, match=r"16 channels.*Wan2\.2 VAE") as failed:
        client.run(prompt)
    assert failed.value.node_type == "MirageInitLatentMemory"


def test_a_wan21_model_is_refused_with_the_one_to_use(client, picture, base_directory):
    folder = base_directory / "models/diffusion_models"
    wan21 = load_file(folder / "mirage_random_dit.safetensors")
    wan21["patch_embedding.weight"] = wan21["patch_embedding.weight"][:, :16].contiguous()
    for part in ("weight", "bias"):
        wan21[f"head.head.{part}"] = wan21[f"head.head.{part}"][: 16 * 4].contiguous()
    save_file(wan21, folder / "wan21.safetensors", metadata=dit_metadata(heads=2))
    prompt = flight(
        "stand_in_first_flight", LoadImage={"image": picture}, UNETLoader={"unet_name": "wan21.safetensors"}
    )
    with pytest.raises(PromptFailed, match=r"segment 1/2, Generate Segment: .*16 latent channels.*Wan2\.2 TI2V"):
        client.run(prompt)
