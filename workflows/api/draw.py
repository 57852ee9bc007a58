"""Draws the API workflows onto the canvas with the real frontend: python workflows/api/draw.py SERVER_URL.

Writes workflows/<name>.json. Needs playwright, Chromium and a running ComfyUI that has this pack. The thumbnails come
from a film: python workflows/api/pictures.py FILM.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path

from build import first_flight, long_flight, mirage_adapter, numbered, spatia_weights
from playwright.sync_api import sync_playwright

WORKFLOWS = Path(__file__).parents[1]
WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
MOGE = "https://huggingface.co/Comfy-Org/MoGe/resolve/main/geometry_estimation"
MODELS = {
    "model": ("diffusion_models", f"{WAN22}/diffusion_models/wan2.2_ti2v_5B_fp16.safetensors"),
    "clip": ("text_encoders", f"{WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
    "vae": ("vae", f"{WAN22}/vae/wan2.2_vae.safetensors"),
    "depth": ("geometry_estimation", f"{MOGE}/moge_2_vitl_normal_fp16.safetensors"),
}
NOTE = """**{title}**

1. Load the models in the green group (the links of missing files open in the Model panel): Wan2.2 TI2V 5B, its VAE, the umt5 text encoder, a MoGe depth model.
2. Choose your picture and a camera path. 33 frames are one segment, every further segment adds 32.
3. Look at the blue/red overlay of Dynamic/Sky Mask: what keeps its colours will be remembered.
4. Run. Each segment reads the memory, films, and writes what is new. Press Cancel at any time.

No MoGe file? Put Simple Depth in its place. More help: the i button of every Mirage node."""
Rooms = list[tuple[str, str, list[list[str]]]]


def segment_columns(p: str) -> list[list[str]]:
    return [
        [f"{p}view", f"{p}view_preview"],
        [f"{p}segment"],
        [f"{p}decode", f"{p}frames", f"{p}geometry"],
        [f"{p}mask", f"{p}mask_preview"],
        [f"{p}write"],
    ]


START: Rooms = [
    ("Models", "#3f5f4a", [["model", "clip", "vae", "depth", "adapter", "negative"]]),
    ("First picture and camera", "#3f4f6f", [["image", "path"], ["path_preview", "geometry"], ["mask", "mask_preview"], ["init"]]),
]  # fmt: skip
FINISH = ("Film", "#5f4a6f", [["film", "save"], ["report", "sheet"], ["coverage"]])
ROOMS: dict[str, Rooms] = {
    "first_flight": [
        *START,
        ("Segment 1", "#6f5a3f", [["positive"], *segment_columns("first_")]),
        ("Segment 2", "#6f5a3f", segment_columns("second_")),
        FINISH,
    ],
    "long_flight": [
        *START,
        ("One segment, repeated by the loop", "#6f5a3f", [["start", "positive"], *segment_columns("each_"), ["end"]]),
        FINISH,
    ],
}
ROOMS |= {name: ROOMS["long_flight"] for name in ("mirage_adapter", "spatia_weights")}
GRAPHS = {
    "first_flight": first_flight,
    "long_flight": long_flight,
    "mirage_adapter": mirage_adapter,
    "spatia_weights": spatia_weights,
}
TITLES = {
    "first_flight": "First flight: two segments wired by hand",
    "long_flight": "Long flight: a loop over segments",
    "mirage_adapter": "Mirage adapter: a trained side branch and LoRA",
    "spatia_weights": "Spatia's public weights: a memory of colours",
}
# Memory by formula (Path Check): weights in 16 bits, and one block's activations at 704x1280, 33 frames.
MORE = {
    "mirage_adapter": """

**Adapter files** go into `models/mirage` (LoRAs also into `models/loras`): the side branch and the LoRA of your own training, or of anyone who publishes them. The released code trains 15 blocks and 96 channels; the loader says what it finds. `cell_rule` is corner, as the released code projects.

**VRAM, calculated, not measured:** 9.3 GiB model + 4.9 GiB branch of 15 blocks + 0.9 GiB for 13,200 tokens (9 frames, 4 references, 2 preceding) = about 15 GiB in bf16; the host offloads what does not fit.""",
    "spatia_weights": """

