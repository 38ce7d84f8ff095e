"""A request and its outcome, as adapters, worker and pipeline hand them to each other; no server is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from handlers.contract import JSON, PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER
from handlers.errors import ModelFailed, RequestError, is_status, problem_document

_LONGEST_REQUEST_ID = 128
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One request, as an adapter read it from its server."""

    body: bytes = b""
    media_type: str = ""  # without parameters, lower case; empty: the client named none
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    request_id: str | None = None
    row: dict[str, Any] | None = None  # a decoded JSON object in place of a body: a row of an infer request
    row_number: int = 0  # of that row among those of its request
    error: RequestError | None = None  # why the adapter could not read it; it is answered with this
    wants_description: bool = False  # asks what the worker serves, and for no prediction


@dataclass(slots=True)
class Outcome:
    """The answer to one request."""

    status: int
    body: bytes
    media_type: str = JSON
    error: RequestError | None = None  # why there is no prediction
    value: Any = None  # what `body` encodes; None also where the body came from the cache
    class_name: str = ""  # the predicted class; empty where there is none
    cache: str = ""  # hit, miss or bypass; empty where the cache was not asked
    headers: tuple[tuple[str, str], ...] = ()  # besides the media type

    @property
    def phrase(self) -> str:
        """The status in words; empty for an author's own status that HTTP does not know."""
        return phrase_of(self.status)


def phrase_of(status: int) -> str:
    """A status in words; empty for one that HTTP does not know."""
    return _PHRASES.get(status, "")


@dataclass(frozen=True, slots=True)
class Head:
    """What comes before the body of an answer that comes in parts."""

    status: int
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()  # besides the media type


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer. The first one has a head, and the last one says so; an answer may be one part."""

    ticket: Any  # of its request
    body: bytes
    head: Head | None
    is_last: bool


def problem(error: RequestError, request_id: str | None, model: str, version: str) -> Outcome:
    """The outcome of a request that failed."""
    if not is_status(error.status):  # of one object; those of classes were checked
        error = ModelFailed("The handler refused this item with a status that is none.")
    return Outcome(error.status, problem_document(error, request_id, model, version), PROBLEM_MEDIA_TYPE, error)


@lru_cache(256)
def bare_media_type(header: str) -> str:
    """A Content-Type header without its parameters, in lower case."""
    return header.partition(";")[0].strip().lower()


def request_id_of(headers: Mapping[str, str], server_id: str | None) -> str | None:
    """The id that names a request in answers and logs: the client's where it is a plain text, else the server's."""
    sent = headers.get(REQUEST_ID_HEADER)
    if not sent or len(sent) > _LONGEST_REQUEST_ID or not sent.isprintable():
        return server_id
    return sent
