"""Whole rollouts, thousands at once, as the judge sees them: which are rolled back, and after how many requests.

Invariant: the verdict is asked for after every request, and the evidence is that of `Evidence` and `judge`, signal by
signal. What is saved is work: the counts of a block of requests are drawn first, and the order inside the block only
where the most favourable order could reach the threshold. Given the counts, every order is equally likely.
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
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.statistics import rates_above

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Requests whose order is drawn only where it matters; fewer of them are ordered more rarely, and counted more often.
BLOCK, FIRST_BLOCK = 500, 100
#: Runs that are drawn together, by one seed; their evidence fits into a processor's cache.
TOGETHER = 500
#: Runs whose requests are ordered together.
ORDERED = 32
#: A bound this close to the threshold counts as above it: sums are rounded.
MARGIN = 1 - 1e-9

STABLE, CANARY = 0, 1


@dataclass(frozen=True)
class Behaviour:
    """How one version answers; each request is a matter of its own."""

    errors: float
    slow: float = 0.05  # of all answers; slow is what stable takes longer for in one of twenty cases
    classes: tuple[float, ...] = (0.1,) * 10  # what is predicted, of the answers that are no errors


@dataclass(frozen=True)
class Stage:
    """So many requests of the route at one weight of the canary, in hundredths of a percent."""

    weight: int
    requests: int


@dataclass(frozen=True)
class Rollout:
    """What is simulated.

    Raises:
        ValueError: a stage that compares with nobody, a signal that needs pairs, or classes that do not fit.
    """

    policy: RolloutPolicy
    stable: Behaviour
    canary: Behaviour
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not all(0 < stage.weight < TOTAL for stage in self.stages):
            raise ValueError("every weight must lie between 0 and that of all traffic")
        if "disagreement" in self.policy.signals:
            raise ValueError("pairs of a shadow are not simulated")
        if len(self.stable.classes) != len(self.canary.classes):
            raise ValueError("both versions must have the same classes")

    @property
    def requests(self) -> int:
        return sum(stage.requests for stage in self.stages)


@dataclass(frozen=True)
class Ends:
    """Where each run ended; arrays with an entry for each run.

    Args:
        requests: of the route, the one that decided among them; of the whole rollout where it was not rolled back.
        on_canary: those of them that the canary served.
        signal: the place in `signals` of the one that spoke loudest; -1 where the run was not rolled back.
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
    """Requests by what they came to; the leading axes are those of whoever asks.

    Args:
        kinds: shape (..., 2, 1 + classes): of stable and of the canary, errors first and then answers by class.
        slow: shape (..., 2): of stable and of the canary.
    """

    kinds: Ints
    slow: Ints

    def bets(self, signal: str) -> tuple[Ints, Ints]:
        """How many events each of a signal's processes won and lost, shape (..., processes) both."""
        errors, classes = self.kinds[..., 0], self.kinds[..., 1:]
        if signal == "mix":
            return classes[..., CANARY, :], classes[..., STABLE, :]
        if signal == "limit":
            return errors[..., CANARY, None], classes[..., CANARY, :].sum(-1)[..., None]
        events = errors if signal == "errors" else self.slow
        return events[..., CANARY, None], events[..., STABLE, None]


@dataclass(frozen=True)
class Signal:
    """One kind of evidence: an average of processes, each an average of products of factors.

    Args:
        share: of the average of all signals.
        processes: of which events are simulated.
        idle: processes that no event reaches, so that their e-value stays 1.
        rates: that each process is averaged over: ratios of the canary's rate, or rates above `allowed`.
        allowed: None where the signal compares with stable.
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
        """Logarithms of the factor of an event that is won, and of one that is lost, for each rate."""
        if self.allowed is not None:
            return np.log(self.rates / self.allowed), np.log1p(-self.rates) - np.log1p(-self.allowed)
        lost = -np.log1p(weight / TOTAL * (self.rates - 1))
        return np.log(self.rates) + lost, lost

    def part(self, logs: Floats) -> Floats:
        """What the signal adds to the average of e-values; the last two axes of `logs` are gone."""
        with np.errstate(over="ignore"):
            values = np.exp(logs).mean(-1).sum(-1)
        found: Floats = self.share * (values + self.idle) / (self.processes + self.idle)
        return found


def signals_of(rollout: Rollout) -> tuple[Signal, ...]:
    """The policy's signals in its order, the limit last, with the rates that the judge's evidence is made of."""
    evidence = no_evidence(rollout.policy, [str(number) for number in range(len(rollout.stable.classes))])
    classes = len(rollout.stable.classes)
    [mix_ratios] = {process.ratios for process in evidence.mix.values()}
    known = {
        "errors": (1, 0, evidence.errors.ratios, None),
        "slow": (1, 0, evidence.slow.ratios, None),
        "mix": (classes, len(evidence.mix) - classes, mix_ratios, None),
        "limit": (1, 0, rates_above(evidence.limit.allowed), evidence.limit.allowed),
    }
    found = []
    for name, share in rollout.policy.shares.items():
        processes, idle, rates, allowed = known[name]
        found.append(Signal(name, share, processes, idle, np.array(rates), allowed))
    return tuple(found)


def grown(logs: Floats, bets: tuple[Ints, Ints], factors: tuple[Floats, Floats]) -> Floats:
    """Logarithms of the products after these events."""
    won, lost = bets
    after: Floats = logs + won[..., None] * factors[0] + lost[..., None] * factors[1]
    return after


def bound(signals: Sequence[Signal], logs: Sequence[Floats], counts: Counts, weight: int) -> Floats:
    """The average of e-values is nowhere above this while these requests come, in whichever order."""
    found = np.zeros(counts.slow.shape[0])
    for signal, before in zip(signals, logs, strict=True):
        won, lost = signal.factors(weight)
        best = np.maximum(won, 0), np.maximum(lost, 0)
        found += signal.part(grown(before, counts.bets(signal.name), best))
    return found


def parts_after_each(signals: Sequence[Signal], logs: Sequence[Floats], counts: Counts, weight: int) -> Floats:
    """What each signal adds to the average of e-values after each request, shape (signals, runs, requests).

    Args:
        counts: axes (runs, requests): all that has come up to each request.
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
        classes = chance.multinomial(served - errors, version.classes)
        kinds.append(np.concatenate([errors[:, None], classes], axis=1))
        slow.append(chance.binomial(served, version.slow))
    return Counts(np.stack(kinds, axis=1), np.stack(slow, axis=1))


