"""The journal: on the disk before it counts, readable wherever a kill cut it off, and never quietly wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rollout_journals import POLICY, started
from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError
from tsctl.rollout.decide.events import Ended, Outcome, StepBegan, Tick
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.interventions import PolicyChanged, Reopened
from tsctl.rollout.decide.stored import LaterEvent, Unknown, parse_event, to_json
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import folder, journals, new_id, new_path, require_none, unfinished
from tsctl.rollout.run.journal_lines import FORMAT, DamagedJournal, LaterJournal, read
from tsctl.views.rollout.narrative import story

START = started("m")


def written(path: Path) -> Journal:
    journal = Journal(path, lambda: 1000.0)
    journal.append(START)
    journal.append(StepBegan(0, 500))
    journal.append(Tick(1.5))
    return journal


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    journal = written(tmp_path / "m" / "x.jsonl")
    found = read(journal.path)
    assert found == journal.entries == Journal(journal.path).entries
    assert [(entry.seq, entry.kind) for entry in found] == [(0, "started"), (1, "step"), (2, "tick")]
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_cut_off_at_any_byte_the_whole_lines_stay_and_writing_goes_on(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.jsonl").path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 0x0A]
    for length in range(len(whole) + 1):
        path = tmp_path / f"{length}.jsonl"
        path.write_bytes(whole[:length])
        journal = Journal(path)
        count = sum(end <= length for end in ends)
        assert len(journal.entries) == count
        journal.append(Unknown("more", {}) if count else START)
        more = "more" if count else "started"
        assert [entry.kind for entry in read(path)] == [*["started", "step", "tick"][:count], more]


@pytest.mark.parametrize(("number", "line"), [
    (0, "{"), (1, "[]"), (1, '{"seq":1}'), (2, '{"seq":3,"at":1,"kind":"tick"}'), (0, "\x00\x00"), (1, "nan"),
    (1, '{"seq":1,"at":1,"kind":"step","index":0}'), (0, '{"seq":0,"at":1,"kind":"tick"}'),
    (0, '{"seq":0,"at":1,"kind":"begun","version":"9"}'), (1, '{"seq":1,"at":1,"kind":[]}'),
    (1, '{"seq":true,"at":1,"kind":"tick"}'), (1, '{"seq":1,"at":"1","kind":"tick"}'),
    (1, '{"seq":1,"at":1e12,"kind":"tick"}'), (1, '{"seq":1,"at":NaN,"kind":"tick"}'), (1, "[" * 100_000),
    (1, '{"seq":1,"at":' + "9" * 5000 + ',"kind":"tick"}'),
])  # fmt: skip
def test_a_damaged_line_is_told_with_its_number(tmp_path: Path, number: int, line: str) -> None:
    path = written(tmp_path / "x.jsonl").path
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedJournal, match=f"line {number + 1}: ") as error:
        read(path)
    assert f"tsctl rollout repair {tmp_path.name}" in error.value.hint


def test_what_cannot_be_opened_is_damaged_as_well(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.mkdir()
    with pytest.raises(DamagedJournal, match="cannot be read"):
        read(path)


@pytest.mark.parametrize("change", ["removed", "folder removed", "cut", "longer", "replaced", "changed"])
def test_a_journal_that_somebody_changes_while_it_is_written_is_written_again(tmp_path: Path, change: str) -> None:
    journal = written(tmp_path / "m" / "x.jsonl")
    path, whole = journal.path, journal.path.read_bytes()
    match change:
        case "removed":
            path.unlink()
        case "folder removed":
            shutil.rmtree(path.parent)
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "longer":
            path.write_bytes(whole + b"garbage\n")
        case "replaced":
            path.rename(path.with_suffix(".old"))
            path.write_bytes(whole)
        case "changed":
            path.write_bytes(whole.replace(b"tick", b"tock"))
            os.utime(path, ns=(0, 0))
    journal.append(Tick(2.5))
    journal.append(Tick(3.5))
    found = read(path)
    assert found == journal.entries
    assert [entry.kind for entry in found] == ["started", "step", "tick", "repaired", "tick", "tick"]
    assert path.read_bytes().startswith(whole)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fold(found).outcome is None
    assert "it was written again, and nothing is lost" in " ".join(line.text for line in story(found).told)


@pytest.mark.parametrize("moment", ["opened", "synced"])
def test_a_journal_that_is_removed_amid_a_line_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Removed between the look at the file and its opening, or while the line is written to it."""
    journal = written(tmp_path / "m" / "x.jsonl")
    path, removed = journal.path, list[bool]()

    def struck(function: Callable[..., Any]) -> Callable[..., Any]:
        def strike(*arguments: Any) -> Any:
            if not removed:
                removed.append(True)
                path.unlink()
            return function(*arguments)

        return strike

    name = {"opened": "open", "synced": "fsync"}[moment]
    monkeypatch.setattr(os, name, struck(getattr(os, name)))
    journal.append(Tick(2.5), may_be_late=True)
    journal.append(Tick(3.5))
    assert read(path) == journal.entries
    assert [entry.event for entry in read(path) if isinstance(entry.event, Tick)] == [Tick(1.5), Tick(2.5), Tick(3.5)]


