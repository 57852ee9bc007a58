"""What is made again when something changes, and what is not; on one server, each test with a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file

from real_host.client import Client, PromptFailed
from real_host.flights import of_type
from real_host.resume import final_film, kept_files, loop_prompt, own_server, report_of, set_inputs

SEGMENTS = 3


@pytest.fixture
def film(request, client, base_directory):
    """A film of 3 segments in a folder named after the test, made once."""
    return Film(client, base_directory, re.sub(r"\W", "_", request.node.name)[:60])


class Film:
    def __init__(self, client, base_directory, run):
        self.client, self.run, self.asked = client, run, 0
        self.folder = base_directory / "output" / "mirage" / run

    def prompt(self, **changes) -> dict:
        prompt = loop_prompt(segments=SEGMENTS)
        set_inputs(prompt, MirageLoopStart={"run": self.run})
        return set_inputs(prompt, **changes)

    def report(self, prompt: dict | None = None, **changes) -> str:
        """What the loop says. The host's cache would give an unchanged loop without asking it: the quota changes."""
        self.asked += 1
        prompt = prompt or self.prompt(**changes)
        return report_of(self.client, set_inputs(prompt, MirageLoopStart={"quota": 20.0 - self.asked / 8}))

    def files(self):
        return [file for file in kept_files(self.folder.parents[1]) if file.path.parent == self.folder]


def prompts(*lines):
    return {"prompts": "\n".join(lines)}


@pytest.mark.parametrize(
    "changes, told",
    [
        ({}, "reused 1-3"),
        ({"MirageLoopStart": prompts("room 0", "a garden")}, "reused 1, rendering 2-3 (changed: prompt of segment 2)"),
        ({"MirageLoopStart": {"seed": 9}}, "rendering 1-3 (changed: seed of segment 1)"),
        ({"MirageLoopStart": {"strengths": "1 1 0.5"}}, "reused 1-2, rendering 3 (changed: strength of segment 3)"),
        ({"MirageGenerateSegment": {"cfg": 2.0}}, "rendering 1-3 (changed: MirageGenerateSegment cfg)"),
        ({"MirageLoopStart": {"keep": "off"}}, "rendering 1-3"),
    ],
)  # fmt: skip
def test_only_what_a_change_reaches_is_made_again(film, changes, told):
    assert film.report().startswith("rendering 1-3")  # what was changed since another test's film may follow
    assert film.report(**changes) == told


def test_a_change_taken_back_costs_nothing(film):
    film.report()
    film.report(MirageLoopStart=prompts("room 0", "a garden"))
    assert film.report() == "reused 1-3"


def turning_at(frame: int, *, to: float) -> dict:
    """Inputs of a path that goes right, and from a frame on to the height `to` over the rest of the film."""
    last = 32 * SEGMENTS
    corners = [(0, 0.0, 0.0), (frame, 0.3, 0.0), (last, 0.3, to)]
    keyframes = [
        {"time": at / last, "cam2world": [[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, 0], [0, 0, 0, 1]]}
        for at, x, y in corners
    ]
    path = {"easing": "linear", "interpolation": "linear", "keyframes": keyframes}
    return {"MirageCameraPath": {"keyframes": json.dumps(path)}}


def test_another_path_from_a_segment_on_makes_that_one_and_the_later_ones(film):
    film.report(**turning_at(32, to=0.2))
    first = {file.number: file.checksum for file in film.files()}
    assert film.report(**turning_at(32, to=-0.2)) == "reused 1, rendering 2-3 (changed: path of segment 2)"
    assert len(film.files()) == 1 + 1 + 2 + 2, "the start and segment 1 once, the others for both paths"
    assert first.items() <= {(file.number, file.checksum) for file in film.files()}
    assert film.report(**turning_at(32, to=0.2)) == "reused 1-3"


def test_a_longer_film_makes_only_its_new_segments(film):
    assert film.report(MirageLoopStart={"segments": 2}) == "rendering 1-2"
    assert film.report() == "reused 1-2, rendering 3"


