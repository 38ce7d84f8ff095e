"""The Makefile lists its targets, sets up before it runs, and removes only what may be removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
#: Calls of Python during a setup.
VENV = "-I -m venv .venv"
LOCK = "pip -r requirements.lock"
COMPILE = "compile"
DATA = "pip --quiet --no-deps -r requirements-data.lock"
CHECKOUT_ITSELF = "pip --quiet --no-deps --no-build-isolation --editable ."
PROMISED = {"help", "setup", "up", "down", "status", "archives", "verify", "test", "lint", "clean"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with nothing but what `make` itself reads, and things to clean."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path / "Makefile")
    for name in ("requirements.lock", "requirements-data.lock", "pyproject.toml"):
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


def write_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def fake_python(folder: Path) -> str:
    """A Python for make that notes how it is called, makes a .venv of itself, and fails at the call in `failing`."""
    script = """
        case "$*" in
            *pip*) call="pip${*##*--no-compile}";;
            "-c import sklearn"*" torch"*) call=compile;;
            -c*) exit 0;;
            *) call="$*";;
        esac
        echo "$call" >>calls
        test "$call" = "$(cat failing 2>/dev/null)" && exit 1
        case "$call" in *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac
        exit 0
    """
    write_program(folder / "base", "python", script)
    (folder / ".venv" / "made-by-make").touch()
    return f"PYTHON={folder}/base/python"


def calls(folder: Path) -> list[str]:
    """Calls of the fake Python since the last look."""
    made = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    (folder / "calls").unlink(missing_ok=True)
    return made


def change_later(path: Path, text: str) -> None:
    """A file that is newer than all others, whatever the resolution of the file system's clock."""
    path.write_text(text)
    os.utime(path, (time.time() + 10, time.time() + 10))


def test_help_is_the_default_and_describes_every_target(folder: Path) -> None:
    shown = make(folder)
    assert shown.stdout == make(folder, "help").stdout
    phony = re.search(r"^\.PHONY: (.+)$", (folder / "Makefile").read_text().replace("\\\n", ""), re.MULTILINE)
    assert phony is not None
    described = {line.split()[0] for line in shown.stdout.splitlines()[1:] if len(line.split()) > 1}
    assert described == set(phony[1].split())
    assert described >= PROMISED


@pytest.mark.parametrize("target", ["up", "down", "status", "archives", "verify", "test", "test-unit", "lint"])
def test_targets_that_need_the_environment_make_it_first(folder: Path, target: str) -> None:
    planned = make(folder, "-n", target).stdout
    assert "-m venv .venv" in planned.partition(".venv/bin/python scripts")[0]


def test_setup_makes_the_environment_once(folder: Path) -> None:
    python = fake_python(folder)
    assert make(folder, "setup", python).stdout.endswith(".venv is ready\n")
    assert calls(folder) == [VENV, LOCK, COMPILE, DATA, CHECKOUT_ITSELF]
    assert make(folder, "setup", python).stdout == ".venv is ready\n"
    assert calls(folder) == []


def test_a_changed_lock_makes_the_environment_anew_and_pyproject_only_installs_the_checkout(folder: Path) -> None:
    python = fake_python(folder)
    make(folder, "setup", python)
    assert calls(folder)
    change_later(folder / "pyproject.toml", "")
    make(folder, "setup", python)
    assert calls(folder) == [DATA, CHECKOUT_ITSELF]
    change_later(folder / "requirements.lock", "other==1\n")
    make(folder, "setup", python)
    assert calls(folder) == [VENV, LOCK, COMPILE, DATA, CHECKOUT_ITSELF]


@pytest.mark.parametrize("failing", [VENV, LOCK, COMPILE, DATA, CHECKOUT_ITSELF])
def test_a_setup_that_failed_is_not_taken_for_ready(folder: Path, failing: str) -> None:
    python = fake_python(folder)
    (folder / "failing").write_text(failing)
    assert make(folder, "setup", python).returncode != 0
    assert calls(folder)[-1] == failing
    (folder / "failing").write_text("")
    assert make(folder, "setup", python).returncode == 0
    # pip cannot tell a half-copied package from a whole one, so the packages are kept only when all had been installed
    again = [VENV, LOCK, COMPILE] if failing in (VENV, LOCK) else []
    assert calls(folder) == [*again, DATA, CHECKOUT_ITSELF]


