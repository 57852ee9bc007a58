"""Evidence from a real Depth Anything 3 loader to the tuned mask, over HTTP, and what the mask's routes answer."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from mirage_core.mask_rules import described
from real_host.client import Client, made_files

MASK, PREVIEW = "20", "21"
SIZE, FRAMES = (64, 96), 5


def prompt(tuning: dict) -> dict:
    """Five frames of a picture, their depth by DA3 with a sky head, a square that SAM3 could have found."""
    height, width = SIZE
    scale = {"image": ["1", 0], "upscale_method": "area", "width": width, "height": height, "crop": "center"}
    square = {"destination": ["6", 0], "source": ["7", 0], "x": 32, "y": 16, "operation": "add"}
    evidence = {"images": ["3", 0], "geometry": ["5", 0], "mover_mask": ["8", 0]}
    mask = {"images": ["3", 0], "evidence": ["10", 0], "tuning": tuning}
    old = {"sky_threshold": 0.5, "drop_unsure": 0.0, "depth_edge": 0.0, "grow": 4}
    made = {
        "1": ("LoadImage", {"image": "mirage_room.jpg"}),
        "2": ("ImageScale", scale),
        "3": ("RepeatImageBatch", {"image": ["2", 0], "amount": FRAMES}),
        "4": ("LoadDA3Model", {"model_name": "mirage_random_da3.safetensors", "weight_dtype": "fp32"}),
        "5": (
            "DA3Inference",
            {
                "da3_model": ["4", 0], "image": ["3", 0], "resolution": 140, "resize_method": "upper_bound_resize",
                "mode": "mono",
            },
        ),
        "6": ("SolidMask", {"value": 0.0, "width": width, "height": height}),
        "7": ("SolidMask", {"value": 0.7, "width": 32, "height": 32}),
        "8": ("MaskComposite", square),
        "10": ("MirageSceneEvidence", evidence),
        MASK: ("MirageDynamicSkyMask", mask | old),
        PREVIEW: ("PreviewImage", {"images": [MASK, 2]}),
        "22": ("MaskToImage", {"mask": [MASK, 0]}),
        "23": ("PreviewImage", {"images": ["22", 0]}),
    }  # fmt: skip
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in made.items()}


@pytest.fixture(scope="module")
def outputs(server) -> dict:
    return Client(server.url).run(prompt({"grow": 0, "hold": 0, "moving_threshold": 0.6})).outputs


@pytest.fixture
def ask(server):
    """ask(question) -> (status, body, headers) of a POST; a question of bytes is sent as it is."""

    def post(question, **headers):
        body = question if isinstance(question, bytes) else json.dumps(question).encode()
        request = urllib.request.Request(f"{server.url}/mirage/mask", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    return post


def test_the_sky_head_and_the_mask_are_asked_and_the_rest_is_told(outputs) -> None:
    told = str(outputs["10"])
    assert "sky of the depth model: sky in 0.0%" in told and "mover mask: moving in 16.7%" in told
    assert "parallax, in front of the memory, unlike the memory: not asked, no memory is connected" in told
    assert "depth confidence: not asked" in told


def test_the_mask_leaves_out_the_square_and_shows_its_cells(outputs, client) -> None:
    masks = [np.asarray(Image.open(io.BytesIO(client.fetch(one))).convert("L")) for one in made_files(outputs["23"])]
    assert len(masks) == FRAMES
    for mask in masks:
        assert mask.shape == SIZE and (mask[16:48, 32:64] == 0).all() and (mask[:8] == 255).all()
    assert len(made_files(outputs[PREVIEW])) == 2  # latent frames of five frames


def test_the_route_derives_other_rules_without_a_run(outputs, ask, client) -> None:
    told = next(one for one in client.get("/mirage/masks") if one["node"] == MASK)
    assert told["frames"] == FRAMES and told["sources"] == [
        "sky_model", "sky_far", "moving_mask", "unsure_edge", "unsure_thin"
    ]  # fmt: skip
    shares = []
    for threshold in (0.6, 0.8):
        tuning = {"grow": 0, "hold": 0, "moving_threshold": threshold}
        status, body, headers = ask({"node": MASK, "tuning": tuning, "frame": 2})
        assert status == 200, body
        assert Image.open(io.BytesIO(body)).size == (SIZE[1], SIZE[0])
        shares.append(json.loads(headers["X-Mirage-Shares"])["moving"])
    assert shares == pytest.approx([1 / 6, 0.0])
    status, body, headers = ask({"node": MASK, "tuning": {"grow": 0}, "frame": 2, "view": "cells"})
    assert status == 200 and json.loads(headers["X-Mirage-Shares"])["moving"] == pytest.approx(16 / 24)


def test_the_page_is_told_the_rules_of_python(client) -> None:
    assert client.get("/mirage/mask_rules") == json.loads(json.dumps(described()))


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (b"{", "cannot be answered|not JSON"),
        ({"node": 3}, "node is '3'; it is the id of a node"),
        ({"node": "nowhere"}, "Node 'nowhere' has no evidence in memory"),
        ({"node": MASK, "path": "/etc"}, "The question has 'path'"),
        ({"node": MASK, "frame": 5}, "frame is '5'; it is a whole number from 0 to 4"),
        ({"node": MASK, "frame": True}, "frame is 'True'"),
        ({"node": MASK, "view": "stars"}, "view is 'stars'; it is one of pixels, cells"),
        ({"node": MASK, "tuning": {"grow": 1e9}}, "grow is 1000000000.0; it lies between 0 and 64"),
        ({"node": MASK, "tuning": [1]}, "it is an object such as"),
    ],
)
def test_a_wrong_question_gets_one_sentence(outputs, ask, question, sentence) -> None:
    status, body, _ = ask(question)
    assert status == 400
    assert any(part in json.loads(body)["error"] for part in sentence.split("|"))


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://elsewhere.example"}])
def test_pages_of_other_sites_get_no_answer(ask, headers) -> None:
    assert ask({"node": MASK}, **headers)[0] == 403
