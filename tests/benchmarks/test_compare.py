"""A comparison of two checkouts reads both forms of a benchmark's JSON, and its ratio says which one is better."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import figures, main, measure, ratio

TURNS = {"ServingHandler": [{"requests_s": 90.0}, {"requests_s": 110.0}, {"requests_s": 100.0}]}
FIGURES = [
    {"name": "added", "unit": "ms", "value": 0.5},
    {"name": "not measured", "unit": "ms", "value": None},
    {"name": "over stock", "unit": "times", "value": 4.0},
]


@pytest.mark.parametrize("key", ["targets", "ways"])
def test_speeds_are_medians_and_milliseconds_are_negated(key: str) -> None:
    assert figures({key: TURNS, "figures": FIGURES}) == {"ServingHandler": 100.0, "added": -0.5}


def test_targets_of_the_same_name_in_two_workloads_are_two_figures(tmp_path: Path) -> None:
    turns = [{"ServingHandler": [{"requests_s": speed}]} for speed in (1.0, 2.0)]
    workloads = [{"key": key, "targets": each, "figures": []} for key, each in zip("bc", turns, strict=True)]
    asked = command(tmp_path, {"workloads": workloads})
    assert measure(str(tmp_path), asked) == {"b: ServingHandler": 1.0, "c: ServingHandler": 2.0}


def test_a_ratio_above_one_is_better() -> None:
    assert ratio(100.0, 110.0) == pytest.approx(1.1)
    assert ratio(-0.5, -0.25) == pytest.approx(2.0)


def command(folder: Path, document: Any) -> str:
    """A command that prints the document."""
    (folder / "document.json").write_text(json.dumps(document))
    return f"{sys.executable} -c \"print(open('document.json').read())\""


@pytest.mark.parametrize(("speed", "status"), [(98.0, 0), (96.0, 1)])
def test_a_slower_checkout_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], speed: float, status: int
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    rows = [{"way": "ServingHandler", "requests_s": 100.0}, {"way": "FastAPI", "requests_s": 1.0}]
    before = command(old, rows)
    after = command(new, {"workloads": [{"targets": {"ServingHandler": [{"requests_s": speed}]}, "figures": []}]})
    assert measure(str(old), before) == {"ServingHandler": 100.0, "FastAPI": 1.0}
    arguments = ["compare", "--old", str(old), before, "--new", str(new), after, "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == status
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["FIGURE", "ServingHandler"], "only figures of both are compared"
    assert f"{speed / 100:.3f}" in printed[1]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "FastAPI"])
    assert main() == 1, "nothing was compared"
