"""Passes a step, fails it, or says how many requests it still needs. Pure; every number is an argument.

Invariants: no pass without requests of the canary, and no fail without an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import log

from tsctl.config.policy import LIMIT, TEXT_SIGNALS, RolloutPolicy
from tsctl.rollout.decide.evidence import LENGTHS, Evidence, class_count
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.statistics.sequential import log_mean, rate_bounds, rejects

#: The search for requests ends here: a rate that needs more cannot be shown.
MOST_REQUESTS = 1 << 40
#: Names the weighted average among the e-values of signals.
AVERAGE = "average"
#: Growth of a worker's memory below this many bytes is no leak: allocators keep memory that they once had.
LEAST_GROWTH = 256 << 20


class Verdict(StrEnum):
    """The verdict on a step."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Rate:
    """A share of a version's requests, with an interval that contains it at all times at once."""

    events: int
    requests: int
    low: float
    high: float

    @property
    def estimate(self) -> float | None:
        """None without requests."""
        return self.events / self.requests if self.requests else None


@dataclass(frozen=True)
class Reading:
    """One signal and its evidence.

    Args:
        share: of the average of e-values.
        about: the class with the largest e-value, of a signal that compares classes.
    """

    signal: str
    log_e: float
    share: float
    stable: Rate
    canary: Rate
    about: str = ""

    @property
    def log_part(self) -> float:
        """Logarithm of its part of the average."""
        return self.log_e + log(self.share)


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
        return Judgement(Verdict.FAIL, _why_failed(largest, policy), total, readings, signal=largest.signal)
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


def read_signals(policy: RolloutPolicy, evidence: Evidence) -> tuple[Reading, ...]:
    """Every judged signal, in the order of the policy, the limit last."""
    logs = evidence.logs
    readings = []
    for signal, share in policy.shares.items():
        if signal == "labels":
            labels = evidence.labels
            stable = rate_of(labels.stable_wrong, labels.stable, policy.alpha)
            canary = rate_of(labels.canary_wrong, labels.canary, policy.alpha)
            readings.append(Reading(signal, logs[signal], share, stable, canary))
            continue
        classes = evidence.compared.distribution(signal)
        about = max(classes, key=lambda name: classes[name].log_e, default="")
        stable, canary = (
            _rate(signal, about, seen, evidence, policy.alpha) for seen in (evidence.stable, evidence.canary)
        )
        readings.append(Reading(signal, logs[signal], share, stable, canary, about))
    return tuple(readings)


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


def _rate(signal: str, about: str, seen: OutcomeCounts, evidence: Evidence, alpha: float) -> Rate:
    counts = {"mix": seen.classes, "finish": seen.finishes, "length": seen.lengths}.get(signal)
    if counts is not None:
        events = class_count(counts, about, evidence.compared.distribution(signal)) if about else 0
        requests = sum(counts.values())
    elif signal == "slow":
        events, requests = seen.slow, seen.timed if evidence.is_text else seen.computed
    elif signal == "tokens":
        events, requests = seen.slow_tokens, seen.paced
    elif signal == "refused":
        events, requests = seen.refused, seen.requests
    else:
        events, requests = seen.errors, seen.computed if signal == "errors" else seen.requests
    return rate_of(events, requests, alpha)


def rate_of(events: int, requests: int, alpha: float) -> Rate:
    """The share of events among the requests.

    Envoy updates its histograms later than its counters: after an edit of the policy, more slow answers than requests
    may be known. Then all requests are events.
    """
    events = min(events, requests)
    return Rate(events, requests, *rate_bounds(events, requests, alpha))


def _why_failed(reading: Reading, policy: RolloutPolicy) -> str:
    canary, stable = _percent(reading.canary), _percent(reading.stable)
    if reading.signal == LIMIT:
        return f"{canary} of the canary's requests are errors, and the policy allows {policy.max_error_rate:.2%}"
    if reading.signal == "labels":
        return f"{canary} of the canary's labelled items are wrong, against {stable} of stable's"
    event = {
        "errors": "are errors",
        "refused": "are refused with 4xx",
        "slow": "are slow",
        "mix": f"are predicted as {reading.about}",
        "tokens": "have slow tokens",
        "finish": f"end by {reading.about}",
        "length": f"have {length_text(reading.about)}",
    }[reading.signal]
    kind = "answers" if reading.signal in TEXT_SIGNALS else "requests"
    return f"{canary} of the canary's {kind} {event}, against {stable} of stable's"


def length_text(length: str) -> str:
    """A class of LENGTHS in words: `64 to 127 tokens`; `some length` where it is none."""
    if length not in LENGTHS:
        return "some length"
    low = int(length)
    if length == LENGTHS[-1]:
        return f"{low:,} tokens or more"
    high = 2 * low - 1
    return f"{low:,} to {high:,} tokens" if high > low else f"{low} token{'' if low == 1 else 's'}"


def _percent(rate: Rate) -> str:
    return f"{rate.estimate:.2%}" if rate.estimate is not None else "none"


def memory_fault(warm: Mapping[str, int], now: Mapping[str, int], most: float) -> str:
    """Why a worker has too much memory; empty where none has. Memory has a limit: one process is no sample of requests.

    Args:
        warm: bytes of each worker when it was warm; a later worker is compared with the smallest of them.
        now: bytes of each worker.
        most: how many times its warm memory a worker may have.
    """
    known = [size for size in warm.values() if size > 0]
    for worker, size in now.items():
        before = warm.get(worker) or min(known, default=0)
        if before and size > most * before and size - before > LEAST_GROWTH:
            return (
                f"worker {worker} has {size >> 20:,} MiB, {size / before:.1f} times as much as when it was warm,"
                f" and the policy allows {most:g} times"
            )
    return ""
