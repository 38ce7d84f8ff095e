"""What the server says of its models to clients of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from handlers.adapters.asgi.serving import Serving
from handlers.adapters.asgi.workers import Workers
from handlers.contract import READY_STATE, UNAVAILABLE_STATE
from handlers.errors import NotImplementedHere, Unavailable
from handlers.schema import parse_json

#: Bytes of the longest question.
LONGEST_QUESTION = 4096


class IndexRequest(BaseModel):
    """The body of `POST /v2/repository/index`; other members, such as a repository's name, change nothing."""

    model_config = ConfigDict(strict=True)
    ready: Annotated[bool, Field()] = False


def read_question(body: bytes) -> bool:
    """Whether the client asks for models that are ready, and for no others.

    Raises:
        RequestError: the body is neither empty nor such a question.
    """
    return parse_json(IndexRequest, body).ready if body.strip() else False


def repository_index(pools: Iterable[Serving], only_ready: bool) -> list[dict[str, Any]]:
    """The versions that are asked for, each with its state."""
    states = [(pool.options, pool.ready_workers > 0) for pool in pools]
    return [
        {
            "name": options.model,
            "version": options.version,
            "state": READY_STATE if is_ready else UNAVAILABLE_STATE,
            "reason": "" if is_ready else "no worker is ready",
        }
        for options, is_ready in states
        if is_ready or not only_ready
    ]


def open_inference(pool: Workers) -> dict[str, Any]:
    """The model's inputs and outputs.

    Raises:
        Unavailable: no worker has been ready.
        NotImplementedHere: it has none that are tensors.
    """
    if not pool.description:
        raise Unavailable("The model has no worker at the moment; retry later.")
    if "open_inference" not in pool.description:
        raise NotImplementedHere("This model generates text, and has no tensors; ask /v1/chat/completions.")
    content: dict[str, Any] = pool.description["open_inference"]
    return content
