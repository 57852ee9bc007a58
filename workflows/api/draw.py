"""Draws the API workflows onto the canvas with the real frontend: python workflows/api/draw.py SERVER_URL [NAME ...].

Writes workflows/<name>.json. Needs playwright, Chromium and a running ComfyUI that has this pack. The thumbnails come
from films: python workflows/api/pictures.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path

from build import first_flight, long_flight, mirage_adapter, nano_flight, numbered, second_shot, spatia_weights
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
NOTE = """# {title}

{steps}

{no_depth}Every Mirage node has more help behind its **i** button."""
NO_DEPTH = "**No MoGe file?** Put Simple Depth in its place; inside a loop connect *memory* to it. "
PICTURE_STEPS = """1. **Models** (green): the links of missing files open in the Model panel. Wan2.2 TI2V 5B, its VAE, the umt5 text encoder, a MoGe depth model.
2. **Your picture and the camera** (blue): choose the picture and a move. 33 frames are one segment, each further segment adds 32. Run once, then *Edit path in the scene* shows the path in your picture.
3. **What may be remembered**: run once, then press *Tune the mask* on Dynamic/Sky Mask. Green is remembered; sky (blue), movers (red) and doubts (amber) are not. The sliders change it at once, without running anything.
4. **Run.** Each segment reads the memory, films, and writes what it saw for the first time."""
WORLD_STEPS = """1. **Film long_flight once**: its Save Memory keeps the world as `world_00001`. Press **R**, and choose the newest one in *Yesterday's world*. A GPU is not needed to look at it.
2. **A new path**: *place* says where the camera starts (0 the first picture of the old film, -1 its end). Keep the width and height of the old film.
3. **Edit Memory** forgets here what later looks have contradicted, and what the depth model was unsure of if it tells (Depth Anything 3 does, MoGe does not). To remove a thing, set *rule* to *box* and draw the box in the scene; to leave everything as it is, bypass the node (Ctrl+B).
4. **Inspect Memory** shows the world from above, and how much of the new path is known before you film.
5. **Run.** At the end the world is saved again, with what the new film has seen: `world_00002`."""
NANO_STEPS = """1. **Run.** Nothing has to be downloaded: autoencoder, model, side branch, LoRA and depth model come with the pack, about 20 million numbers in all where Wan2.2 has 5 billion. A CPU is enough.
2. The camera turns away from a made-up room and comes back. Look at *What the memory shows* while it films, and at *The same places twice* in the end.
3. **Another scene**: choose *plaza* in *A world it has never seen*, and write `plaza` in the prompts. These models know nothing but such worlds: with your own picture they make soup. For that, open **long_flight**.
4. **What moves** (the cart, the balloons) is remembered as if it stood still: one picture does not tell. Connect *movers* of the scene to *mover_mask* of the first Scene Evidence, and what the first picture shows of it stays out. The film goes on showing it, and this small model wavers too much for parallax to tell: in films of your own mask every segment, with SAM3 in front of the second Scene Evidence.
5. **How good is it without the memory?** Bypass (Ctrl+B) *Load Mirage Adapter* and write 0 for *strengths* on Segment Loop Start."""
LOOP_NOTE = """# When you stop, or change your mind

**Cancel, crash, power cut:** queue again. Finished segments are reused, and the film goes on at the first one that is missing; Segment Loop End says which. The film in the output folder plays as far as it came.

**Another prompt line, seed or path from segment k on:** only k and what follows is made again.

**A longer film:** raise *segments* on Segment Loop Start, up to the end of the path; only the new ones are made. *length* on Camera Path is another matter: it stretches the move over the whole film, so every segment is made again.

**Another picture, world, model, cfg or mask:** everything is made again, and the old film stays on disk.

**Another film of the same path:** change *seed* on Segment Loop Start. The control under it is *fixed*: a seed that changes by itself would make every run a new film.

Prompts: one line per segment; the last one serves all that follow. The two Write Film nodes have the same settings: the first writes while you wait, the second hands on the finished film."""
HAND_NOTE = """# When you stop, or change your mind

Segments wired by hand are not kept on disk: after a cancel or a restart they are made again, save what ComfyUI's own cache still holds. For longer films open **long_flight**, which goes on where it stopped.

A third segment: copy the nodes of segment 2, connect *memory* to Write Memory of segment 2, and raise *length* on Camera Path by 32."""
Rooms = list[tuple[str, str, list[list[str]]]]


def segment_columns(p: str) -> list[list[str]]:
    return [
        [f"{p}view", f"{p}view_preview"],
        [f"{p}segment"],
        [f"{p}decode", f"{p}frames", f"{p}geometry"],
        [f"{p}evidence", f"{p}mask"],
        [f"{p}write"],
        [f"{p}written", f"{p}film"],
    ]


MODEL_ROOM = ("Models", "#3f5f4a", [["model", "clip", "vae", "depth_file", "depth", "adapter", "negative"]])
START: Rooms = [
    MODEL_ROOM,
    ("First picture and camera", "#3f4f6f", [["image", "path_preview"], ["path"], ["geometry", "evidence"], ["mask"], ["mask_preview", "init"]]),
]  # fmt: skip
WORLD: Rooms = [
    MODEL_ROOM,
    ("Yesterday's world and a new path", "#3f4f6f", [["path"], ["path_preview", "world"], ["edit"], ["inspect"], ["known"]]),
]  # fmt: skip
LOOP = ("One segment, repeated by the loop", "#6f5a3f", [["start", "positive"], *segment_columns("each_"), ["end"]])
FILM = ("Film", "#5f4a6f", [["film", "keep"], ["report", "sheet"], ["coverage"], ["revisit", "score"], ["pairs"]])
ROOMS: dict[str, Rooms] = {
    "first_flight": [
        *START,
        ("Segment 1", "#6f5a3f", [["positive"], *segment_columns("first_")]),
        ("Segment 2", "#6f5a3f", segment_columns("second_")),
        FILM,
    ],
    "second_shot": [*WORLD, LOOP, FILM],
}
ROOMS |= {name: [*START, LOOP, FILM] for name in ("nano_flight", "long_flight", "mirage_adapter", "spatia_weights")}
GRAPHS = {
    "nano_flight": nano_flight,
    "first_flight": first_flight,
    "long_flight": long_flight,
    "second_shot": second_shot,
    "mirage_adapter": mirage_adapter,
    "spatia_weights": spatia_weights,
}
TITLES = {
    "nano_flight": "Nano flight: everything it needs is in the pack",
    "first_flight": "First flight: two segments wired by hand",
    "long_flight": "Long flight: a loop over segments",
    "second_shot": "Second shot: a new path through yesterday's world",
    "mirage_adapter": "Mirage adapter: a trained side branch and LoRA",
    "spatia_weights": "Spatia's public weights: a memory of colours",
}
# Memory by formula (Path Check): weights in 16 bits, and one block's activations at 704x1280, 33 frames.
MORE = {
    "mirage_adapter": """

