"""Simulates thousands of shadow comparisons, asked for a verdict after every pair.

Invariant: the evidence equals that of `DifferenceProcess`, pair by pair. Both events of a pair are independent here.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsctl.statistics.differences import BETS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Comparisons that share a seed and are drawn together.
TOGETHER = 500
#: Pairs that are drawn at once.
BLOCK = 256


@dataclass(frozen=True)
class Shadow:
    """One comparison: stable is asked again, alone and in another batch, for every pair.

    Args:
        rate: of the shadow's disagreements, noise included.
        alone, batch: rates at which stable's second answers differ, the noise floors.
    """

    rate: float
    alone: float
    batch: float


@dataclass(frozen=True)
class Verdicts:
    """When each comparison was decided; arrays with an entry for each.

    Args:
        exceeds: pairs until the disagreement surely exceeded the limit; 0 where it never did.
        stays_below: pairs until it was surely below; 0 where it never was.
    """

    exceeds: Ints
    stays_below: Ints


def simulate(
    shadow: Shadow, limit: float, alpha: float, pairs: int, runs: int, seed: int, is_short: bool = False
) -> Verdicts:
    """Comparisons of so many pairs each; they go on after a verdict, until all have the other one too.

    Args:
        is_short: they end when the limit is exceeded in all.
    """
    sizes = [min(TOGETHER, runs - done) for done in range(0, runs, TOGETHER)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))

    def together(size: int, part: np.random.SeedSequence) -> tuple[Ints, Ints]:
        return _simulate_together(shadow, limit, alpha, pairs, size, np.random.default_rng(part), is_short)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # numpy computes outside the interpreter's lock
        parts = list(pool.map(together, sizes, seeds))
    exceeds, below = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Verdicts(exceeds, below)


def _simulate_together(
    shadow: Shadow, limit: float, alpha: float, pairs: int, runs: int, chance: np.random.Generator, is_short: bool
) -> tuple[Ints, Ints]:
    exceeds, below = np.zeros(runs, int), np.zeros(runs, int)
    above_logs, below_logs = np.zeros((2, runs, len(BETS))), np.zeros((2, runs, len(BETS)))
    up, down = log_factors(limit), log_factors(-limit)[::-1]
    threshold = 1 / alpha
    for start in range(0, pairs, BLOCK):
        size = min(BLOCK, pairs - start)
        differs = chance.random((size, runs)) < shadow.rate
        floors = [chance.random((size, runs)) < rate for rate in (shadow.alone, shadow.batch)]
        differences = np.stack([differs.astype(int) - floor for floor in floors], axis=1)
        for number in range(size):
            step = differences[number] + 1
            above_logs += up[step]
            below_logs += down[step]
            # evidence against "at most the limit" grows only where the shadow alone differs
            if differs[number].any():
                over = np.exp(above_logs).mean(axis=-1).min(axis=0) >= threshold
                exceeds[over & (exceeds == 0)] = start + number + 1
            under = np.exp(below_logs).mean(axis=(0, -1)) >= threshold
            below[under & (below == 0)] = start + number + 1
        if (exceeds > 0).all() and (is_short or (below > 0).all()):
            break
    return exceeds, below


def log_factors(margin: float) -> Floats:
    """Logarithms of the factor of each bet for a difference of -1, 0 and 1, shape (3, bets)."""
    bets = np.array(BETS) / (1 + margin)
    with np.errstate(divide="ignore"):  # the largest bet may lose everything
        return np.log1p(bets * (np.array([[-1.0], [0.0], [1.0]]) - margin))


def pairs_until(verdicts: Ints, level: float) -> float | None:
    """The pairs by which this share of the comparisons is decided; None where fewer are."""
    decided = np.sort(verdicts[verdicts > 0])
    place = int(np.ceil(level * verdicts.size)) - 1
    return float(decided[place]) if place < decided.size else None
