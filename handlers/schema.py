"""Request models and their decoding: bytes to a validated request, or one RequestError with the reason."""

from __future__ import annotations

import codecs
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from handlers.alternatives import without_alternatives
from handlers.errors import DoesNotFit, UndecodableBody

_MARK = "\ufeff"
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
#: More mistakes than this are counted, not listed: a wrong list of numbers has one mistake per number.
MAX_ERRORS = 20
#: An unknown key of the client's is cut here when an error names it.
LONGEST_KEY = 100


class Schema(BaseModel):
    """Base of request models: unknown fields, coerced types, NaN and infinities are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Request = TypeVar("Request", bound=BaseModel)


def parse_json(model: type[Request], body: bytes) -> Request:
    """The JSON body as `model`.

    Raises:
        UndecodableBody: not UTF-8 JSON, or nested too deeply.
        DoesNotFit: JSON, but not what the model asks for.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if body.startswith(_BYTE_ORDER_MARKS):
            return parse_json(model, _without_mark(body))
        raise _refusal(error, body) from None
    except ValueError as error:  # integers too long to convert, lone surrogates
        raise UndecodableBody(f"The body is not JSON that can be read: {error}.") from None


def _without_mark(body: bytes) -> bytes:
    """The text as UTF-8, without the byte order mark that names its encoding.

    Raises:
        UndecodableBody: it has another encoding, or a second mark.
    """
    try:
        text = body.decode(json.detect_encoding(body))
    except UnicodeError:
        text = _MARK
    if text.startswith(_MARK):
        raise UndecodableBody("The body begins with a byte order mark, and is not the text that this announces.")
    return text.encode()


def validate(model: type[Request], value: dict[str, Any]) -> Request:
    """A decoded JSON object as `model`: the same result, and the same error, as from its JSON.

    Raises:
        DoesNotFit: the model asks for something else.
    """
    try:
        return model.model_validate(value)
    except ValidationError:  # strict Python values are not strict JSON: there, a list may be a tuple, a text a date
        return parse_json(model, row_json(model, value))


def row_json(model: type[BaseModel], row: dict[str, Any]) -> bytes:
    """The JSON of a decoded object, from which the model reads the same values.

    Raises:
        DoesNotFit: it holds bytes that are no text, and the model expects texts in their place.
    """
    try:
        return to_json(row, bytes_mode=model.model_config.get("val_json_bytes", "utf8"))
    except ValueError:
        raise DoesNotFit("A value holds bytes that are no UTF-8 text.") from None


def _refusal(error: ValidationError, body: bytes) -> UndecodableBody | DoesNotFit:
    entries = _mistakes(error)
    if entries[0]["type"] == "json_invalid":
        return UndecodableBody(f"The body is not JSON: {entries[0]['msg'].removeprefix('Invalid JSON: ')}.")
    return _listed(without_alternatives(entries, from_json(body)))


def does_not_fit(error: ValidationError, sent: Any, place: str = "") -> DoesNotFit:
    """The error for values at one place of the request, such as `inputs.0.data`; empty: of the whole.

    Args:
        sent: the values, as they were validated.
    """
    return _listed(without_alternatives(_mistakes(error), sent), (place,) if place else ())


def _mistakes(error: ValidationError) -> list[ErrorDetails]:
    # include_input=False: an input can be large, and may be private
    return error.errors(include_url=False, include_input=False, include_context=False)


def _listed(entries: list[ErrorDetails], place: tuple[str, ...] = ()) -> DoesNotFit:
    shown = [
        {"field": ".".join(str(part)[:LONGEST_KEY] for part in (*place, *entry["loc"])), "message": entry["msg"]}
        for entry in entries[:MAX_ERRORS]
    ]
    first = shown[0]
    more = f" ({len(entries) - 1} more)" if len(entries) > 1 else ""
    field = f"{first['field']}: " if first["field"] else ""
    return DoesNotFit(f"{field}{first['message']}{more}.", shown)
