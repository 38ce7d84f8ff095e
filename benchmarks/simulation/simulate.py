"""Simulates thousands of whole rollouts as the judge sees them: which are rolled back, and after how many requests.

Invariant: the verdict is computed after every request, and the evidence equals that of `Evidence` and `judge`, signal
by signal. To save work, the counts of a block of requests are drawn first, and the order inside the block only where
the most favourable order could reach the threshold. Given the counts, every order is equally likely.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import EVENT, no_evidence
from tsctl.statistics.sequential import rates_above

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Requests of a block, and of the first block; a smaller block is ordered more rarely, but more blocks are counted.
BLOCK, FIRST_BLOCK = 500, 100
#: Runs that share a seed and are drawn together; their evidence fits into a processor's cache.
TOGETHER = 500
#: Runs whose requests are ordered together.
ORDERED = 32
#: A bound this close to the threshold counts as above it: sums are rounded.
MARGIN = 1 - 1e-9

STABLE, CANARY = 0, 1
#: Signals of independent requests.
SIMULATED = ("errors", "refused", "slow", "mix")


@dataclass(frozen=True)
class Behaviour:
    """How one version answers; requests are independent."""

    errors: float
    slow: float = 0.05  # of all answers; one of twenty answers of stable is slow
    classes: tuple[float, ...] = (0.1,) * 10  # share of each predicted class, of the predictions
    refused: float = 0.0  # of the answers that are no errors; all others are predictions


@dataclass(frozen=True)
class Stage:
    """A number of requests of the route at one weight of the canary, in hundredths of a percent."""

    weight: int
    requests: int


@dataclass(frozen=True)
class Rollout:
    """A rollout to simulate.

    Raises:
        ValueError: a stage has all or no traffic on the canary, a signal is not SIMULATED, or the classes differ.
    """

    policy: RolloutPolicy
    stable: Behaviour
    canary: Behaviour
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not all(0 < stage.weight < TOTAL for stage in self.stages):
            raise ValueError("every weight must lie between 0 and that of all traffic")
        if others := [signal for signal in self.policy.signals if signal not in SIMULATED]:
            raise ValueError(f"{', '.join(others)} are not simulated")
        if len(self.stable.classes) != len(self.canary.classes):
            raise ValueError("both versions must have the same classes")

    @property
    def requests(self) -> int:
        return sum(stage.requests for stage in self.stages)


@dataclass(frozen=True)
class Ends:
    """Where each run ended; arrays with an entry for each run.

    Args:
        requests: of the route, including the deciding one; of the whole rollout where it was not rolled back.
        on_canary: those of them that the canary served.
        signal: index in `signals` of the strongest signal; -1 where the run was not rolled back.
    """

    requests: Ints
    on_canary: Ints
    signal: Ints
    signals: tuple[str, ...]

    @property
    def is_back(self) -> NDArray[np.bool_]:
        """Whether each run was rolled back."""
        return self.signal >= 0


@dataclass(frozen=True)
class Counts:
    """Requests by outcome; the caller chooses the leading axes.

    Args:
        kinds: shape (..., 2, 2 + classes): of stable and of the canary, errors, refusals, then predictions by class.
        slow: shape (..., 2): slow answers of stable and of the canary.
    """

    kinds: Ints
    slow: Ints

    def bets(self, signal: str) -> tuple[Ints, Ints]:
        """Events that each of a signal's processes won and lost, both of shape (..., processes)."""
        errors, classes = self.kinds[..., 0], self.kinds[..., 2:]
        if signal == "mix":
            return classes[..., CANARY, :], classes[..., STABLE, :]
        if signal == "limit":
            return errors[..., CANARY, None], self.kinds[..., CANARY, 1:].sum(-1)[..., None]
        events = {"errors": errors, "refused": self.kinds[..., 1], "slow": self.slow}[signal]
        return events[..., CANARY, None], events[..., STABLE, None]


