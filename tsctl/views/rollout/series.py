"""Collects a rollout over time from its journal, thinned for plots. Pure.

Invariant: nothing here is judged anew; counts and e-values come from the ticks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.events import (
    CommandReceived,
    Entry,
    PolicyChanged,
    Reopened,
    Tick,
    VerdictReached,
)
from tsctl.rollout.decide.evidence import OutcomeCounts
from tsctl.rollout.decide.judge import AVERAGE, Verdict, log_e_values
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.wording import LN_10

#: Most points of a plot; a screen has not many more columns.
MOST_POINTS = 240


@dataclass(frozen=True)
class Point:
    """The evidence after one tick.

    Args:
        at: seconds since the rollout began.
        stable: counts since the rollout or its present policy began, as they are judged; so is `canary`.
        requests: of stable and of the canary since the rollout began.
        powers: logarithm to base ten of each signal's e-value; `average` is that of their weighted average.
    """

    at: float
    stable: OutcomeCounts
    canary: OutcomeCounts
    requests: tuple[int, int]
    powers: Mapping[str, float]
    average: float
    policy: RolloutPolicy

    @property
    def threshold(self) -> float:
        """Logarithm to base ten of the average at which the canary fails."""
        return -log(self.policy.alpha) / LN_10


@dataclass(frozen=True)
class Series:
    """A rollout over time; all times are seconds since it began.

    Args:
        end: time of the last entry.
        weights: of the canary, each in force from its time on.
        waits: begin and end of each period in which something was unavailable.
        marks: time of each decision, and whether it was a fail.
    """

    end: float
    points: tuple[Point, ...]
    weights: tuple[tuple[float, int], ...]
    waits: tuple[tuple[float, float], ...]
    marks: tuple[tuple[float, bool], ...]


class Recorder:
    """Collects the series while a journal is folded."""

    def __init__(self) -> None:
        self._end = 0.0
        self._points: list[Point] = []
        self._requests = 0, 0
        self._weights: list[tuple[float, int]] = []
        self._waits: list[tuple[float, float]] = []
        self._wait_begin: float | None = None
        self._marks: list[tuple[float, bool]] = []

    def add(self, entry: Entry, state: State) -> None:
        """Add one more entry, and the state after it."""
        at = self._end = entry.at - state.started_at
        if not self._weights or self._weights[-1][1] != state.in_force:
            self._weights.append((at, state.in_force))
        match entry.event:
            case VerdictReached(verdict=verdict):
                self._marks.append((at, verdict is Verdict.FAIL))
            case CommandReceived() | PolicyChanged() | Reopened():
                self._marks.append((at, False))
            case Tick() as tick:
                self._add_tick(tick, state)
        if state.waits_for and self._wait_begin is None:
            self._wait_begin = at
        elif not state.waits_for and self._wait_begin is not None:
            self._waits.append((self._wait_begin, at))
            self._wait_begin = None

    def _add_tick(self, tick: Tick, state: State) -> None:
        stable, canary = tick.requests
        self._requests = self._requests[0] + stable, self._requests[1] + canary
        log_e = tick.log_e or log_e_values(state.policy, state.evidence)  # journals of format 0 record none
        powers = {name: log_e[name] / LN_10 for name in state.policy.shares}
        average = log_e[AVERAGE] / LN_10
        evidence = state.evidence
        self._points.append(
            Point(self._end, evidence.stable, evidence.canary, self._requests, powers, average, state.policy)
        )

    def series(self, most: int = MOST_POINTS) -> Series:
        """Return the series so far, with at most this many points.

        Raises:
            ValueError: nothing was added, or `most` is too small to keep what must be kept.
        """
        if not self._weights:
            raise ValueError("a rollout's journal begins with its start")
        kept = thinned([(point.average, *point.powers.values()) for point in self._points], most)
        points = tuple(self._points[place] for place in kept)
        still_waits = [] if self._wait_begin is None else [(self._wait_begin, self._end)]
        return Series(self._end, points, tuple(self._weights), (*self._waits, *still_waits), tuple(self._marks))


def thinned(rows: Sequence[Sequence[float]], most: int) -> list[int]:
    """Places of at most `most` rows that show the shape of all rows, in order.

    Kept are the first and the last row, those with the smallest and the largest value of every column, and, from equal
    parts of the rest, those with the smallest and the largest value of the first column. A row without a column
    (another policy, other signals) counts as 0 there.

    Raises:
        ValueError: `most` is smaller than two for the ends and two for each column.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    columns = max(len(row) for row in rows)
    if most < 2 + 2 * columns:
        raise ValueError(f"{columns} columns need at least {2 + 2 * columns} rows, found {most}")

    def extremes(places: Sequence[int], column: int) -> set[int]:
        values = {place: rows[place][column] if column < len(rows[place]) else 0.0 for place in places}
        return {min(places, key=values.__getitem__), max(places, key=values.__getitem__)}

    places = range(len(rows))
    kept = {0, len(rows) - 1}
    for column in range(columns):
        kept |= extremes(places, column)
    parts = (most - len(kept)) // 2
    for part in range(parts):
        kept |= extremes(places[len(rows) * part // parts : len(rows) * (part + 1) // parts], 0)
    return sorted(kept)
