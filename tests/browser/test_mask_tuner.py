"""The mask tuner in the real frontend: a slider changes the overlay at once, and the run uses what was left."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

MASK, SIZE, FRAMES = "20", (352, 640), 9
TUNER = "[...document.querySelectorAll('div')].find(one => one.maskTuner)?.maskTuner"


def prompt(**mask_inputs) -> dict:
    """A room, 9 times the same frame: its upper part is 60 % sky, a square of it 60 % a mover."""

    def solid(value: float, width: int, height: int) -> dict:
        return {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}

    def pasted(source: str, x: int, y: int) -> dict:
        inputs = {"destination": ["3", 0], "source": [source, 0], "x": x, "y": y, "operation": "add"}
        return {"class_type": "MaskComposite", "inputs": inputs}

    height, width = SIZE
    scale = {"image": ["1", 0], "upscale_method": "area", "width": width, "height": height, "crop": "center"}
    evidence = {"images": ["9", 0], "sky_mask": ["5", 0], "mover_mask": ["7", 0]}
    old = {"sky_threshold": 0.5, "drop_unsure": 0.0, "depth_edge": 0.0, "grow": 4}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mirage_room.jpg"}},
        "2": {"class_type": "ImageScale", "inputs": scale},
        "3": solid(0.0, width, height),
        "4": solid(0.6, width, 100),
        "5": pasted("4", 0, 0),
        "6": solid(0.6, 120, 120),
        "7": pasted("6", 300, 160),
        "9": {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": FRAMES}},
        "10": {"class_type": "MirageSceneEvidence", "inputs": evidence},
        MASK: {
            "class_type": "MirageDynamicSkyMask",
            "inputs": {"images": ["9", 0], "evidence": ["10", 0]} | old | mask_inputs,
        },
        "21": {"class_type": "PreviewImage", "inputs": {"images": [MASK, 1]}},
        "22": {"class_type": "PreviewImage", "inputs": {"images": [MASK, 2]}},
    }


class Tuner:
    """The one open mask tuner of a page."""

    def __init__(self, canvas) -> None:
        self.canvas, self.page = canvas, canvas.page

    def open(self) -> None:
        self.page.click(".mirage-mask-door")
        self.page.wait_for_function(f"{TUNER}?.described")

    def part(self, selector: str):
        return self.page.locator(f".mirage-mask-tuner {selector}")

    def wait(self, frame: int | None = None) -> None:
        """Until the overlay shown answers the newest question."""
        shown = "" if frame is None else f" && tuner.parts.image.dataset.frame === '{frame}'"
        self.page.wait_for_function(
            f"() => {{ const tuner = {TUNER}; return tuner?.parts.image.complete && tuner.parts.image.naturalWidth"
            f" && !tuner.ask.isBusy(){shown} }}"
        )

    def slide(self, setting: str, value: float) -> None:
        if setting.startswith("weights."):
            self.part("details").evaluate("one => { one.open = true }")
        self.part(f".slider[data-setting='{setting}']").fill(str(value))
        self.wait()

    @property
    def shares(self) -> dict[str, float]:
        return json.loads(self.part(".overlay").get_attribute("data-shares"))

    def picture(self) -> np.ndarray:
        """The pixels that the page shows, uint8 [height width 3]."""
        data = self.part(".overlay").evaluate(
            """image => {
                const canvas = document.createElement('canvas')
                ;[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight]
                canvas.getContext('2d').drawImage(image, 0, 0)
                return canvas.toDataURL('image/png').split(',')[1]
            }"""
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


@pytest.fixture
def tuner(canvas, client) -> Tuner:
    client.run(prompt())
    canvas.page.evaluate("async prompt => { await app.loadApiJson(prompt, 'mask.json') }", prompt())
    canvas.page.evaluate(
        """() => {
            const node = app.graph.nodes.find(one => one.type === 'MirageDynamicSkyMask')
            node.pos = [4000, 100]
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [-node.pos[0] + 420, -node.pos[1] + 60]
            app.canvas.setDirty(true, true)
        }"""
    )
    canvas.page.wait_for_timeout(400)
    opened = Tuner(canvas)
    opened.open()
    return opened


def is_red(color: np.ndarray) -> bool:
    return color[0] > color[1] + 30 and color[0] > color[2] + 30


def test_a_slider_changes_the_overlay_at_once_and_the_prompt(tuner, client, frontend) -> None:
    tuner.wait()
    before = tuner.picture()
    assert before.shape == (*SIZE, 3)
    assert is_red(before[220, 360]), "the mover is not red"
    assert before[40, 320, 2] > before[40, 320, 0] + 30, "the sky is not blue"
    assert tuner.shares["moving"] == pytest.approx((128 * 128) / (352 * 640), rel=0.02)  # 120 and 4 grown around it
    tuner.canvas.screenshot(f"mask_tuner_{frontend}")

    tuner.slide("moving_threshold", 0.7)
    after = tuner.picture()
    assert tuner.shares["moving"] == 0 and not is_red(after[220, 360])
    assert np.abs(before - after)[160:280, 300:420].mean() > 20
    assert np.abs(before - after)[300:, :280].mean() < 1

    tuner.slide("weights.sky_mask", 0)
    assert tuner.shares["sky"] == 0 and tuner.shares["written"] == 1
    tuning = tuner.canvas.prompt()[MASK]["inputs"]["tuning"]
    assert tuning["moving_threshold"] == 0.7 and tuning["weights"]["sky_mask"] == 0
    assert tuner.page.evaluate(f"{TUNER}.told.frames") == FRAMES
    run = client.run(prompt(tuning=tuning))
    assert "written 100.0%" in str(run.outputs[MASK])


def test_frames_are_scrubbed_and_cells_shown(tuner, frontend) -> None:
    tuner.wait()
    tuner.part(".scrub").fill("5")
    tuner.wait(frame=5)
    tuner.part(".view").click()
    tuner.wait(frame=5)
    tuner.page.wait_for_function(f"{TUNER}.parts.view.getAttribute('aria-pressed') === 'true'")
    cells = tuner.shares
    # 120 pixels are 7.5 cells, and the VAE reaches one farther on each side.
    assert cells["moving"] >= 9 * 9 / (22 * 40)
    tuner.canvas.screenshot(f"mask_tuner_cells_{frontend}")


def test_a_scene_preset_is_saved_in_the_users_folder_and_chosen_again(tuner, base_directory, frontend) -> None:
    tuner.wait()
    tuner.slide("grow", 20)
    name = f"Market ({frontend})"
    tuner.part(".name").fill(name)
    tuner.part(".save").click()
    tuner.page.wait_for_function(f"{TUNER}.parts.status.textContent.startsWith('Saved')")
    saved = next((base_directory / "user").rglob(f"mask_presets/{name}.json"))
    assert json.loads(saved.read_text())["grow"] == 20

    tuner.part(".preset").select_option("balanced")
    tuner.wait()
    assert tuner.canvas.prompt()[MASK]["inputs"]["tuning"]["grow"] == 4
    tuner.part(".preset").select_option(f"own:{name}")  # read from the server first, then applied
    tuner.page.wait_for_function(
        "async id => (await app.graphToPrompt()).output[id].inputs.tuning.grow === 20", arg=MASK
    )


def test_the_tuning_is_saved_with_the_workflow(tuner, frontend) -> None:
    tuner.wait()
    tuner.slide("hold", 3)
    tuner.page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()) }")
    tuner.page.wait_for_timeout(300)
    assert tuner.canvas.prompt()[MASK]["inputs"]["tuning"]["hold"] == 3
