"""The gateway's access log: the only module that knows its format, its files and their rotation.

Invariants: Envoy writes lines by FIELDS, and `parse_entry` reads them. No client makes a line long. Refused requests
have LINES_PER_S lines a second at most; the gateway's counters count them all. Rotated files have the log's name and
.1 (the newest), .2 and so on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import BinaryIO

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CACHE_HEADER,
    CHOSEN_BY_HEADER,
    CLASS_HEADER,
    CLIENT_HEADER,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
)
from tsctl.errors import AnalysisError
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    extension,
    http_filter,
    overwrite,
    request_header,
)
from tsctl.gateway.headers import (
    DEADLINE_BY_HEADER,
    INSIDE_HEADER,
    METERED_HEADER,
    UNLOGGED_HEADER,
    VERSION_HEADER,
    WEIGHT_HEADER,
)
from tsctl.gateway.traffic import BY_WEIGHT

#: Dynamic metadata of a request on a sticky route: the value of its header or cookie.
USER_KEY = "user"
#: Bytes in the log of that value, and of others that a client or a handler chooses.
LONGEST_USER = 64
LONGEST_TEXT = 128
#: Requests beyond so many a second have no line, unless a client with a key sent them and its budget allowed them.
LINES_PER_S = 1000
LINES_FILTER = "lines_of_log"
_STATUS_OVER_BUDGET = 429
CHUNK_BYTES = 1 << 20
#: Dynamic metadata of an answer that has tokens: those of its prompt, its own, and how it ended.
PROMPT_KEY, ANSWER_KEY, FINISH_KEY = "prompt_tokens", "answer_tokens", "finish"
#: How a stream ended that has no end.
BROKEN = "broken"

#: Fields of a line, and Envoy's command operator for the value of each.
FIELDS = {
    "time": "%START_TIME%",
    "request_id": request_header(REQUEST_ID_HEADER, LONGEST_TEXT),
    "client": request_header(CLIENT_HEADER),
    "method": request_header(":METHOD", LONGEST_TEXT),
    "path": f"%PATH(NQ:PATH):{LONGEST_TEXT}%",  # without its query, in which a client may have put a key
    "model": "%ROUTE_NAME%",
    "version": request_header(VERSION_HEADER),
    "by": request_header(CHOSEN_BY_HEADER),
    "track": request_header(ASSIGNED_TRACK_HEADER),
    "weight": request_header(WEIGHT_HEADER),
    "class": f"%RESP({CLASS_HEADER}):{LONGEST_TEXT}%",
    "cache": f"%RESP({CACHE_HEADER}):{LONGEST_TEXT}%",
    "user": f"%DYNAMIC_METADATA({NAMESPACE}:{USER_KEY}):{LONGEST_USER}%",
    "protocol": request_header(PROTOCOL_HEADER),
    "status": "%RESPONSE_CODE%",
    "duration_ms": "%DURATION%",
    "answer_ms": "%COMMON_DURATION(DS_RX_END:US_RX_BEG:ms)%",
    "answer_type": f"%RESP(CONTENT-TYPE):{LONGEST_TEXT}%",
    "deadline": request_header(DEADLINE_BY_HEADER),
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "node": "%UPSTREAM_HOST%",
}
#: Fields that only lines of requests to language models have; metadata costs Envoy five times as much as a header.
TOKEN_FIELDS = {
    "tokens_in": f"%DYNAMIC_METADATA({NAMESPACE}:{PROMPT_KEY})%",
    "tokens_out": f"%DYNAMIC_METADATA({NAMESPACE}:{ANSWER_KEY})%",
    "finish": f"%DYNAMIC_METADATA({NAMESPACE}:{FINISH_KEY})%",
}
_TEXTS = ("model", "version", "by", "track", "class")
#: Lines that an older gateway wrote lack these.
_LATER_TEXTS = ("user", "client", "flags", "deadline", "cache", "finish")
#: So they do these, which only answers of language models have: tokens of the prompt and of the answer.
_TOKENS = ("tokens_in", "tokens_out")
#: Of a stream of server-sent events, which begins with its first token.
STREAM_TYPE = "text/event-stream"
#: An answer with fewer tokens says nothing of the time that one takes: the log has whole milliseconds.
LEAST_TOKENS = 16
#: What Envoy writes into a field without a value.
_NOTHING = (None, "", "-")


@dataclass(frozen=True)
class AccessLogEntry:
    """One request."""

    at: float  # seconds since 1970, when it came
    model: str | None  # None where no route matched
    version: str | None  # that answered; None where the gateway answered itself
    track: str | None  # that the version played, such as stable or canary; None without a version
    is_by_weight: bool  # the weights chose the version, and not the client
    weight: int | None  # of the version when the request was routed, of TOTAL; None without a version
    predicted_class: str | None  # None where the handler names none
    user: str | None  # whom a sticky route keeps on one version; None where the request or the route has none
    status: int  # 0 where the client left before the answer
    duration_ms: float
    answer_ms: float | None = None  # from the whole request to the begin of a node's answer; None where none answered
    client: str | None = None  # whose key it had
    flags: str | None = None  # Envoy's response flags; None where a node answered
    deadline: str | None = None  # who set it
    cache: str | None = None  # what the response cache did; None where the handler has none
    finish: str | None = None  # how a language model's answer ended; None of other models
    tokens_in: int | None = None  # of the prompt; None where the answer did not say it, and so for the next
    tokens_out: int | None = None  # of the answer
    is_stream: bool = False  # its answer began with the first token

    @property
    def token_ms(self) -> float | None:
        """Milliseconds for each token behind the first of a stream, or for each of an answer in one piece.

        None where the answer has fewer than LEAST_TOKENS, or is no language model's.
        """
        if self.tokens_out is None or self.tokens_out < LEAST_TOKENS or self.answer_ms is None:
            return None
        if self.is_stream:
            return max(0.0, self.duration_ms - self.answer_ms) / (self.tokens_out - 1)
        return self.answer_ms / self.tokens_out

    @property
    def waited_ms(self) -> float | None:
        """How long the client waited for the begin of an answer, or until it left; None where no node answered.

        A client that sends or reads slowly does not make this longer.
        """
        return self.duration_ms if self.status == 0 else self.answer_ms


@dataclass(frozen=True)
class LogPosition:
    """A place in the log: the file by its inode, and an offset in bytes. The default is before every file."""

    inode: int = 0
    offset: int = 0

    def is_in(self, file: os.stat_result) -> bool:
        """Whether the file is the one of this place. The inode of a removed file may belong to another, shorter one."""
        return file.st_ino == self.inode and file.st_size >= self.offset


def file_loggers(log: Path) -> list[Json]:
    """Envoy's access loggers: one of them writes a line of JSON for a request."""
    return [_file_logger(log, FIELDS, False), _file_logger(log, {**FIELDS, **TOKEN_FIELDS}, True)]


