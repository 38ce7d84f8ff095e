"""p-values of tests that are made once: chi-square, Kolmogorov-Smirnov, and a fair coin. Pure.

A p-value holds for one look. For looks again and again there are e-processes (sequential.py, differences.py).
"""

from __future__ import annotations

from math import erfc, exp, lgamma, log, pi, sqrt

#: Terms of Kolmogorov's series: the last one is nothing beside the first.
TERMS = 20


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The probability that a chi-square variable is at least `statistic`: a finite sum for whole degrees of freedom.

    Source: Abramowitz and Stegun, 26.4.4 and 26.4.5.

    Raises:
        ValueError: the statistic is negative, or the degrees of freedom are below 1.
    """
    if statistic < 0 or freedom < 1:
        raise ValueError(f"needs a statistic of at least 0 and 1 degree, found {statistic} and {freedom}")
    half = statistic / 2
    if not half:
        return 1.0
    if freedom % 2:
        tail, log_term, start = erfc(sqrt(half)), 0.5 * log(half) - half - lgamma(1.5), 1.5
    else:
        tail, log_term, start = 0.0, -half, 1.0
    power = start
    while power <= freedom / 2:
        tail += exp(log_term)
        log_term += log(half) - log(power)
        power += 1
    return min(tail, 1.0)


def kolmogorov_smirnov(distance: float, first: int, second: int) -> float:
    """The probability that two samples of one continuous distribution lie at least so far apart.

    The limit with Stephens' correction for samples of finite size. Where the distance is the largest over some points
    only, the true probability is smaller. Source: Press et al., "Numerical Recipes", 14.3.3.

    Args:
        distance: the largest between both distribution functions.
        first: size of the first sample; `second`: of the other.
    """
    if not 0 <= distance <= 1 or min(first, second) < 1:
        raise ValueError(f"needs a distance of 0 to 1 and two samples, found {distance}, {first} and {second}")
    root = sqrt(first * second / (first + second))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.1:  # 1 to fifty digits
        return 1.0
    if scaled < 1:  # Jacobi's form of the same series
        terms = (exp(-((2 * k - 1) ** 2) * pi**2 / (8 * scaled**2)) for k in range(1, 20))
        return min(1.0, max(0.0, 1 - sqrt(2 * pi) / scaled * sum(terms)))
    tail: float = 2 * sum((-1) ** (k - 1) * exp(-2 * (k * scaled) ** 2) for k in range(1, TERMS))
    return min(1.0, max(0.0, tail))


def fair_coin(heads: int, tails: int) -> float:
    """The two-sided probability that a fair coin falls at least as unevenly (the exact test of McNemar's table)."""
    if min(heads, tails) < 0:
        raise ValueError(f"counts must be at least 0, found {heads} and {tails}")
    throws, fewer = heads + tails, min(heads, tails)
    logs = (lgamma(throws + 1) - lgamma(k + 1) - lgamma(throws - k + 1) - throws * log(2) for k in range(fewer + 1))
    return min(1.0, 2 * sum(map(exp, logs)))
