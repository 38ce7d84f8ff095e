"""Records are counted in SQL as their features are counted one by one, part of the time by part."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from handlers.record_files import CLOSED_SEGMENT, PARQUET, RECORDS, RecordFile
from tests.support.drift import item, project_with, references, write_records
from tsctl.drift.features import references_of, values_of
from tsctl.drift.reference import Reference, count
from tsctl.records.compact import compact
from tsctl.records.database import Place, may_hold, query
from tsctl.records.drift import count_parts, first_record_s, recorded_versions, unknown_features

BEGIN = 1_764_150_000.0


def places(root: Path) -> list[Place]:
    return [Place("local", str(root / ".tsctl" / "nodes" / "local" / "records"))]


def odd_items(number: int) -> list[dict[str, Any]]:
    """Items with every kind of feature, at the edges of bins, missing, new and damaged."""
    chance = random.Random(7)  # noqa: S311 - the same in each run
    names = ["it's", 'a "b"', "x" * 70, "", None, "new"]
    return [
        {
            "numbers": {
                "it's": chance.choice([0.0, -0.0, 1.5, 1.25, 1e-300, 1e300, -7.0]),
                "wide": chance.gauss(0, 1),
                **({"rare": 1.0} if chance.random() < 0.3 else {}),
            },
            "categories": {"kind": chance.choice(names)},
            "label": chance.choice(["7", "1", None]),
            "score": chance.choice([0.5, 0.99995, 0.99985, 1.0, 0.0, None, chance.random()]),
            "outputs": {"low": chance.random() * 1e6, "high": chance.gauss(0, 1e-6)},
            "sketch": [chance.gauss(0, 1) for _ in range(16)],
            "norm": 1.0 + chance.choice([0, 1e-7, -1e-7]),
            "text_length": chance.randrange(100),
        }
        for _ in range(number)
    ]


@pytest.mark.parametrize("is_packed", [False, True])
def test_counts_are_those_of_the_features_one_by_one(tmp_path: Path, is_packed: bool) -> None:
    items = odd_items(400)
    made: dict[str, Reference] = references_of(values_of(each) for each in items[:150])
    project = project_with(tmp_path, made)
    write_records(project, items, lambda number: BEGIN + number)
    write_records(project, [{**items[0], "status": 500}], lambda number: BEGIN + number)
    [place] = places(tmp_path)
    if is_packed:
        compact(Path(place.address), BEGIN)
    found = count_parts([place], "toy", "1.0", made, BEGIN, BEGIN + 400, parts=4)
    assert [(part.begin_s - BEGIN, part.end_s - BEGIN, part.items) for part in found] == [
        (0, 100, 100), (100, 200, 100), (200, 300, 100), (300, 400, 100),
    ]  # fmt: skip
    for start, part in zip(range(0, 400, 100), found, strict=True):
        values = [values_of(each) for each in items[start : start + 100]]
        for name, reference in made.items():
            assert part.counts[name] == count(reference, [row.get(name) for row in values]), name


def test_times_without_records_have_no_part_and_other_versions_do_not_count(tmp_path: Path) -> None:
    of = references()
    project = project_with(tmp_path, of)
    chance = random.Random(3)  # noqa: S311 - the same in each run
    write_records(project, [item(chance) for _ in range(10)], lambda number: BEGIN + 100 * number)
    write_records(project, [item(chance) for _ in range(5)], lambda number: BEGIN + number, version="2.0")
    where = places(tmp_path)
    parts = count_parts(where, "toy", "1.0", of, BEGIN, BEGIN + 500, parts=50)
    assert [(part.begin_s - BEGIN, part.items) for part in parts] == [(100.0 * number, 1) for number in range(5)]
    assert recorded_versions(where, "toy") == {"1.0": BEGIN + 900, "2.0": BEGIN + 4}
    assert first_record_s(where, "toy", "1.0", BEGIN + 1) == BEGIN + 100
    assert first_record_s(where, "toy", "1.0", BEGIN + 901) is None
    assert count_parts(where, "other", "1.0", of, BEGIN, BEGIN + 500) == []


def test_features_without_a_reference_are_named(tmp_path: Path) -> None:
    of = references()
    project = project_with(tmp_path, of)
    chance = random.Random(3)  # noqa: S311 - the same in each run
    added = {**item(chance), "norm": 2.0, "numbers": {"width": 1.0, "depth": 2.0}}
    write_records(project, [item(chance), added], lambda number: BEGIN + number)
    found = unknown_features(places(tmp_path), "toy", "1.0", of, BEGIN, BEGIN + 10)
    assert found == ["input.depth", "prediction.norm"]
    assert unknown_features(places(tmp_path), "toy", "1.0", of, BEGIN, BEGIN + 1) == []


def test_segments_that_hold_only_older_records_are_not_opened(tmp_path: Path) -> None:
    project = project_with(tmp_path, None)
    chance = random.Random(3)  # noqa: S311 - the same in each run
    write_records(project, [item(chance)], lambda number: BEGIN)
    write_records(project, [item(chance)], lambda number: BEGIN + 1000)
    sql = "SELECT count(*) FROM records"
    assert query(places(tmp_path), sql)[1] == [(2,)]
    assert query(places(tmp_path), sql, since_s=BEGIN + 500)[1] == [(1,)]
    assert query(places(tmp_path), sql, since_s=BEGIN + 100)[1] == [(2,)], "a segment is open for a minute, and more"
    old = RecordFile(1000, 2000, RECORDS, "p1", PARQUET)
    assert may_hold(old, math.inf), "it may hold records of any time up to its compaction"
    assert not may_hold(RecordFile(1000, 2000, RECORDS, "w1", CLOSED_SEGMENT), 1e6)


def test_records_are_as_workers_write_them(tmp_path: Path) -> None:
    project = project_with(tmp_path, None)
    path = write_records(project, [{"numbers": {"x": 1.0}}], lambda number: BEGIN)
    assert json.loads(path.read_text())["time_us"] == BEGIN * 1e6
