"""Asks a Kubernetes API server, and says what its refusals mean: objects by their paths, as the server has them.

Invariant: a write names the resourceVersion that it was decided on, so a repeated one changes nothing twice, and one
that was decided on an older object changes nothing at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import finalize

import requests

from tsctl.config.kubernetes import KubernetesSpec
from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.credentials import Credential, ServerAccess, open_access, private_file
from tsctl.host.http import direct_session

Json = dict[str, Any]

#: Who the server notes down as the writer of what tsctl wrote.
FIELD_MANAGER = "tsctl"
TIMEOUT_S = 10.0
#: A request that the server cannot take now is sent so often, each time later: as it says, and PAUSE_S at most.
TRIES, PAUSE_S = 4, 5.0
#: Objects in one answer of a list.
PAGE = 500
_MERGE_PATCH = "application/merge-patch+json"
_BUSY = (429, 500, 502, 503, 504)
#: What proxies between the server and a pod answer in place of the pod.
_NO_POD = (502, 503, 504)


class NotThere(GatewayError):
    """There is no such object, or no such kind."""


class Outdated(ConflictError):
    """The object was changed since it was read."""


class Refused(GatewayError):
    """The object breaks a rule of its kind, or the server may not do this for us."""


@dataclass
class ApiServer:
    """One API server, and one namespace on it."""

    access: ServerAccess
    namespace: str
    sleep: Callable[[float], None] = time.sleep
    session: requests.Session = field(default_factory=direct_session)
    _of: Credential | None = None  # whose certificate the session has

    def __post_init__(self) -> None:
        if self.access.authority is not None:
            file = private_file(self.access.authority)
            finalize(self, _remove, file)
            self.session.verify = str(file)

    def path(self, group: str, plural: str, name: str | None = None) -> str:
        """The path of an object of the namespace, or of all of a kind.

        Args:
            group: with its version, such as apps/v1; v1 is the core group's.
        """
        root = "/api" if "/" not in group else "/apis"
        object_ = f"/{quote(name, safe='')}" if name is not None else ""
        return f"{root}/{group}/namespaces/{quote(self.namespace, safe='')}/{plural}{object_}"

    def get(self, path: str) -> Json:
        """The object.

        Raises:
            NotThere, Refused, NotAnswering: see the classes; so for every method.
        """
        return self._ask("GET", path)

    def items(self, path: str, selector: Mapping[str, str]) -> list[Json]:
        """All objects that have these labels; from the beginning again where the list grew too old meanwhile."""
        chosen = ",".join(f"{name}={value}" for name, value in selector.items())
        for left in reversed(range(TRIES)):
            try:
                return self._pages(path, chosen)
            except Outdated:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _pages(self, path: str, selector: str) -> list[Json]:
        found: list[Json] = []
        page: str | None = None
        while page != "":
            more = {"continue": page} if page else {}
            answer = self._ask("GET", path, params={"labelSelector": selector, "limit": PAGE, **more})
            found += answer.get("items") or []
            page = (answer.get("metadata") or {}).get("continue") or ""
        return found

    def patch(self, path: str, changes: Json, resource_version: str) -> Json:
        """The object with a JSON merge patch, where it is still the one with that resourceVersion.

        Raises:
            Outdated: it is not.
        """
        metadata = {**changes.get("metadata", {}), "resourceVersion": resource_version}
        body = {**changes, "metadata": metadata}
        params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._ask("PATCH", path, params=params, json=body, headers={"content-type": _MERGE_PATCH})

    def send(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> requests.Response:
        """The answer of a pod behind the server's proxy, whatever its status; sent once.

        Raises:
            NotAnswering: the pod does not answer, or is gone.
            Refused: the server refuses to ask it.
        """
        answer = self._send("POST", path, data=body, headers=dict(headers), timeout=timeout_s)
        refusal = _status_of(answer)
        if refusal is None and answer.status_code not in _NO_POD:
            return answer
        if refusal is not None and answer.status_code in (401, 403):
            raise self._error(answer, refusal, path)
        said = _said(answer) or answer.reason
        raise NotAnswering(f"the API server at {self.access.address} reaches no pod: {answer.status_code}: {said}")

    def _ask(self, method: str, path: str, **content: Any) -> Json:
        answer = self._answer(method, path, **content)
        try:
            value = answer.json()
        except ValueError:
            value = None
        if answer.ok and isinstance(value, dict):
            return value
        raise self._error(answer, value if isinstance(value, dict) else {}, path)

    def _answer(self, method: str, path: str, **content: Any) -> requests.Response:
        """An answer that is no 'later'; NotAnswering where there was none in TRIES."""
        last = ""
        for number in range(TRIES):
            pause_s = 0.2 * 2**number
            try:
                answer = self._send(method, path, **content)
            except NotAnswering as error:
                last = error.message
            else:
                if answer.status_code not in _BUSY:
                    return answer
                last = f"the API server at {self.access.address} answers {answer.status_code}: {_said(answer)}"
                pause_s = max(pause_s, _retry_after(answer))
            if number < TRIES - 1:
                self.sleep(min(PAUSE_S, pause_s))
        raise NotAnswering(last, "Nothing was decided; the cluster keeps what it serves.")

    def _send(self, method: str, path: str, timeout: float = TIMEOUT_S, **content: Any) -> requests.Response:
        """One answer; with another credential where the server does not accept the one that it got."""
        for is_again in (False, True):
            credential = self.access.credential(is_refused=is_again)
            self._use(credential)
            try:
                answer = self.session.request(
                    method, f"{self.access.address}{path}", timeout=timeout, allow_redirects=False, **content
                )
            except requests.RequestException as error:
                raise NotAnswering(
                    f"the API server at {self.access.address} does not answer: {type(error).__name__}",
                    "Does kubectl reach it with the same context?",
                ) from None
            if answer.status_code != 401 or is_again:
                return answer
        raise AssertionError("the second answer is returned")

    def _use(self, credential: Credential) -> None:
        if credential == self._of:
            return
        self.session.headers.pop("authorization", None)
        if credential.token:
            self.session.headers["authorization"] = f"Bearer {credential.token}"
        self.session.cert = None
        if credential.certificate is not None:
            files = [private_file(part) for part in credential.certificate]
            for file in files:
                finalize(self, _remove, file)
            self.session.cert = str(files[0]), str(files[1])
        self._of = credential

    def _error(self, answer: requests.Response, status: Json, path: str) -> GatewayError | ConflictError:
        said, where = _said(answer), f"the API server at {self.access.address}"
        match answer.status_code:
            case 401:
                return Refused(f"{where} does not accept our credentials", "Sign in again, as for kubectl.")
            case 403:
                return Refused(f"{where} forbids it: {said}", "docs/kubernetes.md has the Role that tsctl needs.")
            case 404:
                hint = "Apply what 'tsctl render kubernetes' wrote, and check namespace and context."
                return NotThere(f"{where} has no {path.rpartition('/namespaces/')[2]}: {said}", hint)
            case 409 | 410:
                return Outdated(f"{said or 'it was changed meanwhile'}", "Run this again.")
            case 422 | 400:
                return Refused(f"{where} refuses the object: {said}")
            case code:
                return GatewayError(f"{where} answers {code}: {said or answer.reason}")


def open_api(kubernetes: KubernetesSpec) -> ApiServer:
    """The API server of the context; nothing is asked. SpecError where there is no way to it."""
    return ApiServer(open_access(kubernetes.context, os.environ), kubernetes.namespace)


def _status_of(answer: requests.Response) -> Json | None:
    """The server's own refusal; None where a pod answers, which sends no such document."""
    if answer.ok:
        return None
    try:
        value = answer.json()
    except ValueError:
        return None
    is_own = isinstance(value, dict) and (value.get("kind"), value.get("apiVersion")) == ("Status", "v1")
    return value if is_own else None


def _retry_after(answer: requests.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _said(answer: requests.Response) -> str:
    """The message of a Status, on one line; the beginning of whatever else came."""
    try:
        value = answer.json()
        text = str(value.get("message", "")) if isinstance(value, dict) else ""
    except ValueError:
        text = answer.text[:300]
    return " ".join(text.split())[:2000]


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
