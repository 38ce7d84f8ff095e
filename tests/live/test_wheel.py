"""The wheel, installed with nothing but its declared dependencies, works on a project elsewhere.

README's section "In your own repository" is typed into an empty folder, and a team's own code comes beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import CHECKOUT, tracked_files
from tests.support.ports import free_ports
from tests.support.readme import CommandStep, matches, parse_readme, section_lines, substitute
from tests.support.sites import Site, processes_of, write_tiny

TIMEOUT_S = 120
STEP_TIMEOUT_S = 300
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SECTION = section_lines(README, "In your own repository")
#: The ports of the deployment.yaml that `tsctl init` writes.
PORTS = (8000, 8003, 8080, 8081, 8082, 7070, 7071)


def run(cwd: Path, *command: str | Path) -> str:
    """Standard output of a command that succeeds; neither this checkout nor this process's packages are in its way."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TSCTL_"))}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tracked files."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / path, folder / "source" / path)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", "."]
    run(folder, sys.executable, "-m", "pip", "wheel", *options, folder / "source")
    [built] = folder.glob("tsctl-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """Where the commands of a fresh environment are that holds the wheel and what it declares, at locked versions."""
    environment = wheel.parent / "environment"
    run(wheel.parent, sys.executable, "-m", "venv", "--without-pip", environment)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    run(wheel.parent, *pip, "install", "--no-compile", "--constraint", CHECKOUT / "requirements.lock", wheel)
    return environment / "bin"


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    core = {f"tsctl/bundled/{path}" for path in tracked_files() if path.parts[0] in ("handlers", "docs")}
    assert names == {str(path) for path in tracked_files() if path.parts[0] == "tsctl"} | core


def test_the_command_line_answers(programs: Path, tmp_path: Path) -> None:
    assert "Usage: tsctl" in run(tmp_path, programs / "tsctl", "--help")


def test_the_pages_to_which_the_readme_links_are_there(programs: Path, tmp_path: Path) -> None:
    docs = Path(run(tmp_path, programs / "tsctl", "path", "docs").strip())
    linked = set(re.findall(r"\]\(docs/([^)#]+)", README))
    assert len(linked) > 20
    assert sorted(name for name in linked if not (docs / name).exists()) == []


def test_every_module_of_tsctl_finds_what_it_imports(programs: Path, tmp_path: Path) -> None:
    code = """if True:
        import importlib, pkgutil, tsctl
        for module in pkgutil.walk_packages(tsctl.__path__, "tsctl."):
            importlib.import_module(module.name)
            print(module.name)
    """
    imported = run(tmp_path, programs / "python", "-I", "-c", code).split()
    assert "tsctl.archive.build" in imported


def test_an_archive_of_a_project_elsewhere_is_built(programs: Path, tmp_path: Path) -> None:
    write_tiny(Site(tmp_path), "tiny", {"1.0": {}})
    run(tmp_path, programs / "tsctl", "archive", "build")
    [archive] = (tmp_path / "archives" / "store").glob("tiny-1.0-*.mar")
    names = zipfile.ZipFile(archive).namelist()
    assert {"handler.py", "golden.json", "handlers/__init__.py", "handlers/contract.py"} <= set(names)
    assert not [name for name in names if name.startswith("tsctl")]


@dataclass
class Repository:
    """A user's folder, and a shell in it that finds the wheel and the packages of .venv, but no tsctl."""

    root: Path
    ports: dict[int, int]
    environment: dict[str, str]
    packages: Path
    variables: dict[str, str] = field(default_factory=dict)  # that the user sets

    def type(self, command: str) -> str:
        """Both streams of a command that succeeds."""
        ended = subprocess.run(
            ["bash", "-c", substitute(command, self.ports)], cwd=self.root, env=self.environment | self.variables,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=STEP_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}"
        return ended.stdout

    def after(self, command: str) -> None:
        """What a test does in place of downloads, and for ports of its own."""
        if command == "python3 -m venv .venv":
            [site] = self.root.glob(".venv/lib/python3*/site-packages")
            (site / "packages.pth").write_text(f"{self.packages}\n")
            for old in site.glob("setuptools-*.dist-info"):  # of Python; the constraints name another
                shutil.rmtree(old)
        if command == ".venv/bin/tsctl init":
            path = self.root / "deployment.yaml"
            path.write_text(substitute(path.read_text(), self.ports))


@pytest.fixture(scope="module")
def repository(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    root = tmp_path_factory.mktemp("own") / "repository"
    root.mkdir()
    packages = root.parent / "packages"
    packages.mkdir()
    [installed] = Path(sys.prefix).glob("lib/python3*/site-packages")
    for path in installed.iterdir():
        if "tsctl" not in path.name:
            (packages / path.name).symlink_to(path)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TSCTL_", "PIP_"))}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "TSCTL_SANDBOX": "off",  # it shows code the packages of its own Python, and here they lie elsewhere
    }
    made = Repository(root, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)), environment, packages)
    yield made
    if (root / "deployment.yaml").exists():
        made.type(".venv/bin/tsctl down")
    assert processes_of(root) == [], "processes are left behind"


