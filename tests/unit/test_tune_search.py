"""A search with a measurer that knows the answer: what it tries, when it ends, and how it goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tuning import PRESENT, measure_of, score, space
from tsctl.errors import AnalysisError, SpecError
from tsctl.host.progress import Note, quiet_progress
from tsctl.tune.choice import ROUNDS, verdict
from tsctl.tune.journal import Journal, Notes
from tsctl.tune.measure import Invalid
from tsctl.tune.objective import Score
from tsctl.tune.proposer import Proposer, replay
from tsctl.tune.search import REPEAT_EVERY, Bounds, Search
from tsctl.tune.space import Settings, Space
from tsctl.tune.trials import Trial, searched

UNBOUNDED = Bounds(trials=12, search_s=1e9, promote_s=1e9, end_s=1e9, base_s=1.0)


def goodput(settings: Settings) -> float:
    """Two workers are best, and a batch of 16."""
    return 100.0 * settings.workers / (1 + abs(settings.batch - 16) / 16)


def search(
    measure: Callable[[Settings, float, Note], Score] | None = None,
    bounds: Bounds = UNBOUNDED,
    trials: list[Trial] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    within: Space | None = None,
) -> tuple[Search, list[Trial]]:
    """A search that has not begun, and what it will keep."""
    proposer = Proposer(within or space(), seed=3)
    replay(proposer, trials or [])
    kept: list[Trial] = []
    made = Search(proposer, measure or measure_of(goodput), bounds, quiet_progress(), kept.append, clock, trials or [])
    return made, kept


def test_it_finds_good_settings_and_proves_them_in_turn() -> None:
    made, kept = search()
    made.run()
    tried = searched(kept)
    assert len(tried) == len({trial.settings for trial in tried}) == 12
    assert tried[0].settings == PRESENT
    found = verdict(made.trials, PRESENT, 50)
    assert found.is_better
    assert found.chosen is not None
    assert goodput(found.chosen) >= 0.95 * 200
    proof = [trial.kind for trial in kept if trial.round]
    assert proof == ["before", "after", "after", "before", "before", "after", "after", "before", "before", "after"]


def test_the_best_one_is_measured_again_now_and_then() -> None:
    made, kept = search()
    made.run()
    kinds = [trial.kind for trial in kept if trial.kind in ("search", "repeat")]
    assert kinds.count("repeat") == 12 // REPEAT_EVERY
    assert kinds[REPEAT_EVERY] == "repeat"


def test_short_loads_send_most_of_the_others_home() -> None:
    made, kept = search()
    made.run()
    states = [trial.state for trial in searched(kept)]
    assert states[0] == "complete", "the present settings are measured whole"
    assert states.count("pruned") >= 4
    assert all(len(trial.scores) == 1 for trial in kept if trial.state == "pruned")


def test_one_change_that_must_not_serve_is_not_tried_again() -> None:
    def measure(settings: Settings, seconds: float, note: Note) -> Score:
        if settings.is_lowered:
            raise Invalid("not the golden answer")
        return score(goodput(settings), seconds=seconds)

    made, kept = search(measure, replace(UNBOUNDED, trials=30))
    made.run()
    alone = [trial for trial in searched(kept) if trial.settings.is_lowered and not trial.settings.compile]
    assert len(alone) == 1
    assert alone[0].state == "invalid"
    assert "golden" in alone[0].reason
    after = kept[kept.index(alone[0]) + 1 :]
    assert not any(trial.settings.is_lowered for trial in after)


def test_it_ends_in_time_and_leaves_time_for_the_proof() -> None:
    ticks = itertools.count(0.0, 1.0)
    made, kept = search(bounds=replace(UNBOUNDED, trials=1000, search_s=30, promote_s=30), clock=lambda: next(ticks))
    made.run()
    assert 5 <= len(searched(kept)) < 30
    assert sum(trial.kind == "after" for trial in kept) == ROUNDS
    made, kept = search(bounds=replace(UNBOUNDED, end_s=-1.0))
    made.run()
    assert not any(trial.round for trial in kept)


def test_a_space_that_was_tried_whole_ends_the_search() -> None:
    small = space(batches=(16,))
    made, kept = search(bounds=replace(UNBOUNDED, trials=1000), within=small)
    made.run()
    assert {trial.settings for trial in searched(kept)} == set(small.points())


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    calls = itertools.count()

    def interrupted(settings: Settings, seconds: float, note: Note) -> Score:
        if next(calls) == 9:
            raise KeyboardInterrupt
        return score(goodput(settings), seconds=seconds)

    journal = Journal(tmp_path / "j.jsonl", {"archive": "abc", "slo_p99_ms": 50.0})
    journal.begin(Notes(8, 1.0))
    made, _ = search(interrupted)
    made._keep = journal.add
    with pytest.raises(KeyboardInterrupt):
        made.run()
    with journal.path.open("a") as file:
        file.write('{"kind": "sea')
    notes, trials = journal.resume()
    assert notes == Notes(8, 1.0)
    assert trials == made.trials
    assert 2 <= len(trials) < 12
    again, kept = search(trials=trials)
    again.run()
    assert len(searched(again.trials)) == 12
    assert not {trial.settings for trial in searched(kept)} & {trial.settings for trial in searched(trials)}
    journal.add(kept[0])
    assert journal.resume()[1] == [*trials, kept[0]], "the half line was removed"


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", {"archive": "abc", "slo_p99_ms": 50.0})
    with pytest.raises(SpecError, match="no search to resume"):
        journal.resume()
    journal.begin(Notes(8, 1.0))
    with pytest.raises(SpecError, match=r"slo_p99_ms was 50\.0, and is 20\.0"):
        replace(journal, head={"archive": "abc", "slo_p99_ms": 20.0}).resume()
    journal.path.write_text(json.dumps({"form": 1}) + "\n[]\n")
    with pytest.raises((AnalysisError, SpecError)):
        journal.resume()


def test_proposals_are_the_same_for_one_seed() -> None:
    first, second = (search()[0] for _ in range(2))
    first.run()
    second.run()
    assert [trial.settings for trial in first.trials] == [trial.settings for trial in second.trials]


def test_a_trial_of_another_search_is_not_learned() -> None:
    stray = replace(space().present, batch=77)
    made, _ = search(trials=[])
    with pytest.raises(AnalysisError, match=r"is none of this search: .* batch 77"):
        replay(made._proposer, [Trial("search", stray, "pruned", (score(1.0, seconds=1.0),))])
