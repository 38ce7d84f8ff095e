"""Errors of a server of ours, whichever it is, with the kinds and statuses of the gateway's (docs/gateway.md)."""

from __future__ import annotations

from handlers.contract import PROBLEM_TITLES
from handlers.errors import RequestError


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
