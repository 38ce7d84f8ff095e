"""The checks of `make bench-kills` find a repeated step and a request that is not counted."""

from __future__ import annotations

from typing import Any

from benchmarks.crash_tests.cases import PROMOTED, ROLLED_BACK, object_faults, repeated_steps, uncounted_requests
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.stored import parse_event


def entries(*records: tuple[str, dict[str, Any]]) -> list[Entry]:
    return [Entry(number, float(number), parse_event(kind, content)) for number, (kind, content) in enumerate(records)]


POLICY: dict[str, Any] = {"policy": {}}
STARTED = ("started", {
    "id": "x", "model": "m", "canary": "2.0", "stable": "1.0", "archive": "", **POLICY,
    "cursor": {"r|2.0|500|200|": 7, "r|1.0|9500|200|": 70},
})  # fmt: skip
STEP, WEIGHED = ("step", {"index": 0, "weight": 500, "cursor": {}}), ("done", {"what": "weigh", "weight": 500})
PASSED, NEXT = ("verdict", {"verdict": "pass", "why": ""}), ("step", {"index": 1, "weight": 1000})


def test_a_step_that_is_done_again_is_found() -> None:
    assert repeated_steps(entries(STARTED, STEP, WEIGHED, PASSED, NEXT, WEIGHED, PASSED)) == 0
    assert repeated_steps(entries(STARTED, STEP, STEP, WEIGHED)) == 1
    assert repeated_steps(entries(STARTED, STEP, WEIGHED, WEIGHED, PASSED, PASSED)) == 2
    assert repeated_steps(entries(STARTED, STEP, WEIGHED, PASSED, NEXT, STEP)) == 1
    assert repeated_steps(entries(STARTED, STEP, WEIGHED, ("policy", POLICY), STEP, WEIGHED)) == 0


def test_a_request_that_no_tick_counts_is_found() -> None:
    window = {"weight": 500, "canary": {"requests": 3}, "stable": {"requests": 30}}
    tick = ("tick", {"windows": [window], "cursor": {"r|2.0|500|200|": 10, "r|1.0|9500|200|": 100}})
    assert uncounted_requests(entries(STARTED, STEP, tick), "2.0") == 0
    skipped = ("step", {"index": 1, "weight": 500, "cursor": {"r|2.0|500|200|": 12, "s|2.0|500|26": 4}})
    assert uncounted_requests(entries(STARTED, STEP, tick, skipped), "2.0") == 2


def test_two_writers_a_gap_and_an_unlike_copy_are_found() -> None:
    whole = entries(STARTED, STEP, WEIGHED)
    assert object_faults(whole, [whole, whole], ["a", "a", "b"]) == []
    assert object_faults(whole, [whole, whole], ["a", "b", "a"]) == ["2 processes wrote the journal in 3 turns"]
    [short] = object_faults(whole, [whole, whole[:2]], ["a", "a", "b"])
    assert short == "copies have 3, 2 entries, and the place 3"
    gap = [whole[0], whole[2]]
    assert object_faults(gap, [gap], ["a", "b"]) == ["the place's entries have gaps"]


def test_every_moment_is_killed_once() -> None:
    passed = [
        "before the line doing weigh 500", "amid the line doing weigh 500", "after the line doing weigh 500",
        "before weigh 500", "amid weigh 500", "after weigh 500",
        "before the line done weigh 500", "amid the line done weigh 500", "after the line done weigh 500",
        "amid the line doing default", "before the line tick", "before the line tick (2)",
        "before the line verdict fail",
    ]  # fmt: skip
    assert PROMOTED.points(passed) == [
        "amid the line doing weigh 500", "before weigh 500", "amid weigh 500", "after weigh 500",
        "amid the line done weigh 500", "after the line done weigh 500", "before the line tick",
        "before the line verdict fail",
    ]  # fmt: skip
    assert ROLLED_BACK.points(passed) == ["before the line verdict fail"]
