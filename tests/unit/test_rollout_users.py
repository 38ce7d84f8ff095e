"""A route that divides users: each of them counts once for a kind of event, wherever the log was read from."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rollout_journals import started, stored_and_read
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.gateway.counters import REQUESTS, Sample
from tsctl.rollout.decide.events import Entry, StepBegan, Tick
from tsctl.rollout.decide.evidence import Evidence, no_evidence
from tsctl.rollout.decide.fold import after, fold
from tsctl.rollout.decide.interventions import StickyChanged
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.evidence.counts import EvidenceQuery
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.statistics.sequential import rejects

QUERY = EvidenceQuery("m", "1.0", "2.0", slow_ms=20, is_by_user=True)
POLICY = RolloutPolicy()


@dataclass
class Counters:
    """A gateway's counters."""

    page: list[Sample] = field(default_factory=list)

    def samples(self, model: str) -> list[Sample]:
        return self.page

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def line(version: str, user: str | None, **more: Any) -> str:
    told = {
        "time": "2026-01-01T00:00:00.000Z", "track": "canary" if version == "2.0" else "stable",
        "model": "m", "by": "weight", "version": version, "weight": "500" if version == "2.0" else "9500",
        "user": user, "status": 200, "duration_ms": 5, "class": None, **more,
    }  # fmt: skip
    return json.dumps(told) + "\n"


