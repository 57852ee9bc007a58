"""Adapters in training: what the examples hold, both stages, a run cut off, the files they leave, a whole flight."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from mirage_core.branch_files import branch_file
from mirage_core.lora_files import lora_file
from tests.training.flights import CELLS, film, frames
from training import adapter as adapter_command
from training import adapter_predictions
from training.adapter import held_out_batches, held_out_loss, train, usable
from training.adapter_crew import Crew
from training.adapter_examples import Recipe, batch_of, example_of
from training.adapter_files import load_branch, load_lora, save_branch, save_lora
from training.adapter_flight import Pilot, Way, fly
from training.adapter_model import AdapterOptions, adapter_of, camera_range
from training.adapter_plan import plan
from training.adapter_predictions import predict
from training.clip_pool import write_clip
from training.contexts import read_contexts
from training.film_sources import add_film_arguments, films_of
from training.nano import Nano, NanoOptions, save_base
from training.nano_films import Codec, FilmShelf
from training.notes import note_of
from training.run import Run, Training
from training.stand_in.vae import stand_in_vae
from training.wan import Wan, WanSizes, initialised
from training.wan_memory import Lora, SideBranch
from training.worlds.export import export_film

SIZES = WanSizes(dim=64, ffn_dim=128, heads=2, layers=2, text_dim=16)
PURE = Recipe(
    view_loss=0, hole_rate=0, empty_rate=0, model_rate=0, turn_degrees=0, shift=0, depth_noise=0, scale_noise=0,
    text_loss=0, fused_rate=0,
)  # fmt: skip
OPTIONS = AdapterOptions(stride=1, rank=4, batch=4, rate=3e-3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads on so little work only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A nano base whose head is not zero, so that its branch has something to learn through."""
    path = tmp_path_factory.mktemp("base") / "nano_base.safetensors"
    nano = Nano(NanoOptions(SIZES))
    torch.nn.init.normal_(nano.model.head.head.weight, std=0.1)
    save_base(path, nano.state_dict(), nano, {})
    return path


def started(base: Path, folder: Path, options: AdapterOptions, *, steps: int):
    adapter = adapter_of(base, options, CPU, None)
    return adapter, Training(adapter, Run(folder, 10, CPU, steps), rate=options.rate, warmup=3)


def fixed_loss(adapter) -> float:
    batch = batch_of([film()], Random("fixed"), PURE, size=4)
    with torch.no_grad():
        return float(adapter.loss(batch, torch.Generator().manual_seed(0), device=CPU))


def test_a_batch_has_equally_many_references_and_preceding_frames():
    seen = set()
    shown = film()
    for seed in range(24):
        batch = batch_of([shown], Random(seed), Recipe(), size=1)
        counts = [0 if one is None else one.shape[2] for one in (batch.references, batch.preceding)]
        seen.add(tuple(counts))
        assert batch.target.shape == (1, 48, 9, *CELLS)
        assert batch.context.shape == (1, 49, 9 + counts[1], *CELLS)
        assert counts[0] <= 4 and counts[1] <= 2
    assert {references for references, _ in seen} == {0, 1, 2, 3, 4} and {one for _, one in seen} == {0, 1, 2}


def test_the_memory_shows_the_overlap_frame_as_it_is():
    only_overlap = replace(PURE, view_loss=1)
    example = example_of(film(), Random(3), only_overlap, references=2, preceding=0)
    is_covered = example.context[48] == 0
    assert is_covered[0].all(), "every cell of the overlap frame is in the memory"
    assert torch.equal(example.context[:48, 0], example.target[:, 0])


def test_at_the_start_only_the_first_frame_is_remembered():
    start = next(
        one
        for seed in range(20)
        if torch.equal((one := example_of(film(), Random(seed), PURE, references=0, preceding=0)).target,
                       film().latents[:, :9])
    )  # fmt: skip
    first = {tuple(cell.tolist()) for cell in film().latents[:, 0].flatten(1).T}
    shown = start.context[:48].flatten(1).T[(start.context[48] == 0).flatten()]
    assert {tuple(cell.tolist()) for cell in shown} <= first


def test_what_moves_is_never_shown():
    moving = film()
    moving.is_static[:, :2] = False
    hidden = {tuple(cell.tolist()) for cell in moving.latents[:, :, :2].flatten(1).T}
    example = example_of(moving, Random(1), PURE, references=0, preceding=2)
    shown = {tuple(cell.tolist()) for cell in example.context[:48].flatten(1).T}
    assert not shown & hidden
    kept = example_of(moving, Random(1), replace(PURE, static_rate=0), references=0, preceding=2)
    assert {tuple(cell.tolist()) for cell in kept.context[:48].flatten(1).T} & hidden


