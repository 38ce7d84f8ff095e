"""What a run comes to: medians over rounds, ratios taken inside a round, and whether a target is reached.

On a machine that does other work meanwhile, a round is slow for all ways alike. So a ratio is taken inside each round,
and the figure is the median of these ratios, not the ratio of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One way in one round under load."""

    requests_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    failed: int = 0
    #: Microseconds of processor time per request, by who took them: `workers`, `server`, `load`.
    cpu_us: dict[str, float] | None = None


@dataclass(frozen=True)
class Target:
    """What a figure should be."""

    value: float
    is_ceiling: bool = False  # True: at most this; False: at least this

    def __str__(self) -> str:
        return f"{'<=' if self.is_ceiling else '>='} {self.value:,g}"


@dataclass(frozen=True)
class Figure:
    """One number that a workload is run for."""

    name: str
    unit: str
    rounds: tuple[float, ...]  # its value in each round; none where it was not measured
    target: Target | None = None  # None: told for comparison only
    failed: int = 0  # requests that failed on the way to it
    why_not: str = ""  # why it was not measured

    @property
    def value(self) -> float | None:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; never where requests failed; None without a target or a value."""
        if self.target is None or self.value is None:
            return None
        holds = self.value <= self.target.value if self.target.is_ceiling else self.value >= self.target.value
        return holds and not self.failed

    def as_json(self) -> dict[str, Any]:
        target = None if self.target is None else asdict(self.target)
        return {**asdict(self), "target": target, "value": self.value, "is_reached": self.is_reached}


@dataclass(frozen=True)
class Result:
    """One workload."""

    key: str
    title: str
    settings: dict[str, Any]  # what was sent, to what, how
    ways: dict[str, list[Turn]]
    figures: list[Figure]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        figures = [figure.as_json() for figure in self.figures]
        ways = {name: [asdict(turn) for turn in turns] for name, turns in self.ways.items()}
        return {**asdict(self), "ways": ways, "figures": figures}


def rate(name: str, turns: Sequence[Turn], target: Target | None = None) -> Figure:
    """Requests a second of one way."""
    return Figure(name, "requests/s", tuple(turn.requests_s for turn in turns), target, _failed(turns))


def times(name: str, turns: Sequence[Turn], others: Sequence[Turn], target: Target | None = None) -> Figure:
    """How many times as many requests a second the first way answers as the second one, round by round.

    Raises:
        ValueError: they were not measured in the same number of rounds.
    """
    ratios = tuple(turn.requests_s / other.requests_s for turn, other in zip(turns, others, strict=True))
    return Figure(name, "times", ratios, target, _failed([*turns, *others]))


def fastest(ways: dict[str, list[Turn]]) -> str:
    """The way with the highest median; one lucky round does not decide."""
    return max(ways, key=lambda name: statistics.median(turn.requests_s for turn in ways[name]))


def median_turn(turns: Sequence[Turn]) -> Turn:
    """Each number's median over the rounds, and all failures together."""
    kinds = dict.fromkeys(kind for turn in turns for kind in turn.cpu_us or {})
    cpu = {kind: statistics.median((turn.cpu_us or {}).get(kind, 0.0) for turn in turns) for kind in kinds}
    return Turn(
        requests_s=statistics.median(turn.requests_s for turn in turns),
        p50_ms=_median([turn.p50_ms for turn in turns]),
        p99_ms=_median([turn.p99_ms for turn in turns]),
        failed=_failed(turns),
        cpu_us=cpu or None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _failed(turns: Sequence[Turn]) -> int:
    return sum(turn.failed for turn in turns)
