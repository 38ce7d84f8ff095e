"""A build's digest follows its inputs, every byte of them and nothing else; what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsctl.archive import build
from tsctl.archive.build import Built, build_version, read_archive_folders
from tsctl.archive.container import open_archive
from tsctl.archive.store import find_archive, list_archives
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError

RECIPE = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=pathlib.Path)
arguments = parser.parse_args()
print("trained", arguments.version, arguments.settings)
(arguments.out / "model.safetensors").write_bytes(pathlib.Path("seed.bin").read_bytes() * 1000)
with open("runs.log", "a") as log:
    log.write("ran\\n")
"""
HANDLER = "class Toy:\n    pass\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make(tmp_path / "project")


def make(root: Path) -> Project:
    """A project with one archive, whose recipe multiplies a file."""
    folder = root / "archives" / "toy"
    for name in ("samples", "golden"):
        (folder / name).mkdir(parents=True)
    (root / "deployment.yaml").write_text("nodes: {}\n")
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "seed.bin").write_bytes(b"weight")
    (folder / "samples" / "one.json").write_text("[1]")
    (folder / "golden" / "1.0.json").write_text('{"one.json": 2}')
    write_spec(root)
    return Project(root)


def write_spec(root: Path, **changes: Any) -> None:
    content = {
        "model": "toy", "handler": "handler.py", "recipe": "recipe.py", "files": ["seed.bin"], "versions": {"1.0": None}
    }  # fmt: skip
    (root / "archives" / "toy" / "archive.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))


def built(project: Project) -> Built:
    folder = project.archives / "toy"
    return build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)


def digest(project: Project) -> str:
    return built(project).archive.digest


