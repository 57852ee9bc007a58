"""The shipped workflows as code: python workflows/api/build.py writes their API form next to this file.

The canvas form (workflows/*.json) is made from the API form by the real frontend: python workflows/api/draw.py.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
NEGATIVE = "blurry, flicker, morphing walls, people appearing, text, watermark"
PROMPT = "slow smooth camera move through a quiet room, soft daylight, every object stays where it is"


def node(class_type: str, title: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def models() -> dict[str, dict]:
    return {
        "model": node("UNETLoader", "Wan2.2 TI2V 5B", unet_name="wan2.2_ti2v_5B_fp16.safetensors", weight_dtype="default"),
        "clip": node("CLIPLoader", "Text encoder", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan", device="default"),
        "vae": node("VAELoader", "Wan2.2 VAE", vae_name="wan2.2_vae.safetensors"),
        "depth": node("LoadMoGeModel", "Depth model", model_name="moge_2_vitl_normal_fp16.safetensors"),
        "negative": node("CLIPTextEncode", "Negative", text=NEGATIVE, clip=["clip", 0]),
    }  # fmt: skip


def camera_path(out_move: str) -> dict[str, dict]:
    return {
        "path": node(
            "MirageCameraPath", "Camera Path", preset="out_and_back", amount=0.0, out_move=out_move, length=97,
            speed=1.0, easing="ease", fov=0.0, width=1280, height=704, fps=16.0, keyframes="",
        ),
        "path_preview": node("PreviewImage", "Path from above", images=["path", 1]),
    }  # fmt: skip


def start() -> dict[str, dict]:
    return {
        "image": node("LoadImage", "Your picture", image="example.png"),
        **camera_path("truck_right"),
        "geometry": moge(["image", 0]),
        "mask": mask(["image", 0], ["evidence", 0]),
        "mask_preview": node("PreviewImage", "What may be remembered", images=["mask", 1]),
        "init": node(
            "MirageInitLatentMemory", "Init Latent Memory", image=["image", 0], vae=["vae", 0], geometry=["geometry", 0],
            path=["path", 0], static_mask=["mask", 0], cell_rule="center", kind="latent",
        ),
        "evidence": node("MirageSceneEvidence", "Scene Evidence", images=["image", 0], geometry=["geometry", 0]),
    }  # fmt: skip


def moge(images: list) -> dict:
    return node(
        "MoGeInference", "Depth", moge_model=["depth", 0], image=images, resolution_level=9, fov_x_degrees=0.0,
        batch_size=4, force_projection=True, apply_mask=True,
    )  # fmt: skip


def mask(images: list, evidence: list) -> dict:
    return node(
        "MirageDynamicSkyMask", "Dynamic/Sky Mask", images=images, evidence=evidence, sky_threshold=0.5,
        drop_unsure=0.0, depth_edge=0.0, grow=4,
    )  # fmt: skip


def write_film(memory: list) -> dict:
    return node(
        "MirageWriteFilm", "Write Film", memory=memory, vae=["vae", 0], filename_prefix="mirage/film", format="mp4",
        codec="auto", crf=16,
    )  # fmt: skip


def segment(prefix: str, memory: list, positive: list, seed, strength=1.0) -> dict[str, dict]:
    """The nodes of one segment; the last is Write Memory."""
    p = prefix
    return {
        f"{p}view": node("MirageProjectMemory", "Project Memory", memory=memory, vae=["vae", 0]),
        f"{p}view_preview": node("PreviewImage", "What the memory shows", images=[f"{p}view", 2]),
        f"{p}segment": node(
            "MirageGenerateSegment", "Generate Segment", model=["model", 0], positive=positive, negative=["negative", 0],
            view=[f"{p}view", 0], memory=memory, seed=seed, steps=20, cfg=5.0, sampler_name="mirage_unipc", scheduler="mirage",
            shift=5.0, strength=strength, guide_until=0.7,
        ),
        f"{p}decode": node("VAEDecode", "Decode segment", samples=[f"{p}segment", 0], vae=["vae", 0]),
        f"{p}frames": node("MirageFramesForDepth", "Frames for Depth", images=[f"{p}decode", 0]),
        f"{p}geometry": moge([f"{p}frames", 0]),
        f"{p}evidence": node(
            "MirageSceneEvidence", "Scene Evidence", images=[f"{p}frames", 0], geometry=[f"{p}geometry", 0],
            memory=memory, view=[f"{p}view", 0], segment=[f"{p}segment", 0],
        ),
        f"{p}mask": mask([f"{p}frames", 0], [f"{p}evidence", 0]),
        f"{p}write": node(
            "MirageWriteMemory", "Write Memory", memory=memory, segment=[f"{p}segment", 0], geometry=[f"{p}geometry", 0],
            static_mask=[f"{p}mask", 0], align_depth=True, images=[f"{p}decode", 0], vae=["vae", 0], update="latents",
        ),
        f"{p}written": node("PreviewImage", "What was written", images=[f"{p}write", 2]),
    }  # fmt: skip


def loop(memory: list) -> dict[str, dict]:
    """One segment on the canvas, done once per segment of the film, which grows on disk meanwhile."""
    return {
        "start": node(
            "MirageLoopStart", "Segment Loop Start", memory=memory, segments=0, seed=1, seed_mode="increment",
            prompts=PROMPT, strengths="1",
        ),
        "positive": node("CLIPTextEncode", "Prompt of this segment", text=["start", 2], clip=["clip", 0]),
        **segment("each_", ["start", 1], ["positive", 0], ["start", 3], ["start", 5]),
        "each_film": write_film(["each_write", 0]),
        "end": node("MirageLoopEnd", "Segment Loop End", loop=["start", 0], memory=["each_write", 0]),
    }  # fmt: skip


def finish(memory: list) -> dict[str, dict]:
    return {
        "film": write_film(memory),
        "report": node("MirageFilmReport", "Film Report", memory=memory, video=["film", 1], pictures=12),
        "sheet": node("SaveImage", "Contact sheet", images=["report", 0], filename_prefix="mirage/contact_sheet"),
        "coverage": node("SaveImage", "Known from memory", images=["report", 1], filename_prefix="mirage/coverage"),
        "revisit": node("MirageRevisitScore", "Revisit Score", memory=memory, video=["film", 1], pictures=4),
        "pairs": node("SaveImage", "The same places twice", images=["revisit", 1], filename_prefix="mirage/revisit"),
        "score": node("PreviewAny", "The score in words", source=["revisit", 0]),
    }  # fmt: skip


def save_memory(memory: list) -> dict[str, dict]:
    return {"keep": node("MirageSaveMemory", "Save Memory", memory=memory, name="world")}


def first_flight() -> dict[str, dict]:
    """Two segments wired by hand, so that every step can be seen and rewired."""
    graph = models() | start()
    graph["path"]["inputs"]["length"] = 65
    graph["positive"] = node("CLIPTextEncode", "Prompt", text=PROMPT, clip=["clip", 0])
    graph |= segment("first_", ["init", 0], ["positive", 0], 1)
    graph |= segment("second_", ["first_write", 0], ["positive", 0], 2)
    return graph | finish(["second_write", 0])


def loop_flight() -> dict[str, dict]:
    """The same segment once on the canvas, repeated by the loop."""
    return models() | start() | loop(["init", 0]) | finish(["end", 0])


def long_flight() -> dict[str, dict]:
    """The loop, and its memory kept for another day."""
    return loop_flight() | save_memory(["end", 0])


def second_shot() -> dict[str, dict]:
    """Another camera path through the world that long_flight has kept."""
    world = {
        **camera_path("dolly_in"),
        "world": node("MirageLoadMemory", "Yesterday's world", file="world_00001.safetensors", place=-1, path=["path", 0]),
        "edit": node(
            "MirageEditMemory", "Edit Memory", memory=["world", 0], action="forget", rule="confidence", **{"rule.below": 0.1}
        ),
        "inspect": node("MirageInspectMemory", "Inspect Memory", memory=["edit", 0], color="preview"),
        "known": node("PreviewImage", "What the path will find known", images=["inspect", 1]),
    }  # fmt: skip
    return models() | world | loop(["edit", 0]) | finish(["end", 0]) | save_memory(["end", 0])


def with_adapter(graph: dict[str, dict], branch: str, lora: str, layout: str, **settings) -> dict[str, dict]:
    """The workflow with a trained side branch and LoRA, sampled as they were released."""
    loader = node(
        "MirageLoadAdapter", "Load Mirage Adapter", side_branch=branch, lora=lora, lora_strength=1.0, channel_layout=layout
    )  # fmt: skip
    # After the models, so that numbers on the canvas follow the reading order.
    graph = {name: one for name, one in graph.items() if name in models()} | {"adapter": loader} | graph
    graph["init"]["inputs"]["cell_rule"] = "corner"  # what weights of the released code have seen
    for one in graph.values():
        if one["class_type"] == "MirageGenerateSegment":
            one["inputs"] |= {"adapter": ["adapter", 0], "vae": ["vae", 0]} | settings
    return graph


def mirage_adapter() -> dict[str, dict]:
    return with_adapter(
        loop_flight(), "mirage_side_branch.safetensors", "mirage_lora.safetensors", "from the file", cfg=1.0, steps=20
    )


def spatia_weights() -> dict[str, dict]:
    """Spatia's public weights remember colours, not latents, and read a rendered hole map beside the view."""
    graph = with_adapter(
        loop_flight(), "control_weight_8500.safetensors", "lora_weights_10000.safetensors", "view + hole map (96)",
        cfg=3.5, steps=40, references=7,
    )  # fmt: skip
    graph["init"]["inputs"] |= {"kind": "rgb", "cell_rule": "center"}
    return graph


