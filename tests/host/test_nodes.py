"""The nodes called one by one beside the real host, with tiny models of the real architecture."""

from __future__ import annotations

import copy
import types
from dataclasses import replace

import pytest
import torch

from mirage_core.between_cells import between_cells
from mirage_core.memory_edits import everything, locked
from training.stand_in.files import DIT_FILE, VAE_FILE, write_demo_models

SIZE = (64, 96)  # height, width in pixels


@pytest.fixture(scope="module")
def bench(host, pack, tmp_path_factory):
    """The nodes, the stand-in VAE and model, and a start picture with four coloured corners."""
    base = tmp_path_factory.mktemp("base")
    write_demo_models(base)
    host.folder_paths.add_model_folder_path("vae", str((base / VAE_FILE).parent))
    host.folder_paths.add_model_folder_path("diffusion_models", str((base / DIT_FILE).parent))
    vae = host.nodes.VAELoader().load_vae((base / VAE_FILE).name)[0]
    model = host.nodes.UNETLoader().load_unet((base / DIT_FILE).name, "default")[0]
    picture = torch.zeros(1, *SIZE, 3)
    picture[:, :32, :48, 0], picture[:, 32:, :48, 1] = 0.9, 0.8
    picture[:, :32, 48:, 2], picture[:, 32:, 48:] = 0.9, 0.5
    text = run(pack("stand_in_nodes").StandInText, text="a room", width=64)[0]
    return types.SimpleNamespace(
        camera=pack("camera_nodes").CameraPathNode,
        depth=pack("geometry_nodes").SimpleDepth,
        mask=pack("mask_nodes").DynamicSkyMask,
        frames=pack("geometry_nodes").FramesForDepth,
        init=pack("memory_nodes").InitLatentMemory,
        project=pack("memory_nodes").ProjectMemory,
        write=pack("memory_nodes").WriteMemory,
        generate=pack("segment_nodes").GenerateSegment,
        start=pack("loop_nodes").SegmentLoopStart,
        loop=pack("loop_turns"),
        latents=pack("host_latents"),
        film=pack("film_decoding"),
        vae=vae,
        model=model,
        picture=picture,
        text=text,
    )


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def path_of(bench, **changes):
    settings = {
        "preset": "truck_right", "amount": 0.2, "out_move": "truck_right", "length": 9, "speed": 1.0,
        "easing": "linear",
        "fov": 60.0, "width": SIZE[1], "height": SIZE[0], "fps": 16.0, "keyframes": "",
    }  # fmt: skip
    return run(bench.camera, **(settings | changes))[0]


def room(bench, images, memory=None):
    shape = {"shape": "room", "width": 5.0, "height": 2.8, "length": 6.0, "camera_height": 1.5, "tilt": 0.0}
    return run(bench.depth, image=images, shape=shape, fov=60.0, memory=memory)[0]


def started(bench, **changes):
    path = changes.pop("path", None) or path_of(bench)
    image = changes.pop("image", bench.picture)
    geometry = changes.pop("geometry", None) or room(bench, image)
    return run(bench.init, image=image, vae=changes.pop("vae", bench.vae), geometry=geometry, path=path, **changes)[0]


def generated(bench, memory, **changes):
    settings = {
        "model": bench.model, "positive": bench.text, "negative": bench.text,
        "view": changes.pop("view", None) or run(bench.project, memory=memory)[0], "memory": memory, "seed": 3,
        "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "shift": 5.0, "strength": 1.0,
        "guide_until": 1.0,
    }  # fmt: skip
    return run(bench.generate, **(settings | changes))[0]


def test_a_still_camera_sees_the_start_picture_from_memory(bench):
    memory = started(bench, path=path_of(bench, preset="static"))
    view = run(bench.project, memory=memory)[0]
    assert view.is_covered.float().mean() > 0.9
    first = memory.latents[0].expand_as(view.latents)
    covered = view.is_covered.expand_as(view.latents)
    assert torch.equal(view.latents[covered], first[covered])


