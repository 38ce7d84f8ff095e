"""Where a cache answers: computed answers are compared with computed ones, and a cold cache is a state that ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb, exp
from typing import Any

import numpy as np
import pytest

from tests.unit.rollout_journals import started
from tsctl.config.policy import RolloutPolicy
from tsctl.errors import AnalysisError
from tsctl.gateway.access_log import AccessLogEntry
from tsctl.gateway.counters import REQUEST_MS, REQUESTS, Sample
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.evidence import LEAST_COMPUTED, Evidence, no_evidence
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.judge import Verdict, judge
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.evidence.counts import EvidenceQuery, counter_values, windows_since
from tsctl.rollout.evidence.log_answers import computed_ms, is_slow
from tsctl.rollout.evidence.rate import RATE_S, Measured
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.rollout.evidence.totals import durations_of
from tsctl.statistics.sequential import RatioProcess

POLICY = RolloutPolicy(max_error_rate=0.2)
WARM = 0.98  # share of hits


@dataclass(frozen=True)
class Version:
    """How a version answers: shares of hits, and of errors and slow answers among the computed ones."""

    hits: float = WARM
    errors: float = 0.01
    slow: float = 0.05

    def counts(self, requests: int, chance: np.random.Generator) -> OutcomeCounts:
        cached = int(chance.binomial(requests, self.hits))
        errors, slow = (int(chance.binomial(requests - cached, rate)) for rate in (self.errors, self.slow))
        return OutcomeCounts(requests, errors, slow, cached=cached, timed=requests - cached)


def after(stable: Version, *canaries: Version, seed: int, requests: int = 400, weight: int = 500) -> Evidence:
    """The evidence after a reading of so many requests of the route for each canary, one after the other."""
    chance, evidence = np.random.default_rng(seed), no_evidence(POLICY, ())
    for canary in canaries:
        on_canary = int(chance.binomial(requests, weight / 10_000))
        window = Window(weight, stable.counts(requests - on_canary, chance), canary.counts(on_canary, chance))
        evidence = evidence.seen(window)
    return evidence


COLD = Version(hits=0.0)


@pytest.mark.parametrize(
    "canaries",
    [
        [COLD] * 200,
        [*[COLD] * 100, *[Version()] * 300],  # it warms
        [Version(hits=0.6)] * 200,  # each worker has its own cache, and the canary's get few requests
        [Version()] * 300,
    ],
    ids=["cold", "warms", "colder", "warm"],
)
def test_an_identical_version_whose_cache_is_colder_is_not_rolled_back(canaries: list[Version]) -> None:
    fails = [judge(POLICY, after(Version(), *canaries, seed=seed), 1e9, 10**9).verdict for seed in range(40)]
    assert fails.count(Verdict.FAIL) <= 1
    assert fails.count(Verdict.PASS) >= 39


def test_errors_and_slow_answers_among_the_computed_ones_fail_a_canary_behind_a_cache() -> None:
    for bad, signal in ((Version(errors=0.5), "errors"), (Version(slow=0.6), "slow")):
        assert judge(POLICY, after(Version(), *[bad] * 400, seed=1), 1e9, 10**9).signal == signal
    cold = after(Version(), *[Version(hits=0.0, errors=0.15)] * 200, seed=1)
    assert judge(POLICY, cold, 1e9, 10**9).signal == "errors"


def test_a_cold_cache_is_a_state_that_ends_and_no_answer_is_slow_until_then() -> None:
    busy = Version(hits=0.0, slow=0.9)  # its workers compute what stable's do not
    cold = after(Version(), *[busy] * 100, seed=1)
    assert cold.logs["slow"] == 0
    assert (cold.warm, cold.cold > 1000) == (0, True)
    later = after(Version(), *[busy] * 100, *[Version(slow=0.9)] * 300, seed=1)
    assert later.warm > LEAST_COMPUTED
    assert judge(POLICY, later, 1e9, 10**9).signal == "slow"


@pytest.mark.parametrize(("computed", "on_canary", "events"), [(8, 3, 4), (20, 1, 5), (12, 11, 6), (30, 15, 15)])
def test_a_block_of_computed_answers_is_no_evidence_on_average(computed: int, on_canary: int, events: int) -> None:
    """Exactly: the events of a block fall on the canary as on a draw without replacement."""
    expected = 0.0
    for hit in range(max(0, events + on_canary - computed), min(events, on_canary) + 1):
        chance = comb(on_canary, hit) * comb(computed - on_canary, events - hit) / comb(computed, events)
        expected += chance * exp(RatioProcess().seen(hit, events - hit, on_canary / computed).log_e)
    assert expected <= 1 + 1e-12


def test_a_block_ends_with_its_weight_and_is_lost_where_one_version_computed_nothing() -> None:
    few = Window(500, OutcomeCounts(95, 2, cached=90), OutcomeCounts(5, 2, cached=1))
    other = Window(2500, OutcomeCounts(75, cached=75), OutcomeCounts(25, 4, cached=1))
    evidence = no_evidence(POLICY, ()).seen(few)
    assert evidence.logs["errors"] == 0
    assert evidence.seen(other).logs["errors"] == RatioProcess().seen(2, 2, 4 / 9).log_e
    assert evidence.seen(other).seen(few).logs["errors"] == RatioProcess().seen(2, 2, 4 / 9).log_e


def samples(cache: str, total: int, quick: int, version: str = "1.0", weight: str = "9500") -> list[Sample]:
    labels = {"model": "m", "version": version, "by": "weight", "weight": weight, "cache": cache}
    return [
        Sample(REQUESTS, {**labels, "status": "200", "class": ""}, total),
        Sample(f"{REQUEST_MS}_bucket", {**labels, "le": "20"}, quick),
        Sample(f"{REQUEST_MS}_bucket", {**labels, "le": "+Inf"}, total),
        Sample(f"{REQUEST_MS}_count", labels, total),
    ]


def test_hits_are_counted_and_are_not_in_the_times() -> None:
    page = [*samples("hit", 900, 880), *samples("miss", 60, 50), *samples("bypass", 40, 25)]
    query = EvidenceQuery("m", "1.0", "2.0", slow_ms=21)
    [window], _ = windows_since({}, counter_values(page, query), query, {})
    assert window.stable == OutcomeCounts(1000, slow=25, cached=900, timed=100)
    assert dict(durations_of(page, "m", "1.0")) == {21.0: 75, float("inf"): 100}


@pytest.mark.parametrize(("cache", "waited_ms"), [(None, 30.0), ("miss", 30.0), ("hit", None)])
def test_a_line_of_the_log_that_a_cache_answered_is_not_slow(cache: str | None, waited_ms: float | None) -> None:
    known: dict[str, Any] = {"predicted_class": None, "user": None, "status": 200, "duration_ms": 30.0}
    entry = AccessLogEntry(0.0, "m", "1.0", "stable", True, 9500, **known, answer_ms=30.0, cache=cache)
    assert computed_ms(entry) == waited_ms
    assert is_slow(entry, 20) == (waited_ms is not None)


@dataclass
class FakeEnvoy:
    """A gateway whose canary answers from its cache."""

    hits: int = 0
    misses: int = 0
    of_stable: int = 0
    computed: int = 0
    asked: list[str] = field(default_factory=list)

    def samples(self, model: str) -> list[Sample]:
        self.asked.append(model)
        on_canary = [*samples("hit", self.hits, 0, "2.0"), *samples("miss", self.misses, 0, "2.0")]
        return [*samples("hit", self.of_stable, 0), *samples("miss", self.computed, 0), *on_canary]

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def test_the_rate_is_that_of_what_the_canary_would_compute_and_is_known_between_two_measurements() -> None:
    now = [0.0]
    envoy = FakeEnvoy()
    evidence = LiveEvidence(envoy, envoy, measured=Measured(0.0, 0), clock=lambda: now[0])
    state = fold([Entry(0, 0.0, started("m"))])
    with pytest.raises(AnalysisError, match="is being measured"):
        evidence.request_rate(state)
    now[0], envoy.of_stable, envoy.computed = RATE_S, 950, 50
    assert evidence.request_rate(state) == pytest.approx(50 / RATE_S)  # no request of the canary yet: what stable does
    now[0], envoy.of_stable, envoy.hits, envoy.misses = 2 * RATE_S, 1850, 90, 10
    assert evidence.request_rate(state) == pytest.approx(100 / RATE_S)
    now[0], envoy.of_stable = 2.5 * RATE_S, 9000
    assert evidence.request_rate(state) == pytest.approx(100 / RATE_S)
