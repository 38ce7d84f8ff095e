"""A rollout over time: what is folded for plots is what the judge folds, and thinning hides nothing that matters."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, isclose, log
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import BEGIN, promoted, rolled_back, with_edited_policy, with_outage
from tsctl.rollout.decide.events import Entry, Tick
from tsctl.rollout.decide.fold import after, fold
from tsctl.rollout.decide.judge import AVERAGE
from tsctl.views.rollout.history import summary
from tsctl.views.rollout.report import render_report
from tsctl.views.rollout.series import MOST_POINTS, Series, thinned


def series_of(entries: Iterable[Entry]) -> Series:
    """The whole series of a journal."""
    series, state = Series(), None
    for entry in entries:
        state = after(state, entry)
        series.add(entry, state)
    return series


ROWS = st.lists(st.tuples(*[st.floats(-50, 50)] * 3), max_size=400)


@given(ROWS, st.integers(8, 60))
def test_thinning_keeps_the_ends_and_the_extremes_and_no_more_than_it_may(
    rows: list[tuple[float, ...]], most: int
) -> None:
    kept = thinned(rows, most)
    assert kept == sorted(set(kept)), "in order, each once"
    assert len(kept) <= most or len(rows) <= most
    if not rows:
        assert not kept
        return
    assert (kept[0], kept[-1]) == (0, len(rows) - 1)
    for column in range(3):
        values = [row[column] for row in rows]
        assert {min(values), max(values)} <= {values[place] for place in kept}


def test_few_rows_all_stay() -> None:
    assert thinned([(1.0,), (2.0,)], 4) == [0, 1]


def test_the_last_point_is_what_the_judge_sees(tmp_path: Path) -> None:
    writer = rolled_back(tmp_path)
    last = series_of(writer.entries).points()[-1]
    judgement = fold(writer.entries).judgement
    assert isclose(last.powers[AVERAGE] * log(10), judgement.log_e)
    assert last.powers[AVERAGE] >= last.threshold, "it was failed by the average"
    for reading in judgement.readings:
        assert isclose(last.powers[reading.signal] * log(10), reading.log_e)
    errors = next(reading for reading in judgement.readings if reading.signal == "errors")
    for counts, rate in ((last.stable, errors.stable), (last.canary, errors.canary)):
        assert (counts.errors, counts.requests) == (rate.events, rate.requests)
    assert isclose(exp(last.threshold * log(10)), 100)


def test_requests_are_those_of_all_ticks_also_after_an_edited_policy(tmp_path: Path) -> None:
    writer = with_edited_policy(tmp_path)
    points = series_of(writer.entries).points()
    last = points[-1]
    ticks = [entry.event.requests for entry in writer.entries if isinstance(entry.event, Tick)]
    assert last.requests == (sum(stable for stable, _ in ticks), sum(canary for _, canary in ticks))
    assert last.canary.requests < last.requests[1], "evidence began anew, requests did not"
    counts = [point.requests[1] for point in points]
    assert counts == sorted(counts)
    assert {round(point.threshold, 9) for point in points} == {2, 3}, "alpha went from 0.01 to 0.001"
    assert "mix" in points[0].powers and "mix" not in last.powers


def test_weights_are_in_force_once_they_are_read_back(tmp_path: Path) -> None:
    over_time = series_of(rolled_back(tmp_path).entries)
    assert [weight for _, weight in over_time.weights] == [0, 1000, 5000, 0]
    assert over_time.weights[0][0] == 0
    assert [is_fail for _, is_fail in over_time.marks] == [False, True]


def test_an_outage_lasts_from_the_first_wait_to_the_first_tick_that_holds(tmp_path: Path) -> None:
    ((begin, end),) = series_of(with_outage(tmp_path).entries).waits
    assert end - begin == pytest.approx(16)


def test_an_outage_that_has_not_ended_ends_with_the_journal(tmp_path: Path) -> None:
    entries = with_outage(tmp_path).entries
    cut = next(entry.seq for entry in reversed(entries) if entry.kind == "waits")
    ((_, end),) = series_of(entries[: cut + 1]).waits
    assert end == entries[cut].at - BEGIN


def test_many_ticks_become_few_points(tmp_path: Path) -> None:
    writer = with_outage(tmp_path)
    writer.ticks(MOST_POINTS + 60)
    points = series_of(writer.entries).points()
    assert len(points) <= MOST_POINTS
    assert points[-1].at == writer.entries[-1].at - BEGIN


def test_a_journal_without_a_start_is_none() -> None:
    with pytest.raises(ValueError, match="begins with its start"):
        render_report([])
    with pytest.raises(ValueError, match="begins with its start"):
        summary([])


def test_a_summary_counts_without_judging(tmp_path: Path) -> None:
    good, bad = summary(promoted(tmp_path / "a").entries), summary(rolled_back(tmp_path / "b").entries)
    assert (good.outcome, good.signal, good.requests) == ("promoted", "", 6 * (10 + 50 + 100))
    assert (bad.outcome, bad.signal) == ("rolled back", "errors")
    assert bad.ended_at is not None and bad.lasted_s == pytest.approx(bad.ended_at - BEGIN)
    entries = rolled_back(tmp_path / "c").entries[:-1]
    assert (summary(entries).outcome, summary(entries).ended_at) == ("in progress", None)