**Files:** put Spatia's `control_weight_8500.safetensors` and `lora_weights_10000.safetensors` (CC BY-SA) into `models/mirage`. Spatia remembers colours: `kind` of Init Latent Memory is rgb, each segment renders the coloured points and a hole map and encodes both.

**VRAM, calculated, not measured:** 9.3 GiB model + 2.6 GiB branch of 8 blocks + 1.1 GiB for 15,840 tokens (9 frames, 7 references, 2 preceding) = about 13 GiB in bf16. These weights were not at hand when this was made: the wiring is tested with tiny stand-ins.""",
}
ROWS = [["Models", "First picture and camera"], ["Segment 1", "Segment 2", "One segment, repeated by the loop", "Film"]]

LAY_OUT = """([rooms, rows, models, note]) => {
  const graph = app.graph, byId = (id) => graph.getNodeById(id);
  let top = 0;
  for (const row of rows) {
    let left = 0, bottom = top;
    for (const [title, color, columns] of rooms.filter(([title]) => row.includes(title))) {
      const start = left;
      for (const ids of columns) {
        let y = top + 90, width = 0;
        for (const id of ids) {
          const node = byId(id), size = node.computeSize();
          node.size = [Math.max(size[0], 320), Math.max(size[1], node.size[1] < 2000 ? size[1] : 0)];
          if (['PreviewImage', 'SaveImage', 'LoadImage', 'SaveVideo'].includes(node.type)) node.size = [340, 340];
          node.pos = [left + 30, y];
          y += node.size[1] + 70;
          width = Math.max(width, node.size[0]);
        }
        left += width + 60; bottom = Math.max(bottom, y);
      }
      const group = new LiteGraph.LGraphGroup(title);
      group.color = color; group.pos = [start, top]; group.size = [left - start, 10];
      group.mirageRow = row.join();
      graph.add(group);
      left += 60;
    }
    for (const group of graph._groups.filter((group) => group.mirageRow === row.join())) group.size = [group.size[0], bottom - top];
    top = bottom + 80;
  }
  for (const [id, name, directory, url] of models) byId(id).properties.models = [{ name, url, directory }];
  const text = LiteGraph.createNode('MarkdownNote');
  text.pos = [-520, 0]; text.size = [460, 620]; text.widgets[0].value = note; text.title = 'How to fly';
  graph.add(text);
  return JSON.stringify(graph.serialize());
}"""


def open_canvas(browser, server: str):
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": "1.47.12",
        "Comfy.RightSidePanel.IsOpen": False,
        "Comfy.VueNodes.Enabled": False,
        "Comfy.Workflow.ShowMissingModelsWarning": False,
    }
    request = urllib.request.Request(
        f"{server}/settings", json.dumps(settings).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).read()
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(server)
    page.wait_for_function("window.app && window.app.graph && window.LiteGraph", timeout=60000)
    page.wait_for_timeout(1500)
    return page


def draw(page, name: str) -> None:
    graph = GRAPHS[name]()
    numbers = {node: index + 1 for index, node in enumerate(graph)}
    page.evaluate("async (api) => { await app.loadApiJson(api, 'mirage') }", numbered(graph))
    page.wait_for_timeout(1000)
    rooms = [
        [title, color, [[numbers[n] for n in column if n in numbers] for column in columns]]
        for title, color, columns in ROOMS[name]
    ]
    models = [[numbers[node], url.rsplit("/", 1)[1], directory, url] for node, (directory, url) in MODELS.items()]
    note = NOTE.format(title=TITLES[name]) + MORE.get(name, "")
    drawn = json.loads(page.evaluate(LAY_OUT, [rooms, ROWS, models, note]))
    for group in drawn.get("groups", []):
        group.pop("mirageRow", None)
    (WORKFLOWS / f"{name}.json").write_text(json.dumps(drawn, indent=1) + "\n")


def main() -> None:
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = open_canvas(browser, server)
        for name in GRAPHS:
            draw(page, name)
        browser.close()


if __name__ == "__main__":
    main()