def test_an_environment_whose_python_is_gone_is_made_anew(folder: Path) -> None:
    python = fake_python(folder)
    make(folder, "setup", python)
    assert calls(folder)
    (folder / ".venv" / "bin" / "python").unlink()
    assert make(folder, "setup", python).returncode == 0
    assert calls(folder) == [VENV, LOCK, COMPILE, DATA, CHECKOUT_ITSELF]


def test_an_environment_that_make_did_not_make_is_left_alone(folder: Path) -> None:
    python = fake_python(folder)
    (folder / ".venv" / "made-by-make").unlink()
    refused = make(folder, "setup", python)
    assert refused.returncode != 0
    assert ".venv was not made by 'make setup'" in refused.stderr
    assert (folder / ".venv" / "lib" / "__pycache__").exists()


def test_a_linked_environment_of_another_checkout_is_never_changed(folder: Path) -> None:
    (folder / ".venv").rename(folder / "other")
    (folder / ".venv").symlink_to(folder / "other")
    refused = make(folder, "setup", fake_python(folder))
    assert refused.returncode != 0
    assert ".venv is a link" in refused.stderr
    assert (folder / "other" / "lib" / "__pycache__").exists()


def test_tests_run_on_built_archives(folder: Path) -> None:
    planned = make(folder, "-n", "test").stdout
    assert planned.index("scripts/archive.py build") < planned.index(
        "-m pytest -n 3 tests/live tests/handlers tests/fuzz tests/benchmarks tests/unit"
    )


def test_the_first_python_that_is_new_enough_is_taken(folder: Path) -> None:
    names = folder / "names"
    write_program(names, "python3.11", "exit 127")  # as a version manager's shim without that version
    write_program(names, "python3", "exit 0")
    path = f"{names}:/usr/bin:/bin"
    assert "python3 -I -m venv" in make(folder, "-n", "setup", PATH=path).stdout
    write_program(names, "python3.11", "exit 0")
    assert "python3.11 -I -m venv" in make(folder, "-n", "setup", PATH=path).stdout
    assert "other -I -m venv" in make(folder, "-n", "setup", "PYTHON=other", PATH=path).stdout


def test_where_every_python_is_too_old_the_message_names_its_version(folder: Path) -> None:
    names = folder / "names"
    write_program(names, "python3.11", "exit 1")
    write_program(names, "python3", 'test "$1" = --version && echo Python 3.9.2')
    refused = make(folder, "setup", PATH=f"{names}:/usr/bin:/bin")
    assert refused.returncode != 0
    assert "Python 3.11 or newer is needed, and python3 is Python 3.9.2" in refused.stderr
    assert "PYTHON=/path/to/python3.11" in refused.stderr


def test_without_any_python_the_message_says_what_is_needed(folder: Path) -> None:
    refused = make(folder, "setup", "PYTHON=no-such-python")
    assert refused.returncode != 0
    assert "Python 3.11 or newer is needed, and no-such-python is missing" in refused.stderr


def test_clean_removes_what_was_built_and_nothing_else(folder: Path) -> None:
    (folder / ".tsctl").mkdir()
    assert make(folder, "clean").returncode == 0
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}
    assert left == {"archives", "archives/digits", ".venv", ".venv/lib", ".venv/lib/__pycache__", "tsctl", ".tsctl"}
    assert make(folder, "distclean").returncode == 0
    assert not (folder / ".venv").exists()
    assert (folder / ".tsctl").exists(), "logs and journals are not built, so they are not removed"


def test_clean_is_refused_while_a_node_of_this_checkout_runs(folder: Path) -> None:
    write_program(folder / ".venv" / "bin", "python", 'test "$*" = "scripts/serve.py node running" && echo pid 7, a')
    refused = make(folder, "distclean")
    assert refused.returncode != 0
    assert "a node of this checkout runs: pid 7, a" in refused.stderr
    assert "make down" in refused.stderr
    assert (folder / "archives" / "store").exists()
    assert (folder / ".venv").exists()


def test_clean_goes_on_when_no_node_runs(folder: Path) -> None:
    write_program(folder / ".venv" / "bin", "python", "exit 1")
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
