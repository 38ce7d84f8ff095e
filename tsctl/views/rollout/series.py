"""Collects a rollout over time from its journal, thinned for plots. Pure.

Invariant: nothing here is judged anew; counts and e-values come from the ticks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.events import Entry, Tick, VerdictReached
from tsctl.rollout.decide.interventions import CommandReceived, PolicyChanged, Reopened, StickyChanged
from tsctl.rollout.decide.judge import AVERAGE, Verdict, log_e_values
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.views.rollout.wording import LN_10

#: Most points of a plot; a screen has not many more columns.
MOST_POINTS = 240


@dataclass(frozen=True)
class Point:
    """The evidence after one tick."""

    at: float  # seconds since the rollout began
    stable: OutcomeCounts  # since the rollout or its present policy began, as they are judged; so is `canary`
    canary: OutcomeCounts
    requests: tuple[int, int]  # of stable and of the canary since the rollout began
    powers: Mapping[str, float]  # logarithm to base ten of each signal's e-value, and of their average under AVERAGE
    policy: RolloutPolicy

    @property
    def threshold(self) -> float:
        """Logarithm to base ten of the average at which the canary fails."""
        return -log(self.policy.alpha) / LN_10


class Series:
    """A rollout over time, collected while its journal is folded; all times are seconds since it began.

    Attributes:
        end: time of the last entry.
        weights: of the canary, each in force from its time on.
        waits: begin and end of each period in which something was unavailable.
        marks: time of each decision, and whether it was a fail.
    """

    def __init__(self) -> None:
        self.end = 0.0
        self.weights: list[tuple[float, int]] = []
        self.waits: list[tuple[float, float]] = []
        self.marks: list[tuple[float, bool]] = []
        self._points: list[Point] = []
        self._requests = 0, 0
        self._is_waiting = False

    def add(self, entry: Entry, state: State) -> None:
        """Add one more entry, and the state after it."""
        self.end = entry.at - state.started_at
        if not self.weights or self.weights[-1][1] != state.in_force:
            self.weights.append((self.end, state.in_force))
        if self._is_waiting:
            self.waits[-1] = (self.waits[-1][0], self.end)
        elif state.waits_for:
            self.waits.append((self.end, self.end))
        self._is_waiting = bool(state.waits_for)
        match entry.event:
            case VerdictReached(verdict=verdict):
                self.marks.append((self.end, verdict is Verdict.FAIL))
            case CommandReceived() | PolicyChanged() | StickyChanged() | Reopened():
                self.marks.append((self.end, False))
            case Tick() as tick:
                self._add_tick(tick, state)

    def _add_tick(self, tick: Tick, state: State) -> None:
        stable, canary = tick.requests
        self._requests = self._requests[0] + stable, self._requests[1] + canary
        log_e = tick.log_e or log_e_values(state.policy, state.evidence)  # journals of format 0 record none
        powers = {name: log_e[name] / LN_10 for name in (AVERAGE, *state.policy.shares)}
        evidence = state.evidence
        self._points.append(Point(self.end, evidence.stable, evidence.canary, self._requests, powers, state.policy))

    def points(self, most: int = MOST_POINTS) -> list[Point]:
        """Return the points in the order of time, thinned to at most so many."""
        names = list(dict.fromkeys(name for point in self._points for name in point.powers))  # AVERAGE first
        rows = [[point.powers.get(name, 0.0) for name in names] for point in self._points]
        return [self._points[place] for place in thinned(rows, most)]


def thinned(rows: Sequence[Sequence[float]], most: int) -> list[int]:
    """Places of at most `most` rows that show the shape of all rows, in order.

    Kept are the first and the last row, those with the smallest and the largest value of every column, and, from equal
    parts of the rest, those with the smallest and the largest value of the first column.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    kept = {0, len(rows) - 1}
    for column in range(len(rows[0])):
        kept |= _extremes(rows, range(len(rows)), column)
    parts = (most - len(kept)) // 2
    for part in range(parts):
        kept |= _extremes(rows, range(len(rows) * part // parts, len(rows) * (part + 1) // parts), 0)
    return sorted(kept)


def _extremes(rows: Sequence[Sequence[float]], places: Sequence[int], column: int) -> set[int]:
    ranked = sorted(places, key=lambda place: rows[place][column])
    return {ranked[0], ranked[-1]}
