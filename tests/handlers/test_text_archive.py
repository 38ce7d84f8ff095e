"""The archive of a text model gets golden answers, is built, and is verified in the sandbox, by TorchServe's calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support import scripted
from tsctl.archive.build import build_version
from tsctl.archive.checks import PASS, WARN
from tsctl.archive.golden import make_golden
from tsctl.archive.verify import verify
from tsctl.config.archive import ArchiveSpec, read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

HANDLER = """
from scripted import ScriptedHandler


class Toy(ScriptedHandler):
    pass
"""
SAMPLES = {
    "chat.json": {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0},
    "prompts.json": {"prompt": ["one", "two"], "n": 2, "temperature": 0, "max_tokens": 2},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("text")
    folder = root / "archives" / "toy"
    (folder / "samples").mkdir(parents=True)
    (root / "deployment.yaml").write_text("nodes: {}\n")
    (folder / "toy.py").write_text(HANDLER)
    (folder / "scripted.py").write_text(Path(scripted.__file__).read_text())
    for name, body in SAMPLES.items():
        (folder / "samples" / name).write_text(json.dumps(body))
    generation = {"context": 60, "max_tokens": 20, "most_tokens": 50, "max_answers": 13}
    content = {
        "model": "toy", "handler": "toy.py", "files": ["scripted.py"], "weights": "scripted.py",
        "generation": generation, "timeouts": {"response_s": 60}, "limits": {"request_bytes": 2000},
        "versions": {"1.0": None},
    }  # fmt: skip
    (folder / "archive.yaml").write_text(yaml.safe_dump(content))
    return Project(root)


def read(project: Project) -> tuple[Path, ArchiveSpec]:
    folder = project.archives / "toy"
    return folder, read_archive_spec(folder / "archive.yaml")


def test_golden_answers_are_the_texts_token_by_token_and_the_archive_is_verified(project: Project) -> None:
    folder, spec = read(project)
    assert make_golden(folder, spec, "1.0", print) == ["chat.json", "prompts.json"]
    golden = json.loads((folder / "golden" / "1.0.json").read_text())
    assert golden["chat.json"] == {"answers": [{"tokens": list("Hello"), "finish": "stop"}]}
    assert [each["tokens"] for each in golden["prompts.json"]["answers"]] == [
        ["o", "n"],
        ["o", "n"],
        ["t", "w"],
        ["t", "w"],
    ]
    assert make_golden(folder, spec, "1.0", print) == [], "they are the same again"
    built = build_version(project, folder, spec, "1.0", print)
    report = verify(built.archive.path)
    assert [check for check in report.checks if check.outcome not in (PASS, WARN)] == []
    names = [check.name for check in report.checks]
    assert "golden answers, in a batch of 3" in names
    assert "answers do not depend on neighbours" in names
    assert "one malformed application/json item among good ones" in names


def test_a_sample_without_one_right_answer_gives_no_golden_answers(project: Project) -> None:
    folder, spec = read(project)
    sample = folder / "samples" / "chat.json"
    sample.write_text(json.dumps({**SAMPLES["chat.json"], "temperature": 1}))
    with pytest.raises(ArchiveError, match=r'sample chat\.json: needs "temperature": 0'):
        make_golden(folder, spec, "1.0", print)
