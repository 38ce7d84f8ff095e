"""Runs an archive's recipe, the script that makes its weights, and keeps its output until an input changes."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import deque
from importlib.metadata import distributions
from pathlib import Path

from tsctl.archive.container import digest_of
from tsctl.archive.sandbox import run_confined, why_open
from tsctl.archive.sources import files_below
from tsctl.archive.written import remove, require_own
from tsctl.config.archive import ArchiveSpec
from tsctl.errors import ArchiveError
from tsctl.host.progress import Note

KEY_FILE = ".inputs"
TIMEOUT_S = 12 * 3600.0
_SHOWN_LINES, _KEPT_LINES = 15, 1000
#: Runs a recipe with the arguments in its standard input: one argument of a process has at most 128 KiB, and the
#: settings may be a long list of labels.
_START = """
import json as _json, os as _os, sys
__file__ = sys.argv[1]
sys.argv = [__file__, *_json.loads(sys.stdin.buffer.read())]
sys.path[0] = _os.path.dirname(__file__)
with open(__file__, "rb") as _source:
    _code = compile(_source.read(), __file__, "exec")
exec(_code)
"""


def recipe_output(folder: Path, spec: ArchiveSpec, version: str, note: Note) -> tuple[Path | None, list[str]]:
    """The folder with the recipe's output for a version; the recipe runs if an input changed. None without a recipe.

    Args:
        folder: the archive's folder, with archive.yaml.
        note: gets every line that the recipe prints, while it runs.

    Returns:
        The folder, and the lines that the recipe printed when it ran.

    Raises:
        ArchiveError: the recipe failed; nothing of it is kept.
    """
    if spec.recipe is None:
        return None, []
    kept = folder / ".built" / version
    key = recipe_key(folder, spec, version)
    if (kept / KEY_FILE).is_file() and _kept_lines(kept)[:1] == [key]:
        return kept, _kept_lines(kept)[1:]
    writing = folder / ".built" / f".{version}.{os.getpid()}"
    writing.mkdir(parents=True)
    try:
        lines = _run(folder, spec, version, writing, note)
        require_own(writing)
        (writing / KEY_FILE).write_text("\n".join([key, *lines]) + "\n", encoding="utf-8")
        remove(kept)
        writing.rename(kept)
    finally:
        remove(writing)
    return kept, lines


def _kept_lines(kept: Path) -> list[str]:
    return (kept / KEY_FILE).read_text(encoding="utf-8").split("\n")[:-1]


def recipe_key(folder: Path, spec: ArchiveSpec, version: str) -> str:
    """A digest of everything that the recipe's result may depend on: its own bytes and those of `files`, the version,
    the settings, Python, and every installed package."""
    inputs = {
        "version": version,
        "settings": spec.serving(version).settings,
        "files": {name: _digest(folder / name) for name in [spec.recipe or "", *spec.files]},
        "python": platform.python_version(),
        # without tsctl: its version does not change what a recipe does
        "packages": sorted({f"{d.name}=={d.version}" for d in distributions() if d.name != "tsctl"}),
    }
    return digest_of(json.dumps(inputs, sort_keys=True).encode())


def _run(folder: Path, spec: ArchiveSpec, version: str, out: Path, note: Note) -> list[str]:
    settings = json.dumps(spec.serving(version).settings)
    arguments = ["--version", version, "--settings", settings, "--out", str(out.resolve())]
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    if reason := why_open():
        lines.append(f"{spec.recipe} ran with your rights and not in a sandbox: {reason}")

    def take(line: str) -> None:
        lines.append(line)
        note(line)

    ended = run_confined(
        [sys.executable, "-c", _START, str(folder.resolve() / (spec.recipe or ""))],
        folder.resolve(),
        reads=[folder.resolve(), *_linked(folder, spec)],
        writes=[out.resolve()],
        order=json.dumps(arguments).encode(),
        variables={"PYTHONUNBUFFERED": "1"},
        timeout_s=TIMEOUT_S,
        on_line=take,
    )
    if ended.status != 0:
        shown = "\n".join(f"    {line}" for line in list(lines)[-_SHOWN_LINES:])
        why = ended.stopped or f"ended with status {ended.status}"
        raise ArchiveError(f"{spec.recipe} of {spec.model} {version} {why}:\n{shown}")
    return list(lines)


def _linked(folder: Path, spec: ArchiveSpec) -> list[Path]:
    """The places to which links in `files` lead, whose content goes into the archive as well."""
    named = [folder / name for name in spec.files]
    return [path.resolve() for top in named for path in (top, *top.rglob("*")) if path.is_symlink()]


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder."""
    if not path.exists():
        raise ArchiveError(f"{path} is named in archive.yaml and does not exist")
    files = {name: digest_of(file) for name, file in files_below(path).items()}
    return files[""] if "" in files else digest_of(json.dumps(files).encode())
