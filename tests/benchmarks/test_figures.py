"""Ratios are taken inside rounds, failed requests reach no goal, and tables say what was not measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gameday.drift_cases import CASES
from benchmarks.gameday.run import CANARIES
from benchmarks.gameday.texts import CANARIES as TEXTS
from benchmarks.gameday.texts import key_of
from benchmarks.harness.client import Answer
from benchmarks.harness.figures import Figure, Goal, Result, Turn, fastest, median_turn, rate, times
from benchmarks.harness.run import FIGURE_COLUMNS, TARGET_COLUMNS, figure_rows, notes, target_rows
from benchmarks.simulation.workloads import workloads as simulated
from benchmarks.workloads import gateway, handlers
from benchmarks.workloads.gateway_traffic import binomial_interval, distance, in_force_ms
from tsctl.errors import SpecError
from tsctl.host.machine import processor

CHECKOUT = Path(__file__).resolve().parents[2]
FLOOR = Goal(3.0)


def turns(*speeds: float) -> list[Turn]:
    return [Turn(speed) for speed in speeds]


def test_a_ratio_is_taken_inside_each_round() -> None:
    # the machine was busy in the second round: the ratio of the medians would be 9 / 2
    figure = times("", turns(9, 3, 12), turns(3, 1, 2), FLOOR)
    assert figure.rounds == (3.0, 3.0, 6.0)
    assert figure.value == 3.0
    assert figure.is_reached


def test_targets_with_other_numbers_of_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        times("", turns(1, 2), turns(1))


@pytest.mark.parametrize(
    ("goal", "value", "is_reached"),
    [
        (Goal(3.0), 3.0, True),
        (Goal(3.0), 2.99, False),
        (Goal(3.0, is_ceiling=True), 3.0, True),
        (Goal(3.0, is_ceiling=True), 3.01, False),
        (None, 3.0, None),
    ],
)
def test_a_goal_is_a_floor_or_a_ceiling(goal: Goal | None, value: float, is_reached: bool | None) -> None:
    assert Figure("", "times", (value,), goal).is_reached is is_reached


def test_requests_that_failed_reach_no_goal() -> None:
    assert rate("", [Turn(20_000.0)], Goal(10_000)).is_reached
    assert rate("", [Turn(20_000.0), Turn(20_000.0, failed=1)], Goal(10_000)).is_reached is False
    assert times("", turns(9), [Turn(1.0, failed=1)], FLOOR).is_reached is False


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    figure = Figure("share", "share", (), FLOOR, why_not="there is no cache")
    assert (figure.value, figure.is_reached) == (None, None)
    assert figure.as_json()["is_reached"] is None
    assert notes([Result("cache", "", {}, {}, [figure])]) == ["cache: share: not measured, there is no cache"]


def test_one_lucky_round_does_not_make_a_target_the_fastest() -> None:
    assert fastest({"lucky": turns(1, 1, 100), "steady": turns(2, 2, 2)}) == "steady"


def test_medians_are_taken_number_by_number_and_failures_add_up() -> None:
    median = median_turn(
        [
            Turn(1.0, 5.0, 9.0, 1, {"workers": 10.0, "load": 1.0}),
            Turn(2.0, 4.0, 8.0, 0, {"workers": 30.0, "load": 3.0}),
            Turn(3.0, 6.0, 7.0, 2, {"workers": 20.0, "load": 2.0}),
        ]
    )
    assert median == Turn(2.0, 5.0, 8.0, 3, {"workers": 20.0, "load": 2.0})
    assert median_turn(turns(1, 3)) == Turn(2.0)


def test_rows_have_a_cell_for_each_column() -> None:
    targets = {
        "ours": [Turn(10_000.4, 1.26, 3.0, 0, {"workers": 50.4, "server": 60.0, "load": 10.0})],
        "bare": turns(20),
    }
    figures = [rate("ours", targets["ours"], Goal(10_000)), Figure("idle", "ms", (2.441,), Goal(3.0, is_ceiling=True))]
    results = [Result("a", "", {}, targets, figures, ("a note",))]
    assert target_rows(results) == [
        ("a", "ours", 10_000, 1.3, 3.0, 0, 50, 60, 10),
        ("a", "bare", 20, None, None, 0, None, None, None),
    ]
    rows = figure_rows(results)
    assert [tuple(map(str, row)) for row in rows] == [
        ("a", "ours", "10,000", "requests/s", ">= 10,000", "yes", "10,000"),
        ("a", "idle", "2.44", "ms", "<= 3", "yes", "2.44"),
    ]
    assert {len(row) for row in target_rows(results)} == {len(TARGET_COLUMNS)}
    assert {len(row) for row in rows} == {len(FIGURE_COLUMNS)}
    assert notes(results) == ["a: a note"]


@pytest.mark.parametrize("command", ["handlers", "gateway", "rollout", "gameday"])
def test_an_unknown_workload_is_refused_with_the_known_ones(command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", command, "--only", "nothing"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == SpecError.exit_code
    known = {"handlers": handlers.WORKLOADS, "gateway": gateway.WORKLOADS, "rollout": simulated()}
    every_day = [*(canary.version for canary in CANARIES), *map(key_of, TEXTS), *(case.key for case in CASES)]
    keys = known.get(command) or every_day
    assert f"Known are {', '.join(keys)}." in ended.stderr


def test_the_processor_is_named_where_the_kernel_names_it() -> None:
    assert processor("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t: fpu\n") == "Some CPU @ 2.00GHz"
    assert processor("CPU implementer\t: 0x41\n") == "unknown"


def test_the_interval_of_a_split_has_its_confidence() -> None:
    # 2.5 % and 97.5 % of 10 throws of a coin: P(X <= 1) = 0.011, P(X <= 2) = 0.055
    assert binomial_interval(10, 0.5, 0.95) == (2, 8)
    low, high = binomial_interval(20_000, 0.01, 0.999)
    assert 153 <= low <= 156  # 200 less 3.29 of sqrt(198), and skewed a little
    assert 246 <= high <= 250
    assert distance(high, 100, low, high) == 1.0
    assert distance(low, 100, low, high) == 1.0
    assert distance(200, 100, low, high) == 0.0


def test_a_change_is_in_force_after_the_last_answer_of_the_old_version() -> None:
    def answer(asked: float, version: str) -> Answer:
        return Answer(asked, asked + 0.01, 200, version)

    begun = [(1.0, "2.0"), (2.0, "1.0")]
    answers = [answer(0.9, "1.0"), answer(1.02, "1.0"), answer(1.01, "2.0"), answer(1.5, "2.0"), answer(2.1, "1.0")]
    assert in_force_ms(begun, answers) == pytest.approx([20.0, 0.0])
