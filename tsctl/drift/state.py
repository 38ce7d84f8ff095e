"""The state of a watch between two readings: how far records were read, the evidence, counts by hour, the alarm. Pure.

Invariant: each record is seen once, and an alarm stays until somebody accepts the change or begins again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tsctl.drift.detector import Watch, watch
from tsctl.drift.reference import Counts, Reference, add

#: Version of the JSON form.
FORMAT = 1
#: Hours whose counts are kept, for the population stability index of the last day.
HOURS = 24
HOUR_S = 3600.0


@dataclass(frozen=True)
class Alarm:
    """When it was raised, in seconds since 1970, and the features that it was made of: the likeliest change of each."""

    at_s: float
    causes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Hour:
    """The items of one hour."""

    items: int
    counts: Mapping[str, Counts]


@dataclass(frozen=True)
class WatchState:
    """One watched version.

    Args:
        key: names the references.
        began_s: since 1970; `read_until_s`: all records before are read.
        items: since it began.
        hours: by their number since 1970; HOURS of them at most.
    """

    key: str
    began_s: float
    read_until_s: float
    watch: Watch
    items: int = 0
    hours: Mapping[int, Hour] = field(default_factory=dict)
    alarm: Alarm | None = None

    def seen(self, begin_s: float, end_s: float, items: int, counts: Mapping[str, Sequence[int]]) -> WatchState:
        """After the items of a part of the time; parts come one after the other."""
        after = self.watch.seen(counts, end_s - begin_s)
        alarm = self.alarm
        if alarm is None and after.is_alarm:
            alarm = Alarm(end_s, tuple((name, change.name) for name, change in after.causes()))
        number = int(begin_s // HOUR_S)
        before = self.hours.get(number, Hour(0, {}))
        summed = {name: add(before.counts[name], new) if name in before.counts else tuple(new)
                  for name, new in counts.items()}  # fmt: skip
        hours = {**self.hours, number: Hour(before.items + items, summed)}
        kept = {each: hour for each, hour in hours.items() if each > number - HOURS}
        return replace(
            self,
            watch=after,
            items=self.items + items,
            hours=kept,
            alarm=alarm,
            read_until_s=max(end_s, self.read_until_s),
        )

    def read_until(self, end_s: float) -> WatchState:
        """After all records before this time."""
        return replace(self, read_until_s=max(end_s, self.read_until_s))

    def accepted(self) -> WatchState:
        """Without an alarm; what came since the watch began belongs to the references."""
        return replace(self, watch=self.watch.restarted(), alarm=None)

    def last_day(self) -> Hour:
        """The items of the last HOURS hours up to `read_until_s`, together."""
        last = ceil(self.read_until_s / HOUR_S) - 1
        total = Hour(0, {})
        for number, hour in self.hours.items():
            if number > last - HOURS:
                counts = {name: add(total.counts[name], new) if name in total.counts else new
                          for name, new in hour.counts.items()}  # fmt: skip
                total = Hour(total.items + hour.items, counts)
        return total


def begin(key: str, references: Mapping[str, Reference], budget_s: float, at_s: float) -> WatchState:
    """A watch that has seen nothing yet."""
    return WatchState(key, at_s, at_s, watch(references, budget_s))


class _Stored(BaseModel):
    """A part of the JSON form."""

    model_config = ConfigDict(strict=False, allow_inf_nan=False)


class _StoredFeature(_Stored):
    weights: list[float]
    logs: list[float | None]  # None: -inf, before the first item


class _StoredHour(_Stored):
    items: Annotated[int, Field(ge=0)]
    counts: dict[str, list[int]]


class _StoredAlarm(_Stored):
    at_s: float
    causes: list[tuple[str, str]]


class _StoredState(_Stored):
    format: int
    key: str
    budget_s: float
    began_s: float
    read_until_s: float
    items: Annotated[int, Field(ge=0)]
    features: dict[str, _StoredFeature]
    hours: dict[int, _StoredHour]
    alarm: _StoredAlarm | None


def to_json(state: WatchState) -> str:
    """The stored form."""
    features = {
        name: _StoredFeature(weights=list(each.weights), logs=[None if value == -inf else value for value in each.logs])
        for name, each in state.watch.detectors.items()
    }
    hours = {
        number: _StoredHour(items=hour.items, counts={name: list(counts) for name, counts in hour.counts.items()})
        for number, hour in state.hours.items()
    }
    alarm = None if state.alarm is None else _StoredAlarm(at_s=state.alarm.at_s, causes=list(state.alarm.causes))
    return _StoredState(
        format=FORMAT, key=state.key, budget_s=state.watch.budget, began_s=state.began_s,
        read_until_s=state.read_until_s, items=state.items, features=features, hours=hours, alarm=alarm,
    ).model_dump_json()  # fmt: skip


def from_json(stored: str, key: str, references: Mapping[str, Reference], budget_s: float) -> WatchState | None:
    """The state of a stored form; None where it is of other references, of another budget or of another format.

    Raises:
        ValueError: it is damaged.
    """
    read = _StoredState.model_validate_json(stored)
    if (read.format, read.key, read.budget_s) != (FORMAT, key, budget_s):
        return None
    fresh = watch(references, budget_s)
    if read.features.keys() != references.keys():
        raise ValueError("its features are not those of the references")
    detectors = {}
    for name, each in fresh.detectors.items():
        weights, logs = read.features[name].weights, read.features[name].logs
        if len(weights) != len(each.weights) or len(logs) not in (0, len(each.changes)):
            raise ValueError(f"{name} has not the bins or changes of its reference")
        detectors[name] = replace(
            each, weights=tuple(weights), logs=tuple(-inf if value is None else value for value in logs)
        )
    hours = {
        number: Hour(hour.items, {name: tuple(counts) for name, counts in hour.counts.items()})
        for number, hour in read.hours.items()
    }
    alarm = None if read.alarm is None else Alarm(read.alarm.at_s, tuple(read.alarm.causes))
    return WatchState(key, read.began_s, read.read_until_s, Watch(budget_s, detectors), read.items, hours, alarm)
