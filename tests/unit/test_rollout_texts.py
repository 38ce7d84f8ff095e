"""Evidence of a language model: from lines of the access log to the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nextafter
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rollout_journals import started, stored_and_read
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.gateway.access_log import LEAST_TOKENS
from tsctl.gateway.counters import Sample
from tsctl.rollout.decide.events import Entry, SlowThresholdSet, StepBegan, Tick
from tsctl.rollout.decide.evidence import LEAST_TEXTS, LENGTHS, Evidence, no_evidence
from tsctl.rollout.decide.fold import evidence_after, fold
from tsctl.rollout.decide.judge import Verdict, judge
from tsctl.rollout.decide.readings import length_text
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import parse_event, to_json
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds, Window
from tsctl.rollout.evidence.counts import EvidenceQuery
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.log_answers import length_class
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.rollout.evidence.totals import LEAST_ANSWERS
from tsctl.rollout.forecast.forecast import RecentTraffic, forecast_rollout
from tsctl.views.rollout.forecast import texts_table
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.tables import evidence_tables

POLICY = RolloutPolicy(hold_s=60).judging(is_text=True)
QUERY = EvidenceQuery("m", "1.0", "2.0", slow_ms=300, token_ms=30)
LONG = 1_000.0, 10_000


class NoCounters:
    """A gateway whose counters say nothing."""

    def samples(self, model: str) -> list[Sample]:
        return []

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def line(version: str = "2.0", **more: Any) -> str:
    """A stream of 21 tokens, the first after 100 ms and each of the others after 20."""
    told = {
        "time": "2026-01-01T00:00:00.000Z", "track": "canary" if version == "2.0" else "stable", "client": "ann",
        "model": "m", "by": "weight", "version": version, "weight": "500" if version == "2.0" else "9500",
        "user": None, "status": 200, "duration_ms": 500, "answer_ms": 100, "class": None, "flags": "-",
        "answer_type": "text/event-stream", "tokens_in": 7, "tokens_out": 21, "finish": "stop", **more,
    }  # fmt: skip
    return json.dumps(told) + "\n"


WHOLE = {"answer_type": "application/json", "answer_ms": 500}
#: Of a line, what the canary's counts are.
COUNTED: dict[str, tuple[dict[str, Any], OutcomeCounts]] = {
    "a stream": (
        {},
        OutcomeCounts(1, timed=1, paced=1, finishes={"stop": 1}, lengths={"16": 1}),
    ),
    "a slow first token, and slow ones": (
        {"answer_ms": 300, "duration_ms": 900},
        OutcomeCounts(1, slow=1, timed=1, paced=1, slow_tokens=1, finishes={"stop": 1}, lengths={"16": 1}),
    ),
    "an answer in one piece, which took long because it is long": (
        {**WHOLE, "answer_ms": 5000, "tokens_out": 200, "finish": "length"},
        OutcomeCounts(1, paced=1, finishes={"length": 1}, lengths={"128": 1}),
    ),
    "too few tokens for a time of each": (
        {"tokens_out": 3},
        OutcomeCounts(1, timed=1, finishes={"stop": 1}, lengths={"2": 1}),
    ),
    "a stream that broke": ({"finish": "broken", "tokens_out": None}, OutcomeCounts(1, errors=1, timed=1)),
    "one that the worker could not go on with": ({"finish": "error"}, OutcomeCounts(1, errors=1, timed=1, paced=0)),
    "one whose client left": ({"finish": "broken", "flags": "DC"}, OutcomeCounts(timed=1)),
    "one that the gateway ended": ({"finish": "broken", "flags": "SI"}, OutcomeCounts(1, errors=1, timed=1)),
    "a refusal": (
        {"status": 400, "finish": None, "tokens_out": None, "answer_type": "application/json"},
        OutcomeCounts(1, refused=1, timed=1),
    ),
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.log"
    path.touch()
    return path


@pytest.mark.parametrize(("told", "counts"), COUNTED.values(), ids=COUNTED.keys())
def test_what_a_line_is_evidence_of(log: Path, told: dict[str, Any], counts: OutcomeCounts) -> None:
    log.write_text(line(**told))
    [window], _ = RequestLog(log, {}).read(QUERY, {}, {"ann": 1.0})
    assert window.canary == counts
    assert (window.weight, window.is_by_user, window.stable) == (500, False, OutcomeCounts())
    is_failed = bool(counts.errors or counts.refused)
    assert {name: client.canary.requests for name, client in window.clients.items()} == (
        {"ann": 1} if is_failed else {}
    )
    assert stored_and_read(window) == window


def test_a_user_of_a_sticky_route_counts_once_for_each_kind_of_event(log: Path) -> None:
    log.write_text(
        "".join([
            *[line(user="ann", duration_ms=900)] * 3,
            line(user="ann", finish="length", tokens_out=60),
            line(user="bob", finish="length"),
        ])
    )  # fmt: skip
    [window], _ = RequestLog(log, {}).read(replace(QUERY, is_by_user=True), {}, {})
    assert (window.canary.requests, window.canary.slow_tokens, window.canary.complete) == (5, 3, 5)
    users = window.canary_users
    assert (users.slow_tokens, users.finishes, users.lengths) == (1, {"length": 1, "stop": 1}, {"16": 2})
    evidence = no_evidence(POLICY, (), is_text=True).seen(window)
    of_ann = evidence.clients["ann"].compared
    assert of_ann is not None
    assert of_ann.distribution("finish")["stop"].logs


def test_the_classes_of_lengths_have_no_gap() -> None:
    assert [length_class(tokens) for tokens in (-1, 0, 1, 2, 3, 4, 7, 8, 4095, 4096, 10**9)] == [
        "0", "0", "1", "2", "2", "4", "4", "8", "2048", "4096", "4096",
    ]  # fmt: skip
    assert [length_text(length) for length in ("0", "1", "2", "64", LENGTHS[-1])] == [
        "0 tokens", "1 token", "2 to 3 tokens", "64 to 127 tokens", "4,096 tokens or more",
    ]  # fmt: skip


# ---- thresholds ------------------------------------------------------------------------------------------------------


def state(*events: Any, is_text: bool = True) -> State:
    begin = replace(started("m", policy=POLICY), is_text=is_text, classes=())
    return fold([Entry(number, float(number), event) for number, event in enumerate([begin, *events])])


def test_thresholds_are_by_stables_last_answers(log: Path) -> None:
    """An answer that could not go on, a tester's request and the canary's do not count."""
    good = [line("1.0", answer_ms=first, duration_ms=first + 400 + first) for first in range(100, 200)]
    others = [line("1.0", by="header", duration_ms=9000), line("2.0", duration_ms=9000), line("1.0", finish="error")]
    log.write_text("".join([*good, *others]))
    evidence = LiveEvidence(NoCounters(), NoCounters(), RequestLog(log, {}))
    found, cursor = evidence.thresholds(state())
    assert cursor == {}
    assert found.slow_ms == nextafter(194, inf)  # five of a hundred are above
    assert found.token_ms == pytest.approx((400 + 194) / 20)
    assert found.longest_s == pytest.approx(0.796)
    log.write_text("".join(good[1:]))
    assert evidence.thresholds(state())[0] == Thresholds(longest_s=nextafter(0.798, inf))
    log.write_text("".join(line("1.0", **WHOLE) for _ in range(LEAST_ANSWERS)))
    assert evidence.thresholds(state())[0].slow_ms is None
    assert evidence.thresholds(state())[0].token_ms == pytest.approx(500 / 21)


def test_a_step_settles_when_long_answers_can_be_known_too() -> None:
    step = StepBegan(0, 500, 300.0, {}, 30.0, longest_s=20.0)
    assert state(step).settle_s == 20
    assert state(replace(step, longest_s=300.0)).settle_s == POLICY.hold_s / 2
    assert state(replace(step, longest_s=1.0)).settle_s == POLICY.settle_s
    window = both(OutcomeCounts(2000, lengths={"16": 2000}), OutcomeCounts(100, lengths={"128": 100}))
    early, late = (
        evidence_after(state(step, *[Tick(1.0)] * held), [window, window]).logs["length"] for held in (19, 20)
    )
    assert (early, late > 10) == (0.0, True)


def test_the_journal_keeps_the_thresholds_and_the_kind_of_model() -> None:
    step = StepBegan(0, 500, None, {}, 30.0, 4.5)
    late = SlowThresholdSet(None, {"log|offset": 7}, 31.5, 5.0)
    for event in (step, late, replace(started("m", policy=POLICY), is_text=True)):
        assert parse_event(event.kind, json.loads(json.dumps(to_json(event)))) == event
    after = state(step, late)
    assert after.thresholds == Thresholds(None, 31.5, 5.0)
    assert [thresholds.token_ms for _, thresholds in after.before] == [None, 30.0]
    assert after.cursor["log|offset"] == 7


# ---- the verdict -----------------------------------------------------------------------------------------------------


def counts(requests: int, tokens: int = 60, **more: Any) -> OutcomeCounts:
    """Complete streams of one length, all of which the model ended."""
    usual = {"timed": requests, "paced": requests, "finishes": {"stop": requests}}
    return OutcomeCounts(requests, **{**usual, "lengths": {length_class(tokens): requests}, **more})


def both(stable: OutcomeCounts, canary: OutcomeCounts, weight: int = 500) -> Window:
    stable, canary = (
        each if each.finishes else replace(each, finishes={"stop": each.requests}) for each in (stable, canary)
    )
    return Window(weight, stable, canary)


def after(*windows: Window) -> Evidence:
    evidence = no_evidence(POLICY, (), is_text=True)
    for window in windows:
        evidence = evidence.seen(window)
    return evidence


@pytest.mark.parametrize(
    ("canary", "signal", "why"),
    [
        (counts(100, errors=30), "errors", "30.00% of the canary's requests are errors, against 0.00% of stable's"),
        (counts(100, slow=60), "slow", "60.00% of the canary's requests are slow, against 5.00% of stable's"),
        (
            counts(100, slow_tokens=60),
            "tokens",
            "60.00% of the canary's answers have slow tokens, against 5.00% of stable's",
        ),
        (
            counts(100, finishes={"length": 100}),
            "finish",
            "100.00% of the canary's answers end by length, against 0.00% of stable's",
        ),
        (
            counts(100, tokens=9),
            "length",
            "100.00% of the canary's answers have 8 to 15 tokens, against 0.00% of stable's",
        ),
    ],
)
def test_each_signal_can_fail_a_canary(canary: OutcomeCounts, signal: str, why: str) -> None:
    found = judge(POLICY, after(both(counts(1900, slow=95, slow_tokens=95), canary)), *LONG)
    assert (found.verdict, found.signal, found.why) == (Verdict.FAIL, signal, why)
    signals, rates = evidence_tables(found, POLICY.alpha, "1.0", "2.0")
    assert [row[0] for row in signals.rows[-5:-2]] == ["slow tokens", "finish distribution", "length distribution"]
    assert {"slow tokens"} < {row[0] for row in rates.rows}


def test_a_canary_like_stable_passes() -> None:
    stable, canary = (counts(n, slow=n // 20, slow_tokens=n // 20) for n in (19_000, 1000))
    assert judge(POLICY, after(both(stable, canary)), *LONG).verdict is Verdict.PASS


def test_answers_that_have_ended_are_compared_and_not_requests() -> None:
    """A faster canary's answers are known sooner: that it has more of them is no evidence, and neither is less."""
    for stable, canary in ((20, 400), (8000, 20)):
        evidence = after(both(counts(stable), counts(canary)))
        assert {name: evidence.logs[name] for name in ("finish", "length", "tokens", "slow")} == pytest.approx(
            {"finish": 0, "length": 0, "tokens": 0, "slow": 0}, abs=1e-9
        ) or max(evidence.logs.values()) <= 0
    few = after(both(counts(500), counts(LEAST_TEXTS - 1, finishes={"length": LEAST_TEXTS - 1})))
    assert few.logs["finish"] == 0
    more = few.seen(both(counts(20), counts(1, finishes={"length": 1})))
    assert more.logs["finish"] > 4


