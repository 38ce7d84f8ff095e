"""The requests that are sent to every engine: an archive's samples, or a file of recorded requests.

The file has one JSON object on each line, in the order of sending: `body` (text, or any JSON value, which is sent as
JSON) or `body_base64`, and where wanted `media_type` and `headers`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from handlers.contract import JSON
from tsctl.archive.container import read_samples
from tsctl.config.spec import SpecModel
from tsctl.errors import ArchiveError, SpecError

#: Requests and characters that are read from a file at most: the client holds all of them in memory.
MOST_REQUESTS, MOST_BYTES = 100_000, 256 << 20
#: Headers that the client itself sets for every request.
OWN_HEADERS = frozenset({"host", "content-length", "content-type", "connection", "transfer-encoding"})
_HINT = 'A line is for example {"body": {"text": "hello"}, "headers": {"x-user": "ann"}}.'


@dataclass(frozen=True)
class RecordedRequest:
    """One request, without an address."""

    name: str  # of the sample or the line, for messages
    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)  # beside those of OWN_HEADERS


def _plain(text: object) -> object:
    if isinstance(text, str) and not (text.isascii() and text.isprintable()):
        raise ValueError("must be printable ASCII")
    return text


Plain = Annotated[str, BeforeValidator(_plain)]


class _Line(SpecModel):
    body: Any = None
    body_base64: str | None = None
    media_type: Annotated[Plain, Field(min_length=1)] = JSON
    headers: dict[Annotated[Plain, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")], Plain] = {}

    @model_validator(mode="after")
    def _check(self) -> _Line:
        if ("body" in self.model_fields_set) == ("body_base64" in self.model_fields_set):
            raise ValueError("give either body or body_base64")
        if own := sorted(name for name in self.headers if name.lower() in OWN_HEADERS):
            raise ValueError(f"headers must not hold {', '.join(own)}: the client sets it")
        return self

    def content(self) -> bytes:
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64, validate=True)
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


def sample_requests(archive: Path) -> list[RecordedRequest]:
    """The archive's samples, by name.

    Raises:
        ArchiveError: it has none, or cannot be read.
    """
    samples = read_samples(archive)
    if not samples:
        raise ArchiveError(f"{archive.name} has no samples to send", "Give a file of requests with --traffic.")
    return [RecordedRequest(name.removeprefix("samples/"), body, media_type) for name, body, media_type in samples]


def read_requests(path: Path) -> list[RecordedRequest]:
    """The requests of a file, in its order; empty lines are skipped.

    Raises:
        SpecError: it cannot be read, or a line is no request; the message names the line.
    """
    requests: list[RecordedRequest] = []
    held = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number in count(1):
                line = file.readline(MOST_BYTES + 1 - held)
                held += len(line)
                if (len(requests) >= MOST_REQUESTS and line.strip()) or held > MOST_BYTES:
                    raise SpecError(
                        f"{path} has more than {MOST_REQUESTS:,} requests or {MOST_BYTES >> 20} MiB",
                        "Take a part of it, for example its first lines.",
                    )
                if not line:
                    break
                if line.strip():
                    requests.append(_request(path, number, line))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is no UTF-8 text", "A body that is no text goes into body_base64.") from None
    if not requests:
        raise SpecError(f"{path} holds no request", _HINT)
    return requests


def _request(path: Path, number: int, line: str) -> RecordedRequest:
    try:
        content = json.loads(line)
        read = _Line.model_validate(content)
        body = read.content()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise SpecError(f"{path}, line {number}: {f'{place}: ' if place else ''}{reason}", _HINT) from None
    except binascii.Error as error:
        raise SpecError(f"{path}, line {number}: body_base64: {error}", _HINT) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}, line {number}: no JSON: {error}", _HINT) from None
    return RecordedRequest(f"line {number}", body, read.media_type, read.headers)
