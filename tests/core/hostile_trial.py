"""Shows hostile files to every loader, in a process of its own with little memory; prints what came of it as JSON.

Run as: python -m tests.core.hostile_trial FOLDER
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mirage_core.branch_files import branch_file
from mirage_core.camera_path import CameraPath
from mirage_core.lora_files import lora_file
from mirage_core.mask_rules import MaskRules
from mirage_core.memory_edits import everything, locked
from mirage_core.memory_files import load_memory, save_memory
from mirage_core.path_formats import FORMATS, decode, encode, read
from mirage_core.path_formats.reading import ReadOptions
from mirage_core.path_presets import preset
from mirage_core.rollout_files import check_foreign, check_tensors, load_rollout, read_segment, write_segment
from mirage_core.scene_files import load_scene, save_scene
from mirage_core.tensor_files import plain_json
from tests.core import hostile_files as hostile
from tests.core.camera_tracks import random_track, said
from tests.core.test_rollout_files import Folder
from tests.core.test_scene_files import filmed
from tests.core.test_weights import branch_tensors, lora_tensors, write_file

SECONDS = 20  # of computing; a case that takes longer has hung, however busy the machine is
MEMORY = 768 << 20  # bytes beyond what the process has when it starts

# The one format that is only read.
_WORLDSCORE = json.dumps({"focal_length": 500, "cameras_interp": [torch.eye(4).tolist()] * 3}).encode()

Loader = Callable[[Path], object]


def safetensors_cases(good: bytes, seed: int, *, with_values: bool) -> Iterator[hostile.Case]:
    yield from hostile.damaged(good, seed)
    yield from hostile.header_lies(good)
    yield from hostile.metadata_lies(good)
    if with_values:
        yield from hostile.value_lies(good)


def trials(folder: Path) -> Iterator[tuple[str, Loader, Iterator[hostile.Case], str]]:
    """Loader by loader: its name, itself, what it is shown, and the ending of the files."""
    film = filmed()
    choice = tuple(one if index else ~one for index, one in enumerate(everything(film.memory)))
    save_memory(locked(film.memory, choice), folder / "memory.safetensors")
    save_scene(film, folder / "scene.safetensors", provenance={"made_by": "test"})
    good = (folder / "memory.safetensors").read_bytes()
    yield "memory", load_memory, safetensors_cases(good, 1, with_values=True), ".safetensors"
    good = (folder / "scene.safetensors").read_bytes()
    yield "scene", load_scene, safetensors_cases(good, 2, with_values=True), ".safetensors"

    small = branch_tensors(blocks=1, ffn=256)
    good = write_file(folder / "branch.safetensors", small, {"mirage.layout": "white_latent"}).read_bytes()
    yield "side branch", branch_file, safetensors_cases(good, 3, with_values=False), ".safetensors"
    good = write_file(folder / "lora.safetensors", lora_tensors(), {"mirage.lora_alpha": "4"}).read_bytes()
    yield "lora", lora_file, safetensors_cases(good, 4, with_values=False), ".safetensors"

    yield from _segment_trials(folder)
    text = preset("orbit_left").to_json()
    own = [*hostile.damaged(text.encode(), 5), *hostile.json_lies(text)]
    yield "camera path", lambda path: CameraPath.from_json(path.read_text("utf-8")), iter(own), ".json"
    yield from _format_trials()
    yield from _chain_trials(folder)
    yield from _colmap_trials(folder)
    text = json.dumps({"grow": 4, "hold": 1, "min_area": 0.1, "weights": {"sky_far": 0.5, "unsure_depth": 0.8}})
    rules = [*hostile.json_lies(text), *hostile.deep_lies(text, 9, 80)]
    yield "mask rules", lambda path: MaskRules.of(plain_json(path.read_bytes())), iter(rules), ".json"


def _segment_trials(folder: Path) -> Iterator[tuple[str, Loader, Iterator[hostile.Case], str]]:
    film, key = filmed(1), "0123456789abcdef"
    home = folder / "segments"
    home.mkdir()
    kept = write_segment(
        home / f"{key}.json", film, key=key, previous="", made_from={"seed": "1"}, places={}, checksums={}
    )

    def load_segment(path: Path) -> object:
        segment = read_segment(path)
        check_tensors(segment)
        kept = load_rollout(segment, file_of=lambda _: segment)
        check_foreign(kept)
        return kept

    def with_json(path: Path) -> object:
        inside = home / f"{key}.json"
        inside.write_bytes(path.read_bytes())
        return load_segment(inside)

    def with_tensors(path: Path) -> object:
        kept.tensors_path.write_bytes(path.read_bytes())
        kept.path.write_bytes(described)
        return load_segment(kept.path)

    described, tensors = kept.path.read_bytes(), kept.tensors_path.read_bytes()
    cases = [*hostile.damaged(described, 6), *hostile.json_lies(described.decode())]
    cases += hostile.deep_lies(described.decode(), 8, 150)
    yield "segment", with_json, iter(cases), ".json"
    yield "segment's tensors", with_tensors, hostile.damaged(tensors, 7), ".safetensors"


def _chain_trials(folder: Path) -> Iterator[tuple[str, Loader, Iterator[hostile.Case], str]]:
    """Three segments of one film, each resting on the ones before; the description of any of them is a stranger's."""
    home = folder / "chain"
    home.mkdir()
    paths = [kept.file.path for kept in Folder(home).film(2)]
    described = [path.read_bytes() for path in paths]

    def with_one(number: int) -> Loader:
        def load(path: Path) -> object:
            for index, one in enumerate(paths):
                one.write_bytes(path.read_bytes() if index == number else described[index])
            files = {file.key: file for file in map(read_segment, paths)}
            for file in files.values():
                check_tensors(file)
            found = load_rollout(max(files.values(), key=lambda file: file.number), file_of=files.__getitem__)
            check_foreign(found)
            return found

        return load

    for number, text in enumerate(described):
        cases = [*hostile.json_lies(text.decode()), *hostile.deep_lies(text.decode(), 20 + number, 60)]
        yield f"segment {number} of a chain", with_one(number), iter(cases), ".json"


