"""What a comparison measured, as a document that is written to a file and shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tsctl.compare.load.figures import LoadFigures, OverloadFigures
from tsctl.compare.statistics import Spread, spread

#: Shares of its own capacity at which the open loop loads each engine.
LOAD_SHARES = (0.5, 0.8)


@dataclass(frozen=True)
class Turn:
    """One engine in one round."""

    ready_s: float  # from the start of its process until the version was ready
    first_ms: float  # the first request after that
    lone: LoadFigures  # one connection, one request after the other
    saturated: LoadFigures  # closed loop
    open_loops: Mapping[float, LoadFigures]  # by the share of the capacity that was offered
    cpu_s_per_1000: float  # processor time of all of its processes, at saturation
    memory_bytes: int  # of all of its processes, after the loads
    is_proportional: bool  # whether a page that several processes share is counted once
    overload: OverloadFigures | None = None

    @property
    def first_answer_s(self) -> float:
        """The whole cold start: from the start of the process until the first answer."""
        return self.ready_s + self.first_ms / 1000

    @property
    def capacity_s(self) -> float:
        """Requests/s at saturation."""
        return self.saturated.answered_s

    @property
    def loads(self) -> list[LoadFigures]:
        """Every load that can be compared with a limit of latency, the lightest first: the open loops.

        A closed loop sends nothing while the engine stalls, so its p99 has one slow request of each connection in place
        of all that clients would have sent (coordinated omission).
        """
        return [self.open_loops[share] for share in sorted(self.open_loops)]

    def within(self, p99_ms: float) -> float:
        """The most requests/s of an open loop that were answered with at most this p99; 0 where no load was."""
        return max((load.answered_s for load in self.loads if load.p99_ms <= p99_ms), default=0.0)


@dataclass(frozen=True)
class Measured:
    """One engine."""

    name: str
    turns: tuple[Turn, ...] = ()
    why_not: str = ""  # why it was not measured, or not to the end
    difference: str = ""  # how its answers differ from those of the archive; empty where they do not

    @property
    def title(self) -> str:
        """The name, marked where the figures beside it must not be compared with those of others."""
        mark = " (answers differ)" if self.difference else " (failed)" if self.why_not else ""
        return f"{self.name}{mark}"

    @property
    def is_comparable(self) -> bool:
        """Whether it was measured in every round, and answers as the archive does."""
        return bool(self.turns) and not self.why_not and not self.difference

    def over_rounds(self, figure: Callable[[Turn], float | None]) -> Spread | None:
        """Median and spread of a figure; None where no round has it."""
        return spread(value for turn in self.turns if (value := figure(turn)) is not None)


@dataclass(frozen=True)
class Bare:
    """The archive's worker in a loop without a server, with full batches, in as many processes as there are workers."""

    requests_s: tuple[float, ...] = ()  # in each round
    lone_ms: tuple[float, ...] = ()  # the median of a batch of one
    why_not: str = ""

    @property
    def speed(self) -> Spread | None:
        return spread(self.requests_s)

    @property
    def lone(self) -> Spread | None:
        return spread(self.lone_ms)


@dataclass(frozen=True)
class Setting:
    """What was compared, and how."""

    model: str
    version: str
    digest: str
    source: str  # where the requests come from
    requests: int  # different ones, which are sent in turn
    request_bytes: int  # of their bodies, on average
    workers: int
    batch: int
    has_cache: bool
    rounds: int
    seconds: float
    slo_p99_ms: float | None
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found."""

    setting: Setting
    bare: Bare
    engines: tuple[Measured, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values; an infinite number of milliseconds is null."""
        document = _json(asdict(self))
        for engine, measured in zip(document["engines"], self.engines, strict=True):
            engine["medians"] = medians(measured)
        return dict(document)


def medians(engine: Measured) -> dict[str, float | None]:
    """The figures of one engine by name, each the median of its rounds."""
    figures: dict[str, Callable[[Turn], float | None]] = {
        "requests_s": lambda turn: turn.capacity_s,
        "saturated_p99_ms": lambda turn: turn.saturated.p99_ms,
        **{f"p99_ms_at_{share:.0%}": _p99_at(share) for share in LOAD_SHARES},
        "lone_p50_ms": lambda turn: turn.lone.p50_ms,
        "ready_s": lambda turn: turn.ready_s,
        "first_request_ms": lambda turn: turn.first_ms,
        "first_answer_s": lambda turn: turn.first_answer_s,
        "cpu_s_per_1000": lambda turn: turn.cpu_s_per_1000,
        "memory_bytes": lambda turn: turn.memory_bytes,
    }
    found = {name: engine.over_rounds(figure) for name, figure in figures.items()}
    return {name: _json(rounds.median) if rounds else None for name, rounds in found.items()}


def _p99_at(share: float) -> Callable[[Turn], float | None]:
    return lambda turn: turn.open_loops[share].p99_ms if share in turn.open_loops else None


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