def stand_in(graph: dict[str, dict]) -> dict[str, dict]:
    """The same workflow for a machine without model files: tiny stand-in models, a room box instead of a depth model."""
    graph = {name: one for name, one in graph.items() if name not in ("clip", "depth")}
    graph["model"]["inputs"]["unet_name"] = "mirage_stand_in_dit.safetensors"
    graph["vae"]["inputs"]["vae_name"] = "mirage_stand_in_vae.safetensors"
    graph["path"]["inputs"] |= {"width": 768, "height": 448}
    for name, one in graph.items():
        inputs = one["inputs"]
        if one["class_type"] == "CLIPTextEncode":
            graph[name] = node("MirageStandInText", one["_meta"]["title"], text=inputs["text"], width=64)
        elif one["class_type"] == "MoGeInference":
            graph[name] = simple_depth(inputs["image"], graph, name)
        elif one["class_type"] == "MirageSceneEvidence":
            # The room box is exact, so nothing in it is in doubt; and in a film that is grey where it is new there is
            # no texture by which to tell what moves: the search for it took 60 % of a 50 s sample of a busy demo.
            graph[name] = one | {"inputs": {"images": inputs["images"]}}
        elif one["class_type"] == "MirageGenerateSegment":
            inputs |= {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "guide_until": 1.0}
    return graph


