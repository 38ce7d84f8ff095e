"""A node that answers as a language model's worker does, and as the request's own text says."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from handlers.contract import PROTOCOL_HEADER, TOKENS_COMMENT, TOKENS_HEADER

#: Tokens of every prompt.
PROMPT = 7


@dataclass(frozen=True)
class Script:
    """What becomes of one request; it travels as the text of its last message."""

    tokens: int = 5
    wait_s: float = 0.0  # until the first byte
    gap_s: float = 0.0  # between two tokens
    end: str = "done"  # done, early (no end, but whole HTTP), cut (the connection breaks), failed (the event `error`)
    after: int = 10**9  # tokens after which it ends so, or waits for `hold_s`
    hold_s: float = 0.0
    status: int = 200
    style: str = "worker"  # or vllm, which says its usage in the documents alone

    def text(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__})


@dataclass
class ScriptedNode:
    """The node; `requests` is all that came but its health checks."""

    name: str
    port: int
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # clients that hung up while they were sent something


@contextmanager
def scripted_node(name: str) -> Iterator[ScriptedNode]:
    """The node on a port of its own while the block runs; `name` stands in its answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    node = ScriptedNode(name, server.server_address[1])
    server.node = node  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_OPTIONS(self) -> None:
        self._whole(200, b"", {})

    def do_POST(self) -> None:
        node: ScriptedNode = self.server.node  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        node.requests.append({"path": self.path, "headers": headers, "body": body})
        script = _script_of(body)
        time.sleep(script.wait_s)
        try:
            if script.status != 200:
                problem = {"type": "urn:tsctl:problem:unavailable", "title": "t", "detail": 'All are "busy".\n'}
                kind = {"content-type": "application/problem+json", "retry-after": "1"}
                self._whole(script.status, json.dumps(problem).encode(), kind)
            elif body.get("stream"):
                self._stream(script, node)
            else:
                self._answer(script, node)
        except (BrokenPipeError, ConnectionResetError):
            node.left.append(headers.get("x-request-id", ""))
            self.close_connection = True

    def _answer(self, script: Script, node: ScriptedNode) -> None:
        usage = {"prompt_tokens": PROMPT, "completion_tokens": script.tokens}
        content: dict[str, Any]
        choice = {"index": 0, "message": {"role": "assistant", "content": node.name}, "finish_reason": "length"}
        if self.headers[PROTOCOL_HEADER] == "openai-embeddings":
            content = {
                "object": "list",
                "data": [],
                "model": "m",
                "usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT},
            }
        else:
            content = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        told = f"prompt={PROMPT};answer={script.tokens};finish=length"
        headers = {"content-type": "application/json", **({TOKENS_HEADER: told} if script.style == "worker" else {})}
        self._whole(200, json.dumps(content).encode(), headers)

    def _whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, script: Script, node: ScriptedNode) -> None:
        self.send_response(200)
        for name, value in (("content-type", "text/event-stream"), ("transfer-encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        for number in range(min(script.tokens, script.after)):
            self._event(self._chunk({"content": f"{node.name}{number} "}, None))
            time.sleep(script.gap_s)
        time.sleep(script.hold_s)
        if script.end == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if script.end == "failed":
            self._send(b'event: error\ndata: {"error": {"message": "no"}}\n\n')
            self._tell(script.after, "error")
        elif script.end == "done":
            for number in range(script.after, script.tokens):
                self._event(self._chunk({"content": f"{node.name}{number} "}, None))
            self._event(self._chunk({}, "stop"))
            if script.style == "worker":
                self._tell(script.tokens, "stop")
            else:
                usage = {"prompt_tokens": PROMPT, "completion_tokens": script.tokens}
                self._event({"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": usage})
            self._send(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _tell(self, tokens: int, finish: str) -> None:
        told = f"{TOKENS_COMMENT}prompt={PROMPT};answer={tokens};finish={finish}\n\n".encode()
        self._send(told[:20])  # Envoy gets it in two parts
        self._send(told[20:])

    def _chunk(self, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    def _event(self, content: dict[str, Any]) -> None:
        self._send(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def _script_of(body: dict[str, Any]) -> Script:
    text = body["messages"][-1]["content"] if "messages" in body else body.get("prompt", "")
    return Script(**json.loads(text)) if str(text).startswith("{") else Script()
