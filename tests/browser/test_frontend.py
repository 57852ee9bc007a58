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
    sent = [node["class_type"] for node in canvas.prompt().values()]
    expected = json.loads((WORKFLOWS / "api" / workflow.name).read_text())
    assert sorted(sent) == sorted(node["class_type"] for node in expected.values())
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
    assert len(films) == 1, outputs
    assert len(client.fetch(films[0])) > 1000
    canvas.page.wait_for_timeout(1000)  # the pictures arrive in the nodes
    canvas.screenshot(f"film_made_{frontend}")


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
