"""Films beside other servers, on disks that take nothing, and what the node then says."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import types
from pathlib import Path

import pytest
import torch

from host import film_fixtures
from host.film_stage import pixels

autoencoder = film_fixtures.autoencoder
films = film_fixtures.films
forks = film_fixtures.forks
memory_of = film_fixtures.memory_of
output = film_fixtures.output
write = film_fixtures.write
OTHER = (9, 8, 7, 6)  # seeds of another film


@pytest.fixture
def told(host, pack, monkeypatch):
    """What the server sends to the browser as a node's progress text: [(text, node id)]."""
    sent = []
    ear = types.SimpleNamespace(send_progress_text=lambda text, node: sent.append((text, node)))
    monkeypatch.setattr(pack("telling").PromptServer, "instance", ear, raising=False)
    return sent


@pytest.fixture
def in_loop(host, films, autoencoder):
    """in_loop(memory): Write Film as the copy of node 5 that the loop of node 9 has made."""
    from comfy_api.latest import io
    from comfy_execution.graph import DynamicPrompt

    prompt = DynamicPrompt({"5": {"class_type": "MirageWriteFilm"}})
    prompt.add_ephemeral_node("9.0.0.i1.5", {"class_type": "MirageWriteFilm"}, "9", "5")
    hidden = {"hidden_inputs": {io.Hidden.unique_id: "9.0.0.i1.5", io.Hidden.dynprompt: prompt}}
    node = films["write_film_nodes"].WriteFilm.PREPARE_CLASS_CLONE(hidden)

    def call(memory, **settings):
        with torch.inference_mode():
            return node.execute(memory, autoencoder, **settings)

    return call


def test_a_place_that_was_taken_while_a_film_waited_is_left_alone(films, memory_of, output, autoencoder):
    path, writing = output / "film_00001.mp4", films["film_writing"]

    def written(memory):
        with torch.inference_mode():
            return writing.write_film(memory, autoencoder, lambda at: writing.film_at(at, memory, crf=16), path)

    assert written(memory_of(3)).path == path
    before = path.read_bytes()
    assert written(memory_of(2, seeds=OTHER)).path == output / "film_00002.mp4"
    assert path.read_bytes() == before


def test_two_servers_that_chose_the_same_place_both_keep_their_film(forks, memory_of, write, output):
    """Both find film_00001 free and wait for the lock that this process holds; then one writes after the other."""
    fcntl = pytest.importorskip("fcntl")
    output.mkdir()
    heard = output.parent / "heard"
    work = f"""
node = films["write_film_nodes"]
node.tell = lambda text, hidden: open({str(heard)!r}, "a").write(text + chr(10))
is_first = os.fork()
with torch.inference_mode():
    node.WriteFilm.execute(memory_of(2, seeds=(1, 2) if is_first else {OTHER}), vae)
if is_first:
    os.wait()
"""
    with open(output / ".mirage_films.lock", "a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, wait = forks(work, output)
        deadline = time.monotonic() + 30
        while not heard.exists() or len(heard.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    wait()
    assert heard.read_text().count("film_00001.mp4: waiting for another server that writes a film here") == 2
    made = [pixels(output / f"film_0000{number}.mp4") for number in (1, 2)]
    for seeds in ((1, 2), OTHER):
        alone = output.parent / write(memory_of(2, seeds=seeds), filename_prefix="alone/film").args[2]
        assert pixels(alone) in made


def test_what_became_of_the_film_is_told_on_the_node_of_the_canvas(told, in_loop, memory_of, output):
    in_loop(memory_of(2))
    in_loop(memory_of(3))
    assert told == [
        ("mirage/film_00001.mp4: 33 frames; 0 of 3 parts were there", "5"),
        ("mirage/film_00001.mp4: 49 frames; 3 of 4 parts were there", "5"),
    ]


def a_file_for_a_folder(output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.write_text("")


def a_lock_that_opens_for_nobody(output: Path) -> None:
    output.mkdir(exist_ok=True)
    (output / ".mirage_films.lock").unlink(missing_ok=True)
    (output / ".mirage_films.lock").mkdir()


def a_ledger_that_cannot_be_replaced(output: Path) -> None:
    output.mkdir(exist_ok=True)
    (output / ".film_00001.json.part").mkdir()


SPOILED = [a_file_for_a_folder, a_lock_that_opens_for_nobody, a_ledger_that_cannot_be_replaced]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_folder_that_takes_no_film_does_not_end_the_loop(told, in_loop, memory_of, output, spoil):
    from comfy_execution.graph_utils import ExecutionBlocker

    spoil(output)
    memory = memory_of(1)
    passed, video, file = in_loop(memory).args
    assert passed is memory and isinstance(video, ExecutionBlocker) and file == ""
    ((text, node),) = told
    assert node == "5" and any(words in text for words in ("cannot be written", "could not be written"))


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_folder_that_takes_no_film_is_an_error_in_one_sentence_at_the_end(memory_of, write, output, spoil):
    spoil(output)
    with pytest.raises(ValueError, match=r"(cannot|could not) be written .*choose another folder"):
        write(memory_of(4))


@contextlib.contextmanager
def closed(folder: Path):
    """A folder in which this process may change nothing; root, who may always, becomes somebody else meanwhile."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has other ways to close a folder")
    user = os.geteuid()
    folder.chmod(0o555)
    try:
        os.seteuid(user or 65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.fixture
def open_root(host):
    """An output folder that another user of this machine may look into, unlike those of pytest."""
    before = host.folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        host.folder_paths.set_output_directory(name)
        yield Path(name)
    host.folder_paths.set_output_directory(before)


def test_in_a_read_only_output_folder_the_loop_goes_on_and_the_end_says_why(
    told, in_loop, films, memory_of, autoencoder, open_root
):
    with closed(open_root):
        in_loop(memory_of(1))
        assert "'mirage' of ComfyUI's output folder cannot be written (Permission denied)" in told[-1][0]
        with pytest.raises(ValueError, match="cannot be written"):
            films["write_film_nodes"].WriteFilm.execute(memory_of(1), autoencoder)
    in_loop(memory_of(1))
    with closed(open_root / "mirage"):
        file = in_loop(memory_of(2)).args[2]
        assert file == "mirage/film_00001.mp4"
        assert "could not be written (Permission denied); its 17 frames so far are kept and play" in told[-1][0]
        with pytest.raises(ValueError, match="its 17 frames so far are kept and play"):
            in_loop(memory_of(4))
    in_loop(memory_of(4))
    assert len(pixels(open_root / "mirage" / "film_00001.mp4")) == 65


def test_a_film_that_does_not_fit_leaves_no_half_written_file(forks, memory_of, write, output):
    """A full disk wants its space back: also that of the ordinary MP4 that was to take the film's place."""
    work = """
import resource, signal
path = films["write_film_nodes"].output_path("mirage/film", ".mp4")
make = lambda place: films["film_writing"].film_at(place, memory_of(3), crf=16)
put = lambda **how: films["film_writing"].write_film(memory_of(3), vae, make, path, **how)
with torch.inference_mode():
    put(is_last=False)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) // 2, resource.RLIM_INFINITY))
    print("said:", put().problem, flush=True)
"""
    said = "".join(forks(work, output)[1]())
    assert "said: film_00001.mp4 could not be written (File too large); its 49 frames so far are kept and play" in said
    assert sorted(one.name for one in output.iterdir()) == [".mirage_films.lock", "film_00001.json", "film_00001.mp4"]
    assert len(pixels(output / "film_00001.mp4")) == 49
