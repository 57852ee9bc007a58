"""What the path editor asks the server: answers are those of the core, and wrong questions get one sentence."""

from __future__ import annotations

import io
import json
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from aiohttp.test_utils import make_mocked_request
from PIL import Image

from mirage_core.camera import Cameras, pinhole_intrinsics
from mirage_core.camera_path import CameraPath
from mirage_core.latent_grid import WAN22
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.path_presets import preset
from mirage_core.preflight import preflight
from mirage_core.rollout import Rollout, Shot
from mirage_core.zbuffer import project
from real_host.client import made_files

API_FORM = Path(__file__).resolve().parents[2] / "workflows" / "api" / "stand_in_long_flight.json"
SETTINGS = {"preset": "dolly_in", "amount": 0.3, "length": 33, "width": 256, "height": 160, "easing": "linear"}


@pytest.fixture(scope="module")
def previewed(server):
    """A scene of the node "10", and the pictures of Project Memory along SETTINGS."""
    from real_host.client import Client

    client = Client(server.url)
    whole = json.loads(API_FORM.read_text())
    prompt = {key: whole[key] for key in ("2", "4", "5", "7", "10")}
    prompt["10"]["inputs"].pop("static_mask", None)
    prompt["5"]["inputs"] |= SETTINGS
    prompt["90"] = {"class_type": "MirageProjectMemory", "inputs": {"memory": ["10", 0], "path": ["5", 0]}}
    prompt["91"] = {"class_type": "PreviewImage", "inputs": {"images": ["90", 2]}}
    files = made_files(client.run(prompt).outputs["91"])
    return [np.asarray(Image.open(io.BytesIO(client.fetch(one))).convert("RGB")) for one in files]


