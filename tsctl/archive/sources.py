"""Lists the files of a folder that go into an archive: every one, through links, but for what tools leave behind.

Invariant: what is not listed and is no leaving is an error, so nothing that an author meant stays out in silence.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tsctl import CORE
from tsctl.errors import ArchiveError

#: Left behind by Python, desktops, editors, notebooks and version control.
LEAVINGS = (
    "__pycache__", "*.py[co]", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints",
    ".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".directory", ".nfs*", ".fuse_hidden*", ".~lock.*#",
    "*~", "#*#", ".#*", ".*.sw[a-p]", ".*.kate-swp", ".idea", ".vscode", ".git", ".gitkeep", ".gitignore",
    ".gitattributes", ".hg", ".svn", ".env", ".venv", ".cache", "node_modules", ".Trash-*", "$RECYCLE.BIN",
)  # fmt: skip
#: The first bytes of files that stand for a content which version control has elsewhere.
_POINTERS = {b"version https://git-lfs.github.com/spec/": "git lfs pull", b"/annex/objects/": "git annex get"}


def files_below(path: Path) -> dict[str, Path]:
    """Every file of a folder, by its name inside, with /; a file alone has the name ''.

    Raises:
        ArchiveError: there is nothing, a link leads nowhere or in a circle, a name is no plain text, or a file is only
            a pointer of Git LFS or git-annex.
    """
    found = dict(_walk(path, "", ()))
    if not found:
        raise ArchiveError(f"{path} holds no file, so nothing of it would be in the archive")
    for file in found.values():
        _require_content(file)
    return found


def handlers_package() -> Path:
    """The folder of the package `handlers` that belongs to this tsctl, not of another one of that name.

    Raises:
        ArchiveError: it is not whole.
    """
    if not (CORE / "base.py").is_file():
        raise ArchiveError(f"tsctl's package 'handlers' is not in {CORE}", "Install tsctl again.")
    return CORE


def core_program(module: str) -> list[str]:
    """A file and its first argument, with which a Python runs `main` of a module of `handlers_package`."""
    return [str(handlers_package() / "adapters" / "run.py"), module]


def require_no_secret(path: Path, folder: Path) -> None:
    """Check that a file of the folder is no link that leads out of it to a file that only its owner may read.

    Whoever made the folder may not be the one who builds it, and an archive goes to machines of others.

    Raises:
        ArchiveError: it is one.
    """
    if not path.resolve().is_relative_to(folder.resolve()) and not path.stat().st_mode & stat.S_IROTH:
        raise ArchiveError(
            f"{path} is a link out of the archive's folder to {path.resolve()}, which only its owner may read",
            "Copy the file into the folder, or let others read it, if an archive may hold it.",
        )


def is_leaving(name: str) -> bool:
    """Whether a file or folder of this name is nothing that its author made."""
    return any(fnmatchcase(name, pattern) for pattern in LEAVINGS)


def _walk(path: Path, name: str, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    if not name.isprintable():  # also half of a surrogate pair: bytes that are no UTF-8
        raise ArchiveError(f"{name!r} in {str(above[0])!r} has a name that no archive can hold", "Rename it.")
    if path.is_file():
        yield name, path
        return
    if not path.is_dir():
        raise ArchiveError(f"{path} is a link that leads nowhere, or is neither a file nor a folder")
    real = path.resolve()
    if real in above:
        raise ArchiveError(f"{path} is a link to a folder around it, so its files have no end")
    for inside in sorted(path.iterdir()):
        if not is_leaving(inside.name):
            yield from _walk(inside, f"{name}/{inside.name}" if name else inside.name, (*above, real))


def _require_content(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64)
    for start, command in _POINTERS.items():
        if head.startswith(start):
            raise ArchiveError(f"{path} is a pointer to a file, and not the file itself", f"Run: {command}")
