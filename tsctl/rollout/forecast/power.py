"""Computes the probability that a number of requests shows a fault, and the number that rules one out. Pure.

Events of each version are Poisson with its rate, and the evidence is tested once, after the last request. The judge
tests after every request, and so rejects at least as often.
"""

from __future__ import annotations

from math import ceil, floor, inf, log, sqrt

from tsctl.config.policy import LIMIT, RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import ENDS, LEAST_TEXTS, LENGTHS
from tsctl.rollout.decide.judge import MOST_REQUESTS
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.statistics.search import first, poisson_quantile
from tsctl.statistics.sequential import (
    BOTH_WAYS,
    RATIOS,
    RateProcess,
    RatioProcess,
    log_mean,
    rate_bounds,
    rejects,
)

#: The probability with which a fault that counts as seen is found.
SURELY = 0.8
#: The distribution of each version's counts is represented by its quantiles at these levels, equally likely each.
LEVELS = tuple((number + 0.5) / 40 for number in range(40))
#: More labelled items of each version than these are not searched for.
MOST_LABELS = 1 << 24
#: Nor more answers of a language model's canary.
MOST_ANSWERS = 1 << 20
#: The smallest rate that is searched for, and the relative precision of the search.
SMALLEST, PRECISION = 1e-6, 1.01


def fails(policy: RolloutPolicy, signal: str, signal_log_e: float, cap_log_e: float) -> bool:
    """Whether a signal and the error rate cap fail a canary without any other signal.

    Args:
        signal_log_e: logarithm of the e-value of the signal; `cap_log_e`: that of the error rate cap.
    """
    shares = policy.shares
    parts = [cap_log_e + log(shares[LIMIT])]
    if signal in shares:
        parts.append(signal_log_e + log(shares[signal]))
    return rejects(log_mean(parts) + log(len(parts)), policy.alpha)


def power(policy: RolloutPolicy, signal: str, base: float, rate: float, weight: int, requests: float) -> float:
    """Compute the probability that this many requests of the route, by themselves, fail a canary with this rate.

    The counts of both versions are independent, so every pair of quantiles is judged. More events of stable never count
    against the canary: for each count of the canary, the pairs that fail it come first.

    Args:
        signal: errors, which the error rate cap judges as well, or slow.
        base: stable's rate.
        weight: of the canary, in hundredths of a percent; at 100% only the error rate cap is left.
    """
    served = floor(requests * weight / TOTAL)
    events = [min(poisson_quantile(served * rate, level), served) for level in LEVELS]
    others = [poisson_quantile((requests - served) * base, level) for level in LEVELS]
    failed, pairs = 0, 0
    for count in events:
        cap = RateProcess(policy.max_error_rate).seen(count if signal == "errors" else 0, served).log_e
        while pairs < len(others):
            ratio = RatioProcess().seen(count, others[pairs], weight / TOTAL).log_e if weight < TOTAL else 0.0
            if not fails(policy, signal, ratio, cap):
                break
            pairs += 1
        failed += pairs
    return failed / len(LEVELS) ** 2


def labels_needed(policy: RolloutPolicy, base: float, rate: float) -> int | None:
    """Find the labelled items of each version after which a canary with this rate of wrong ones fails SURELY.

    They form as many pairs, of which some have only the canary wrong, and some only stable. None if more than
    MOST_LABELS are needed.

    Args:
        base: stable's rate of wrong items.
    """

    def is_seen(pairs: int) -> bool:
        canary, stable = (
            [poisson_quantile(pairs * alone, level) for level in LEVELS]
            for alone in (rate * (1 - base), base * (1 - rate))
        )
        failed = sum(
            fails(policy, "labels", LabelCounts(stable_alone=others, canary_alone=events).log_e, -inf)
            for events in canary
            for others in stable
        )
        return failed >= SURELY * len(LEVELS) ** 2

    return first(is_seen, MOST_LABELS)


def answers_needed(policy: RolloutPolicy, signal: str, base: float, rate: float, weight: int) -> int | None:
    """Find the answers of a language model's canary after which a fault of this signal fails it SURELY.

    None if more than MOST_ANSWERS are needed.

    Args:
        base: share of stable's answers that are events of the signal, or of the class that the fault makes more
            frequent; `rate`: of the canary's.
        weight: of the canary, in hundredths of a percent; not that of all traffic.
    """
    classes = {"finish": len(ENDS), "length": len(LENGTHS)}.get(signal, 1)
    process = RatioProcess(BOTH_WAYS if classes > 1 else RATIOS)  # e-values of all classes are averaged

    def is_seen(answers: int) -> bool:
        events = [min(poisson_quantile(answers * rate, level), answers) for level in LEVELS]
        others = [poisson_quantile(answers * (TOTAL - weight) / weight * base, level) for level in LEVELS]
        failed = pairs = 0
        for count in events:  # fewer events of stable never count for the canary
            while pairs < len(others):
                log_e = process.seen(count, others[pairs], weight / TOTAL).log_e - log(classes)
                if not fails(policy, signal, log_e, -inf):
                    break
                pairs += 1
            failed += pairs
        return failed >= SURELY * len(LEVELS) ** 2

    needed = first(is_seen, MOST_ANSWERS)
    return None if needed is None else max(needed, LEAST_TEXTS)


def smallest_rate(policy: RolloutPolicy, signal: str, base: float, weight: int, requests: float) -> float | None:
    """Find the smallest rate of the canary that is seen SURELY; None if not even 1 is. Arguments as of `power`."""
    if power(policy, signal, base, 1.0, weight, requests) < SURELY:
        return None
    low, high = max(base, SMALLEST), 1.0
    while high / low > PRECISION:
        middle = sqrt(low * high)
        is_seen = power(policy, signal, base, middle, weight, requests) >= SURELY
        low, high = (low, middle) if is_seen else (middle, high)
    return high


def requests_to_pass(error_rate: float, limit: float, alpha: float) -> float:
    """Compute the requests of a canary until its error rate is shown to be below the limit, at the expected errors.

    Infinite if the rate is not below the limit, or so close to it that more than MOST_REQUESTS are needed.
    """

    def is_below(requests: int) -> bool:
        return rate_bounds(ceil(requests * error_rate), requests, alpha)[1] < limit

    requests = first(is_below, MOST_REQUESTS) if error_rate < limit else None
    return inf if requests is None else requests
