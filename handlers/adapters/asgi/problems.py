"""Errors of the server itself, with the kinds and statuses of the gateway's (docs/gateway.md)."""

from __future__ import annotations

import math

from handlers.adapters.asgi.frames import Answer, Item
from handlers.contract import (
    JSON,
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    OPENAI_EMBEDDINGS,
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TITLES,
    PROTOCOL_HEADER,
    RETRY_DIED,
    RETRY_HEADER,
    RETRY_REFUSED,
)
from handlers.errors import RequestError, Unavailable, problem_document
from handlers.protocols.openai.errors import error_document, status_of


class Unreadable(RequestError):
    """It is no request of HTTP."""

    status = 400
    kind = "bad-request"
    title = PROBLEM_TITLES[kind]


class TooSlow(RequestError):
    """It did not arrive in time."""

    status = 408
    kind = "too-slow"
    title = PROBLEM_TITLES[kind]


class HeadersTooLarge(RequestError):
    """Its headers are too long."""

    status = 431
    kind = "headers-too-large"
    title = PROBLEM_TITLES[kind]


class WorkerFailed(RequestError):
    """The worker ended while it had the request; it may have been computed."""

    status = 500
    kind = "worker-failed"
    title = PROBLEM_TITLES[kind]


_REFUSED, _DIED = ((RETRY_HEADER.encode(), why.encode()) for why in (RETRY_REFUSED, RETRY_DIED))
_PROTOCOL = PROTOCOL_HEADER.encode()
_OPENAI = frozenset((OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS))


def problem_answer(error: RequestError, request_id: str | None, model: str, version: str, protocol: str = "") -> Answer:
    """The answer to a request that did not get one from a worker.

    Args:
        protocol: of the request, a value of PROTOCOL_HEADER; one of the OpenAI API gets the error in its form.
    """
    is_openai = protocol in _OPENAI
    headers = [(b"content-type", (JSON if is_openai else PROBLEM_MEDIA_TYPE).encode())]
    if isinstance(error, Unavailable):
        headers += [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))), _REFUSED]
    elif isinstance(error, WorkerFailed):
        headers.append(_DIED)
    if is_openai:
        return Answer(status_of(error), tuple(headers), error_document(error))
    return Answer(error.status, tuple(headers), problem_document(error, request_id, model, version))


def error_answer(error: RequestError, item: Item, model: str, version: str) -> Answer:
    """The same for a request that was to go to a worker."""
    return problem_answer(error, item.request_id, model, version, protocol_of(item))


def protocol_of(item: Item) -> str:
    """The protocol of a request: by its path, else as its header says."""
    return item.protocol or next((value.decode("latin-1") for name, value in item.headers if name == _PROTOCOL), "")