**Adapter files** go into `models/mirage` (LoRAs also into `models/loras`): the side branch and the LoRA of your own training, or of anyone who publishes them. The released code trains 15 blocks and 96 channels; the loader says what it finds. `cell_rule` is corner, as the released code projects; files of this pack's own trainer want center, and the loader's report says which.

**VRAM, calculated, not measured:** 9.3 GiB model + 4.9 GiB branch of 15 blocks + 0.9 GiB for 13,200 tokens (9 frames, 4 references, 2 preceding) = about 15 GiB in bf16; the host offloads what does not fit.""",
    "spatia_weights": """

**Files:** put Spatia's `control_weight_8500.safetensors` and `lora_weights_10000.safetensors` (CC BY-SA) into `models/mirage`. Spatia remembers colours: `kind` of Init Latent Memory is rgb, each segment renders the coloured points and a hole map and encodes both.

**VRAM, calculated, not measured:** 9.3 GiB model + 2.6 GiB branch of 8 blocks + 1.1 GiB for 15,840 tokens (9 frames, 7 references, 2 preceding) = about 13 GiB in bf16. These weights were not at hand when this was made: the wiring is tested with tiny stand-ins.""",
}
ROWS = [
    ["Models", "First picture and camera", "Yesterday's world and a new path"],
    ["Segment 1", "One segment, repeated by the loop"],
    ["Segment 2"],
    ["Film"],
]

LAY_OUT = """([rooms, rows, models, notes]) => {
  const graph = app.graph, byId = (id) => graph.getNodeById(id);
  // Nodes that grow by the lines they have to say once they have run.
  const speakers = ['LoadAdapter', 'SceneEvidence', 'RevisitScore', 'WriteFilm', 'LoopEnd', 'WriteMemory', 'EditMemory',
    'InspectMemory', 'LoadMemory', 'SaveMemory', 'GenerateSegment'].map((name) => `Mirage${name}`);
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
          if (['PreviewImage', 'SaveImage', 'LoadImage'].includes(node.type)) node.size = [340, 340];
          if (node.type === 'MirageWriteFilm') node.size[1] += 280;  // the film plays on the node
          if (node.type === 'PreviewAny') node.size = [420, 220];
          node.pos = [left + 30, y];
          y += node.size[1] + 70 + (speakers.includes(node.type) ? 90 : 0);
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
  // A new seed makes every segment anew: nothing would be reused after a cancel.
  const widgets = graph.nodes.flatMap((node) => node.widgets ?? []);
  for (const widget of widgets) if (widget.name === 'control_after_generate') widget.value = 'fixed';
  for (const [id, name, directory, url] of models) byId(id).properties.models = [{ name, url, directory }];
  let y = 0;
  for (const [title, height, value] of notes) {
    const text = LiteGraph.createNode('MarkdownNote');
    text.pos = [-620, y]; text.size = [560, height]; text.widgets[0].value = value; text.title = title;
    graph.add(text);
    y += height + 60;
  }
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
    # The splash goes once the frontend has opened a graph of its own, which would replace ours.
    page.wait_for_function("window.app?.graph && !document.querySelector('#splash-loader')", timeout=60000)
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
    is_nano = name == "nano_flight"  # its models come with the pack
    models = [
        [numbers[node], url.rsplit("/", 1)[1], directory, url]
        for node, (directory, url) in ({} if is_nano else MODELS).items()
    ]
    steps = NANO_STEPS if is_nano else WORLD_STEPS if name == "second_shot" else PICTURE_STEPS
    notes = [
        [
            "How to fly",
            620,
            NOTE.format(title=TITLES[name], steps=steps, no_depth="" if is_nano else NO_DEPTH) + MORE.get(name, ""),
        ],
        ["If you stop", 540, HAND_NOTE if name == "first_flight" else LOOP_NOTE],
    ]
    drawn = json.loads(page.evaluate(LAY_OUT, [rooms, ROWS, models, notes]))
    for group in drawn.get("groups", []):
        group.pop("mirageRow", None)
    (WORKFLOWS / f"{name}.json").write_text(json.dumps(drawn, indent=1) + "\n")


def main() -> None:
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in sys.argv[2:] or GRAPHS:
            # A page remembers what was typed into node 36 of the graph before, and gives it to the next node 36.
            page = open_canvas(browser, server)
            draw(page, name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
