"""Evidence of one gateway or of several: the counters of each Envoy go on, or begin anew, by themselves. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tsctl.gateway.counters import (
    Sample,
)
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.windows import Window
from tsctl.rollout.evidence.counts import EvidenceQuery, counter_values, windows_since

#: Begins the keys of one of several Envoys, with its name and this end; SEEN says that the cursor knows it.
_ENVOY, _END, SEEN = "g|", "||", "seen"


def together(parts: Mapping[str, list[Sample]]) -> list[Sample]:
    """The samples of several Envoys, of each series the sum. A cursor is never made of it: see `cursor_of`."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    values = Counter[tuple[str, tuple[tuple[str, str], ...]]]()
    for samples in parts.values():
        for sample in samples:
            values[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return [Sample(name, dict(labels), value) for (name, labels), value in values.items()]


def cursor_of(parts: Mapping[str, list[Sample]], query: EvidenceQuery) -> dict[str, int]:
    """The values that the query needs, of each Envoy: any of them may start anew, and then only its counts fall."""
    return {
        f"{_prefix(name)}{key}": value
        for name, samples in parts.items()
        for key, value in {**counter_values(samples, query), **({SEEN: 1} if name else {})}.items()
    }


def is_of(kind: str, key: str) -> bool:
    """Whether a key of a cursor, of whatever Envoy, counts this kind."""
    return (key.partition(_END)[2] if key.startswith(_ENVOY) else key).startswith(kind)


def _prefix(name: str) -> str:
    return f"{_ENVOY}{name}{_END}" if name else ""


def windows_of_all(
    cursor: Cursor, parts: Mapping[str, list[Sample]], query: EvidenceQuery, shares: Mapping[str, float]
) -> tuple[list[Window], dict[str, int]]:
    """As `windows_since`, of several Envoys: a window for each weight, whichever of them had it in force.

    One of several that the cursor does not know has counted for an unknown time: its counts are evidence from now on.
    """
    by_weight: dict[int, Window] = {}
    changed: dict[str, int] = {}
    for name, samples in parts.items():
        prefix = _prefix(name)
        own = {key.removeprefix(prefix): value for key, value in cursor.items() if key.startswith(prefix)}
        if name and SEEN not in own:
            changed |= cursor_of({name: samples}, query)
            continue
        windows, more = windows_since(own, counter_values(samples, query), query, shares)
        changed |= {f"{prefix}{key}": value for key, value in more.items()}
        for window in windows:
            known = by_weight.get(window.weight)
            by_weight[window.weight] = window if known is None else known + window
    return [by_weight[weight] for weight in sorted(by_weight)], changed
