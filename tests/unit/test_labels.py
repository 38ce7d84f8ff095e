"""Labels that come later: read from any file, joined with records, and judged as a hand calculation does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile
from tsctl.cli.labels import app
from tsctl.errors import AnalysisError, SpecError, TsctlError
from tsctl.records.database import Place, connect
from tsctl.records.labels import Share, add, qualities

DEPLOYMENT = 'nodes: {far: {engine: uvicorn, address: "http://192.0.2.1:18090", key_file: far.json}}\nmodels: {}\n'


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


def kept(site: Site) -> set[tuple[str, int, str]]:
    """All labels in the folder."""
    rows = connect().read_parquet(f"{site.labels}/*.parquet").project("request_id, row, label").fetchall()
    return {(name, row, label) for name, row, label in rows}


UUID = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_what_looks_like_a_time_a_number_or_an_identifier_is_kept_letter_by_letter(
    site: Site, tmp_path: Path, suffix: str
) -> None:
    rows = [
        (UUID, "01"),
        ("2026-01-01T10:00:00", "2026-01-01"),
        ("007", "0"),
        ("1e3", "true"),
        ("ü", "a, b"),
        ("n", "null"),
    ]
    lines = [json.dumps({"request_id": name, "label": label}) for name, label in rows]
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    (tmp_path / "l.csv").write_text("request_id,label\n" + "".join(f'{name},"{label}"\n' for name, label in rows))
    source = f"read_json('{tmp_path / 'l.jsonl'}', columns = {{request_id: 'VARCHAR', label: 'VARCHAR'}})"
    connect().execute(f"COPY (FROM {source}) TO '{tmp_path / 'l.parquet'}'")
    assert add(site.labels, tmp_path / f"l.{suffix}") == len(rows)
    assert kept(site) == {(name, 0, label) for name, label in rows}


def test_texts_and_whole_numbers_of_one_file_are_kept_as_they_are(site: Site, tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(
        '{"request_id": "a", "label": 0}\n{"request_id": "b", "label": "a"}\n'
        '{"request_id": 7, "label": 1.0, "row": 2}\n{"request_id": "d", "label": true, "row": "3", "more": {}}\n'
        '{"request_id": "e", "label": 18446744073709551615}\n'
    )
    assert add(site.labels, tmp_path / "l.jsonl") == 5
    assert kept(site) == {
        ("a", 0, "0"), ("b", 0, "a"), ("7", 2, "1"), ("d", 3, "true"), ("e", 0, "18446744073709551615"),
    }  # fmt: skip


def test_whole_numbers_of_parquet_are_classes_and_other_types_are_refused(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "l.parquet"
    connect().execute(f"COPY (SELECT 'a' AS request_id, 1.0::DOUBLE AS label, 2::DOUBLE AS row) TO '{file}'")
    add(site.labels, file)
    assert kept(site) == {("a", 2, "1")}
    for value, fault in (
        ("TIMESTAMP '2026-01-01'", "label has the type TIMESTAMP"),
        ("[1]", "label has the type INTEGER[]"),
        ("0.5::DOUBLE", "row 1 has a label that is no text and no whole number"),
    ):
        connect().execute(f"COPY (SELECT 'a' AS request_id, {value} AS label) TO '{file}'")
        with pytest.raises(SpecError, match=re.escape(fault)):
            add(site.labels, file)


@pytest.mark.parametrize("score", [[0.4, -1.0], [3.0, 0.0]])
def test_a_part_of_the_confidences_is_no_calibration(site: Site, score: list[float]) -> None:
    site.record("1.0", ("a", "x", [0.9, 0.1]), ("b", "x", score), ("c", "x", [float("nan"), 0.1]))
    site.record("2.0", ("a", "x", [0.9, 0.1]))
    site.label(a="x", b="x", c="x")
    first, second = qualities(site.labels, site.places)
    assert (first.bins, first.calibration_error, first.right.of) == ((), None, 3)
    assert first.without_confidence == (1 if score[0] < 1 else 2)
    assert (len(second.bins), second.without_confidence) == (1, 0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.txt", "", "must end with"),
        ("missing.csv", None, "no such file"),
        ("l.csv", "id,label\na,1\n", "has no column request_id"),
        ("l.csv", "request_id,label\nb,1\na,\n", "row 2 has no label"),
        ("l.csv", "request_id,label,row\na,1,1.6\n", "row 1 has the row 1.6, which is no whole number"),
        ("l.csv", "request_id,label,row\na,1,\n", "row 1 has no row"),
        (
            "l.jsonl",
            '{"request_id": "a", "label": 0}\n{"request_id": "b", "label": 2.5}',
            "row 2 has a label that is no",
        ),
        ("l.jsonl", '{"request_id": "a", "label": [1]}', "row 1 has a label that is no text and no whole number"),
        ("l.jsonl", '{"request_id": "a"}', "row 1 has no label"),
        ("l.jsonl", '{"request_id": null, "label": "a"}', "row 1 has no request_id"),
        ("l.jsonl", '{"request_id": "a", "label": 1, "row": 1.5}', "row 1 has a row that is no"),
        ("l.csv", "request_id,label\na,1\na,2\n", "request a has several labels"),
        ("l.csv", "request_id,label\n", "has no label"),
        ("l.csv", "request_id,label,row\na,1,x\n", "row 1 has the row x, which is no whole number"),
        ("l.parquet", "no parquet", "cannot be read"),
        ("l.jsonl", "{", "l.jsonl"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_fault(
    site: Site, tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=re.escape(reason)):
        add(site.labels, tmp_path / name)
    assert not site.labels.exists() or list(site.labels.iterdir()) == []


def test_the_commands_add_and_report(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.path / "archives").mkdir()
    (site.path / "deployment.yaml").write_text(DEPLOYMENT)
    monkeypatch.setenv("TSCTL_PROJECT", str(site.path))
    run: Callable[..., Result] = lambda *arguments: CliRunner().invoke(app, list(arguments))  # noqa: E731
    nothing = run("report", "--from", str(site.records)).exception
    assert isinstance(nothing, TsctlError) and "no labels" in nothing.message
    (site.path / "l.csv").write_text("request_id,label\na,cat\n")
    unknown = run("add", str(site.path / "l.csv"))
    assert (unknown.exit_code, unknown.stdout) == (0, "1 label added\n")
    assert "whether records have them is not known: no such node is" in unknown.stderr
    site.record("1.0", ("a", "cat", [0.9, 0.1]))
    here = ("--from", str(site.records))
    added = run("add", str(site.path / "l.csv"), *here)
    assert added.stdout == "1 label added, 1 of them of recorded requests\n"
    (site.path / "other.csv").write_text("request_id,label\na,Cat\nz,cow\n")
    other = run("add", str(site.path / "other.csv"), *here, "--json")
    assert json.loads(other.stdout) == {"added": 2, "matched": 1, "unpredicted": ["Cat"]}
    assert run("add", str(site.path / "l.csv"), *here).exit_code == 0
    nobody = run("report", "other", *here).exception
    assert isinstance(nobody, AnalysisError) and "prediction of other with a class" in nobody.message
    [document] = json.loads(run("report", "--from", str(site.records), "--json").stdout)
    assert (document["labelled"], document["accuracy"], document["interval"][1]) == (1, 1.0, 1.0)
    assert document["calibration_error"] == pytest.approx(0.1)
    table = run("report", "toy", "--from", str(site.records)).stdout
    assert "CALIBRATION ERROR" in table and "0.2065" in table