@pytest.fixture
def ask(server):
    """ask(route, question, headers) -> (status, body, headers) of a POST; a question of bytes is sent as it is."""

    def post(route, question, **headers):
        body = question if isinstance(question, bytes) else json.dumps(question).encode()
        request = urllib.request.Request(f"{server.url}/mirage/{route}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    return post


def refused(answer) -> str:
    status, body, _ = answer
    assert status == 400, body
    return json.loads(body)["error"]


def test_the_view_of_a_frame_is_project_memorys_picture_exactly(previewed, ask):
    for frame in (0, 12, 32):
        status, body, headers = ask("view", {"settings": SETTINGS, "scene": "10", "frame": frame})
        assert status == 200, body
        picture = np.asarray(Image.open(io.BytesIO(body)))
        assert np.array_equal(picture, previewed[frame // 4])
        known = (picture[::8, ::8] != 15).any(-1).mean()  # unknown cells are 6 % grey, 0.06 x 255 cut off
        assert abs(float(headers["X-Mirage-Coverage"]) - known) < 0.02


def test_the_sampled_path_is_the_one_that_will_be_filmed(previewed, ask, client):
    status, body, _ = ask("path", {"settings": SETTINGS, "scene": "10"})
    assert status == 200, body
    sampled = json.loads(body)
    scene = client.get("/mirage/scenes")[0]
    intrinsics = pinhole_intrinsics(scene["fov_degrees"], (160, 256))
    shot = Shot(preset("dolly_in", amount=0.3, easing="linear"), 33, (160, 256))
    cameras = shot.cameras(intrinsics=intrinsics, unit_length=1.0)
    told = torch.tensor(sampled["cam2world"], dtype=torch.float64).view(-1, 4, 4)
    assert (told - cameras.cam2world).abs().max() < 1e-12
    assert CameraPath.from_json(json.dumps(sampled["path"])) == shot.path
    assert sampled["fov_source"] == "scene" and sampled["segments"] == [[0, 32]]


def test_without_a_scene_the_field_of_view_is_the_nodes_or_assumed(ask):
    told = json.loads(ask("path", {"settings": SETTINGS | {"fov": 70.0}})[1])
    assert told["fov_source"] == "node" and told["fov_degrees"] == pytest.approx([70.0] * 33)
    assert json.loads(ask("path", {"settings": SETTINGS})[1])["fov_source"] == "assumed"


def test_points_are_those_of_the_memory(previewed, client):
    scene = client.get("/mirage/scenes")[0]
    body = client.get_bytes("/mirage/points?scene=10")
    (count,) = struct.unpack("<I", body[:4])
    assert count == scene["points"] and len(body) == 4 + count * (12 + 4 + 3)
    positions = np.frombuffer(body, "<f4", 3 * count, 4).reshape(-1, 3)
    assert np.isfinite(positions).all() and (positions[:, 2] > 0).all()


def test_the_preflight_is_the_cores(previewed, ask, client):
    status, body, _ = ask("preflight", {"settings": SETTINGS, "scene": "10"})
    assert status == 200, body
    told = json.loads(body)
    assert len(told["known"]) == len(told["levels"]) == 33
    assert set(told) == set(json.loads(preflight(*simple_scene(), unit_length=1.0).to_json()))


def simple_scene() -> tuple[LatentMemory, Cameras, tuple[int, int]]:
    cameras = Cameras(torch.eye(4).repeat(5, 1, 1), pinhole_intrinsics(60, (64, 64)).repeat(5, 1, 1), (64, 64))
    return LatentMemory.empty(WAN22), cameras, (4, 4)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (b"{", "not JSON"),
        (b"[1]", "JSON object"),
        (b'{"settings": {"amount": NaN}}', "contains NaN; all numbers are finite"),
        ({"settings": 3}, "inputs of Camera Path by name"),
        ({"settings": {"pose": 1}}, "no input 'pose'"),
        ({"settings": {"length": 80}}, "Use 77 or 81"),
        ({"settings": {"length": 8.5}}, "length is 8.5; it is a whole number"),
        ({"settings": {"length": 10**9}}, "length is 1000000000; it lies between 5 and"),
        ({"settings": {"speed": True}}, "speed is True; it is a number"),
        ({"settings": {"keyframes": 7}}, "keyframes is 7; it is a text"),
        ({"settings": {"keyframes": "{}"}}, "lacks keyframes"),
        ({"settings": {"preset": "fly"}}, "camera move is 'fly'"),
        ({"settings": {}, "from_here": 1}, "from_here is 1; it is true or false"),
        ({"settings": {}, "scene": 5}, "scene is the id of the node"),
        ({"settings": {}, "scene": "nowhere"}, "no scene of node 'nowhere'"),
        ({"settings": {}, "scene": "10", "client": 5}, "client is the id of a page"),
        (b'{"settings": {}, "settings": {}}', "names one key twice"),
        (b"[" * 100_000, "nests brackets too deeply"),
        (b'{"settings": {"amount": ' + b"9" * 9000 + b"}}", "4300 digits"),
    ],
)
def test_a_wrong_question_gets_one_sentence(ask, question, sentence):
    assert sentence in refused(ask("path", question))


def test_a_view_needs_a_scene_of_the_same_size_and_a_frame_of_the_film(previewed, ask):
    question = {"settings": SETTINGS, "scene": "10", "frame": 0}
    assert "0 to 32" in refused(ask("view", question | {"frame": 33}))
    assert "0 to 32" in refused(ask("view", question | {"frame": 1.5}))
    assert "Run the workflow" in refused(ask("view", question | {"scene": None}))
    other = question | {"settings": SETTINGS | {"width": 320}}
    assert "made at 256x160, the path is 320x160" in refused(ask("view", other))


def test_a_question_beyond_the_limit_is_not_read(ask):
    assert "at most 4000000" in refused(ask("path", b" " * 4_000_001))


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-site"}, {"Origin": "http://elsewhere.example"}])
def test_pages_of_other_sites_get_no_answer(ask, headers):
    assert ask("path", {"settings": {}}, **headers)[0] == 403


def rollout_of(points: int, *, blocks: int = 1) -> Rollout:
    """A film with so many points in front of its first camera, numbered by their depth."""
    cameras = Cameras(torch.eye(4).repeat(5, 1, 1), pinhole_intrinsics(60, (64, 64)).repeat(5, 1, 1), (64, 64))
    depth = torch.arange(1.0, points + 1)
    places = torch.stack([torch.zeros(points), torch.zeros(points), depth], dim=1)
    whole = MemoryBlock(
        places,
        torch.zeros(points, 48),
        torch.zeros(points, dtype=torch.int32),
        torch.ones(points),
        torch.ones(points),
        torch.zeros(points, 2, 3),
    )
    memory = LatentMemory.empty(WAN22)
    for part in torch.arange(points).chunk(blocks):
        memory = memory.extended(whole.chosen(part))
    return Rollout.started(memory, torch.zeros(48, 1, 4, 4), cameras)


def test_a_path_that_goes_on_is_seen_from_the_newest_frame(pack):
    routes, film = pack("scene_routes"), filmed()
    shot = Shot(preset("static"), 5, (64, 64))
    pictures = []
    for camera in (film.cameras[[0]], film.cameras[[4]]):
        view = project(film.memory, camera, film.size)
        pictures.append(torch.from_numpy((255 * pack("memory_nodes").view_picture(view)[0].numpy()).astype("uint8")))
    assert not torch.equal(*pictures)
    for from_here, expected in zip((False, True), pictures, strict=True):
        shown, _ = routes.picture_from(film, shot, 4, from_here)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), expected.numpy())


