"""Makes the environment of an engine with uv or pip, from the engine's pinned file: whole or not at all.

An interrupted installation leaves nothing behind but downloads in the cache of uv or pip, so the next one is quick.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from secrets import token_hex

import psutil

from tsctl.config.project import Project
from tsctl.errors import NodeError, TsctlError
from tsctl.host.files import make_folder, removed_on_failure, write_document
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note, Progress
from tsctl.nodes.environments import STAMP, Engine, Environment, find_environment, link_of, require_fitting

#: Room on the disk, as a multiple of the finished environment: uv and pip keep downloads while they unpack them.
ROOM = 1.5
#: Lines of a failed installer that are shown; its log has all.
SHOWN = 6
#: Variables that lead a Python to other packages than its environment's, or pip to another place.
_MISLEADING = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER",
    "PIP_DRY_RUN", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_NO_DEPS",
)  # fmt: skip
#: pip's settings that say where packages are, with _ for -, and uv's variables of the same meaning.
_UV_SETTINGS = {
    "index_url": "UV_DEFAULT_INDEX", "extra_index_url": "UV_INDEX", "find_links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}  # fmt: skip
_NO_NETWORK = re.compile(
    r"NewConnectionError|name resolution|Name or service not known|timed out|Network is unreachable|ProxyError"
    r"|Connection refused|dns error|error sending request|Failed to fetch|connection broken|Could not connect",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|os error 28")
_NOT_THERE = re.compile(r"No matching distribution found for (\S+)|there is no version of (\S+)")


def install(project: Project, engine: Engine, progress: Progress, again: bool = False) -> Environment:
    """Make the environment of an engine, unless it is there, and return it.

    Args:
        again: make it even where it is there.

    Raises:
        NodeError: the engine does not run here, or its packages cannot be installed; the environment of before stays.
        ConflictError: another process installs an engine.
    """
    link = link_of(project, engine.name)
    _make_state(project)
    with exclusive(link.parent / ".lock", "the engines' environments"):
        there = find_environment(project, engine.name)
        if there is not None and there.digest == engine.digest and there.is_whole and not again:
            return there
        require_fitting(engine)
        _remove_leftovers(link)
        with progress.step(f"installing {engine.name}") as step:
            _require_room(engine, link.parent)
            folder = link.with_name(f".{link.name}-{engine.digest}-{token_hex(4)}")
            with removed_on_failure(folder):
                release = _fill(engine, folder, link.with_name(f"{link.name}.log"), step.note)
                write_document(folder / STAMP, {"engine": engine.name, "digest": engine.digest, "version": release})
                _point(link, folder)
            _remove_leftovers(link)
            made = find_environment(project, engine.name)
            if made is None:
                raise NodeError(f"{folder} was changed by another process", "Run this again.")
            step.done(f"{release}, {made.megabytes} MB")
            return made


def _make_state(project: Project) -> None:
    """Raises NodeError where the folder of environments cannot be made."""
    folder = link_of(project, "any").parent
    try:
        make_folder(folder)
    except OSError as error:
        raise NodeError(f"{project.relative(folder)} cannot be made: {error.strerror}") from None


def _point(link: Path, folder: Path) -> None:
    """Make the link lead to the folder, at once."""
    making = link.with_name(f"{folder.name}.link")
    making.symlink_to(folder.name)
    try:
        making.replace(link)
    except OSError as error:
        making.unlink(missing_ok=True)
        raise NodeError(f"{link} cannot be replaced: {error.strerror}", "Move it away, then run this again.") from None


def _remove_leftovers(link: Path) -> None:
    """Remove environments of this engine that nothing leads to and no process uses."""
    current = link.resolve()
    for path in link.parent.glob(f".{link.name}-*"):
        if path.is_symlink():
            path.unlink(missing_ok=True)
        elif path != current and not _is_used(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_used(folder: Path) -> bool:
    """Whether a process runs with a program of this folder."""
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith(f"{folder}{os.sep}") for part in process.info["cmdline"] or ()):
            return True
    return False


def _require_room(engine: Engine, folder: Path) -> None:
    """Raises NodeError where the disk has too little room."""
    needed, free = engine.megabytes * ROOM, shutil.disk_usage(folder).free / 1e6
    if free < needed:
        raise NodeError(f"{engine.name} needs {needed:.0f} MB while it is installed, and {folder} has {free:.0f} MB")


# ---- uv and pip ------------------------------------------------------------------------------------------------------


def _fill(engine: Engine, folder: Path, log: Path, note: Note) -> str:
    """Install all packages into a new environment; the version of the main one."""
    python = folder / "bin" / "python"
    lock = engine.lock
    total = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != "#")
    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    only = ["--no-deps"] if engine.is_closed else []
    log.unlink(missing_ok=True)
    runner = _Runner(engine.name, environment, log, note, total)
    if uv := shutil.which("uv"):
        runner.environment = {**_uv_settings(environment), **environment}
        runner.run([uv, "venv", "--no-project", "--python", sys.executable, str(folder)])
        runner.run([uv, "pip", "install", "--python", str(python), *only, "--requirement", str(lock)])
    elif _has_pip():
        runner.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)])
        runner.run([*_pip("--python", str(python)), "install", "--no-compile", *only, "--requirement", str(lock)])
    else:
        raise NodeError(
            f"neither uv nor pip is installed, and {engine.name} needs one of them",
            f"Run: {sys.executable} -m ensurepip",
        )
    note(f"importing {engine.module}")
    shown = f"import {engine.module}, importlib.metadata as m; print(m.version({engine.package!r}))"
    return runner.run([str(python), "-I", "-c", shown])[-1]


def _pip(*options: str) -> list[str]:
    own = ["--disable-pip-version-check", "--no-input", "--no-color"]
    return [sys.executable, "-I", "-m", "pip", *own, *options]


def _has_pip() -> bool:
    """Whether this Python has pip; `importlib.util.find_spec` would let setuptools replace distutils, and warn."""
    return PathFinder.find_spec("pip") is not None


def _uv_settings(environment: dict[str, str]) -> dict[str, str]:
    """Where pip's settings say that packages are, as uv's variables: uv does not read them by itself."""
    if not _has_pip():
        return {}
    listed = subprocess.run(
        [*_pip(), "config", "list"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip does: the indexes are one
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        if variable := _UV_SETTINGS.get(key.rpartition(".")[2].replace("-", "_")):
            words = value.strip("'").replace("\\n", " ").split()
            settings[variable] = ",".join(words) if variable == "UV_FIND_LINKS" else " ".join(words)
    return settings


class _Runner:
    """Runs the installer's commands, and shows what they do.

    Args:
        log: takes everything that they print.
        total: packages in all.
    """

    def __init__(self, engine: str, environment: dict[str, str], log: Path, note: Note, total: int) -> None:
        self.environment = environment
        self._engine = engine
        self._log = log
        self._note = note
        self._total = total
        self._collected = 0

    def run(self, command: Sequence[str]) -> list[str]:
        """The lines that the command printed. It has no deadline: uv and pip have theirs for each connection.

        Raises:
            NodeError: it failed.
        """
        lines: list[str] = []
        with (
            self._log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command, env=self.environment, cwd=self._log.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True,  # pip has children, which end with it
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            try:
                for line in process.stdout:
                    log.write(line)
                    lines.append(line.rstrip())
                    self._show(lines[-1])
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            raise self._failure(lines, process.returncode)
        return lines

    def _show(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word in ("Collecting", "Processing"):
            self._collected += 1
            self._note(f"{rest.split('==')[0]} ({self._collected} of {self._total})")
        elif word in ("Downloading", "Resolved", "Prepared", "Installed", "Installing"):
            self._note(" ".join((word.lower(), *rest.split()))[:70])
        elif "Retrying" in line:
            self._note("no answer from the package index; trying again")

    def _failure(self, lines: list[str], status: int) -> TsctlError:
        text = "\n".join(lines)
        what = f"{self._engine} cannot be installed"
        if _NO_ROOM.search(text):
            return NodeError(
                f"{what}: {os.strerror(errno.ENOSPC).lower()}: {self._log.parent}", "Make room, then run this again."
            )
        if _NO_NETWORK.search(text):
            return NodeError(
                f"{what}: the package index does not answer",
                f"Check the network and the settings of pip or uv, then run this again. The whole output: {self._log}",
            )
        if found := _NOT_THERE.search(text):
            package = next(filter(None, found.groups()))
            return NodeError(
                f"{what}: the package index has no {package} for this Python and system",
                f"The whole output: {self._log}",
            )
        last = "\n".join(f"  {line}" for line in lines[-SHOWN:])
        return NodeError(f"{what}: exit status {status}\n{last}", f"The whole output: {self._log}")
