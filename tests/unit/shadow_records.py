"""Records of stable and of its shadow, as workers write them, for tests that compare both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.contract import REPEAT_ALONE, REPEAT_BATCH
from handlers.record_files import CLOSED_SEGMENT, RECORDS, REPEATS, RecordFile

MODEL, STABLE, SHADOW = "toy", "1.0", "2.0"


@dataclass(frozen=True)
class Asked:
    """One copied request.

    Args:
        stable, shadow: columns of the answers; None: there is no record.
        again: of stable's second answers; None: there are none.
        at_s: seconds after the begin.
    """

    name: str
    stable: Mapping[str, Any] | None
    shadow: Mapping[str, Any] | None
    again: Mapping[str, Any] | None = None
    at_s: float = 0.0
    features: Mapping[str, Any] = field(default_factory=dict)
    row: int = 0


def write(folder: Path, asked: Iterable[Asked], begin_s: float) -> None:
    """Write a segment of records and one of repeats into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[dict[str, Any]]] = {RECORDS: [], REPEATS: []}
    for each in asked:
        lines[RECORDS] += _records(each, begin_s)
        lines[REPEATS] += _repeats(each, begin_s)
    for kind, of_kind in lines.items():
        file = RecordFile(round(begin_s * 1000), 9_999_999_999_999, kind, "w1", CLOSED_SEGMENT)
        (folder / file.name).write_text("".join(json.dumps(line) + "\n" for line in of_kind))


def _records(each: Asked, begin_s: float) -> Iterator[dict[str, Any]]:
    times = {"batch_ms": 2.0, "wait_ms": 1.0}
    for version, track, answer, late in ((STABLE, "stable", each.stable, 0.0), (SHADOW, "shadow", each.shadow, 0.01)):
        if answer is not None:
            line = _identity(each, version, begin_s + late) | {"track": track, "copied": True, "status": 200, **times}
            yield {**line, **each.features, **answer}


def _repeats(each: Asked, begin_s: float) -> Iterator[dict[str, Any]]:
    for kind in (REPEAT_ALONE, REPEAT_BATCH) if each.again is not None else ():
        yield _identity(each, STABLE, begin_s + 2) | {"repeat": kind, "status": 200, **(each.again or {})}


def _identity(each: Asked, version: str, begin_s: float) -> dict[str, Any]:
    at = round((begin_s + each.at_s) * 1e6)
    return {"time_us": at, "request_id": each.name, "row": each.row, "model": MODEL, "version": version}
