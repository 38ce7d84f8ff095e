"""A rollout in sentences: everything that was decided is there with its numbers, wherever the journal ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import (
    BEGIN,
    EVERY,
    POLICY,
    Writer,
    aborted,
    failed_to_load,
    late_slow,
    promoted,
    promotion_rolled_back,
    rolled_back,
    with_edited_policy,
    with_outage,
)
from tsctl.rollout.decide.events import VerdictReached
from tsctl.rollout.decide.fold import after, fold
from tsctl.rollout.decide.judge import MOST_REQUESTS, requests_needed
from tsctl.rollout.decide.windows import NOTHING
from tsctl.rollout.run.journal_lines import read
from tsctl.views.rollout.follow import as_json, snapshot
from tsctl.views.rollout.narrative import Narrator, story
from tsctl.views.rollout.report import render_report
from tsctl.views.rollout.wording import duration, e_text, needed_text, when


def text_of(writer: Writer) -> str:
    told = story(writer.entries)
    return "\n".join([told.rule, *(line.text for line in told.told), told.outcome, *told.advice])


@pytest.mark.parametrize("write", EVERY, ids=lambda write: write.__name__)
def test_a_journal_may_end_anywhere(write: Callable[[Path], Writer], tmp_path: Path) -> None:
    entries = write(tmp_path).entries
    for end in range(len(entries) + 1):
        told = story(entries[:end])
        assert told.outcome
        json.dumps(asdict(told))
        assert (snapshot(entries[:end]) is None) == (end == 0)
        if end:
            assert told.advice, "there is always something that a person can do next"
            assert "</html>" in render_report(entries[:end], UTC)


def test_a_rollback_is_told_with_the_numbers_that_it_stands_on(tmp_path: Path) -> None:
    writer = rolled_back(tmp_path)
    text = text_of(writer)
    (verdict,) = [line for line in story(writer.entries).told if line.kind == "verdict" and "failed" in line.text]
    assert "reaches 1 / alpha = 100" in text and "alpha = 0.01, ever" in text, "which rule was used"
    assert "Step 2 failed after" in verdict.text and "errors adds most to it" in verdict.text
    assert verdict.judgement is not None and verdict.alpha == 0.01
    errors = verdict.judgement.readings[0]
    assert errors.signal == "errors" and errors.stable.high < errors.canary.low < 25 / 110 < errors.canary.high
    assert f"{e_text(verdict.judgement.log_e)}, at or above 1 / alpha = 100" in verdict.text
    assert "digits 2.0 was rolled back, by errors" in text and "All requests go to 1.0." in text
    assert "tsctl models describe digits 2.0" in text


def test_a_promotion_says_how_to_go_back(tmp_path: Path) -> None:
    text = text_of(promoted(tmp_path))
    assert text.count("no signal counts against it") == 3
    assert "ann@desk started the rollout of digits 2.0 against 1.0 on local, far: steps of 10%, 50%, 100%" in text
    assert "digits 2.0 was promoted" in text and "tsctl rollout rollback digits" in text


def test_a_step_says_what_it_needs_to_pass(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.prepare()
    writer.begin(0)
    text = text_of(writer)
    assert "began: 10% of the requests; it needs 50 canary requests or more, and 4 s; answers of 25 ms" in text
    policy = POLICY.model_copy(update={"max_error_rate": 0.01})
    strict = Writer(tmp_path / "strict", policy)
    strict.prepare()
    strict.begin(0)
    needed = requests_needed(policy, NOTHING, 0)
    assert needed > 500, "until the error rate is known to be so low"
    assert f"it needs {needed:,} canary requests or more" in text_of(strict)


def test_a_step_that_a_person_promoted_needs_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.prepare()
    writer.tell("asked", what="promote", by="ann@desk")
    writer.begin(2)
    assert "began: 100% of the requests; answers of 25 ms" in text_of(writer)


def test_what_people_asked_for_is_told_with_their_names(tmp_path: Path) -> None:
    text = text_of(aborted(tmp_path))
    assert "bob@desk paused the rollout" in text and "bob@desk aborted the rollout" in text
    assert "was aborted by bob@desk" in text


def test_a_promotion_that_is_rolled_back_is_not_told_as_a_fail(tmp_path: Path) -> None:
    text = text_of(promotion_rolled_back(tmp_path))
    assert "bob@desk rolled back the promotion." in text
    assert "was rolled back by bob@desk." in text
    assert "1.0 became the default version again." in text


def test_an_outage_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    text = text_of(with_outage(tmp_path))
    assert text.count("The rollout waits: the gateway does not answer.") == 1
    assert "The wait ended after 16 s." in text
    assert text.count("Began registering 2.0") == 1, "a kill came between the first try and the second"
    assert "Began checking" not in text, "what was done is told once"


def test_an_edited_policy_says_what_changed(tmp_path: Path) -> None:
    text = text_of(with_edited_policy(tmp_path))
    assert "alpha from 0.01 to 0.001" in text
    assert "steps from 10 50 100 to 10 75 100" in text
    assert "1 / alpha = 1,000" in text


def test_a_fail_before_the_first_request_says_so(tmp_path: Path) -> None:
    text = text_of(failed_to_load(tmp_path))
    assert "The canary failed before the first step: 2.0 <crashes> & burns on local." in text
    assert "No request had reached the canary." in text
    assert "e-value is" not in text, "no evidence was judged"


def test_what_is_slow_may_be_known_late(tmp_path: Path) -> None:
    assert "Stable has answered often enough: answers of 50 ms or more are slow." in text_of(late_slow(tmp_path))


@given(st.integers(1, 40))
def test_telling_entries_as_they_come_is_telling_them_all(tmp_path_factory: pytest.TempPathFactory, part: int) -> None:
    entries = rolled_back(tmp_path_factory.mktemp("journal")).entries
    narrator = Narrator()
    lines = [line for entry in entries[:part] for line in narrator.narrate(entry, after(narrator.state, entry))]
    assert narrator.story == story(entries[:part]), "it may be asked for at any time"
    lines += [line for entry in entries[part:] for line in narrator.narrate(entry, after(narrator.state, entry))]
    assert narrator.story == story(entries)
    assert [line for line in lines if line.kind != "doing"] == list(story(entries).told)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (41, "41 s"), (310, "5 min 10 s"), (7200, "2 h"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("log_e", "text"),
    [
        (float("-inf"), "0"), (0.0, "1"), (-3.4739, "0.031"), (4.8752, "131"), (4.60517, "100"), (11.5, "98,716"),
        (11.6, "1.1e+05"), (-11.5, "1.0e-05"), (5000.0, "3.0e+2171"), (13.8155, "1.0e+06"), (16.118, "1.0e+07"),
    ],
)  # fmt: skip
def test_e_values_of_any_size(log_e: float, text: str) -> None:
    assert e_text(log_e) == text


def test_times_have_their_offset() -> None:
    assert when(BEGIN, UTC) == "2026-11-25 09:30:00 +00:00"
    assert when(BEGIN, timezone(timedelta(hours=-3.5))) == "2026-11-25 06:00:00 -03:30"


def test_needed_requests_in_words() -> None:
    assert needed_text(0) == ""
    assert needed_text(1234) == "about 1,234 more requests of the canary"
    assert "can be waited for" in needed_text(MOST_REQUESTS)


@pytest.mark.parametrize("write", [promoted, rolled_back, aborted, promotion_rolled_back, failed_to_load])
def test_a_rollout_that_has_ended_is_not_judged_again(
    write: Callable[[Path], Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = read(write(tmp_path).path)
    recorded = [entry.event.judgement for entry in entries if isinstance(entry.event, VerdictReached)]

    def refuse(*arguments: object) -> None:
        pytest.fail("it was judged again")

    monkeypatch.setattr("tsctl.rollout.decide.state.judge", refuse)
    monkeypatch.setattr("tsctl.views.rollout.series.log_e_values", refuse)
    sentences = [sentence for sentence in story(entries).told if sentence.kind == "verdict"]
    assert [sentence.judgement for sentence in sentences] == recorded
    assert "</html>" in render_report(entries, UTC)
    as_json(fold(entries))


def test_a_verdict_without_a_recorded_judgement_says_so(tmp_path: Path) -> None:
    entries = rolled_back(tmp_path).entries
    [*before, verdict, back, done, ended] = entries
    assert isinstance(verdict.event, VerdictReached)
    bare = replace(verdict, event=replace(verdict.event, judgement=None))
    assert "The journal records no evidence for it." in story([*before, bare, back, done, ended]).told[-3].text