@dataclass(frozen=True)
class Signal:
    """One kind of evidence: an average of processes, each an average of products of factors.

    Args:
        share: weight in the average of all signals.
        processes: number of processes with simulated events.
        idle: number of processes without events, whose e-value stays 1.
        rates: alternatives that each process averages: ratios of the canary's rate, or rates above `allowed`.
        allowed: the error rate cap; None where the signal compares with stable.
    """

    name: str
    share: float
    processes: int
    idle: int
    rates: Floats
    allowed: float | None = None

    def start(self, runs: int) -> Floats:
        """Logarithms of the products before the first request, shape (runs, processes, rates)."""
        return np.zeros((runs, self.processes, self.rates.size))

    def factors(self, weight: int) -> tuple[Floats, Floats]:
        """Logarithms of the factor of a won event, and of a lost event, for each rate."""
        if self.allowed is not None:
            return np.log(self.rates / self.allowed), np.log1p(-self.rates) - np.log1p(-self.allowed)
        lost = -np.log1p(weight / TOTAL * (self.rates - 1))
        return np.log(self.rates) + lost, lost

    def part(self, logs: Floats) -> Floats:
        """The signal's part of the average of e-values; without the last two axes of `logs`."""
        with np.errstate(over="ignore"):
            values = np.exp(logs).mean(-1).sum(-1)
        part: Floats = self.share * (values + self.idle) / (self.processes + self.idle)
        return part


def signals_of(rollout: Rollout) -> tuple[Signal, ...]:
    """The policy's signals in its order, the limit last, with the rates of the judge's evidence."""
    evidence = no_evidence(rollout.policy, [str(number) for number in range(len(rollout.stable.classes))])
    classes = len(rollout.stable.classes)
    compared, cap = evidence.compared.processes, evidence.max_error_rate
    [mix_ratios] = {process.ratios for process in compared["mix"].values()}
    ratios = {signal: compared[signal][EVENT].ratios for signal in ("errors", "refused", "slow")}
    known = {
        **{signal: (1, 0, of_signal, None) for signal, of_signal in ratios.items()},
        "mix": (classes, len(compared["mix"]) - classes, mix_ratios, None),
        "limit": (1, 0, rates_above(cap), cap),
    }
    signals = []
    for name, share in rollout.policy.shares.items():
        processes, idle, rates, allowed = known[name]
        signals.append(Signal(name, share, processes, idle, np.array(rates), allowed))
    return tuple(signals)


def grown(logs: Floats, bets: tuple[Ints, Ints], factors: tuple[Floats, Floats]) -> Floats:
    """Logarithms of the products after these events."""
    won, lost = bets
    after: Floats = logs + won[..., None] * factors[0] + lost[..., None] * factors[1]
    return after


def bound(signals: Sequence[Signal], logs: Sequence[Floats], counts: Counts, weight: int) -> Floats:
    """An upper bound of the average of e-values during these requests, in any order."""
    total = np.zeros(counts.slow.shape[0])
    for signal, before in zip(signals, logs, strict=True):
        won, lost = signal.factors(weight)
        best = np.maximum(won, 0), np.maximum(lost, 0)
        total += signal.part(grown(before, counts.bets(signal.name), best))
    return total


def parts_after_each(signals: Sequence[Signal], logs: Sequence[Floats], counts: Counts, weight: int) -> Floats:
    """Each signal's part of the average of e-values after each request, shape (signals, runs, requests).

    Args:
        counts: axes (runs, requests): cumulative up to each request.
    """
    return np.array(
        [
            signal.part(grown(before[:, None], counts.bets(signal.name), signal.factors(weight)))
            for signal, before in zip(signals, logs, strict=True)
        ]
    )


def draw(chance: np.random.Generator, rollout: Rollout, weight: int, requests: int, runs: int) -> Counts:
    """Counts of a block of requests in each run, axes (runs)."""
    on_canary = chance.binomial(requests, weight / TOTAL, runs)
    kinds, slow = [], []
    for served, version in ((requests - on_canary, rollout.stable), (on_canary, rollout.canary)):
        errors = chance.binomial(served, version.errors)
        refused = chance.binomial(served - errors, version.refused)
        classes = chance.multinomial(served - errors - refused, version.classes)
        kinds.append(np.concatenate([errors[:, None], refused[:, None], classes], axis=1))
        slow.append(chance.binomial(served, version.slow))
    return Counts(np.stack(kinds, axis=1), np.stack(slow, axis=1))