def test_while_the_canary_is_the_busier_one_its_times_are_not_judged() -> None:
    slow = counts(500, slow=400, slow_tokens=400)
    busier = after(both(counts(500), slow, 7500))
    assert (busier.logs["slow"], busier.logs["tokens"]) == (0, 0)
    equal = after(both(counts(500), slow, TOTAL // 2))
    assert min(equal.logs["slow"], equal.logs["tokens"]) > 4


def test_errors_count_at_once_and_of_a_model_of_another_kind_nothing_is_a_text() -> None:
    assert after(both(counts(5), counts(5, errors=5))).logs["errors"] > 4
    other = no_evidence(POLICY, ("cat",)).seen(both(counts(500), counts(100, tokens=9)))
    assert (other.logs["length"], other.logs["finish"], other.compared.processes["length"]) == (0, 0, {})


# ---- views -----------------------------------------------------------------------------------------------------------


def test_what_was_not_compared_is_said() -> None:
    settled, seen = Tick(60.0), Tick(60.0, (both(counts(500), counts(100)),))
    assert gaps(state(StepBegan(0, 500, 300.0, {}, 30.0), settled, seen)) == (
        "No tokens were judged as slow: none took as long as the threshold while times were judged.",
    )
    nothing = Tick(60.0, (Window(500, OutcomeCounts(500), OutcomeCounts(100)),))
    found = " ".join(gaps(state(StepBegan(0, 500), nothing)))
    for sentence in (
        "No first token was judged as slow: stable had too few streams, 100 are needed for a threshold.",
        f"stable had too few answers of {LEAST_TOKENS} tokens or more",
        "Nothing was compared by finish distribution and length distribution",
    ):
        assert sentence in found


def test_a_step_says_what_is_slow() -> None:
    begin = replace(started("m", policy=POLICY), is_text=True)
    events = (begin, StepBegan(0, 500, 300.0, {}, 30.0), SlowThresholdSet(None, {}, 31.0))
    told = [sentence.text for sentence in story([Entry(n, 0.0, event) for n, event in enumerate(events)]).told]
    assert told[1].endswith("a first token after 300 ms or more is slow, and tokens of 30 ms or more each are slow.")
    assert told[2] == "Stable has answered often enough: tokens of 31 ms or more each are slow."


# ---- before the rollout ----------------------------------------------------------------------------------------------


def test_a_plan_says_how_many_answers_a_fault_needs() -> None:
    traffic = RecentTraffic(10.0, 0.001, 0.05, 600.0, 6000)
    texts = forecast_rollout(POLICY, traffic, is_text=True).texts
    assert [each.signal for each in texts] == [name for name in ("slow", "tokens", "finish", "length") for _ in "12"]
    assert [each.rate for each in texts[1::2]] == [1.0] * 4
    for some, all_ in zip(texts[::2], texts[1::2], strict=True):
        assert some.on_canary is not None
        assert all_.on_canary is not None
        assert some.on_canary > all_.on_canary >= LEAST_TEXTS
        assert all_.seconds == pytest.approx(all_.on_canary / 0.1)  # at 1 % of 10 requests/s
    names = {row[0] for row in texts_table(texts).rows}
    assert names == {"slow", "slow tokens", "finish distribution", "length distribution"}
    quiet = forecast_rollout(POLICY, replace(traffic, requests_per_s=0.0), is_text=True).texts
    assert {each.seconds for each in quiet} == {None}
    assert forecast_rollout(POLICY, traffic).texts == ()
    at_once = POLICY.model_copy(update={"steps": (100.0,)})
    assert forecast_rollout(at_once, traffic, is_text=True).texts == ()
