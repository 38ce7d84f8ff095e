"""What the server answers besides predictions: health, metadata, and the OpenAPI document with its page /docs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.exceptions import HTTPException

from handlers.adapters.asgi.model_index import LONGEST_QUESTION, open_inference, read_question, repository_index
from handlers.adapters.asgi.openai_api import PROTOCOLS, ROOT, add_models, models_of, protocols
from handlers.adapters.asgi.problems import problem_answer
from handlers.adapters.asgi.serving import Serving
from handlers.adapters.asgi.workers import Workers
from handlers.adapters.errors import NotFound, WrongMethod
from handlers.contract import JSON, OPENAI_CHAT, PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER
from handlers.errors import PayloadTooLarge, RequestError, Unavailable
from handlers.messages import request_id_of
from handlers.protocols.open_inference import server_metadata

_PROBLEMS = {400: "The request cannot be read", 413: "The request is too large", 422: "It does not fit the schema",
             500: "The model failed on it", 503: "No worker could take it", 504: "The deadline has passed"}  # fmt: skip


def build_routes(pool: Workers, request_bytes: int) -> FastAPI:
    """The application for all paths but those of predictions.

    Args:
        request_bytes: the longest body of a prediction.
    """
    options = pool.options
    model, version = options.model, options.version
    app = FastAPI(title=model, version=version, redirect_slashes=False)  # no address of a client's making

    @app.get("/ping", tags=["health"])
    async def ping() -> Response:
        """200 where a worker can answer, else 503."""
        if pool.ready_workers:
            return JSONResponse({"status": "ready", "workers": pool.ready_workers})
        return JSONResponse({"status": "not ready", "workers": 0}, 503, {"retry-after": "1"})

    _add_protocol(app, pool)
    models = models_of(pool, request_bytes)
    add_models(app, lambda: models)

    @app.get(f"/models/{model}", tags=["model"])
    async def describe() -> dict[str, Any]:
        """The model, and the requests that it reads."""
        return pool.description

    add_metrics(app, options.metrics)
    add_problems(app, model, version, f"Use POST /predictions/{model}; /docs has all paths.")

    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document, path = plain(), f"/predictions/{model}"  # FastAPI keeps the document
        if pool.description and path not in document["paths"]:
            operation = _operation(pool.description, options.folder)
            document["paths"][path] = {"post": operation}
            for named, protocol in PROTOCOLS.items():
                if protocol in protocols(pool):
                    document["paths"][named] = {"post": _openai_operation(pool.description, protocol)}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change the document
    return app


def add_metrics(app: FastAPI, folder: Path) -> None:
    """The page of the metrics in this folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # adds itself to it

    @app.get("/metrics", tags=["health"])
    def metrics() -> Response:
        """The workers' metrics for Prometheus; also those of workers that have ended."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def add_problems(app: FastAPI, model: str, version: str, where: str) -> None:
    """Problem documents in place of the framework's own errors.

    Args:
        where: the sentence to those who ask for a path that there is not.
    """

    @app.exception_handler(HTTPException)
    async def problem(request: Request, raised: HTTPException) -> Response:
        error: RequestError
        if raised.status_code == 405:
            error = WrongMethod("Use another method on this path.")
        elif raised.status_code == 413:
            error = PayloadTooLarge(f"The question has more than {LONGEST_QUESTION} bytes.")
        elif raised.status_code == 503:
            error = Unavailable("The model has no worker at the moment; retry later.")
        else:
            error = NotFound(where)
        return _problem(error, request, model, version)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _problem(error, request, model, version)


def _problem(error: RequestError, request: Request, model: str, version: str) -> Response:
    request_id = request_id_of({REQUEST_ID_HEADER: request.headers.get(REQUEST_ID_HEADER, "")}, None)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    protocol = OPENAI_CHAT if path.startswith(ROOT) else ""  # all of them have errors of the same form
    answer = problem_answer(error, request_id, model, version, protocol)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)


def add_server(app: FastAPI, pools: Callable[[], Sequence[Serving]]) -> None:
    """The paths of the Open Inference Protocol that ask for the server, and not for one of its models."""

    @app.get("/v2/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """200 while the server runs."""
        return {"live": True}

    @app.get("/v2", tags=["model"])
    async def server() -> dict[str, Any]:
        """The server, and what it offers."""
        return server_metadata()

    @app.post("/v2/repository/index", tags=["model"])
    async def index(request: Request) -> Response:
        """Each version and its state."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_QUESTION:
                raise HTTPException(413)
        return JSONResponse(repository_index(pools(), read_question(body)))


def _add_protocol(app: FastAPI, pool: Workers) -> None:
    """The paths of the Open Inference Protocol, but those of predictions."""
    options = pool.options
    paths = (f"/v2/models/{options.model}", f"/v2/models/{options.model}/versions/{options.version}")
    add_server(app, lambda: [pool])

    @app.get("/v2/health/ready", tags=["health"])
    @app.get(f"{paths[0]}/ready", tags=["health"])
    @app.get(f"{paths[1]}/ready", tags=["health"])
    async def ready() -> Response:
        """200 where a worker can answer, else 503."""
        if pool.ready_workers:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False}, 503, {"retry-after": "1"})

    @app.get(paths[0], tags=["model"])
    @app.get(paths[1], tags=["model"])
    async def metadata() -> dict[str, Any]:
        """The model's inputs and outputs."""
        return open_inference(pool)


def _operation(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The prediction's part of the OpenAPI document: the model's schema, and its samples as examples."""
    content: dict[str, Any] = {media_type: {} for media_type in description["media_types"]}
    if JSON in content:
        content[JSON] = {"schema": description["request_schema"], "examples": _examples(folder / "samples")}
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"type": "object"}}}
    return {
        "tags": ["predictions"],
        "summary": f"Ask {description['model']} {description['version']}",
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "The answer", "content": {JSON: {}}},
            **{str(status): {"description": text, "content": problem} for status, text in _PROBLEMS.items()},
        },
    }


def _openai_operation(description: dict[str, Any], protocol: str) -> dict[str, Any]:
    """The same of a path of the OpenAI API, with the schema of its requests where the worker says it."""
    schema = description.get("openai_schemas", {}).get(protocol, {"type": "object"})
    problem = {JSON: {"schema": {"type": "object"}}}
    return {
        "tags": ["openai"],
        "summary": f"Ask {description['model']} as a client of the OpenAI API",
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {
            "200": {"description": "The answer, or with stream: true its events", "content": {JSON: {}}},
            **{str(status): {"description": text, "content": problem} for status, text in _PROBLEMS.items()
               if status != 422},
        },
    }  # fmt: skip


def _examples(samples: Path) -> dict[str, Any]:
    files = sorted(samples.glob("*.json"))
    return {path.stem: {"value": json.loads(path.read_text(encoding="utf-8"))} for path in files}
