"""Evidence that may be looked at after every request: e-processes and confidence sequences. Pure.

An e-process is a running number that, while the null hypothesis holds, exceeds 1 / alpha with probability at most alpha
ever, however often it is read (Ville's inequality). Averages of e-processes are e-processes. All of it is kept as
logarithms, because evidence grows exponentially.

Sources: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022; Lindon et al., "Rapid
regression detection in software deployments through sequential testing", KDD 2022; Ramdas et al., "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log, log1p

#: How many times as often as stable the canary's requests may be bad; the evidence is averaged over them.
RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
#: Both ways, for what may be more or less frequent.
BOTH_WAYS = (0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, *RATIOS)
#: Rates that the mixture of a RateProcess is made of.
POINTS = 64
#: How far a bound is searched: a rate is known to this.
PRECISION = 1e-9


@dataclass(frozen=True)
class RatioProcess:
    """Whether events fall on the canary more often than its share of the requests, whatever their base rate is.

    Each request goes to the canary with a known probability, its weight. Of the events alone (errors, slow answers,
    predictions of one class), one belongs to the canary with at most that probability while the canary is no worse. The
    factor of one event for a rate ratio r is (r if canary else 1) / (1 - weight + weight * r); the product over all
    events is a supermartingale for every r above 1, and a martingale for every r where both versions are alike.

    Args:
        ratios: rate ratios that the evidence is averaged over; all above 1 for a one-sided test.
        logs: the logarithm of the product for each ratio so far; empty before the first event.
    """

    ratios: tuple[float, ...] = RATIOS
    logs: tuple[float, ...] = ()

    def seen(self, on_canary: int, elsewhere: int, weight: float) -> RatioProcess:
        """After so many more events, of requests that were routed at this weight of the canary.

        Args:
            weight: the canary's share when they were routed, above 0 and below 1.

        Raises:
            ValueError: a count below 0, or a weight out of its range.
        """
        if min(on_canary, elsewhere) < 0:
            raise ValueError(f"counts must be at least 0, found {on_canary} and {elsewhere}")
        if not 0 < weight < 1:
            raise ValueError(f"the weight must lie between 0 and 1, found {weight}")
        events = on_canary + elsewhere
        if not events:
            return self
        before = self.logs or (0.0,) * len(self.ratios)
        logs = tuple(
            value + on_canary * log(ratio) - events * log1p(weight * (ratio - 1))
            for value, ratio in zip(before, self.ratios, strict=True)
        )
        return RatioProcess(self.ratios, logs)

    def without(self, part: RatioProcess, kept: float = 0.0) -> RatioProcess:
        """As if this part of the events had not been, or had counted only for a share of what they are.

        The factor of an event to a power of at most 1 is still that of a supermartingale (Jensen's inequality).

        Args:
            part: with the same ratios, of some of these events.
            kept: the share for which they count, at most 1.
        """
        if not part.logs:
            return self
        logs = tuple(all_ - (1 - kept) * own for all_, own in zip(self.logs, part.logs, strict=True))
        return RatioProcess(self.ratios, logs)

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value now."""
        return log_mean(self.logs) if self.logs else 0.0


@dataclass(frozen=True)
class RateProcess:
    """Whether events come more often than a rate that is allowed: a Bernoulli rate, judged by a mixture over all rates.

    Args:
        allowed: the largest rate of the null hypothesis, above 0 and below 1.
        events: so far.
        trials: so far.
    """

    allowed: float
    events: int = 0
    trials: int = 0

    def seen(self, events: int, trials: int) -> RateProcess:
        """After so many more trials, of which so many were events."""
        if not 0 <= events <= trials:
            raise ValueError(f"events must lie between 0 and the trials, found {events} of {trials}")
        return RateProcess(self.allowed, self.events + events, self.trials + trials)

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value now: likelihood ratios of rates above the allowed one, averaged.

        Each of them is a supermartingale where the true rate is at most the allowed one.
        """
        if not self.trials:
            return 0.0
        misses = self.trials - self.events
        return log_mean(
            [
                self.events * log(rate / self.allowed) + misses * log((1 - rate) / (1 - self.allowed))
                for rate in rates_above(self.allowed)
            ]
        )


def rates_above(allowed: float) -> tuple[float, ...]:
    """The rates that a RateProcess is averaged over, evenly from the allowed one to 1."""
    return tuple(allowed + (1 - allowed) * (number + 0.5) / POINTS for number in range(POINTS))


def log_mean(values: Sequence[float]) -> float:
    """Logarithm of the mean of exp(value), without overflow; `values` must not be empty."""
    largest = max(values)
    if largest == -inf:
        return -inf
    return largest + log(sum(exp(value - largest) for value in values) / len(values))


def rejects(log_e: float, alpha: float) -> bool:
    """Whether the null hypothesis is given up at this level: wrongly so with probability at most alpha, ever."""
    return log_e >= -log(alpha)


def rate_bounds(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """An interval that holds the true rate at all times at once, with probability at least 1 - alpha.

    The confidence sequence of a beta-binomial mixture with a uniform prior (Robbins): all rates p for which
    B(1 + k, 1 + n - k) / (p^k (1 - p)^(n - k)) stays below 1 / alpha.

    Raises:
        ValueError: counts that cannot be, or alpha out of its range.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"events must lie between 0 and the trials, found {events} of {trials}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    if not trials:
        return 0.0, 1.0
    mixture = lgamma(1 + events) + lgamma(1 + trials - events) - lgamma(2 + trials)
    limit = -log(alpha)

    def is_inside(rate: float) -> bool:
        return mixture - _log_likelihood(events, trials, rate) < limit

    best = events / trials
    low = 0.0 if is_inside(0.0) else _edge(0.0, best, is_inside)
    high = 1.0 if is_inside(1.0) else _edge(1.0, best, is_inside)
    return low, high


def _log_likelihood(events: int, trials: int, rate: float) -> float:
    hits = events * log(rate) if rate else (-inf if events else 0.0)
    misses = (trials - events) * log1p(-rate) if rate < 1 else (-inf if events < trials else 0.0)
    return hits + misses


def _edge(outside: float, inside: float, is_inside: Callable[[float], bool]) -> float:
    """Between a rate outside and one inside, the outermost that is known; the interval is never too narrow."""
    while abs(outside - inside) > PRECISION:
        middle = (outside + inside) / 2
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return outside
