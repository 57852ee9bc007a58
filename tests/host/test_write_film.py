"""Write Film in a real host: what is on disk after every segment, after a kill, and after files were damaged."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks.small_vaes import narrow_taehv
from host import film_fixtures
from host.film_stage import SIZE, contents, counting, decoded, pixels, read, to_host, whole
from training.stand_in import vae as stand_in

autoencoder = film_fixtures.autoencoder
films = film_fixtures.films
forks = film_fixtures.forks
memory_of = film_fixtures.memory_of
output = film_fixtures.output
wan22 = film_fixtures.wan22
write = film_fixtures.write
KILLS = int(os.environ.get("MIRAGE_KILLS", "6"))


@pytest.fixture(scope="module")
def painter(host):
    """The stand-in VAE, whose pictures mean something."""
    return host.comfy.sd.VAE(sd=stand_in.stand_in_vae())


def test_pieces_decode_to_the_very_frames_of_a_decode_in_one_go(films, memory_of, autoencoder):
    memory = memory_of(4)
    assert (decoded(films, memory, autoencoder) - whole(autoencoder, memory)).abs().max() < 1e-6


def test_the_wan22_vae_decodes_pieces_to_the_very_frames_of_the_whole_film(films, memory_of, wan22):
    memory = memory_of(12, seeds=range(12), planned=12)  # 49 latents: more than the decoder sees back
    truth = whole(wan22, memory)
    assert truth.std() > 0.05
    with torch.inference_mode():
        last = next(films["film_decoding"].decoded_pieces(memory, wan22, 12))
        plain = wan22.decode(to_host(torch.cat(memory.latents[-3:], dim=1)))[0, -16:]
    assert (last - truth[-16:]).abs().max() < 1e-5
    assert (plain - truth[-16:]).abs().max() > 0.01, "eight latents before a piece are not enough"


def test_three_latents_of_context_are_too_few_and_eight_are_enough(films, memory_of, autoencoder):
    memory, film = memory_of(4), films["film"]
    truth, off = whole(autoencoder, memory)[-16:], {}
    for context in (3, film.TAEHV_CONTEXT):
        part = replace(memory, latents=(film.window(memory.latents, 4, context),))
        off[context] = float((whole(autoencoder, part)[-16:] - truth).abs().max())
    assert off[film.TAEHV_CONTEXT] < 1e-6 < 1e-4 < off[3]


def test_a_film_grows_by_each_segment_and_always_plays(films, memory_of, write, output, autoencoder):
    for done in (1, 2, 4):
        write(memory_of(done))
        frames, times = read(output / "film_00001.mp4")
        assert len(frames) == 1 + 16 * done
        assert np.allclose(times, np.arange(len(frames)) / 16)
    truth = (decoded(films, memory_of(4), autoencoder) * 255).numpy()
    errors = [np.abs(blocks(frame) - blocks(clear)).max() for frame, clear in zip(frames, truth, strict=True)]
    assert max(errors) < 6  # of 255, at crf 16; a frame too early or late is off by more
    late = [np.abs(blocks(frame) - blocks(clear)).max() for frame, clear in zip(frames, truth[1:], strict=False)]
    assert np.mean(late) > 1.5 * np.mean(errors)
    assert sorted(path.name for path in output.iterdir()) == [".mirage_films.lock", "film_00001.json", "film_00001.mp4"]


def blocks(frame: np.ndarray) -> np.ndarray:
    """Mean colours of 8 x 8 pixels: what halved colour resolution leaves alone."""
    height, width, _ = frame.shape
    return frame.astype(np.float32).reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))


def test_the_finished_film_is_an_ordinary_tagged_mp4_that_seeks(memory_of, write, output):
    write(memory_of(4))
    data = (output / "film_00001.mp4").read_bytes()
    assert b"moof" not in data and data.index(b"moov") < data.index(b"mdat")
    with av.open(str(output / "film_00001.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (stream.frames, stream.average_rate, context.pix_fmt) == (65, 16, "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert container.duration / av.time_base == pytest.approx(65 / 16)
        container.seek(round(2.5 / stream.time_base), stream=stream)
        assert next(container.decode(video=0)).time == pytest.approx(33 / 16)  # the keyframe of the third segment


def test_colours_come_back(memory_of, write, output, painter):
    import comfy.latent_formats

    flat = torch.tensor([0.9, 0.3, 0.1]).expand(1, *SIZE, 3)
    with torch.inference_mode():
        latents = comfy.latent_formats.Wan22().process_in(painter.encode(flat))[0]
        shown = painter.decode(painter.encode(flat))[0, 0]
    write(replace(memory_of(0), latents=(latents,)), vae=painter)
    frame = read(output / "film_00001.mp4")[0][0]
    assert np.abs(frame.mean((0, 1)) / 255 - shown.mean((0, 1)).numpy()).max() < 0.01


def test_nothing_is_decoded_twice(memory_of, write, autoencoder):
    vae = counting(autoencoder)
    write(memory_of(2), vae=vae)
    assert vae.decoded == [1, 5, 9]
    write(memory_of(2), vae=vae)
    write(memory_of(3), vae=vae)
    assert vae.decoded == [1, 5, 9, 12]


def test_a_shorter_memory_of_a_running_loop_leaves_the_film_alone(films, memory_of, output, autoencoder):
    path = output / "film_00001.mp4"
    make = lambda place: films["film_writing"].film_at(place, memory_of(3), crf=16)  # noqa: E731
    with torch.inference_mode():
        films["film_writing"].write_film(memory_of(3), autoencoder, make, path)
        before = path.read_bytes()
        done = films["film_writing"].write_film(memory_of(1), autoencoder, make, path, is_last=False)
    assert (done.reused, done.written, path.read_bytes()) == (2, 0, before)


@pytest.mark.parametrize(("format", "suffix"), [("mp4", ".mp4"), ("png sequence", "")])
@pytest.mark.parametrize("mode", ["keep the old film", "replace it"])
def test_a_redone_segment_makes_the_film_anew_from_there(memory_of, write, output, autoencoder, mode, format, suffix):
    vae = counting(autoencoder)
    old, new = memory_of(3), memory_of(3, seeds=(1, 7, 8))
    write(old, vae=vae, format=format)
    kept = contents(output / f"film_00001{suffix}")
    del vae.decoded[:]
    name = write(new, vae=vae, when_redone=mode, format=format).args[2]
    assert vae.decoded == [9, 12], "the start and segment 1 are taken over"
    assert name == f"mirage/film_0000{1 if mode == 'replace it' else 2}{suffix}"
    assert (contents(output / f"film_00001{suffix}") == kept) == (mode == "keep the old film")
    fresh = output.parent / write(new, format=format, filename_prefix="mirage/fresh").args[2]
    assert pixels(output.parent / name) == pixels(fresh)


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "a flipped bit":
        data[len(data) * 3 // 4] ^= 4
    path.write_bytes(data[: len(data) // 2] if how == "cut off" else b"{" if how == "no json" else data)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "gone"])
@pytest.mark.parametrize("is_growing", [True, False])
def test_a_damaged_film_heals(films, memory_of, output, autoencoder, how, is_growing):
    path, memory = output / "film_00001.mp4", memory_of(3)
    make = lambda place: films["film_writing"].film_at(place, memory, crf=16)  # noqa: E731
    with torch.inference_mode():
        films["film_writing"].write_film(memory, autoencoder, make, path, is_last=not is_growing)
        before = pixels(path)
        damaged(path, how)
        done = films["film_writing"].write_film(memory, autoencoder, make, path)
    assert pixels(path) == before
    assert done.reused == ({"gone": 0, "cut off": 2, "a flipped bit": 3}[how] if is_growing else 0)


@pytest.mark.parametrize("how", ["no json", "gone", "cut off"])
def test_without_its_ledger_a_film_is_kept_and_a_new_one_written(memory_of, write, output, how):
    write(memory_of(2))
    before = pixels(output / "film_00001.mp4")
    damaged(output / "film_00001.json", how)
    assert write(memory_of(2)).args[2] == "mirage/film_00002.mp4"
    assert pixels(output / "film_00001.mp4") == before == pixels(output / "film_00002.mp4")


def test_a_missing_picture_is_made_again(memory_of, write, output):
    write(memory_of(2), format="png sequence")
    before = contents(output / "film_00001")
    (output / "film_00001" / "frame_000025.png").unlink()
    assert len(before) == 33
    write(memory_of(2), format="png sequence")
    assert contents(output / "film_00001") == before


def test_other_settings_begin_another_film(memory_of, write):
    assert write(memory_of(1)).args[2] == "mirage/film_00001.mp4"
    assert write(memory_of(1), crf=30).args[2] == "mirage/film_00002.mp4"
    assert write(memory_of(1), vae=narrow_taehv(seed=1)).args[2] == "mirage/film_00003.mp4"
    assert write(memory_of(1)).args[2] == "mirage/film_00001.mp4"


def test_the_node_shows_the_film_as_save_video_does(memory_of, write):
    shown = write(memory_of(1)).ui
    assert dict(shown["images"][0]) == {"filename": "film_00001.mp4", "subfolder": "mirage", "type": "output"}
    assert shown["animated"] == (True,) and "17 frames" in shown["text"][0]


def test_a_name_outside_of_the_output_folder_is_refused(memory_of, write):
    with pytest.raises(ValueError, match="no name for a file in the output folder"):
        write(memory_of(1), filename_prefix="../film")


def test_an_interrupted_film_plays_and_goes_on(films, memory_of, write, output, autoencoder, host):
    management = host.comfy.model_management

    with pytest.raises(management.InterruptProcessingException):
        write(memory_of(4), vae=counting(autoencoder, at_third=management.interrupt_current_processing))
    management.interrupt_current_processing(False)
    assert len(read(output / "film_00001.mp4")[0]) == 17, "cancelled in the middle of segment 2"
    vae = counting(autoencoder)
    write(memory_of(4), vae=vae)
    assert vae.decoded == [9, 12, 12] and len(read(output / "film_00001.mp4")[0]) == 65


def test_a_film_plays_after_kill_9_at_any_moment_and_is_finished_from_there(forks, memory_of, write, output):
    """Written in an endless loop of growing, finishing and cutting; killed again and again, each time elsewhere."""
    work = """
