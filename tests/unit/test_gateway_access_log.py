"""The access log: Envoy's format fits the parser, and readers follow the log across rotations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handlers import contract
from tsctl.gateway import headers
from tsctl.gateway.access_log import (
    FIELDS,
    LEAST_TOKENS,
    TOKEN_FIELDS,
    AccessLogEntry,
    LogPosition,
    end_of_log,
    file_loggers,
    parse_entry,
    read_lines,
    rotate,
    rotated,
)
from tsctl.gateway.counters import REQUEST_MS, REQUESTS, SERIES, parse_page, stats_loggers

LINE: dict[str, Any] = {
    **dict.fromkeys(FIELDS),
    "time": "2026-01-01T00:00:01.500Z", "model": "digits", "version": "2.0", "by": "weight", "track": "canary",
    "weight": "500", "class": "7", "user": "ann", "status": 200, "duration_ms": 12, "answer_ms": 11, "client": "shop",
    "flags": "-", "deadline": "route",
}  # fmt: skip

#: A line without one of these is an entry all the same.
LATER = {"user", "answer_ms", "client", "flags", "deadline"}


def test_a_line_with_the_fields_of_the_format_is_an_entry() -> None:
    plain, metered = (logger["typed_config"]["log_format"] for logger in file_loggers(Path("access.log")))
    assert plain == {"json_format": FIELDS}
    assert metered == {"json_format": {**FIELDS, **TOKEN_FIELDS}}
    assert parse_entry(json.dumps(LINE).encode()) == AccessLogEntry(
        1767225601.5, "digits", "2.0", "canary", True, 500, "7", "ann", 200, 12.0, 11.0, "shop", None, "route"
    )


def test_a_line_of_an_older_gateway_is_an_entry_whose_client_waited_for_all_of_it() -> None:
    new = ("answer_ms", "client", "flags", "deadline")
    entry = parse_entry(json.dumps({key: value for key, value in LINE.items() if key not in new}).encode())
    assert entry is not None
    assert (entry.waited_ms, entry.client, entry.deadline) == (12.0, None, None)


@pytest.mark.parametrize(("status", "answer_ms", "waited_ms"), [(200, 3, 3), (0, None, 12), (503, None, None)])
def test_a_client_that_sends_or_reads_slowly_waited_no_longer(
    status: int, answer_ms: int | None, waited_ms: float | None
) -> None:
    """From its whole request to the begin of the answer; a client that left waited until then."""
    entry = parse_entry(json.dumps({**LINE, "status": status, "answer_ms": answer_ms}).encode())
    assert entry is not None
    assert entry.waited_ms == waited_ms


@pytest.mark.parametrize(
    ("told", "token_ms"),
    [
        (
            {"answer_type": "text/event-stream; charset=utf-8", "tokens_out": 21},
            10.0,
        ),
        ({"answer_type": "application/json", "tokens_out": "20"}, 5.0),
        ({"answer_type": "text/event-stream", "tokens_out": LEAST_TOKENS - 1.0}, None),
        ({"answer_type": "text/event-stream", "tokens_out": 21, "answer_ms": None}, None),
        ({"answer_type": "text/event-stream"}, None),
    ],
)
def test_the_time_of_a_token_is_that_of_the_tokens_behind_the_first(
    told: dict[str, Any], token_ms: float | None
) -> None:
    line = {**LINE, "duration_ms": 300, "answer_ms": 100, "finish": "stop", "tokens_in": 12, **told}
    entry = parse_entry(json.dumps(line).encode())
    assert entry is not None
    assert (entry.token_ms, entry.tokens_in, entry.finish) == (token_ms, 12, "stop")


def test_a_count_of_tokens_that_is_none_spoils_its_line() -> None:
    for count in ("many", 1e999, "nan"):
        assert parse_entry(json.dumps({**LINE, "tokens_out": count}).encode()) is None


@pytest.mark.parametrize("field", sorted({name for name, value in LINE.items() if value} - LATER))
def test_a_line_without_a_field_is_no_entry(field: str) -> None:
    assert parse_entry(json.dumps({key: value for key, value in LINE.items() if key != field}).encode()) is None


def test_no_field_that_a_client_or_a_handler_chooses_is_written_whole() -> None:
    cut = re.compile(r"%(REQ|RESP|DYNAMIC_METADATA)\(.*\):\d+%")
    written_here = f"%REQ({headers.OWN_PREFIX}"  # only the gateway may write such a header
    for name, value in FIELDS.items():
        if value.startswith(("%REQ(", "%RESP(", "%DYNAMIC")) and not value.startswith(written_here):
            assert cut.fullmatch(value), name


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    for content in "abcd":
        log.write_text(content)
        rotate(log, kept=2)
    assert not log.exists()
    assert [rotated(log, number).read_text() for number in (1, 2)] == ["d", "c"]
    assert not rotated(log, 3).exists()


def test_lines_are_read_from_one_place_to_another_across_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    assert end_of_log(log) == LogPosition()
    log.write_bytes(b"1\n2\n")
    begin = end_of_log(log)
    log.write_bytes(b"1\n2\n3\n")
    rotate(log, kept=2)
    log.write_bytes(b"4\n5\nunfinish")
    lines, end = read_lines(log, begin)
    assert lines == [b"3", b"4", b"5"]
    log.write_bytes(b"4\n5\nunfinished\n")
    assert read_lines(log, end)[0] == [b"unfinished"]
    assert read_lines(log, begin, end) == (lines, end)
    assert read_lines(log, LogPosition(), end)[0] == [b"1", b"2", *lines]


def test_counters_are_read_by_the_names_by_which_envoy_writes_them() -> None:
    first, second = (logger["typed_config"] for logger in stats_loggers()[:2])
    scope = first["stats_scope"]["prefix"]
    [counter], [histogram] = first["counters"], second["histograms"]
    assert f"envoy_{scope}_{counter['stat']['name']}" == REQUESTS
    assert f"envoy_{scope}_{histogram['stat']['name']}" == REQUEST_MS
    page = (
        f'# TYPE {REQUESTS} counter\n{REQUESTS}{{}} 3\n# TYPE {REQUEST_MS} histogram\n{REQUEST_MS}_bucket{{le="1"}} 2\n'
    )
    page += f"{REQUEST_MS}_sum{{}} 4.5\n{REQUEST_MS}_count{{}} 3\n"
    assert {sample.name: sample.value for sample in parse_page(page) if sample.name in SERIES} == {
        REQUESTS: 3, f"{REQUEST_MS}_bucket": 2, f"{REQUEST_MS}_count": 3,
    }  # fmt: skip


def test_lua_names_no_header_and_no_problem_of_python() -> None:
    folder = Path(headers.__file__).parent / "envoy" / "render"
    sources = [path.read_text(encoding="utf-8") for path in folder.glob("*.lua")]
    assert len(sources) == 14
    names = {value for name, value in vars(contract).items() if name.endswith("_HEADER") and isinstance(value, str)}
    names |= {value for name, value in vars(headers).items() if name.endswith("_HEADER") and isinstance(value, str)}
    names |= {contract.PROBLEM_MEDIA_TYPE, contract.PROBLEM_TYPE_PREFIX}
    assert len(names) > 10
    assert not [name for name in names for source in sources if name in source]
