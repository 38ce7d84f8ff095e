"""A typed client of TorchServe's management and inference API; each method is one request to one node.

An answer of TorchServe does not mean that the work is done: 202 and 206 mean that it goes on. `versions.py` waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import requests
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from handlers.contract import CHECK_ANSWER, CHECK_HEADER
from tsctl.config.nodes import TorchServeSpec
from tsctl.errors import NodeError
from tsctl.nodes.observed import Reply
from tsctl.nodes.session import unguarded
from tsctl.nodes.torchserve.session import NodeSession, error_of

#: For the node to describe its state, and to take a change or answer a request.
READ_TIMEOUT_S = 10.0
CHANGE_TIMEOUT_S = 30.0
#: TorchServe unpacks the whole archive before it answers.
REGISTER_TIMEOUT_S = 300.0
#: Longer than config.properties' unregister_model_timeout, within which TorchServe ends the workers.
UNREGISTER_TIMEOUT_S = 90.0
#: In TorchServe's answer to a change of workers that met a worker between two requests; the same change then succeeds.
_RACE = '"job" is null'


class ManagementError(NodeError):
    """TorchServe refused a call; `status` and `kind` are its HTTP status and error type."""

    def __init__(self, message: str, status: int, kind: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.kind = kind


@dataclass(frozen=True)
class Worker:
    """One worker as the node describes it; its status is READY, or UNLOADING while it loads, crashed or is dead."""

    id: str
    status: str
    pid: int = 0
    gpu: bool = False

    @property
    def is_ready(self) -> bool:
        return self.status == "READY"


@dataclass(frozen=True)
class VersionState:
    """One registered version as the node describes it."""

    model: str = Field(validation_alias="modelName")
    version: str = Field(validation_alias="modelVersion")
    archive: str = Field(validation_alias="modelUrl")  # file name in the model store
    min_workers: int = Field(validation_alias="minWorkers")
    max_workers: int = Field(validation_alias="maxWorkers")
    batch_size: int = Field(validation_alias="batchSize")
    max_batch_delay_ms: int = Field(validation_alias="maxBatchDelay")
    response_timeout_s: int = Field(validation_alias="responseTimeout")
    startup_timeout_s: int = Field(validation_alias="startupTimeout")
    workers: tuple[Worker, ...] = Field()
    queue_pending: int = Field()
    queue_capacity: int = Field()

    @property
    def ready_workers(self) -> int:
        return sum(worker.is_ready for worker in self.workers)

    @property
    def is_ready(self) -> bool:
        """Whether enough workers are READY; a version with no workers is not ready."""
        return self.min_workers > 0 and self.ready_workers >= self.min_workers


class ManagementClient:
    """Calls the APIs of one node.

    Args:
        node: its addresses.
        key_file: TorchServe's key_file.json; None calls without tokens.
        read_timeout_s: for the node to describe its state.
        guard: called before each request; raises where the token must not be sent.
    """

    def __init__(
        self,
        node: TorchServeSpec,
        key_file: Path | None,
        read_timeout_s: float = READ_TIMEOUT_S,
        guard: Callable[[], None] = unguarded,
    ) -> None:
        self.node = node
        self.read_timeout_s = read_timeout_s
        self._session = NodeSession(node, key_file, read_timeout_s, guard)

    def when_renewed(self, act: Callable[[], None]) -> None:
        """Call `act` whenever TorchServe has written new tokens."""
        self._session.on_renewed = act

    def reconnect(self) -> None:
        """Open a new connection for the next request."""
        self._session.reconnect()

    def states(self) -> list[VersionState]:
        """Every registered version, by model and version."""
        states = [state for name in self._names() for state in self.describe(name)]
        return sorted(states, key=lambda state: (state.model, state.version))

    def describe(self, model: str, version: str | None = None) -> list[VersionState]:
        """All versions of the model, or only `version`; empty where it is not registered."""
        try:
            answer = self._call("GET", f"/models/{_segment(model)}/{_segment(version) if version else 'all'}")
        except ManagementError as error:
            if error.status == 404:
                return []
            raise
        return [_state(entry) for entry in answer]

    def default_version(self, model: str) -> str:
        """The version that answers callers that name none; only this call of TorchServe shows it."""
        return str(self._call("GET", f"/models/{_segment(model)}")[0]["modelVersion"])

    def register(self, archive: str, workers: int) -> None:
        """Register the archive, a file name in the store; its workers start afterwards.

        A query string and not a JSON body: with JSON, an omitted max_batch_delay becomes -10000. Asynchronous, because
        a synchronous call blocks a thread that serves inference.

        Raises:
            ManagementError: refused; the caller unregisters what TorchServe left half-registered.
        """
        query = {"url": archive, "initial_workers": str(workers), "synchronous": "false"}
        self._call("POST", "/models", query, REGISTER_TIMEOUT_S)

    def scale(self, model: str, version: str, workers: int) -> None:
        """Set the number of workers; they start or end afterwards."""
        query = {"min_worker": str(workers), "max_worker": str(workers), "synchronous": "false"}
        path = f"/models/{_segment(model)}/{_segment(version)}"
        try:
            self._call("PUT", path, query, CHANGE_TIMEOUT_S)
        except ManagementError as error:
            if _RACE not in error.message:
                raise
            self._call("PUT", path, query, CHANGE_TIMEOUT_S)

    def set_default(self, model: str, version: str) -> None:
        """Make the version answer callers that name none, whether it has workers or not."""
        self._call("PUT", f"/models/{_segment(model)}/{_segment(version)}/set-default", timeout_s=CHANGE_TIMEOUT_S)

    def unregister(self, model: str, version: str) -> bool:
        """Remove the version and its workers; False if it was not registered.

        Raises:
            ManagementError: 403 for a default version while others exist; 408 where its workers did not end in time
                (TorchServe has then put it back, with no workers).
        """
        try:
            self._call("DELETE", f"/models/{_segment(model)}/{_segment(version)}", timeout_s=UNREGISTER_TIMEOUT_S)
        except ManagementError as error:
            if error.status == 404:
                return False
            raise
        return True

    def predict(
        self, model: str, version: str | None, body: bytes, media_type: str, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> Reply:
        """The model's own answer to one request, whatever its status, past cache and metrics; None: default version."""
        path = f"/predictions/{_segment(model)}" + (f"/{_segment(version)}" if version else "")
        headers = {"Content-Type": media_type, "Cache-Control": "no-store", CHECK_HEADER: CHECK_ANSWER}
        answer = self._session.infer(path, headers, body, timeout_s)
        return Reply(answer.status_code, answer.content, answer.headers)

    def _names(self) -> list[str]:
        names: list[str] = []
        query: dict[str, str] = {"limit": "100"}
        while True:
            page = self._call("GET", "/models", query)
            names += [entry["modelName"] for entry in page["models"]]
            token = page.get("nextPageToken")
            if not token or not page["models"]:  # the last token may lead to an empty page
                return sorted(set(names))
            query["next_page_token"] = token

    def _call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Any:
        target = f"{path}?{urlencode(query)}" if query else path
        answer = self._session.manage(method, target, timeout_s or self.read_timeout_s)
        if answer.status_code < 400:
            try:
                return json.loads(answer.content) if answer.content.strip() else None
            except ValueError:
                raise ManagementError(
                    f"{method} {path}: answered {answer.status_code} without JSON, so {self.node.management} is not"
                    " TorchServe's management address",
                    answer.status_code,
                    "",
                ) from None
        raise _refusal(method, path, answer)


def _segment(text: str) -> str:
    return quote(text, safe="")


def _refusal(method: str, path: str, answer: requests.Response) -> ManagementError:
    kind, message = error_of(answer)
    hint = ""
    if answer.status_code == 405:
        hint = "The node's model API is off: set enable_model_api=true in config.properties and start it again."
    elif kind == "InvalidKeyException":
        hint = "The node refuses the token of this key file. Did another project start the node?"
    elif answer.status_code == 403:
        hint = "Make another version the default first: tsctl models set-default."
    return ManagementError(f"{method} {path}: {answer.status_code} {message}", answer.status_code, kind, hint)


def _state(entry: dict[str, Any]) -> VersionState:
    queue = entry.get("jobQueueStatus") or {}
    pending, room = queue.get("pendingRequests", 0), queue.get("remainingCapacity", 0)
    return TypeAdapter(VersionState).validate_python(
        {**entry, "queue_pending": pending, "queue_capacity": pending + room}
    )
