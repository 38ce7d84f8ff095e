"""Drift cases of a game day: what is sent, when the alarm came, and which verdicts are wrong."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping

import pytest
from PIL import Image

from benchmarks.gameday import drift
from benchmarks.gameday.drift_cases import (
    AFTER,
    BEFORE,
    BUDGET,
    CASES,
    JSON,
    PNG,
    WEEK,
    DriftCase,
    DriftFound,
    judge,
    requests_of,
)
from benchmarks.harness.run import figure_rows
from tsctl.drift.detector import watch
from tsctl.drift.reference import Counts, Reference, count, number_reference

OF: dict[str, Reference] = {"input.brightness": number_reference([number / 400 for number in range(400)])}
BY_KEY = {case.key: case for case in CASES}
ROWS = [{"pixels": [[number % 17] * 8] * 8} for number in range(17)]
CANCER = [{"mean_radius": float(number), "mean_texture": 20.0} for number in range(1, 50)]


def items(number: int, least: float = 0.0) -> list[Mapping[str, Counts]]:
    chance = random.Random(4)  # noqa: S311 - the same in each run
    return [{"input.brightness": count(OF["input.brightness"], [chance.uniform(least, 1)])} for _ in range(number)]


@pytest.mark.parametrize("case", CASES, ids=BY_KEY)
def test_a_change_begins_after_the_unchanged_requests(case: DriftCase) -> None:
    rows = ROWS if case.model == "digits" else CANCER
    queries = requests_of(case, rows, ROWS[3:4], seed=1)
    plain = {json.dumps(row).encode() for row in rows}
    if not case.features:
        assert len(queries) == WEEK
        assert all(query.body in plain for query in queries)
        return
    assert len(queries) == BEFORE + AFTER
    assert all(query.body in plain for query in queries[:BEFORE])
    changed = [query for query in queries[BEFORE:] if query.body not in plain]
    share = {"darker": 1, "inches": 1, "filled": 0.1, "threes": 0, "pictures": 0.02}[case.key]
    assert len(changed) / AFTER == pytest.approx(share, abs=0.03)
    assert requests_of(case, rows, ROWS[3:4], seed=1) == queries
    if case.key == "threes":
        threes = sum(query.body == json.dumps(ROWS[3]).encode() for query in queries[BEFORE:])
        assert threes / AFTER == pytest.approx(1 / 9 + 8 / 9 / 17, abs=0.03)


def test_pictures_hold_the_same_pixels() -> None:
    queries = requests_of(BY_KEY["pictures"], ROWS, [], seed=1)
    pictures = [query for query in queries if query.media_type == PNG]
    assert {query.media_type for query in queries} == {JSON, PNG}
    with Image.open(io.BytesIO(pictures[0].body)) as picture:
        assert picture.size == (8, 8)
        assert picture.getpixel((0, 0)) in {round(value * 255 / 16) for value in range(17)}


def test_an_alarm_is_counted_from_the_change_item_by_item() -> None:
    found = judge(BY_KEY["darker"], watch(OF, BUDGET), [*items(BEFORE), *items(AFTER, least=0.8)])
    assert found.delay is not None
    assert 0 < found.delay < 60
    assert found.items == BEFORE + found.delay
    assert [name for name, _ in found.causes] == ["input.brightness"]
    assert (found.outcome, found.is_right) == ("alarm", True)


def test_no_alarm_and_one_before_the_change_are_wrong() -> None:
    case, same = BY_KEY["darker"], BY_KEY["same-digits"]
    missed = judge(case, watch(OF, BUDGET), items(BEFORE + AFTER))
    early = judge(case, watch(OF, BUDGET), items(BEFORE + AFTER, least=0.8))
    week = judge(same, watch(OF, BUDGET), items(WEEK))
    noisy = judge(same, watch(OF, BUDGET), items(WEEK, least=0.8))
    other = DriftFound(case, 1010, 10, (("input.width", "shifted"),))
    assert [(one.outcome, one.is_right) for one in (missed, early, week, noisy, other)] == [
        ("silent", False), ("false alarm", False), ("silent", True), ("false alarm", False), ("alarm", False),
    ]  # fmt: skip
    assert week.items == WEEK
    found = [missed, early, week, noisy, other]
    day = drift.DriftDay("drift", "", {}, {}, drift.figures(found), found=tuple(found))
    assert {figure.name: figure.value for figure in day.figures} == {
        "drift cases found": 0,
        "identical weeks with an alarm": 1,
    }
    assert len(drift.wrong(drift.found_in([day]))) == 4
    assert all(len(row) == len(drift.COLUMNS) for row in drift.rows([day]))
    assert [row[2] for row in figure_rows([day])] == ["0", "1"]
    written = json.loads(json.dumps(day.as_json()))
    assert [row["outcome"] for row in written["found"]] == [one.outcome for one in found]
