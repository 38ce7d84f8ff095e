"""`tsctl init` writes a whole project, into an empty folder or a repository, and changes no file that is there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from tests.support.commands import Result, run_command
from tsctl.archive.build import read_archive_folders
from tsctl.archive.known import known
from tsctl.archive.store import find_archive
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.errors import SpecError
from tsctl.scaffold.begin import begin
from tsctl.scaffold.carried import carried
from tsctl.scaffold.files import NewFile, write_files
from tsctl.scaffold.project import EMPTY, STOCK, project_files, template_files, template_names

MODELS = [name for name in template_names() if name not in (EMPTY, STOCK)]


def init(folder: Path, *arguments: str) -> Result:
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "TSCTL_PROJECT"}
    return run_command(("init", *arguments), folder, environment, 60)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("template", MODELS)
def test_a_template_is_a_project_whose_deployment_serves_its_model(tmp_path: Path, template: str) -> None:
    models, files = template_files(template, None)
    write_files(tmp_path, {**files, **project_files(models)})
    deployment = read_deployment(tmp_path / "deployment.yaml")
    [(model, (folder, spec))] = read_archive_folders(Project(tmp_path)).items()
    assert {model: list(spec.versions)} == {model: list(deployment.models[model].versions)} == {model: ["1.0"]}
    samples = {path.name for path in (folder / "samples").iterdir()}
    assert samples == set(json.loads((folder / "golden" / "1.0.json").read_text()))


def test_the_template_stock_has_an_archive_in_the_store_and_golden_answers_beside_it(tmp_path: Path) -> None:
    begun = begin(tmp_path, STOCK, None)
    archive = find_archive(Project(tmp_path), "median", "1.0")
    assert archive.is_current and f"archives/store/{archive.path.name}" in begun.written.made
    assert list(read_deployment(tmp_path / "deployment.yaml").models) == ["median"]
    found = known(archive.path)
    assert found.is_kept and found.answers == {"three.json": {"median": 2}, "four.json": {"median": 2.5}}
    assert (tmp_path / "archives" / "median" / "make.sh").stat().st_mode & stat.S_IXUSR


def test_an_archive_that_exists_comes_into_the_store_with_its_samples(tmp_path: Path) -> None:
    begin(tmp_path / "old", STOCK, None)
    [source] = (tmp_path / "old" / "archives" / "store").glob("*.mar")
    mar = tmp_path / "any.mar"
    mar.write_bytes(source.read_bytes())
    ended = init(tmp_path / "new", "--from", str(mar), "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["models"] == {"median": "1.0"}
    assert json.loads(ended.out)["made"][-1] == f"archives/store/{source.name}"
    assert "median 1.0 has no golden answers: put requests into" in ended.err
    refused = init(tmp_path / "other", "--from", str(mar), "--name", "mean")
    assert refused.status == 2 and "is an archive of median, and cannot be called mean" in refused.err


CONTRADICTIONS = {
    "--from and --template contradict": ("--from", "x.pt", "--template", "text"),
    "--sample is for the model of --from": ("--sample", "x.json"),
    "cannot be read: No such file": ("--from", "x.pt"),
}


@pytest.mark.parametrize(("message", "arguments"), CONTRADICTIONS.items())
def test_a_command_line_that_has_no_meaning_writes_nothing(
    tmp_path: Path, message: str, arguments: tuple[str, ...]
) -> None:
    ended = init(tmp_path, *arguments)
    assert ended.status == 2 and message in ended.err
    assert files_of(tmp_path) == {}


def test_weights_alone_are_told_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    ended = init(tmp_path, "--from", "m.safetensors")
    assert ended.status == 2 and "has weights, and not the network that they are for" in ended.err
    assert "--network net.py" in ended.err


def test_the_template_empty_is_a_project_without_models(tmp_path: Path) -> None:
    models, files = template_files(EMPTY, None)
    write_files(tmp_path, {**files, **project_files(models)})
    assert read_deployment(tmp_path / "deployment.yaml").models == {}
    assert sorted(files_of(tmp_path)) == [".gitignore", "Makefile", "ci/models.sh", "deployment.yaml"]


def test_the_help_names_every_template() -> None:
    ended = run_command(("init", "--help"), Path.cwd(), dict(os.environ), 60)
    assert all(name in ended.out for name in template_names())


@pytest.mark.parametrize(("template", "name", "message"), [
    ("tabular", "token", "no model can be called 'token'"),
    ("tabular", "a b", "no model can be called 'a b'"),
    ("../templates/tabular", None, "there is no template"),
    ("nothing", None, "there is no template nothing"),
    (EMPTY, "pump", "the template empty has no model"),
    (STOCK, "pump", "the archive of the template stock is one of median"),
])  # fmt: skip
def test_what_makes_no_project_is_refused(template: str, name: str | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        template_files(template, name)


def test_a_model_gets_the_name_that_is_asked_for(tmp_path: Path) -> None:
    ended = init(tmp_path / "new", "--name", "12", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["models"] == {"12": "1.0"}
    assert list(read_archive_folders(Project(tmp_path / "new"))) == ["12"]
    assert list(read_deployment(tmp_path / "new" / "deployment.yaml").models) == ["12"]


def test_a_repository_keeps_its_files_and_learns_what_git_must_not_keep(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n.venv/")
    (tmp_path / "Makefile").write_text("all:\n")
    ended = init(tmp_path)
    assert ended.status == 0, ended.err
    assert (tmp_path / "Makefile").read_text() == "all:\n"
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[:2] == ["*.log", ".venv/"] and ignored.count(".venv/") == 1
    assert {".tsctl/", "archives/store/", "archives/*/.built/", "*.header"} <= set(ignored)
    assert "kept Makefile" in ended.out and "added lines to .gitignore" in ended.out


def test_a_second_model_comes_into_a_project_that_has_one(tmp_path: Path) -> None:
    assert init(tmp_path).status == 0
    before = files_of(tmp_path)
    ended = init(tmp_path, "--template", "text")
    assert ended.status == 0, ended.err
    after = files_of(tmp_path)
    assert {name: after[name] for name in before} == before, "files that were there are as they were"
    text = ended.out.partition("below models:")[2].partition("next:")[0]
    assert yaml.safe_load(text) == {"mood": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}}


def test_nothing_is_written_where_a_file_of_the_model_is_there(tmp_path: Path) -> None:
    assert init(tmp_path).status == 0
    before = files_of(tmp_path)
    ended = init(tmp_path, "--template", "tabular")
    assert ended.status == 2
    assert "archives/pump/archive.yaml" in ended.err and "nothing is overwritten" in ended.err
    assert files_of(tmp_path) == before


def test_a_link_that_leads_nowhere_is_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(SpecError, match="has a already"):
        write_files(tmp_path, {"a": NewFile(b"")})
    assert not (tmp_path / "nowhere").exists()


def test_the_script_for_ci_can_be_run_and_its_models_too(tmp_path: Path) -> None:
    write_files(tmp_path, project_files({}))
    assert (tmp_path / "ci" / "models.sh").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "Makefile").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", ["constraints", "config.properties", "log4j2.xml", "handlers", "docs"])
def test_the_package_says_where_its_files_are(name: str) -> None:
    ended = run_command(("path", name), Path.cwd(), dict(os.environ), 60)
    assert ended.out.strip() == str(carried(name)) and carried(name).exists()


def test_the_package_carries_no_other_file() -> None:
    with pytest.raises(SpecError, match=r"tsctl carries no deployment\.yaml") as raised:
        carried("deployment.yaml")
    assert "constraints" in raised.value.hint
