"""Samples and golden answers of stock archives are kept beside them, and their lack is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tsctl.archive.container import DIGESTS, GOLDEN, MANIFEST
from tsctl.archive.known import Sample, difference_of, keep_samples, known, lacks_golden
from tsctl.archive.recording import Answered, record_golden
from tsctl.archive.store import StoredArchive, make_current, write_archive
from tsctl.config.project import Project
from tsctl.deploy.plan import make_plan
from tsctl.deploy.state import Actual, Desired, WantedModel, WantedVersion
from tsctl.errors import ArchiveError
from tsctl.nodes.observed import ObservedNode
from tsctl.views.plan import plan_json, render_plan

MANIFEST_1 = json.dumps({"model": {"modelName": "toy", "modelVersion": "1.0", "handler": "handler.py"}}).encode()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def stock(project: Project) -> StoredArchive:
    return make_current(project, write_archive({MANIFEST: MANIFEST_1}, project.store, "toy", "1.0"))


@pytest.fixture
def asked(project: Project, stock: StoredArchive, tmp_path: Path) -> StoredArchive:
    """With samples beside it: a text and a file of an unknown type."""
    files = [tmp_path / "one.json", tmp_path / "two.odd"]
    for file in files:
        file.write_bytes(file.name.encode())
    keep_samples(project, "toy", files)
    return stock


def test_samples_beside_a_stock_archive_are_its_own(project: Project, asked: StoredArchive) -> None:
    (project.archives / "toy" / "samples" / ".DS_Store").write_bytes(b"no sample")
    golden = project.archives / "toy" / "golden" / "1.0.json"
    golden.parent.mkdir()
    golden.write_text(json.dumps({"one.json": {"y": 1}, "of a sample that is gone": 2}))
    for path in (asked.path, project.store / asked.path.name):
        found = known(path)
        assert found.samples == (
            ("samples/one.json", b"one.json", "application/json"),
            ("samples/two.odd", b"two.odd", "application/octet-stream"),
        )
        assert (dict(found.answers), found.is_kept, lacks_golden(path)) == ({"one.json": {"y": 1}}, True, False)
    elsewhere = project.root / asked.path.name
    elsewhere.write_bytes(asked.path.read_bytes())
    assert (known(elsewhere).samples, lacks_golden(elsewhere)) == ((), True)


def test_an_archive_that_tsctl_built_holds_its_own(project: Project, asked: StoredArchive) -> None:
    entries = {MANIFEST: MANIFEST_1, DIGESTS: b"{}", GOLDEN: b'{"a.json": 3}', "samples/a.json": b"{}"}
    path = make_current(project, write_archive(entries, project.store, "toy", "1.0")).path
    found = known(path)
    assert ([name for name, *_ in found.samples], found.answers, found.is_kept) == (
        ["samples/a.json"],
        {"a.json": 3},
        False,
    )
    assert not lacks_golden(path)


@pytest.mark.parametrize(("content", "reason"), [("{", "is not JSON"), ("[]", "is no object of answers by sample")])
def test_golden_answers_that_cannot_be_read_are_told(
    project: Project, asked: StoredArchive, content: str, reason: str
) -> None:
    (project.archives / "toy" / "golden").mkdir()
    (project.archives / "toy" / "golden" / "1.0.json").write_text(content)
    with pytest.raises(ArchiveError, match=reason):
        known(asked.path)


def test_another_sample_of_the_same_name_is_not_overwritten(
    project: Project, asked: StoredArchive, tmp_path: Path
) -> None:
    keep_samples(project, "toy", [tmp_path / "one.json"])
    (tmp_path / "one.json").write_text("other")
    with pytest.raises(ArchiveError, match=r"archives/toy/samples/one\.json is another sample"):
        keep_samples(project, "toy", [tmp_path / "one.json"])
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        keep_samples(project, "toy", [tmp_path / "nowhere.json"])


def test_answers_are_recorded_as_values_and_as_text(project: Project, asked: StoredArchive) -> None:
    sent: list[str] = []

    def ask(samples: Sequence[Sample]) -> list[Answered]:
        sent.extend(name for name, *_ in samples)
        return [(200, b'{"y": 0.123456789}'), (200, b"tabby cat")] * 2

    assert record_golden(project, asked, ask) == ["one.json", "two.odd"]
    assert sent == ["samples/one.json", "samples/two.odd"] * 2, "each is asked twice"
    answers = known(asked.path).answers
    assert answers == {"one.json": {"y": 0.123457}, "two.odd": "tabby cat"}
    assert record_golden(project, asked, ask) == []
    assert difference_of(200, b"tabby cat", answers["two.odd"], known(asked.path).tolerance) == ""
    assert "dog" in difference_of(200, b"dog", answers["two.odd"], known(asked.path).tolerance)


@pytest.mark.parametrize(("answers", "reason"), [
    ([(200, b"1.0"), (200, b"2.0"), (200, b"1.0"), (200, b"2.5")], "two.odd differently each time"),
    ([(503, b"Prediction failed"), (200, b"1")] * 2, "answers one.json with 503: Prediction failed"),
    ([(200, b"\xff\xd8"), (200, b"1")] * 2, "with bytes that are no text"),
])  # fmt: skip
def test_an_answer_that_cannot_be_golden_is_refused(
    project: Project, asked: StoredArchive, answers: list[Answered], reason: str
) -> None:
    with pytest.raises(ArchiveError, match=reason):
        record_golden(project, asked, lambda samples: answers)
    assert lacks_golden(asked.path)


def test_without_samples_it_is_said_where_to_put_them(project: Project, stock: StoredArchive) -> None:
    with pytest.raises(ArchiveError, match=r"toy 1\.0 has no samples") as raised:
        record_golden(project, stock, lambda samples: [])
    assert "archives/toy/samples/one.json" in raised.value.hint


@pytest.mark.parametrize("lacks", [True, False])
def test_a_plan_says_which_versions_nobody_can_check(lacks: bool) -> None:
    wanted = WantedVersion("1.0", "toy-1.0-0123456789ab.mar", "0123456789ab", workers=1, lacks_golden=lacks)
    desired = Desired((WantedModel("toy", "1.0", (wanted,)),))
    plan = make_plan(desired, Actual((ObservedNode("local"),)))
    text = render_plan(plan).plain
    assert ("no golden answers: toy:1.0." in text) == lacks
    assert ("1 worker, no golden answers" in text) == lacks
    assert plan_json(plan)["changes"][0]["lacks_golden"] is lacks


def test_a_plan_says_which_packages_of_a_stock_archive_are_missing() -> None:
    lacks = "requirements.txt asks for nowhere, which tsctl does not install for stock archives"
    wanted = WantedVersion("1.0", "toy-1.0-0123456789ab.mar", "0123456789ab", workers=1, lacks_packages=lacks)
    plan = make_plan(Desired((WantedModel("toy", "1.0", (wanted,)),)), Actual((ObservedNode("local"),)))
    assert f"toy 1.0: {lacks}" in render_plan(plan).plain
    assert plan_json(plan)["changes"][0]["lacks_packages"] == lacks
