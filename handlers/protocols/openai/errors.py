"""Errors in the form of the OpenAI API."""

from __future__ import annotations

from pydantic_core import to_json

from handlers.contract import TOKENS_COMMENT, openai_error, tokens_text
from handlers.errors import RequestError


def status_of(error: RequestError) -> int:
    """The HTTP status. A request that does not fit is a 400: the API has no 422."""
    return 400 if error.status == 422 else error.status


def error_document(error: RequestError) -> bytes:
    """The body of an answer, or the data of a stream's last event."""
    field = error.errors[0]["field"] if error.errors else None
    return to_json(openai_error(status_of(error), error.detail, error.kind, field or None))


def error_event(error: RequestError) -> bytes:
    """The event of a stream that cannot go on."""
    return b"event: error\ndata: " + error_document(error) + b"\n\n"


def broken_stream(error: RequestError) -> bytes:
    """The end of a stream whose worker is gone: nobody knows how many tokens there were."""
    return error_event(error) + f"{TOKENS_COMMENT}{tokens_text(0, 0, 'error')}\n\n".encode()
