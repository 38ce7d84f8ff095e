"""What people ask of a rollout that another process runs: nothing is lost, and nothing reaches another rollout."""

from __future__ import annotations

from pathlib import Path

from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.state import open_gateway
from tsctl.host.person import person
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.run.commands import LiveOperator, send
from tsctl.rollout.run.journal_files import folder
from tsctl.rollout.run.live_gateway import LiveGateway


def operator_of(project: Project) -> LiveOperator:
    project.deployment.write_text("nodes: {local: {}}\ngateway: {}\n")
    return LiveOperator(LiveGateway(open_gateway(project, read_deployment(project.deployment))), "m")


def test_every_question_is_told_in_its_order_until_it_is_answered(tmp_path: Path) -> None:
    project = Project(tmp_path)
    operator = operator_of(project)
    folder(project, "m").mkdir(parents=True)
    assert operator.commands() == []
    send(project, "m", Command.ABORT)
    send(project, "m", Command.PAUSE)
    assert [command for command, _ in operator.commands()] == ["abort", "pause"]
    send(project, "m", Command.RESUME)  # before the first two are in the journal
    assert [command for command, _ in operator.commands()] == ["abort", "pause", "resume"]
    send(project, "m", Command.PROMOTE)
    operator.acknowledge()
    assert operator.commands() == [("promote", person())]
    assert [command for command, _ in operator.commands()] == ["promote"]
    operator.acknowledge()
    assert operator.commands() == []


def test_what_nobody_has_read_is_not_asked_of_the_next_rollout(tmp_path: Path) -> None:
    project = Project(tmp_path)
    operator = operator_of(project)
    folder(project, "m").mkdir(parents=True)
    send(project, "m", Command.ABORT)
    operator.commands()
    send(project, "m", Command.PROMOTE)
    operator.forget()
    assert operator.commands() == []
