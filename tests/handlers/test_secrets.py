"""Secrets reach the workers of their model through files, and are in nothing else that anybody reads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers import secret
from handlers.contract import MOST_SECRET_BYTES, SECRETS_VARIABLE
from handlers.errors import LoadError
from handlers.secrets import open_secrets
from tsctl.archive.attempt import AttemptOptions, attempt, bodies, in_batches
from tsctl.archive.build import build_version, read_archive_folders
from tsctl.archive.golden import make_golden
from tsctl.archive.secrets import missing_secrets, publish_secrets, refresh_secrets, secrets_folder
from tsctl.archive.trust import Trust
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.deploy.desired import desired_state
from tsctl.deploy.plan import make_plan
from tsctl.deploy.state import Actual
from tsctl.errors import SpecError
from tsctl.nodes.observed import ObservedNode

VALUE = "s3cr3t-of-the-model"
HANDLER = """
import torch

from handlers import secret
from handlers.base import ServingHandler
from handlers.schema import Schema


class Toy(ServingHandler):
    class Request(Schema):
        x: float

    def load(self):
        self.length = len(secret("API_KEY"))

    def preprocess(self, items):
        return torch.tensor([item.x for item in items])

    def inference(self, inputs):
        return inputs * self.length

    def postprocess(self, outputs):
        return [{"y": value} for value in outputs.tolist()]
"""


def deployment(**sources: Any) -> dict[str, Any]:
    return {"nodes": {"a": {}}, "models": {"toy": {"default": "1.0", "versions": {"1.0": None}, "secrets": sources}}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    monkeypatch.setenv("TOY_KEY", VALUE)
    folder = tmp_path / "archives" / "toy"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "one.json").write_text('{"x": 2.0}')
    (folder / "handler.py").write_text(HANDLER)
    spec = {
        "model": "toy", "handler": "handler.py", "threads": 1, "warmup": {"budget_s": 1.0}, "versions": {"1.0": None},
        "secrets": ["API_KEY"],
    }  # fmt: skip
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment(API_KEY={"env": "TOY_KEY"})))
    return Project(tmp_path)


def test_an_archive_that_runs_here_gets_its_secrets_and_holds_none(project: Project) -> None:
    [(folder, spec)] = read_archive_folders(project).values()
    assert make_golden(folder, spec, "1.0", lambda _: None) == ["one.json"]
    assert json.loads((folder / "golden" / "1.0.json").read_text()) == {"one.json": {"y": 2.0 * len(VALUE)}}
    batches = in_batches(bodies(folder, spec, None, None), None)
    tried = attempt(folder, spec, "1.0", batches, AttemptOptions(turns=1), lambda _: None, Trust("toy"))
    assert [answer.status for answer in tried.batches[0].answers] == [200]
    build_version(project, folder, spec, "1.0", lambda _: None)
    written = [path for path in project.root.rglob("*") if path.is_file()]
    assert [path for path in written if VALUE.encode() in path.read_bytes()] == []


def test_a_model_that_is_given_none_says_what_is_missing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    [(folder, spec)] = read_archive_folders(project).values()
    project.deployment.write_text(yaml.safe_dump(deployment()))
    batches = in_batches(bodies(folder, spec, None, None), None)
    tried = attempt(folder, spec, "1.0", batches, AttemptOptions(turns=1), lambda _: None, Trust("toy"))
    assert "there is no secret API_KEY: name its source under models: toy: secrets: in deployment.yaml" in tried.error
    project.deployment.write_text(yaml.safe_dump(deployment(API_KEY={"env": "TOY_KEY"})))
    monkeypatch.delenv("TOY_KEY")
    with pytest.raises(SpecError, match=r"models.toy.secrets.API_KEY: the variable TOY_KEY is not set"):
        publish_secrets(project, read_deployment(project.deployment), "toy")


def test_files_of_secrets_are_their_owners_and_follow_deployment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "key.pem").write_text("-----KEY-----\n")
    both = DeploymentSpec.model_validate(deployment(API_KEY={"env": "TOY_KEY"}, PEM={"file": "key.pem"}))
    publish_secrets(project, both, "toy")
    folder = secrets_folder(project) / "toy"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"API_KEY": VALUE, "PEM": "-----KEY-----"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("TOY_KEY")
    (project.root / "key.pem").write_text("new")
    refresh_secrets(project, both)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"API_KEY": VALUE, "PEM": "new"}
    publish_secrets(project, DeploymentSpec.model_validate(deployment(PEM={"file": "key.pem"})), "toy")
    assert [path.name for path in folder.iterdir()] == ["PEM"]
    publish_secrets(project, DeploymentSpec.model_validate(deployment()), "toy")
    assert not folder.exists()
    assert missing_secrets(both, "toy", ["API_KEY", "OTHER"]) == ["OTHER"]


def test_a_worker_reads_only_the_secrets_that_its_archive_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for model in ("toy", "other"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "API_KEY").write_text(f"{model}-{VALUE}")
    (tmp_path / "toy" / "HIDDEN").write_text(VALUE)
    monkeypatch.setenv(SECRETS_VARIABLE, str(tmp_path))
    with caplog.at_level(logging.DEBUG):
        open_secrets("toy", ["API_KEY", "GONE"])
        assert secret("API_KEY") == f"toy-{VALUE}"
        (tmp_path / "toy" / "API_KEY").write_text("new")
        assert secret("API_KEY") == "new", "a worker that runs reads the new value"
        for name, why in (
            ("HIDDEN", "does not list the secret"),
            ("../other/API_KEY", "does not list"),
            ("GONE", "no"),
        ):
            with pytest.raises(LoadError, match=why) as raised:
                secret(name)
            assert VALUE not in str(raised.value)
    assert VALUE not in caplog.text


@pytest.mark.parametrize(
    ("source", "why"),
    [({}, "give either env or file"), ({"env": "A", "file": "b"}, "give either"), ({"env": "a b"}, "pattern")],
)
def test_a_source_is_a_variable_or_a_file(source: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DeploymentSpec.model_validate(deployment(API_KEY=source))


def test_what_is_no_secret_is_refused_without_its_value(project: Project) -> None:
    (project.root / "binary").write_bytes(b"\xff" + VALUE.encode())
    (project.root / "long").write_text("x" * (MOST_SECRET_BYTES + 1))
    for name, why in (("binary", "is no UTF-8 text"), ("long", "has more than"), ("none", "cannot be read")):
        with pytest.raises(SpecError, match=why) as raised:
            publish_secrets(project, DeploymentSpec.model_validate(deployment(KEY={"file": name})), "toy")
        assert VALUE not in raised.value.message


def test_a_plan_registers_no_model_without_its_secrets(project: Project) -> None:
    [(folder, spec)] = read_archive_folders(project).values()
    make_golden(folder, spec, "1.0", lambda _: None)
    build_version(project, folder, spec, "1.0", lambda _: None)
    wanted = desired_state(project, DeploymentSpec.model_validate(deployment()))
    [refused] = make_plan(wanted, Actual((ObservedNode("a"),))).refusals
    assert "toy 1.0 is not registered: it needs the secret API_KEY" in refused.reason
    assert "secrets: {API_KEY: {env: VARIABLE}}" in refused.hint
    given = desired_state(project, DeploymentSpec.model_validate(deployment(API_KEY={"env": "TOY_KEY"})))
    assert not make_plan(given, Actual((ObservedNode("a"),))).refusals
