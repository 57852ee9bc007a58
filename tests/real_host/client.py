"""Talking to a running ComfyUI as its web page does: HTTP for questions, one event stream for progress."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .websocket import WebSocket

Prompt = dict[str, dict[str, Any]]
_BINARY_TEXT, _BINARY_PREVIEW = 3, 4


class PromptRefused(ValueError):
    """The server did not accept a prompt; the message lists what is wrong with which node."""


class PromptFailed(RuntimeError):
    """A node raised an error. node_id and node_type are those the server reports; error is its message alone."""

    def __init__(self, node_id: str, node_type: str, error: str) -> None:
        super().__init__(f"node {node_id} ({node_type}): {error}")
        self.node_id, self.node_type, self.error = node_id, node_type, error


class PromptInterrupted(RuntimeError):
    """The prompt was stopped by an interrupt."""


@dataclass(frozen=True)
class Event:
    """Something the server told: kind is its name, or "text" (progress text of a node) or "preview" (a picture).

    data: the JSON it came with; {"node_id", "text"} for text, {"node_id", ..., "picture": bytes} for previews.
    """

    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A prompt that ran to its end: outputs per node id as in the server's history, and all events on the way."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    events: list[Event] = field(repr=False)

    def executed_nodes(self) -> list[str]:
        """Ids of the nodes that really ran (were not taken from the cache), in order."""
        started = [event.data.get("node") for event in self.events if event.kind == "executing"]
        return [node for node in started if node]


class Client:
    """One user of a server."""

    def __init__(self, url: str) -> None:
        self.url, self.id = url, uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON at a path such as "/object_info"."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read()

    def post(self, path: str, message: Any) -> Any:
        """Send JSON. Returns the JSON of the answer, or None when it is empty."""
        request = urllib.request.Request(
            self.url + path, json.dumps(message).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def queue(self, prompt: Prompt, **extra: Any) -> str:
        """Put an API-form prompt on the queue. Returns its id. Raises PromptRefused."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.id, **extra})
        except urllib.error.HTTPError as error:
            raise PromptRefused(_refusal(error.read())) from None
        if answer.get("node_errors"):  # the server would run the rest and leave these outputs out
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            raise PromptRefused(_refusal(json.dumps(answer).encode()))
        return answer["prompt_id"]

    def run(
        self, prompt: Prompt, *, on_event: Callable[[Event], None] | None = None, timeout: float = 600, **extra: Any
    ) -> Finished:
        """Queue a prompt and wait for its end.

        Raises PromptRefused, PromptFailed, PromptInterrupted, and TimeoutError after `timeout` seconds.
        """
        stream, events = self._open_stream(), []
        try:
            prompt_id = self.queue(prompt, **extra)
            deadline = time.monotonic() + timeout
            while not self._is_over(stream, prompt_id, events, on_event):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"The prompt had not ended after {timeout:.0f} s.")
        finally:
            stream.close()
        # The history is written a moment after the last event.
        for _ in range(100):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Finished(prompt_id, history[prompt_id]["outputs"], events)
            time.sleep(0.05)
        raise TimeoutError("The server has no history of the prompt that it finished.")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free_memory(self) -> None:
        """Forget cached results and unload models before the next prompt."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def upload_image(self, path: Path, name: str | None = None) -> str:
        """Put a picture into the server's input folder. Returns the name for LoadImage."""
        name, boundary = name or path.name, uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{boundary}\r\n'
            f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/upload/image", body, kind)) as answer:
            return json.loads(answer.read())["name"]

    def fetch(self, made: dict[str, str]) -> bytes:
        """The bytes of a file from a node's outputs, given as the server lists it (filename, subfolder, type)."""
        wanted = {key: made.get(key, "") for key in ("filename", "subfolder", "type")}
        return self.get_bytes("/view?" + urllib.parse.urlencode(wanted))

    def _open_stream(self) -> WebSocket:
        host, port = self.url.removeprefix("http://").split(":")
        stream = WebSocket(host, int(port), f"/ws?clientId={self.id}", timeout=30)
        stream.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        return stream

    def _is_over(
        self, stream: WebSocket, prompt_id: str, events: list[Event], on_event: Callable[[Event], None] | None
    ) -> bool:
        message = stream.receive(timeout=1.0)
        event = _event(message) if message is not None else None
        if event is None:
            return False
        events.append(event)
        if on_event is not None:
            on_event(event)
        if event.data.get("prompt_id") != prompt_id:
            return False
        if event.kind == "execution_error":
            raise PromptFailed(event.data["node_id"], event.data["node_type"], event.data["exception_message"].strip())
        if event.kind == "execution_interrupted":
            raise PromptInterrupted("The prompt was interrupted.")
        return event.kind == "execution_success"


def made_files(outputs: dict[str, Any]) -> list[dict[str, str]]:
    """All files that one node's outputs list, pictures and videos alike."""
    return [one for listed in outputs.values() if isinstance(listed, list) for one in listed if _is_file(one)]


def _is_file(listed: Any) -> bool:
    return isinstance(listed, dict) and "filename" in listed


def _event(message: str | bytes) -> Event | None:
    if isinstance(message, str):
        told = json.loads(message)
        return Event(told["type"], told.get("data") or {})
    (kind,) = struct.unpack(">I", message[:4])
    if kind not in (_BINARY_TEXT, _BINARY_PREVIEW):
        return None
    (length,) = struct.unpack(">I", message[4:8])
    head, rest = message[8 : 8 + length].decode(), message[8 + length :]
    if kind == _BINARY_TEXT:
        return Event("text", {"node_id": head, "text": rest.decode()})
    return Event("preview", json.loads(head) | {"picture": rest})


def _refusal(body: bytes) -> str:
    """One line per complaint of a 400 answer."""
    try:
        told = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    lines = (
        [f"{told['error'].get('message', '')} {told['error'].get('details', '')}".strip()] if "error" in told else []
    )
    for node, complaint in (told.get("node_errors") or {}).items():
        for error in complaint.get("errors", []):
            lines.append(f"node {node} ({complaint.get('class_type')}): {error.get('message')}: {error.get('details')}")
    return "\n".join(lines)