def entries(project: Project) -> dict[str, bytes]:
    with open_archive(built(project).archive.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_same_inputs_at_another_place_and_time_give_the_same_digest(project: Project, tmp_path: Path) -> None:
    other = make(tmp_path / "a" / "longer place")
    before = os.umask(0o077)
    try:
        for path in other.archives.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        (other.archives / "toy" / "handler.py").chmod(0o755)
        assert digest(project) == digest(other)
    finally:
        os.umask(before)


def change(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)

    return flip


@pytest.mark.parametrize("name", ["seed.bin", "samples/one.json", "golden/1.0.json"])
def test_one_changed_byte_changes_the_digest_and_back_again(project: Project, name: str) -> None:
    before = digest(project)
    change(name)(project.archives / "toy")
    assert digest(project) != before
    change(name)(project.archives / "toy")
    again = built(project)
    assert (again.archive.digest, again.is_new) == (before, False)
    assert len(list_archives(project)) == 2
    assert find_archive(project, "toy", "1.0").digest == before, "the archive that was built last is the current one"


def test_a_changed_byte_of_the_weights_alone_changes_the_digest(project: Project) -> None:
    before = digest(project)
    change(".built/1.0/model.safetensors")(project.archives / "toy")
    assert digest(project) != before


def test_a_changed_byte_of_the_archives_handler_changes_the_digest(project: Project) -> None:
    before = digest(project)
    (project.archives / "toy" / "handler.py").write_text(HANDLER + "#")
    assert digest(project) != before


def test_a_changed_byte_of_the_bundled_handlers_changes_the_digest(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(project)
    copied = tmp_path / "handlers"
    shutil.copytree(build.handlers_package(), copied)
    monkeypatch.setattr(build, "handlers_package", lambda: copied)
    assert digest(project) == before
    change("base.py")(copied)
    assert digest(project) != before


def test_nothing_of_the_machine_is_in_the_archive(project: Project) -> None:
    (project.archives / "toy" / "__pycache__").mkdir()
    (project.archives / "toy" / "__pycache__" / "handler.pyc").write_bytes(b"x")
    content = entries(project)
    assert not [name for name in content if "__pycache__" in name or name.startswith((".", "/"))]
    for name, body in content.items():
        assert str(project.root).encode() not in body, name
    assert {"handlers/base.py", "handler.py", "model.safetensors", "seed.bin", "samples/one.json"} < content.keys()


def test_the_configuration_always_states_its_timeouts(project: Project) -> None:
    write_spec(project.root, timeouts={"startup_s": 60}, batch={"size": 8}, workers={"min": 2})
    config = yaml.safe_load(entries(project)["model-config.yaml"])
    serving = config.pop("serving")
    assert config == {
        "minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 1, "responseTimeout": 30,
        "startupTimeout": 60, "maxRetryTimeoutInSec": 60, "jobQueueSize": 1000,
    }  # fmt: skip
    assert serving["limits"] == {"request_bytes": 1 << 20}


@pytest.mark.parametrize(
    ("source", "manifest", "serving"),
    [
        (None, build.ENTRY, "handlers.image"),
        ("class Toy: pass\n", build.ENTRY, "handler"),
        ("def handle(data, context): return data\n", "handler", "handler"),
    ],
    ids=["a module of handlers", "a class", "a function handle"],
)
def test_torchserve_imports_its_adapter_and_the_adapter_the_authors_module(
    project: Project, source: str | None, manifest: str, serving: str
) -> None:
    if source is None:
        write_spec(project.root, handler="handlers.image")
    else:
        (project.archives / "toy" / "handler.py").write_text(source)
    content = entries(project)
    assert json.loads(content["MAR-INF/MANIFEST.json"])["model"]["handler"] == manifest
    assert yaml.safe_load(content["model-config.yaml"])["serving"]["handler"] == serving
    assert f"{manifest.replace('.', '/')}.py" in content


def test_the_digests_name_every_other_entry(project: Project) -> None:
    content = entries(project)
    assert set(json.loads(content["MAR-INF/DIGESTS.json"])) == content.keys() - {"MAR-INF/DIGESTS.json"}


def runs(project: Project) -> int:
    return len((project.archives / "toy" / "runs.log").read_text().splitlines())


def test_a_recipe_runs_again_only_when_an_input_of_it_changes(project: Project) -> None:
    first = built(project)
    assert first.lines == ("trained 1.0 {}",)
    change("samples/one.json")(project.archives / "toy")
    assert built(project).lines == first.lines, "what it printed is told again"
    assert runs(project) == 1
    write_spec(project.root, settings={"width": 2})
    assert built(project).lines == ('trained 1.0 {"width": 2}',)
    change("seed.bin")(project.archives / "toy")
    digest(project)
    assert runs(project) == 3


def test_a_recipe_that_fails_shows_its_last_lines_and_keeps_nothing(project: Project) -> None:
    folder = project.archives / "toy"
    (folder / "recipe.py").write_text('print("before")\nraise SystemExit("no data set")\n')
    with pytest.raises(ArchiveError, match=r"(?s)recipe.py of toy 1.0 ended with status 1:.*before.*no data set"):
        built(project)
    assert [path.name for path in (folder / ".built").iterdir()] == [".1.0.lock"]
    assert list_archives(project) == []


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_text(content)

    return put


BROKEN: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "no handler": (remove("handler.py"), {}, "names handler.py, and"),
    "no file": (remove("seed.bin"), {}, "seed.bin is named in archive.yaml and does not exist"),
    "no samples": (remove("samples"), {}, "names samples, and"),
    "an empty folder of samples": (remove("samples/one.json"), {}, "holds no sample"),
    "a sample without a known suffix": (write("samples/digit.bin", "x"), {}, "is no sample: expected a file that ends"),
    "golden answers that are no JSON": (write("golden/1.0.json", '{"one.json": '), {}, "is not JSON"),
    "golden answers to another sample": (
        write("golden/1.0.json", '{"two.json": 1}'), {}, "one to one: one.json, two.json"
    ),
    "no golden answers": (remove("golden/1.0.json"), {}, "no golden answers"),
    "a module that is not there": (lambda _: None, {"handler": "handlers.nothing"}, "has no such module"),
    "two sources": (lambda _: None, {"files": ["seed.bin", "handler.py"]}, "two sources write the entry handler.py"),
    "no Python": (write("handler.py", "class :\n"), {}, "is not Python"),
    "no class": (write("handler.py", "x = 1\n"), {}, "defines no class"),
    "two classes": (write("handler.py", "class A: pass\nclass B: pass\n"), {}, "defines 2 classes (A, B)"),
    "a module of the standard library": (
        write("random.py", HANDLER), {"handler": "random.py"}, "would replace the module 'random'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("breaking", "changes", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_built_is_named(
    project: Project, breaking: Callable[[Path], None], changes: dict[str, Any], expected: str
) -> None:
    breaking(project.archives / "toy")
    write_spec(project.root, **changes)
    with pytest.raises(ArchiveError) as raised:
        built(project)
    assert expected in raised.value.message
    assert list_archives(project) == []


def test_two_folders_of_one_model_are_a_mistake(project: Project) -> None:
    shutil.copytree(project.archives / "toy", project.archives / "toy2")
    with pytest.raises(SpecError, match=r"toy2/archive\.yaml: model: 'toy': is named by .*toy/archive\.yaml too"):
        read_archive_folders(project)
