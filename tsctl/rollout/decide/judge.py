"""Passes a step, fails it, or says how many requests it still needs. Pure; every number is an argument.

Invariants: no pass without requests of the canary, and no fail without an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import log

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.evidence import Evidence
from tsctl.rollout.decide.readings import Reading, read_signals, why_failed
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.statistics.sequential import log_mean, rate_bounds, rejects

#: The search for requests ends here: a rate that needs more cannot be shown.
MOST_REQUESTS = 1 << 40
#: Names the weighted average among the e-values of signals.
AVERAGE = "average"


class Verdict(StrEnum):
    """The verdict on a step."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """A verdict and the evidence behind it.

    Args:
        log_e: of the average of all signals, without the one client that adds most to each.
        needed: requests of the canary until it can pass, if none of them is an error.
        signal: the one with the largest part of the average, of a fail.
    """

    verdict: Verdict
    why: str
    log_e: float
    readings: tuple[Reading, ...]
    needed: int = 0
    signal: str = ""


#: Why a step is held whose evidence is that of one client.
ONE_CLIENT = "only the requests of one client count against it: see them by client, then promote or abort it"
#: Stands for the last judgement of a rollout whose journal, of an older version, has none.
NOT_RECORDED = Judgement(Verdict.UNDECIDED, "the journal records no judgement", 0.0, ())


def judge(policy: RolloutPolicy, evidence: Evidence, held_s: float, requests: int) -> Judgement:
    """The verdict on the present step.

    Fail: the average of the signals' e-values has reached 1 / alpha. A canary that is no worse ever fails with
    probability alpha at most (Ville's inequality; an average of e-processes is an e-process). Pass: the step was held
    for its time, the canary has the least number of requests and of labelled items, and a confidence sequence shows
    that its error rate is below the policy's maximum. Where the events of one client would fail the canary, if they
    counted for its share of the requests, and no others do, a person decides.

    Args:
        held_s: for which the step was watched.
        requests: of the canary in that time.
    """
    readings = read_signals(policy, evidence)
    total = log_e_values(policy, evidence)[AVERAGE]
    if rejects(total, policy.alpha):
        largest = max(readings, key=lambda reading: reading.log_part)
        return Judgement(Verdict.FAIL, why_failed(largest, policy), total, readings, signal=largest.signal)
    if rejects(_average(policy, evidence.bounded_logs), policy.alpha):
        return Judgement(Verdict.UNDECIDED, ONE_CLIENT, total, readings)
    if missing := max(0, policy.min_labels - evidence.labels.canary):
        return Judgement(Verdict.UNDECIDED, f"{missing:,} more labelled items of the canary", total, readings)
    needed = requests_needed(policy, evidence.capped, requests)
    if needed:
        return Judgement(Verdict.UNDECIDED, f"about {needed:,} more requests of the canary", total, readings, needed)
    if held_s < policy.hold_s:
        left = policy.hold_s - held_s
        return Judgement(Verdict.UNDECIDED, f"{left:.0f} s of hold time left", total, readings)
    return Judgement(Verdict.PASS, "no signal counts against it", total, readings)


def log_e_values(policy: RolloutPolicy, evidence: Evidence) -> dict[str, float]:
    """Logarithm of the e-value of each judged signal, and of their weighted average under the key AVERAGE."""
    logs = evidence.logs
    return {signal: logs[signal] for signal in policy.shares} | {AVERAGE: _average(policy, logs)}


def _average(policy: RolloutPolicy, logs: Mapping[str, float]) -> float:
    parts = [logs[signal] + log(share) for signal, share in policy.shares.items()]
    return log_mean(parts) + log(len(parts))


def requests_needed(policy: RolloutPolicy, canary: OutcomeCounts, in_step: int) -> int:
    """Requests of the canary, without an error, until it can pass; 0 where it has them."""
    return max(policy.min_requests - in_step, requests_until_below(canary, policy.max_error_rate, policy.alpha), 0)


def requests_until_below(seen: OutcomeCounts, rate: float, alpha: float) -> int:
    """Requests without an error until a confidence sequence shows that the rate of errors lies below `rate`."""

    def is_below(more: int) -> bool:
        return rate_bounds(seen.errors, seen.requests + more, alpha)[1] < rate

    if seen.requests and is_below(0):
        return 0
    high = 1
    while not is_below(high) and high < MOST_REQUESTS:
        high *= 2
    low = high // 2
    while high - low > max(1, high // 100):  # to a hundredth: people read "about"
        middle = (low + high) // 2
        low, high = (low, middle) if is_below(middle) else (middle, high)
    return high
