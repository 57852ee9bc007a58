"""The nano base in training: films from clips, steps that lower the loss, a run cut off, the file it leaves."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.camera import unproject_cells
from mirage_core.latent_grid import LatentGrid
from tests.training.flights import frames
from training.clip_pool import read_clip, write_clip
from training.film_sources import add_film_arguments, films_of, ranges
from training.nano import Nano, NanoOptions, film_first_segments, load_base, picture_rows, save_base, train
from training.nano_films import Codec, Film, FilmShelf, mirrored, own_clips
from training.nano_sampling import flow_loss, noise_levels, sampled
from training.run import Run, Training
from training.stand_in.vae import stand_in_vae
from training.wan import WanSizes
from training.worlds import World, random_flight
from training.worlds.export import export_film

OPTIONS = NanoOptions(WanSizes(dim=64, ffn_dim=128, heads=2, layers=2, text_dim=16), batch=4, rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads on so little work only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Codec:
    path = tmp_path_factory.mktemp("autoencoder") / "stand_in.safetensors"
    save_file(stand_in_vae(), path)
    return Codec(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """One small flight of 49 frames through a room with a mover, as the clip pool writes it."""
    world = World.room(2, movers=1)
    flight = random_flight(world, 0, frames=49, image_size=(64, 64), name="pan_right")
    path = tmp_path_factory.mktemp("clips") / "room-0000002-0.safetensors"
    write_clip(path, world.render(flight.cameras, flight.times), {})
    return path


@pytest.fixture(scope="module")
def films(codec, clip, tmp_path_factory) -> list[Film]:
    shelf = FilmShelf(tmp_path_factory.mktemp("films"))
    list(shelf.fill(codec, [clip]))
    return shelf.films([clip])


def started(folder: Path, *, steps: int) -> tuple[Nano, Training]:
    nano = Nano(OPTIONS)
    return nano, Training(nano, Run(folder, 10, torch.device("cpu"), steps), rate=OPTIONS.rate, warmup=5)


def held_out_loss(nano: Nano, films: list[Film]) -> float:
    with torch.no_grad():
        return float(nano.loss(films, Random("fixed"), device=torch.device("cpu")))


def test_a_clip_becomes_a_film_of_its_latent_frames(films):
    (film,) = films
    assert film.latents.shape == (48, 13, 4, 4) and film.depth.shape == film.is_static.shape == (13, 4, 4)
    assert len(film.cameras) == 13 and film.cameras.image_size == (64, 64)
    assert torch.allclose(film.cameras.cam2world[0], torch.eye(4, dtype=torch.float64))
    assert film.words[0] == "room"


def test_a_film_that_is_there_is_not_encoded_again(codec, clip, tmp_path):
    shelf = FilmShelf(tmp_path)
    (path,) = shelf.fill(codec, [clip])
    before = path.stat().st_mtime_ns
    list(shelf.fill(codec, [clip]))
    assert path.stat().st_mtime_ns == before


def test_a_mirrored_clip_shows_the_mirrored_world(clip):
    frames = read_clip(clip)
    flipped = mirrored(frames)
    back = mirrored(flipped)
    assert torch.equal(back.rgb, frames.rgb) and torch.allclose(back.cameras.cam2world, frames.cameras.cam2world)
    rotation = flipped.cameras.cam2world[:, :3, :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(len(frames), dtype=torch.float64))
    depth, seen = frames.depth[20].double()[None], torch.isfinite(frames.depth[20])
    grid = LatentGrid(spatial_stride=1)
    one = unproject_cells(depth.where(seen, 1.0), frames.cameras[[20]], grid)[0]
    other = unproject_cells(depth.where(seen, 1.0).flip(2), flipped.cameras[[20]], grid)[0].flip(1)
    assert torch.allclose(other[seen] * torch.tensor([-1.0, 1.0, 1.0]).double(), one[seen], atol=1e-9)


def test_a_mirrored_shelf_has_every_film_twice(codec, clip, tmp_path):
    shelf = FilmShelf(tmp_path, is_mirrored=True)
    assert [path.stem for path in shelf.fill(codec, [clip])] == [clip.stem, f"{clip.stem}-mirrored"]
    film, other = shelf.films([clip])
    assert other.words == film.words and not torch.equal(other.latents, film.latents)
    same = (other.depth.flip(2) - film.depth).abs() <= 1e-4 * film.depth
    assert same.float().mean() > 0.95, "cells whose pixels lie in mirrored order may pick another one of a tie"


def test_a_held_out_world_is_never_trained_on(codec, clip, tmp_path):
    held_out = tmp_path / "room-1000002-0.safetensors"
    held_out.write_bytes(clip.read_bytes())
    with pytest.raises(ValueError, match="held out"):
        list(FilmShelf(tmp_path / "films").fill(codec, [held_out]))
    assert len(list(FilmShelf(tmp_path / "measured", is_held_out=True).fill(codec, [held_out]))) == 1


def test_clips_of_ones_own_become_films_without_words(codec, tmp_path):
    export_film(tmp_path / "mine", frames(13))
    found = own_clips(tmp_path / "mine", tmp_path / "films", image_size=(32, 48), frames=5)
    assert len(found) == 2, "13 frames are two clips of 5; the rest is dropped"
    list((shelf := FilmShelf(tmp_path / "shelf")).fill(codec, found))
    film = shelf.films(found)[0]
    assert film.latents.shape == (48, 2, 2, 3) and film.words == () and (film.depth > 0).any()
    before = found[0].stat().st_mtime_ns
    assert own_clips(tmp_path / "mine", tmp_path / "films", image_size=(32, 48), frames=5) == found
    assert found[0].stat().st_mtime_ns == before


def asked(tmp_path: Path, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_film_arguments(parser)
    return parser.parse_args(["--films", str(tmp_path / "films"), *arguments])


def test_an_empty_pool_says_how_to_fill_it(codec, tmp_path):
    with pytest.raises(ValueError, match=r"training\.clip_pool .*flights --flights 1 --frames 97"):
        films_of(codec, asked(tmp_path, "--clips", str(tmp_path / "flights")))


def test_own_clips_of_two_folders_or_sizes_are_films_of_their_own(codec, tmp_path):
    for place in ("one", "other"):
        export_film(tmp_path / place / "mine", frames(5, seed=len(place)))
    found = {}
    for place, size in (("one", 32), ("other", 32), ("other", 48)):
        arguments = ["--own-clips", str(tmp_path / place / "mine"), "--own-size", str(size), "64", "--own-frames", "5"]
        (film,) = films_of(codec, asked(tmp_path, *arguments)).shown
        found[place, size] = film
    assert not torch.equal(found["one", 32].latents, found["other", 32].latents)
    assert found["other", 48].latents.shape == (48, 2, 3, 4)
    with pytest.raises(ValueError, match="Give a smaller --own-frames"):
        films_of(codec, asked(tmp_path, "--own-clips", str(tmp_path / "one" / "mine"), "--own-size", "32", "64"))


def test_only_films_of_the_asked_clips_are_taken(codec, clip, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    write_clip(other / "own-1.safetensors", read_clip(clip)[:5], {})
    everything = ["--clips", str(clip.parent), str(other), "--mirror"]
    all_films = films_of(codec, asked(tmp_path, *everything))
    assert len(all_films.shown) == 4 and all_films.worlds == "2"
    one = films_of(codec, asked(tmp_path, "--clips", str(other)))
    assert [len(film) for film in one.shown] == [2] and one.worlds == ""


def test_a_film_of_another_clip_of_the_same_name_is_not_taken_for_it(codec, clip, tmp_path):
    other = tmp_path / clip.name
    write_clip(other, read_clip(clip)[:5], {})
    shelf = FilmShelf(tmp_path / "films")
    list(shelf.fill(codec, [clip]))
    with pytest.raises(ValueError, match=r"13 latent frames; .* has 5 frames of 64x64\. Give another --films"):
        list(shelf.fill(codec, [other]))


def test_seeds_are_told_in_short():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_a_file_that_is_no_autoencoder_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.autoencoder"):
        Codec(tmp_path / "none.safetensors")
    save_file({"decoder.conv1.weight": torch.zeros(3)}, tmp_path / "wan22_vae.safetensors")
    with pytest.raises(ValueError, match="lighttaew2_2"):
        Codec(tmp_path / "wan22_vae.safetensors")


def test_steps_lower_the_loss_and_a_run_that_was_cut_off_goes_on(films, tmp_path):
    nano, training = started(tmp_path, steps=40)
    before = held_out_loss(nano, films)
    random = Random(0)
    for step in training.steps():
        training.descend(nano.loss(films, random, device=torch.device("cpu")), {})
        if step == 20:
            training.save()
        if step == 25:
            break  # as if killed: what came after the checkpoint is lost
    nano, training = started(tmp_path, steps=40)
    assert training.run.step == 20
    train(nano, films, training)
    assert training.run.step == 40 and (tmp_path / "loss.png").is_file()
    assert held_out_loss(nano, films) < 0.9 * before


def test_the_file_gives_back_model_and_words(films, tmp_path):
    nano, training = started(tmp_path, steps=1)
    save_base(tmp_path / "base.safetensors", training.averaged(), nano, {})
    model, words = load_base(tmp_path / "base.safetensors")
    latents, times = torch.randn(1, 48, 3, 4, 4), torch.full((1, 3), 500.0)
    text = nano.words([("room",)])
    assert torch.allclose(words([("room",)]), text, atol=1e-5)
    # Weights are rounded to float16; the fresh head is zero, so compare what comes before it.
    assert torch.allclose(model.tokens(latents), nano.model.tokens(latents), atol=2e-2)
    assert torch.equal(model(latents, times, text), nano.model(latents, times, text))


def test_what_it_films_begins_with_the_given_frame(films, tmp_path, codec):
    nano, _ = started(tmp_path, steps=1)
    (made,) = film_first_segments(nano.model, nano.words, films, steps=2)
    assert torch.equal(made[:, :1], films[0].latents[:, :1]) and made.shape == (48, 9, 4, 4)
    picture_rows(tmp_path / "filmed.png", [codec.decode(made)])
    assert (tmp_path / "filmed.png").stat().st_size > 0


def test_a_perfect_flow_has_no_loss_and_samples_the_truth():
    clean = torch.randn(2, 48, 4, 2, 2, generator=torch.Generator().manual_seed(0))

    def perfect(latents, timesteps):
        level = timesteps[:, None, :, None, None] / 1000
        return torch.where(level > 0, (latents - clean) / level.clamp(min=1e-9), 0.0)

    loss = flow_loss(perfect, clean, torch.Generator().manual_seed(1))
    assert float(loss) < 1e-8
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(sampled(perfect, clean[:, :, :1], noise, steps=4), clean, atol=1e-5)


def test_a_guide_has_the_last_word_on_what_is_sampled():
    first, noise = torch.zeros(1, 48, 1, 2, 2), torch.randn(1, 48, 3, 2, 2)
    wanted = torch.ones_like(noise)
    made = sampled(lambda latents, _: latents, first, noise, steps=4, guide=lambda clean, level: wanted)
    assert torch.allclose(made[:, :, 1:], wanted[:, :, 1:], atol=1e-5) and (made[:, :, :1] == 0).all()


def test_noise_levels_fall_from_pure_noise_to_none():
    levels = noise_levels(8)
    assert levels[0] == 1 and levels[-1] == 0 and levels == sorted(levels, reverse=True)
    assert levels[4] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
