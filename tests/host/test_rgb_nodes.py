"""A memory of colours, re-encoding and the colour anchor through the nodes, with stand-in models in the real host."""

from __future__ import annotations

import functools
import types

import pytest
import torch

from training.stand_in.files import DIT_FILE, VAE_FILE, write_demo_models

SIZE = (64, 96)  # height, width in pixels


@pytest.fixture(scope="module")
def bench(host, pack, tmp_path_factory):
    """The nodes, the stand-in VAE and model, and a start picture of coloured stripes."""
    base = tmp_path_factory.mktemp("base")
    write_demo_models(base)
    for folder, file in (("vae", VAE_FILE), ("diffusion_models", DIT_FILE)):
        host.folder_paths.add_model_folder_path(folder, str((base / file).parent))
    picture = torch.full((1, *SIZE, 3), 0.2)
    picture[:, :, :32, 0], picture[:, :, 32:64, 1], picture[:, 32:, 64:, 2] = 0.8, 0.7, 0.9
    made = types.SimpleNamespace(
        camera=pack("camera_nodes").CameraPathNode,
        depth=pack("geometry_nodes").SimpleDepth,
        memory=pack("memory_nodes"),
        generate=pack("segment_nodes").GenerateSegment,
        anchor=pack("drift_nodes").ColorAnchorNode,
        references=pack("branch_patch").reference_latents,
        vae=host.nodes.VAELoader().load_vae(VAE_FILE.rsplit("/", 1)[1])[0],
        model=host.nodes.UNETLoader().load_unet(DIT_FILE.rsplit("/", 1)[1], "default")[0],
        text=run(pack("stand_in_nodes").StandInText, text="a room", width=64)[0],
        picture=picture,
    )

    @functools.cache
    def first_segment(kind):
        memory = started(made, kind)
        return memory, generated(made, memory, projected(made, memory)[0])

    made.first_segment = first_segment
    return made


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def room(bench, images, memory=None):
    shape = {"shape": "room", "width": 5.0, "height": 2.8, "length": 6.0, "camera_height": 1.5, "tilt": 0.0}
    return run(bench.depth, image=images, shape=shape, fov=60.0, memory=memory)[0]


def started(bench, kind="rgb", *, preset="truck_right", amount=0.1, length=65, static_mask=None):
    path = run(
        bench.camera, preset=preset, amount=amount, out_move="truck_right", length=length, speed=1.0, easing="linear",
        fov=60.0, width=SIZE[1], height=SIZE[0], fps=16.0, keyframes="",
    )[0]  # fmt: skip
    return run(
        bench.memory.InitLatentMemory, image=bench.picture, vae=bench.vae, geometry=room(bench, bench.picture),
        path=path, kind=kind, static_mask=static_mask,
    )[0]  # fmt: skip


def projected(bench, memory, **inputs):
    return run(bench.memory.ProjectMemory, memory=memory, vae=bench.vae, **inputs)


def generated(bench, memory, view):
    return run(
        bench.generate, model=bench.model, positive=bench.text, negative=bench.text, view=view, memory=memory, seed=3,
        steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", shift=5.0, strength=1.0, guide_until=1.0,
    )[0]  # fmt: skip


def decoded(bench, segment):
    with torch.inference_mode():
        return bench.vae.decode(segment["samples"])[0]


def written(bench, memory, segment, **inputs):
    images = inputs.pop("images", decoded(bench, segment))
    geometry = room(bench, images, memory)
    return run(
        bench.memory.WriteMemory, memory=memory, segment=segment, geometry=geometry, images=images, vae=bench.vae,
        **inputs,
    )  # fmt: skip


def test_a_still_camera_reads_the_encoded_picture_from_an_rgb_memory(bench):
    memory = started(bench, preset="static")
    view, coverage, pictures = projected(bench, memory)
    assert coverage.mean() > 0.8  # at this size the corners of the room are steps of depth
    covered = view.is_covered.expand_as(view.latents)
    first = memory.latents[0].expand_as(view.latents)
    assert (view.latents - first)[covered].abs().median() < 0.02
    assert pictures.shape == (9, *SIZE, 3)
    assert (pictures[0] - bench.picture[0]).abs().median() < 0.001
    assert view.hole_latents is not None and view.hole_latents.shape == view.latents.shape