make = lambda place: films["film_writing"].film_at(place, memory_of(3), crf=16)
path = films["write_film_nodes"].output_path("mirage/film", ".mp4").with_stem("film_00001")
with torch.inference_mode():
    while True:
        for done in (1, 2, 3, 4):
            films["film_writing"].write_film(memory_of(done), vae, make, path, when_redone="replace it",
                                             is_last=done in (1, 4))
"""
    film, lengths = output / "film_00001.mp4", set()
    for moment in range(KILLS):
        child, wait = forks(work, output)
        deadline = time.monotonic() + 20
        while not film.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1 + 0.1337 * moment)
        os.kill(child, signal.SIGKILL)
        wait()
        frames, times = read(film)
        lengths.add(len(frames))
        assert len(frames) in (1, 17, 33, 49, 65) and np.allclose(times, np.arange(len(frames)) / 16)
    assert len(lengths) > 1
    write(memory_of(4), when_redone="replace it")
    write(memory_of(4), filename_prefix="mirage/other")
    assert pixels(film) == pixels(output / "other_00001.mp4")
    assert not list(output.glob("*.part")) and not list(output.glob(".film*.part"))


def test_when_the_disk_takes_no_more_the_film_so_far_plays_and_one_sentence_says_so(forks, memory_of, write, output):
    work = """
