"""Errors of the server itself, with the kinds and statuses of the gateway's (docs/gateway.md)."""

from __future__ import annotations

import math

from handlers.adapters.asgi.frames import Answer
from handlers.contract import PROBLEM_MEDIA_TYPE, PROBLEM_TITLES, RETRY_DIED, RETRY_HEADER, RETRY_REFUSED
from handlers.errors import RequestError, Unavailable, problem_document


class NotFound(RequestError):
    """No model, version or path of this name."""

    status = 404
    kind = "not-found"
    title = PROBLEM_TITLES[kind]


class Unauthorized(RequestError):
    """No token, or not the right one."""

    status = 401
    kind = "unauthorized"
    title = "The request has no right to an answer"


class WrongMethod(RequestError):
    """The path is served, and not with this method."""

    status = 405
    kind = "method-not-allowed"
    title = PROBLEM_TITLES[kind]


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


def problem_answer(error: RequestError, request_id: str | None, model: str, version: str) -> Answer:
    """The answer to a request that did not get one from a worker."""
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode())]
    if isinstance(error, Unavailable):
        headers += [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))), _REFUSED]
    elif isinstance(error, WorkerFailed):
        headers.append(_DIED)
    return Answer(error.status, tuple(headers), problem_document(error, request_id, model, version))
