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
#: In place of 0, where a bet loses everything: nothing is left of it either, and 0 times its logarithm is 0.
LEAST_FACTOR = 1e-300
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
    counts = np.zeros((3, 2, runs), int)  # pairs in which the shadow alone, or stable alone, differs, and the others
    log_above, log_below, enough = log_factors(limit), log_factors(-limit)[::-1], np.log(1 / alpha)
    for start in range(0, pairs, BLOCK):
        size = min(BLOCK, pairs - start)
        differs = chance.random((size, runs)) < shadow.rate
        again = np.stack([chance.random((size, runs)) < rate for rate in (shadow.alone, shadow.batch)], axis=1)
        first, second = differs[:, None] & ~again, ~differs[:, None] & again
        steps = np.stack([first, second, first == second]).cumsum(axis=1) + counts[:, None]
        counts = steps[:, -1]
        # the evidence that the limit is exceeded grows only where the shadow alone differs
        at, run = np.nonzero(differs & (exceeds == 0))
        is_over = log_e(steps[:, at, :, run], log_above).min(axis=-1) >= enough
        _mark(exceeds, run[is_over], start + at[is_over] + 1)
        # no step of the block has more evidence that it is below than the most favourable order of its pairs
        most = np.stack([steps[0, 0] - first[0], counts[1], counts[2]])
        near = np.flatnonzero((below == 0) & (log_e(most.transpose(2, 0, 1), log_below).max(axis=-1) >= enough - 1e-9))
        at, run = (part.ravel() for part in np.meshgrid(np.arange(size), near, indexing="ij"))
        is_under = np.logaddexp.reduce(log_e(steps[:, at, :, run], log_below), axis=-1) - np.log(2) >= enough
        _mark(below, run[is_under], start + at[is_under] + 1)
        if (exceeds > 0).all() and (is_short or (below > 0).all()):
            break
    return exceeds, below


def log_e(counts: Ints, factors: Floats) -> Floats:
    """Logarithm of the e-values of counts of shape (n, 3, kinds): the shadow alone, stable alone, the others."""
    logs = counts[:, 0, :, None] * factors[2] + counts[:, 1, :, None] * factors[0] + counts[:, 2, :, None] * factors[1]
    evidence: Floats = np.logaddexp.reduce(logs, axis=-1) - np.log(len(BETS))
    return evidence


def _mark(ends: Ints, runs: Ints, pairs: Ints) -> None:
    """Note the first of these pairs as the end of each run."""
    firsts = np.full(ends.size, np.iinfo(np.int64).max)
    np.minimum.at(firsts, runs, pairs)
    is_new = (ends == 0) & (firsts < np.iinfo(np.int64).max)
    ends[is_new] = firsts[is_new]


def log_factors(margin: float) -> Floats:
    """Logarithms of the factor of each bet for a difference of -1, 0 and 1, shape (3, bets)."""
    bets = np.array(BETS) / (1 + margin)
    factors = 1 + bets * (np.array([[-1.0], [0.0], [1.0]]) - margin)
    logs: Floats = np.log(np.maximum(factors, LEAST_FACTOR))
    return logs


def pairs_until(verdicts: Ints, level: float) -> float | None:
    """The pairs by which this share of the comparisons is decided; None where fewer are."""
    decided = np.sort(verdicts[verdicts > 0])
    place = int(np.ceil(level * verdicts.size)) - 1
    return float(decided[place]) if place < decided.size else None
