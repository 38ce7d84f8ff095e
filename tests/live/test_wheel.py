"""The wheel, installed with nothing but its declared dependencies, works on a project elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, tracked_files
from tests.support.sites import Site, write_tiny

TIMEOUT_S = 120


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
    assert names == {str(path) for path in tracked_files() if path.parts[0] in ("handlers", "tsctl")}


def test_the_command_line_answers(programs: Path, tmp_path: Path) -> None:
    assert "Usage: tsctl" in run(tmp_path, programs / "tsctl", "--help")


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
