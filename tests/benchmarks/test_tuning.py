"""Searches against grids: the table is read and written alike, and few trials come close to the best point."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.run import Job
from benchmarks.tuning import run
from benchmarks.tuning.grid import BATCHES, CASES, _table
from benchmarks.tuning.offline import by_chance, median, most_trials, quantile, simulate
from benchmarks.tuning.table import Point, Table, empty, read, write
from tests.support.tuning import PRESENT, space
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import AnalysisError
from tsctl.host.progress import quiet_progress
from tsctl.tune.objective import Score
from tsctl.tune.space import Settings, make_space

HEAD = {"model": "digits", "slo_p99_ms": 50.0}


def surface(settings: Settings) -> float:
    """Goodput of a model that larger batches and one worker a core make faster, and compilation slower."""
    speed = 6000 * (1 - math.exp(-settings.batch / 12)) * (0.9 if settings.batch > 64 else 1.0)
    return speed * (1.35 if settings.workers == 2 else 1.0) * (0.97 if settings.compile else 1.0)


def table(noise: float = 0.05) -> Table:
    """A grid in two passes that lie apart by this noise, up in one half of the points and down in the other."""
    points = {}
    for place, settings in enumerate(space().points()):
        goodput, apart = surface(settings), math.exp((-1) ** place * noise)
        scores = (Score(1.0, 0.0, goodput, 20.0), Score(1.0, 0.0, goodput * apart, 21.0))
        points[settings] = Point(
            settings, () if settings.is_lowered else scores, "golden" if settings.is_lowered else ""
        )
    return Table(space(), points, HEAD)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "data" / "digits.json"
    write(path, table())
    again = read(path)
    assert again.space == table().space
    assert again.head == HEAD
    assert again.points.keys() == table().points.keys()
    assert again.best.settings == table().best.settings
    assert again.best.goodput_s == pytest.approx(table().best.goodput_s, rel=1e-3)
    write(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_text() == path.read_text()
    path.write_text("{}")
    with pytest.raises(AnalysisError, match="is no table of a grid"):
        read(path)


def test_a_pass_is_added_to_the_table_of_the_same_archive_limit_and_machine(tmp_path: Path) -> None:
    path, new = tmp_path / "digits.json", empty(space(), HEAD)
    assert _table(path, new) == new
    valid = [settings for settings in new.points if not settings.is_lowered]
    lowered = {settings: "golden" for settings in new.points if settings.is_lowered}
    first = new.with_pass({settings: Score(1.0, 0.0, 10.0, 1.0) for settings in valid}, lowered)
    write(path, first)
    assert _table(path, new).passes == 1
    assert _table(path, replace(new, head={**HEAD, "slo_p99_ms": 20.0})).passes == 0
    second = first.with_pass({settings: Score(1.0, 0.0, 14.0, 3.0) for settings in valid}, {})
    assert second.passes == 2
    assert second.points[valid[0]].goodput_s == 12.0
    assert second.points[next(iter(lowered))].reason == "golden"


def test_the_noise_is_that_of_one_measurement() -> None:
    assert table(0.1).noise == pytest.approx(1.4826 * 0.1 / math.sqrt(2), rel=1e-6)


def test_equal_seeds_give_equal_searches_within_a_tenth_of_the_trials() -> None:
    first = simulate(table(), 7)
    assert simulate(table(), 7) == first
    assert first.trials == most_trials(table()) == 8


def test_few_trials_come_close_to_the_best_point() -> None:
    found = [simulate(table(), seed).chosen for seed in range(12)]
    assert median(found) >= 0.95
    assert quantile(found, 0.1) >= 0.9


def test_a_search_whose_present_settings_are_the_best_keeps_them() -> None:
    best = table().best.settings
    made = replace(table(), space=replace(table().space, present=best))
    found = [simulate(made, seed, by_chance).kept for seed in range(6)]
    assert found == [1.0] * 6


def test_passes_of_a_busy_machine_are_dropped(tmp_path: Path) -> None:
    path, new = tmp_path / "digits.json", empty(space(), HEAD)
    for others, kept in ((0.02, 1), (0.4, 0)):
        scores = {settings: Score(1.0, 0.0, 10.0, 1.0, others=others) for settings in new.points}
        write(path, new.with_pass(scores, {}))
        assert _table(path, new).passes == kept


def test_a_grid_is_coarse_enough_for_a_quarter_of_an_hour_and_a_tenth_of_it_is_a_search() -> None:
    made = make_space(PRESENT, ["uvicorn"], [], 2, {}, BATCHES)
    assert made.size == 72
    assert most_trials(empty(made, HEAD)) == 7
    assert set(CASES) == {"digits", "breast_cancer", "embeddings"}


def test_the_workload_reports_the_goal_and_a_search_by_chance_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "digits.json", table())
    monkeypatch.setattr(run, "path_of", lambda model: tmp_path / f"{model}.json")
    job = Job(Project(tmp_path), DeploymentSpec.model_construct(), 1, 0, quiet_progress())
    result = run.workloads(seeds=5, is_offline=True)["digits"](job)
    [goal] = [figure for figure in result.figures if figure.goal]
    assert goal.is_reached
    assert any("by chance" in figure.name for figure in result.figures)
    assert result.settings["trials"] == 8
    assert "best of the grid" in result.notes[0]
