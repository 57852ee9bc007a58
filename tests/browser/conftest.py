"""The real frontend in a real Chromium, once as the classic canvas and once as Nodes 2.0."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import find_browser
from real_host.client import Client

REPOSITORY = Path(__file__).resolve().parents[2]


class Canvas:
    """A page with ComfyUI open. `errors` collects exceptions of the page's scripts; console noise is not counted."""

    def __init__(self, page, url: str) -> None:
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(url)
        # The frontend takes its splash away after it has opened its own first graph, which would replace one of ours.
        page.wait_for_function("window.app?.graph && !document.querySelector('#splash-loader')")

    def load(self, workflow: Path) -> None:
        """Open a canvas-form workflow and fit it into view."""
        self._open("workflow => app.loadGraphData(workflow)", workflow)

    def load_api(self, workflow: Path) -> None:
        """Open an API-form workflow and fit it into view."""
        self._open("workflow => app.loadApiJson(workflow, 'workflow.json')", workflow)

    def prompt(self) -> dict[str, dict]:
        """What the Run button would send."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def set_widget(self, node_type: str, name: str, value) -> None:
        """Change a value the way a widget does it, on every node of a type."""
        changed = self.page.evaluate(
            """([type, name, value]) => {
                const widgets = app.graph.nodes.filter(node => node.type === type)
                    .flatMap(node => node.widgets.filter(widget => widget.name === name))
                for (const widget of widgets) { widget.value = value; widget.callback?.(value) }
                return widgets.length
            }""",
            [node_type, name, value],
        )
        assert changed, f"no {node_type} on the canvas has a widget {name}"

    def press_run(self) -> None:
        self.page.click("[data-testid='queue-button']")

    def screenshot(self, name: str) -> Path:
        """Write output/screenshots/<name>.png for people to look at."""
        path = REPOSITORY / "output" / "screenshots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path

    def _open(self, script: str, workflow: Path) -> None:
        self.page.evaluate(f"async workflow => {{ await ({script})(workflow) }}", json.loads(workflow.read_text()))
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(500)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; use `python3 dev.py test`"
    )
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium or Chrome found; install chromium, or set MIRAGE_BROWSER to one")
    with sync_api.sync_playwright() as playwright:
        options = ["--disable-gpu"] + (["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])
        chromium = playwright.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(params=["classic", "nodes2"])
def frontend(request) -> str:
    return request.param


@pytest.fixture
def canvas(browser, server, client, frontend) -> Iterator[Canvas]:
    """An empty canvas. At its end no script of the page may have failed."""
    settings = {
        # Without these the Templates dialog covers the canvas, and an open side panel swallows clicks.
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": "1.47.12",
        "Comfy.RightSidePanel.IsOpen": False,
        "Comfy.VueNodes.Enabled": frontend == "nodes2",
    }
    client.post("/settings", settings)
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    opened = Canvas(page, server.url)
    yield opened
    errors = opened.errors
    page.close()
    assert errors == []


@pytest.fixture
def history(client: Client):
    """history() -> finished prompts of the server by id."""
    return lambda: client.get("/history")
