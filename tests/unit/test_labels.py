"""Labels that come later: read from any file, joined with records, and judged as a hand calculation does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile
from tsctl.cli.labels import app
from tsctl.errors import SpecError, TsctlError
from tsctl.records.database import Place, connect
from tsctl.records.labels import Share, add, qualities


class Site:
    """A folder of labels beside a folder of records."""

    def __init__(self, path: Path) -> None:
        self.path, self.labels, self.records = path, path / ".tsctl" / "labels", path / "records"
        self.records.mkdir()
        self.places = [Place("local", str(self.records))]
        self._files = 0

    def record(self, version: str, *predictions: tuple[str, str, Any], model: str = "toy") -> None:
        """Records of request ids, classes, and a score or a list of scores."""
        self._files += 1
        lines = []
        for name, label, score in predictions:
            scores = {"scores": score, "score": max(score)} if isinstance(score, list) else {"score": score}
            identity = {"request_id": name, "row": 0, "model": model, "version": version}
            lines.append(json.dumps({**identity, "time_us": 1764150000000000, "label": label, **scores}))
        file = RecordFile(1764150000000 + self._files, 9_999_999_999_999, RECORDS, "w1", CLOSED_SEGMENT)
        (self.records / file.name).write_text("\n".join(lines) + "\n")

    def label(self, **labels: str) -> None:
        file = self.path / "labels.csv"
        file.write_text("request_id,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
        assert add(self.labels, file) == len(labels)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (50, 100, 0.4038, 0.5962)],
)  # fmt: skip
def test_intervals_are_wilsons(count: int, of: int, low: float, high: float) -> None:
    assert Share(count, of).interval == pytest.approx((low, high), abs=1e-4)


def test_accuracy_and_confusion_are_counted_by_version(site: Site) -> None:
    site.record("1.0", ("a", "cat", 0.9), ("b", "dog", 0.2), ("c", "cat", 0.8), ("unlabelled", "cat", 0.9))
    site.record("2.0", ("a", "cat", 0.9), ("b", "cat", 0.7))
    site.record("1.0", ("a", "cat", 0.9), model="other")
    site.label(a="cat", b="dog", c="dog", never_asked="cat")
    first, second = qualities(site.labels, site.places, "toy")
    assert (first.version, first.right) == ("1.0", Share(2, 3))
    assert set(first.confusion) == {("cat", "cat", 1), ("dog", "dog", 1), ("dog", "cat", 1)}
    assert (second.version, second.right, second.confusion) == (
        "2.0", Share(1, 2), (("cat", "cat", 1), ("dog", "cat", 1)),
    )  # fmt: skip
    assert [each.model for each in qualities(site.labels, site.places)] == ["other", "toy", "toy"]


def test_a_single_probability_is_of_the_class_with_the_higher_scores(site: Site) -> None:
    site.record("1.0", ("a", "sick", 0.9), ("b", "well", 0.2), ("c", "well", 0.25))
    site.label(a="sick", b="well", c="sick")
    [quality] = qualities(site.labels, site.places)
    assert [(round(each.confidence, 3), each.right) for each in quality.bins] == [
        (0.75, Share(0, 1)), (0.8, Share(1, 1)), (0.9, Share(1, 1)),
    ]  # fmt: skip
    assert quality.calibration_error == pytest.approx((0.75 + 0.2 + 0.1) / 3)


def test_the_confidence_of_several_scores_is_the_largest(site: Site) -> None:
    site.record("1.0", ("a", "x", [0.6, 0.3, 0.1]), ("b", "y", [0.35, 0.65, 0.0]), ("c", "y", [0.0, 1.0, 0.0]))
    site.label(a="x", b="x", c="y")
    [quality] = qualities(site.labels, site.places)
    assert [(round(each.confidence, 3), each.right) for each in quality.bins] == [
        (0.625, Share(1, 2)),
        (1.0, Share(1, 1)),
    ]
    assert quality.calibration_error == pytest.approx(0.125 * 2 / 3)


def test_scores_that_are_no_probabilities_have_no_calibration(site: Site) -> None:
    site.record("1.0", ("a", "x", [3.0, -1.0]), ("b", "x", 7.0))
    site.label(a="x", b="x")
    [quality] = qualities(site.labels, site.places)
    assert (quality.right, quality.bins, quality.calibration_error) == (Share(2, 2), (), None)


def test_a_later_label_replaces_an_earlier_one_and_a_repeated_record_counts_once(site: Site) -> None:
    site.record("1.0", ("a", "cat", 0.9))
    site.record("1.0", ("a", "cat", 0.9))  # a second try of the same request
    site.label(a="dog")
    site.label(a="cat")
    [quality] = qualities(site.labels, site.places)
    assert quality.right == Share(1, 1)


def test_labels_come_as_csv_parquet_or_json_lines_and_by_row(site: Site, tmp_path: Path) -> None:
    rows = [("a", 0, "1"), ("a", 1, "2")]
    lines = [json.dumps({"request_id": name, "row": row, "label": label}) for name, row, label in rows]
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    (tmp_path / "l.csv").write_text("label,request_id,row\n1,a,0\n2,a,1\n")
    connect().execute(f"COPY (FROM '{tmp_path / 'l.jsonl'}') TO '{tmp_path / 'l.parquet'}'")
    for suffix in ("jsonl", "csv", "parquet"):
        assert add(site.labels, tmp_path / f"l.{suffix}") == 2
    assert {path.stat().st_mode & 0o777 for path in site.labels.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.txt", "", "must end with"),
        ("missing.csv", None, "no such file"),
        ("l.csv", "id,label\na,1\n", "has no column request_id"),
        ("l.csv", "request_id,label\na,\n", "1 rows lack"),
        ("l.csv", "request_id,label\na,1\na,2\n", "request a has several labels"),
        ("l.csv", "request_id,label\n", "has no label"),
        ("l.csv", "request_id,label,row\na,1,x\n", "whole number as row"),
        ("l.parquet", "no parquet", "cannot be read"),
        ("l.jsonl", "{", "l.jsonl"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_fault(
    site: Site, tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=reason):
        add(site.labels, tmp_path / name)
    assert not site.labels.exists() or list(site.labels.iterdir()) == []


def test_the_commands_add_and_report(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.path / "archives").mkdir()
    (site.path / "deployment.yaml").write_text("nodes: {}\nmodels: {}\n")
    monkeypatch.setenv("TSCTL_PROJECT", str(site.path))
    run: Callable[..., Result] = lambda *arguments: CliRunner().invoke(app, list(arguments))  # noqa: E731
    nothing = run("report", "--from", str(site.records)).exception
    assert isinstance(nothing, TsctlError) and "no labels" in nothing.message
    (site.path / "l.csv").write_text("request_id,label\na,cat\n")
    assert run("add", str(site.path / "l.csv")).stdout == "1 label added\n"
    site.record("1.0", ("a", "cat", [0.9, 0.1]))
    [document] = json.loads(run("report", "--from", str(site.records), "--json").stdout)
    assert (document["labelled"], document["accuracy"], document["interval"][1]) == (1, 1.0, 1.0)
    assert document["calibration_error"] == pytest.approx(0.1)
    table = run("report", "toy", "--from", str(site.records)).stdout
    assert "CALIBRATION ERROR" in table and "0.2065" in table
