"""The figures of a run: medians over rounds, ratios taken inside a round, and whether a goal is reached.

On a machine that does other work meanwhile, a round is slow for all targets alike. So a ratio is taken inside each
round, and the figure is the median of these ratios, not the ratio of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One target in one round under load."""

    requests_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    failed: int = 0
    #: Microseconds of processor time per request of the processes called `workers`, `server` and `load`.
    cpu_us: dict[str, float] | None = None


@dataclass(frozen=True)
class Goal:
    """What a figure should be."""

    value: float
    is_ceiling: bool = False  # True: at most this; False: at least this

    def __str__(self) -> str:
        return f"{'<=' if self.is_ceiling else '>='} {self.value:,g}"


@dataclass(frozen=True)
class Figure:
    """A number that a workload measures."""

    name: str
    unit: str
    rounds: tuple[float, ...]  # its value in each round; empty where it was not measured
    goal: Goal | None = None  # None: for comparison only
    failed: int = 0  # requests that failed meanwhile
    why_not: str = ""  # why it was not measured

    @property
    def value(self) -> float | None:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; never where requests failed; None without a goal or a value."""
        if self.goal is None or self.value is None:
            return None
        holds = self.value <= self.goal.value if self.goal.is_ceiling else self.value >= self.goal.value
        return holds and not self.failed

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "is_reached": self.is_reached}


@dataclass(frozen=True)
class Result:
    """One workload."""

    key: str
    title: str
    settings: dict[str, Any]  # what was sent, to what, how
    targets: dict[str, list[Turn]]
    figures: list[Figure]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "figures": [figure.as_json() for figure in self.figures]}


def rate(name: str, turns: Sequence[Turn], goal: Goal | None = None) -> Figure:
    """Requests/s of one target."""
    return Figure(name, "requests/s", tuple(turn.requests_s for turn in turns), goal, failures(turns))


def times(name: str, turns: Sequence[Turn], others: Sequence[Turn], goal: Goal | None = None) -> Figure:
    """Requests/s of the first target as a multiple of the second's, round by round.

    Raises:
        ValueError: they were not measured in the same number of rounds.
    """
    ratios = tuple(turn.requests_s / other.requests_s for turn, other in zip(turns, others, strict=True))
    return Figure(name, "times", ratios, goal, failures([*turns, *others]))


def fastest(targets: dict[str, list[Turn]]) -> str:
    """The target with the highest median; one lucky round does not decide."""
    return max(targets, key=lambda name: statistics.median(turn.requests_s for turn in targets[name]))


def median_turn(turns: Sequence[Turn]) -> Turn:
    """Each number's median over the rounds, and the sum of all failures."""
    kinds = dict.fromkeys(kind for turn in turns for kind in turn.cpu_us or {})
    cpu = {kind: statistics.median((turn.cpu_us or {}).get(kind, 0.0) for turn in turns) for kind in kinds}
    return Turn(
        requests_s=statistics.median(turn.requests_s for turn in turns),
        p50_ms=_median([turn.p50_ms for turn in turns]),
        p99_ms=_median([turn.p99_ms for turn in turns]),
        failed=failures(turns),
        cpu_us=cpu or None,
    )


def failures(turns: Sequence[Turn]) -> int:
    """Failed requests in all rounds."""
    return sum(turn.failed for turn in turns)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
