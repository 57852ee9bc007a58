"""Starting and stopping a real ComfyUI server as a child process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_SECONDS = 240  # a cold disk on a slow machine; 10 s is usual


class ServerFailed(RuntimeError):
    """The server did not start or died; the message carries the end of its log."""


@dataclass(frozen=True)
class Server:
    """A running ComfyUI. url has no slash at its end; log is where its output goes, None for the terminal."""

    url: str
    process: subprocess.Popen
    log: Path | None

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def log_tail(self, lines: int = 40) -> str:
        if self.log is None:
            return "(its output is above)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def running_server(
    python: Path,
    comfyui: Path,
    folders: Sequence[str],
    *,
    log: Path | None,
    port: int | None = None,
    use_cpu: bool | None = None,
) -> Iterator[Server]:
    """A server that is ready when the block begins and gone when it ends, however it ends.

    folders: command line options that say where models, custom nodes, input and output are.
    port: None picks a free one.  use_cpu: None looks for a GPU.
    Raises ServerFailed with the end of the log.
    """
    port = port or free_port()
    command = [str(python), "main.py", "--port", str(port), *folders, *unattended_options(use_cpu)]
    process = _started(command, comfyui, log)
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        stop(process)


def unattended_options(use_cpu: bool | None) -> list[str]:
    """Options of a server without a person in front of it: no cloud nodes, no database file, no browser."""
    use_cpu = not has_gpu() if use_cpu is None else use_cpu
    options = ["--disable-api-nodes", "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    options += ["--preview-method", "latent2rgb"]
    return [*options, "--cpu"] if use_cpu else options


def has_gpu() -> bool:
    """Whether PyTorch will find a GPU, told without loading it: NVIDIA or AMD drivers, or an Apple chip."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    if Path("/dev/kfd").exists():
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def stop(process: subprocess.Popen) -> None:
    """End the server and everything it started; politely at first."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait(10)


def _started(command: list[str], comfyui: Path, log: Path | None) -> subprocess.Popen:
    if log is None:
        return subprocess.Popen(command, cwd=comfyui, **_own_group())
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=comfyui, stdout=output, stderr=subprocess.STDOUT, **_own_group())


def _own_group() -> dict:
    """Ctrl-C in the terminal must reach us alone; we then stop the server in order."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # pyright: ignore[reportAttributeAccessIssue]
    return {"start_new_session": True}


def _signal_group(process: subprocess.Popen, number: int) -> None:
    if os.name == "nt":
        process.terminate()
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if not server.is_alive():
            raise ServerFailed(f"ComfyUI stopped while starting. The end of its log:\n{server.log_tail()}")
        try:
            with urllib.request.urlopen(f"{server.url}/system_stats", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ServerFailed(f"ComfyUI was not ready after {_START_SECONDS} s. The end of its log:\n{server.log_tail()}")