def _file_logger(log: Path, fields: dict[str, str], is_metered: bool) -> Json:
    kind = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
    logger = extension("envoy.access_loggers.file", kind, path=str(log), log_format={"json_format": fields})
    over_budget = {"default_value": _STATUS_OVER_BUDGET, "runtime_key": "tsctl.log.over_budget"}
    of_a_client = [
        {"header_filter": {"header": {"name": CLIENT_HEADER, "present_match": True}}},
        {"status_code_filter": {"comparison": {"op": "NE", "value": over_budget}}},
    ]
    in_rate = {"header_filter": {"header": {"name": UNLOGGED_HEADER, "present_match": False}}}
    written = {"or_filter": {"filters": [{"and_filter": {"filters": of_a_client}}, in_rate]}}
    metered = {"header_filter": {"header": {"name": METERED_HEADER, "present_match": is_metered}}}
    return {**logger, "filter": {"and_filter": {"filters": [metered, written]}}}


def unless_inside(logger: Json) -> Json:
    """The logger without requests that go to a listener inside Envoy, where they are logged and counted."""
    not_inside = {"header_filter": {"header": {"name": INSIDE_HEADER, "present_match": False}}}
    both = [*([logger["filter"]] if "filter" in logger else []), not_inside]  # Envoy ends at the first that is false
    return {**logger, "filter": {"and_filter": {"filters": both}} if len(both) > 1 else not_inside}