def _colmap_trials(folder: Path) -> Iterator[tuple[str, Loader, Iterator[hostile.Case], str]]:
    home, track = folder / "colmap", random_track(4)
    home.mkdir()
    good = encode(track, "colmap")
    for name in ("cameras.txt", "images.txt"):

        def load(path: Path, name: str = name) -> object:
            for other in ("cameras.txt", "images.txt"):
                (home / other).write_bytes(path.read_bytes() if other == name else good[other])
            return read(home, "colmap", said(track))

        cases = [*hostile.damaged(good[name], 10), *hostile.word_lies(good[name].decode(), 11, 120)]
        yield f"COLMAP {name} cameras", load, iter(cases), ".txt"


def _format_trials() -> Iterator[tuple[str, Loader, Iterator[hostile.Case], str]]:
    track = random_track(3, is_centred=True, is_one_lens=True)
    options = said(track)
    for name, one in FORMATS.items():
        if one.read is None:
            continue
        good = _WORLDSCORE if one.write is None else next(iter(encode(track, name).values()))
        cases = list(hostile.damaged(good, sum(name.encode())))
        if good.lstrip()[:1] == b"{":
            cases += [*hostile.json_lies(good.decode()), *hostile.deep_lies(good.decode(), 12, 60)]
        elif name == "npy":
            cases += hostile.npy_lies()
        elif good.isascii():
            cases += hostile.word_lies(good.decode(), 13, 60)

        def load(path: Path, name: str = name, options: ReadOptions = options) -> object:
            try:
                decode(path.read_bytes(), "auto", options)
            except ValueError:
                pass
            return read(path, name, options)

        yield f"{name} cameras", load, iter(cases), one.extension or ".txt"


def trial(load: Loader, path: Path) -> tuple[str, str]:
    """("loaded" | "refused" | the exception's name, what it said)."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        load(path)
        return "loaded", ""
    except ValueError as error:
        return "refused", str(error)
    except BaseException as error:
        return type(error).__name__, str(error)[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(folder: Path) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGPROF, _hung)
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    all_trials = trials(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for name, load, cases, ending in all_trials:
        for index, (label, content) in enumerate(cases):
            path = folder / f"case{ending}"
            path.write_bytes(content)
            start = time.process_time()
            outcome, words = trial(load, path)
            seconds = time.process_time() - start
            told = {"loader": name, "case": f"{index}: {label}", "outcome": outcome, "words": words}
            found.append({**told, "seconds": seconds})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    json.dump({"found": found, "ran": (folder / "it_ran").exists(), "peak_kib": peak}, sys.stdout)


def _hung(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