def test_an_rgb_memory_flies_two_segments_through_the_same_nodes(bench):
    memory = started(bench)
    for _ in range(2):
        view = projected(bench, memory)[0]
        segment = generated(bench, memory, view)
        before = memory.memory.count
        memory, report = written(bench, memory, segment)[:2]
        assert memory.memory.count > before and "pixels written" in report
    assert memory.is_finished and memory.film.shape[1] == 17
    assert memory.preceding(2)[1].hole_latents.shape[1] == 2


def test_references_are_found_in_an_rgb_memory(bench):
    memory = started(bench, preset="static")
    memory = written(bench, memory, generated(bench, memory, projected(bench, memory)[0]))[0]
    references = bench.references(memory, max_references=4, preceding=2)
    assert references is not None and references.shape[1] >= 1


def test_an_rgb_memory_without_a_vae_says_what_to_connect(bench):
    with pytest.raises(ValueError, match=r"Connect the Wan2\.2 VAE to Project Memory"):
        run(bench.memory.ProjectMemory, memory=started(bench))


def test_an_rgb_memory_is_not_written_without_images(bench):
    memory, segment = bench.first_segment("rgb")
    geometry = room(bench, decoded(bench, segment), memory)
    with pytest.raises(ValueError, match="Connect VAE Decode of the segment to images"):
        run(bench.memory.WriteMemory, memory=memory, segment=segment, geometry=geometry)


def test_images_of_another_size_are_refused(bench):
    memory, segment = bench.first_segment("rgb")
    with pytest.raises(ValueError, match="Connect VAE Decode of the segment, not resized"):
        written(bench, memory, segment, images=torch.zeros(33, 32, 48, 3))


def test_an_rgb_memory_can_be_looked_at_along_another_path(bench):
    memory, other = started(bench), started(bench, preset="pan_left", amount=20)
    path = types.SimpleNamespace(cameras=lambda **_: other.cameras[list(range(33))])
    view, _, pictures = projected(bench, memory, path=path)
    assert view.latents.shape[1] == len(pictures) == 9
    assert view.is_covered[0].sum() > view.is_covered[-1].sum() > 0


def test_latents_are_written_as_they_were_made_unless_asked(bench):
    memory, segment = bench.first_segment("latent")
    plain = written(bench, memory, segment)[0]
    again = written(bench, memory, segment, update="re-encode static regions")[0]
    made = plain.latents[1].flatten(1).T
    assert torch.isin(plain.memory.blocks[1].latents[:, 0], made[:, 0]).all()
    assert not torch.isin(again.memory.blocks[1].latents[:, 0], made[:, 0]).all()
    assert torch.equal(again.latents[1], plain.latents[1]), "the film itself is never re-encoded"


def test_movers_leave_no_trace_in_re_encoded_latents(bench):
    memory, segment = bench.first_segment("latent")
    images, static = decoded(bench, segment).clone(), torch.ones(33, *SIZE)
    static[:, 20:40, 40:60] = 0
    blocks = []
    for color in (0.0, 1.0):
        images[:, 20:40, 40:60] = color
        mover = {"images": images, "static_mask": static, "update": "re-encode static regions"}
        blocks.append(written(bench, memory, segment, **mover)[0].memory.blocks[1])
    assert torch.equal(blocks[0].latents, blocks[1].latents)


def test_re_encoding_without_images_says_what_to_connect(bench):
    memory, segment = bench.first_segment("latent")
    geometry = room(bench, decoded(bench, segment), memory)
    with pytest.raises(ValueError, match=r"Connect the decoded segment to images and the Wan2\.2 VAE to vae"):
        run(
            bench.memory.WriteMemory, memory=memory, segment=segment, geometry=geometry,
            update="re-encode static regions",
        )  # fmt: skip


def test_the_anchor_takes_an_injected_tint_away(bench):
    memory = started(bench, "latent", preset="static")
    segment = generated(bench, memory, projected(bench, memory)[0])
    tinted = {**segment, "samples": segment["samples"].clone()}
    tinted["samples"][:, :, 1:] += 0.1
    anchored, report = run(bench.anchor, segment=tinted, memory=memory, strength=1.0)
    error, before = ((one["samples"] - segment["samples"]).abs().mean() for one in (anchored, tinted))
    assert error < 0.1 * before and "off on average" in report


def test_an_anchor_of_strength_zero_returns_the_segment_itself(bench):
    memory, segment = bench.first_segment("latent")
    assert run(bench.anchor, segment=segment, memory=memory, strength=0.0)[0] is segment
