"""Labels as evidence of a rollout: paired by their order alone, read from files, judged, forecast and told."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile
from tests.unit.fakes import POLICY, FakeSite
from tests.unit.test_rollout_run import begin, run
from tsctl.config.policy import RolloutPolicy
from tsctl.records.database import Place
from tsctl.records.labels import add
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.judge import Verdict, judge
from tsctl.rollout.decide.labels import NO_LABELS, LabelCounts, count_labelled
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.evidence.labels import AGAIN_S, LabelReader
from tsctl.rollout.forecast.forecast import RecentTraffic, forecast_rollout
from tsctl.rollout.forecast.power import fails, labels_needed
from tsctl.rollout.run.journal_lines import read
from tsctl.statistics.sequential import rejects
from tsctl.views.rollout.forecast import labels_table
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.tables import rates_table

LABELS = POLICY.model_copy(update={"signals": ("errors", "labels")})
STABLE_RIGHT, STABLE_WRONG, CANARY_RIGHT, CANARY_WRONG = (False, False), (False, True), (True, False), (True, True)
ITEMS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)
#: Equal versions, and a canary that is wrong twice as often as stable.
EQUAL = LabelCounts(2_000, 100, 2_000, 100, 2_000, stable_alone=95, canary_alone=95)
WORSE = LabelCounts(2_000, 100, 2_000, 200, 2_000, stable_alone=90, canary_alone=190)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_an_item_is_paired_with_the_last_one_of_the_other_version_that_is_alone() -> None:
    items = [STABLE_RIGHT, STABLE_WRONG, CANARY_RIGHT, CANARY_WRONG, CANARY_WRONG, STABLE_WRONG, STABLE_RIGHT]
    assert count_labelled(items) == LabelCounts(4, 2, 3, 2, 3, stable_alone=1, canary_alone=1)
    assert count_labelled([]) == NO_LABELS


@given(ITEMS, ITEMS)
def test_later_labels_change_no_pair_and_no_label_decides_who_is_paired(
    items: list[tuple[bool, bool]], more: list[tuple[bool, bool]]
) -> None:
    before, after = count_labelled(items), count_labelled([*items, *more])
    for name in ("pairs", "stable_alone", "canary_alone", "stable", "canary"):
        assert getattr(after, name) >= getattr(before, name)
    assert before.pairs == min(before.stable, before.canary)
    flipped = count_labelled([(is_canary, not is_wrong) for is_canary, is_wrong in items])
    assert (flipped.pairs, flipped.stable_alone, flipped.canary_alone) == (
        before.pairs, before.canary_alone, before.stable_alone,
    )  # fmt: skip


def test_identical_versions_are_rarely_held_wrong_however_often_their_labels_are_read() -> None:
    draw = random.Random(1)  # noqa: S311 - a fixed seed
    alpha, failed, runs = 0.05, 0, 2_000
    for _ in range(runs):
        stable_alone = canary_alone = 0
        for _ in range(60):  # pairs with one wrong item: the others say nothing
            is_canary = draw.random() < 0.5
            stable_alone, canary_alone = stable_alone + (not is_canary), canary_alone + is_canary
            if rejects(LabelCounts(stable_alone=stable_alone, canary_alone=canary_alone).log_e, alpha):
                failed += 1
                break
    assert 0 < failed <= alpha * runs


def test_the_labels_that_the_plan_names_find_four_of_five_within_a_factor_of_two() -> None:
    base, rate = 0.05, 0.10
    needed = labels_needed(LABELS, base, rate)
    assert needed is not None

    def found(pairs: int) -> float:
        draw = random.Random(2)  # noqa: S311 - a fixed seed
        seen = 0
        for _ in range(200):
            items = [(bool(n % 2), draw.random() < (rate if n % 2 else base)) for n in range(2 * pairs)]
            seen += fails(LABELS, "labels", count_labelled(items).log_e, -float("inf"))
        return seen / 200

    assert found(needed // 2) < 0.8 <= found(needed * 2)
    assert labels_needed(LABELS, base, base) is None


# ---- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "verdict", "why"),
    [
        (NO_LABELS, Verdict.PASS, "no signal counts against it"),
        (EQUAL, Verdict.PASS, "no signal counts against it"),
        (WORSE, Verdict.FAIL, "10.00% of the canary's labelled items are wrong, against 5.00% of stable's"),
    ],
)
def test_only_a_canary_that_is_wrong_more_often_fails(labels: LabelCounts, verdict: Verdict, why: str) -> None:
    window = Window(500, OutcomeCounts(10_000), OutcomeCounts(500))
    evidence = replace(no_evidence(LABELS, ()).seen(window), labels=labels)
    judgement = judge(LABELS, evidence, 3_600, 500)
    assert (judgement.verdict, judgement.why) == (verdict, why)
    waits = judge(LABELS.model_copy(update={"min_labels": 2_500}), evidence, 3_600, 500)
    assert waits.verdict is (Verdict.FAIL if labels == WORSE else Verdict.UNDECIDED)
    if labels == EQUAL:
        assert waits.why == "500 more labelled items of the canary"
    unnamed = judge(POLICY, evidence, 3_600, 500)
    assert unnamed.verdict is Verdict.PASS, "a policy that does not name labels does not judge them"


def ended(tmp_path: Path, labels: LabelCounts, policy: RolloutPolicy) -> State:
    return run(begin(tmp_path, FakeSite(policy=policy, labels=labels), policy), FakeSite(policy=policy, labels=labels))


def test_a_canary_with_worse_labels_is_rolled_back_and_an_equal_one_is_promoted(tmp_path: Path) -> None:
    for name, labels, outcome in (("worse", WORSE, Outcome.ROLLED_BACK), ("equal", EQUAL, Outcome.PROMOTED)):
        folder = tmp_path / name
        folder.mkdir()
        state = ended(folder, labels, LABELS)
        assert state.outcome is outcome, state.why
        assert state.evidence.labels == labels
        [path] = folder.rglob("*.jsonl")
        entries = read(path)
        assert fold(entries).evidence.labels == labels, "the journal has them"
        told = story(entries)
        if outcome is Outcome.ROLLED_BACK:
            assert state.signal == "labels"
            assert "10.00% of the canary's labelled items are wrong" in " ".join(each.text for each in told.told)
            table = rates_table(state.judgement.readings, "1.0", "2.0")
            assert ("wrong by their label", "1.0", "100", "2,000", "5.00%") in [row[:5] for row in table.rows]
        assert not any("No labels" in gap for gap in told.gaps)


def test_without_labels_a_rollout_says_that_nothing_was_compared(tmp_path: Path) -> None:
    state = ended(tmp_path, NO_LABELS, LABELS)
    assert state.outcome is Outcome.PROMOTED
    [path] = tmp_path.rglob("*.jsonl")
    assert any("No labels were compared" in gap and "tsctl labels add" in gap for gap in story(read(path)).gaps)


def test_a_least_number_of_labels_needs_the_signal() -> None:
    with pytest.raises(ValueError, match="min_labels needs the signal labels: name it in signals"):
        RolloutPolicy(min_labels=5)


# ---- from files ------------------------------------------------------------------------------------------------------


class Files:
    """Records of a rollout, and labels."""

    def __init__(self, path: Path, state: State) -> None:
        self.path, self.state, self.now = path, state, 0.0
        (path / "records").mkdir()
        self.reader = LabelReader(path / "labels", lambda: [Place("a", str(path / "records"))], lambda: self.now)

    def record(self, name: str, version: str, predicted: str = "cat", at: float = 1.0, **columns: Any) -> None:
        track = "canary" if version == self.state.canary else "stable"
        line = {
            "time_us": round((self.state.started_at + at) * 1e6), "request_id": name, "row": 0, "model": "digits",
            "version": version, "track": track, "chosen_by": "weight", "label": predicted, "status": 200, **columns,
        }  # fmt: skip
        file = RecordFile(1_764_150_000_000, 9_999_999_999_999, RECORDS, f"w_{name}_{version[0]}", CLOSED_SEGMENT)
        (self.path / "records" / file.name).write_text(json.dumps(line) + "\n")

    def label(self, **labels: str) -> None:
        file = self.path / "given.csv"
        file.write_text("request_id,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
        add(self.path / "labels", file)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    site = FakeSite(policy=LABELS)
    (tmp_path / "rollout").mkdir()
    path = begin(tmp_path / "rollout", site, LABELS)
    state = fold(read(path))
    return Files(tmp_path, state)


def test_recorded_and_labelled_requests_that_were_assigned_at_random_are_read(files: Files) -> None:
    model = files.state.model
    for name, version, columns in (
        ("s1", "1.0", {}), ("s2", "1.0", {}), ("c1", "2.0", {}), ("c2", "2.0", {}),
        ("unlabelled", "2.0", {}), ("pinned", "2.0", {"chosen_by": "path"}), ("tester", "2.0", {"chosen_by": "header"}),
        ("early", "2.0", {"at": -5.0}), ("shadowed", "2.0", {"track": "shadow"}), ("other", "2.0", {"model": "x"}),
    ):  # fmt: skip
        given: dict[str, Any] = {"model": model, **columns}
        files.record(name, version, **given)
    assert files.reader.read(files.state) is None, "there are no labels yet"
    files.label(s1="cat", s2="dog", c1="dog", c2="dog", pinned="dog", tester="dog", early="dog", shadowed="dog")
    assert files.reader.read(files.state) == LabelCounts(2, 1, 2, 2, 2, stable_alone=0, canary_alone=1)


def test_labels_are_read_again_when_some_were_added_and_now_and_then_for_records_that_come_later(files: Files) -> None:
    model = files.state.model
    files.record("s1", "1.0", model=model, at=1.0)
    files.record("c1", "2.0", model=model, at=2.0)
    files.label(s1="cat", c1="dog", c2="dog")
    first = LabelCounts(1, 0, 1, 1, 1, canary_alone=1)
    assert files.reader.read(files.state) == first
    files.record("c2", "2.0", model=model, at=3.0)
    files.now = AGAIN_S - 1
    assert files.reader.read(files.state) is None
    files.now = AGAIN_S
    assert files.reader.read(files.state) == LabelCounts(1, 0, 2, 2, 1, canary_alone=1)
    files.label(c1="cat")  # a correction keeps its place
    assert files.reader.read(files.state) == LabelCounts(1, 0, 2, 1, 1)


def test_labels_of_a_sticky_route_or_of_a_policy_without_them_are_not_read(files: Files) -> None:
    files.record("c1", "2.0", model=files.state.model)
    files.label(c1="dog")
    assert files.reader.read(replace(files.state, sticky="header x-user")) is None
    assert files.reader.read(replace(files.state, policy=POLICY)) is None
    assert files.reader.read(files.state) == LabelCounts(canary=1, canary_wrong=1)


# ---- forecast --------------------------------------------------------------------------------------------------------


def test_a_plan_says_how_many_labels_it_needs() -> None:
    traffic = RecentTraffic(50.0, 0.001, 0.05, 600.0, 30_000)
    forecast = forecast_rollout(LABELS, traffic, wrong_share=0.05)
    assert [round(each.rate, 3) for each in forecast.labels] == [0.075, 0.1]
    [half, twice] = [each.items for each in forecast.labels]
    assert half is not None and twice is not None and 100 < twice < half
    assert [row[0] for row in labels_table(forecast.labels).rows] == ["7.50%", "10.00%"]
    assert any("min_labels is 0" in warning for warning in forecast.warnings)
    unknown = forecast_rollout(LABELS, traffic, is_by_user=True)
    assert any("Stable has no labelled items" in warning for warning in unknown.warnings)
    assert any("not compared on a sticky route" in warning for warning in unknown.warnings)
    assert forecast_rollout(POLICY, traffic).labels == ()
