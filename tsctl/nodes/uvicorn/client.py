"""A typed client of a uvicorn node: its admin API, and one request for an answer. Each method is one request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import requests
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from handlers.contract import CHECK_ANSWER, CHECK_HEADER
from tsctl.errors import NodeError
from tsctl.nodes.observed import Reply
from tsctl.nodes.session import Connection, unguarded
from tsctl.nodes.uvicorn.keys import Keys, read_keys

#: For the node to take a change, or to answer a request.
CHANGE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Worker:
    """A worker that is READY."""

    id: str
    pid: int


@dataclass(frozen=True, config=ConfigDict(extra="allow"))
class VersionState:
    """One version as the node describes it."""

    model: str
    version: str
    archive: str  # file name in the store
    state: Literal["starting", "serving", "refused", "ending"]
    failure: str
    is_default: bool
    workers: int | None  # None: not known until it is unpacked
    ready: tuple[Worker, ...]
    waiting: int
    startup_s: float
    address: str = ""  # where it answers; empty: where the node does


class AdminClient:
    """Calls one node.

    Args:
        url: its address.
        key_file: with its tokens.
        has_token: requests for answers need theirs.
        read_timeout_s: for the node to describe its state.
        guard: called before each request; raises where the token must not be sent.
    """

    def __init__(
        self, url: str, key_file: Path, has_token: bool, read_timeout_s: float, guard: Callable[[], None] = unguarded
    ) -> None:
        self._url, self._key_file, self._has_token = url, key_file, has_token
        self._read_timeout_s = read_timeout_s
        self._connection = Connection(guard)
        self._keys: Keys | None = None

    def versions(self) -> list[VersionState]:
        """Every version that the node knows."""
        return [_state(entry) for entry in self._call("GET", "", None, self._read_timeout_s)]

    def version(self, model: str, version: str) -> VersionState | None:
        """One version; None where the node does not know it."""
        content = self.describe(model, version)
        return _state(content) if content is not None else None

    def describe(self, model: str, version: str) -> dict[str, Any] | None:
        """The node's own description of a version; None where it does not know it."""
        content: dict[str, Any] | None = self._call("GET", _path(model, version), None, self._read_timeout_s)
        return content

    def register(self, model: str, version: str, archive: str, digest: str, workers: int | None) -> None:
        """Have the node register an archive of its store."""
        self._call("POST", _path(model, version), {"archive": archive, "digest": digest, "workers": workers})

    def scale(self, model: str, version: str, workers: int) -> None:
        """Have the node start or end workers."""
        self._call("PUT", f"{_path(model, version)}/workers", {"workers": workers})

    def set_default(self, model: str, version: str) -> None:
        """Make the version the default of its model."""
        self._call("PUT", f"{_path(model, version)}/default", None)

    def unregister(self, model: str, version: str) -> None:
        """Have the node end the version."""
        self._call("DELETE", _path(model, version), None)

    def predict(self, path: str, body: bytes, media_type: str, address: str = "") -> Reply:
        """The answer to one request, past cache and metrics.

        Args:
            address: where the version answers; empty: where the node does.
        """
        headers = {"Content-Type": media_type, "Cache-Control": "no-store", CHECK_HEADER: CHECK_ANSWER}

        def send(keys: Keys | None) -> requests.Response:
            access = {"Authorization": f"Bearer {keys.inference}"} if keys is not None else {}
            return self._connection.send(
                "POST", (address or self._url) + path, {**headers, **access}, body, CHANGE_TIMEOUT_S
            )

        answer = self._with_keys(send) if self._has_token else send(None)
        return Reply(answer.status_code, answer.content, answer.headers)

    def _call(self, method: str, path: str, content: Any, timeout_s: float = CHANGE_TIMEOUT_S) -> Any:
        """The content of the answer; None where it is 404 to a GET.

        Raises:
            NodeError: the node refuses.
        """
        url = f"{self._url}/admin/versions{path}"
        body = json.dumps(content).encode() if content is not None else None
        answer = self._with_keys(
            lambda keys: self._connection.send(
                method, url, {"Authorization": f"Bearer {keys.admin}", "Content-Type": "application/json"}, body,
                timeout_s,
            )
        )  # fmt: skip
        if answer.status_code == 404 and method == "GET" and path:
            return None
        try:
            result = answer.json()
            refusal = str(result["error"]) if answer.status_code >= 400 and "error" in result else ""
        except (ValueError, TypeError):
            raise NodeError(
                f"{method} {url}: answered {answer.status_code} without JSON, so it is not a uvicorn or BentoML node"
            ) from None
        if answer.status_code == 401:
            raise NodeError(
                f"{method} {url}: 401, the node refuses the token in {self._key_file}",
                "Did another project start the node?",
            )
        if answer.status_code >= 400:
            raise NodeError(f"{method} {url}: {answer.status_code} {refusal or answer.text[:200]}")
        return result

    def _with_keys(self, send: Callable[[Keys], requests.Response]) -> requests.Response:
        """Send with the tokens; where the node refuses them, read them again once and send once more."""
        self._keys = self._keys or read_keys(self._key_file)
        answer = send(self._keys)
        if answer.status_code == 401:
            self._keys = read_keys(self._key_file)
            answer = send(self._keys)
        return answer


def _path(model: str, version: str) -> str:
    return f"/{quote(model, safe='')}/{quote(version, safe='')}"


def _state(entry: Any) -> VersionState:
    try:
        return TypeAdapter(VersionState).validate_python(entry)
    except ValidationError as error:
        raise NodeError(
            f"the node's answer does not fit this version of tsctl: {error.error_count()} mistakes",
            "Use one version of tsctl for both, and start the node again.",
        ) from None
