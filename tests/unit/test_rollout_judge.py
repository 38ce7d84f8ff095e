"""Verdicts: what passes a step, what fails it, and how many requests are still needed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import stored_and_read
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import OTHER, Evidence, no_evidence
from tsctl.rollout.decide.judge import Verdict, judge, requests_needed, requests_until_below
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.statistics.sequential import rate_bounds

POLICY = RolloutPolicy(hold_s=60, min_requests=200)
LONG = (3600.0, 10**6)
SEEN = st.builds(
    lambda requests, errors, slow, a, b: OutcomeCounts(
        requests, min(errors, requests), min(slow, requests), {"a": a, "b": b}
    ),
    *[st.integers(0, 500)] * 5,
)
WINDOWS = st.lists(st.builds(Window, st.integers(0, TOTAL), SEEN, SEEN), max_size=8)


def after(*windows: Window, policy: RolloutPolicy = POLICY, classes: tuple[str, ...] = ()) -> Evidence:
    evidence = no_evidence(policy, classes)
    for window in windows:
        evidence = evidence.seen(window)
    return evidence


def both(stable: OutcomeCounts, canary: OutcomeCounts, weight: int = 500) -> Window:
    return Window(weight, stable, canary)


@given(st.floats(0, 10**6), WINDOWS)
def test_without_requests_of_the_canary_nothing_passes(seconds: float, windows: list[Window]) -> None:
    silent = [Window(w.weight, w.stable) for w in windows]
    assert judge(POLICY, after(*silent), seconds, 0).verdict is not Verdict.PASS


@given(st.floats(0, 10**6), st.lists(st.tuples(st.integers(0, TOTAL), st.integers(0, 5000), st.integers(0, 500))))
def test_without_an_event_nothing_fails(seconds: float, counts: list[tuple[int, int, int]]) -> None:
    windows = [Window(weight, OutcomeCounts(stable), OutcomeCounts(canary)) for weight, stable, canary in counts]
    held = (seconds, sum(canary for _, _, canary in counts))
    assert judge(POLICY, after(*windows), *held).verdict is not Verdict.FAIL


def test_slow_answers_that_are_told_later_than_their_requests_are_judged() -> None:
    early = after(both(OutcomeCounts(0, slow=9), OutcomeCounts(1, slow=3)))
    slow = next(reading for reading in judge(POLICY, early, 1, 1).readings if reading.signal == "slow")
    assert (slow.canary.events, slow.canary.requests, slow.stable.estimate) == (1, 1, None)


@given(WINDOWS)
def test_a_window_is_the_same_after_the_journal(windows: list[Window]) -> None:
    for window in windows:
        read = stored_and_read(window)
        assert after(window, classes=("a",)).logs == after(read, classes=("a",)).logs
        assert after(read).canary.requests == (window.canary.requests if window.weight else 0)


@given(WINDOWS, st.booleans())
def test_the_average_is_what_the_signals_add_up_to(windows: list[Window], has_classes: bool) -> None:
    found = judge(POLICY, after(*windows, classes=("a", "b") if has_classes else ()), *LONG)
    assert math.isclose(sum(r.share for r in found.readings), 1.0)
    if found.log_e < 600:
        assert math.isclose(found.log_e, math.log(sum(math.exp(r.log_part) for r in found.readings)), abs_tol=1e-9)
    assert (found.verdict is Verdict.FAIL) == (found.log_e >= -math.log(POLICY.alpha))


def test_what_a_pass_needs() -> None:
    good = after(both(OutcomeCounts(100_000), OutcomeCounts(5_000)))
    assert judge(POLICY, good, 60, 5_000).verdict is Verdict.PASS
    assert judge(POLICY, good, 59, 5_000).why == "1 s of hold time left"
    few = judge(POLICY, good, 60, 150)
    assert (few.verdict, few.needed, few.why) == (Verdict.UNDECIDED, 50, "about 50 more requests of the canary")
    alike = after(
        both(OutcomeCounts(20_000, 1_000), OutcomeCounts(1_000, 50))
    )  # both at the policy's maximum, which is no proof
    assert judge(POLICY, alike, 60, 1_000).verdict is Verdict.UNDECIDED
    loose = POLICY.model_copy(update={"max_error_rate": 0.1})
    assert (
        judge(loose, after(both(OutcomeCounts(20_000, 1_000), OutcomeCounts(1_000, 50)), policy=loose), *LONG).verdict
        is Verdict.PASS
    )


@pytest.mark.parametrize(("stable", "canary", "signal", "why"), [
    (OutcomeCounts(20_000, 100), OutcomeCounts(1_000, 50), "errors",
     "5.00% of the canary's requests are errors, against 0.50% of stable's"),
    (OutcomeCounts(20_000, refused=100), OutcomeCounts(1_000, refused=1_000), "refused",
     "100.00% of the canary's requests are refused with 4xx, against 0.50% of stable's"),
    (OutcomeCounts(20_000, 0, 900), OutcomeCounts(1_000, 0, 700), "slow",
     "70.00% of the canary's requests are slow, against 4.50% of stable's"),
    (OutcomeCounts(20_000, 0, 0, {"a": 10_000, "b": 10_000}), OutcomeCounts(1_000, 0, 0, {"b": 1_000}), "mix",
     "are predicted as"),
])  # fmt: skip
def test_each_signal_can_fail_a_canary(stable: OutcomeCounts, canary: OutcomeCounts, signal: str, why: str) -> None:
    found = judge(POLICY, after(both(stable, canary), classes=("a", "b")), 1, 1_000)
    assert (found.verdict, found.signal) == (Verdict.FAIL, signal)
    assert why in found.why


def test_a_class_that_nobody_knew_is_judged_as_another() -> None:
    new = both(OutcomeCounts(9_500, 0, 0, {"a": 9_500}), OutcomeCounts(500, 0, 0, {"new": 500}))
    found = judge(POLICY, after(*[new] * 3, classes=("a", "b")), *LONG)
    assert (found.verdict, found.signal) == (Verdict.FAIL, "mix")
    mix = next(reading for reading in found.readings if reading.signal == "mix")
    assert mix.about in ("a", OTHER)
    assert judge(POLICY, after(*[new] * 3), *LONG).verdict is Verdict.PASS  # there were no classes before


def test_with_all_requests_only_the_limit_and_what_was_seen_before_speak() -> None:
    alone = Window(TOTAL, OutcomeCounts(), OutcomeCounts(10_000, 900, 9_000, {"a": 1}))
    found = judge(POLICY, after(alone, classes=("a",)), *LONG)
    assert (found.verdict, found.signal) == (Verdict.FAIL, "limit")
    assert found.why == "9.00% of the canary's requests are errors, and the policy allows 5.00%"
    assert {r.signal: r.log_e for r in found.readings if r.signal != "limit"} == {
        "errors": 0, "refused": 0, "slow": 0, "mix": 0,
    }  # fmt: skip


def test_answers_of_workers_that_still_warm_are_not_judged_as_slow() -> None:
    window = both(OutcomeCounts(1_000, 0, 50), OutcomeCounts(100, 10, 90))
    cold = no_evidence(POLICY, ()).seen(window, is_settled=False)
    assert cold.logs["slow"] == 0
    assert cold.logs["errors"] > 0
    assert cold.canary.slow == 90


@given(st.integers(0, 20), st.integers(0, 2_000), st.floats(0.01, 0.5))
def test_the_requests_that_are_needed_are_enough_and_not_far_too_many(errors: int, good: int, rate: float) -> None:
    seen = OutcomeCounts(errors + good, errors)
    needed = requests_until_below(seen, rate, POLICY.alpha)
    assert rate_bounds(errors, seen.requests + needed, POLICY.alpha)[1] < rate
    if needed > 100:
        assert rate_bounds(errors, seen.requests + int(needed * 0.95), POLICY.alpha)[1] >= rate


def test_requests_are_needed_in_the_step_and_in_all() -> None:
    assert requests_needed(POLICY, OutcomeCounts(10_000), 0) == POLICY.min_requests
    assert requests_needed(POLICY, OutcomeCounts(10_000), POLICY.min_requests) == 0
    assert requests_needed(POLICY, OutcomeCounts(), 10**6) == requests_until_below(OutcomeCounts(), 0.05, 0.01) > 100
