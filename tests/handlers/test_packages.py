"""Packages of one model: installed once beside the node's own, found by its worker, and refused where they conflict."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from handlers.contract import PACKAGES_VARIABLE, packages_key
from handlers.errors import LoadError
from handlers.worker.packages import use_packages
from tests.support.wheels import only_from, write_wheel
from tsctl.archive import packages
from tsctl.archive.build import build_version, read_archive_folders
from tsctl.archive.checks import stock_requirements
from tsctl.archive.golden import make_golden
from tsctl.archive.inspect import Facts, Manifest, ManifestModel, Serving, inspect_archive
from tsctl.archive.packages import (
    conflicts,
    packages_folder,
    read_requirements,
    remove_packages,
    require_packages,
    unused_packages,
)
from tsctl.archive.verify import verify
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.config.requirements import sorted_requirements
from tsctl.deploy.tidy import unneeded_packages
from tsctl.errors import ArchiveError, SpecError

HANDLER = """
import torch

import threefold
from handlers.base import ServingHandler
from handlers.schema import Schema


class Toy(ServingHandler):
    class Request(Schema):
        x: float

    def load(self):
        pass

    def preprocess(self, items):
        return torch.tensor([item.x for item in items])

    def inference(self, inputs):
        return inputs * threefold.FACTOR

    def postprocess(self, outputs):
        return [{"y": value} for value in outputs.tolist()]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    write_wheel(tmp_path / "wheels", "threefold", "1.0", "import twofold\nFACTOR = twofold.TWO + 1\n", ["twofold"])
    write_wheel(tmp_path / "wheels", "twofold", "1.0", "TWO = 2\n", [f"numpy=={version('numpy')}"])
    write_wheel(tmp_path / "wheels", "oldfold", "1.0", "", ["numpy<1.0"])
    only_from(tmp_path / "wheels", monkeypatch)
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    folder = tmp_path / "archives" / "toy"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "one.json").write_text('{"x": 2.0}')
    (folder / "handler.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text("# of this model\nthreefold==1.0  # and what it needs\n")
    spec = {
        "model": "toy", "handler": "handler.py", "threads": 1, "warmup": {"budget_s": 1.0}, "versions": {"1.0": None},
        "requirements": "requirements.txt",
    }  # fmt: skip
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec))
    return Project(tmp_path)


def ignore(_: str) -> None:
    pass


def test_a_model_gets_its_packages_in_the_sandbox(project: Project) -> None:
    [(folder, spec)] = read_archive_folders(project).values()
    assert make_golden(folder, spec, "1.0", ignore) == ["one.json"]
    assert json.loads((folder / "golden" / "1.0.json").read_text()) == {"one.json": {"y": 6.0}}
    built = build_version(project, folder, spec, "1.0", ignore)
    assert inspect_archive(built.archive.path).config["serving"]["requirements"] == ["threefold==1.0"]
    assert [check.detail for check in verify(built.archive.path).checks if check.outcome == "fail"] == []
    (folder / "archive.yaml").write_text((folder / "archive.yaml").read_text().replace("requirements.txt", "more.txt"))
    (folder / "more.txt").write_text("threefold==1.0\ntwofold==1.0\n")
    again = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", ignore)
    assert again.archive.digest != built.archive.digest, "they are part of the archive"
    assert len(list(packages_folder(project).glob("[!.]*"))) == 1
    assert unneeded_packages(project) == [], "the older build needs them"
    (project.store / built.archive.path.name).unlink()
    for path in unneeded_packages(project):
        remove_packages(path)
    assert [path.name for path in packages_folder(project).iterdir()] == [".lock"]


