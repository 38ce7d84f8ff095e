"""A node as an ASGI application: finds the version that a path names, and who may ask for it.

A prediction costs one look-up in a table more than on a server of one archive.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from itertools import count

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from handlers.adapters.asgi.app import Server, predict, send_answer
from handlers.adapters.asgi.asgi_call import Application, Message, Receive, Send
from handlers.adapters.asgi.exchange import Target
from handlers.adapters.asgi.frames import Answer, Headers
from handlers.adapters.asgi.node.admin import ROOT, build_admin
from handlers.adapters.asgi.node.registry import Registry
from handlers.adapters.asgi.openai_api import MOST_BYTES, Bodies, add_models, by_model
from handlers.adapters.asgi.openai_api import ROOT as OPENAI_ROOT
from handlers.adapters.asgi.problems import problem_answer
from handlers.adapters.asgi.routes import add_metrics, add_problems, add_server
from handlers.adapters.asgi.serving import Serving
from handlers.adapters.errors import NotFound, Unauthorized
from handlers.contract import OPENAI_CHAT, REQUEST_ID_HEADER, SENT_HEADER
from handlers.errors import RequestError, Unavailable
from handlers.messages import request_id_of

_AUTHORIZATION, _SENT, _REQUEST_ID = b"authorization", SENT_HEADER.encode(), REQUEST_ID_HEADER.encode()
#: Paths that need no token: load balancers ask for them.
OPEN_PATHS = frozenset({"/ping", "/v2/health/live", "/v2/health/ready"})


class Node:
    """The versions of a registry over HTTP.

    Args:
        admin_token: of the paths under /admin/.
        token: of all other paths but OPEN_PATHS; None: everybody may ask.
    """

    def __init__(self, registry: Registry, admin_token: str, token: str | None) -> None:
        self._registry = registry
        self._admin = build_admin(registry)
        self._own = _own_routes(registry)
        self._by_model = by_model(lambda: registry.models, Bodies(MOST_BYTES))
        self._admin_header = f"Bearer {admin_token}".encode()
        self._header = f"Bearer {token}".encode() if token is not None else None
        self._prefix, self._numbers = os.urandom(6).hex(), count(1)
        self.others: Application = self  # what has no route

    def route(self, path: bytes, headers: Headers) -> Target | None:
        """Where the predictions of a path are computed; None where it asks for none, or comes without the token."""
        if self._header is not None and not _has(headers, self._header):
            return None
        if path in self._by_model:
            return self._by_model[path]
        text = path.decode("latin-1")
        server = self._registry.servers.get(text)
        if server is None and text.startswith("/models/"):
            server, root = self._of_version(text)
            path = path[len(root) :]
        return server.route(path) if server is not None else None

    def next_id(self) -> str:
        """An id for a request that came without one."""
        return f"{self._prefix}-{next(self._numbers)}"

    def problem(self, error: RequestError, request_id: str) -> Answer:
        """The answer to a request without a route."""
        return problem_answer(error, request_id or None, "", "")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._own(scope, receive, send)
            return
        path: str = scope["path"]
        is_admin = path.startswith(ROOT)
        wanted = self._admin_header if is_admin else self._header if path not in OPEN_PATHS else None
        if wanted is not None and not _has(scope["headers"], wanted):
            error = Unauthorized("Send the token of this node as a bearer token.")
            return await self._refuse(error, scope, send)
        if is_admin:
            return await self._admin(scope, receive, send)
        if path.encode() in self._by_model:
            return await predict(self._by_model[path.encode()], self.next_id(), scope, receive, send)
        server = self._registry.servers.get(path)
        if server is None:
            return await self._other(path, scope, receive, send)
        await server(scope, receive, send)

    async def _other(self, path: str, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a path that is no prediction of a version that is served."""
        parts = path.split("/")
        server: Server | None = None
        if parts[1:2] == ["models"] and len(parts) > 4:
            server, root = self._of_version(path)
            scope = {**scope, "root_path": scope.get("root_path", "") + root}
        elif parts[1:2] == ["models"] and len(parts) == 3:
            server = self._server(parts[2], None)
        elif parts[1:3] == ["v2", "models"] and len(parts) > 3:
            server = self._server(parts[3], parts[5] if parts[4:5] == ["versions"] and len(parts) > 5 else None)
        elif parts[1:2] != ["predictions"]:
            return await self._own(scope, receive, send)
        if server is None:
            return await self._refuse(NotFound("The node has no such version; GET /models has all."), scope, send)
        await server(scope, receive, send)

    def _of_version(self, path: str) -> tuple[Server | None, str]:
        """The version whose own server `/models/MODEL/VERSION/...` stands for, and the part of the path before its own.

        Under this path is all that a server of this version alone has.
        """
        _, root, model, version, *_ = [*path.split("/", 4), "", ""]
        return self._server(model, version), f"/{root}/{model}/{version}"

    def _server(self, model: str, version: str | None) -> Server | None:
        path = f"/predictions/{model}" if version is None else f"/predictions/{model}/{version}"
        return self._registry.servers.get(path)

    async def _refuse(self, error: RequestError, scope: Message, send: Send) -> None:
        """Answer with the error; a gateway, which knows who may ask what, is to ask another node instead."""
        headers: Headers = scope["headers"]
        if any(name == _SENT for name, _ in headers):
            error = Unavailable("The node does not serve this version now; retry later.")
        ids = (value.decode("latin-1") for name, value in headers if name == _REQUEST_ID)
        sent = {REQUEST_ID_HEADER: next(ids, "")}
        request_id = request_id_of(sent, None) or self.next_id()
        parts = [*scope["path"].split("/"), "", "", ""]
        model, version = (parts[2], parts[3]) if parts[1] == "predictions" else ("", "")
        protocol = OPENAI_CHAT if scope["path"].startswith(OPENAI_ROOT) else ""  # all its errors have the same form
        await send_answer(problem_answer(error, request_id, model, version, protocol), request_id, send)


def _has(headers: Headers, wanted: bytes) -> bool:
    return any(name == _AUTHORIZATION and compare_digest(value, wanted) for name, value in headers)


def _own_routes(registry: Registry) -> FastAPI:
    """The paths of the node itself."""
    app = FastAPI(title="tsctl node", openapi_url=None, redirect_slashes=False)

    @app.get("/ping")
    @app.get("/v2/health/ready")
    async def ready() -> Response:
        """200 where every registered version that wants workers can answer, else 503."""
        pools = [version.pool for version in registry.registered if version.entry.workers != 0]
        missing = sum(pool is None or not pool.ready_workers for pool in pools)
        status = {"ready": not missing, "versions": len(pools), "without_workers": missing}
        return JSONResponse(status, 503, {"retry-after": "1"}) if missing else JSONResponse(status)

    @app.get("/models")
    async def models() -> dict[str, list[str]]:
        """Every version that is served, by model; /models/MODEL/VERSION/docs has its schema and samples."""
        names: dict[str, list[str]] = {}
        for version in registry.registered:
            names.setdefault(version.entry.model, []).append(version.entry.version)
        return names

    def pools() -> list[Serving]:
        return [version.pool for version in registry.registered if version.pool is not None]

    add_server(app, pools)
    add_models(app, lambda: registry.models)
    add_metrics(app, registry.folder / "metrics")
    add_problems(app, "", "", "GET /models has all versions of this node.")
    return app
