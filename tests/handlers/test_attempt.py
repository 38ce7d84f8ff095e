"""`tsctl archive try` on a folder of its own: the author's code runs in a real process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.commands import Result, run_command

ARCHIVE = 'model: toy\nhandler: handler.py\nfiles: [helper.py]\nversions: {"1.0": {}}\n'
HELPER = """
def inverse(x):
    return 1 / x
"""
HANDLER = """
import torch
from handlers.base import ServingHandler
from handlers.schema import Schema
from helper import inverse

class Toy(ServingHandler):
    class Request(Schema):
        a: float

    def load(self):
        print("a line that the author prints")
        self.network = torch.nn.Identity()

    def preprocess(self, items):
        return torch.tensor([inverse(item.a) for item in items])

    def postprocess(self, outputs):
        return [{"inverse": value} for value in outputs.tolist()]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "archives" / "toy"
    (folder / "samples").mkdir(parents=True)
    (tmp_path / "deployment.yaml").write_text("models: {}\n")
    (folder / "archive.yaml").write_text(ARCHIVE)
    (folder / "helper.py").write_text(HELPER)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "samples" / "two.json").write_text('{"a": 2}')
    (folder / "samples" / "zero.json").write_text('{"a": 0}')
    return tmp_path


def tried(project: Path, *arguments: str) -> Result:
    return run_command(["archive", "try", "toy", *arguments], project, os.environ, 120)


def test_an_answer_comes_before_anything_is_built_or_kept(project: Path) -> None:
    ended = tried(project, "two.json", "--json")
    assert ended.status == 0, ended.err
    [batch] = json.loads(ended.out)["batches"]
    assert [each["body"] for each in batch["answers"]] == [{"inverse": 0.5}]
    assert {"decode", "preprocess", "inference", "postprocess", "encode"} == set(batch["stages_ms"])
    assert "a line that the author prints" in ended.err
    assert not list(project.glob("archives/store/*"))


def test_a_failure_names_the_author_s_file_and_line(project: Path) -> None:
    ended = tried(project, "--batch", "2")
    assert ended.status == 3
    assert '{"inverse": 0.5}' in ended.out  # its neighbour is answered
    helper = project / "archives" / "toy" / "helper.py"
    assert f'File "{helper}", line 3, in inverse' in ended.out
    assert "ZeroDivisionError" in ended.out
    assert "handlers/pipeline" not in ended.out


def test_a_model_that_does_not_load_shows_its_traceback(project: Path) -> None:
    path = project / "archives" / "toy" / "handler.py"
    path.write_text(HANDLER.replace("self.network = ", "self.network = self.missing or "))
    ended = tried(project)
    assert ended.status == 3
    assert f'File "{path}", line 13, in load' in ended.out
    assert "AttributeError: 'Toy' object has no attribute 'missing'" in ended.out


def test_a_body_that_does_not_fit_is_no_failure(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"b": 1}')
    ended = tried(project, str(tmp_path / "other.json"))
    assert ended.status == 0, ended.err
    assert "other.json: 422 application/problem+json" in ended.out


def test_the_profiler_s_trace_goes_to_a_file(project: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    ended = tried(project, "two.json", "--profile", str(trace))
    assert ended.status == 0, ended.err
    assert "Self CPU time total" in ended.out
    assert json.loads(trace.read_text())["traceEvents"]


def test_golden_answers_that_cannot_be_made_show_the_author_s_line(project: Path) -> None:
    (project / "archives" / "toy" / "samples" / "zero.json").unlink()
    (project / "archives" / "toy" / "handler.py").write_text(
        HANDLER.replace("self.network = ", "self.network = {}[0] or ")
    )
    ended = run_command(["archive", "golden", "toy"], project, os.environ, 120)
    assert ended.status == 3
    assert "line 13, in load" in ended.err
    assert "KeyError: 0" in ended.err