def test_a_reader_can_begin_in_an_empty_folder(repository: Repository) -> None:
    steps = [step for step in parse_readme(README) if step.line in SECTION and isinstance(step, CommandStep)]
    assert [step.command for step in steps][-2] == ".venv/bin/tsctl up"
    for step in steps:
        printed = repository.type(step.command)
        repository.after(step.command)
        if step.output is not None:
            assert matches(substitute(step.output, repository.ports), printed), f"{step.command}\n{printed}"
    assert not (repository.root / "config.properties").exists()
    log = repository.root / ".tsctl" / "nodes" / "local" / "logs"
    assert not list(log.glob("access_log*")), "the logs are those of the package, without a line for each request"


def test_a_teams_own_package_handlers_stands_beside_the_core(repository: Repository) -> None:
    """Its modules are in an archive, on two engines; its other files are in nobody's way, though first on the path."""
    root = repository.root
    (root / "handlers").mkdir()
    (root / "handlers" / "__init__.py").write_text('"""The team\'s."""\n')
    (root / "handlers" / "wording.py").write_text("NAMES = {'friendly': 'nice', 'unfriendly': 'not nice'}\n")
    for name in ("base.py", "contract.py"):
        (root / "handlers" / name).write_text("raise ImportError('a module of the team runs in place of the core')\n")
    repository.variables["PYTHONPATH"] = str(root)
    repository.type(".venv/bin/tsctl init --template text")
    folder = root / "archives" / "mood"
    (folder / "handlers").symlink_to("../../handlers")
    spec = (folder / "archive.yaml").read_text().replace("words.py]", "words.py, handlers/wording.py]")
    (folder / "archive.yaml").write_text(spec)
    code = (folder / "handler.py").read_text()
    line = "from handlers.schema import Schema\n"
    code = code.replace(line, f"{line}from handlers.wording import NAMES\n")
    (folder / "handler.py").write_text(code.replace('{"label": labels[place]', '{"label": NAMES[labels[place]]'))
    deployment = yaml.safe_load((root / "deployment.yaml").read_text())
    [port] = free_ports(1)
    deployment["nodes"]["second"] = {"engine": "uvicorn", "address": f"http://127.0.0.1:{port}"}
    deployment["models"]["mood"] = {"default": "1.0", "versions": {"1.0": {"workers": 1}}}
    (root / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    assert "changed" in repository.type(".venv/bin/tsctl archive golden mood")
    assert '"nice"' in repository.type(".venv/bin/tsctl archive try mood thanks.json")
    printed = repository.type(".venv/bin/tsctl up")
    assert printed.count('200 {"label":"not nice"') == 2, printed  # one node, and the other
    assert repository.type("make check").count("  passed") == 2, "the script for CI builds and verifies both models"
    found = repository.type(".venv/bin/python -c 'import handlers.wording; print(handlers.wording.__file__)'")
    assert found.strip() == str(root / "handlers" / "wording.py")