def test_nothing_is_written_where_another_process_runs_the_rollout(tmp_path: Path) -> None:
    def guard() -> None:
        raise ConflictError("another process has the lock")

    path = written(tmp_path / "x.jsonl").path
    before = path.read_bytes()
    with pytest.raises(ConflictError):
        Journal(path, guard=guard).append(Tick(1.0))
    assert path.read_bytes() == before


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    journal = written(tmp_path / "x.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(AnalysisError, match="cannot be written"):
            journal.append(Unknown("more", {"why": "x" * 100}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(read(journal.path)) == len(journal.entries) == 3
    journal.append(Unknown("more", {}))
    assert [entry.seq for entry in read(journal.path)] == [0, 1, 2, 3]


def test_which_rollout_has_not_ended(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert unfinished(project, "m") is None
    first = Journal(folder(project, "m") / f"{new_id('2.0', 0)}.jsonl")
    first.append(START)
    assert unfinished(project, "m") == "19700101T000000Z-2.0"
    with pytest.raises(ConflictError, match=r"the rollout 19700101T000000Z-2.0 of m has not ended"):
        require_none(project, "m")
    first.append(Ended(Outcome.PROMOTED, ""))
    assert unfinished(project, "m") is None
    require_none(project, "m")
    first.append(Reopened("me"))
    assert unfinished(project, "m") == first.id
    first.append(Ended(Outcome.ROLLED_BACK, ""))
    Journal(folder(project, "m") / f"{new_id('3.0', 60)}.jsonl").append(START)
    Journal(folder(project, "other") / f"{new_id('1.0', 30)}.jsonl").append(START)
    assert unfinished(project, "m") == "19700101T000100Z-3.0"
    assert [path.stem for path in journals(project)] == [
        "19700101T000000Z-2.0", "19700101T000030Z-1.0", "19700101T000100Z-3.0",
    ]  # fmt: skip
    assert json.loads(journals(project, "other")[0].read_text())["kind"] == "started"


def test_a_new_journal_is_the_newest_whatever_the_clock_says(tmp_path: Path) -> None:
    project = Project(tmp_path)
    ids = []
    for now in (1000.0, 1000.0, 1000.5, 5.0, 2000.0):  # twice in a second, and a clock that was set back
        journal = Journal(new_path(project, "m", "2.0", now))
        journal.append(START)
        ids.append(journal.id)
    assert ids == sorted(set(ids)) == [path.stem for path in journals(project, "m")]
    assert ids[-1] == new_id("2.0", 2000.0)


def test_a_clock_that_is_set_back_makes_no_entry_older_than_the_one_before(tmp_path: Path) -> None:
    now = [1000.0]
    journal = Journal(tmp_path / "x.jsonl", lambda: now[0])
    for at in (1000.0, 5000.0, 10.0, -3.0, 5001.0):
        now[0] = at
        journal.append(Tick(1.0) if journal.entries else START)
    assert [entry.at for entry in read(journal.path)] == [1000.0, 5000.0, 5000.0, 5000.0, 5001.0]


def test_a_later_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    journal = written(tmp_path / "x.jsonl")
    first, *others = journal.path.read_text().splitlines(keepends=True)
    assert json.loads(first)["version"] == FORMAT
    assert not [line for line in others if "version" in json.loads(line)]
    journal.path.write_text("".join([json.dumps({"seq": 0, "kind": "begun", "version": FORMAT + 1}) + "\n", *others]))
    with pytest.raises(AnalysisError, match=f"x.jsonl has format {FORMAT + 1}, and this tsctl reads formats up to"):
        read(journal.path)


@pytest.mark.parametrize("change", [
    {"policy": {**START.policy.model_dump(mode="json"), "rule_of_tomorrow": 1}},
    {"policy": {**START.policy.model_dump(mode="json"), "signals": ["errors", "sign_of_tomorrow"]}},
])  # fmt: skip
def test_a_policy_of_a_later_version_is_told_as_such_and_is_no_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    journal = written(tmp_path / "m" / "x.jsonl")
    first, *others = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text("".join([json.dumps(json.loads(first) | change) + "\n", *others]))
    with pytest.raises(LaterJournal, match="is of a later version of tsctl: started: policy") as error:
        read(journal.path)
    assert "Use the version of tsctl that wrote it" in error.value.hint


def test_a_file_that_is_not_named_as_a_journal_is_none(tmp_path: Path) -> None:
    project = Project(tmp_path)
    path = written(folder(project, "m") / "20260101T000000Z-2.0.jsonl").path
    (path.parent / "copy.jsonl").write_bytes(path.read_bytes())
    assert journals(project, "m") == [path]
    assert new_path(project, "m", "3.0", 0.0).stem == "20260101T000001Z-3.0"


def test_an_event_of_an_unknown_kind_changes_nothing_and_is_kept(tmp_path: Path) -> None:
    journal = written(tmp_path / "x.jsonl")
    before = fold(journal.entries)
    journal.append(Unknown("dreamt", {"of": "sheep"}))
    assert read(journal.path)[-1].event == Unknown("dreamt", {"of": "sheep"})
    assert fold(read(journal.path)) == before


def test_settings_of_older_policies_that_had_no_use_are_passed_over() -> None:
    old = {**POLICY.model_dump(mode="json"), "shadow_floor": 0.001, "signals": ["errors", "disagreement", "slow"]}
    event = parse_event("policy", {"policy": old})
    assert isinstance(event, PolicyChanged)
    assert event.policy == POLICY.model_copy(update={"signals": ("errors", "slow")})
    with pytest.raises(LaterEvent):
        parse_event("policy", {"policy": {**old, "signals": ["errors", "dreams"]}})


#: Journals that tsctl wrote before their format had a number.
OLD = sorted((Path(__file__).parent / "data" / "journals").glob("*.jsonl"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_journal_without_a_format_number_is_read(path: Path) -> None:
    entries = read(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(entries) == len(lines) > 0
    for entry, line in zip(entries, lines, strict=True):
        line.get("policy", {}).pop("shadow_floor", None)  # a setting that had no use, and is gone
        stored = {"seq": entry.seq, "at": entry.at, "kind": entry.kind, **to_json(entry.event)}
        assert {key: value for key, value in stored.items() if key in line} == line
        assert not [value for key, value in stored.items() if key not in line and value]
    assert story(entries).told[-1].kind == lines[-1]["kind"] or fold(entries).outcome is None