def test_the_same_random_numbers_give_the_same_example():
    one, other = (batch_of([film()], Random(5), Recipe(), size=2) for _ in range(2))
    assert torch.equal(one.context, other.context) and torch.equal(one.target, other.target)


def test_dropped_holes_and_lost_views_only_take_away():
    whole = example_of(film(), Random(2), PURE, references=0, preceding=1)
    worn = example_of(film(), Random(2), replace(PURE, hole_rate=1), references=0, preceding=1)
    assert (worn.context[48] == 1).sum() > (whole.context[48] == 1).sum()


def test_a_fused_memory_shows_the_same_places():
    appended, written_once = (
        example_of(film(), Random(4), replace(PURE, fused_rate=rate), references=1, preceding=2).context[48] == 0
        for rate in (0, 1)
    )
    assert (appended == written_once).float().mean() > 0.9


def test_a_film_too_short_for_its_company_is_refused():
    with pytest.raises(ValueError, match="longer films"):
        example_of(film(33), Random(0), PURE, references=4, preceding=2)
    with pytest.raises(ValueError, match="clip_pool"):
        usable([film(33)], Recipe())


def test_the_branch_learns_and_a_run_that_was_cut_off_goes_on(base, tmp_path):
    adapter, training = started(base, tmp_path, OPTIONS, steps=10)
    before = fixed_loss(adapter)
    train(adapter, [film()], replace_steps(training, 5))
    adapter, training = started(base, tmp_path, OPTIONS, steps=10)
    assert training.run.step == 5
    train(adapter, [film()], training)
    assert training.run.step == 10 and fixed_loss(adapter) < before
    save_branch(tmp_path / "branch.safetensors", adapter.branch.state_dict(), adapter.stated([film()]), {})
    found = branch_file(tmp_path / "branch.safetensors")
    assert found.layout == "hole_mask" and found.cell_rule == "center" and found.layers(64, 2) == (0, 1)
    assert found.stated.resolution == (64, 64)


