"""Errors in the form of the OpenAI API."""

from __future__ import annotations

from pydantic_core import to_json

from handlers.contract import TOKENS_COMMENT, tokens_text
from handlers.errors import RequestError

#: A request that cannot be answered as it is; OpenAI's clients do not send it again.
INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 403: "permission_error", 404: INVALID, 429: "rate_limit_error"}


def status_of(error: RequestError) -> int:
    """The HTTP status. A request that does not fit is a 400: the API has no 422."""
    return 400 if error.status == 422 else error.status


def error_document(error: RequestError) -> bytes:
    """The body of an answer, or the data of a stream's last event."""
    status = status_of(error)
    kind = _TYPES.get(status) or (INVALID if status < 500 else "server_error")
    field = error.errors[0]["field"] if error.errors else None
    return to_json({"error": {"message": error.detail, "type": kind, "param": field or None, "code": error.kind}})


def error_event(error: RequestError) -> bytes:
    """The event of a stream that cannot go on."""
    return b"event: error\ndata: " + error_document(error) + b"\n\n"


def broken_stream(error: RequestError) -> bytes:
    """The end of a stream whose worker is gone: nobody knows how many tokens there were."""
    return error_event(error) + f"{TOKENS_COMMENT}{tokens_text(0, 0, 'error')}\n\n".encode()
