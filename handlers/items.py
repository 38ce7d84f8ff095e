"""One request of a batch and its answer, apart from how TorchServe carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from handlers.errors import PROBLEM_MEDIA_TYPE, RequestError, UndecodableBody, problem_document

JSON = "application/json"
PNG = "image/png"
JPEG = "image/jpeg"

_RAW_FIELDS = ("body", "data")  # how TorchServe names a body that is not a form
_LONGEST_REQUEST_ID = 128


@dataclass(frozen=True)
class Incoming:
    """The bytes of one item, what they are said to be, and the request's headers with lower-case names."""

    body: bytes
    media_type: str = ""  # without parameters, lower case; empty: the client did not say
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """The one outcome of one item."""

    status: int
    body: bytes
    media_type: str = JSON

    @property
    def phrase(self) -> str:
        return HTTPStatus(self.status).phrase


def problem(error: RequestError, request_id: str | None, model: str, version: str) -> Outgoing:
    """The outcome of an item that failed."""
    return Outgoing(error.status, problem_document(error, request_id, model, version), PROBLEM_MEDIA_TYPE)


def read_item(fields: Mapping[str, Any], properties: Mapping[str, Any], server_id: str | None) -> Incoming:
    """What TorchServe hands over for one item, as an Incoming.

    Args:
        fields: TorchServe's data item: form field name to value; a raw body has the field 'body'.
        properties: TorchServe's request properties: header name to str, form field name to its own headers as dict.
        server_id: TorchServe's id of the request, used where the client sent none.

    Raises:
        UndecodableBody: no field, or several where one is expected.
    """
    headers = {name.lower(): value for name, value in properties.items() if isinstance(value, str)}
    request_id = _plain_id(headers.get("x-request-id")) or server_id
    name = _field(fields)
    own = properties.get(name)
    media_type = own.get("content-type") if isinstance(own, dict) else None
    if not media_type and name in _RAW_FIELDS:
        media_type = headers.get("content-type")
    return Incoming(_bytes(fields[name]), _bare(media_type), headers, request_id)


def request_id_of(properties: Mapping[str, Any], server_id: str | None) -> str | None:
    """The id that names this request in answers and logs: the client's, else TorchServe's."""
    sent = next((v for k, v in properties.items() if k.lower() == "x-request-id" and isinstance(v, str)), None)
    return _plain_id(sent) or server_id


def sniff(body: bytes) -> str:
    """The media type that the first bytes tell: PNG, JPEG, else JSON."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if body.startswith(b"\xff\xd8\xff"):
        return JPEG
    return JSON


def _field(fields: Mapping[str, Any]) -> str:
    if len(fields) == 1:
        return next(iter(fields))
    if not fields:
        raise UndecodableBody("The request has no body.")
    names = ", ".join(sorted(fields)[:5])
    raise UndecodableBody(f"The form has {len(fields)} fields ({names}); send one field, or the bare body.")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    # TorchServe parsed it: this worker's switch to raw bodies did not take effect.
    raise TypeError(f"TorchServe handed over a {type(value).__name__} instead of the raw body")


def _bare(media_type: str | None) -> str:
    return (media_type or "").partition(";")[0].strip().lower()


def _plain_id(sent: str | None) -> str | None:
    if not sent or len(sent) > _LONGEST_REQUEST_ID or not sent.isprintable():
        return None
    return sent
