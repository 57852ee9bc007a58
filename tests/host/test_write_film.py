"""Write Film in a real host: what is on disk after every segment, after a kill, and after files were damaged."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.small_vaes import narrow_taehv, small_wan22
from training.stand_in import vae as stand_in

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MIRAGE_KILLS", "6"))
SIZE = (32, 64)  # height, width in pixels
NEW = 4  # latent frames per segment beside its overlap: small, for the time these tests take


@pytest.fixture(scope="module")
def painter(host):
    """The stand-in VAE, whose pictures mean something."""
    return host.comfy.sd.VAE(sd=stand_in.stand_in_vae())


@pytest.fixture(scope="module")
def autoencoder(host):
    """The host's TAEHV with a decoder of the same layers and random weights, but narrow and therefore quick."""
    return narrow_taehv(seed=0)


@pytest.fixture
def output(host, tmp_path):
    before = host.folder_paths.get_output_directory()
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path / "mirage"
    host.folder_paths.set_output_directory(before)


@pytest.fixture(scope="module")
def films(pack):
    """The modules of the pack that these tests use."""
    pack("write_film_nodes")
    core = {name: sys.modules[f"mirage_pack.mirage_core.{name}"] for name in ("camera", "rollout", "memory", "film")}
    return core | {name: pack(name) for name in ("write_film_nodes", "film_decoding", "film_mp4", "film_writing")}


@pytest.fixture
def memory_of(films):
    """memory_of(3): a film of 3 segments whose colours drift, each from a seed of its own."""

    def make(done: int, *, seeds=(1, 2, 3, 4, 5), planned: int = 4):
        frames = 1 + 4 * NEW * planned
        cameras = films["camera"].Cameras(
            torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1),
            torch.tensor([[60.0, 0, 32], [0, 60, 16], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1),
            SIZE,
        )
        latents = [drifting(0, 1)]
        for index in range(done):
            latents.append(drifting(seeds[index], NEW, start=latents[-1][:, -1:]))
        empty = films["memory"].LatentMemory(films["rollout"].WAN22)
        started = films["rollout"].Rollout.started(empty, latents[0], cameras, segment_frames=1 + 4 * NEW)
        return replace(started, latents=tuple(latents))

    return make


def drifting(seed: int, frames: int, *, start=None) -> torch.Tensor:
    """Latents [48 frames rows columns] that wander on from `start`."""
    generator = torch.Generator().manual_seed(seed)
    step = 0.1 * torch.randn(48, frames, SIZE[0] // 16, SIZE[1] // 16, generator=generator)
    made = [step[:, :1] if start is None else 0.95 * start + step[:, :1]]
    for index in range(1, frames):
        made.append(0.95 * made[-1] + step[:, index : index + 1])
    return torch.cat(made, dim=1)


@pytest.fixture
def write(films, autoencoder, output):
    def call(memory, **settings):
        with torch.inference_mode():
            return films["write_film_nodes"].WriteFilm.execute(memory, settings.pop("vae", autoencoder), **settings)

    return call


def read(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """(frames [height width 3] of 0..255, their times in seconds)."""
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in shown], [frame.time for frame in shown]


def decoded(films, memory, vae) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(films["film_decoding"].decoded_pieces(memory, vae)))


def to_host(latents: torch.Tensor) -> torch.Tensor:
    import comfy.latent_formats

    return comfy.latent_formats.Wan22().process_out(latents[None])


def whole(vae, memory) -> torch.Tensor:
    """The film decoded in one go, as the host's VAE Decode does."""
    with torch.inference_mode():
        return vae.decode(to_host(torch.cat(memory.latents, dim=1)))[0]


def counting(vae, *, at_third=lambda: None):
    """The same VAE with a list of how many latents it was asked to decode; at_third is called before the third time."""

    class Counting(type(vae)):
        def decode(self, samples):
            self.decoded.append(samples.shape[2])
            if len(self.decoded) == 3:
                at_third()
            return super().decode(samples)

    counted = copy.copy(vae)
    counted.__class__, counted.decoded = Counting, []
    return counted


def test_pieces_decode_to_the_very_frames_of_a_decode_in_one_go(films, memory_of, autoencoder):
    memory = memory_of(4)
    assert (decoded(films, memory, autoencoder) - whole(autoencoder, memory)).abs().max() < 1e-6


@pytest.fixture(scope="module")
def wan22(host):
    """The class of the real Wan2.2 VAE, small; its random weights look back in time as far as any."""
    return small_wan22(seed=0)


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


def contents(path: Path) -> list[bytes]:
    return [path.read_bytes()] if path.is_file() else [one.read_bytes() for one in sorted(path.iterdir())]


def pixels(path: Path) -> list[bytes]:
    if path.is_file():
        return [frame.tobytes() for frame in read(path)[0]]
    return [np.asarray(Image.open(one)).tobytes() for one in sorted(path.iterdir())]


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


# A process that loads the host once and forks for every piece of work it is told.
FORKS = """
import json, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
import host.conftest as fixtures
import host.test_write_film as test

def plain(fixture):
    return getattr(fixture, "__wrapped__", None) or fixture.__pytest_wrapped__.obj

found = plain(fixtures.host)()
films, vae = plain(test.films)(plain(fixtures.pack)(found)), test.narrow_taehv(seed=0)
memory_of = plain(test.memory_of)(films)
for line in sys.stdin:
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        exec(json.loads(line))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture(scope="module")
def forks():
    """forks(work, output): runs Python text in a fresh process; gives its id and a function that waits for its end."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked here, which this system cannot")
    code = FORKS.format(root=str(ROOT), tests=str(ROOT / "tests"))
    stage = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert stage.stdin is not None and stage.stdout is not None
    asking, answers = stage.stdin, stage.stdout

    def call(work: str, output: Path):
        place = f"found.folder_paths.set_output_directory({str(output.parent)!r})\n"
        asking.write(json.dumps(place + work) + "\n")
        asking.flush()
        child = int(answers.readline())

        def wait() -> list[str]:
            return list(iter(answers.readline, "gone\n"))

        return child, wait

    yield call
    stage.kill()
    stage.wait()


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
