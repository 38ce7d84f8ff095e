"""What people ask of a rollout that another process runs: nothing is lost, and nothing reaches another rollout."""

from __future__ import annotations

from pathlib import Path

from tsctl.config.project import Project
from tsctl.rollout.decide.events import Command
from tsctl.rollout.run import commands as control
from tsctl.rollout.run.journal import folder


def test_every_question_is_told_in_its_order_until_it_is_answered(tmp_path: Path) -> None:
    project = Project(tmp_path)
    folder(project, "m").mkdir(parents=True)
    assert control.asked(project, "m") == []
    control.ask(project, "m", Command.ABORT)
    control.ask(project, "m", Command.PAUSE)
    assert [what for what, _ in control.asked(project, "m")] == ["abort", "pause"]
    control.ask(project, "m", Command.RESUME)  # before the first two are in the journal
    assert [what for what, _ in control.asked(project, "m")] == ["abort", "pause", "resume"]
    control.ask(project, "m", Command.PROMOTE)
    control.answered(project, "m")
    assert control.asked(project, "m") == [("promote", control.who())]
    assert [what for what, _ in control.asked(project, "m")] == ["promote"]
    control.answered(project, "m")
    assert control.asked(project, "m") == []


def test_what_nobody_has_read_is_not_asked_of_the_next_rollout(tmp_path: Path) -> None:
    project = Project(tmp_path)
    folder(project, "m").mkdir(parents=True)
    control.ask(project, "m", Command.ABORT)
    control.asked(project, "m")
    control.ask(project, "m", Command.PROMOTE)
    control.forget(project, "m")
    assert control.asked(project, "m") == []
