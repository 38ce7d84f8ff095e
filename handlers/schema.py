"""Request models and their decoding: bytes to a validated request, or one RequestError that says why not."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from handlers.errors import DoesNotFit, UndecodableBody

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
        raise _refusal(error) from None
    except ValueError as error:  # integers too long to convert, lone surrogates
        raise UndecodableBody(f"The body is not JSON that can be read: {error}.") from None


def _refusal(error: ValidationError) -> UndecodableBody | DoesNotFit:
    entries = _mistakes(error)
    if entries[0]["type"] == "json_invalid":
        return UndecodableBody(f"The body is not JSON: {entries[0]['msg'].removeprefix('Invalid JSON: ')}.")
    return _listed(entries)


def does_not_fit(error: ValidationError, where: str) -> DoesNotFit:
    """Why values did not fit that stand at `where` in the request, such as `inputs.0.data`."""
    return _listed(_mistakes(error), (where,))


def _mistakes(error: ValidationError) -> list[ErrorDetails]:
    # include_input=False: an input can be large, and may be private
    return error.errors(include_url=False, include_input=False, include_context=False)


def _listed(entries: list[ErrorDetails], where: tuple[str, ...] = ()) -> DoesNotFit:
    shown = [
        {"field": ".".join(str(part)[:LONGEST_KEY] for part in (*where, *entry["loc"])), "message": entry["msg"]}
        for entry in entries[:MAX_ERRORS]
    ]
    first = shown[0]
    more = f" ({len(entries) - 1} more)" if len(entries) > 1 else ""
    field = f"{first['field']}: " if first["field"] else ""
    return DoesNotFit(f"{field}{first['message']}{more}.", shown)


def finite_json(body: bytes) -> bool:
    """Whether encoded JSON holds no NaN and no infinity, which are not JSON.

    The byte search decides almost always; only a string that happens to hold the words is parsed.
    """
    if b"NaN" not in body and b"Infinity" not in body:
        return True
    found: list[str] = []

    def remember(word: str) -> Any:
        found.append(word)

    json.loads(body, parse_constant=remember, parse_int=str)  # as text, because Python refuses to read long integers
    return not found
