"""Runs an archive's recipe, the script that makes its weights, and keeps its output until an input changes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from tsctl.archive.container import digest_of
from tsctl.config.archive import ArchiveSpec
from tsctl.errors import ArchiveError
from tsctl.host.progress import Note

KEY_FILE = ".inputs"
_SHOWN_LINES = 15


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
    if (kept / KEY_FILE).is_file() and (kept / KEY_FILE).read_text().splitlines()[:1] == [key]:
        return kept, (kept / KEY_FILE).read_text().splitlines()[1:]
    writing = folder / ".built" / f".{version}.{os.getpid()}"
    writing.mkdir(parents=True)
    try:
        lines = _run(folder, spec, version, writing, note)
        (writing / KEY_FILE).write_text("\n".join([key, *lines]) + "\n")
        shutil.rmtree(kept, ignore_errors=True)
        writing.rename(kept)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return kept, lines


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
    command = [
        sys.executable, str(folder / (spec.recipe or "")), "--version", version, "--settings", settings,
        "--out", str(out.resolve()),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    lines = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                note(lines[-1])
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        shown = "\n".join(f"    {line}" for line in lines[-_SHOWN_LINES:])
        raise ArchiveError(f"{spec.recipe} of {spec.model} {version} ended with status {process.returncode}:\n{shown}")
    return lines


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder."""
    if path.is_file():
        return digest_of(path)
    if not path.is_dir():
        raise ArchiveError(f"{path} is named in archive.yaml and does not exist")
    inside = {str(p.relative_to(path)): _digest(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return digest_of(json.dumps(inside).encode())
