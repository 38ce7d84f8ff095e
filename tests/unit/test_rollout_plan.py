"""`tsctl rollout plan` reads the access log and the policy, and prints tables and sentences, or JSON."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tsctl.archive.container import MANIFEST
from tsctl.archive.store import make_current, write_archive
from tsctl.cli.rollout_views import plan
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

DEPLOYMENT = """
nodes:
  local: {}
gateway: {}
models:
  digits:
    default: "1.0"
    versions: {"1.0": {}, "2.0": {}}
    route: {sticky: {header: x-user-id}}
    rollout: {steps: [5, 100], hold_s: 120}
"""
REQUESTS, ERRORS = 3000, 30

app = typer.Typer()
app.command()(plan)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The access log of a project with digits 1.0 and an archive of 2.0."""
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    manifest = {"modelName": "digits", "modelVersion": "2.0", "handler": "handler.py"}
    entries = {MANIFEST: json.dumps({"model": manifest}).encode()}
    make_current(Project(tmp_path), write_archive(entries, Project(tmp_path).store, "digits", "2.0"))
    path = tmp_path / ".tsctl" / "gateway" / "logs" / "access.log"
    path.parent.mkdir(parents=True)
    return path


def write(log: Path) -> None:
    """Fifty requests a second in the last minute; one of a hundred fails."""
    lines = []
    begin = time.time() - 60
    for number in range(REQUESTS):
        fields = {
            "time": datetime.fromtimestamp(begin + 60 * number / REQUESTS, UTC).isoformat(), "model": "digits",
            "version": "1.0", "by": "weight", "track": "stable", "weight": "10000", "class": None,
            "status": 500 if number % (REQUESTS // ERRORS) == 0 else 200, "duration_ms": number % 100,
        }  # fmt: skip
        lines.append(json.dumps(fields))
    log.write_text("\n".join(lines) + "\n")


def test_tables_and_sentences_for_people(log: Path) -> None:
    write(log)
    lines = CliRunner().invoke(app, ["digits", "2.0"], catch_exceptions=False).output.splitlines()
    assert lines[0].startswith("digits: ")
    assert re.search(r" requests/s in the last \d+ s, 1.00% errors and 6.00% slow answers of stable$", lines[0])
    assert lines[2].split()[:4] == ["STEP", "REQUESTS", "ON", "CANARY"]
    assert [line.split()[0] for line in lines[3:5]] == ["5%", "100%"]
    assert lines[4].split()[-1] == "-"
    assert [line.split()[0] for line in lines[7:10]] == ["2.00%", "5.00%", "10.00%"]
    assert "rolled back" in lines[9]
    assert lines[11].startswith("digits 2.0 would be promoted after ")
    assert any("sticky" in line for line in lines[12:])


def test_json_for_machines(log: Path) -> None:
    write(log)
    forecast = json.loads(CliRunner().invoke(app, ["digits", "2.0", "--json"], catch_exceptions=False).output)
    assert (forecast["model"], forecast["version"], forecast["policy"]["steps"]) == ("digits", "2.0", [500, 10_000])
    assert forecast["traffic"]["requests_per_s"] == pytest.approx(50, rel=0.1)
    assert forecast["traffic"]["error_rate"] == pytest.approx(ERRORS / REQUESTS)
    assert [step["weight"] for step in forecast["steps"]] == [500, 10_000]
    assert [fault["fate"] for fault in forecast["faults"]] == ["promoted", "rolled back", "rolled back"]


def test_without_traffic_it_says_so(log: Path) -> None:
    output = CliRunner().invoke(app, ["digits", "2.0", "--minutes", "5"], catch_exceptions=False).output
    assert "0.0 requests/s in the last 5 min\n" in output
    assert "would not be promoted" in output
    assert "No requests in the last 5 min: without traffic nothing can be seen" in output


def test_what_has_no_archive_is_not_planned(log: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no archive of digits 3\.0"):
        CliRunner().invoke(app, ["digits", "3.0"], catch_exceptions=False)