def test_another_model_file_under_the_same_name_is_noticed(film, base_directory):
    models = base_directory / "models" / "diffusion_models"
    source = next(models.glob("mirage_stand_in_dit.safetensors"))
    shutil.copy(source, models / "exchanged.safetensors")
    prompt = film.prompt(UNETLoader={"unet_name": "exchanged.safetensors"})
    film.report(prompt)
    found = (models / "exchanged.safetensors").stat()
    os.utime(models / "exchanged.safetensors", ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))
    assert film.report(prompt) == "rendering 1-3 (changed: UNETLoader unet_name (file))"


def test_ids_titles_and_previews_do_not_count(film):
    film.report()
    prompt = film.prompt()
    generate = of_type(prompt, "MirageGenerateSegment")
    prompt["shown"] = {
        "class_type": "PreviewImage",
        "inputs": {"images": [of_type(prompt, "VAEDecode"), 0]},
        "_meta": {"title": ""},
    }
    moved = {}
    for key, one in prompt.items():
        inputs = {
            name: ["100", value[1]] if isinstance(value, list) and value[0] == generate else value
            for name, value in one["inputs"].items()
        }
        moved["100" if key == generate else key] = one | {"inputs": inputs}
    assert film.report(moved) == "reused 1-3"


def test_another_picture_is_another_film(film):
    film.report()
    assert film.report(LoadImage={"image": "example.png"}).startswith("rendering 1-3 (changed: LoadImage")


