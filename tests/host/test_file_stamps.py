"""Which files that a typed-in text names count for a segment, and which are not even looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def stamp(pack):
    return pack("segment_keys").file_stamp


@pytest.fixture
def folders(host, tmp_path, monkeypatch):
    """The host's input, output, temp and models below a folder, and a folder beside them."""
    for name in ("input", "output", "temp", "models/loras", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    paths = host.folder_paths
    for name in ("input", "output", "temp"):
        monkeypatch.setattr(paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    monkeypatch.setattr(paths, "models_dir", str(tmp_path / "models"))
    return tmp_path


@pytest.mark.parametrize("name", ["input/a.png", "output/a.latent", "temp/a.txt", "models/loras/a.yaml"])
def test_a_file_in_a_folder_of_the_host_counts_with_size_and_time(stamp, folders, name):
    path = folders / name
    path.write_text("one")
    before = stamp(str(path))
    os.utime(path, (1, 1))
    assert before is not None and before.startswith("3 bytes") and stamp(str(path)) != before


def test_a_file_elsewhere_does_not_count(stamp, folders):
    path = folders / "elsewhere" / "a.png"
    path.write_text("one")
    assert stamp(str(path)) is None
    assert stamp(str(folders / "input" / ".." / "elsewhere" / "a.png")) is None


@pytest.mark.parametrize("name", [r"\\server\share\a.png", "//server/share/a.png", r"\\?\UNC\server\a", r"/\server\a"])
def test_the_name_of_a_file_on_another_machine_opens_no_connection(stamp, folders, monkeypatch, name):
    for look in ("stat", "is_file", "exists"):
        monkeypatch.setattr(Path, look, lambda *_, **__: pytest.fail("the disk was asked"))
    monkeypatch.setattr(os.path, "isfile", lambda *_: pytest.fail("the disk was asked"))
    assert stamp(name) is None


@pytest.mark.parametrize("text", ["", "a photo of a room", "/etc/passwd", "x\ny", "a\0b", "../../etc/passwd"])
def test_a_text_that_names_no_file_of_the_host_has_no_stamp(stamp, folders, text):
    assert stamp(text) is None
