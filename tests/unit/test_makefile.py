"""The Makefile tells its targets, sets up before it runs, and removes only what may be removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROMISED = {"help", "setup", "up", "down", "status", "archives", "verify", "test", "lint", "clean"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with nothing but what `make` itself reads, and things to clean."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path / "Makefile")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    for built in ("archives/store", "archives/digits/.built", ".venv/lib/__pycache__", "tsctl/__pycache__"):
        (tmp_path / built).mkdir(parents=True)
    (tmp_path / "archives" / "digits" / "archive.yaml").touch()
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=30
    )


def python_named(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def record_node(folder: Path, pid: int, started_ticks: int) -> None:
    record = folder / ".tsctl" / "nodes" / "local" / "node.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"pid": pid, "started_ticks": started_ticks, "tmp": "x"}) + "\n")


def own_ticks() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def test_help_is_the_default_and_describes_every_target(folder: Path) -> None:
    shown = make(folder)
    assert shown.stdout == make(folder, "help").stdout
    phony = re.search(r"^\.PHONY: (.+)$", (folder / "Makefile").read_text().replace("\\\n", ""), re.MULTILINE)
    assert phony is not None
    described = {line.split()[0] for line in shown.stdout.splitlines()[1:] if len(line.split()) > 1}
    assert described == set(phony[1].split())
    assert described >= PROMISED


@pytest.mark.parametrize("target", ["up", "down", "status", "archives", "verify", "test", "test-unit", "lint"])
def test_what_needs_the_environment_makes_it_first(folder: Path, target: str) -> None:
    planned = make(folder, "-n", target).stdout
    assert "scripts/bootstrap.py" in planned.partition(".venv/bin/python")[0]


def test_what_is_set_up_is_not_set_up_again(folder: Path) -> None:
    (folder / ".venv" / "setup.stamp").touch()
    assert "bootstrap" not in make(folder, "-n", "up").stdout
    os.utime(folder / "requirements.lock", (2e9, 2e9))
    assert "bootstrap" in make(folder, "-n", "up").stdout


def test_tests_run_on_built_archives(folder: Path) -> None:
    planned = make(folder, "-n", "test").stdout
    assert planned.index("scripts/archive.py build") < planned.index(
        "-m pytest -n 3 tests/live tests/handlers tests/fuzz tests/unit"
    )


def test_the_first_name_that_is_new_enough_is_taken(folder: Path) -> None:
    names = folder / "names"
    python_named(names, "python3.11", "exit 127")  # as a version manager's shim without that version
    python_named(names, "python3", "exit 0")
    path = f"{names}:/usr/bin:/bin"
    assert 'python="python3"' in make(folder, "-n", "setup", PATH=path).stdout
    python_named(names, "python3.11", "exit 0")
    assert 'python="python3.11"' in make(folder, "-n", "setup", PATH=path).stdout
    assert 'python="other"' in make(folder, "-n", "setup", "PYTHON=other", PATH=path).stdout


def test_where_all_are_too_old_the_script_itself_says_so(folder: Path) -> None:
    names = folder / "names"
    python_named(names, "python3.11", "exit 1")
    python_named(names, "python3", 'test "$1" = scripts/bootstrap.py && echo it says what it is; exit 1')
    said = make(folder, "setup", PATH=f"{names}:/usr/bin:/bin")
    assert said.returncode != 0
    assert "it says what it is" in said.stdout


def test_without_any_python_the_message_says_what_is_needed(folder: Path) -> None:
    said = make(folder, "setup", "PYTHON=")
    assert said.returncode != 0
    assert "Python 3.11 or newer is needed" in said.stderr
    assert "PYTHON=/path/to/python3.11" in said.stderr


def test_clean_removes_what_was_built_and_nothing_else(folder: Path) -> None:
    (folder / ".tsctl").mkdir()
    assert make(folder, "clean").returncode == 0
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}
    assert left == {"archives", "archives/digits", ".venv", ".venv/lib", ".venv/lib/__pycache__", "tsctl", ".tsctl"}
    assert make(folder, "distclean").returncode == 0
    assert not (folder / ".venv").exists()
    assert (folder / ".tsctl").exists(), "logs and journals are not built, so they are not removed"


def test_clean_is_refused_while_a_node_of_this_checkout_runs(folder: Path) -> None:
    record_node(folder, os.getpid(), own_ticks())
    said = make(folder, "distclean")
    assert said.returncode != 0
    assert f"(pid {os.getpid()}, .tsctl/nodes/local/node.json)" in said.stderr
    assert "make down" in said.stderr
    assert (folder / "archives" / "store").exists()
    assert (folder / ".venv").exists()


def test_clean_is_not_refused_for_a_pid_that_another_process_got(folder: Path) -> None:
    record_node(folder, os.getpid(), own_ticks() - 1)
    assert make(folder, "clean").returncode == 0
    assert not (folder / "archives" / "store").exists()


def test_places_of_one_machine_are_found_and_the_pattern_itself_is_not() -> None:
    [line] = re.findall(r"^PRIVATE := .+$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    private = re.compile(line.removeprefix("PRIVATE := "))
    dot, slash = ".", "/"
    for place in (f"{slash}home/someone/x", f"{slash}root/x", f"{slash}Users/Some", f"https://pypi{dot}org/simple"):
        assert private.search(place)
    assert not private.search(line)
    assert not private.search("http://127.0.0.1:8080/predictions/home")
