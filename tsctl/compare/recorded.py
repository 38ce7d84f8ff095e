"""The requests that are sent to every engine: an archive's samples, or a file of recorded requests.

The file has one JSON object on each line, in the order of sending: `body` (text, or any JSON value, which is sent as
JSON) or `body_base64`, and where wanted `media_type`, `headers`, `at_s`, `request_id` and `row`. In a file that
`tsctl capture` wrote, a line about the whole capture comes first (docs/capture.md).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from handlers.contract import JSON
from tsctl.archive.known import known, name_of, read_folder
from tsctl.config.spec import SpecModel
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.documents import parse_json
from tsctl.mistakes import first_mistake, why_no_json

#: Requests and characters that are read from a file at most: the client holds all of them in memory.
MOST_REQUESTS, MOST_BYTES = 100_000, 256 << 20
#: Key of the first line of a capture, and the form of what follows.
CAPTURE_KEY, CAPTURE_FORMAT = "tsctl_capture", 1
#: Characters of a request's id; what a worker keeps of one.
LONGEST_ID = 128
#: Seconds that a file of requests may span.
LONGEST_S = 31 * 86_400.0
#: Headers that the client itself sets for every request.
OWN_HEADERS = frozenset({"host", "content-length", "content-type", "connection", "transfer-encoding"})
_HINT = 'A line is for example {"body": {"text": "hello"}, "headers": {"x-user": "ann"}}.'


@dataclass(frozen=True)
class RecordedRequest:
    """One request, without an address."""

    name: str  # of the sample or the line, for messages; of a captured request its id
    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)  # beside those of OWN_HEADERS
    at_s: float | None = None  # when it arrived, after the begin of the capture; None: not known


@dataclass(frozen=True)
class Capture:
    """The first line of a file that `tsctl capture` wrote."""

    model: str
    begin: str  # of the period, in UTC, as ISO 8601 has it
    seconds: float  # of the period
    requests: int  # lines that follow
    recorded: Mapping[str, float] = field(default_factory=dict)  # share of the requests recorded, by version, if known


@dataclass(frozen=True)
class RequestFile:
    """The content of a file of requests."""

    requests: Sequence[RecordedRequest]
    capture: Capture | None = None  # None: the file was written by hand


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
    at_s: Annotated[float, Field(ge=0, le=LONGEST_S, strict=False)] | None = None
    request_id: Annotated[str, Field(max_length=LONGEST_ID)] | None = None
    row: Annotated[int, Field(ge=0)] = 0  # of a request with several

    @model_validator(mode="after")
    def _check(self) -> _Line:
        if ("body" in self.model_fields_set) == ("body_base64" in self.model_fields_set):
            raise ValueError("give either body or body_base64")
        if own := sorted(name for name in self.headers if name.lower() in OWN_HEADERS):
            raise ValueError(f"headers must not hold {', '.join(own)}: the client sets it")
        names = Counter(name.lower() for name in self.headers)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"headers must not hold {twice[0]} twice; its case does not matter")
        return self

    def content(self) -> bytes:
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64, validate=True)
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


def sample_requests(archive: Path) -> list[RecordedRequest]:
    """The archive's samples, or those that are kept beside it, by name.

    Raises:
        ArchiveError: it has none, or cannot be read.
    """
    samples = known(archive).samples
    if not samples:
        raise ArchiveError(f"{archive.name} has no samples to send", "Give a file of requests with --traffic.")
    return [RecordedRequest(name_of(sample), *sample[1:]) for sample in samples]


def folder_requests(folder: Path) -> list[RecordedRequest]:
    """The requests of a folder, one a file, by name.

    Raises:
        SpecError: there is none.
    """
    samples = read_folder(folder)
    if not samples:
        raise SpecError(f"{folder} holds no request", "Put at least one file there, such as one.json.")
    return [RecordedRequest(name_of(sample), *sample[1:]) for sample in samples]


class _First(SpecModel):
    tsctl_capture: int
    model: Annotated[str, Field(min_length=1)]
    begin: str
    seconds: Annotated[float, Field(ge=0, strict=False)]
    requests: Annotated[int, Field(ge=0)]
    recorded: dict[str, Annotated[float, Field(ge=0, le=1, strict=False)]] = {}


def read_requests(path: Path) -> Sequence[RecordedRequest]:
    """The requests of a file, as `read_file` reads them."""
    return read_file(path).requests


def read_requests_to(path: Path, model: str) -> Sequence[RecordedRequest]:
    """The requests of a file that are meant for a model; a file that was written by hand names none.

    Raises:
        SpecError: as `read_file`, or they were captured from another model.
    """
    file = read_file(path)
    if file.capture is not None and file.capture.model != model:
        raise SpecError(
            f"{path} has requests to {file.capture.model}, not to {model}",
            "Where both models read the same requests, write the other name into its first line.",
        )
    return file.requests


def read_file(path: Path) -> RequestFile:
    """The requests of a file, in its order; empty lines are skipped.

    Raises:
        SpecError: it cannot be read, a line is no request, or a capture has fewer lines than it says; the message names
            the line.
    """
    requests: list[RecordedRequest] = []
    capture: Capture | None = None
    held = 0
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors write a byte order mark
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
                if number == 1 and (capture := _capture(path, line)) is not None:
                    continue
                if capture is not None and not line.endswith("\n"):
                    break  # cut off within this line, as the count says
                if line.strip():
                    requests.append(_request(path, number, line))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is no UTF-8 text", "A body that is no text goes into body_base64.") from None
    if capture is not None and len(requests) != capture.requests:
        raise SpecError(
            f"{path} has {len(requests)} requests, and its first line says {capture.requests}: it was cut or changed",
            "Copy it again. For a part of it, write the new number of requests into its first line.",
        )
    if not requests:
        hint = _HINT if capture is None else "Capture more minutes, or while requests come."
        raise SpecError(f"{path} holds no request", hint)
    return RequestFile(requests, capture)


def _capture(path: Path, line: str) -> Capture | None:
    """The first line of a capture; None where it is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or CAPTURE_KEY not in content:
        return None
    if content[CAPTURE_KEY] != CAPTURE_FORMAT:
        raise SpecError(
            f"{path} is a capture of format {content[CAPTURE_KEY]!r:.20}; this tsctl reads format {CAPTURE_FORMAT}",
            "Use the tsctl that wrote it, or capture again.",
        )
    try:
        first = _First.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{path}, line 1: {first_mistake(error)}", "Copy the file again, or capture again.") from None
    return Capture(first.model, first.begin, first.seconds, first.requests, first.recorded)


def _request(path: Path, number: int, line: str) -> RecordedRequest:
    try:
        read = _Line.model_validate(parse_json(line.encode()))
        body = read.content()
    except ValidationError as error:
        raise SpecError(f"{path}, line {number}: {first_mistake(error)}", _HINT) from None
    except binascii.Error as error:
        raise SpecError(f"{path}, line {number}: body_base64: {error}", _HINT) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}, line {number}: no JSON: {why_no_json(error)}", _HINT) from None
    name = read.request_id or f"line {number}"
    return RecordedRequest(
        f"{name} row {read.row}" if read.row else name, body, read.media_type, read.headers, read.at_s
    )
