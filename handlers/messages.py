"""One request of a batch and its answer, apart from how TorchServe carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from handlers.contract import JPEG, JSON, PNG, PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER
from handlers.errors import (
    PayloadTooLarge,
    RequestError,
    UndecodableBody,
    UnsupportedMedia,
    problem_document,
)

_RAW_FIELD = "body"  # how TorchServe names a body that is not a form
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_LONGEST_REQUEST_ID = 128


@dataclass(slots=True)
class Incoming:
    """The bytes of one item, what they are said to be, and the request's headers with lower-case names."""

    body: bytes
    media_type: str = ""  # without parameters, lower case; empty: the client did not say
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(slots=True)
class Outgoing:
    """The one outcome of one item."""

    status: int
    body: bytes
    media_type: str = JSON
    error: RequestError | None = None  # why there is no prediction
    cache: str = ""  # hit, miss or bypass; empty where the cache was not asked
    headers: tuple[tuple[str, str], ...] = ()  # besides the media type

    @property
    def phrase(self) -> str:
        return _PHRASES.get(self.status, "")  # HTTP lets an author's own status go without one


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def problem(error: RequestError, request_id: str | None, model: str, version: str) -> Outgoing:
    """The outcome of an item that failed."""
    return Outgoing(error.status, problem_document(error, request_id, model, version), PROBLEM_MEDIA_TYPE, error)


def read_item(
    fields: Mapping[str, Any],
    types: Mapping[str, str],
    headers: Mapping[str, str],
    server_id: str | None,
    is_ambiguous: bool = False,
) -> Incoming:
    """What TorchServe hands over for one item, as an Incoming.

    Args:
        fields: field name to value, of a form and of the URL's query; a bare body has the field 'body'; a gRPC client
            chooses the name.
        types: field name to the media type that stands beside it.
        headers: the request's, with lower-case names.
        server_id: TorchServe's id of the request, used where the client sent none.
        is_ambiguous: whether a field came more than once, of which `fields` has the last.

    Raises:
        UndecodableBody: no field, or several where one is expected.
        UnsupportedMedia: a form without a field.
    """
    sent_as = _bare(headers.get("content-type", ""))
    is_form = sent_as in _FORMS
    name = _field(fields, is_form, is_ambiguous)
    media_type = _bare(types.get(name, ""))
    return Incoming(
        _bytes(fields[name]), media_type or ("" if is_form else sent_as), headers, request_id_of(headers, server_id)
    )


def read_properties(properties: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Media types of the fields, and headers with lower-case names, out of TorchServe's request properties, which mix
    both: a field's name has a dict of its own headers, a header's name a str."""
    types = {name: own.get("content-type") or "" for name, own in properties.items() if isinstance(own, dict)}
    return types, {name.lower(): value for name, value in properties.items() if isinstance(value, str)}


def request_id_of(headers: Mapping[str, str], server_id: str | None) -> str | None:
    """The id that names this request in answers and logs: the client's, else TorchServe's."""
    return _plain_id(headers.get(REQUEST_ID_HEADER)) or server_id


def refuse_large(body: bytes, most_bytes: int) -> None:
    """A body that is longer than the archive allows is not decoded.

    Raises:
        PayloadTooLarge: it is longer.
    """
    if len(body) > most_bytes:
        raise PayloadTooLarge(f"The body has {len(body)} bytes; at most {most_bytes} may come.")


def sniff(body: bytes) -> str:
    """The media type that the first bytes tell: PNG, JPEG, else JSON."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if body.startswith(b"\xff\xd8\xff"):
        return JPEG
    return JSON


def _field(fields: Mapping[str, Any], is_form: bool, is_ambiguous: bool) -> str:
    """The field that holds the item; beside a bare body there may be fields of the URL's query, which are not meant."""
    if not is_form and _RAW_FIELD in fields:
        return _RAW_FIELD
    if not fields and is_form:  # what `curl -d` makes of JSON where no Content-Type is given
        raise UnsupportedMedia(f"The body came as a form without a field; send it with Content-Type: {JSON}.")
    if not fields:
        raise UndecodableBody("The request has no body.")
    name = next(iter(fields))
    if is_form and is_ambiguous:
        raise UndecodableBody("The form has a field more than once; send one field, or the bare body.")
    if len(fields) > 1:
        raise UndecodableBody(f"The form has {len(fields)} fields; send one field, or the bare body.")
    if is_form and not fields[name]:  # what `curl -d` does to JSON: all of it becomes the name of an empty field
        raise UndecodableBody(
            "The form's field is empty; a bare body needs its own Content-Type, such as " + JSON + "."
        )
    return name


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    # TorchServe parsed it: this worker's switch to raw bodies did not take effect.
    raise TypeError(f"TorchServe handed over a {type(value).__name__} instead of the raw body")


@lru_cache(256)
def _bare(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _plain_id(sent: str | None) -> str | None:
    if not sent or len(sent) > _LONGEST_REQUEST_ID or not sent.isprintable():
        return None
    return sent
