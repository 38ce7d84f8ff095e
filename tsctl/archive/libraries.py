"""Which packages the code in an archive imports, and their versions beside tsctl: nothing of it is run."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

#: The package that is bundled into every archive, of which an archive uses a part.
BUNDLED = "handlers"
#: Modules of it that only text models reach; an engine that gives answers whole serves none.
OF_TEXT = ("handlers.text", "handlers.text_generation", "handlers.worker.text")


@dataclass(frozen=True)
class Libraries:
    """The packages that an unpacked archive needs."""

    pins: Mapping[str, str]  # version by package, of those that are installed beside tsctl
    missing: tuple[str, ...]  # modules that the author's code imports, and no installed package has


def libraries_of(
    folder: Path, entries: Iterable[str], given: Collection[str] = (), unused: Collection[str] = ()
) -> Libraries:
    """The packages that the code in an unpacked archive imports.

    Args:
        entries: modules of the bundled package with which a program begins, such as `handlers.image`.
        given: modules that are there anyway.
        unused: modules and packages of the bundled package that are imported, and of which nothing is called.
    """
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    authors = [path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] != BUNDLED]
    imported = {module for path in authors for module in _imports(path)}
    known = own | {BUNDLED, *given} | sys.stdlib_module_names
    owners = packages_distributions()
    reached = _names([*imported, *_reached(folder, [*entries, *imported], unused)]) - known
    packages = {owner for name in reached for owner in owners.get(name, ())[:1]}
    return Libraries(
        {package: version(package).partition("+")[0] for package in sorted(packages, key=str.lower)},
        tuple(sorted(_names(imported) - known - owners.keys())),
    )


def _names(modules: Iterable[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def _reached(folder: Path, modules: Iterable[str], unused: Collection[str]) -> Iterator[str]:
    """Every module that the bundled package imports when these modules are imported; what unused ones import is not."""
    todo = [path for module in modules for path in _files(folder, module)]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            for module in _imports(path):
                yield module
                if not any(module == name or module.startswith(f"{name}.") for name in unused):
                    todo += _files(folder, module)


def _files(folder: Path, module: str) -> Iterator[Path]:
    """The files that importing a module of the bundled package runs."""
    parts = module.split(".")
    if parts[0] != BUNDLED:
        return
    for end in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:end])
        yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())
    if len(parts) == 2:  # `from handlers import Name`, which its __init__ looks for in its modules
        name = re.compile(rf"^(class|def) {re.escape(parts[1])}\b", re.MULTILINE)
        yield from (p for p in (folder / BUNDLED).glob("*.py") if name.search(p.read_text(encoding="utf-8")))


def _imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, or may: `from a import b` gives a and a.b. What cannot be parsed has none."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError):
        return
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                todo += orelse
            case _:
                todo += ast.iter_child_nodes(node)