@pytest.mark.parametrize("even", [True, False], ids=["even", "nearest"])
def test_frames_equal_the_memory_where_it_covers_and_the_model_elsewhere(bench, even):
    memory = started(bench, path=path_of(bench, amount=0.5))
    view = run(bench.project, memory=memory)[0]
    shown = between_cells(view, memory.memory, memory.cameras_of(memory.next_segment)) if even else view

    segment = generated(bench, memory, view=view, even_pull=even)
    normalised = _normalised(segment["samples"])
    new = torch.zeros_like(view.is_covered)
    new[1:] = True
    covered, unknown = view.is_covered & new, ~view.is_covered & new
    assert unknown.any() and covered.any()
    assert (normalised - shown.latents)[:, covered].abs().max() < 1e-3
    assert (normalised - memory.latents[0])[:, unknown].abs().mean() > 0.02


def _normalised(samples):
    import comfy.latent_formats

    return comfy.latent_formats.Wan22().process_in(samples)[0]


def test_strength_zero_ignores_the_memory(bench):
    memory = started(bench)
    pulled, free = generated(bench, memory), generated(bench, memory, strength=0.0)
    assert not torch.allclose(pulled["samples"], free["samples"], atol=1e-2)


def test_the_first_latent_of_a_segment_is_the_last_of_the_film_bit_for_bit(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    assert torch.equal(segment["samples"][:, :, :1], bench.latents.to_host(memory.overlap))


def test_a_segment_ends_on_the_end_image(bench):
    memory = started(bench)
    segment = generated(bench, memory, vae=bench.vae, end_image=bench.picture.flip(2))
    with torch.inference_mode():
        wanted = bench.vae.encode(bench.picture.flip(2))
    assert torch.allclose(segment["samples"][:, :, -1:], wanted, atol=1e-5)


def test_the_callers_sigmas_and_inputs_are_never_changed(bench):
    memory = started(bench)
    before = [latents.clone() for latents in memory.latents], memory.memory.count
    segment = generated(bench, memory, sampler_name="uni_pc")
    run(bench.write, memory=memory, segment=segment, geometry=None)
    assert torch.equal(before[0][0], memory.latents[0]) and before[1] == memory.memory.count


def test_writing_remembers_only_static_cells_of_new_frames(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    frames = torch.rand(3, *SIZE, 3)
    geometry = room(bench, frames, memory)
    everything = run(bench.write, memory=memory, segment=segment, geometry=geometry)[0]
    nothing = run(
        bench.write, memory=memory, segment=segment, geometry=geometry, static_mask=torch.zeros(3, *SIZE)
    )  # fmt: skip
    assert everything.memory.count > memory.memory.count
    assert nothing[0].memory.count == memory.memory.count
    assert nothing[0].segments_done == 1


def test_writing_says_in_numbers_and_colours_what_became_of_every_cell(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    geometry = room(bench, torch.rand(3, *SIZE, 3), memory)
    grown, report, picture = run(bench.write, memory=memory, segment=segment, geometry=geometry)
    for word in ("cells written", "already known", "rejected", "points in all", "MiB"):
        assert word in report
    rows, columns = memory.size
    assert picture.shape == (memory.plan[0].latent_frames, 8 * rows, 8 * columns, 3)
    assert picture[0].amax() < 0.1 < picture[1:].amax()
    assert grown.memory.blocks[-1].latents.dtype == torch.float16
    assert grown.view(memory.plan[0]).latents.dtype == torch.float32


def test_appending_stores_every_cell_and_fusing_what_is_new(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    geometry = room(bench, torch.rand(3, *SIZE, 3), memory)
    given = {"memory": memory, "segment": segment, "geometry": geometry}
    appended = run(bench.write, **given, memory_mode="append")[0].memory.count
    fused = run(bench.write, **given)[0].memory.count
    bounded = run(bench.write, **given, budget_mib=0.001)[0].memory.count
    assert bounded < fused < appended


def test_a_film_knows_its_vae_again_in_another_precision_and_from_other_weights(bench, pack):
    origin_of, known = pack("vae_origin").origin_of, started(bench).origin
    assert known.latent_format == "Wan22" and len(known.vae) == 12
    network = bench.vae.first_stage_model
    halved = types.SimpleNamespace(first_stage_model=copy.deepcopy(network).to(torch.float16))
    assert not origin_of(halved).is_other_than(known)
    grown = types.SimpleNamespace(first_stage_model=copy.deepcopy(network))
    for weight in grown.first_stage_model.parameters():
        weight.data *= 1.5
    assert origin_of(grown).is_other_than(known)
    assert origin_of(None).latent_format == "Wan22" and not origin_of(None).is_other_than(known)


def test_a_budget_that_is_not_kept_is_said(bench):
    memory = started(bench)
    given = {"segment": generated(bench, memory), "geometry": room(bench, torch.rand(3, *SIZE, 3), memory)}
    _, report, _ = run(bench.write, memory=memory, **given, memory_mode="append", budget_mib=0.001)
    assert "budget_mib has no effect with memory_mode append" in report
    safe = replace(memory, memory=locked(memory.memory, everything(memory.memory)))
    _, report, _ = run(bench.write, memory=safe, **given, budget_mib=0.001)
    assert f"budget not reached: {memory.memory.count} locked points" in report
    assert "budget" not in run(bench.write, memory=safe, **given, budget_mib=100.0)[1]


def test_depth_of_another_scale_is_brought_to_that_of_the_memory(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    geometry = room(bench, torch.rand(3, *SIZE, 3), memory)
    true = run(bench.write, memory=memory, segment=segment, geometry=geometry, memory_mode="append")[0].memory.points
    geometry["depth"] = geometry["depth"] * 1.7
    aligned = run(bench.write, memory=memory, segment=segment, geometry=geometry, memory_mode="append")[0].memory.points
    raw = run(bench.write, memory=memory, segment=segment, geometry=geometry, align_depth=False, memory_mode="append")[
        0
    ].memory.points
    assert torch.allclose(aligned, true, rtol=0.03, atol=0.03)
    assert not torch.allclose(raw, true, rtol=0.3)


def test_sky_and_movers_are_masked_and_a_painted_keep_wins(bench):
    geometry = room(bench, bench.picture)
    geometry["mask"] = geometry["mask"].clone()
    geometry["mask"][:, :20] = False
    moving, keep = torch.zeros(1, *SIZE), torch.zeros(1, *SIZE)
    moving[:, 40:, :30], keep[:, :10, :10] = 1, 1
    mask, overlay, cells = run(
        bench.mask, images=bench.picture, geometry=geometry, moving=moving, keep=keep, sky_threshold=0.5,
        drop_unsure=0.0, depth_edge=0.0, grow=0,
    )  # fmt: skip
    assert mask[0, 15, 50] == 0 and mask[0, 50, 10] == 0 and mask[0, 5, 5] == 1 and mask[0, 30, 60] == 1
    assert overlay[0, 15, 50, 2] > overlay[0, 15, 50, 0] and cells.shape == overlay.shape


@pytest.mark.parametrize("seed_mode, seeds", [("fixed", [7, 7, 7]), ("increment", [7, 8, 9])])
def test_seeds_follow_their_mode(bench, seed_mode, seeds):
    assert [bench.loop.seed_of(7, seed_mode, index) for index in range(3)] == seeds


def test_random_seeds_differ_and_repeat(bench):
    seeds = [bench.loop.seed_of(7, "random", index) for index in range(50)]
    assert len(set(seeds)) == 50 and seeds == [bench.loop.seed_of(7, "random", index) for index in range(50)]


def test_each_segment_has_its_line_of_the_prompts(bench):
    prompts = "a door\n\na window"
    assert [bench.loop.prompt_of(prompts, index) for index in range(4)] == ["a door", "a door", "a window", "a window"]


def test_a_loop_goes_on_along_a_new_path_from_where_the_film_is(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    filmed = run(bench.write, memory=memory, segment=segment)[0]
    onward = bench.loop.directed(filmed, path_of(bench, preset="pan_left"))
    assert len(onward.plan) == 2 and onward.segments_done == 1 and len(onward.cameras) == 17
    assert torch.allclose(onward.cameras.cam2world[8], filmed.cameras.cam2world[8])


def with_nan(picture):
    broken = picture.clone()
    broken[0, 0, 0] = torch.nan
    return broken


def test_a_picture_with_nan_is_refused(bench):
    with pytest.raises(ValueError, match="NaN"):
        started(bench, image=with_nan(bench.picture), geometry=room(bench, bench.picture))


def test_a_vae_of_16_channels_is_refused_by_name(bench):
    wan21 = types.SimpleNamespace(encode=lambda image: torch.zeros(1, 16, 1, 8, 12))
    with pytest.raises(ValueError, match=r"16 channels.*48.*Wan2\.2 VAE"):
        started(bench, vae=wan21)


def test_a_depth_without_valid_pixels_is_refused(bench):
    geometry = room(bench, bench.picture)
    geometry["depth"] = torch.full_like(geometry["depth"], torch.inf)
    with pytest.raises(ValueError, match="no valid pixel"):
        started(bench, geometry=geometry)


def test_a_mask_that_excludes_everything_is_refused(bench):
    with pytest.raises(ValueError, match="Nothing of the first picture"):
        started(bench, static_mask=torch.zeros(1, *SIZE))


def test_a_depth_of_another_crop_is_refused(bench):
    geometry = room(bench, torch.zeros(1, 64, 64, 3))
    with pytest.raises(ValueError, match="not the same crop"):
        started(bench, geometry=geometry)


def test_a_depth_without_field_of_view_needs_one_on_the_path(bench):
    geometry = room(bench, bench.picture)
    del geometry["intrinsics"]
    with pytest.raises(ValueError, match="field of view"):
        started(bench, geometry=geometry, path=path_of(bench, fov=0.0))


@pytest.mark.parametrize("changes, words", [
    ({"length": 10}, "4n\\+1"), ({"width": 100}, "multiples of 32"), ({"keyframes": "{}"}, "lacks keyframes"),
    ({"keyframes": "[1"}, "JSON"),
])  # fmt: skip
def test_a_path_that_cannot_be_filmed_is_refused(bench, changes, words):
    with pytest.raises(ValueError, match=words):
        path_of(bench, **changes)


def test_a_path_shorter_than_the_film_is_refused(bench):
    with pytest.raises(ValueError, match="camera path has 1 segments left"):
        bench.loop.count_segments(started(bench), 3)


def test_a_finished_path_cannot_be_filmed_further(bench):
    memory = started(bench)
    finished = run(bench.write, memory=memory, segment=generated(bench, memory))[0]
    with pytest.raises(ValueError, match="All 1 segments of the path are filmed"):
        run(bench.project, memory=finished)


def test_zero_segments_are_refused(bench):
    with pytest.raises(ValueError, match="The loop has 0 segments"):
        bench.loop.loop_turns(0, 1, "fixed", "")


def test_a_view_of_another_memory_is_refused(bench):
    other = started(bench, path=path_of(bench, length=5))
    with pytest.raises(ValueError, match="segment 1/1, Generate Segment: The view has 2 latent frames"):
        generated(bench, started(bench), view=run(bench.project, memory=other)[0])


def test_frames_that_are_not_those_of_the_segment_are_refused(bench):
    memory = started(bench)
    segment = generated(bench, memory)
    with pytest.raises(ValueError, match="Write Memory: There are 2 depth maps"):
        run(bench.write, memory=memory, segment=segment, geometry=room(bench, torch.rand(2, *SIZE, 3)))


def test_a_segment_with_nan_is_refused_and_the_memory_stays(bench):
    memory = started(bench)
    segment = dict(generated(bench, memory))
    segment["samples"] = segment["samples"] * torch.nan
    with pytest.raises(ValueError, match="NaN"):
        run(bench.write, memory=memory, segment=segment)
    assert memory.segments_done == 0


def test_a_model_that_is_not_wan22_ti2v_is_refused(bench):
    other = types.SimpleNamespace(
        model=types.SimpleNamespace(latent_format=types.SimpleNamespace(latent_channels=16))
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"16 latent channels.*Wan2\.2 TI2V"):
        generated(bench, started(bench), model=other)


def test_only_4n_plus_1_frames_can_be_picked_for_depth(bench):
    assert run(bench.frames, images=torch.zeros(33, 4, 4, 3))[0].shape[0] == 9
    with pytest.raises(ValueError, match="4n\\+1"):
        run(bench.frames, images=torch.zeros(32, 4, 4, 3))


def test_a_film_decodes_to_its_number_of_frames_without_ever_being_whole(bench):
    memory = started(bench, path=path_of(bench, length=37))
    for _ in range(2):
        memory = run(bench.write, memory=memory, segment=generated(bench, memory))[0]
    with torch.inference_mode():
        lengths = [len(frames) for frames in bench.film.decoded_pieces(memory, bench.vae)]
    assert lengths == [1, 32, 4]