def lines_filter() -> Json:
    """Envoy's HTTP filter that marks requests beyond LINES_PER_S for `file_logger`, and lets all of them pass.

    It stands before the filter of keys, which ends refused requests.
    """
    bucket = {"max_tokens": LINES_PER_S, "tokens_per_fill": LINES_PER_S // 20, "fill_interval": "0.05s"}
    share = {"runtime_key": "tsctl.log.lines", "default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return http_filter(
        LINES_FILTER,
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="lines_of_log",
        token_bucket=bucket,
        filter_enabled=share,
        request_headers_to_add_when_not_enforced=[overwrite(UNLOGGED_HEADER, "1")],
    )


def parse_entry(line: bytes) -> AccessLogEntry | None:
    """The request of a line; None where the line is cut off or is none."""
    try:
        fields = json.loads(line)
        texts = {name: None if fields[name] in _NOTHING else str(fields[name]) for name in _TEXTS}
        later = {name: None if fields.get(name) in _NOTHING else str(fields[name]) for name in _LATER_TEXTS}
        tokens_in, tokens_out = (None if fields.get(name) in _NOTHING else int(float(fields[name])) for name in _TOKENS)
        duration_ms = float(fields["duration_ms"])
        answer_ms = fields.get("answer_ms", duration_ms)
        return AccessLogEntry(
            at=datetime.fromisoformat(fields["time"]).timestamp(),
            model=texts["model"],
            version=texts["version"],
            track=texts["track"],
            is_by_weight=texts["by"] == BY_WEIGHT,
            weight=None if fields["weight"] in _NOTHING else int(fields["weight"]),
            predicted_class=texts["class"],
            status=int(fields["status"]),
            duration_ms=duration_ms,
            answer_ms=None if answer_ms is None else float(answer_ms),
            is_stream=str(fields.get("answer_type")).startswith(STREAM_TYPE),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            **later,
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def rotated(log: Path, number: int) -> Path:
    """The file of that number; 1 is the newest."""
    return log.with_name(f"{log.name}.{number}")


def rotate(log: Path, kept: int) -> None:
    """Rename the log to number 1, and each rotated file to the next number; the one of number `kept` is lost."""
    files = [log, *(rotated(log, number) for number in range(1, kept + 1))]
    for newer, older in reversed(list(pairwise(files))):
        if newer.is_file():
            newer.replace(older)


def end_of_log(log: Path) -> LogPosition:
    """Where the log ends now."""
    try:
        stat = log.stat()
    except FileNotFoundError:
        return LogPosition()
    return LogPosition(stat.st_ino, stat.st_size)


def read_lines(log: Path, begin: LogPosition, end: LogPosition | None = None) -> tuple[list[bytes], LogPosition]:
    """Whole lines from one place to another, the oldest first, and the place behind the last of them.

    Args:
        begin: where its file is gone, all files that are left are read.
        end: None: the end of the log.

    Raises:
        AnalysisError: the log cannot be read.
    """
    parts: list[list[bytes]] = []  # the newest first
    position = begin
    with _reading(log):
        for file, stat in _newest_files(log):
            is_first, is_last = begin.is_in(stat), end is not None and stat.st_ino == end.inode
            offset = file.seek(begin.offset if is_first else 0)
            content = file.read((end.offset if end and is_last else stat.st_size) - offset)
            whole = content.rfind(b"\n") + 1
            if is_last or not parts:
                parts, position = [], LogPosition(stat.st_ino, offset + whole)
            parts.append(content[:whole].splitlines())
            if is_first:
                break
    return [line for part in reversed(parts) for line in part], position


def newest_chunks(log: Path, most_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[list[bytes]]:
    """Whole lines of the log and its rotated files, in chunks, the newest chunk first.

    Args:
        log: may be missing.
        most_bytes: are read in all, and the rest of the last chunk.

    Raises:
        AnalysisError: a file exists and cannot be read.
    """
    left = most_bytes
    with _reading(log):
        for file, stat in _newest_files(log):
            end, least = stat.st_size, max(0, stat.st_size - left)
            begun: bytes | None = None  # the end of a line whose start lies in the chunk before
            while end > least:
                start = file.seek(max(0, end - chunk_bytes))
                lines = (file.read(end - start) + (begun or b"")).split(b"\n")
                if begun is None:
                    lines.pop()  # empty, or the start of a line that is still being written
                begun = lines.pop(0) if start and lines else b""
                end = start
                yield lines
            left -= stat.st_size
            if left <= 0:
                return


def _newest_files(log: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """The log and its rotated files, opened in turn, the newest first; none twice where it is renamed meanwhile."""
    read: set[int] = set()
    for number in count():
        try:
            with (rotated(log, number) if number else log).open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino not in read:  # else it was renamed after it was read
                    yield file, stat
                read.add(stat.st_ino)
        except FileNotFoundError:
            if number:  # a missing log was renamed just now, and Envoy has not opened the next one
                return


@contextmanager
def _reading(log: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AnalysisError(f"{log} cannot be read: {error}") from error
