"""A search is shown, written as a page, and its result goes into archive.yaml."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.tuning import PRESENT, space, trial
from tsctl.config.archive import read_archive_spec
from tsctl.errors import SpecError
from tsctl.tune.result import Setting, Tuned
from tsctl.tune.trials import Trial
from tsctl.tune.tune import settings_for_archive
from tsctl.tune.write import edited
from tsctl.views.tune.report import lines, plots, write_report

BETTER = replace(PRESENT, workers=2, batch=64)
LOWERED = replace(PRESENT, dtype="bf16")


def tuned(ratio: float = 2.0, trials: list[Trial] | None = None) -> Tuned:
    """A search in which BETTER was best, by this ratio in every round."""
    setting = Setting(
        "digits", "1.0", "03e1a936751a", "8 samples of the archive", 50.0, space(), 1.0, 128, "", {"cores": 2}
    )
    found = [trial(PRESENT, 100, 10), trial(BETTER, 200, 30), trial(LOWERED, 0, state="invalid")]
    found += [trial(replace(PRESENT, batch=1), 20, state="pruned")]
    for number in range(1, 6):
        found += [trial(PRESENT, 100, kind="before", number=number)]
        found += [trial(BETTER, 100 * ratio, kind="after", number=number)]
    return Tuned(setting, found if trials is None else trials)


def test_the_terminal_has_every_trial_the_proof_and_the_verdict() -> None:
    text = "\n".join(lines(tuned()))
    assert "4 of 84 combinations tried, 2 to the end, 1 pruned, 1 invalid" in text
    assert re.search(r"uvicorn batch 64 2x1 1 ms +200 +30.0 +220 +300 +frontier", text)
    assert re.search(r"uvicorn batch 32 1x1 1 ms +100 +10.0 +110 +300 +present, frontier", text)
    assert re.search(r"bf16 +- +- +- +- +invalid: must not serve", text)
    assert re.search(r"^ +5 +100 +200$", text, re.MULTILINE)
    assert "Change to uvicorn batch 64 2x1 1 ms" in text


def test_the_page_has_the_frontier_and_the_json_lies_beside_it(tmp_path: Path) -> None:
    write_report(tmp_path / "x" / "digits.html", tuned())
    page = (tmp_path / "x" / "digits.html").read_text()
    assert "Goodput against p99" in page
    assert 'class="frontier"' in page
    assert "must not serve" in page
    assert "http" not in page.replace("http-equiv", "")
    document = json.loads((tmp_path / "x" / "digits.json").read_text())
    assert document["verdict"]["changes"] == {"batch": 64, "workers": 2}
    assert document["counts"] == {"complete": 2, "pruned": 1, "invalid": 1}
    assert document["space"]["points"] == 84


def test_no_plot_where_nothing_kept_the_limit() -> None:
    assert list(plots(tuned(trials=[trial(PRESENT, 0)]))) == []
    assert "No settings kept" in "\n".join(lines(tuned(trials=[trial(PRESENT, 0)])))


def test_settings_that_are_no_better_change_nothing() -> None:
    assert settings_for_archive(tuned(1.0)) == {}
    assert settings_for_archive(tuned()) == {"batch": 64, "workers": 2}


def test_a_busy_machine_is_named() -> None:
    busy = replace(trial(PRESENT, 100).scores[0], others=0.4)
    text = "\n".join(tuned(trials=[replace(trial(PRESENT, 100), scores=(busy,))]).lines_of_limits)
    assert "Other programs took 40% of the processors" in text
    assert "Other programs" not in "\n".join(tuned().lines_of_limits)


SETTINGS = {"batch": 64, "workers": 2, "threads": 2, "compile": True}


def changed(path: Path, version: str, tmp_path: Path, text: str | None = None) -> list[str]:
    """The lines of archive.yaml that are new; its serving has the settings."""
    before = path.read_text() if text is None else text
    place = tmp_path / "archive.yaml"
    place.write_text(before)
    after = edited(place, before, read_archive_spec(place), version, SETTINGS)
    place.write_text(after)
    serving = read_archive_spec(place).serving(version)
    assert (serving.batch.size, serving.workers.min, serving.threads, serving.compile) == (64, 2, 2, True)
    assert serving.batch.max_delay_ms == 1
    return [line for line in after.splitlines() if line not in before.splitlines()]


def test_a_model_of_one_version_is_changed_for_the_model(tmp_path: Path) -> None:
    new = changed(CHECKOUT / "archives" / "breast_cancer" / "archive.yaml", "1.0", tmp_path)
    assert new == [
        "batch: {size: 64, max_delay_ms: 1}",
        "workers: {min: 2}",
        "threads: 2  # the network is so small that a second thread costs more than it computes",
        "compile: true",
    ]


def test_of_several_versions_only_the_one_that_was_measured_is_changed(tmp_path: Path) -> None:
    path = CHECKOUT / "archives" / "digits" / "archive.yaml"
    other = read_archive_spec(path).serving("2.0")
    changed(path, "1.0", tmp_path)
    assert read_archive_spec(tmp_path / "archive.yaml").serving("2.0") == other


def test_a_section_of_a_version_and_a_maximum_of_workers_are_respected(tmp_path: Path) -> None:
    text = (
        "model: m\nhandler: handlers.tabular\nbatch: {size: 8, max_delay_ms: 3}\nworkers: {min: 1, max: 1}\n"
        'versions:\n  "1.0":\n    batch: {size: 4}  # own\n'
    )
    new = changed(Path("-"), "1.0", tmp_path, text)
    assert new == ["workers: {min: 2, max: 2}", "    batch: {size: 64}  # own", "threads: 2", "compile: true"]


def test_what_cannot_be_changed_says_what_to_write(tmp_path: Path) -> None:
    place = tmp_path / "archive.yaml"
    text = 'model: m\nhandler: handlers.tabular\nbatch: &b {size: 8}\nversions:\n  "1.0": {batch: *b}\n'
    place.write_text(text)
    with pytest.raises(SpecError, match="alias") as caught:
        edited(place, text, read_archive_spec(place), "1.0", {"batch": 64})
    assert "versions.1.0.batch.size: 64" in caught.value.hint
