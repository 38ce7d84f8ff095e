"""What an axis of growth measured: curves over one number that grows, such as versions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.harness.figures import Figure, Goal, Result


@dataclass(frozen=True)
class Point:
    """One place on a curve."""

    x: float
    rounds: tuple[float, ...]  # at least one value

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return median(self.rounds)


@dataclass(frozen=True)
class Curve:
    """One measure over the number that grows."""

    plot: str  # curves of one axis with the same one are drawn together, so they share a unit
    name: str
    unit: str
    points: tuple[Point, ...]  # by x

    @property
    def places(self) -> list[tuple[float, float]]:
        """Number and median of every point."""
        return [(point.x, point.value) for point in self.points]


@dataclass(frozen=True)
class Growth(Result):
    """One axis: a workload whose figures are curves."""

    x: str = ""  # of what there are more and more, in the plural
    curves: tuple[Curve, ...] = ()


class Collected:
    """Gathers values into curves, in the order in which their names first come."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[float, list[float]]] = {}

    def add(self, plot: str, unit: str, x: float, values: Mapping[str, float]) -> None:
        """One more round of these curves at `x`."""
        for name, value in values.items():
            self._kinds[name] = plot, unit
            self._values.setdefault(name, {}).setdefault(x, []).append(round(value, 4))

    def curves(self) -> tuple[Curve, ...]:
        return tuple(
            Curve(*_placed(name, self._kinds[name]), tuple(Point(x, tuple(of[x])) for x in sorted(of)))
            for name, of in self._values.items()
        )


def _placed(name: str, kind: tuple[str, str]) -> tuple[str, str, str]:
    plot, unit = kind
    return plot, name, unit


def of_smallest(curve: Curve) -> Curve:
    """The curve as multiples of its first point, round by round where both have as many rounds."""
    first = curve.points[0]
    points = []
    for point in curve.points:
        bases = first.rounds if len(first.rounds) == len(point.rounds) else (first.value,) * len(point.rounds)
        points.append(Point(point.x, tuple(a / b for a, b in zip(point.rounds, bases, strict=True))))
    return Curve(curve.plot, curve.name, "times", tuple(points))


def growths_of(document: Mapping[str, Any]) -> list[Growth]:
    """The axes in a document that `run_workloads` wrote."""
    return [_growth(workload) for workload in document["workloads"]]


def _growth(workload: Mapping[str, Any]) -> Growth:
    return Growth(
        key=workload["key"],
        title=workload["title"],
        settings=dict(workload["settings"]),
        targets={},
        figures=[_figure(figure) for figure in workload["figures"]],
        notes=tuple(workload["notes"]),
        x=workload["x"],
        curves=tuple(_curve(curve) for curve in workload["curves"]),
    )


def _figure(content: Mapping[str, Any]) -> Figure:
    goal = Goal(**content["goal"]) if content["goal"] is not None else None
    return Figure(
        content["name"], content["unit"], tuple(content["rounds"]), goal, content["failed"], content["why_not"]
    )


def _curve(content: Mapping[str, Any]) -> Curve:
    points: Iterable[Mapping[str, Any]] = content["points"]
    return Curve(
        content["plot"],
        content["name"],
        content["unit"],
        tuple(Point(point["x"], tuple(point["rounds"])) for point in points),
    )


def plots_of(growth: Growth) -> dict[str, Sequence[Curve]]:
    """The curves that are drawn together, by the plot's name."""
    drawn: dict[str, list[Curve]] = {}
    for curve in growth.curves:
        drawn.setdefault(curve.plot, []).append(curve)
    return dict(drawn)
