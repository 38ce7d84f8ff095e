"""A converted stock archive answers as its origin does, and keeps the contract of tsctl's handlers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.stock import PICTURES, SAMPLES, TEXTS, function, pictures, texts
from tsctl.archive.build import build_version
from tsctl.archive.convert import convert
from tsctl.archive.known import keep_samples, known
from tsctl.archive.recording import ask_in_sandbox, record_golden
from tsctl.archive.store import StoredArchive, import_archive
from tsctl.archive.trial import ItemRequest, run_probe
from tsctl.archive.verify import runnable, verify
from tsctl.compare.archives import DiffOptions, diff_archives
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.host.progress import Progress

MAKERS = {"pictures": pictures, "texts": texts}
#: A handler that refuses some requests, and takes a batch of four.
REFUSING = PICTURES.replace(
    "        pictures = []\n",
    "        pictures = []\n"
    "        if any((row.get('data') or row.get('body')).startswith(b'refuse') for row in data):\n"
    "            raise PredictionException('no such picture', 404)\n",
).replace("from ts.utils.util import", "from ts.utils.util import PredictionException,")


def stock_of(project: Project, model: str, made: Path) -> StoredArchive:
    """The stock archive in the store, with its sample and its golden answers beside it."""
    archive = import_archive(project, made)
    sample = made.with_name(SAMPLES[model][0])
    sample.write_bytes(SAMPLES[model][1])
    keep_samples(project, model, [sample])
    record_golden(project, archive, ask_in_sandbox(archive, trust_pickles=False))
    return archive


def built(project: Project, model: str, version: str) -> StoredArchive:
    folder = project.archives / model
    spec = read_archive_spec(folder / "archive.yaml")
    return build_version(project, folder, spec, version, lambda _: None).archive


@pytest.mark.parametrize("model", MAKERS)
def test_a_converted_archive_answers_as_its_origin_and_passes_every_check(model: str, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    old = stock_of(project, model, MAKERS[model](tmp_path / "made"))
    made = convert(old.path, project.archives / model, None, [])
    assert (made.version, made.left_out, made.samples, made.has_golden) == ("2.0", (), (SAMPLES[model][0],), True)
    new = built(project, model, "2.0")
    report = verify(new.path)
    assert [check for check in report.checks if check.outcome == "fail"] == []
    assert known(new.path).answers == known(old.path).answers
    result = diff_archives(old.path, new.path, DiffOptions(samples=project.archives / model / "samples"), Progress())
    assert (result.diff.requests, result.diff.disagreement) == (1, 0.0)
    assert result.source.startswith("1 requests of ")
    assert result.diff.old.alone.p50 > 0


def test_one_bad_request_of_a_batch_fails_alone_and_a_refusal_keeps_its_code(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    archive = stock_of(project, "pictures", pictures(tmp_path / "made", handler=REFUSING))
    folder = project.archives / "pictures"
    convert(archive.path, folder, "3.0", [])
    spec = (folder / "archive.yaml").read_text()
    (folder / "archive.yaml").write_text(spec.replace("size: 1", "size: 4"))
    good = ItemRequest(SAMPLES["pictures"][1], "image/png")
    batch = [good, ItemRequest(b"no picture", "image/png"), ItemRequest(b"refuse", "image/png"), good]
    with runnable(built(project, "pictures", "3.0").path) as (unpacked, facts):
        trial = run_probe(unpacked, facts.batch_size, [batch])
    [answers] = trial.answers
    assert [answer.status for answer in answers] == [200, 400, 404, 200], trial.log
    assert answers[0].json() == answers[3].json()
    assert answers[2].json()["detail"] == "no such picture"


def test_what_cannot_be_converted_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"function_handler\.py: line 8: function style"):
        convert(function(tmp_path / "made"), tmp_path / "to", None, [])
    assert not (tmp_path / "to").exists()


def test_an_archive_yaml_is_not_overwritten(tmp_path: Path) -> None:
    path = texts(tmp_path / "made", handler=TEXTS)
    made = convert(path, tmp_path / "to", None, [])
    assert (made.samples, made.has_golden) == ((), False)
    spec = read_archive_spec(tmp_path / "to" / "archive.yaml")
    assert (spec.handler, spec.weights, list(spec.versions)) == ("serving_handler.py", "texts.pth", ["2.0"])
    assert json.loads((tmp_path / "to" / "vocabulary.json").read_text())["match"] == 1
    with pytest.raises(ArchiveError, match=r"archive\.yaml exists"):
        convert(path, tmp_path / "to", None, [])
