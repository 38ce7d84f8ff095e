"""The drift cases of a game day: what changes in the requests of a model, and what the alarm said. Pure."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tsctl.drift.detector import Watch
from tsctl.drift.reference import Counts

JSON, PNG = "application/json", "image/png"
#: A week of one item a minute, which must be silent, and the budget: 30 days of it.
WEEK, BUDGET = 7 * 24 * 60, 30 * 24 * 60
#: Items of the watch before a change begins, and after it at most.
BEFORE, AFTER = 1000, 2000
#: Items of a reading while nothing has changed; afterwards each item is read alone, so that the delay is exact.
READING = 60
#: Largest value of a pixel.
WHITE = 16


@dataclass(frozen=True)
class Query:
    """One request, by its body."""

    body: bytes
    media_type: str = JSON


#: Makes the next request of a row of reference data; gets all rows of the likeliest class 3 as well.
Change = Callable[[random.Random, Mapping[str, Any], Sequence[Mapping[str, Any]]], Query]


def unchanged(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _json(row)


def darker(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _json({"pixels": [[0.8 * value for value in line] for line in row["pixels"]]})


def inches(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _json({**row, "mean_radius": row["mean_radius"] / 2.54})


def filled(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _json({**row, "mean_texture": 0.0} if chance.random() < 0.1 else row)


def more_threes(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _json(chance.choice(threes) if chance.random() < 1 / 9 else row)


def some_pictures(chance: random.Random, row: Mapping[str, Any], threes: Sequence[Mapping[str, Any]]) -> Query:
    return _picture(row) if chance.random() < 0.02 else _json(row)


@dataclass(frozen=True)
class DriftCase:
    """One change of one model's requests.

    Args:
        features: of which the alarm must name one; empty: nothing changes, and no alarm may come.
    """

    key: str
    model: str
    title: str
    change: Change = field(repr=False)
    features: tuple[str, ...] = ()


CASES = (
    DriftCase("same-digits", "digits", "an identical week", unchanged),
    DriftCase("same-rows", "breast_cancer", "an identical week", unchanged),
    DriftCase("darker", "digits", "a camera 20 % darker", darker, ("input.brightness",)),
    DriftCase("inches", "breast_cancer", "mean_radius in inches, not cm", inches, ("input.mean_radius",)),
    DriftCase("filled", "breast_cancer", "mean_texture is 0 in a tenth", filled, ("input.mean_texture",)),
    DriftCase("threes", "digits", "twice as many threes", more_threes, ("prediction.label",)),
    DriftCase("pictures", "digits", "2 % PNG, which never came", some_pictures, ("input.form",)),
)


@dataclass(frozen=True)
class DriftFound:
    """What the alarm said.

    Args:
        items: recorded, and read by the watch.
        delay: items from the change to the alarm; None: there was no alarm.
        causes: features that the alarm named, the strongest first, with the likeliest change of each.
    """

    case: DriftCase
    items: int
    delay: int | None
    causes: tuple[tuple[str, str], ...]

    @property
    def is_right(self) -> bool:
        """Whether a change was found by its feature, and nothing else."""
        if not self.case.features:
            return self.delay is None
        return self.delay is not None and self.delay > 0 and any(name in self.case.features for name, _ in self.causes)

    @property
    def outcome(self) -> str:
        if self.delay is None:
            return "silent"
        return "alarm" if self.delay > 0 else "false alarm"


def requests_of(
    case: DriftCase, rows: Sequence[Mapping[str, Any]], threes: Sequence[Mapping[str, Any]], seed: int
) -> list[Query]:
    """A week, or BEFORE unchanged requests and AFTER changed ones, each from a random row."""
    chance = random.Random(f"{seed} {case.key}")  # noqa: S311 - the same in each run, and no secret
    unmoved = WEEK if not case.features else BEFORE
    plain = [unchanged(chance, chance.choice(rows), threes) for _ in range(unmoved)]
    return plain + [case.change(chance, chance.choice(rows), threes) for _ in range(AFTER if case.features else 0)]


def judge(case: DriftCase, watch: Watch, items: Sequence[Mapping[str, Counts]]) -> DriftFound:
    """Read the items into the watch until it raises an alarm.

    Args:
        items: the counts of each item, in the order of the requests.
    """
    before = BEFORE if case.features else len(items)
    read = 0
    for size, counts in _readings(items, before):
        watch, read = watch.seen(counts, size), read + size
        if watch.is_alarm:
            causes = tuple((name, change.name) for name, change in watch.causes())
            return DriftFound(case, read, read - before, causes)
    return DriftFound(case, read, None, ())


def _readings(items: Sequence[Mapping[str, Counts]], before: int) -> Iterator[tuple[int, Mapping[str, Counts]]]:
    starts = [*range(0, before, READING), *range(before, len(items)), len(items)]
    for start, end in pairwise(starts):
        together = items[start:end]
        yield (
            len(together),
            {name: tuple(map(sum, zip(*(counts[name] for counts in together), strict=True))) for name in together[0]},
        )


def _json(row: Mapping[str, Any]) -> Query:
    return Query(json.dumps(row).encode())


def _picture(row: Mapping[str, Any]) -> Query:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = bytes(round(value * 255 / WHITE) for line in row["pixels"] for value in line)
    Image.frombytes("L", (len(row["pixels"][0]), len(row["pixels"])), pixels).save(buffer, "PNG")
    return Query(buffer.getvalue(), PNG)
