"""Canaries of `make gameday` are released for real: one that raises and a language model whose answers do not end are
rolled back, and an identical one is promoted; a worker's records of darker pictures raise the alarm of drift."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.gameday import drift, texts
from benchmarks.gameday import run as gameday
from benchmarks.gameday.drift_cases import CASES
from tests.support.sites import quick_project
from tsctl.host.progress import Progress

#: Fewer and shorter steps, which still show 5 % of errors: at 50 % if not at 25 %.
QUICK = {**gameday.POLICY, "steps": [25, 50, 100], "hold_s": 2, "min_requests": 90}


def test_a_canary_that_raises_is_rolled_back_and_an_identical_one_promoted(tmp_path: Path) -> None:
    quiet = Progress(Console(quiet=True))
    project = quick_project(tmp_path / "settings", "digits")
    day = gameday.run(project, quiet, ["exceptions", "same"], tmp_path, QUICK, warm_s=3)
    raises, same = day.releases
    assert not gameday.wrong_verdicts(day.releases)
    assert (raises.outcome, raises.signal) == ("rolled back", "errors")
    assert 0 < raises.on_canary < raises.requests
    assert raises.failed > 0
    assert raises.rollback_s is not None
    assert raises.rollback_s <= 2
    assert (same.outcome, same.signal, same.failed, same.misled) == ("promoted", "", 0, 0)
    assert same.on_canary >= 3 * QUICK["min_requests"]
    assert raises.failed_elsewhere == 0
    assert all((tmp_path / f"{release.canary.version}.jsonl").is_file() for release in day.releases)
    assert {figure.name: figure.is_reached for figure in day.figures if figure.goal} == {
        "bad canaries rolled back": True,
        "identical canaries promoted": True,
        "slowest rollback in force": True,
        "failed requests that no bad canary answered": True,
    }


def test_a_darker_camera_is_found_in_the_records_of_a_worker(tmp_path: Path) -> None:
    project = quick_project(tmp_path / "settings", "digits")
    day = drift.run(project, Progress(Console(quiet=True)), [case for case in CASES if case.key == "darker"])
    [found] = day.found
    assert found.is_right, drift.wrong(day.found)
    assert [figure.is_reached for figure in day.figures] == [True, True]


def test_a_language_model_whose_answers_do_not_end_is_rolled_back(tmp_path: Path) -> None:
    project = quick_project(tmp_path / "settings")
    day = texts.run(project, Progress(Console(quiet=True)), ["text-never_stops"], tmp_path, warm_s=3)
    [release] = day.releases
    assert (release.outcome, release.signal) == ("rolled back", "finish"), release.why
    assert 0 < release.on_canary < release.requests
    assert release.failed == 0
    assert (tmp_path / "text-never_stops.jsonl").is_file()
