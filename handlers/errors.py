"""Errors that a handler raises on purpose, and the one place that makes problem documents (RFC 9457) of them.

    RequestError              an answer for one item, with an HTTP status
      UnreadableHeader    400 a header that means something here, and cannot be read
      UndecodableBody     400 the bytes are not what their media type says
      PayloadTooLarge     413 more bytes, pixels or parts than the archive allows
      UnsupportedMedia    415 a media type that this handler does not read
      DoesNotFit          422 decoded, but it does not fit the request schema; carries `errors`
      ModelFailed         500 the model raised, or answered something that cannot be sent
      NotImplementedHere  501 an operation of the server that this handler does not offer
      Unavailable         503 no worker is ready, or too much waits
      DeadlinePassed      504 the client does not wait for the answer any more
    LoadError                 the worker must not serve

No stack trace, file path or input value of a failed item may reach a client: `detail` is written for them.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from handlers import contract


def is_status(value: Any) -> bool:
    """Whether this is the HTTP status of an error."""
    return type(value) is int and 400 <= value <= 599


class RequestError(Exception):
    """One item cannot be answered with a prediction.

    Args:
        detail: one or two sentences for the client: the mistake, and how to correct it.
        errors: for a 422, `{"field": "pixels.0.3", "message": "..."}` for each mistake.
    """

    status = 500
    kind = "internal"
    title = "Internal error"

    def __init_subclass__(cls) -> None:
        """Refuse a status that is none: TorchServe would end the worker that sends it."""
        if not is_status(cls.status):
            raise TypeError(f"{cls.__name__}.status must be a whole number from 400 to 599, and is {cls.status!r}")

    def __init__(self, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


class UnreadableHeader(RequestError):
    """A header that means something here, and cannot be read."""

    status = 400
    kind = "unreadable-header"
    title = "A header cannot be read"


class UndecodableBody(RequestError):
    """The bytes are not what their media type says."""

    status = 400
    kind = "undecodable-body"
    title = contract.PROBLEM_TITLES[kind]


class PayloadTooLarge(RequestError):
    """More bytes, pixels or parts than the archive allows."""

    status = 413
    kind = "payload-too-large"
    title = contract.PROBLEM_TITLES[kind]


class UnsupportedMedia(RequestError):
    """A media type that this handler does not read."""

    status = 415
    kind = "unsupported-media-type"
    title = contract.PROBLEM_TITLES[kind]


class DoesNotFit(RequestError):
    """Decoded, but it does not fit the request schema."""

    status = 422
    kind = "does-not-fit-schema"
    title = "The request does not fit the schema"

    def __init__(self, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail, errors or [])  # a 422 has the member, also where no mistakes are listed


class ModelFailed(RequestError):
    """The model raised, or answered something that cannot be sent."""

    status = 500
    kind = "model-failed"
    title = "The model failed on this item"


class NotImplementedHere(RequestError):
    """An operation of the server that this handler does not offer."""

    status = 501
    kind = "not-implemented"
    title = contract.PROBLEM_TITLES[kind]


class Unavailable(RequestError):
    """No worker is ready, or too much waits; the request was not computed.

    Args:
        retry_after_s: when the client may try again.
    """

    status = 503
    kind = "unavailable"
    title = contract.PROBLEM_TITLES[kind]

    def __init__(self, detail: str, retry_after_s: float = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class DeadlinePassed(RequestError):
    """The client does not wait for the answer any more."""

    status = 504
    kind = "deadline-passed"
    title = "The deadline has passed"


class LoadError(RuntimeError):
    """The worker must not serve; the message says why in one line.

    A RuntimeError because TorchServe answers its load command with a status only for that type; any other ends
    the process without an answer.
    """


def problem_document(error: RequestError, request_id: str | None, model: str, version: str) -> bytes:
    """The body of type PROBLEM_MEDIA_TYPE that answers one failed item."""
    document = contract.problem_document(
        error.kind, error.title, error.status, error.detail, request_id, model, version
    )
    if error.errors is not None:
        document["errors"] = error.errors
    return to_json(document)
