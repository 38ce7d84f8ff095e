"""A grid that was measured: every point of a model with its goodput in each pass, as a file."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tsctl.errors import AnalysisError
from tsctl.tune.objective import Score
from tsctl.tune.space import Settings, Space

DATA = Path(__file__).with_name("data")
#: Noise of one measurement where there was one pass only, as a standard deviation of the goodput's logarithm.
UNKNOWN_NOISE = 0.05


@dataclass(frozen=True)
class Point:
    """One combination; an invalid one has a reason and no scores."""

    settings: Settings
    scores: tuple[Score, ...] = ()  # one of each pass
    reason: str = ""

    @property
    def goodput_s(self) -> float:
        """The median of the passes; 0 of an invalid one."""
        return statistics.median(score.goodput_s for score in self.scores) if self.scores else 0.0

    @property
    def p99_ms(self) -> float:
        """The median of the passes."""
        return statistics.median(score.p99_ms for score in self.scores) if self.scores else math.inf


@dataclass(frozen=True)
class Table:
    """The grid of one model.

    Args:
        head: model, archive, limit and machine; passes of another head do not belong to it.
    """

    space: Space
    points: Mapping[Settings, Point]
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Point:
        """The point with the most goodput."""
        return max(self.points.values(), key=lambda point: point.goodput_s)

    @property
    def passes(self) -> int:
        """How often each valid point was measured."""
        return min((len(point.scores) for point in self.points.values() if not point.reason), default=0)

    @property
    def noise(self) -> float:
        """Standard deviation of the logarithm of one measurement's goodput, robust against a stall of the machine.

        A normal distribution's is 1.4826 times its median absolute deviation; two passes of one point lie apart by the
        square root of two times as much as one lies from its mean.
        """
        apart = [
            math.log(one.goodput_s / other.goodput_s)
            for point in self.points.values()
            for one, other in zip(point.scores, point.scores[1:], strict=False)
            if one.goodput_s > 0 and other.goodput_s > 0
        ]
        if not apart:
            return UNKNOWN_NOISE
        middle = statistics.median(apart)
        return 1.4826 * statistics.median(abs(each - middle) for each in apart) / math.sqrt(2)

    @property
    def others(self) -> float:
        """Share of the machine that other programs took, the median of all measurements."""
        shares = [score.others for point in self.points.values() for score in point.scores]
        return statistics.median(shares) if shares else 0.0

    def with_pass(self, scores: Mapping[Settings, Score], reasons: Mapping[Settings, str]) -> Table:
        """The table with one pass more."""
        points = {
            settings: Point(
                settings,
                (*point.scores, *([scores[settings]] if settings in scores else [])),
                reasons.get(settings, point.reason),
            )
            for settings, point in self.points.items()
        }
        return Table(self.space, points, self.head)


def empty(space: Space, head: Mapping[str, Any]) -> Table:
    """A table before its first pass."""
    return Table(space, {settings: Point(settings) for settings in space.points()}, head)


def path_of(model: str, folder: Path = DATA) -> Path:
    """The file of a model's table."""
    return folder / f"{model}.json"


def write(path: Path, table: Table) -> None:
    """Write the table, a point a line."""
    space = asdict(table.space)
    lines = ",\n".join(
        json.dumps(
            {**asdict(point), "scores": [_rounded(score.as_json()) for score in point.scores]}, separators=(",", ":")
        )
        for point in table.points.values()
    )
    head = json.dumps({"head": table.head, "space": space}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head.removesuffix("}").rstrip()},\n "points": [\n{lines}\n]}}\n', encoding="utf-8")


def read(path: Path) -> Table:
    """The table in a file.

    Raises:
        AnalysisError: there is none, or it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        space = content["space"]
        made = Space(
            Settings(**space["present"]),
            tuple(space["engines"]),
            tuple(space["batches"]),
            tuple((workers, threads) for workers, threads in space["shapes"]),
            {engine: tuple(delays) for engine, delays in space["delays"].items()},
            tuple(space["compiles"]),
            tuple(space["dtypes"]),
            space["fixed"],
        )
        points = [
            Point(Settings(**each["settings"]), tuple(map(Score.from_json, each["scores"])), each["reason"])
            for each in content["points"]
        ]
        return Table(made, {point.settings: point for point in points}, content["head"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AnalysisError(f"{path} is no table of a grid: {error}", "Measure it: make bench-tune.") from None


def _rounded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Four digits are more than a load measures."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in content.items()}
