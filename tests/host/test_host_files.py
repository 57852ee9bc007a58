"""Names and places of files in the host's folders: none that another system reads differently, none given twice."""

from __future__ import annotations

import os
import threading
import time
import types
from pathlib import Path

import pytest


@pytest.fixture
def files(host, pack, tmp_path):
    """host_files, in a host whose output folder is the test's own."""
    folders, module = host.folder_paths, pack("host_files")
    before = folders.get_output_directory()
    folders.set_output_directory(str(tmp_path))
    yield types.SimpleNamespace(**vars(module), output=tmp_path, module=module)
    folders.set_output_directory(before)


@pytest.mark.parametrize("name", [
    "con", "con .txt", "NUL  .tar.gz", "com1", "COM\u00b9", "lpt\u00b3.json", "CONIN$", "conout$.txt", "a/aux .b",
])  # fmt: skip
def test_names_that_windows_gives_to_devices_are_refused(files, name):
    assert files.name_problem(name) == "a part of it is the name of a device"


@pytest.mark.parametrize("name", ["console", "com", "com10", "null", "a con", "conin", "a/nul_1.txt"])
def test_names_that_only_begin_like_a_device_are_allowed(files, name):
    assert files.name_problem(name) is None


@pytest.mark.parametrize("letter", '<>|"?*')
def test_letters_that_windows_has_in_no_name_are_refused(files, letter):
    assert "Windows has in no name" in files.name_problem(f"wh{letter}t.json")


def test_a_refused_name_for_the_output_folder_says_what_is_wrong_with_it(files):
    with pytest.raises(
        ValueError, match=r"no name for a file in the output folder \(a part of it is the name of a dev"
    ):
        files.output_path("films/con .x", ".mp4")


@pytest.mark.parametrize("extension", ["", ".json"])
def test_two_servers_that_look_at_the_same_moment_are_given_two_places(files, monkeypatch, extension):
    both_have_looked, look, given = threading.Barrier(2), files.output_path, []
    this_server = threading.local()

    def looked_together(prefix, extension):
        path = look(prefix, extension)
        if not hasattr(this_server, "has_looked"):
            this_server.has_looked = True
            both_have_looked.wait(20)
        return path

    monkeypatch.setattr(files.module, "output_path", looked_together)
    servers = [threading.Thread(target=lambda: given.append(files.taken_place("x/y", extension))) for _ in range(2)]
    for one in servers:
        one.start()
    for one in servers:
        one.join()
    assert sorted(one.name for one in given) == [f"y_00001{extension}", f"y_00002{extension}"]
    assert all(one.is_file() == bool(extension) and one.exists() for one in given)


def test_a_folder_that_takes_nothing_is_told_in_one_sentence(files):
    (files.output / "x").write_text("a file where the folder should be")
    with pytest.raises(
        files.UnwritableFolder, match=r"^The folder '.*' of ComfyUI's output folder cannot be written \("
    ):
        files.taken_place("x/y", ".json")


def test_only_files_that_nobody_has_written_to_for_a_day_are_swept(files):
    old, new = files.output / "old.part", files.output / "new.part"
    for path in (old, new):
        path.write_text("half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    files.swept([old, new, files.output / "gone.part", Path("/")])
    assert list(files.output.iterdir()) == [new]
