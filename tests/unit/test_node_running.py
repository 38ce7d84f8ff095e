"""`tsctl node running` answers for scripts whether a node runs from this folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tsctl.cli.main import run
from tsctl.host.process import identify


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tsctl", "node", "running"])
    return tmp_path


def record_node(project: Path, name: str, started_ticks: int) -> None:
    record = project / ".tsctl" / "nodes" / name / "node.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"pid": os.getpid(), "started_ticks": started_ticks, "tmp": "x"}) + "\n")


def exit_code() -> object:
    with pytest.raises(SystemExit) as ended:
        run()
    return ended.value.code


def test_a_node_that_runs_is_printed_with_its_record(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_node(project, "stale", 1)
    record_node(project, "local", identify(os.getpid()).started_ticks)
    assert exit_code() == 0
    assert capsys.readouterr().out == f"pid {os.getpid()}, .tsctl/nodes/local/node.json\n"


@pytest.mark.parametrize("is_recorded", [False, True])
def test_without_one_the_exit_code_is_1(project: Path, is_recorded: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if is_recorded:
        record_node(project, "stale", identify(os.getpid()).started_ticks - 1)
    assert exit_code() == 1
    assert capsys.readouterr().out == ""


def test_a_damaged_record_is_neither(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_node(project, "local", 1)
    (project / ".tsctl" / "nodes" / "local" / "node.json").write_text("{")
    assert exit_code() == 4
    assert "is damaged" in capsys.readouterr().err
