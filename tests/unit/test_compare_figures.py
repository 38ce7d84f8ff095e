"""The figures of a load: omission corrected, failures counted as slow, overload and recovery; schedules and search."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.compare.load.figures import LoadFigures, load_figures, overload_figures
from tsctl.compare.load.order import LOST, Noted, Order, read_noted, read_order, write_noted, write_order
from tsctl.compare.load.schedule import at_least_one, phases, send_times
from tsctl.compare.saturation import GAIN, LADDER, next_connections, saturating
from tsctl.compare.statistics import Spread, percentile, spread

#: Intended, sent, came, status, has retry-after.
Row = tuple[float, float, float, int, bool]


def noted(rows: Sequence[Row], wall_s: float, begin: float = 0.0, cpu_s: float = 0.0) -> Noted:
    columns = Noted.empty()
    columns.begin, columns.wall_s, columns.cpu_s = begin, wall_s, cpu_s
    for row in rows:
        columns.add(*row)
    return columns


def test_a_request_that_waited_to_be_sent_is_charged_to_the_server() -> None:
    """The server stalls for one second; one request is on its way, and nine more were to be sent meanwhile."""
    stalled: list[Row] = [(0.0, 0.0, 1.0, 200, False)]
    stalled += [(0.1 * n, 1.0, 1.001, 200, False) for n in range(1, 10)]
    quick: list[Row] = [(1.0 + 0.01 * n, 1.0 + 0.01 * n, 1.001 + 0.01 * n, 200, False) for n in range(90)]
    figures = load_figures(noted([*stalled, *quick], 1.9), 8, offered_s=100 / 1.9)
    assert figures.p50_ms == pytest.approx(1.0)
    assert figures.p90_ms == pytest.approx(1.0)
    assert figures.p99_ms == pytest.approx(901.0)  # by the moments of sending it would be 1 ms
    assert figures.most_ms == pytest.approx(1000.0)
    assert figures.late_p99_ms == pytest.approx(800.0)


def test_a_failed_request_is_slower_than_every_other() -> None:
    rows: list[Row] = [(0.0, 0.0, 0.002, 200, False)] * 98 + [
        (0.0, 0.0, 0.001, 503, True),
        (0.0, 0.0, 0.001, 500, False),
    ]
    figures = load_figures(noted(rows, 1.0), 1, offered_s=100.0)
    assert figures.p90_ms == pytest.approx(2.0)
    assert figures.p99_ms == math.inf
    assert (figures.failed, figures.statuses) == (2, {200: 98, 503: 1, 500: 1})
    assert figures.answered_s == pytest.approx(98.0)


def test_a_closed_loop_counts_what_came_in_its_time_and_an_open_one_what_was_to_be_sent() -> None:
    rows: list[Row] = [(at, at, at + 0.9, 200, False) for at in (10.0, 10.5, 11.0, 11.5)]
    closed = load_figures(noted(rows, 2.0, begin=10.0), 2)
    assert (closed.requests, closed.answered_s) == (3, 1.5)
    opened = load_figures(noted(rows, 2.0, begin=10.0), 2, offered_s=2.0)
    assert (opened.requests, opened.answered_s) == (4, 1.5)
    led = load_figures(noted(rows, 2.0, begin=10.0), 2, lead_s=1.0)
    assert (led.requests, led.answered_s) == (2, 2.0)


def test_the_client_says_when_it_may_have_been_the_limit() -> None:
    rows: list[Row] = [(0.0, 0.0, 0.5, 200, False)]
    assert not load_figures(noted(rows, 1.0, cpu_s=0.6), 1).is_client_limited
    assert load_figures(noted(rows, 1.0, cpu_s=0.95), 1).is_client_limited


def test_nothing_answered_has_no_percentile() -> None:
    figures = load_figures(noted([], 1.0), 1)
    assert (figures.requests, figures.answered_s, figures.p50_ms) == (0, 0.0, math.inf)
    lost = load_figures(noted([(0.1, 0.1, 5.0, LOST, False)], 1.0), 1, offered_s=1.0)
    assert (lost.failed, lost.p50_ms, lost.statuses) == (1, math.inf, {LOST: 1})


def overload_rows() -> list[Row]:
    """Two seconds of overload: 100 answered, 99 refused rightly; then four seconds, in time from second 3.5 on."""
    during: list[Row] = [(n / 50, n / 50, n / 50 + 0.5, 200, False) for n in range(75)]
    during += [(1.5 + n / 50, 1.5 + n / 50, 2.0 + n / 50, 200, False) for n in range(1, 26)]  # come too late to count
    during += [(n / 50, n / 50, n / 50 + 0.004, 503, True) for n in range(99)]
    after: list[Row] = [(2.5, 2.5, 3.4, 200, False), (3.5, 3.5, 4.4, 200, False), (3.6, 3.6, 3.61, 200, False)]
    return [*during, *after]


def test_an_overload_has_goodput_refusals_and_a_recovery() -> None:
    figures = overload_figures(noted(overload_rows(), 6.0), 50.0, 100.0, 2.0, slow_ms=100.0)
    assert figures.goodput_s == pytest.approx(75 / 2)
    assert figures.goodput_share == pytest.approx(0.75)
    assert (figures.refused, figures.bad_refusals) == (99, 0)
    assert figures.refusal_p99_ms == pytest.approx(4.0)
    assert figures.recovery_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((1.0, 1.0, 1.01, 503, False), "no retry-after"),
        ((1.0, 1.0, 1.01, 500, True), "a status that is no refusal"),
        ((1.0, 1.0, 9.0, LOST, False), "no answer"),
    ],
)
def test_a_refusal_that_does_not_say_so_is_counted(row: Row, why: str) -> None:
    figures = overload_figures(noted([*overload_rows(), row], 6.0), 50.0, 100.0, 2.0, slow_ms=100.0)
    assert (figures.refused, figures.bad_refusals) == (100, 1), why


def test_a_lost_request_makes_refusals_endlessly_slow() -> None:
    rows: list[Row] = [(0.5, 0.5, 8.0, LOST, False)]
    figures = overload_figures(noted(rows, 6.0), 50.0, 100.0, 2.0, slow_ms=100.0)
    assert figures.refusal_p99_ms == figures.refusal_most_ms == math.inf
    nothing = overload_figures(noted([], 6.0), 50.0, 100.0, 2.0, slow_ms=100.0)
    assert (nothing.refused, nothing.refusal_p99_ms, nothing.recovery_s) == (0, 0.0, 0.0)


def test_a_schedule_is_the_same_for_every_engine_and_has_its_rate() -> None:
    moments = send_times(1000.0, 5.0)
    assert moments == send_times(1000.0, 5.0)
    assert moments != send_times(1000.0, 5.0, seed=15)
    assert 4700 < len(moments) < 5300
    assert moments == sorted(moments)
    assert 0.0 < moments[0] < moments[-1] < 5.0
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert 0.9 < deviation / mean < 1.1, "times between independent clients are exponential"


def test_phases_follow_each_other() -> None:
    moments = phases((1000.0, 1.0), (100.0, 2.0))
    assert moments == sorted(moments)
    assert 900 < sum(moment < 1.0 for moment in moments) < 1100
    assert 150 < sum(moment >= 1.0 for moment in moments) < 250
    assert moments[-1] < 3.0
    assert at_least_one([]) == [0.0]
    assert at_least_one([0.5]) == [0.5]


def search(rates: dict[int, float]) -> list[tuple[int, float]]:
    steps: list[tuple[int, float]] = []
    while (connections := next_connections(steps)) is not None:
        steps.append((connections, rates[connections]))
    return steps


def test_the_search_goes_on_while_more_connections_gain() -> None:
    growing = {connections: 100.0 * connections for connections in LADDER}
    assert [connections for connections, _ in search(growing)] == list(LADDER)
    assert saturating(search(growing)) == LADDER[-1]


def test_the_search_ends_after_two_steps_without_gain_and_takes_the_fewest_connections() -> None:
    rates = {1: 100.0, 4: 380.0, 16: 1000.0, 32: 1010.0, 64: 1020.0, 128: 5000.0, 256: 5000.0}
    steps = search(rates)
    assert [connections for connections, _ in steps] == [1, 4, 16, 32, 64]
    assert saturating(steps) == 16


def test_one_unlucky_step_does_not_end_the_search() -> None:
    rates = {1: 100.0, 4: 380.0, 16: 300.0, 32: 900.0, 64: 1500.0, 128: 1500.0, 256: 1500.0}
    assert saturating(search(rates)) == 64
    assert GAIN > 1


def test_nothing_measured_saturates_nothing() -> None:
    assert next_connections([]) == LADDER[0]
    with pytest.raises(ValueError, match="empty"):
        saturating([])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0), st.integers(0, 5))
def test_a_percentile_is_reached_by_its_share(values: list[float], share: float, missing: int) -> None:
    found = percentile(sorted(values), share, missing)
    assert sum(value <= found for value in values) + (missing if found == math.inf else 0) >= share * len(values) - 1e-9
    assert found == math.inf or found in values


def test_spreads_overlap_where_their_rounds_reach_into_each_other() -> None:
    assert spread([]) is None
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread(2, 1, 3).overlaps(Spread(4, 3, 5))
    assert not Spread(2, 1, 3).overlaps(Spread(4, 3.1, 5))
    assert Spread(2, 1, 9).overlaps(Spread(4, 3, 5))


@pytest.mark.parametrize("times", [None, [], [0.0, 0.25]])
def test_an_order_is_read_as_it_was_written(times: list[float] | None) -> None:
    order = Order("127.0.0.1", 8080, 4, 1.5)
    read, requests, moments = read_order(io.BytesIO(write_order(order, [b"", b"POST\r\n\x00\xff"], times)))
    assert (read, requests) == (order, [b"", b"POST\r\n\x00\xff"])
    assert (None if moments is None else list(moments)) == times


def test_the_columns_are_read_as_they_were_written() -> None:
    stream = io.BytesIO()
    written = noted([(0.0, 0.1, 0.2, 200, False), (1.0, 1.1, 1.2, 503, True)], 2.0, 5.0, 0.25)
    write_noted(written, stream)
    stream.seek(0)
    assert read_noted(stream) == written
    with pytest.raises(EOFError):
        read_noted(io.BytesIO(b""))


def test_figures_are_what_the_client_noted() -> None:
    figures = load_figures(noted([(0.0, 0.0, 0.01, 200, False)], 1.0, cpu_s=0.02), 1)
    assert figures == LoadFigures(
        connections=1, offered_s=None, answered_s=1.0, p50_ms=10.0, p90_ms=10.0, p99_ms=10.0, most_ms=10.0, requests=1,
        failed=0, statuses={200: 1}, client_share=0.02, late_p99_ms=0.0,
    )  # fmt: skip
