"""The OpenAI API on our own server: which paths it has, and which version answers a request that names its model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from handlers.adapters.asgi.exchange import LONGEST_OTHER_BODY, Route
from handlers.adapters.asgi.frames import Answer, Headers
from handlers.adapters.asgi.problems import problem_answer
from handlers.adapters.asgi.text_pool import TextPool
from handlers.adapters.asgi.workers import Workers
from handlers.adapters.errors import NotFound
from handlers.contract import OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS, SERVER_NAME
from handlers.errors import DoesNotFit, PayloadTooLarge, RequestError
from handlers.protocols.encoding import ENCODING_HEADER, decode_body
from handlers.schema import parse_json

#: Under which all paths lie.
ROOT = "/v1/"
PROTOCOLS = {
    "/v1/chat/completions": OPENAI_CHAT,
    "/v1/completions": OPENAI_COMPLETION,
    "/v1/embeddings": OPENAI_EMBEDDINGS,
}
#: Bytes of the bodies that arrive or are computed on these paths, where many models share them.
MOST_BYTES = 64 << 20
#: Models that an error lists.
MOST_LISTED = 20
_ENCODING = ENCODING_HEADER.encode()

#: By the names that a request may have for its model: `model`, and `model:version`.
Models = Mapping[str, Route]


class _Named(BaseModel):
    """What is read of a body here; the worker reads the rest."""

    model_config = ConfigDict(strict=True)
    model: Annotated[str, Field(min_length=1)]


class Bodies:
    """Room for the bodies of requests.

    Args:
        most: bytes at a time.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    def hold(self, count: int) -> bool:
        """Whether there is room for so many more bytes; they are to be released."""
        if self._held + count > self._most:
            return False
        self._held += count
        return True

    def release(self, count: int) -> None:
        """Bytes that were held before."""
        self._held -= count


class ByModel:
    """One path of the API; the body's `model` says which version answers.

    Args:
        models: that are served now.
        bodies: holds the bodies.
    """

    methods = ("POST",)

    def __init__(self, protocol: str, models: Callable[[], Models], bodies: Bodies | Workers) -> None:
        self.protocol = protocol
        self._models = models
        self.hold, self.release = bodies.hold, bodies.release

    @property
    def request_bytes(self) -> int:
        """The longest body that one of the models reads."""
        limits = [route.request_bytes for route in self._models().values() if self.protocol in protocols(route.pool)]
        return max(limits, default=LONGEST_OTHER_BODY)

    def problem(self, error: RequestError, request_id: str, protocol: str) -> Answer:
        """The answer to a request of this path that no worker gets."""
        return problem_answer(error, request_id, "", "", self.protocol)

    def resolve(self, headers: Headers, body: bytes) -> Route:
        """The version that the body names.

        Raises:
            RequestError: it names none that is served here and has this path.
        """
        encoding = next((value for name, value in headers if name == _ENCODING), None)
        text = body if encoding is None else decode_body(body, encoding.decode("latin-1"), self.request_bytes)
        name = parse_json(_Named, text).model
        models = self._models()
        route = models.get(name)
        if route is None:
            raise NotFound(f"There is no model {name!r:.100}; {self._listed(models)}.")
        if self.protocol not in protocols(route.pool):
            mistake = [{"field": "model", "message": "is of another kind"}]
            raise DoesNotFit(f"The model {name!r:.100} does not answer this path; {self._listed(models)}.", mistake)
        if len(body) > route.request_bytes:
            raise PayloadTooLarge(f"The body has more than {route.request_bytes} bytes.")
        return route._replace(protocol=self.protocol)

    def _listed(self, models: Models) -> str:
        names = [name for name, route in models.items() if self.protocol in protocols(route.pool)]
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        return f"this path has {', '.join(names[:MOST_LISTED])}{more}" if names else "this path has no model here"


def models_of(pool: Workers, request_bytes: int) -> Models:
    """The names of the one version that a server has."""
    model, version = pool.options.model, pool.options.version
    route = Route(pool, "", request_bytes)
    return {model: route, f"{model}:{version}": route}


def protocols(pool: Workers) -> Sequence[str]:
    """Those of the API that the version answers; empty where its workers have not said yet."""
    if isinstance(pool, TextPool):
        return (OPENAI_CHAT, OPENAI_COMPLETION)
    said: Sequence[str] = pool.description.get("openai", ())
    return said


def by_model(models: Callable[[], Models], bodies: Bodies | Workers) -> dict[bytes, ByModel]:
    """The API's paths."""
    return {path.encode(): ByModel(protocol, models, bodies) for path, protocol in PROTOCOLS.items()}


def add_models(app: FastAPI, models: Callable[[], Models]) -> None:
    """The paths that list models."""
    since = int(time.time())

    def document(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": since, "owned_by": SERVER_NAME}

    @app.get("/v1/models", tags=["openai"])
    async def listed() -> dict[str, Any]:
        """Every name that the `model` of a request may be; a version is pinned by `model:version`."""
        return {
            "object": "list",
            "data": [document(name) for name, route in models().items() if protocols(route.pool)],
        }

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def one(name: str) -> dict[str, Any]:
        """One of them."""
        route = models().get(name)
        if route is None or not protocols(route.pool):
            raise NotFound(f"There is no model {name!r:.100}; GET /v1/models has all.")
        return document(name)
