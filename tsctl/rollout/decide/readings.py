"""What each signal shows, with rates for people, and why one failed a canary. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from tsctl.config.policy import LIMIT, TEXT_SIGNALS, RolloutPolicy
from tsctl.rollout.decide.evidence import BY_CLASS, COUNTS, LENGTHS, Evidence, class_count
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.statistics.sequential import rate_bounds


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


def _rate(signal: str, about: str, seen: OutcomeCounts, evidence: Evidence, alpha: float) -> Rate:
    if signal in BY_CLASS:
        counts = COUNTS[signal](seen)
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


def why_failed(reading: Reading, policy: RolloutPolicy) -> str:
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
