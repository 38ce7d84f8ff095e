"""Rooms, modules, names and errors keep the rules of the house."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tsctl import errors

CHECKOUT = Path(__file__).resolve().parents[2]
HANDLERS = sorted((CHECKOUT / "handlers").rglob("*.py"))
TSCTL = sorted((CHECKOUT / "tsctl").rglob("*.py"))
BENCHMARKS = sorted((CHECKOUT / "benchmarks").rglob("*.py"))
SCRIPTS = sorted((CHECKOUT / "scripts").glob("*.py"))
#: What the command line must not load before a command needs it: time of every start, or the worker's world.
HEAVY = {
    "torch",
    "ts",
    "numpy",
    "pandas",
    "transformers",
    "pydantic",
    "requests",
    "yaml",
    "prometheus_client",
}
#: Words of the house's table that name nothing.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "data", "info"}


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_rooms_import_only_what_pyproject_allows_them() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not in .venv: run make setup")
    code = "import sys, importlinter.cli as c; sys.exit(c.lint_imports(no_logo=True, no_cache=True))"
    checked = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", [*TSCTL, *HANDLERS, *SCRIPTS, *BENCHMARKS], ids=name_of)
def test_every_module_says_why_it_changes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(parse(path)), "no docstring"


@pytest.mark.parametrize("path", [*TSCTL, *HANDLERS, *SCRIPTS, *BENCHMARKS], ids=name_of)
def test_names_say_something(path: Path) -> None:
    assert path.stem.strip("_") not in EMPTY_NAMES


def test_the_command_line_starts_without_anything_heavy() -> None:
    code = "import sys, tsctl.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    started = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not set(started.stdout.split()) & HEAVY


def test_every_error_owns_an_exit_code_and_stands_in_the_tree() -> None:
    tree = inspect.getdoc(errors) or ""
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.TsctlError)]
    codes = {cls.__name__: cls.exit_code for cls in classes}
    assert len(set(codes.values())) == len(codes)
    assert not set(codes.values()) & {0, 10, 11, 130}, "taken by outcomes and by the shell"
    for cls in classes:
        assert "exit_code" in vars(cls), f"{cls.__name__} inherits its exit code"
        assert any(line.split()[:2] == [cls.__name__, str(cls.exit_code)] for line in tree.splitlines())


def test_every_file_that_the_architecture_names_in_backticks_exists() -> None:
    page = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:handlers|tsctl|tests|scripts|benchmarks)/[\w/]*(?:\.py)?)`", page)
    assert len(named) > 20
    assert [name for name in named if not (CHECKOUT / name).exists()] == []
