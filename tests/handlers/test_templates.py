"""What `tsctl init` writes, of a template or around a model that exists, is built, verified and right."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
from rich.console import Console
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tsctl.archive.build import build_version, read_archive_folders
from tsctl.archive.store import find_archive
from tsctl.archive.trust import stated_trust
from tsctl.archive.verify import verify
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.host.progress import Progress
from tsctl.scaffold.begin import begin, begin_from
from tsctl.scaffold.project import EMPTY, STOCK, template_names

QUIET = Progress(Console(quiet=True))


def current(folder: Path, model: str) -> Path:
    """The archive of the model, built where it has an archive.yaml."""
    project = Project(folder)
    for archive_folder, spec in read_archive_folders(project).values():
        build_version(project, archive_folder, spec, "1.0", lambda _: None)
    return find_archive(project, model, "1.0").path


@pytest.mark.parametrize("template", [name for name in template_names() if name != EMPTY])
def test_a_template_is_built_and_passes_verification(tmp_path: Path, template: str) -> None:
    [model] = begin(tmp_path, template, None).models
    checks = {check.name: check for check in verify(current(tmp_path, model)).checks}
    checks.pop("sandbox")  # of this machine
    allowed = {"pass", "skip", *(["warn"] if template == STOCK else [])}
    assert [check for check in checks.values() if check.outcome not in allowed] == []
    assert checks["samples and golden answers"].detail == "2 golden"


def test_a_pickle_that_exists_is_trusted_by_its_digest_and_answers(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    joblib.dump(LinearRegression().fit(rows, rows.sum(axis=1)), tmp_path / "sum.joblib", compress=3)
    sample = tmp_path / "one.json"
    sample.write_text('{"features": [1, 2, 3]}')
    project = Project(tmp_path / "project")
    assert begin_from(project.root, tmp_path / "sum.joblib", None, [sample], QUIET).models == {"sum": "1.0"}
    golden = json.loads((project.archives / "sum" / "golden" / "1.0.json").read_text())
    assert golden == {"one.json": {"value": pytest.approx(6.0, abs=1e-4)}}
    checks = verify(current(project.root, "sum"), trust_of=stated_trust(project)).checks
    assert [check for check in checks if check.outcome == "fail"] == []


def test_a_table_with_a_column_of_texts_is_served_by_what_its_sample_says(tmp_path: Path) -> None:
    table = pandas.DataFrame({"plan": ["basic", "basic", "gold", "gold"], "age": [20.0, 30.0, 40.0, 50.0]})
    encoder = ColumnTransformer([("plan", OneHotEncoder(), ["plan"])], remainder="passthrough")
    model = make_pipeline(encoder, LogisticRegression()).fit(table, ["stays", "leaves", "stays", "leaves"])
    joblib.dump(model, tmp_path / "churn.joblib")
    sample = tmp_path / "one.json"
    sample.write_text('{"plan": "gold", "age": 44}')
    project = Project(tmp_path / "project")
    begin_from(project.root, tmp_path / "churn.joblib", None, [sample], QUIET)
    golden = json.loads((project.archives / "churn" / "golden" / "1.0.json").read_text())
    assert golden["one.json"]["label"] in ("stays", "leaves")


def test_a_stock_archive_that_exists_gets_golden_answers_of_its_samples(tmp_path: Path) -> None:
    begin(tmp_path / "old", STOCK, None)
    [source] = (tmp_path / "old" / "archives" / "store").glob("*.mar")
    sample = tmp_path / "five.json"
    sample.write_text('{"numbers": [5, 4, 3, 2, 1]}')
    made = begin_from(tmp_path / "new", source, None, [sample], QUIET).written.made
    assert {"archives/median/samples/five.json", "archives/median/golden/1.0.json"} <= set(made)
    golden = json.loads((tmp_path / "new" / "archives" / "median" / "golden" / "1.0.json").read_text())
    assert golden == {"five.json": {"median": 3}}


def test_a_model_that_does_not_load_leaves_its_files_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x09 no model")
    (tmp_path / "one.json").write_text('{"x": [1.0]}')
    with pytest.raises(ArchiveError, match=r"broken\.onnx cannot be loaded") as raised:
        begin_from(tmp_path / "new", tmp_path / "broken.onnx", None, [tmp_path / "one.json"], QUIET)
    assert "then: tsctl archive golden broken" in raised.value.hint
    assert (tmp_path / "new" / "archives" / "broken" / "archive.yaml").is_file()
