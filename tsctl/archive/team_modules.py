"""A team's own modules called `handlers.NAME` beside those of the core, in one folder of an archive.

An archive has one folder `handlers`: the core's files, and those that `files` of archive.yaml brings. One name has one
source, and the core's `__init__.py` is the package's. See docs/decisions/0058-two-packages-called-handlers.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tsctl.archive.container import Content
from tsctl.errors import ArchiveError

PACKAGE = "handlers"
INIT = f"{PACKAGE}/__init__.py"


def is_blank(path: Path) -> bool:
    """Whether a module does nothing that an archive would miss: it is empty, or has only texts and its `__path__`."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return False
    return all(map(_is_blank, body))


def _is_blank(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__path__" | "__all__")]):
            return True
        case ast.Import() | ast.ImportFrom():
            modules = {module.partition(".")[0] for module in _imported(statement)}
            return modules <= {"pkgutil", "__future__"}
        case _:
            return False


def replaced(name: str, path: Path) -> ArchiveError:
    """Why a file of `files` cannot be the entry of this name, which is one of the core's."""
    return ArchiveError(
        f"{path} would be {name} in the archive, which is a module of tsctl's own package '{PACKAGE}'",
        "Call it otherwise, or put it into another folder; name the files that an archive needs one by one, such as"
        f" `files: [{PACKAGE}/wording.py]`.",
    )


def require_modules(entries: Mapping[str, Content], core: Iterable[str], folder: Path) -> None:
    """Check that the author's code imports no module `handlers.NAME` that the archive does not have.

    Args:
        entries: of the archive.
        core: those that are the core's.
        folder: of the archive's files.

    Raises:
        ArchiveError: it imports one, which a worker would not find.
    """
    public = {f"{PACKAGE}.{name}" for name in _public(entries[INIT])}
    ours = set(core)
    for name, content in entries.items():
        if name.endswith(".py") and name not in ours and isinstance(content, Path):
            for module in _of_package(content):
                if module not in public and not _is_there(module, entries):
                    place = f"{module.replace('.', '/')}.py"
                    raise ArchiveError(
                        f"{name} imports {module}, which is neither a module of tsctl's package '{PACKAGE}' nor among"
                        " `files`, so no worker would find it",
                        f"Put the file, or a link to it, at {folder / place}, and name it in archive.yaml:"
                        f" `files: [{place}]`.",
                    )


def _of_package(path: Path) -> Iterator[str]:
    """The modules `handlers.NAME` that a file needs: imports in a `try` or for type checkers only may fail."""
    try:
        todo: list[ast.AST] = [ast.parse(path.read_bytes())]
    except (SyntaxError, ValueError):
        return  # no worker can import it, and says so
    while todo:
        node = todo.pop()
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from (module for module in _imported(node) if module.startswith(f"{PACKAGE}."))
            case ast.Try() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case _:
                todo += ast.iter_child_nodes(node)


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    match statement:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield from (
                (f"{PACKAGE}.{alias.name}" for alias in names if alias.name != "*") if module == PACKAGE else (module,)
            )


def _is_there(module: str, entries: Mapping[str, Content]) -> bool:
    place = module.replace(".", "/")
    return f"{place}.py" in entries or any(name.startswith(f"{place}/") for name in entries)


def _public(content: Content) -> frozenset[str]:
    """The names in the `__all__` of a module."""
    tree = ast.parse(content.read_bytes() if isinstance(content, Path) else content)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    return frozenset()