def filmed() -> Rollout:
    """A film of one finished segment that turned from one of two coloured walls to the other."""
    poses = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    poses[4, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    cameras = Cameras(poses, pinhole_intrinsics(60, (64, 64)).repeat(5, 1, 1), (64, 64))
    latents = torch.randn(48, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    block = lift(latents, torch.ones(2, 4, 4), cameras[[0, 4]], WAN22)
    started = Rollout.started(LatentMemory.empty(WAN22).extended(block), latents[:, :1], cameras)
    return started.extended(latents, started.view(started.next_segment))


@pytest.mark.parametrize(("points", "blocks"), [(1, 1), (999, 1), (1000, 3), (1001, 4), (4321, 7)])
def test_a_preview_takes_every_nth_point_of_all_blocks(pack, points, blocks):
    shown = pack("scenes").colored_points(rollout_of(points, blocks=blocks).memory, limit=1000)
    depth = shown.positions[:, 2].sort().values
    assert len(depth) <= 1000 and shown.colors.dtype == torch.uint8
    stride = -(-points // 1000)
    assert torch.equal(depth, torch.arange(1.0, points + 1, stride))
    assert torch.allclose(shown.footprints, torch.full_like(depth, stride**0.5))


def test_an_empty_memory_has_no_points(pack):
    shown = pack("scenes").colored_points(LatentMemory.empty(WAN22))
    assert shown.positions.shape == (0, 3) and shown.colors.shape == (0, 3) and shown.footprints.shape == (0,)


def test_only_the_newest_scenes_are_kept_and_one_per_node(pack):
    scenes, film = pack("scenes").Scenes(limit=2), rollout_of(4)
    told = []
    scenes.listeners.append(told.append)
    for node in ("a", "b", "a", "c"):
        scenes.remember(node, film)
    assert [one.node for one in scenes.newest_first()] == ["c", "a"]
    assert [one.version for one in told] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no scene of node 'b' in memory"):
        scenes.get("b")


def test_a_scene_that_is_looked_at_stays(pack):
    scenes, film = pack("scenes").Scenes(limit=2), rollout_of(4)
    for node in ("a", "b"):
        scenes.remember(node, film)
    scenes.get("a")
    scenes.remember("c", film)
    assert {one.node for one in scenes.newest_first()} == {"a", "c"}


def test_two_pages_with_one_workflow_have_a_scene_each(pack):
    scenes, first, second = pack("scenes").Scenes(), rollout_of(4), rollout_of(5)
    scenes.remember("10", first, client="a")
    scenes.remember("10", second, client="b")
    assert scenes.get("10", "a").rollout is first and scenes.get("10", "b").rollout is second
    assert [one.rollout for one in scenes.newest_first("a")] == [first]
    assert scenes.get("10", "elsewhere").rollout is second  # a page that was opened anew sees the newest


def test_pages_that_run_at_once_never_see_each_others_scenes(pack):
    scenes, films = pack("scenes").Scenes(), [rollout_of(count) for count in range(1, 5)]
    wrong = []

    def page(index: int) -> None:
        for _ in range(200):
            scenes.remember("10", films[index], client=str(index))
            seen = scenes.get("10", str(index)).rollout
            listed = scenes.newest_first(str(index))
            if seen is not films[index] or [one.rollout for one in listed] != [films[index]]:
                wrong.append(index)

    threads = [threading.Thread(target=page, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scenes_stay_within_their_bytes_and_shared_tensors_count_once(pack):
    film = rollout_of(1000)
    size = sum(value.nbytes for value in vars(film.memory.blocks[0]).values() if isinstance(value, torch.Tensor))
    scenes = pack("scenes").Scenes(limit=9, max_bytes=3 * size)
    for node in "abcdef":
        scenes.remember(node, film)
    assert len(scenes.newest_first()) == 6
    for node in "uvwxyz":
        scenes.remember(node, rollout_of(1000))
    assert [one.node for one in scenes.newest_first()] == ["z", "y", "x"]


def test_the_memory_before_an_edit_is_kept_beside_the_one_after(pack):
    scenes, before, after = pack("scenes").Scenes(), rollout_of(4), rollout_of(3)
    scenes.remember("10", after, before=before)
    assert scenes.get("10").before is before and scenes.get("10").rollout is after


@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://here:8188"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://here:8188"}, True),
        ({"Origin": "http://HERE:8188"}, True),
        ({"Origin": "http://here:9999"}, False),
        ({"Origin": "http://here:8188.elsewhere.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://[here"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://elsewhere.example"}, False),
    ],
)
def test_only_pages_of_this_server_and_programs_are_answered(pack, headers, is_answered):
    request = make_mocked_request("POST", "/mirage/path", headers={"Host": "here:8188", **headers})
    assert pack("route_answers").is_same_origin(request) is is_answered


@pytest.mark.parametrize("color", ["preview", "age", "confidence", "segment", "locked"])
def test_every_colouring_has_a_colour_for_every_point(pack, color):
    film = filmed()
    shown = pack("scenes").colored_points(film.memory, colors=pack("memory_colors").coloring(film, color))
    assert shown.colors.shape == (film.memory.count, 3)
    with pytest.raises(ValueError, match="color is 'shiny'; it is one of preview, age"):
        pack("memory_colors").coloring(film, "shiny")
