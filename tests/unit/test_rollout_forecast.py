"""The forecast of a rollout agrees with the judge, and more traffic or weight never hurts."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.judge import Verdict, judge, requests_until_below
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.forecast.forecast import (
    Fate,
    Forecast,
    RecentTraffic,
    expected_steps,
    forecast_fault,
    forecast_rollout,
)
from tsctl.rollout.forecast.power import power, requests_to_pass
from tsctl.statistics.search import first, poisson_quantile

POLICY = RolloutPolicy()
#: One step long enough for anything, so that where a fault is found does not depend on how long steps last.
LONG_S = 30 * 86_400.0


def traffic(
    requests_per_s: float = 100.0,
    error_rate: float = 0.005,
    requests: int = 60_000,
    class_share: float | None = 1.0,
) -> RecentTraffic:
    return RecentTraffic(requests_per_s, error_rate, 0.05, 600.0, requests, class_share)


def one_step(percent: float) -> RolloutPolicy:
    return RolloutPolicy(steps=(percent, 100), hold_s=LONG_S, max_hold_s=LONG_S)


@pytest.fixture(scope="module")
def busy() -> Forecast:
    return forecast_rollout(POLICY, traffic())


def test_every_step_of_the_policy_has_a_forecast(busy: Forecast) -> None:
    assert [step.weight for step in busy.steps] == [100, 500, 2500, 5000, 10_000]
    assert [step.requests for step in busy.steps] == [30_000] * 5  # 300 s of 100 requests/s
    assert [step.on_canary for step in busy.steps] == [300, 1500, 7500, 15_000, 30_000]
    assert busy.seconds == pytest.approx(1500)
    seen = [step.error_rate or 0.0 for step in busy.steps[:-1]]
    assert seen == sorted(seen, reverse=True), "heavier steps see smaller faults"
    assert all(0.005 < rate < 0.05 for rate in seen)
    assert busy.steps[0].error_ratio == pytest.approx(seen[0] / 0.005)
    assert (busy.steps[-1].error_rate or 0) > POLICY.max_error_rate, "nobody to compare with: only the limit is left"
    assert busy.steps[-1].slow_share is None
    assert busy.warnings == (
        "At 100% there is no stable traffic to compare with: only max_error_rate is judged there.",
    )


def test_faults_are_worse_than_stable_and_the_worse_the_fewer_meet_them(busy: Forecast) -> None:
    assert [fault.error_rate for fault in busy.faults] == pytest.approx([0.01, 0.05])  # ten times 0.5 % is 5 %
    twice, tenfold = busy.faults
    assert twice.fate is tenfold.fate is Fate.ROLLED_BACK
    assert tenfold.on_canary < twice.on_canary
    assert tenfold.weight == 100
    assert tenfold.failed == round(tenfold.on_canary * 0.05)
    assert asdict(busy)["faults"][0]["fate"] == "rolled back"


@pytest.mark.parametrize(("error_rate", "limit"), [(0.0, 0.05), (0.005, 0.05), (0.04, 0.05), (0.1, 0.2)])
def test_the_requests_that_are_needed_are_those_that_the_judge_asks_for(error_rate: float, limit: float) -> None:
    policy = RolloutPolicy(max_error_rate=limit, min_requests=1)
    needed = int(requests_to_pass(error_rate, limit, policy.alpha))
    seen = OutcomeCounts(needed, math.ceil(needed * error_rate))
    assert requests_until_below(seen, limit, policy.alpha) == 0
    stable = OutcomeCounts(99 * needed, math.ceil(99 * needed * error_rate))
    evidence = no_evidence(policy, ()).seen(Window(100, stable, seen))
    assert judge(policy, evidence, policy.hold_s, needed).verdict is Verdict.PASS
    fewer = OutcomeCounts(needed - 1, math.ceil((needed - 1) * error_rate))
    assert requests_until_below(fewer, limit, policy.alpha) > 0


@pytest.mark.parametrize(
    ("policy", "recent", "warning"),
    [
        (POLICY, traffic(0.0, 0.0, 0), "No requests in the last 10 min"),
        (POLICY, traffic(0.01, 0.0, 6), "based on only 6 requests in the last 10 min"),
        (POLICY, traffic(error_rate=0.06), "Stable's own error rate is 6.00%, and max_error_rate is 5.00%"),
        (POLICY, traffic(1.0), "The step at 25% sees errors only from"),
        (
            POLICY,
            traffic(0.02),
            "The step at 1% needs 24,500 min for its requests, and max_hold_s is 1,440 min; then it",
        ),
        (
            RolloutPolicy(at_max_hold="rollback"),
            traffic(0.02),
            "max_hold_s is 1,440 min; then the canary is rolled back.",
        ),
        (
            RolloutPolicy(min_requests=1, hold_s=1, settle_s=0, max_error_rate=0.99),
            traffic(5.0),
            "The step at 50% is too short to see errors, even if every request of the canary failed.",
        ),
        (
            RolloutPolicy(hold_s=5.0, settle_s=4.9999),
            traffic(10_000),
            "The step at 50% is too short to see slow answers",
        ),
        (POLICY, traffic(class_share=None), "Stable names no class in its answers, so the class distribution compares"),
        (
            POLICY,
            traffic(class_share=0.2),
            "Only 20% of stable's predictions are of classes that are judged one by one",
        ),
        (RolloutPolicy(steps=(100,)), traffic(), "The only step is 100%: there is no stable traffic to compare with"),
    ],
    ids=[
        "no traffic",
        "few",
        "limit",
        "blind",
        "too long",
        "ends",
        "nothing",
        "slow",
        "no class",
        "other classes",
        "only",
    ],
)
def test_what_cannot_be_seen_is_a_warning(policy: RolloutPolicy, recent: RecentTraffic, warning: str) -> None:
    warnings = forecast_rollout(policy, recent).warnings
    assert any(warning in sentence for sentence in warnings), warnings


def test_without_traffic_nothing_passes_and_no_fault_is_forecast() -> None:
    forecast = forecast_rollout(POLICY, traffic(0.0, 0.0, 0))
    assert forecast.seconds is None
    assert forecast.faults == ()
    assert all(
        (step.requests, step.seconds, step.error_rate, step.slow_share) == (None,) * 4 for step in forecast.steps
    )


def test_where_stable_is_above_the_limit_no_step_passes() -> None:
    forecast = forecast_rollout(POLICY, traffic(error_rate=0.06))
    assert forecast.seconds is None
    assert all(step.requests is None for step in forecast.steps)


def test_a_sticky_route_has_a_warning() -> None:
    forecast = forecast_rollout(RolloutPolicy(steps=(100,)), traffic(), is_by_user=True)
    assert any("sticky" in warning for warning in forecast.warnings)


@pytest.mark.parametrize(
    ("policy", "requests_per_s", "rate", "fate"),
    [
        (POLICY, 100.0, 0.05, Fate.ROLLED_BACK),
        (POLICY, 1.0, 0.006, Fate.PROMOTED),
        (RolloutPolicy(signals=("slow",), max_hold_s=300), 20.0, 0.05, Fate.HELD),
        (RolloutPolicy(signals=("slow",), max_hold_s=300, at_max_hold="rollback"), 20.0, 0.05, Fate.ROLLED_BACK),
    ],
)
def test_how_a_fault_ends(policy: RolloutPolicy, requests_per_s: float, rate: float, fate: Fate) -> None:
    fault = forecast_fault(policy, traffic(requests_per_s), rate)
    assert fault.fate is fate
    assert fault.seconds == pytest.approx(fault.requests / requests_per_s, rel=0.01)
    assert (fault.weight == TOTAL) == (fate is Fate.PROMOTED)


@given(st.floats(0.01, 1000), st.floats(1, 100), st.floats(0, 0.049))
def test_more_traffic_never_needs_more_time(requests_per_s: float, times: float, error_rate: float) -> None:
    few, many = (
        [step.seconds(recent) for step in expected_steps(POLICY, recent, error_rate)]
        for recent in (traffic(requests_per_s, error_rate), traffic(requests_per_s * times, error_rate))
    )
    assert all(late <= early * (1 + 1e-9) for early, late in zip(few, many, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from((0.5, 1, 2, 5, 10)), st.floats(1.2, 2.5), st.floats(0, 0.01), st.floats(0.02, 0.3))
def test_a_heavier_weight_never_needs_more_requests_to_find_a_fault(
    percent: float, times: float, base: float, rate: float
) -> None:
    light, heavy = (
        forecast_fault(one_step(round(step, 2)), traffic(error_rate=base), rate) for step in (percent, percent * times)
    )
    assert light.fate is heavy.fate is Fate.ROLLED_BACK
    event = TOTAL / light.weight / rate  # of the route, for one more error of the canary: counts are whole
    assert heavy.requests <= light.requests + event


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from((100, 500, 2500, 5000)), st.floats(0, 0.1), st.floats(0, 0.5), st.floats(0, 0.3),
    st.integers(0, 20_000),
)  # fmt: skip
def test_a_larger_fault_is_seen_no_less_surely(
    weight: int, base: float, rate: float, more: float, requests: int
) -> None:
    small, large = (power(POLICY, "errors", base, each, weight, requests) for each in (rate, rate + more))
    assert 0 <= small <= large <= 1


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1000), st.floats(0.01, 0.99))
def test_quantiles_are_those_of_the_poisson_distribution(mean: float, level: float) -> None:
    quantile = poisson_quantile(mean, level)
    terms = [count * math.log(mean) - mean - math.lgamma(count + 1) for count in range(quantile + 2)]
    below = [sum(math.exp(term) for term in terms[: max(0, quantile + more)]) for more in (-1, 2)]
    assert below[0] <= level <= below[1]  # at most one off, where it is an approximation


@given(st.integers(1, 500), st.integers(1, 500))
def test_the_first_number_is_found(wanted: int, most: int) -> None:
    assert first(lambda number: number >= wanted, most) == (wanted if wanted <= most else None)
    assert first(lambda number: True, 0) is None
