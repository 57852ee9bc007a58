"""Shipped workflows in the real frontend, classic canvas and Nodes 2.0."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from real_host.client import made_files

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
CANVAS_FORMS = sorted(WORKFLOWS.glob("*.json"))


def test_frontend_knows_every_mirage_node_of_the_server(canvas, client):
    known = canvas.page.evaluate("() => Object.keys(LiteGraph.registered_node_types)")
    told = {name for name in client.get("/object_info") if name.startswith("Mirage")}
    assert told <= set(known)


@pytest.mark.parametrize("workflow", CANVAS_FORMS, ids=lambda file: file.stem)
def test_workflow_opens_without_missing_nodes_and_sends_its_api_form(canvas, frontend, workflow):
    canvas.load(workflow)
    missing = canvas.page.evaluate("() => app.graph.nodes.filter(node => node.has_errors && !node.type).length")
    assert missing == 0
    sent, expected = canvas.prompt(), json.loads((WORKFLOWS / "api" / workflow.name).read_text())
    assert sorted(sent) == sorted(expected)
    for key, node in expected.items():
        inputs = sent[key]["inputs"]
        assert sent[key]["class_type"] == node["class_type"]
        # What the API form leaves out has a default; a link that it does not know would be a wrong wire.
        more = {name: value for name, value in inputs.items() if name not in node["inputs"]}
        assert node["inputs"] == {name: inputs.get(name) for name in node["inputs"]}, node["class_type"]
        assert not [name for name, value in more.items() if isinstance(value, list)], node["class_type"]
    notes = canvas.page.evaluate("""() => app.graph.nodes.filter(node => node.type === 'MarkdownNote')
        .map(node => node.widgets[0].value)""")
    own = workflow.stem.split("_")[0].capitalize()
    assert len([note for note in notes if note.startswith(f"# {own}")]) == 1, "its own words, not another workflow's"
    canvas.screenshot(f"{workflow.stem}_{frontend}")


def test_run_button_makes_a_film_after_a_value_was_changed(canvas, client, frontend):
    canvas.load_api(WORKFLOWS / "api" / "stand_in_long_flight.json")
    canvas.set_widget("MirageCameraPath", "length", 9)
    canvas.set_widget("MirageCameraPath", "width", 128)
    canvas.set_widget("MirageCameraPath", "height", 128)
    canvas.set_widget("MirageGenerateSegment", "steps", 2)
    canvas.set_widget("MirageLoopStart", "seed", 100 if frontend == "classic" else 200)
    before = set(client.get("/history"))
    canvas.press_run()
    outputs = wait_for_outputs(client, before)
    films = [file for made in outputs.values() for file in made_files(made) if file["filename"].endswith(".mp4")]
    assert len({film["filename"] for film in films}) == 1, "the loop and what follows it write one film"
    assert len(client.fetch(films[0])) > 1000
    canvas.page.wait_for_timeout(1000)  # pictures and words arrive in the nodes
    words = canvas.page.evaluate("""() => app.graph.nodes.map(node => [node.type,
        (node.widgets ?? []).map(widget => widget.value).filter(value => typeof value === 'string').join(' | ')])""")
    for kind, told in (
        ("MirageWriteFilm", "9 frames"),
        ("MirageRevisitScore", "No pose"),
        ("MirageLoopEnd", "rendering 1"),
        ("MirageWriteMemory", "segment 1:"),
    ):
        assert any(node == kind and told in text for node, text in words), (kind, words)
    canvas.screenshot(f"film_made_{frontend}")


def test_a_film_stopped_in_segment_two_and_run_again_reuses_segment_one(canvas, client, frontend):
    canvas.load_api(WORKFLOWS / "api" / "stand_in_long_flight.json")
    for name, value in {"length": 65, "width": 64, "height": 64}.items():
        canvas.set_widget("MirageCameraPath", name, value)
    canvas.set_widget("MirageGenerateSegment", "steps", 60)
    canvas.set_widget("MirageLoopStart", "run", f"stopped_{frontend}")
    canvas.page.evaluate("""() => {
        window.told = []
        app.api.addEventListener('progress_text', event => told.push(event.detail.text))
    }""")
    canvas.press_run()
    canvas.page.wait_for_function("told.some(text => text.startsWith('segment 2/2, step'))", timeout=120000)
    canvas.page.evaluate("() => app.extensionManager.command.execute('Comfy.Interrupt')")
    wait_until_idle(client)
    assert not any("segment 2/2, step 60" in text for text in canvas.page.evaluate("told"))
    before = set(client.get("/history"))
    canvas.press_run()
    outputs = wait_for_outputs(client, before)
    assert "reused 1, rendering 2" in canvas.page.evaluate("told")
    films = [file for made in outputs.values() for file in made_files(made) if file["filename"].endswith(".mp4")]
    assert len({film["filename"] for film in films}) == 1, "it went on in the film that was begun"


def test_an_error_of_a_node_inside_the_loop_is_shown_with_segment_and_node(canvas, tmp_path):
    prompt = json.loads((WORKFLOWS / "api" / "stand_in_long_flight.json").read_text())
    keys = {node["_meta"]["title"]: key for key, node in prompt.items()}
    prompt[keys["Camera Path"]]["inputs"] |= {"length": 37, "width": 64, "height": 64}
    prompt[keys["Generate Segment"]]["inputs"]["steps"] = 1
    six = {"image": [keys["Decode segment"], 0], "batch_index": 0, "length": 6}
    prompt["900"] = {"class_type": "ImageFromBatch", "inputs": six, "_meta": {"title": "Six frames"}}
    prompt[keys["Frames for Depth"]]["inputs"]["images"] = ["900", 0]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(prompt))
    canvas.load_api(broken)
    canvas.press_run()
    shown = canvas.page.get_by_text("Segment 1, Frames for Depth")
    shown.wait_for(timeout=90000)
    assert shown.count() == 1


def wait_until_idle(client, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while client.get("/queue")["queue_running"]:
        assert time.monotonic() < deadline, f"the server was still busy {seconds:.0f} s after the interrupt"
        time.sleep(0.1)


def wait_for_outputs(client, before: set[str], seconds: float = 120) -> dict:
    """Outputs of the first prompt that ends and was not there before; fails with the server's word on an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for prompt_id, ended in client.get("/history").items():
            if prompt_id not in before:
                assert ended["status"]["status_str"] == "success", ended["status"]["messages"]
                return ended["outputs"]
        time.sleep(0.2)
    raise AssertionError(f"no prompt ended within {seconds:.0f} s of pressing Run")


def test_a_workflow_opened_after_another_keeps_its_own_words(canvas):
    for name in ("nano_flight", "long_flight"):
        canvas.load(WORKFLOWS / f"{name}.json")
    titles = canvas.page.evaluate("""() => app.graph.nodes.filter(node => node.type === 'MarkdownNote')
        .map(node => node.widgets[0].value.split('\\n')[0])""")
    assert sorted(titles) == ["# Long flight: a loop over segments", "# When you stop, or change your mind"]
