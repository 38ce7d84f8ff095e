"""Scripts run with any Python, under the packages of .venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (CHECKOUT / "scripts").glob("[!_]*.py"))
#: The Python that made .venv, which sees none of its packages.
BARE_PYTHON = getattr(sys, "_base_executable", sys.executable)


def run_script(scripts: Path, name: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TSCTL_"))}
    command = [BARE_PYTHON, scripts / name, "--help"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_under_the_venv_from_any_folder(name: str, tmp_path: Path) -> None:
    ended = run_script(CHECKOUT / "scripts", name, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.lstrip().startswith("Usage: tsctl")


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_without_a_complete_venv_a_script_says_how_to_make_it(tmp_path: Path, is_interrupted: bool) -> None:
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "scripts")
    if is_interrupted:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(BARE_PYTHON)
    ended = run_script(tmp_path / "scripts", "manage.py", tmp_path)
    assert ended.returncode == 1
    assert f"{tmp_path}/.venv is missing or incomplete" in ended.stderr
    assert "Run 'make setup'" in ended.stderr
