"""A Kubernetes API server as far as tsctl speaks to one: objects in memory, and the refusals of a real one.

It holds every write against the schemas that a real server has, with unknown fields refused, fills in defaults, counts
resourceVersion and generation, and lets a gateway's controller write into the status, as on a real cluster. A test can
have it answer anything in between, and can write as somebody else.

`tests/kubernetes/test_contract.py` runs the same cases against this one and a real one (`make test-kubernetes`). The
real one is 1.20, which has no rules in CEL and no strict fields; for these, the documentation is the source.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tsctl.render.kubernetes.check import definition_of, mistakes_of

Json = dict[str, Any]
TOKEN = "a-token-of-the-test"

_PLURALS = {
    "Deployment": ("apis/apps/v1", "deployments"),
    "HTTPRoute": ("apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
}
#: The answer for a pod that nothing listens in, which is the server's own.
_UNREACHABLE = (
    b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":500,"message":"error trying to reach'
    b' service: dial tcp 10.0.0.9:8080: connect: connection refused"}'
)
_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError",
    503: "ServiceUnavailable",
}  # fmt: skip


@dataclass
class Answer:
    """An answer that the server gives in place of its own."""

    status: int
    message: str = "made up by the test"
    headers: dict[str, str] = field(default_factory=dict)
    is_after: bool = False  # it is given after the request was obeyed, as where an answer is lost


@dataclass
class Cluster:
    """The objects of one namespace, and what happens around them.

    Args:
        controller: what the gateway's controller says of a route: None accepts it, a text is its reason against it.
        is_silent: the controller says nothing.
        between_pages: called once, before a page that is not the first.
        before_write: called before each patch is looked at, as if somebody else were faster.
        forbidden: verbs and kinds, such as ("PATCH", "httproutes").
        pods: answers a request through the proxy of a pod: its name, path and body to a status and a body.
    """

    namespace: str = "tsctl"
    token: str = TOKEN
    objects: dict[str, Json] = field(default_factory=dict)
    controller: Callable[[Json], str | None] = lambda route: None
    is_silent: bool = False
    before_write: Callable[[Cluster], None] | None = None
    between_pages: Callable[[Cluster], None] | None = None
    scripted: dict[str, deque[Answer]] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    asked: list[tuple[str, str, Json]] = field(default_factory=list)  # method, path with its query, body
    pods: Callable[[str, str, bytes], tuple[int, bytes]] = lambda name, path, body: (500, _UNREACHABLE)
    page: int = 500
    _version: int = 100
    _pages: dict[str, list[Json]] = field(default_factory=dict)  # what each list was when its first page was asked for
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, *manifests: Json) -> None:
        """Create objects, as kubectl apply does; those of kinds that tsctl never asks for are left out."""
        for manifest in (one for one in manifests if one["kind"] in _PLURALS):
            self._store(copy.deepcopy(manifest), None)

    def path(self, kind: str, name: str) -> str:
        group, plural = _PLURALS[kind]
        return f"/{group}/namespaces/{self.namespace}/{plural}/{name}"

    def get(self, kind: str, name: str) -> Json:
        return self.objects[self.path(kind, name)]

    def edit(self, kind: str, name: str, act: Callable[[Json], Any]) -> None:
        """Change an object as somebody else."""
        with self.lock:
            before = self.get(kind, name)
            made = copy.deepcopy(before)
            act(made)
            self._store(made, before)

    def script(self, method: str, *answers: Answer) -> None:
        """The next requests of this method get these answers."""
        self.scripted.setdefault(method, deque()).extend(answers)

    def _store(self, made: Json, before: Json | None) -> Json:
        with self.lock:
            kind = made["kind"]
            if kind == "HTTPRoute":
                made = definition_of(kind).with_defaults(made)
            metadata = made["metadata"]
            metadata.setdefault("namespace", self.namespace)
            old: Json = (
                before["metadata"] if before is not None else {"generation": 0, "uid": f"uid-{len(self.objects)}"}
            )
            if before is not None and _without_counts(made) == _without_counts(before):
                return before  # a write that changes nothing is none
            is_new = before is None or made.get("spec") != before.get("spec")
            metadata["generation"] = old["generation"] + int(is_new)
            metadata["uid"] = old["uid"]
            self._count(metadata)
            self.objects[self.path(kind, metadata["name"])] = made
            if kind == "HTTPRoute" and not self.is_silent and is_new:
                self._control(made)
            return made

    def _count(self, metadata: Json) -> None:
        self._version += 1
        metadata["resourceVersion"] = str(self._version)

    def _control(self, route: Json) -> None:
        """The gateway's controller writes its status, which is a write like any other."""
        against = self.controller(route)
        generation = route["metadata"]["generation"]
        said = {"status": "True", "reason": "Accepted", "message": ""}
        if against is not None:
            said = {"status": "False", "reason": "UnsupportedValue", "message": against}
        accepted = {"type": "Accepted", "observedGeneration": generation, **said}
        resolved = {
            "type": "ResolvedRefs",
            "observedGeneration": generation,
            "status": "True",
            "reason": "ResolvedRefs",
        }
        parent = {"parentRef": route["spec"]["parentRefs"][0], "conditions": [accepted, resolved]}
        stored = self.objects[self.path("HTTPRoute", route["metadata"]["name"])]
        stored["status"] = {"parents": [{"controllerName": "example.com/gateway", **parent}]}
        self._count(stored["metadata"])

    # ---- requests ----------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, Json | bytes, Json]:
        """Status, document and headers of the answer to a request."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        is_json = "json" in headers.get("content-type", "") and "/proxy/" not in parts.path
        content = json.loads(body) if body and is_json else {}
        with self.lock:
            self.asked.append((method, target, content))
            if headers.get("authorization") != f"Bearer {self.token}":
                return self._refusal(401, "Unauthorized")
            waiting = self.scripted.get(method)
            scripted = waiting.popleft() if waiting else None
            if scripted is not None and not scripted.is_after:
                return self._refusal(scripted.status, scripted.message, scripted.headers)
            answer = self._obey(method, parts.path, query, content, body, headers)
            if scripted is not None:
                return self._refusal(scripted.status, scripted.message, scripted.headers)
            return answer

    def _obey(
        self, method: str, path: str, query: dict[str, str], content: Json, body: bytes, headers: dict[str, str]
    ) -> tuple[int, Json | bytes, Json]:
        for verb, plural in self.forbidden:
            if method == verb and f"/{plural}" in path:
                what = f'{_qualified(path)} is forbidden: User "ci" cannot {verb.lower()} resource "{plural}"'
                return self._refusal(403, what)
        if "/proxy/" in path:
            name, _, inner = path.partition("/pods/")[2].partition("/proxy/")
            status, sent = self.pods(name.partition(":")[0], f"/{inner}", body)
            return status, sent, {}
        if method == "PATCH":
            return self._patch(path, query, content, headers)
        if path in self.objects:
            return 200, copy.deepcopy(self.objects[path]), {}
        if path.rpartition("/")[2] in [plural for _, plural in _PLURALS.values()]:
            return self._list(path, query)
        plural, name = path.split("/")[-2:]
        if plural not in [known for _, known in _PLURALS.values()]:
            return 404, b"404 page not found\n", {"content-type": "text/plain; charset=utf-8"}
        return self._refusal(404, f'{_qualified(path)} "{name}" not found')

    def _list(self, path: str, query: dict[str, str]) -> tuple[int, Json | bytes, Json]:
        wanted = dict(one.split("=", 1) for one in query.get("labelSelector", "").split(",") if one)
        found = [
            copy.deepcopy(one)
            for name, one in sorted(self.objects.items())
            if name.rpartition("/")[0] == path and wanted.items() <= (one["metadata"].get("labels") or {}).items()
        ]
        start, version = 0, str(self._version)
        if "continue" in query:
            if self.between_pages is not None:
                act, self.between_pages = self.between_pages, None
                act(self)
            version, _, offset = query["continue"].partition("-")
            if version not in self._pages:
                return self._refusal(410, "The provided continue parameter is too old")
            start, found = int(offset), self._pages[version]
        end = start + min(self.page, int(query.get("limit", "500")))
        more = f"{version}-{end}" if end < len(found) else ""
        self._pages[version] = found
        return 200, {"kind": "List", "items": found[start:end], "metadata": {"continue": more}}, {}

    def compact(self) -> None:
        """Forget what lists were, as a real server does after some minutes."""
        self._pages.clear()

    def _patch(
        self, path: str, query: dict[str, str], content: Json, headers: dict[str, str]
    ) -> tuple[int, Json | bytes, Json]:
        if headers.get("content-type") != "application/merge-patch+json":
            return self._refusal(415, "the body of the request was in an unknown format")
        if self.before_write is not None:
            self.before_write(self)
        before = self.objects.get(path)
        if before is None:
            return self._refusal(404, f'{_qualified(path)} "{path.rpartition("/")[2]}" not found')
        made = merged(before, content)
        given = content.get("metadata", {}).get("resourceVersion")
        if given is not None and given != before["metadata"]["resourceVersion"]:
            return self._refusal(
                409,
                f'Operation cannot be fulfilled on {_qualified(path)} "{before["metadata"]["name"]}": the object has'
                " been modified; please apply your changes to the latest version and try again",
            )
        made["status"] = before.get("status", {})  # a part of its own, which a patch of the object does not reach
        checked = {key: value for key, value in made.items() if key != "status"}
        if wrong := mistakes_of(checked):
            kind = f"HTTPRoute.{_qualified(path).partition('.')[2]}"
            return self._refusal(422, f'{kind} "{before["metadata"]["name"]}" is invalid: {"; ".join(wrong)}')
        if query.get("fieldValidation") != "Strict" or not query.get("fieldManager"):
            return self._refusal(400, "the test expects Strict and a fieldManager")
        return 200, copy.deepcopy(self._store(made, before)), {}

    def _refusal(self, status: int, message: str, headers: Json | None = None) -> tuple[int, Json | bytes, Json]:
        reason = _REASONS.get(status, "Unknown")
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        return status, {**said, "reason": reason, "message": message}, headers or {}


def _qualified(path: str) -> str:
    """The kind of a path as messages name it: `httproutes.gateway.networking.k8s.io`, and `pods` of the core group."""
    before, _, after = path.partition("/namespaces/")
    plural, parts = after.split("/")[1], before.split("/")
    return f"{plural}.{parts[2]}" if parts[1] == "apis" else plural


def _without_counts(manifest: Json) -> Json:
    counted = ("resourceVersion", "generation", "uid", "namespace")
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in counted}
    return {**manifest, "metadata": metadata}


def merged(value: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386): objects are merged, null removes a key, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = copy.deepcopy(value) if isinstance(value, dict) else {}
    for key, inner in patch.items():
        if inner is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), inner)
    return made


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The address of a server for the cluster, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, document, more = cluster.answer(self.command, self.path, body, headers)
            sent = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = do_PUT = _answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(address: str, token: str = TOKEN, namespace: str = "tsctl") -> str:
    """A kubeconfig for the server."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
    )