class Handlers(Dataset):
    """What SIGINT does in the process that reads it."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_ctrl_c_for_the_trainer_leaves_its_workers_alive():
    loader = DataLoader(Handlers(), batch_size=None, num_workers=1, worker_init_fn=adapter_command.left_to_the_trainer)
    assert list(loader) == [True]


def test_the_file_states_the_fastest_move_of_the_training():
    turn_degrees, speed = camera_range([film()])
    assert turn_degrees == pytest.approx(50 / 48, rel=1e-3), "out and back over 97 frames"
    assert speed == 0


def replace_steps(training: Training, steps: int) -> Training:
    training.run.steps = steps
    return training


def test_the_lora_learns_beside_a_branch_that_stays(base, tmp_path):
    adapter, _ = started(base, tmp_path / "branch", OPTIONS, steps=1)
    torch.nn.init.normal_(adapter.branch.vace_blocks[0].after_proj.weight, std=0.05)
    save_branch(tmp_path / "branch.safetensors", adapter.branch.state_dict(), adapter.stated([film()]), {})
    adapter, training = started(base, tmp_path / "lora", replace(OPTIONS, stage="lora"), steps=8)
    adapter.use(load_branch(tmp_path / "branch.safetensors", SIZES))
    before, branch = fixed_loss(adapter), {name: one.clone() for name, one in adapter.branch.state_dict().items()}
    train(adapter, [film()], training)
    assert fixed_loss(adapter) < before
    assert all(torch.equal(one, branch[name]) for name, one in adapter.branch.state_dict().items())
    save_lora(tmp_path / "lora.safetensors", adapter.lora, {})
    found = lora_file(tmp_path / "lora.safetensors")
    assert found.width == 64 and found.ranks == (4,) and found.strength == 1
    read = load_lora(tmp_path / "lora.safetensors", adapter.frozen[0].model)
    assert torch.allclose(read.up[0], adapter.lora.up[0], atol=1e-3)


def test_a_real_bases_file_is_trained_with_a_text_of_its_own(tmp_path):
    model = Wan(SIZES)
    initialised(model, seed=0)
    torch.nn.init.normal_(model.head.head.weight, std=0.1)
    save_file(
        {name: one.bfloat16() for name, one in model.state_dict().items()}, tmp_path / "wan.safetensors",
        {"config": json.dumps({"transformer": {"num_heads": 2}})},
    )  # fmt: skip
    with pytest.raises(ValueError, match="CLIP Text Encode"):
        adapter_of(tmp_path / "wan.safetensors", OPTIONS, CPU, None)
    save_file({"context": torch.randn(7, 16)}, tmp_path / "text.safetensors")
    options = replace(OPTIONS, is_checkpointed=True)
    adapter = adapter_of(tmp_path / "wan.safetensors", options, CPU, tmp_path / "text.safetensors")
    training = Training(adapter, Run(tmp_path / "run", 10, CPU, 6), rate=OPTIONS.rate, warmup=3)
    before = fixed_loss(adapter)
    train(adapter, [film()], training)
    assert fixed_loss(adapter) < before
    assert not any(name.startswith("model.model.") for name in load_file(training.checkpoint))


def test_own_clips_are_told_the_text_and_some_examples_the_empty_one(base, tmp_path):
    own = replace(film(), words=())
    context, empty = torch.randn(7, 16), torch.randn(3, 16)
    save_file({"context": context, "empty": empty}, tmp_path / "text.safetensors")
    texts = read_contexts(tmp_path / "text.safetensors", 16)
    told = batch_of([own], Random(0), PURE, size=2)
    assert torch.equal(texts(told.texts), context.expand(2, 7, 16))
    left_out = batch_of([own], Random(0), replace(PURE, text_loss=1), size=2)
    assert (
        torch.equal(texts(left_out.texts)[:, :3], empty.expand(2, 3, 16)) and (texts(left_out.texts)[:, 3:] == 0).all()
    )
    save_file({"context": context}, tmp_path / "text.safetensors")
    assert (read_contexts(tmp_path / "text.safetensors", 16)(left_out.texts) == 0).all(), "without an empty text: zeros"


@pytest.mark.parametrize("tensors", [{"cond": torch.zeros(7, 16)}, {"context": torch.zeros(7, 4096)}])
def test_a_text_that_the_base_cannot_read_is_refused(tensors, tmp_path):
    save_file(tensors, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"training\.encode_text"):
        read_contexts(tmp_path / "text.safetensors", 16)


def test_films_without_depth_are_refused_or_left_out():
    blind = replace(film(), depth=torch.zeros_like(film().depth), is_static=torch.zeros_like(film().is_static))
    with pytest.raises(ValueError, match=r"None of 2 films has depth .* Put depth/ beside"):
        usable([blind, blind], Recipe())
    assert len(usable([blind, film()], Recipe())) == 1


def test_the_held_out_loss_is_the_same_whenever_it_is_asked_for(base, tmp_path):
    adapter, _ = started(base, tmp_path, OPTIONS, steps=1)
    batches = held_out_batches([film()], OPTIONS)
    assert sum(len(one.target) for one in batches) == 32
    assert held_out_loss(adapter, batches[:2], device=CPU) == held_out_loss(adapter, batches[:2], device=CPU)


def test_a_note_says_what_a_training_was(tmp_path):
    run = Run(tmp_path, 10, CPU, step=40, seconds=150, skipped=2)
    run.log = [{"step": 38, "loss": 1.0, "held_out": 0.625}, {"step": 39, "loss": 1.0}]
    note = note_of(run, encoder="0123456789ab", options=OPTIONS, worlds="1-3")
    assert json.loads(note.pop("mirage.trained_with"))["rank"] == 4
    assert note == {
        "mirage.autoencoder": "0123456789ab", "steps": "40", "minutes": "2", "skipped_steps": "2", "seed": "0",
        "worlds": "1-3", "held_out_loss": "0.625",
    }  # fmt: skip


def test_the_plan_of_a_5b_fits_one_large_card_without_further_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--plan", "--base", "none"])
    adapter_command.main()
    branch, lora = capsys.readouterr().out.split("\n\n")
    for told in (branch, lora):
        needed = float(re.search(r"([\d.]+) GiB of GPU memory", told)[1])
        assert 20 < needed < 80 and "10,000 steps of batch 1 take" in told and "GiB of disk for the checkpoint" in told
    assert branch.startswith("branch: ") and lora.startswith("lora: ")


def test_a_plan_for_the_real_model_counts_its_parameters_and_fits_one_large_card():
    real = WanSizes(dim=3072, ffn_dim=14336, heads=24, layers=30, text_dim=4096)
    settings = {"channels": 49, "rank": 64, "size": (44, 80), "batch": 1}
    stages = {
        stage: plan(real, stage=stage, layers=tuple(range(0, 30, 4)), is_checkpointed=True, **settings)
        for stage in ("branch", "lora")
    }
    assert stages["branch"].parameters - stages["branch"].trained == pytest.approx(5.0e9, rel=0.03)
    assert stages["lora"].trained < 0.2 * stages["branch"].trained
    assert stages["lora"].total_gib < stages["branch"].total_gib < 80
    whole = plan(real, stage="branch", layers=(0,), is_checkpointed=False, **settings)
    assert whole.gib["activations"] > 5 * stages["branch"].gib["activations"]
    assert "G parameters" in stages["branch"].words(10_000, 1, 300)


@pytest.fixture(scope="module")
def pilot(base, tmp_path_factory) -> Pilot:
    path = tmp_path_factory.mktemp("autoencoder") / "stand_in.safetensors"
    save_file(stand_in_vae(), path)
    adapter = adapter_of(base, OPTIONS, CPU, None)
    return Pilot(adapter.frozen[0], adapter.texts[0]([("room",)]), Codec(path), steps=2)


@pytest.mark.parametrize(
    "way", [Way("none", has_branch=False), Way(depth_noise=0.02, is_aligned=True), Way(guidance=0.9), Way("rgb")]
)
def test_every_way_to_remember_flies_to_the_end(pilot, way):
    flown = fly(pilot, frames(), way, seed=0)
    assert flown.rollout.is_finished and flown.rollout.film.shape == (48, 17, *CELLS)
    assert torch.isfinite(flown.rollout.film).all() and len(flown.seconds) == 2
    assert flown.is_covered[0].all()
    assert flown.is_covered[9:].any() == (way.memory != "none")


def test_with_exact_depth_the_returned_frame_is_all_remembered(pilot):
    still = replace(frames(), is_mover=torch.zeros(65, 64, 64, dtype=torch.bool))
    assert fly(pilot, still, Way(), seed=0).is_covered[-1].all()


def test_a_masked_mover_leaves_holes(pilot):
    masked, burnt = (fly(pilot, frames(), Way(is_masked=is_masked), seed=0) for is_masked in (True, False))
    assert masked.is_covered[1].float().mean() < burnt.is_covered[1].float().mean()


def test_the_same_seed_flies_the_same_film(pilot):
    one, other = (fly(pilot, frames(33), Way(), seed=4) for _ in range(2))
    assert torch.equal(one.rollout.film, other.rollout.film)


def test_predicted_latents_are_made_once_and_then_remembered_instead_of_the_true_ones(pilot, base, tmp_path):
    clip = tmp_path / "clips" / "own-1.safetensors"
    clip.parent.mkdir()
    write_clip(clip, frames(65), {})
    save_file(stand_in_vae(), tmp_path / "autoencoder.safetensors")
    crew, shelf = Crew.of(tmp_path / "autoencoder.safetensors", base, None, None), FilmShelf(tmp_path / "films")
    list(shelf.fill(crew.codec, [clip]))
    assert len(list(predict(crew, shelf, [clip], steps=1))) == 1
    assert list(predict(crew, shelf, [clip], steps=1)) == []
    (film,) = shelf.films([clip])
    assert film.predicted is not None and film.predicted.shape == film.latents.shape
    assert torch.allclose(film.predicted[:, 0], film.latents[:, 0], atol=1e-2)
    example = example_of(film, Random(0), replace(PURE, model_rate=1, view_loss=1), references=1, preceding=0)
    shown = {tuple(cell.tolist()) for cell in example.context[:48].flatten(1).T if cell.any()}
    assert shown <= {tuple(cell.tolist()) for cell in film.predicted.flatten(1).T}


def test_the_films_of_own_clips_are_predicted_too(base, tmp_path, monkeypatch):
    export_film(tmp_path / "mine" / "walk", frames(65))
    save_file(stand_in_vae(), tmp_path / "tae.safetensors")
    films = ["--autoencoder", str(tmp_path / "tae.safetensors"), "--films", str(tmp_path / "films")]
    films += ["--own-clips", str(tmp_path / "mine"), "--own-size", "64", "64", "--own-frames", "65"]
    parser = argparse.ArgumentParser()
    add_film_arguments(parser)
    asked = parser.parse_args(films)
    assert films_of(Codec(asked.autoencoder), asked).shown[0].predicted is None
    models = ["--base", str(base), "--branch", "none", "--lora", "none"]
    monkeypatch.setattr(sys, "argv", ["x", *films, *models, "--steps", "1", "--threads", "1", "--device", "cpu"])
    adapter_predictions.main()
    assert films_of(Codec(asked.autoencoder), asked).shown[0].predicted is not None


def test_files_of_another_training_are_refused(base, tmp_path):
    adapter, _ = started(base, tmp_path, OPTIONS, steps=1)
    with pytest.raises(ValueError, match="Give its --stride"):
        adapter.use(SideBranch(SIZES, channels=49, layers=(0,)))
    mixed = {**Lora(adapter.frozen[0].model, rank=2, parts=("q",)).tensors()}
    first = next(iter(mixed))
    mixed[first] = torch.zeros(3, mixed[first].shape[1])
    save_file(mixed, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="2 ranks"):
        load_lora(tmp_path / "lora.safetensors", adapter.frozen[0].model)