import resource, signal
write = lambda memory: films["write_film_nodes"].WriteFilm.execute(memory, vae)
film = films["write_film_nodes"].output_path("mirage/film", ".mp4")
with torch.inference_mode():
    write(memory_of(2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(film) + 2000, resource.RLIM_INFINITY))
    try:
        write(memory_of(4))
    except ValueError as error:
        print("said:", error, flush=True)
"""
    said = "".join(forks(work, output)[1]())
    assert "said: film_00001.mp4 could not be written (File too large); its 33 frames so far are kept and play" in said
    assert len(read(output / "film_00001.mp4")[0]) == 33
    write(memory_of(4))
    assert len(read(output / "film_00001.mp4")[0]) == 65


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"pieces": [{"key": "a"}]}, {"head": -1}, {"head": "0"}, {"settings": []}, {"extra": 1},
        {"pieces": [{"key": 1, "frames": 1, "size": 1, "digest": ""}]}, {"stamp": None}, {"pieces": None},
    ],
)  # fmt: skip
def test_a_ledger_that_is_not_one_is_no_ledger(memory_of, write, output, pack, change):
    write(memory_of(0))
    ledgers, film = pack("film_ledger"), output / "film_00001.mp4"
    assert len(ledgers.load_ledger(film).pieces) == 1
    path = ledgers.ledger_path(film)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert ledgers.load_ledger(film) is None