def nano_flight() -> dict[str, dict]:
    """The loop with the small trained models that come with the pack: a real remembered world, on any machine."""
    graph = loop_flight()
    graph["model"] = node("UNETLoader", "Nano base", unet_name="mirage_nano_base.safetensors", weight_dtype="default")
    graph["vae"] = node("VAELoader", "Nano VAE", vae_name="mirage_nano_vae.safetensors")
    loader = node("LoadMoGeModel", "Nano depth model", model_name="mirage_nano_depth.safetensors")
    graph["depth"] = node("MirageFullPrecisionDepthModel", "For CPUs", moge_model=["depth_file", 0])
    graph = {"depth_file": loader} | graph
    del graph["clip"]
    graph = with_adapter(
        graph, "mirage_nano_side_branch.safetensors", "mirage_nano_lora.safetensors", "from the file",
        steps=8, cfg=1.0, sampler_name="euler", scheduler="simple", guide_until=1.0, pull=0.9,
    )  # fmt: skip
    graph["init"]["inputs"]["cell_rule"] = "center"
    graph["image"] = node("MirageExampleScene", "A world it has never seen", scene="room")
    # The scene's own field of view: a guess from few pixels would bend the whole world.
    graph["path"]["inputs"] |= {
        "width": 192,
        "height": 192,
        "fov": ["image", 4],
        "out_move": "pan_right",
        "amount": 45.0,
    }
    for name, one in graph.items():
        if one["class_type"] == "CLIPTextEncode":
            words = one["inputs"]["text"] if name == "positive" else ""
            graph[name] = node(
                "MirageNanoSceneWords", one["_meta"]["title"], model_name="mirage_nano_base.safetensors", words=words
            )
        elif one["class_type"] == "MoGeInference":
            # The file was trained at the host's lowest resolution; higher ones take longer and are no better.
            one["inputs"] |= {"fov_x_degrees": ["image", 4], "resolution_level": 0}
    graph["start"]["inputs"]["prompts"] = "room"
    return graph


def simple_depth(images: list, graph: dict[str, dict], name: str) -> dict:
    depth = node(
        "MirageSimpleDepth", "Simple Depth", image=images, shape="room", fov=60.0,
        **{"shape.width": 5.0, "shape.height": 2.8, "shape.length": 6.0, "shape.camera_height": 1.5, "shape.tilt": 0.0},
    )  # fmt: skip
    view = name.replace("geometry", "view")
    if view in graph:  # inside a segment: the room stands still while the camera moves
        depth["inputs"]["memory"] = graph[view]["inputs"]["memory"]
    return depth


def numbered(graph: dict[str, dict]) -> dict[str, dict]:
    """Node names become the numbers that the host's canvas uses."""
    numbers = {name: str(index + 1) for index, name in enumerate(graph)}

    def moved(value):
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    return {
        numbers[name]: one | {"inputs": {key: moved(value) for key, value in one["inputs"].items()}}
        for name, one in graph.items()
    }


WORKFLOWS = {
    "first_flight": first_flight,
    "long_flight": long_flight,
    "second_shot": second_shot,
    "mirage_adapter": mirage_adapter,
    "spatia_weights": spatia_weights,
    "nano_flight": nano_flight,
    "stand_in_first_flight": lambda: stand_in(first_flight()),
    "stand_in_long_flight": lambda: stand_in(long_flight()),
    "stand_in_second_shot": lambda: stand_in(second_shot()),
}


def main() -> None:
    for name, make in WORKFLOWS.items():
        (HERE / f"{name}.json").write_text(json.dumps(numbered(make()), indent=2) + "\n")


if __name__ == "__main__":
    main()
