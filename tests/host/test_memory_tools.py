"""Inspect, Edit and Merge Memory beside the real host."""

from __future__ import annotations

import types
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mirage_core.latent_origin import LatentOrigin
from mirage_core.memory_edits import everything, locked
from mirage_core.memory_numbers import known_now, latent_frames_of, memory_numbers, segment_of
from mirage_core.rollout import Rollout
from mirage_core.upkeep import resident_bytes
from tests.core.test_scene_files import IMAGE, SIZE, filmed


@pytest.fixture(scope="module")
def nodes(pack):
    return pack("memory_tool_nodes")


@pytest.fixture(scope="module")
def film() -> Rollout:
    return filmed()


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args


def edited(nodes, film, action="forget", **rule):
    return run(nodes.EditMemory, memory=film, action=action, rule=rule)


def test_the_numbers_count_every_point_once(film):
    numbers = memory_numbers(film)
    cells = SIZE[0] * SIZE[1]
    assert numbers.points == 17 * cells and numbers.segments == {0: cells, 1: 8 * cells, 2: 8 * cells}
    assert numbers.bytes["latents"] == numbers.points * 48 * 4 and numbers.confidence == (1.0,) * 5
    assert numbers.low[2] == pytest.approx(3.0) and numbers.high[2] == pytest.approx(3.0)


def test_segments_are_those_of_the_film_and_earlier_films_come_before(film):
    index = torch.tensor([-3, 0, 1, 8, 9, 16])
    assert segment_of(film, index).tolist() == [-1, 0, 1, 1, 2, 2]
    assert latent_frames_of(film, 0, 1) == (0, 8) and latent_frames_of(film, 2, 2) == (9, 16)
    low, high = latent_frames_of(film, -1, 0)
    assert low < -(10**6) and high == 0
    with pytest.raises(ValueError, match="from 2 to 1"):
        latent_frames_of(film, 2, 1)


def test_a_finished_film_of_a_wall_knows_all_of_its_path(film):
    shares = known_now(film)
    assert [len(one) for one in shares] == [9, 8] and min(min(one) for one in shares) > 0.9


@pytest.mark.parametrize("color", ["preview", "age", "confidence", "segment", "locked"])
def test_inspect_shows_a_plan_in_every_colouring(nodes, host, film, color, tmp_path):
    host.folder_paths.set_temp_directory(str(tmp_path))
    some = tuple(one if index == 2 else ~one for index, one in enumerate(everything(film.memory)))
    plan, known, report = run(nodes.InspectMemory, memory=replace(film, memory=locked(film.memory, some)), color=color)
    assert plan.shape == (1, 768, 768, 3) and known.shape[0] == 1
    assert "408 points (latents of 48 channels) in 3 blocks, 192 locked" in report and "MiB: points" in report
    distinct = (plan[0, 40:].reshape(-1, 3) * 255).byte().unique(dim=0)
    assert len(distinct) > 4


def test_an_empty_memory_can_be_inspected(nodes, film):
    bare, _ = edited(nodes, film, rule="everything")
    _, _, report = run(nodes.InspectMemory, memory=bare, color="age")
    assert report.startswith("0 points")


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"rule": "box", "box": "-9 -9 0, 9 9 2.9"}, 408),
        ({"rule": "box", "box": "9 9 3.5  -9 -9 0"}, 0),
        ({"rule": "segments", "first": 1, "last": 1}, 216),
        ({"rule": "segments", "first": -1, "last": 0}, 384),
        ({"rule": "age", "older_than": 0}, 192),
        ({"rule": "age", "older_than": 1}, 384),
        ({"rule": "age", "older_than": 9}, 408),
        ({"rule": "confidence", "below": 0.5}, 408),
        ({"rule": "everything"}, 0),
    ],
)
def test_each_rule_chooses_its_points(nodes, film, rule, left):
    memory, report = edited(nodes, film, **rule)
    assert memory.memory.count == left and film.memory.count == 408
    assert f"{408 - left} of 408 points chosen by {rule['rule']}, {left} are left" in report


