"""A folder over HTTP, with ranges, that cuts connections and refuses as the test says."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_RANGE = re.compile(r"bytes=(\d+)-$")


@dataclass
class RangeServer:
    """What the server does; a test may change it between requests."""

    folder: Path
    address: str = ""
    cut_after: int | None = None  # bytes of a body, after which the connection ends; None: never
    knows_ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # of the next requests, in place of answers
    token: str = ""  # that requests need in the header Authorization
    hold: threading.Event | None = None  # requests wait for it
    stops_after: int | None = None  # bytes of a blob, after which nothing comes and the connection stays
    stopped: threading.Event = field(default_factory=threading.Event)  # it has come to that
    ended: threading.Event = field(default_factory=threading.Event)  # the block has ended
    begins: list[tuple[str, int]] = field(default_factory=list)  # path and first byte of every request


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server_state: RangeServer, *arguments: Any, **named: Any) -> None:
        self._state = server_state
        super().__init__(*arguments, directory=str(server_state.folder), **named)

    def log_message(self, format: str, *arguments: Any) -> None:
        return

    def do_GET(self) -> None:
        state = self._state
        match = _RANGE.match(self.headers.get("Range", ""))
        begin = int(match[1]) if match and state.knows_ranges else 0
        state.begins.append((self.path, begin))
        if state.hold is not None:
            state.hold.wait()
        if state.statuses:
            return self._refuse(state.statuses.pop(0))
        if state.token and self.headers.get("Authorization") != state.token:
            return self._refuse(403)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_GET()
        content = path.read_bytes()
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        body = content[begin:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body if state.cut_after is None else body[: state.cut_after]
        if state.stops_after is not None and "blobs" in self.path:
            self.wfile.write(body[: state.stops_after])
            self.wfile.flush()
            state.stopped.set()
            state.ended.wait()
            self.close_connection = True
            return
        self.wfile.write(sent)
        if len(sent) < len(body):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", "0")
        self.end_headers()


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    """The server of a folder, on a port of its own, until the block ends."""
    state = RangeServer(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.ended.set()
        if state.hold is not None:
            state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
