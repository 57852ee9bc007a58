"""A WebSocket client of the few parts the host's event stream needs (RFC 6455, client side, no TLS, no extensions)."""

from __future__ import annotations

import base64
import os
import socket
import struct

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class WebSocketClosed(ConnectionError):
    """The other side has closed the stream."""


class WebSocket:
    """One open stream. `receive` gives str for text messages and bytes for binary ones."""

    def __init__(self, host: str, port: int, path: str, *, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._buffer = b""
        self._shake_hands(host, port, path)

    def send(self, text: str) -> None:
        self._send_frame(_TEXT, text.encode())

    def receive(self, timeout: float) -> str | bytes | None:
        """The next whole message, or None when none began within `timeout` seconds.

        Raises WebSocketClosed when the other side has gone.
        """
        self._socket.settimeout(timeout)
        try:
            self._fill(1)
        except TimeoutError:
            return None
        self._socket.settimeout(60)  # a message that has begun is read to its end
        kind, parts = 0, []
        while True:
            is_last, opcode, payload = self._read_frame()
            if opcode == _PING:
                self._send_frame(_PONG, payload)
            elif opcode == _CLOSE:
                raise WebSocketClosed("The server closed the event stream.")
            elif opcode != _PONG:
                kind = opcode or kind
                parts.append(payload)
                if is_last:
                    message = b"".join(parts)
                    return message.decode() if kind == _TEXT else message
            if not parts and not self._buffer:
                return None

    def close(self) -> None:
        self._socket.close()

    def _shake_hands(self, host: str, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill(len(self._buffer) + 1)
        answer, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise ConnectionError(f"The server refused the event stream: {answer[:200]!r}.")

    def _read_frame(self) -> tuple[bool, int, bytes]:
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        return bool(first & 0x80), first & 0x0F, self._take(length)

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        mask, length = os.urandom(4), len(payload)
        if length < 126:
            header = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            header = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            header = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, length)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._socket.sendall(header + mask + masked)

    def _take(self, count: int) -> bytes:
        self._fill(count)
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            received = self._socket.recv(1 << 16)
            if not received:
                raise WebSocketClosed("The server went away.")
            self._buffer += received
