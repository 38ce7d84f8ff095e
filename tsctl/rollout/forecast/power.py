"""How probably so many requests show a fault, and how many show that there is none. Pure.

Events of each version come by chance at their rates (Poisson), and what is asked is whether the evidence rejects after
the last request. Watched after every request, as the judge does, it rejects no more rarely.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, floor, inf, log, sqrt
from statistics import NormalDist

from tsctl.config.policy import LIMIT, RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.statistics import RateProcess, RatioProcess, log_mean, rate_bounds, rejects

#: How surely a fault is seen that is said to be seen.
SURELY = 0.8
#: Equally likely counts of each version stand for all that may come: these are the shares of counts below them.
LEVELS = tuple((number + 0.5) / 40 for number in range(40))
#: Rates are searched for from here on, to a hundredth of themselves.
SMALLEST, PRECISION = 1e-6, 1.01
#: Above this mean a Poisson distribution is taken for a normal one, corrected for its skewness.
MOST_EXACT = 50.0
#: What needs more requests than this is never shown.
MOST_REQUESTS = 1 << 40


def fails(policy: RolloutPolicy, signal: str, compared: float, limit: float) -> bool:
    """Whether a signal and the policy's limit fail a canary without the help of any other signal.

    Args:
        compared: logarithm of the e-value of the signal, and `limit`: that of the limit.
    """
    shares = policy.shares
    parts = [limit + log(shares[LIMIT])]
    if signal in shares:
        parts.append(compared + log(shares[signal]))
    return rejects(log_mean(parts) + log(len(parts)), policy.alpha)


def power(policy: RolloutPolicy, signal: str, base: float, rate: float, weight: int, requests: float) -> float:
    """How probably so many requests of the route, by themselves, fail a canary with this rate.

    The counts of both versions are independent, so every pair of the equally likely ones is judged. More events of
    stable never speak against the canary: of each count of the canary, the pairs that fail it are the first ones.

    Args:
        signal: errors, of which the policy's limit speaks as well, or slow.
        base: stable's rate.
        weight: of the canary, in hundredths of a percent; at that of all traffic only the limit is left.
    """
    served = floor(requests * weight / TOTAL)
    events = [min(poisson_quantile(served * rate, level), served) for level in LEVELS]
    others = [poisson_quantile((requests - served) * base, level) for level in LEVELS]
    failed, pairs = 0, 0
    for count in events:
        limit = RateProcess(policy.max_error_rate).seen(count if signal == "errors" else 0, served).log_e
        while pairs < len(others) and fails(policy, signal, _compared(count, others[pairs], weight), limit):
            pairs += 1
        failed += pairs
    return failed / len(LEVELS) ** 2


def smallest_rate(policy: RolloutPolicy, signal: str, base: float, weight: int, requests: float) -> float | None:
    """The smallest rate of the canary that is seen SURELY; None where not even a rate of 1 is. Arguments of `power`."""
    if power(policy, signal, base, 1.0, weight, requests) < SURELY:
        return None
    low, high = max(base, SMALLEST), 1.0
    while high / low > PRECISION:
        middle = sqrt(low * high)
        is_seen = power(policy, signal, base, middle, weight, requests) >= SURELY
        low, high = (low, middle) if is_seen else (middle, high)
    return high


def requests_to_pass(error_rate: float, limit: float, alpha: float) -> float:
    """Requests of a canary until its rate of errors surely lies below the limit, with as many errors as expected.

    Infinite where the rate does not lie below the limit, or so little that it needs more than MOST_REQUESTS.
    """

    def is_below(requests: int) -> bool:
        return rate_bounds(ceil(requests * error_rate), requests, alpha)[1] < limit

    found = first(is_below, MOST_REQUESTS) if error_rate < limit else None
    return inf if found is None else found


def poisson_quantile(mean: float, level: float) -> int:
    """The smallest count that is not exceeded with this probability; above MOST_EXACT by Cornish and Fisher."""
    if mean > MOST_EXACT:
        normal = NormalDist().inv_cdf(level)
        return max(0, round(mean + normal * sqrt(mean) + (normal**2 - 1) / 6))
    count, term = 0, exp(-mean)
    below = term
    while below < level:
        count += 1
        term *= mean / count
        below += term
    return count


def first(is_true: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 to `most` for which it is true, if it stays true from there on; None: for none."""
    if most < 1:
        return None
    high = 1
    while not is_true(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_true(middle) else (middle, high)
    return high


def _compared(on_canary: int, elsewhere: int, weight: int) -> float:
    """Logarithm of the e-value of these events; with nobody to compare with it stays that of none."""
    return RatioProcess().seen(on_canary, elsewhere, weight / TOTAL).log_e if weight < TOTAL else 0.0