@pytest.mark.parametrize("damage", ["flip", "cut", "json"])
def test_a_damaged_segment_is_set_aside_and_made_again_alone(film, damage):
    film.report()
    expected = {file.checksum for file in film.files()}
    second = next(file for file in film.files() if file.number == 2)
    content = bytearray(second.tensors_path.read_bytes())
    if damage == "flip":
        content[-50] ^= 4
        replace_file(second.tensors_path, bytes(content))
    elif damage == "cut":
        replace_file(second.tensors_path, bytes(content[: len(content) // 2]))
    else:
        replace_file(second.path, b"{")
    assert film.report().startswith("reused 1, 3, rendering 2")
    assert {file.checksum for file in film.files()} == expected
    assert len(list(film.folder.glob("*.damaged"))) == 2


def replace_file(path, content):
    """As a copy tool does it: the film that is still mapped in the server keeps the old file."""
    unfinished = path.with_name("unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def test_where_nothing_can_be_written_the_film_goes_on_in_ram_and_is_reused_there(film, server):
    film.folder.parent.mkdir(parents=True, exist_ok=True)
    film.folder.write_text("a file where the folder should be")
    first, second = film.report(), film.report(MirageLoopStart=prompts("room 0", "room 1", "a garden"))
    assert first.splitlines()[0] == "rendering 1-3" and f"cannot be kept in {film.folder} (" in first
    assert "in RAM only, lost when ComfyUI ends: 1-3." in first
    assert second.splitlines()[0] == "reused 1-2, rendering 3"
    warnings = [line for line in server.log.read_text().splitlines() if f"kept in {film.folder}" in line]
    assert len(warnings) == 2, "one warning per film, not per segment"
    assert film.folder.is_file()
    finished = film.client.run(film.prompt(MirageLoopStart={"seed": 77, "segments": 1}))
    shown = [event.data["text"] for event in finished.events if event.kind == "text"]
    assert any(f"cannot be kept in {film.folder} (" in text for text in shown), "on the node, not only in the report"


@pytest.mark.parametrize("run", ["..", "a/b", "C:x", "con", "/etc", "ab\u202e", "x."])
def test_a_run_cannot_leave_the_output_folder(film, run):
    with pytest.raises(PromptFailed, match="run is"):
        film.report(MirageLoopStart={"run": run})


def test_a_run_that_is_a_link_to_elsewhere_is_refused(film, tmp_path):
    film.folder.parent.mkdir(parents=True, exist_ok=True)
    film.folder.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(PromptFailed, match="a link to another place"):
        film.report()
    assert list(tmp_path.iterdir()) == []


def test_two_loops_one_after_another_are_kept_each(film):
    prompt = film.prompt(MirageLoopStart={"segments": 1, "seed": 31})  # of no other test: RAM would be asked too
    end, start = of_type(prompt, "MirageLoopEnd"), of_type(prompt, "MirageLoopStart")
    repeated = fed_by(prompt, start) | {start}
    for key in repeated:
        copy = prompt[key] | {"inputs": {}}
        for name, value in prompt[key]["inputs"].items():
            is_own = isinstance(value, list) and value[0] in repeated
            copy["inputs"][name] = [f"second{value[0]}", value[1]] if is_own else value
        prompt[f"second{key}"] = copy
    prompt[f"second{start}"]["inputs"] |= {"memory": [end, 0], "seed": 50, "segments": 2, "run": f"{film.run}_2"}
    outputs = film.client.run(prompt).outputs
    assert [outputs[one]["text"][0] for one in ("report", "secondreport")] == ["rendering 1", "rendering 2-3"]
    prompt[f"second{start}"]["inputs"]["prompts"] = "room 0\na garden"
    outputs = film.client.run(prompt).outputs
    assert outputs["secondreport"]["text"][0] == "reused 2, rendering 3 (changed: prompt of segment 3)"


def fed_by(prompt, source):
    """Ids of all nodes that something of `source` reaches."""
    fed = {source}
    while True:
        more = {
            key
            for key, one in prompt.items()
            if any(isinstance(v, list) and v[0] in fed for v in one["inputs"].values())
        }
        if more <= fed:
            return fed - {source}
        fed |= more


def test_a_film_forks_at_a_kept_segment(film):
    film.report()
    prompt = film.prompt(MirageLoopStart={"segments": 1, "seed": 77, "run": f"{film.run}_fork"})
    fork = {"class_type": "MirageLoadSegmentRun", "inputs": {"run": film.run, "segment": 2, "take": 0}}
    path = {"class_type": "MirageCameraPath", "inputs": prompt[of_type(prompt, "MirageCameraPath")]["inputs"] | {
        "preset": "pan_left", "amount": 15.0, "length": 33}}  # fmt: skip
    prompt |= {"fork": fork | {"_meta": {"title": ""}}, "onward": path | {"_meta": {"title": ""}}}
    prompt[of_type(prompt, "MirageLoopStart")]["inputs"] |= {"memory": ["fork", 0], "path": ["onward", 0]}
    assert film.report(prompt) == "rendering 3"
    forked = final_film(film.folder.parents[1])
    one = next(file for file in film.files() if file.number == 2)
    assert forked.segments_done == 3 and one.number == 2
    assert film.report(prompt | {"fork": fork | {"inputs": {"run": film.run, "segment": 2}}}) == "reused 3"


def test_a_run_that_is_not_there_is_one_sentence(film):
    prompt = film.prompt()
    prompt["fork"] = {"class_type": "MirageLoadSegmentRun", "inputs": {"run": "nowhere", "segment": 1}}
    prompt[of_type(prompt, "MirageLoopStart")]["inputs"]["memory"] = ["fork", 0]
    with pytest.raises(PromptFailed, match=r"The run 'nowhere' has no segment 1; it holds nothing"):
        film.report(prompt)


def test_two_servers_on_one_folder_make_one_film(film, comfyui, base_directory, tmp_path):
    reports = []
    with own_server(comfyui, base_directory, base_directory / "output", tmp_path / "server.log") as other:
        both = [Client(film.client.url), Client(other.url)]
        threads = [
            threading.Thread(target=lambda one=one: reports.append(report_of(one, film.prompt()))) for one in both
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reports) == 2
        assert sorted(file.number for file in film.files()) == [0, 1, 2, 3]
        assert report_of(both[1], film.prompt(MirageLoopStart={"quota": 19.0})) == "reused 1-3"
    assert not list(film.folder.glob(".*.part"))


def test_a_film_is_the_same_with_and_without_being_kept(film, client):
    film.report()
    prompt = film.prompt(MirageLoopStart={"keep": "off"})
    inputs = {"samples": [of_type(prompt, "MirageLoopEnd"), 1], "filename_prefix": film.run}
    prompt["save"] = {"class_type": "SaveLatent", "inputs": inputs, "_meta": {"title": ""}}
    client.run(prompt)
    kept = set_inputs(prompt, MirageLoopStart={"keep": "on"})
    client.run(kept)
    saved = sorted(film.folder.parents[1].glob(f"{film.run}_*.latent"))
    one, other = (load_file(path)["latent_tensor"] for path in saved)
    assert torch.equal(one, other)
