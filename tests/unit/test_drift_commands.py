"""`tsctl drift` as people call it: report, alarm and its end; and what each kind of bad input is told."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.drift import DEPLOYMENT, item, project_with, references, write_records
from tsctl.cli.drift import app
from tsctl.config.deployment import read_deployment
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.errors import AnalysisError, ArchiveError, SpecError, TsctlError
from tsctl.monitoring.drift import FIRST_S, follow, open_subject
from tsctl.monitoring.drift_metrics import FOLLOW_S, FollowedDrift
from tsctl.records.database import Place

OF = references()
RECORDED = {"share": 1.0}
DAY_S = 86_400.0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))
    return project_with(tmp_path, OF, RECORDED)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, TsctlError):
        raise result.exception
    return result


def document(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def recorded(project: Project, shift: float, items: int = 400, ago_s: float = 3600.0, version: str = "1.0") -> None:
    chance = random.Random(9)  # noqa: S311 - the same in each run
    start = time.time() - ago_s
    rows = [item(chance, shift) for _ in range(items)]
    write_records(project, rows, lambda number: start + number * 0.5 * ago_s / items, version)


def test_a_shifted_feature_is_reported_with_its_alarm(project: Project, tmp_path: Path) -> None:
    recorded(project, shift=1.0)
    page = tmp_path / "out" / "drift.html"
    [found] = document("report", "toy", "--html", str(page))
    assert (found["model"], found["version"], found["items"]) == ("toy", "1.0", 400)
    first = found["features"][0]
    assert (first["feature"], first["is_drift"], first["test"]) == ("input.width", True, "Kolmogorov-Smirnov")
    assert first["psi"] > 0.25 > first["psi_noise"]
    assert sum(first["counts"]) == 400
    assert len(first["counts"]) == len(first["bins"]) == len(first["reference"])
    assert [each["feature"] for each in found["features"] if each["is_drift"]] == ["input.width"]
    assert [cause["feature"] for cause in found["watch"]["alarm"]["causes"]] == ["input.width"]
    text = page.read_text()
    assert "Drift of toy 1.0" in text
    assert "raised at" in text
    assert "http" not in text.partition("<body>")[2], "it needs no second file"
    lines = run("report", "toy:1.0").stdout.splitlines()
    assert lines[0] == "toy 1.0: 400 recorded answers of the last 24 h against the reference"
    assert lines[1].split()[:3] == ["FEATURE", "VALUES", "PSI"]
    assert lines[2].split()[0] == "input.width"
    assert any(line.startswith("alarm: raised at") and "input.width (" in line for line in lines)


def test_unchanged_items_raise_no_alarm_and_each_counts_once(project: Project) -> None:
    recorded(project, shift=0.0)
    for _ in range(3):
        [state] = document("watch")
        assert (state["items"], state["alarm"]) == (400, None)
        assert state["evidence"] < 1
    [found] = document("report", "toy:1.0", "--hours", "2")
    assert [each["feature"] for each in found["features"] if each["is_drift"]] == []
    assert found["watch"]["items"] == 400
    assert "none in 400 items" in run("watch", "toy").stdout


def test_an_alarm_ends_when_it_is_accepted_or_over(project: Project) -> None:
    recorded(project, shift=1.5)
    assert document("watch", "toy:1.0")[0]["alarm"] is not None
    assert document("watch", "toy:1.0")[0]["alarm"] is not None, "it stays"
    assert "400 items belong to the reference" in run("reset", "toy:1.0", "--accept").stdout
    assert document("watch", "toy:1.0")[0]["alarm"] is None
    assert run("reset", "toy:1.0").stdout == "toy 1.0: the watch begins again\n"
    [state] = document("watch", "toy:1.0")
    assert (state["alarm"], state["items"]) == (None, 0)


def test_other_places_have_a_watch_of_their_own(project: Project) -> None:
    recorded(project, shift=1.5)
    folder = str(project.state / "nodes" / "local" / "records")
    assert document("watch", "toy:1.0", "--from", folder)[0]["items"] == 400
    run("reset", "toy:1.0", "--from", folder)
    assert document("watch", "toy:1.0")[0]["items"] == 400
    assert document("watch", "toy:1.0", "--from", folder)[0]["items"] == 0


def test_a_damaged_state_begins_again_and_says_so(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    recorded(project, shift=0.0)
    document("watch", "toy:1.0")
    (project.state / "drift" / "toy" / "1.0.json").write_text("{")
    assert document("watch", "toy:1.0")[0]["items"] == 400
    assert "is damaged, and the watch of toy 1.0 begins again" in caplog.text


def test_a_feature_without_a_reference_is_named(project: Project) -> None:
    chance = random.Random(9)  # noqa: S311 - the same in each run
    now = time.time()
    rows = [{**item(chance), "norm": 2.0} for _ in range(60)]
    write_records(project, rows, lambda number: now - 100 + number)
    text = run("report", "toy").stdout
    assert "not compared: prediction.norm: the reference of toy 1.0 has no such feature" in text


def test_versions_with_other_features_are_each_compared_with_their_own(tmp_path: Path, project: Project) -> None:
    fewer = {name: OF[name] for name in ("input.width", "prediction.label")}
    project_with(tmp_path, fewer, RECORDED, version="2.0")
    recorded(project, shift=0.0)
    recorded(project, shift=0.0, version="2.0")
    old, new = document("report", "toy")
    assert (old["version"], {each["feature"] for each in old["features"]}) == ("1.0", set(OF))
    assert (new["version"], {each["feature"] for each in new["features"]}) == ("2.0", set(fewer))
    assert new["unknown"] == sorted(OF.keys() - fewer.keys())


@pytest.mark.parametrize(
    ("of", "records", "name", "error", "reason", "hint"),
    [
        (None, RECORDED, "toy:1.0", ArchiveError, "the archive of toy 1.0 has no reference", "'reference: FILE'"),
        (None, RECORDED, "toy", ArchiveError, "the archive of toy 1.0 has no reference", "tsctl archive build toy"),
        (OF, None, "toy:1.0", ArchiveError, "toy 1.0 records nothing", "'records: {share: 0.01}'"),
        (OF, {"share": 0.0}, "toy", ArchiveError, "toy 1.0 records nothing", "roll the version out again"),
        (OF, RECORDED, "toy:1.0", AnalysisError, "the last one is 50.0 h old", "--hours 51"),
        (OF, RECORDED, "toy:3.0", ArchiveError, "no archive of toy 3.0", "There are: toy 1.0"),
        (OF, RECORDED, "other", SpecError, "no model other in the store", "There are: toy."),
    ],
)
def test_what_cannot_be_compared_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: Any, records: Any, name: str,
    error: type[TsctlError], reason: str, hint: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))
    project = project_with(tmp_path, of, records)
    recorded(project, shift=0.0, ago_s=50.0 * 3600 + 30, items=1)
    with pytest.raises(error, match=reason) as raised:
        run("report", name)
    assert hint in raised.value.hint


def test_without_any_record_it_says_how_records_come_about(project: Project) -> None:
    (project.state / "nodes" / "local" / "records").mkdir(parents=True)
    with pytest.raises(AnalysisError, match="there is no record of toy in local") as raised:
        run("report", "toy")
    assert "records: {share: 0.01}" in raised.value.hint
    with pytest.raises(AnalysisError, match="there are none at all"):
        run("report", "toy:1.0")


def test_a_watch_or_its_end_needs_something_to_watch(project: Project) -> None:
    with pytest.raises(AnalysisError, match=r"toy 1\.0 is not watched here"):
        run("reset", "toy:1.0")
    with pytest.raises(SpecError, match="an alarm is of one version"):
        run("reset", "toy")
    project.deployment.write_text(DEPLOYMENT.partition("models:")[0] + "models: {}\n")
    with pytest.raises(SpecError, match="has both a reference and records"):
        run("watch")


def test_records_from_before_the_watch_count_for_a_day(project: Project) -> None:
    now = 1_764_150_000.0
    chance = random.Random(9)  # noqa: S311 - the same in each run
    for hour in range(-49, 2):
        write_records(project, [item(chance)], lambda number, at=now + 3600 * hour - 3: at)  # type: ignore[misc]
    where = [Place("local", str(project.state / "nodes" / "local" / "records"))]
    subject = open_subject(project, "toy", "1.0")
    state = follow(project, where, subject, 30 * DAY_S, now)
    assert state.items == FIRST_S / 3600
    assert follow(project, where, subject, 30 * DAY_S, now + 3600).items == FIRST_S / 3600 + 1
    assert follow(project, where, subject, 20 * DAY_S, now + 3600).items == 24, "another budget begins anew"


def test_the_exporter_follows_the_versions_of_the_deployment(project: Project) -> None:
    recorded(project, shift=1.5)
    now = time.time()
    times = iter([now, now + 1, now + FOLLOW_S])
    drift = FollowedDrift(project, lambda: next(times))
    values = {(name, labels): value for name, value, labels in drift.read(read_deployment(project.deployment))}
    version = ("toy", "1.0")
    assert values["items", version] == 400
    assert values["evidence_ratio", version] == 1000
    assert {labels[2] for name, labels in values if name == "alarm"} == OF.keys()
    assert [labels[2] for (name, labels), value in values.items() if name == "alarm" and value] == ["input.width"]
    assert values["psi", (*version, "input.width")] > 0.25 > values["psi_noise", (*version, "input.width")]
    recorded(project, shift=0.0, ago_s=-10)  # after the first reading
    assert len(drift.read(read_deployment(project.deployment))) == len(values), "records are read once a minute"
    again = {(name, labels): value for name, value, labels in drift.read(read_deployment(project.deployment))}
    assert again["items", version] > 400


def test_versions_without_reference_or_records_have_no_values(tmp_path: Path) -> None:
    for number, (of, records) in enumerate([(None, RECORDED), (OF, None)]):
        project = project_with(tmp_path / str(number), of, records)
        assert FollowedDrift(project).read(read_deployment(project.deployment)) == []