def test_a_mask_at_a_frame_chooses_what_shows_there(nodes, film):
    mask = torch.zeros(1, *IMAGE)
    mask[:, :, :48] = 1
    memory, _ = edited(nodes, film, rule="mask", mask=mask, frame=0, behind=False)
    before, after = film.view(film.plan[0]).is_covered[0], replace(film, memory=memory.memory).view(film.plan[0])
    assert before.all() and not after.is_covered[0, :, :2].any() and after.is_covered[0, :, 4:].all()


def test_rules_that_say_nothing_are_refused(nodes, film):
    with pytest.raises(ValueError, match="six numbers"):
        edited(nodes, film, rule="box", box="1 2 3")
    with pytest.raises(ValueError, match="six numbers"):
        edited(nodes, film, rule="box", box="nan " * 6)
    with pytest.raises(ValueError, match="marks nothing"):
        edited(nodes, film, rule="mask", mask=torch.zeros(1, *IMAGE), frame=0, behind=False)
    with pytest.raises(ValueError, match="frame 99; the film has frames 0 to 64"):
        edited(nodes, film, rule="mask", mask=torch.ones(1, *IMAGE), frame=99, behind=False)


def test_locked_points_stay_and_the_report_says_so(nodes, film):
    safe, _ = edited(nodes, film, "lock", rule="segments", first=2, last=2)
    memory, report = edited(nodes, safe, rule="everything")
    assert memory.memory.count == 192 and "192 locked ones stayed" in report
    freed, _ = edited(nodes, memory, "unlock", rule="everything")
    assert edited(nodes, freed, rule="everything")[0].memory.count == 0


def test_forgetting_all_else_keeps_the_choice(nodes, film):
    memory, _ = edited(nodes, film, "forget all else", rule="segments", first=0, last=0)
    assert memory.memory.count == 24


def test_two_forks_of_one_film_merge_in_their_shared_frame(nodes, film):
    first, _ = edited(nodes, film, rule="segments", first=2, last=2)
    second, _ = edited(nodes, film, rule="segments", first=1, last=1)
    merged, report = run(nodes.MergeMemories, memory=first, second=second, placing={"placing": "shared frame"})
    assert merged.memory.count > first.memory.count and merged.cameras is first.cameras
    assert "of its 216 points added" in report and "% of the second lies on the first's surfaces" in report


def test_a_given_offset_moves_the_second(nodes, film):
    placing = {"placing": "given offset", "right": 100.0, "up": 2.0, "forward": 0.0, "pan": 90.0, "tilt": 0.0}
    merged, _ = run(nodes.MergeMemories, memory=film, second=film, placing=placing)
    added = torch.cat([block.points for block in merged.memory.blocks[3:]])
    assert len(added) == 408 and torch.allclose(added[:, 0], torch.tensor(103.0))
    assert added[:, 1].mean() == pytest.approx(-2.0, abs=1e-4)


def test_worlds_that_do_not_fit_are_refused_with_what_is_missing(nodes, film):
    placing = {"placing": "fit surfaces", "with_scale": False, "min_overlap": 0.25}
    placing |= {"right": 0.0, "up": 0.0, "forward": 500.0, "pan": 0.0, "tilt": 0.0}
    with pytest.raises(ValueError, match="The memories do not fit: 0% of the second"):
        run(nodes.MergeMemories, memory=film, second=film, placing=placing)


@pytest.fixture
def told(host, pack, monkeypatch):
    """What the server sends to the browser as a node's progress text: [(text, node id)]."""
    sent = []
    ear = types.SimpleNamespace(send_progress_text=lambda text, node: sent.append((text, node)), client_id=None)
    monkeypatch.setattr(pack("telling").PromptServer, "instance", ear, raising=False)
    return sent


