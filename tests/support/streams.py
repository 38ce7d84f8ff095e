"""A client of streams that sees every byte: raw sockets, chunks and events."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A stream that gives nothing for so long is broken.
PATIENCE_S = 60.0
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


@dataclass
class Stream:
    """A connection with one answer at a time."""

    connection: socket.socket
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    _held: bytes = b""

    def send(self, path: str, body: Any, headers: Mapping[str, str] | None = None, version: str = "1.1") -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"host": "test", "content-type": "application/json", "content-length": str(len(content))}
        head = [f"POST {path} HTTP/{version}", *(f"{n}: {v}" for n, v in {**lines, **(headers or {})}.items())]
        self.connection.sendall("\r\n".join([*head, "", ""]).encode() + content)

    def read_head(self) -> int:
        """The status of the next answer."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.status = int(first.split()[1])
        return self.status

    def chunks(self) -> Iterator[bytes]:
        """The chunks of the answer, up to its end."""
        while size := int(self._until(b"\r\n"), 16):
            chunk = self._exactly(size + 2)
            assert chunk.endswith(b"\r\n")
            yield chunk[:-2]
        assert self._exactly(2) == b"\r\n"

    def body(self) -> bytes:
        """All of the answer that its framing announces."""
        if "content-length" in self.headers:
            return self._exactly(int(self.headers["content-length"]))
        if "transfer-encoding" in self.headers:
            return b"".join(self.chunks())
        while received := self.connection.recv(1 << 16):
            self._held += received
        body, self._held = self._held, b""
        return body

    def json(self) -> Any:
        return json.loads(self.body())

    def close(self) -> None:
        self.connection.close()

    def is_at_end(self) -> bool:
        """Whether the server closes the connection, with nothing behind the last answer."""
        return not self._held and self.connection.recv(1) == b""

    def _until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._more()
        found, self._held = self._held.split(end, 1)
        return found + end

    def _exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            self._more()
        found, self._held = self._held[:count], self._held[count:]
        return found

    def _more(self) -> None:
        received = self.connection.recv(1 << 16)
        if not received:
            raise ConnectionError(f"the connection ended after {self._held[-200:]!r}")
        self._held += received


def connect(port: int, receive_bytes: int = 0) -> Stream:
    """A connection; the kernel holds about `receive_bytes` of what the client has not read, where that is not 0."""
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    return Stream(connection)


def ask(port: int, path: str, body: Any, headers: Mapping[str, str] | None = None, version: str = "1.1") -> Stream:
    """A connection on which the request is sent, and the head of its answer read."""
    stream = connect(port)
    stream.send(path, body, headers, version)
    stream.read_head()
    return stream


def completion(prompt: str, tokens: int, *, stream: bool = True, model: str = "toy", **more: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": stream, **more}


def texts(events: bytes) -> str:
    """The text of a completion's stream."""
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n") if line.startswith(b"data: {")]
    documents = [json.loads(line) for line in lines]
    return "".join(document["choices"][0]["text"] for document in documents if document.get("choices"))
