"""Errors of the server itself, with the kinds and statuses of the gateway's (docs/gateway.md)."""

from __future__ import annotations

from handlers.adapters.asgi.frames import Answer
from handlers.contract import PROBLEM_MEDIA_TYPE, RETRY_DIED, RETRY_HEADER, RETRY_REFUSED
from handlers.errors import RequestError, problem_document


class NotFound(RequestError):
    """No model, version or path of this name."""

    status = 404
    kind = "not-found"
    title = "There is no such route"


class Unauthorized(RequestError):
    """No token, or not the right one."""

    status = 401
    kind = "unauthorized"
    title = "The request has no right to an answer"


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
_REFUSED, _DIED = ((RETRY_HEADER.encode(), why.encode()) for why in (RETRY_REFUSED, RETRY_DIED))


def problem_answer(error: RequestError, request_id: str | None, model: str, version: str) -> Answer:
    """The answer to a request that did not get one from a worker."""
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode())]
    if isinstance(error, Unavailable):
        headers += [_RETRY_AFTER, _REFUSED]
    elif isinstance(error, WorkerFailed):
        headers.append(_DIED)
    return Answer(error.status, headers, problem_document(error, request_id, model, version))
