"""The memory viewer in the real frontend: it opens, colours mean something, and a drawn box is what Python forgets."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.test_frontend import wait_for_outputs

API_FORM = Path(__file__).resolve().parents[2] / "workflows" / "api" / "stand_in_long_flight.json"
INSPECT, EDIT, AFTER = "70", "71", "72"
FIND = "[...document.querySelectorAll('div')].filter(one => one.memoryViewer).map(one => one.memoryViewer)"


def tools(color: str) -> dict:
    """The start of the stand-in flight, its memory inspected, a box of it forgotten, and inspected again."""
    whole = json.loads(API_FORM.read_text())
    prompt = {key: whole[key] for key in ("2", "4", "5", "7", "10")}
    prompt["10"]["inputs"].pop("static_mask", None)
    prompt["5"]["inputs"] |= {"width": 256, "height": 160, "length": 33}
    prompt[INSPECT] = {"class_type": "MirageInspectMemory", "inputs": {"memory": ["10", 0], "color": color}}
    edit = {"memory": ["10", 0], "action": "forget", "rule": "box", "rule.box": "-1 -1 0  0 1 9"}
    prompt[EDIT] = {"class_type": "MirageEditMemory", "inputs": edit}
    prompt[AFTER] = {"class_type": "MirageInspectMemory", "inputs": {"memory": [EDIT, 0], "color": "preview"}}
    for key in prompt:
        prompt[key].setdefault("_meta", {"title": prompt[key]["class_type"] + key})
    return prompt


class Viewer:
    """The newest open viewer of a page."""

    def __init__(self, canvas) -> None:
        self.page = canvas.page

    def get(self, expression: str):
        return self.page.evaluate(f"() => {{ const viewer = {FIND}.at(-1); return {expression} }}")

    def wait(self) -> None:
        self.page.wait_for_function(
            f"() => {{ const one = {FIND}.at(-1); return one?.points && !one.askPoints.isBusy() }}"
        )

    def picture(self) -> np.ndarray:
        """What the graphics card has drawn, [height width 3]."""
        self.wait()
        url = self.get("(viewer.scene3d.draw(1), viewer.scene3d.canvas.toDataURL('image/png'))")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def open_door(canvas, node_id: str) -> None:
    """Open the viewer of a node, and see nothing else."""
    canvas.page.evaluate(
        """async id => {
            const node = app.graph.getNodeById(Number(id))
            node.widgets.find(one => one.name === 'memory_viewer').element.querySelector('button').click()
        }""",
        node_id,
    )
    canvas.page.wait_for_selector(".mirage-memory-viewer")
    canvas.page.evaluate(
        """id => {
            const node = app.graph.getNodeById(Number(id))
            const [width, height] = [app.canvas.canvas.clientWidth, app.canvas.canvas.clientHeight]
            app.canvas.ds.scale = 1
            const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + node.size[1] / 2]
            app.canvas.ds.offset = [width / 2 - middle[0], height / 2 - middle[1]]
            app.graph.setDirtyCanvas(true, true)
        }""",
        node_id,
    )
    canvas.page.wait_for_timeout(700)


@pytest.fixture
def ran(canvas, client, frontend, tmp_path):
    """The page after a run of the tools; the outputs by node."""
    workflow = tmp_path / "tools.json"
    # Nothing may come from the cache: a scene is remembered by a node that runs.
    workflow.write_text(json.dumps(tools("age" if frontend == "classic" else "segment")))
    canvas.load_api(workflow)
    canvas.set_widget("MirageCameraPath", "amount", 0.21 if frontend == "classic" else 0.22)
    before = set(client.get("/history"))
    canvas.press_run()
    return canvas, wait_for_outputs(client, before)


def test_the_viewer_opens_and_each_colouring_is_another_picture(ran, frontend):
    canvas, _ = ran
    open_door(canvas, INSPECT)
    viewer = Viewer(canvas)
    viewer.wait()
    pictures = {}
    for color in ("preview", "confidence", "locked"):
        canvas.page.select_option(".mirage-memory-viewer select", color)
        canvas.page.wait_for_timeout(300)
        pictures[color] = viewer.picture()
    assert viewer.get("viewer.points.count") > 100
    for name, picture in pictures.items():
        assert (picture.max(2) > 60).mean() > 0.05, name  # points are seen
    assert np.abs(pictures["preview"] - pictures["confidence"]).max(2).mean() > 2
    assert np.abs(pictures["confidence"] - pictures["locked"]).max(2).mean() > 2
    canvas.screenshot(f"memory_viewer_{frontend}")


def test_a_box_that_is_drawn_is_the_box_that_python_forgets(ran, client, frontend):
    canvas, _ = ran
    open_door(canvas, EDIT)
    viewer = Viewer(canvas)
    viewer.wait()
    canvas.page.wait_for_timeout(500)
    chosen = viewer.get("viewer.chosen")
    assert 0 < chosen < viewer.get("viewer.points.count")
    canvas.page.get_by_role("button", name="Drag a box with the mouse").click()
    canvas.page.wait_for_timeout(300)
    box = canvas.page.locator(".mirage-memory-viewer .scene").bounding_box()
    canvas.page.mouse.move(box["x"] + 0.52 * box["width"], box["y"] + 0.25 * box["height"])
    canvas.page.mouse.down()
    canvas.page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 0.95 * box["height"], steps=4)
    canvas.screenshot(f"memory_box_{frontend}")
    canvas.page.mouse.up()
    canvas.page.wait_for_timeout(500)
    drawn = canvas.prompt()[EDIT]["inputs"]["rule.box"]
    assert drawn != "-1 -1 0  0 1 9" and len(drawn.split()) == 6
    shown, total = viewer.get("viewer.chosen"), viewer.get("viewer.points.count")
    assert 0 < shown < total and shown != chosen
    before = set(client.get("/history"))
    canvas.press_run()
    outputs = wait_for_outputs(client, before)
    # All of this small memory is shown, so the page and Python count the same points, but for float32 at the faces.
    report = outputs[EDIT]["text"][0]
    assert abs(int(report.split()[1]) - shown) <= 2, (report, shown)
    assert outputs[AFTER]["text"][0].split()[0] == report.split()[-3]