def in_order(chance: np.random.Generator, counts: Counts) -> Counts:
    """Cumulative counts of the same requests in a random order, axes (runs, requests)."""
    runs, _, kinds = counts.kinds.shape
    cells = counts.kinds.reshape(runs, -1)
    requests = int(cells[0].sum())
    cell = np.repeat(np.tile(np.arange(cells.shape[1]), runs), cells.ravel()).reshape(runs, requests)
    track = cell // kinds
    # whether an answer is slow is independent of its other outcome
    place = (chance.random((runs, requests)) + track).argsort(axis=1).argsort(axis=1)
    first = np.where(track == CANARY, counts.kinds[:, STABLE].sum(axis=1)[:, None], 0)
    is_slow = place - first < np.take_along_axis(counts.slow, track, axis=1)
    coded = chance.permuted(2 * cell + is_slow, axis=1)
    return cumulated(coded // 2, coded % 2 == 1, kinds)


def cumulated(cell: Ints, is_slow: NDArray[np.bool_], kinds: int) -> Counts:
    """Counts up to each request.

    Args:
        cell: shape (runs, requests): `kinds` times the version, and on it 0 for an error, 1 for a refusal, 2 and up for
            a class.
        kinds: two more than there are classes.
    """
    each = (cell[..., None] == np.arange(2 * kinds)).cumsum(axis=1)
    slow = (is_slow[..., None] & ((cell // kinds)[..., None] == np.arange(2))).cumsum(axis=1)
    return Counts(each.reshape(*cell.shape, 2, kinds), slow)


def simulate(rollout: Rollout, runs: int, seed: int) -> Ends:
    """Simulate rollouts, each until it is rolled back or its stages end; the same seed gives the same runs anywhere."""
    sizes = [min(TOGETHER, runs - done) for done in range(0, runs, TOGETHER)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # numpy computes outside the interpreter's lock
        batches = list(pool.map(_simulate_together, [rollout] * len(sizes), sizes, seeds))
    requests, on_canary, strongest = (np.concatenate(column) for column in zip(*batches, strict=True))
    return Ends(requests, on_canary, strongest, tuple(signal.name for signal in signals_of(rollout)))


def _simulate_together(rollout: Rollout, runs: int, seed: np.random.SeedSequence) -> tuple[Ints, Ints, Ints]:
    """The first three fields of Ends."""
    chance = np.random.default_rng(seed)
    signals = signals_of(rollout)
    threshold = 1 / rollout.policy.alpha
    logs = [signal.start(runs) for signal in signals]
    left = np.arange(runs)  # the runs that go on; `logs` has a row for each
    requests, on_canary, strongest = np.zeros(runs, int), np.zeros(runs, int), np.full(runs, -1)
    for weight, size in _blocks(rollout.stages):
        counts = draw(chance, rollout, weight, size, left.size)
        came, served = np.full(left.size, size), counts.kinds[:, CANARY].sum(-1)
        near = np.flatnonzero(bound(signals, logs, counts, weight) >= threshold * MARGIN)
        for rows in (near[start : start + ORDERED] for start in range(0, near.size, ORDERED)):
            ordered = in_order(chance, Counts(counts.kinds[rows], counts.slow[rows]))
            parts = parts_after_each(signals, [before[rows] for before in logs], ordered, weight)
            over, at = _first(parts.sum(axis=0) >= threshold)
            came[rows[over]] = at + 1
            served[rows[over]] = ordered.kinds[over, at, CANARY].sum(-1)
            strongest[left[rows[over]]] = parts[:, over, at].argmax(axis=0)
        requests[left] += came
        on_canary[left] += served
        goes_on = strongest[left] < 0
        logs = [
            grown(before, counts.bets(signal.name), signal.factors(weight))[goes_on]
            for signal, before in zip(signals, logs, strict=True)
        ]
        left = left[goes_on]
    return requests, on_canary, strongest


def _first(is_reached: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The rows with a true value, and the index of the first in each."""
    rows = np.flatnonzero(is_reached.any(axis=1))
    return rows, is_reached[rows].argmax(axis=1)


def _blocks(stages: Sequence[Stage]) -> Iterator[tuple[int, int]]:
    """Weight and number of requests of each block; small ones first, while every ratio still counts."""
    for stage in stages:
        done = 0
        while done < stage.requests:
            size = min(BLOCK, FIRST_BLOCK + done, stage.requests - done)
            yield stage.weight, size
            done += size
