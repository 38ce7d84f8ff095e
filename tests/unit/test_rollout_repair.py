"""`tsctl rollout repair`: what can be read stays, what is lost is told, and one model's journals bar no other model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.rollout_journals import Writer, aborted, promoted
from tsctl.cli import rollout as commands
from tsctl.cli import rollout_views
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError, ConflictError
from tsctl.host.locks import exclusive
from tsctl.rollout.decide.actions import next_action
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.run.journal_files import folder, unfinished
from tsctl.rollout.run.journal_lines import LaterJournal, read
from tsctl.rollout.run.repair import repair


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    (tmp_path / "deployment.yaml").write_text("nodes: {local: {}}\ngateway: {}\n")
    return Project(tmp_path)


def in_step(project: Project) -> Writer:
    writer = Writer(folder(project, "digits"))
    writer.prepare()
    writer.pass_step(0)
    writer.begin(1)
    writer.ticks(2)
    return writer


def damage(path: Path, number: int, line: bytes = b"\x00") -> bytes:
    lines = path.read_bytes().splitlines()
    lines[number] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path.read_bytes()


@pytest.mark.parametrize("number", [1, 5, -1])
def test_a_rollout_with_a_lost_entry_can_only_be_rolled_back(project: Project, number: int) -> None:
    path = in_step(project).path
    count = len(read(path))
    damaged = damage(path, number)
    with pytest.raises(AnalysisError):
        unfinished(project, "digits")
    [mended] = repair(project, "digits")
    assert (mended.id, mended.lost, mended.outcome) == (path.stem, 1, None)
    assert mended.kept_as.read_bytes() == damaged
    entries = read(path)
    assert len(entries) == count  # one is lost, and one says so
    assert unfinished(project, "digits") == path.stem
    state = fold(entries)
    assert (state.is_going_back, state.weight, next_action(state)) == (True, TOTAL, Effect.REVERT_WEIGHT)
    assert repair(project, "digits") == []


def test_a_rollout_that_had_ended_has_ended_as_it_did(project: Project) -> None:
    path = promoted(folder(project, "digits")).path
    damage(path, 8)
    [mended] = repair(project, "digits")
    assert mended.outcome is Outcome.PROMOTED
    assert fold(read(path)).outcome is Outcome.PROMOTED
    assert unfinished(project, "digits") is None


def test_an_earlier_rollout_whose_end_is_lost_has_ended(project: Project) -> None:
    first = aborted(folder(project, "digits")).path
    damage(first, -1)
    in_step_path = Writer(folder(project, "digits"), begin=1_795_599_000.0 + 3600).path
    [mended] = repair(project, "digits")
    assert (mended.id, mended.outcome) == (first.stem, Outcome.ABORTED)
    assert unfinished(project, "digits") == in_step_path.stem


@pytest.mark.parametrize("content", [b"\x00\xff\n", b"{}\n[]\n"])
def test_a_journal_without_its_start_is_moved_aside(project: Project, content: bytes) -> None:
    path = in_step(project).path
    path.write_bytes(content)
    [mended] = repair(project, "digits")
    assert (mended.is_readable, mended.kept_as.read_bytes(), path.exists()) == (False, content, False)
    assert unfinished(project, "digits") is None


def test_entries_from_the_middle_of_a_rollout_are_none(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = in_step(project).path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[12:]))
    commands.repair("digits")
    shown = capsys.readouterr().out
    assert f"the damaged file is kept as .tsctl/rollouts/digits/{path.stem}.damaged-1" in shown
    assert "tsctl weights set digits VERSION=100%" in shown
    Writer(folder(project, "digits"))
    commands.repair("digits")
    assert "no journal of digits is damaged" in capsys.readouterr().out


def test_a_journal_of_a_later_version_is_left_as_it_is(project: Project) -> None:
    path = in_step(project).path
    first = json.loads(path.read_bytes().splitlines()[0]) | {"version": 99}
    content = damage(path, 0, json.dumps(first).encode())
    with pytest.raises(LaterJournal):
        repair(project, "digits")
    last = Writer(folder(project, "digits"), begin=1_795_599_000.0 + 3600)
    last.prepare()
    damage(last.path, 2)
    assert [mended.id for mended in repair(project, "digits")] == [last.path.stem]
    assert path.read_bytes() == content


def test_a_model_without_a_rollout_has_nothing_to_repair(project: Project) -> None:
    with pytest.raises(AnalysisError, match="there is no rollout of words"):
        repair(project, "words")
    assert not folder(project, "words").exists()


def test_a_journal_that_a_process_writes_is_not_repaired(project: Project) -> None:
    path = in_step(project).path
    content = damage(path, 3)
    with exclusive(path.parent / "lock", "x"), pytest.raises(ConflictError):
        repair(project, "digits")
    assert path.read_bytes() == content


def test_the_error_names_the_command_that_mends(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    damage(in_step(project).path, 3)
    with pytest.raises(AnalysisError) as error:
        rollout_views.status("digits")
    assert "tsctl rollout repair digits" in error.value.hint
    commands.repair("digits", json=True)
    [mended] = json.loads(capsys.readouterr().out)
    assert (mended["lost"], mended["outcome"]) == (1, None)
    rollout_views.explain("digits")
    assert "repaired the journal: 1 line could not be read" in " ".join(capsys.readouterr().out.split())


def test_a_damaged_journal_of_one_model_hides_no_rollout_of_another(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(in_step(project).path, 3)
    Writer(folder(project, "words"), model="words")
    with pytest.raises(AnalysisError, match="line 4") as error:
        rollout_views.status()
    assert "tsctl rollout repair digits" in error.value.hint
    assert "words: 2.0 against 1.0" in capsys.readouterr().out
    rollout_views.status("words")
