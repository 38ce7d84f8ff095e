"""Errors of the server itself, with the kinds and statuses of the gateway's (docs/gateway.md)."""

from __future__ import annotations

from handlers.adapters.asgi.frames import Answer
from handlers.contract import PROBLEM_MEDIA_TYPE
from handlers.errors import RequestError, problem_document


class NotFound(RequestError):
    """No model, version or path of this name."""

    status = 404
    kind = "not-found"
    title = "There is no such route"


class WrongMethod(RequestError):
    """The path is served, and not with this method."""

    status = 405
    kind = "method-not-allowed"
    title = "The method is not allowed"


class Unavailable(RequestError):
    """No worker is ready, or too much waits; the request was not computed."""

    status = 503
    kind = "unavailable"
    title = "No worker could take the request"


class WorkerFailed(RequestError):
    """The worker ended while it had the request; it may have been computed."""

    status = 500
    kind = "worker-failed"
    title = "The worker failed on this request"


_RETRY_AFTER = (b"retry-after", b"1")


def problem_answer(error: RequestError, request_id: str | None, model: str, version: str) -> Answer:
    """The answer to a request that did not get one from a worker."""
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode())]
    if isinstance(error, Unavailable):
        headers.append(_RETRY_AFTER)
    return Answer(error.status, headers, problem_document(error, request_id, model, version))
