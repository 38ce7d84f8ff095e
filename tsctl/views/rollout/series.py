"""What a rollout's journal tells over time, thinned for plots. Pure.

Invariant: nothing here was stored; every number is folded from the counts in the ticks, as the judge folds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.events import (
    CommandReceived,
    Effect,
    EffectDone,
    Ended,
    Entry,
    PolicyChanged,
    Reopened,
    StepBegan,
    Tick,
    VerdictReached,
    Waiting,
)
from tsctl.rollout.decide.evidence import Seen
from tsctl.rollout.decide.judge import AVERAGE, Rate, log_e_values, rate_of
from tsctl.rollout.decide.state import State, after
from tsctl.views.rollout.wording import LN_10

#: What a plot is given; a screen has not many more columns that differ.
MOST_POINTS = 240


@dataclass(frozen=True)
class Side:
    """One version after a tick.

    Args:
        requests: since the rollout began, whatever the policy was.
        errors: since the rollout or its present policy began, as they are judged; so is slow.
    """

    requests: int
    errors: Rate
    slow: Rate


@dataclass(frozen=True)
class Point:
    """What was known after one tick; e-values and their threshold, 1 / alpha, are logarithms to base ten."""

    at: float  # seconds since 1970
    weight: int  # of the canary, in hundredths of a percent
    stable: Side
    canary: Side
    logs: Mapping[str, float]  # by signal
    average: float
    threshold: float
    max_error_rate: float  # that the policy allows


@dataclass(frozen=True)
class Span:
    """A time in which the rollout held because something was away."""

    begin: float
    end: float
    why: str


@dataclass(frozen=True)
class Mark:
    """A moment in which something was decided."""

    at: float
    kind: str  # of the entry
    text: str


@dataclass(frozen=True)
class Series:
    """A rollout over time.

    Args:
        begin: of the journal; seconds since 1970, as is the end.
        end: of the journal's last entry.
        points: in the order of time.
        weights: of the canary, each in force from its time on.
    """

    begin: float
    end: float
    points: tuple[Point, ...]
    weights: tuple[tuple[float, int], ...]
    waits: tuple[Span, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class _Tick:
    """A point whose intervals are not computed yet: they cost more than all the rest."""

    at: float
    weight: int
    stable: Seen
    canary: Seen
    requests: tuple[int, int]
    logs: Mapping[str, float]
    average: float
    policy: RolloutPolicy

    @property
    def columns(self) -> tuple[float, ...]:
        """What may not lose its extremes."""
        return (self.average, *self.logs.values())


def series(entries: Iterable[Entry], most: int = MOST_POINTS) -> Series:
    """The rollout over time, of which at most so many points are kept.

    Raises:
        ValueError: the journal does not begin with a start, or `most` is too small to keep what must be kept.
    """
    recorder, state = Recorder(), None
    for entry in entries:
        state = after(state, entry)
        recorder.add(entry, state)
    return recorder.series(most)


class Recorder:
    """Collects what a rollout was over time while somebody folds its journal."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._ticks: list[_Tick] = []
        self._requests = (0, 0)

    def add(self, entry: Entry, state: State) -> None:
        """One more entry, and the state after it."""
        self._entries.append(entry)
        if not isinstance(entry.event, Tick):
            return
        stable, canary = _requests(entry.event)
        self._requests = self._requests[0] + stable, self._requests[1] + canary
        log_e = entry.event.log_e or log_e_values(state.policy, state.evidence)  # journals of format 0 record none
        self._ticks.append(
            _Tick(
                entry.at,
                state.weight,
                state.evidence.stable,
                state.evidence.canary,
                self._requests,
                {name: log_e[name] / LN_10 for name in state.policy.shares},
                log_e[AVERAGE] / LN_10,
                state.policy,
            )
        )

    def series(self, most: int = MOST_POINTS) -> Series:
        """What was added so far; raises as `series` does."""
        entries = self._entries
        if not entries:
            raise ValueError("a rollout's journal begins with its start")
        kept = thinned([tick.columns for tick in self._ticks], most)
        return Series(
            entries[0].at,
            entries[-1].at,
            tuple(_point(self._ticks[place]) for place in kept),
            tuple(_weights(entries)),
            tuple(waits(entries)),
            tuple(_marks(entries)),
        )