def append(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.writelines(lines)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.log"
    path.touch()
    return path


def test_a_user_counts_once_for_each_kind_of_event(log: Path) -> None:
    users = RequestLog(log, {})
    begin = users.mark()
    append(
        log,
        *[line("2.0", "ann", status=500, duration_ms=30)] * 5,
        *[line("1.0", "bob", status=503)] * 2,
        line("1.0", "ann", status=500),  # she was moved meanwhile, and had her error
        *[line("2.0", None, status=500)] * 3,
        line("2.0", "cid", duration_ms=20, **{"class": "7"}),
        line("2.0", "cid", duration_ms=20, **{"class": "3"}),
    )
    [read], _ = RequestLog(log, begin).read(QUERY, begin, {})
    assert (read.stable.unanswered, read.stable_users.unanswered) == (2, 1)
    window = replace(read, stable=read.stable.judged(True), stable_users=read.stable_users.judged(True))
    assert (window.weight, window.stable.requests, window.stable.errors) == (500, 3, 3)
    assert (window.canary.requests, window.canary.errors, window.canary.slow) == (10, 8, 7)
    stable, canary = window.compared
    assert (stable.errors, canary.errors, canary.slow, canary.classes) == (1, 4, 2, {"7": 1})
    assert stored_and_read(window).compared == window.compared


def test_what_is_not_by_weight_or_no_line_is_passed_over(log: Path) -> None:
    append(
        log, line("2.0", "a", by="header"), line("2.0", "a", by="path"), line("3.0", "a"), "nonsense\n", "[]\n",
        line("2.0", "a", model="other"), line("2.0", "a", weight=None), line("2.0", "b"), line("2.0", "c")[:-1],
    )  # fmt: skip
    users = RequestLog(log, {})
    [window], cursor = users.read(QUERY, {}, {})
    assert window.canary.requests == 1
    append(log, "\n")  # the last line is whole now
    assert users.read(QUERY, cursor, {})[0][0].canary.requests == 1


def test_a_rotated_log_is_read_to_its_end_and_whoever_resumes_knows_the_users(log: Path) -> None:
    users = RequestLog(log, {})
    begin = users.mark()
    append(log, line("2.0", "ann", status=500))
    cursor = {**begin, **users.read(QUERY, begin, {})[1]}
    append(log, line("2.0", "bob", status=500))
    log.rename(log.with_name("access.log.1"))
    append(log, line("2.0", "ann", status=500), line("2.0", "cid", status=500), line("2.0", "bob", status=500))
    for reader in (users, RequestLog(log, begin)):
        [window], after = reader.read(QUERY, cursor, {})
        assert (window.canary.errors, window.compared[1].errors) == (4, 2)
        assert reader.read(QUERY, {**cursor, **after}, {}) == ([], {})
    old = log.with_name("access.log.1")
    with old.open():  # its number is given to no other file
        log.replace(old)  # and the one with the cursor is gone
        append(log, line("2.0", "dan"))
        [window], _ = RequestLog(log, begin).read(QUERY, cursor, {})
        assert window.canary.requests == 4


def test_what_was_read_and_not_kept_is_read_again(log: Path) -> None:
    users = RequestLog(log, {})
    begin = users.mark()
    append(log, line("2.0", "ann", status=500))
    [first], _ = users.read(QUERY, begin, {})
    assert users.read(QUERY, begin, {})[0] == [first]  # the journal could not be written in between
    assert first.compared[1].errors == 1


def test_whoever_resumes_knows_who_was_slow_by_the_threshold_of_that_time(log: Path) -> None:
    """The threshold rises from 20 to 50 ms and falls to 30 ms; the journal alone tells a resumed rollout."""
    begin = RequestLog(log, {}).mark()
    state = fold([Entry(0, 0.0, replace(started("m"), cursor=begin, sticky="header x-user"))])
    source, users = Counters(), RequestLog(log, begin)
    entries, readings = 0, []
    for slow_ms, answers in (
        (20.0, {"ann": 25}),
        (50.0, {"ann": 60, "dan": 45}),  # ann was slow before, and dan is not
        (30.0, {"ann": 35, "dan": 45}),
    ):
        entries += 1
        state = after(state, Entry(entries, 1.0, StepBegan(0, 500, slow_ms)))
        append(log, *[line("2.0", user, duration_ms=took) for user, took in answers.items()])
        resumed = LiveEvidence(source, source, RequestLog(log, begin)).read(state)
        going_on = LiveEvidence(source, source, users).read(state)
        assert resumed == going_on
        [window], cursor = going_on
        readings.append(window.compared[1].slow)
        entries += 1
        state = after(state, Entry(entries, 2.0, Tick(1.0, (window,), cursor)))
    assert readings == [1, 0, 1]


def test_a_route_that_becomes_sticky_is_judged_by_what_came_since(log: Path) -> None:
    page = {"r|2.0|500|500|": 7}
    labels = {"model": "m", "version": "2.0", "by": "weight", "weight": "500", "status": "500", "class": ""}
    counted = Counters([Sample(REQUESTS, labels, 7)])
    state = fold([Entry(0, 0.0, started("m"))])
    evidence = LiveEvidence(counted, counted, RequestLog(log, {}))
    append(log, *[line("2.0", "ann", status=500)] * 7)
    [by_request], cursor = evidence.read(state)
    assert (by_request.is_by_user, by_request.canary.errors, cursor) == (False, 7, page)
    state = after(state, Entry(1, 1.0, StickyChanged("header x-user", evidence.mark(state))))
    assert evidence.read(state)[0] == []
    append(log, *[line("2.0", "ann", status=500)] * 3)
    for reader in (evidence, LiveEvidence(counted, counted, RequestLog(log, {}))):  # going on, and resumed
        [by_users], cursor = reader.read(state)
        assert (by_users.is_by_user, by_users.canary.errors, by_users.compared[1].errors) == (True, 3, 1)
    counted.page = [Sample(REQUESTS, labels, 12)]
    state = after(state, Entry(2, 2.0, StickyChanged("", evidence.mark(state))))
    assert evidence.read(state) == ([], {})


def test_one_heavy_user_is_no_evidence_and_many_are() -> None:
    """Users whose own requests fail are not the canary's fault, on whichever version they are."""
    chance = random.Random(7)  # noqa: S311 - a seeded simulation
    false_alarms = {"by request": 0, "by user": 0}
    for _ in range(300):
        evidence = {name: no_evidence(POLICY, ()) for name in false_alarms}
        for _ in range(20):  # users of whom each fails a hundred times
            on_canary = chance.random() < 0.25
            requests, user = (window(on_canary, count) for count in (100, 1))
            evidence["by request"] = evidence["by request"].seen(requests)
            evidence["by user"] = evidence["by user"].seen(
                by_user(2500, (requests.stable, requests.canary), (user.stable, user.canary))
            )
        for name, found in evidence.items():
            false_alarms[name] += rejects(found.logs["errors"], POLICY.alpha)
    assert false_alarms["by user"] <= 3
    assert false_alarms["by request"] > 30
    bad = no_evidence(POLICY, ())
    for _ in range(40):
        bad = bad.seen(by_user(2500, pair(True), pair(True)))
    assert rejects(bad.logs["errors"], POLICY.alpha)


def by_user(
    weight: int, requests: tuple[OutcomeCounts, OutcomeCounts], users: tuple[OutcomeCounts, OutcomeCounts]
) -> Window:
    """A window of stable and the canary on a route that divides users."""
    return Window(weight, *requests, is_by_user=True, stable_users=users[0], canary_users=users[1])


def window(on_canary: bool, count: int) -> Window:
    return Window(2500, *pair(on_canary, count))


def pair(on_canary: bool, count: int = 1) -> tuple[OutcomeCounts, OutcomeCounts]:
    event, nothing = OutcomeCounts(count, count), OutcomeCounts()
    return (nothing, event) if on_canary else (event, nothing)


def test_all_is_one_process_whatever_was_divided() -> None:
    evidence: Evidence = no_evidence(POLICY, ())
    assert evidence.seen(by_user(TOTAL, pair(True), pair(True))).logs["errors"] == 0
