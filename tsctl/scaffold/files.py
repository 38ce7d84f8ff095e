"""Writes new files into a folder that may have others: no file that is there is changed.

The one exception is .gitignore, which nearly every repository has: lines that are missing are added at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tsctl.archive.container import Content, place
from tsctl.errors import SpecError

IGNORED = ".gitignore"


@dataclass(frozen=True)
class NewFile:
    """A file of a new project."""

    content: Content
    is_program: bool = False  # may be run
    is_kept: bool = False  # where the folder has such a file, that one stays; otherwise nothing is written at all


@dataclass(frozen=True)
class Written:
    """What became of the files, by their paths in the folder."""

    made: tuple[str, ...]
    kept: tuple[str, ...]  # there already, and left as they are
    added: tuple[str, ...]  # got lines

    def with_made(self, *paths: str) -> Written:
        """Further files that were made."""
        return replace(self, made=(*self.made, *paths))


def write_files(folder: Path, files: Mapping[str, NewFile]) -> Written:
    """Write the files, and make the folders that they need.

    Raises:
        SpecError: one of them is there already, and is none that is kept; then nothing is written.
    """
    there = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    if unwanted := [name for name in there if not files[name].is_kept and name != IGNORED]:
        raise SpecError(
            f"{folder} has {', '.join(unwanted)} already, and nothing is overwritten",
            "Name another folder, or another model with --name.",
        )
    made, kept, added = list[str](), list[str](), list[str]()
    for name, file in files.items():
        path = folder / name
        if name == IGNORED and name in there:
            (added if _add_lines(path, read_content(file.content)) else kept).append(name)
        elif name in there:
            kept.append(name)
        else:
            place(file.content, path)
            path.chmod(0o755 if file.is_program else 0o644)
            made.append(name)
    return Written(tuple(made), tuple(kept), tuple(added))


def read_content(content: Content) -> bytes:
    """The bytes of a file's content."""
    return content.read_bytes() if isinstance(content, Path) else content


def _add_lines(path: Path, content: bytes) -> bool:
    """Add the lines that the file does not have; False where it has all."""
    before = path.read_bytes()
    known = {line.strip() for line in before.splitlines()}
    missing = [line for line in content.splitlines() if line and not line.startswith(b"#") and line not in known]
    if not missing:
        return False
    with path.open("ab") as file:
        file.write((b"" if not before or before.endswith(b"\n") else b"\n") + b"\n".join([b"# tsctl", *missing, b""]))
    return True