def in_order(chance: np.random.Generator, counts: Counts) -> Counts:
    """The same requests one after the other in a random order, axes (runs, requests): all that came up to each."""
    runs, _, kinds = counts.kinds.shape
    cells = counts.kinds.reshape(runs, -1)
    requests = int(cells[0].sum())
    cell = np.repeat(np.tile(np.arange(cells.shape[1]), runs), cells.ravel()).reshape(runs, requests)
    track = cell // kinds
    # which ones of a version are slow does not depend on what else they are
    place = (chance.random((runs, requests)) + track).argsort(axis=1).argsort(axis=1)
    first = np.where(track == CANARY, counts.kinds[:, STABLE].sum(axis=1)[:, None], 0)
    is_slow = place - first < np.take_along_axis(counts.slow, track, axis=1)
    coded = chance.permuted(2 * cell + is_slow, axis=1)
    return cumulated(coded // 2, coded % 2 == 1, kinds)


def cumulated(cell: Ints, is_slow: NDArray[np.bool_], kinds: int) -> Counts:
    """Counts up to each request.

    Args:
        cell: shape (runs, requests): `kinds` times the version, and on it 0 for an error or 1 and up for a class.
        kinds: one more than there are classes.
    """
    each = (cell[..., None] == np.arange(2 * kinds)).cumsum(axis=1)
    slow = (is_slow[..., None] & ((cell // kinds)[..., None] == np.arange(2))).cumsum(axis=1)
    return Counts(each.reshape(*cell.shape, 2, kinds), slow)


def simulate(rollout: Rollout, runs: int, seed: int) -> Ends:
    """So many rollouts, each until it is rolled back or its stages are over; the same for the same seed anywhere."""
    sizes = [min(TOGETHER, runs - done) for done in range(0, runs, TOGETHER)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # numpy computes outside the interpreter's lock
        found = list(pool.map(_together, [rollout] * len(sizes), sizes, seeds))
    requests, on_canary, loudest = (np.concatenate(column) for column in zip(*found, strict=True))
    return Ends(requests, on_canary, loudest, tuple(signal.name for signal in signals_of(rollout)))


def _together(rollout: Rollout, runs: int, seed: np.random.SeedSequence) -> tuple[Ints, Ints, Ints]:
    """The first three of Ends."""
    chance = np.random.default_rng(seed)
    signals = signals_of(rollout)
    threshold = 1 / rollout.policy.alpha
    logs = [signal.start(runs) for signal in signals]
    left = np.arange(runs)  # the runs that go on; `logs` has a row for each
    requests, on_canary, loudest = np.zeros(runs, int), np.zeros(runs, int), np.full(runs, -1)
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
            loudest[left[rows[over]]] = parts[:, over, at].argmax(axis=0)
        requests[left] += came
        on_canary[left] += served
        goes_on = loudest[left] < 0
        logs = [
            grown(before, counts.bets(signal.name), signal.factors(weight))[goes_on]
            for signal, before in zip(signals, logs, strict=True)
        ]
        left = left[goes_on]
    return requests, on_canary, loudest


def _first(is_reached: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The rows in which something is true, and the first place of it in each."""
    rows = np.flatnonzero(is_reached.any(axis=1))
    return rows, is_reached[rows].argmax(axis=1)


def _blocks(stages: Sequence[Stage]) -> Iterator[tuple[int, int]]:
    """Weight and number of requests of each block; small ones first, while every ratio still has a say."""
    for stage in stages:
        done = 0
        while done < stage.requests:
            size = min(BLOCK, FIRST_BLOCK + done, stage.requests - done)
            yield stage.weight, size
            done += size
