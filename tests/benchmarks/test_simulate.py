"""The simulator speaks of the code that runs: its evidence is the judge's after every request, its ends are exact."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.simulate import (
    CANARY,
    Behaviour,
    Counts,
    Rollout,
    Stage,
    bound,
    cumulated,
    draw,
    grown,
    in_order,
    parts_after_each,
    signals_of,
    simulate,
)
from benchmarks.simulation.workloads import slow_share
from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.judge import Verdict, judge
from tsctl.rollout.decide.windows import OutcomeCounts, Window

CLASSES = 3
KINDS = 2 + CLASSES
#: One request: its cell (version, and error, refusal or class), and whether it was slow.
REQUEST = st.tuples(st.integers(0, 2 * KINDS - 1), st.booleans())
WEIGHTS = st.sampled_from((1, 100, 500, 2500, 5000, 9000))
POLICIES = st.sampled_from(
    (RolloutPolicy(), RolloutPolicy(signals=("slow", "errors"), alpha=0.05), RolloutPolicy(max_error_rate=0.2))
)


def behaviour(errors: float = 0.05, slow: float = 0.05, *classes: float) -> Behaviour:
    return Behaviour(errors, slow, classes or (0.5, 0.25, 0.25))


def rollout(
    policy: RolloutPolicy, *stages: tuple[int, int], canary: Behaviour | None = None, stable: Behaviour | None = None
) -> Rollout:
    stable = stable or behaviour()
    return Rollout(policy, stable, canary or stable, tuple(Stage(*stage) for stage in stages))


def window(cell: int, is_slow: bool, weight: int) -> Window:
    """One request, as the judge gets it."""
    track, kind = divmod(cell, KINDS)
    classes = {str(kind - 2): 1} if kind > 1 else {}
    seen = OutcomeCounts(1, int(kind == 0), int(is_slow), classes, refused=int(kind == 1))
    return Window(weight, canary=seen) if track == CANARY else Window(weight, stable=seen)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WEIGHTS, st.lists(REQUEST, min_size=1, max_size=12)), min_size=1, max_size=4), POLICIES)
def test_the_evidence_is_that_of_the_judge_after_every_request(
    stages: list[tuple[int, list[tuple[int, bool]]]], policy: RolloutPolicy
) -> None:
    simulated = rollout(policy, (100, 1))
    signals = signals_of(simulated)
    logs = [signal.start(1) for signal in signals]
    evidence = no_evidence(policy, [str(number) for number in range(CLASSES)])
    for weight, requests in stages:
        cells = np.array([[cell for cell, _ in requests]])
        is_slow = np.array([[slow for _, slow in requests]])
        counts = cumulated(cells, is_slow, KINDS)
        parts = parts_after_each(signals, logs, counts, weight)
        for number, request in enumerate(requests):
            evidence = evidence.seen(window(*request, weight))
            judgement = judge(policy, evidence, 0.0, 0)
            expected = [reading.log_part for reading in judgement.readings]
            assert np.log(parts[:, 0, number]) == pytest.approx(expected, abs=1e-9)
            total = float(parts[:, 0, number].sum())
            assert math.log(total) == pytest.approx(judgement.log_e, abs=1e-9)
            assert (total >= 1 / policy.alpha) == (judgement.verdict is Verdict.FAIL)
        whole = Counts(counts.kinds[:, -1], counts.slow[:, -1])
        logs = [
            grown(before, whole.bets(signal.name), signal.factors(weight))
            for signal, before in zip(signals, logs, strict=True)
        ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30), WEIGHTS, st.integers(1, 300), POLICIES)
def test_no_order_of_the_same_requests_exceeds_the_bound(
    seed: int, weight: int, requests: int, policy: RolloutPolicy
) -> None:
    chance = np.random.default_rng(seed)
    simulated = rollout(policy, (weight, requests), canary=behaviour(0.3, 0.3, 0.1, 0.1, 0.8))
    signals = signals_of(simulated)
    logs = [chance.normal(-2, 3, signal.start(5).shape) for signal in signals]
    counts = draw(chance, simulated, weight, requests, 5)
    ordered = in_order(chance, counts)
    parts = parts_after_each(signals, logs, ordered, weight)
    assert (parts.sum(axis=0).max(axis=1) <= bound(signals, logs, counts, weight) * (1 + 1e-9)).all()
    assert (ordered.kinds[:, -1] == counts.kinds).all()
    assert (ordered.slow[:, -1] == counts.slow).all()


def test_every_order_is_equally_likely() -> None:
    counts = Counts(np.array([[[1, 1, 0, 0], [1, 0, 1, 0]]] * 6000), np.array([[1, 0]] * 6000))
    ordered = in_order(np.random.default_rng(1), counts)
    first = ordered.kinds[:, 0].reshape(6000, -1)
    assert first.sum(axis=0) == pytest.approx([1500, 1500, 0, 0, 1500, 0, 1500, 0], abs=140)
    # which of stable's two requests is slow does not depend on which of them is the error
    slow_and_first = ordered.slow[:, 0, 0] == 1
    assert slow_and_first.sum() == pytest.approx(1500, abs=140)
    assert (slow_and_first & (first[:, 0] == 1)).sum() == pytest.approx(750, abs=110)


def judged_one_by_one(simulated: Rollout, chance: random.Random) -> int:
    """Requests until the judge fails one rollout, each request drawn by itself; 0 where it does not."""
    evidence = no_evidence(simulated.policy, [str(number) for number in range(CLASSES)])
    for came, weight in enumerate((stage.weight for stage in simulated.stages for _ in range(stage.requests)), start=1):
        track = int(chance.random() < weight / 10_000)
        version = simulated.canary if track else simulated.stable
        answered = 2 + chance.choices(range(CLASSES), version.classes)[0]
        cell = track * KINDS + (0 if chance.random() < version.errors else answered)
        evidence = evidence.seen(window(cell, chance.random() < version.slow, weight))
        shares = simulated.policy.shares.items()
        if sum(share * math.exp(min(evidence.logs[name], 700)) for name, share in shares) >= 1 / simulated.policy.alpha:
            return came
    return 0


def test_runs_end_where_those_do_that_are_judged_one_request_at_a_time() -> None:
    simulated = rollout(RolloutPolicy(), (500, 30), (2500, 70), stable=behaviour(0.1), canary=behaviour(0.7, 0.3))
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    slowly = np.array([judged_one_by_one(simulated, chance) or simulated.requests for _ in range(60)])
    ends = simulate(simulated, 2000, seed=1)
    assert ends.requests.mean() == pytest.approx(slowly.mean(), abs=3 * slowly.std() / math.sqrt(60))
    assert ends.requests.std() == pytest.approx(slowly.std(), rel=0.3)


def test_the_same_seed_gives_the_same_runs() -> None:
    simulated = rollout(RolloutPolicy(), (500, 300), canary=behaviour(0.4))
    first, same, other = (simulate(simulated, 20, seed) for seed in (1, 1, 2))
    assert (first.requests == same.requests).all()
    assert (first.requests != other.requests).any()


@pytest.mark.parametrize(
    ("policy", "weight", "canary", "message"),
    [
        (RolloutPolicy(), 10_000, behaviour(), "weight"),
        (RolloutPolicy(), 0, behaviour(), "weight"),
        (RolloutPolicy(signals=("errors", "labels", "length")), 100, behaviour(), "labels, length are not simulated"),
        (RolloutPolicy(), 100, behaviour(0.1, 0.1, 1.0), "same classes"),
    ],
)
def test_what_is_not_simulated_is_refused(policy: RolloutPolicy, weight: int, canary: Behaviour, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(policy, (weight, 1), canary=canary)


def test_what_takes_half_as_long_again_is_slow_more_often() -> None:
    assert slow_share(1.0) == pytest.approx(0.05)
    assert slow_share(1.5) == pytest.approx(0.202, abs=0.001)
