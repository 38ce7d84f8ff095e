"""Triton's HTTP API, as far as a node needs it: what is loaded, load and unload, and one whole HTTP body in and out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import requests

from handlers.contract import CHECK_ANSWER, CHECK_HEADER, HEADER_LENGTH_HEADER
from tsctl.errors import NodeError
from tsctl.nodes.node import Unreachable
from tsctl.nodes.observed import Reply
from tsctl.nodes.session import Connection, unguarded

CHANGE_TIMEOUT_S = 30.0
READY = "READY"
#: Says that the whole body is the model's input, without a head of JSON before it.
WHOLE_BODY = {HEADER_LENGTH_HEADER: "0"}


class Refused(NodeError):
    """Triton answered with an error."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason  # in Triton's words


class Client:
    """Calls one Triton.

    Args:
        url: its address, such as http://127.0.0.1:8200.
        read_timeout_s: for it to describe its state.
        guard: called before each request; raises where it must not be sent.
    """

    def __init__(self, url: str, read_timeout_s: float, guard: Callable[[], None] = unguarded) -> None:
        self._url = url
        self._read_timeout_s = read_timeout_s
        self._connection = Connection(guard)

    def is_live(self) -> bool:
        """Whether it answers."""
        try:
            return self._send("GET", "/v2/health/live", None, self._read_timeout_s).status_code == 200
        except Unreachable:
            return False

    def states(self) -> dict[str, str]:
        """State of each model that was ever loaded, such as READY, by Triton's name."""
        index = self._call("/v2/repository/index", self._read_timeout_s)
        return {entry["name"]: entry["state"] for entry in index if entry.get("state")}

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a loaded model."""
        answer = self._send("GET", f"/v2/models/{quote(name)}/config", None, self._read_timeout_s)
        return dict(self._checked(answer, f"{name} has no configuration"))

    def load(self, name: str, timeout_s: float) -> None:
        """Load the model, or what has changed of it; returns when its workers are ready.

        Raises:
            Refused: a worker must not serve; what was loaded before stays.
        """
        self._call(f"/v2/repository/models/{quote(name)}/load", timeout_s)

    def unload(self, name: str) -> None:
        """Begin to unload the model: it answers the requests that it has."""
        self._call(f"/v2/repository/models/{quote(name)}/unload", CHANGE_TIMEOUT_S)

    def predict(self, name: str, body: bytes, media_type: str, timeout_s: float = CHANGE_TIMEOUT_S) -> Reply:
        """The model's own answer to one request, whatever its status, past cache and metrics."""
        headers = {
            "content-type": media_type, "cache-control": "no-store", CHECK_HEADER: CHECK_ANSWER, **WHOLE_BODY,
        }  # fmt: skip
        answer = self._send("POST", path_of(name), body, timeout_s, headers)
        return unwrap(answer.status_code, answer.headers, answer.content)

    def _call(self, path: str, timeout_s: float) -> Any:
        return self._checked(self._send("POST", path, b"", timeout_s), path)

    def _checked(self, answer: requests.Response, subject: str) -> Any:
        try:
            content = json.loads(answer.content) if answer.content else None
        except ValueError:
            raise NodeError(f"{self._url} does not answer like Triton: {answer.text[:100]!r}") from None
        if answer.status_code == 200:
            return content
        reason = str(content.get("error", "")) if isinstance(content, dict) else ""
        raise Refused(f"{subject}: Triton answered {answer.status_code}: {reason[:2000]}", reason)

    def _send(
        self, method: str, path: str, body: bytes | None, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        return self._connection.send(method, self._url + path, headers or {}, body, timeout_s)


def path_of(name: str) -> str:
    """Where a model answers."""
    return f"/v2/models/{quote(name)}/infer"


def unwrap(status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """The worker's answer in the envelope that Triton's holds; an error of Triton itself stays as it is."""
    length = headers.get(HEADER_LENGTH_HEADER, "")
    if status != 200 or not length.isdigit():
        return Reply(status, content, headers)
    head, _, body = content[int(length) :].partition(b"\n\n")
    lines = head.decode("latin-1").split("\n")
    named = (line.partition(": ") for line in lines[1:])
    return Reply(int(lines[0]), body, requests.structures.CaseInsensitiveDict({n: value for n, _, value in named}))
