"""What may import what, and that every module and error says what it is for."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tsctl import errors

CHECKOUT = Path(__file__).resolve().parents[2]
HANDLERS = sorted((CHECKOUT / "handlers").rglob("*.py"))
TSCTL = sorted((CHECKOUT / "tsctl").rglob("*.py"))
#: Runs in a worker: the stock handler that the benchmarks compare with.
STOCK = CHECKOUT / "tsctl" / "bench" / "stock"
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


def imports(tree: ast.AST) -> set[str]:
    """First parts of the names of all imported modules below a node; a relative import is '.'."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            is_shared = all(name.split(".")[:2] == ["handlers", "contract"] for name in names)
            found.add("." if node.level else "handlers.contract" if is_shared else str(node.module).split(".")[0])
    return found


def imports_at_start(tree: ast.Module) -> set[str]:
    """What importing the module imports: all but the bodies of functions and of `if TYPE_CHECKING`."""
    found: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imports(node)
        pending += ast.iter_child_nodes(node)
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", HANDLERS, ids=name_of)
def test_a_handler_module_works_from_the_checkout_and_from_an_archive(path: Path) -> None:
    found = imports(parse(path))
    assert "." not in found, "relative imports do not work inside an archive"
    assert not found & {"tsctl", "scripts", "tests"}, "these are not in the archive"
    if path.parent.name != "torchserve":
        assert "ts" not in found, "only handlers/adapters/torchserve knows TorchServe's own package"


@pytest.mark.parametrize("path", [path for path in TSCTL if path.parent != STOCK], ids=name_of)
def test_importing_a_tsctl_module_imports_nothing_of_the_worker(path: Path) -> None:
    found = imports_at_start(parse(path))
    assert not found & {"torch", "ts", "handlers"}
    assert "." not in found


@pytest.mark.parametrize("path", [*TSCTL, *HANDLERS, *SCRIPTS], ids=name_of)
def test_every_module_says_why_it_changes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(parse(path)), "no docstring"


@pytest.mark.parametrize("path", [*TSCTL, *HANDLERS, *SCRIPTS], ids=name_of)
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
