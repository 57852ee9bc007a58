"""The closed loop's table: what is averaged, what is compared, and that nothing is flown twice."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import closed_loop
from benchmarks.closed_loop_plot import write_bars, write_films
from benchmarks.nano_crew import add_crew_arguments, asked_crew
from tests.training.flights import frames
from training.nano import Nano, NanoOptions, save_base
from training.stand_in.vae import stand_in_vae
from training.wan import WanSizes


def entry(variant: str, world: int, seed: int, **values: float) -> dict:
    return {"variant": variant, "world": world, "seed": seed, **values}


BEST = "latent memory, branch, LoRA"
ENTRIES = [
    *(entry("no memory", world, seed, psnr=15 + world, ghost_energy=0.1) for world in range(3) for seed in range(2)),
    *(entry(BEST, world, seed, psnr=20 + world + seed, ghost_energy=0.2) for world in range(3) for seed in range(2)),
    *(entry("without the static mask", world, 0, psnr=18.0, ghost_energy=0.6) for world in range(3)),
    entry("ceiling", 0, 0, psnr=30.0, ssim=0.9),
]


def test_gains_are_paired_by_world_and_seeds_are_averaged_first():
    rows = {row[""]: row for row in closed_loop.table(ENTRIES)}
    assert rows["no memory"]["PSNR dB"].startswith("16.00 ± ")
    assert rows[BEST]["over no memory dB"] == "5.50 ± 0.00"
    assert rows["the truth through the autoencoder"]["SSIM"] == "0.90"
    assert "rgb memory, branch" not in rows


def test_by_default_the_shipped_models_fly_and_all_rows_can_be_flown():
    parser = argparse.ArgumentParser()
    add_crew_arguments(parser)
    crew = asked_crew(argparse.Namespace(**vars(parser.parse_args([])), device="cpu"))
    assert all(closed_loop.can_fly(crew, variant) for variant in closed_loop.VARIANTS)


def test_the_verdict_tells_each_bar_with_its_number():
    words = closed_loop.verdict(ENTRIES)
    assert "5.50 ± 0.00" in words
    assert "energy: 67% of all, 80% of what is more than without memory (pulled: no ghosts)" in words


def test_figures_that_do_not_exist_are_left_out_of_means():
    entries = [*ENTRIES, entry("no memory", 3, 0, psnr=math.nan)]
    assert closed_loop.table(entries)[0]["PSNR dB"] == closed_loop.table(ENTRIES)[0]["PSNR dB"]


def test_the_plot_shows_every_row(tmp_path):
    write_bars(tmp_path / "bars.png", closed_loop.table(ENTRIES), "PSNR dB", "PSNR")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_films_are_shown_below_one_truth(tmp_path):
    for name, shade in (("one", 90), ("other", 160)):
        sheet = Image.new("RGB", (40, 32), (20, 20, 20))
        sheet.paste((shade,) * 3, (0, 16, 40, 32))
        sheet.save(tmp_path / f"{name}.png")
    write_films(tmp_path / "films.jpg", [tmp_path / "one.png", tmp_path / "other.png"])
    made = Image.open(tmp_path / "films.jpg")
    assert made.size == (40, 48)
    shades = np.array(made.convert("L"))[[8, 24, 40], 20]
    assert np.abs(shades.astype(int) - (20, 90, 160)).max() < 4
    write_films(tmp_path / "none.jpg", [tmp_path / "one.png", tmp_path / "gone.png"])
    assert not (tmp_path / "none.jpg").exists()


@pytest.fixture
def asked(tmp_path) -> argparse.Namespace:
    """A base that knows nothing, without branch and LoRA."""
    nano = Nano(NanoOptions(WanSizes(dim=64, ffn_dim=128, heads=2, layers=1, text_dim=16)))
    save_base(tmp_path / "base.safetensors", nano.state_dict(), nano, {})
    save_file(stand_in_vae(), tmp_path / "ae.safetensors")
    return argparse.Namespace(
        worlds=1, seeds=1, first_world=0, every=1,
        size=64, steps=1, device="cpu", out=tmp_path / "out", base=tmp_path / "base.safetensors",
        autoencoder=tmp_path / "ae.safetensors", branch=tmp_path / "none", lora=tmp_path / "none",
    )  # fmt: skip


def crew_of(asked: argparse.Namespace) -> closed_loop.Crew:
    return closed_loop.Crew.of(asked.autoencoder, asked.base, asked.branch, asked.lora)


def test_only_what_the_checkpoints_allow_is_flown_and_nothing_twice(asked, monkeypatch):
    film = frames(closed_loop.FRAMES)
    monkeypatch.setattr(closed_loop, "held_out_flight", lambda *_, **__: (film, ("room",)))
    crew = crew_of(asked)
    flown = list(closed_loop.flights(crew, asked))
    assert [one["variant"] for one in flown] == ["ceiling", "no memory", "training-free guidance"]
    assert flown[1]["holes"] == 1 and flown[2]["holes"] < 0.2
    (log,) = asked.out.glob("*.jsonl")
    twice = json.dumps({**flown[-1], "psnr": 99.0})  # another process has flown it meanwhile: the first counts
    log.write_text(f'{log.read_text()}{twice}\n{{"variant": "cut o')  # by a kill
    monkeypatch.setattr(closed_loop.Crew, "fly", None)  # whatever is flown again fails
    assert json.dumps(list(closed_loop.flights(crew, asked))) == json.dumps(flown)


def test_other_checkpoints_start_a_log_of_their_own(asked, tmp_path):
    before = crew_of(asked).stamp
    nano = Nano(replace(NanoOptions(WanSizes(dim=64, ffn_dim=128, heads=2, layers=1, text_dim=16)), seed=1))
    save_base(Path(asked.base), nano.state_dict(), nano, {})
    assert crew_of(asked).stamp != before


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads on so little work only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
