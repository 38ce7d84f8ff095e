"""The access log is read from its end, across rotations, and no further than it must be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.errors import AnalysisError
from tsctl.gateway.access_log import CHUNK_BYTES, AccessLogEntry
from tsctl.rollout.forecast.recent_traffic import duration_quantile, read_recent, recent_traffic

NOW = 1_790_000_000.0


def line(at: float, model: str | None = "digits", **fields: Any) -> str:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {
        "version": "1.0", "by": "weight", "track": "stable", "weight": "10000", "class": None, "status": 200,
        "duration_ms": 12, "answer_ms": 9, "user": None,
    }  # fmt: skip
    return json.dumps({"time": moment, "model": model, **known, **fields}) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def ages(entries: list[AccessLogEntry]) -> list[float]:
    return [round(NOW - entry.at, 3) for entry in entries]


def test_a_line_is_read_whole(log: Path) -> None:
    write(log, line(NOW - 1, version="2.0", track="canary", weight="500", status=503, **{"class": "7"}))
    [entry] = read_recent(log, "digits", NOW - 60)
    assert entry == AccessLogEntry(NOW - 1, "digits", "2.0", "canary", True, 500, "7", None, 503, 12.0, 9.0)


def test_what_the_gateway_answered_itself_has_no_version(log: Path) -> None:
    nothing = {"version": None, "by": None, "track": "-", "weight": "-", "class": "-"}
    write(log, line(NOW - 1, status=429, **nothing))
    [entry] = read_recent(log, "digits", NOW - 60)
    assert (entry.version, entry.track, entry.weight, entry.predicted_class) == (None, None, None, None)
    assert recent_traffic([entry], NOW - 60, NOW, False, 0.95).requests == 0


def test_other_models_older_requests_and_cut_lines_are_left_out(log: Path) -> None:
    cut = line(NOW - 1).removesuffix("}\n")
    others = (line(NOW - 4, "other"), line(NOW - 3, None))
    write(log, line(NOW - 70), cut, "\n", "[]\n", line(NOW - 5), *others, line(NOW - 2), cut)
    assert ages(read_recent(log, "digits", NOW - 60)) == [5, 2]


def test_no_log_has_no_requests(log: Path) -> None:
    assert read_recent(log, "digits", NOW - 60) == []


def test_logs_before_it_are_read_where_they_are_new_enough(log: Path) -> None:
    write(log, line(NOW - 1))
    write(log.with_name("access.log.1"), line(NOW - 30), line(NOW - 20))
    write(log.with_name("access.log.2"), line(NOW - 90), line(NOW - 80))
    write(log.with_name("access.log.3"), line(NOW - 10))  # behind one that is too old, so that it is not looked at
    assert ages(read_recent(log, "digits", NOW - 60)) == [30, 20, 1]


def test_a_log_that_is_being_renamed_is_read_once(log: Path) -> None:
    write(log.with_name("access.log.1"), line(NOW - 20))
    assert ages(read_recent(log, "digits", NOW - 60)) == [20]
    log.hardlink_to(log.with_name("access.log.1"))  # as a reader sees it that opened the first just before the renaming
    assert ages(read_recent(log, "digits", NOW - 60)) == [20]


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=4), chunk=st.integers(300, 3000))
def test_chunks_do_not_show(tmp_path_factory: pytest.TempPathFactory, counts: list[int], chunk: int) -> None:
    log = tmp_path_factory.mktemp("logs") / "access.log"
    age = sum(counts)
    for number, count in reversed(list(enumerate(counts))):
        path = log.with_name(f"access.log.{number}") if number else log
        write(path, *(line(NOW - age + index) for index in range(count)))
        age -= count
    assert ages(read_recent(log, "digits", NOW - 1000, chunk_bytes=chunk)) == list(range(sum(counts), 0, -1))


def test_no_more_is_read_than_allowed(log: Path) -> None:
    written = [line(NOW - 100 + index / 100) for index in range(10_000)]
    write(log, *written)
    write(log.with_name("access.log.1"), *(line(NOW - 101) for _ in range(10)))
    most = 1 << 20
    entries = read_recent(log, "digits", NOW - 1000, most)
    assert entries[-1].at == pytest.approx(NOW - 0.01)
    assert len(entries) * len(written[0]) <= most + CHUNK_BYTES


def test_a_log_that_cannot_be_read_is_an_error(log: Path) -> None:
    log.mkdir()
    with pytest.raises(AnalysisError, match=r"access\.log cannot be read"):
        read_recent(log, "digits", NOW - 60)


def entries_of(count: int, begin: float, seconds: float, **fields: Any) -> list[AccessLogEntry]:
    usual = {
        "model": "digits", "version": "1.0", "track": "stable", "is_by_weight": True, "weight": 10_000,
        "predicted_class": None, "user": None, "status": 200, "duration_ms": 10.0,
    }  # fmt: skip
    known = {**usual, **fields}
    return [
        AccessLogEntry(at=begin + seconds * index / count, answer_ms=known["duration_ms"], **known)
        for index in range(count)
    ]


@pytest.mark.parametrize(("count_4xx", "error_rate"), [(False, 20 / 980), (True, 50 / 980)])
def test_traffic_is_what_chance_divides_and_the_rates_are_those_of_stable(count_4xx: bool, error_rate: float) -> None:
    begin = NOW - 100
    seen = [
        *entries_of(930, begin, 100), *entries_of(20, begin, 100, status=500), *entries_of(30, begin, 100, status=404),
        *entries_of(20, begin, 100, status=0), *entries_of(500, begin, 100, track="canary", status=503),
        *entries_of(700, begin, 100, is_by_weight=False, status=503),
    ]  # fmt: skip
    recent = recent_traffic(sorted(seen, key=lambda entry: entry.at), begin, NOW, count_4xx, 0.95)
    assert recent.requests == 1500
    assert recent.requests_per_s == pytest.approx(15)
    assert recent.error_rate == pytest.approx(error_rate)
    assert recent.since_s == pytest.approx(100)


def test_the_share_of_predictions_whose_classes_are_judged_one_by_one() -> None:
    many = [entry for name in range(100) for entry in entries_of(1, 0, 1, predicted_class=f"c{name}")]
    folded = entries_of(100, 0, 1, predicted_class="other")
    for seen, share in ((many, 0.5), (folded, 0.0), ([*many[:50], *folded[:50]], 0.5), (entries_of(9, 0, 1), None)):
        assert recent_traffic(seen, 0, 100, False, 0.95).class_share == share


def test_equal_durations_are_slow_together() -> None:
    seen = [*entries_of(90, 0, 90, duration_ms=3.0), *entries_of(10, 90, 10, duration_ms=4.0)]
    assert duration_quantile(seen, 0.95) == 4.0
    assert recent_traffic(seen, 0, 100, False, 0.95).slow_share == pytest.approx(0.1)
    assert recent_traffic(seen, 0, 100, False, 0.5).slow_share == 1.0
    assert duration_quantile([], 0.5) is None


def test_a_log_that_begins_later_counts_from_there() -> None:
    assert recent_traffic(entries_of(1000, NOW - 10, 10), NOW - 600, NOW, False, 0.95).requests_per_s == pytest.approx(
        100
    )
    assert recent_traffic(entries_of(3, NOW - 10, 10), NOW - 600, NOW, False, 0.95).requests_per_s == pytest.approx(
        3 / 600
    )
    nothing = recent_traffic([], NOW - 600, NOW, False, 0.95)
    assert (nothing.requests_per_s, nothing.error_rate, nothing.slow_share, nothing.requests) == (0, 0, 0, 0)
