"""A page's ear: the messages of a real server, over its websocket, as they arrive.

Only what this needs of RFC 6455: text and binary messages from the server, each in one frame or
several, answered pings. Nothing is sent but the handshake and pongs.
"""

import base64
import contextlib
import json
import os
import socket
import struct
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Message:
    """kind: the message's type, or "binary". at: seconds of the monotonic clock."""

    kind: str
    data: dict | bytes
    at: float


class Listener:
    """Open in a `with` block; post graphs with its `client`, and see `messages` grow."""

    def __init__(self, url: str):
        self.client = uuid.uuid4().hex
        self.messages: list[Message] = []
        place = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port), timeout=60)
        self._stream = self._socket.makefile("rb")
        self._send_handshake(place.netloc)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._stream.close()
        self._socket.close()

    def of(self, kind: str) -> list[Message]:
        return [message for message in list(self.messages) if message.kind == kind]

    def wait(self, wanted, seconds: float) -> Message:
        """The first message that `wanted` accepts. Raises: TimeoutError with what came instead."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in list(self.messages):
                if wanted(message):
                    return message
            time.sleep(0.005)
        raise TimeoutError(f"not in {seconds} s; heard {[m.kind for m in self.messages][-20:]}")

    def _send_handshake(self, host: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET /ws?clientId={self.client} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        status = self._stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no websocket: {status!r}")
        while self._stream.readline().strip():
            pass

    def _listen(self) -> None:
        parts, kind = [], TEXT
        with contextlib.suppress(OSError, ValueError, EOFError):
            while True:
                last, code, data = self._frame()
                if code == PING:
                    self._pong(data)
                elif code == CLOSE:
                    return
                elif code in (CONTINUED, TEXT, BINARY):
                    kind = code or kind
                    parts.append(data)
                    if last:
                        self._take(kind, b"".join(parts))
                        parts = []

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._read(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        return bool(first & 0x80), first & 0x0F, self._read(size)

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if data is None or len(data) < size:
            raise EOFError
        return data

    def _pong(self, data: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | PONG, 0x80 | len(data)]) + mask + masked)

    def _take(self, kind: int, data: bytes) -> None:
        now = time.monotonic()
        if kind == BINARY:
            self.messages.append(Message("binary", data, now))
        else:
            content = json.loads(data)
            self.messages.append(Message(content["type"], content["data"], now))