def on_canvas(node, node_id="5"):
    """The node as the host runs it: with its id, as the copy that a loop has made of it."""
    from comfy_api.latest import io
    from comfy_execution.graph import DynamicPrompt

    prompt = DynamicPrompt({node_id: {"class_type": node.__name__}})
    prompt.add_ephemeral_node(f"9.0.0.i1.{node_id}", {"class_type": node.__name__}, "9", node_id)
    hidden = {io.Hidden.unique_id: f"9.0.0.i1.{node_id}", io.Hidden.dynprompt: prompt}
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})


def test_every_report_is_told_on_the_node_of_the_canvas(nodes, pack, host, film, told, tmp_path):
    host.folder_paths.set_temp_directory(str(tmp_path))
    files = pack("memory_file_nodes")
    before = host.folder_paths.get_output_directory()
    host.folder_paths.set_output_directory(str(tmp_path))
    try:
        _, file = run(on_canvas(files.SaveMemory), memory=film, name="world")
        *_, loaded = run(on_canvas(files.LoadMemory), file="world_00001.safetensors", place=-1)
    finally:
        host.folder_paths.set_output_directory(before)
    *_, inspected = run(on_canvas(nodes.InspectMemory), memory=film, color="age")
    *_, forgot = run(on_canvas(nodes.EditMemory), memory=film, action="forget", rule={"rule": "everything"})
    *_, joined = run(on_canvas(nodes.MergeMemories), memory=film, second=film, placing={"placing": "shared frame"})
    assert [node for _, node in told] == ["5"] * 5
    assert told[0][0].startswith(f"{file}: 408 points")
    assert [text for text, _ in told[1:]] == [loaded, inspected, forgot, joined]


def test_inspect_shows_the_plan_and_what_is_known_over_time(nodes, host, film, tmp_path):
    host.folder_paths.set_temp_directory(str(tmp_path))
    with torch.inference_mode():
        shown = nodes.InspectMemory.execute(memory=film, color="age")
    sizes = [Image.open(tmp_path / one["subfolder"] / one["filename"]).size for one in shown.ui["images"]]
    assert sizes == [(one.shape[2], one.shape[1]) for one in shown.args[:2]]


def test_a_merge_stays_within_its_budget_and_says_what_it_forgot(nodes, film):
    placing = {"placing": "given offset", "right": 100.0, "up": 0.0, "forward": 0.0, "pan": 0.0, "tilt": 0.0}
    whole, _ = run(nodes.MergeMemories, memory=film, second=film, placing=placing)
    budget = 0.7 * resident_bytes(whole.memory) / 2**20
    merged, report = run(nodes.MergeMemories, memory=film, second=film, placing=placing, budget_mib=budget)
    assert resident_bytes(merged.memory) <= budget * 2**20
    gone = 816 - merged.memory.count
    assert f"408 of its 408 points added, {gone} forgotten for the budget, {816 - gone} in all" in report


def test_a_merge_of_locked_points_says_that_its_budget_is_not_reached(nodes, film):
    safe, _ = edited(nodes, film, "lock", rule="everything")
    *_, report = run(
        nodes.MergeMemories, memory=safe, second=film, placing={"placing": "shared frame"}, budget_mib=0.01
    )
    assert "408 in all; budget not reached: 408 locked points" in report


def test_a_merge_of_latents_of_two_vaes_warns_and_one_of_the_same_does_not(nodes, film, caplog):
    ours, theirs = (replace(film, origin=LatentOrigin("Wan22", (size,))) for size in (0.1, 0.3))
    placing = {"placing": "shared frame"}
    *_, report = run(nodes.MergeMemories, memory=ours, second=theirs, placing=placing)
    assert "made with different VAEs" in report and "made with different VAEs" in caplog.text
    for second in (ours, film):
        assert "VAE" not in run(nodes.MergeMemories, memory=ours, second=second, placing=placing)[1]