def thinned(rows: Sequence[Sequence[float]], most: int) -> list[int]:
    """Places of at most `most` rows that show what all of them show, in order.

    Kept are the first and the last row, those with the smallest and the largest value of every column, and, from equal
    parts of the rest, those with the smallest and the largest value of the first column. A row that lacks a column
    (another policy, other signals) counts as 0 there.

    Raises:
        ValueError: `most` is smaller than two for the ends and two for each column.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    columns = max(len(row) for row in rows)
    if most < 2 + 2 * columns:
        raise ValueError(f"{columns} columns need at least {2 + 2 * columns} rows, found {most}")

    def value(place: int, column: int) -> float:
        return rows[place][column] if column < len(rows[place]) else 0.0

    def extremes(places: Sequence[int], column: int) -> set[int]:
        return {min(places, key=lambda p: value(p, column)), max(places, key=lambda p: value(p, column))}

    everything = range(len(rows))
    kept = {0, len(rows) - 1}
    for column in range(columns):
        kept |= extremes(everything, column)
    parts = (most - len(kept)) // 2
    for part in range(parts):
        kept |= extremes(everything[len(rows) * part // parts : len(rows) * (part + 1) // parts], 0)
    return sorted(kept)


def requests_of(entries: Iterable[Entry]) -> tuple[int, int]:
    """Requests of stable and of the canary that all ticks together saw."""
    stable = canary = 0
    for entry in entries:
        if isinstance(entry.event, Tick):
            more = _requests(entry.event)
            stable, canary = stable + more[0], canary + more[1]
    return stable, canary


def waits(entries: Sequence[Entry]) -> Iterator[Span]:
    """Every time in which the rollout waited; a wait that goes on ends with the journal."""
    begin, why = 0.0, ""
    for entry in entries:
        if isinstance(entry.event, Waiting):
            if why and why != entry.event.why:
                yield Span(begin, entry.at, why)
                why = ""
            begin, why = (begin if why else entry.at), entry.event.why
        elif why and ends_wait(entry):
            yield Span(begin, entry.at, why)
            why = ""
    if why:
        yield Span(begin, entries[-1].at, why)


def ends_wait(entry: Entry) -> bool:
    """Whether the entry ends a wait; a tick without hold time adds counts, and the wait goes on."""
    match entry.event:
        case Tick(held_s=held_s):
            return held_s > 0
        case EffectDone() | StepBegan() | PolicyChanged() | VerdictReached() | Ended():
            return True
    return False


def _requests(tick: Tick) -> tuple[int, int]:
    return sum(window.stable.requests for window in tick.windows), sum(w.canary.requests for w in tick.windows)


def _point(tick: _Tick) -> Point:
    alpha = tick.policy.alpha
    stable, canary = (
        Side(
            requests,
            rate_of(seen.errors, seen.requests, alpha),
            rate_of(seen.slow, seen.requests, alpha),
        )
        for requests, seen in zip(tick.requests, (tick.stable, tick.canary), strict=True)
    )
    threshold = -log(alpha) / LN_10
    return Point(tick.at, tick.weight, stable, canary, tick.logs, tick.average, threshold, tick.policy.max_error_rate)


def _weights(entries: Iterable[Entry]) -> Iterator[tuple[float, int]]:
    """A decided weight is in force once SET_WEIGHT is done."""
    decided = 0
    for number, entry in enumerate(entries):
        if not number:
            yield entry.at, 0
        match entry.event:
            case StepBegan(weight=weight):
                decided = weight
            case EffectDone(effect=Effect.SET_WEIGHT):
                yield entry.at, decided
            case EffectDone(effect=Effect.REVERT_WEIGHT):
                yield entry.at, 0


def _marks(entries: Iterable[Entry]) -> Iterator[Mark]:
    for entry in entries:
        match entry.event:
            case VerdictReached(verdict=verdict):
                yield Mark(entry.at, entry.kind, verdict)
            case CommandReceived(command=command):
                yield Mark(entry.at, entry.kind, command)
            case PolicyChanged():
                yield Mark(entry.at, entry.kind, "policy edited")
            case Reopened():
                yield Mark(entry.at, entry.kind, "rollback of the promotion")