def test_they_are_installed_once_and_whole(project: Project) -> None:
    told: list[str] = []
    folder = require_packages(project, ["threefold==1.0"], "toy", told.append)
    assert folder == packages_folder(project)
    assert told[0] == "installing 1 packages of toy"
    link = folder / packages_key(["threefold==1.0"])
    made = link.resolve()
    site = [path.name for path in (link / "site").iterdir()]
    assert sorted(name for name in site if name.endswith(".py")) == ["threefold.py", "twofold.py"], "not the node's own"
    (folder / ".0123456789abcdef-00000000").mkdir()  # of a tsctl that was killed
    told.clear()
    require_packages(project, ["threefold==1.0"], "other", told.append)
    assert (told, link.resolve()) == ([], made), "shared"
    (link / "site").unlink()
    require_packages(project, ["threefold==1.0"], "toy", told.append)
    assert link.resolve() != made, "a damaged set is made anew"
    assert not (folder / ".0123456789abcdef-00000000").exists()
    assert unused_packages(project, [["threefold==1.0"]]) == [made]
    code = "from handlers.worker.packages import use_packages; use_packages(['threefold==1.0']); import threefold"
    shown = f"{code}, numpy; print(threefold.FACTOR, numpy.__version__)"
    ran = subprocess.run(
        [sys.executable, "-c", shown], env={PACKAGES_VARIABLE: str(folder)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"3 {version('numpy')}\n"


def test_a_conflict_names_both_versions(project: Project) -> None:
    numpy = version("numpy")
    [told] = conflicts(["numpy==1.0", f"torch=={version('torch').partition('+')[0]}"], packages.own_packages())
    assert told == f"it requires numpy 1.0, and the node has numpy {numpy}"
    with pytest.raises(ArchiveError, match=r"the packages of toy cannot be installed: it requires numpy 1.0"):
        require_packages(project, ["numpy==1.0"], "toy", ignore)
    with pytest.raises(ArchiveError) as raised:
        require_packages(project, ["oldfold==1.0"], "toy", ignore)
    assert "oldfold 1.0 depends on numpy<1.0" in raised.value.message
    assert f"the node has numpy=={numpy}" in raised.value.message
    with pytest.raises(ArchiveError, match=r"the package index has no nofold==1.0"):
        require_packages(project, ["nofold==1.0"], "toy", ignore)
    assert [path.name for path in packages_folder(project).iterdir()] == [".lock"], "nothing is left"


def test_a_worker_without_its_packages_says_what_installs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_packages([])
    monkeypatch.delenv(PACKAGES_VARIABLE, raising=False)
    with pytest.raises(LoadError, match="register the version with tsctl apply"):
        use_packages(["threefold==1.0"])
    monkeypatch.setenv(PACKAGES_VARIABLE, str(tmp_path))
    with pytest.raises(LoadError, match="are not installed on this node"):
        use_packages(["threefold==1.0"])


@pytest.mark.parametrize("line", ["torch", "torch>=2", "-r more.txt", "--pre", "x @ https://x/x.whl"])
def test_a_requirement_names_one_version(project: Project, line: str) -> None:
    folder = project.archives / "toy"
    (folder / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(SpecError, match="must be NAME==VERSION"):
        read_requirements(folder, read_archive_spec(folder / "archive.yaml"))


def test_an_order_or_a_comment_is_no_other_set() -> None:
    assert sorted_requirements(["b==1", "a==1", "b==1"]) == ["a==1", "b==1"]
    assert packages_key(["a==1", "b==1"]) == packages_key(["b==1", "a==1"]) != packages_key(["a==1"])


@pytest.mark.parametrize(
    ("lines", "missing"),
    [("nofold>=1\nnumpy\n", "nofold>=1"), ("numpy==1.0", "numpy==1.0"), (f"numpy=={version('numpy')}\n", "")],
)
def test_requirements_of_a_stock_archive_are_told(tmp_path: Path, lines: str, missing: str) -> None:
    model = ManifestModel(modelName="m", handler="h.py", requirementsFile="requirements.txt")
    facts = Facts(Manifest(model=model), {}, Serving(), is_stock=True)
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("requirements.txt", lines)
    with zipfile.ZipFile(tmp_path / "m.mar") as archive:
        told = stock_requirements(archive, facts)
    assert (f"asks for {missing}, which tsctl does not install" in told) if missing else told == ""
