"""Commands of `tsctl` in processes of their own, forked from a process that has imported all of it.

An import of tsctl costs more processor time than most commands, and the live tests run hundreds of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tsctl
from tsctl.cli.main import run
from tsctl.config.project import PROJECT_VARIABLE

#: A worker's own program, which imports TorchServe.
NOT_IMPORTED = "tsctl.archive.probe"


def hear_signals() -> None:
    """In a new process: SIGINT and SIGHUP end it, also where this test run was started so that it ignores them.

    A shell starts what runs in the background without SIGINT, and nohup without SIGHUP.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Result:
    """How one command ended; its status is None if it was killed after its time."""

    status: int | None
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run_command(arguments: Sequence[str], project: Path, environment: Mapping[str, str], timeout_s: float) -> Result:
    """Run `tsctl` in a project's folder, with exactly this environment and the variable that names the project."""
    with TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        process = _forks().Process(target=_run, args=(arguments, project, dict(environment), out, err))
        process.start()
        process.join(timeout_s)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
        process.close()
        return Result(status, out.read_text(), err.read_text())


@cache
def _forks() -> ForkServerContext:
    """Starts processes from one that imports every module of tsctl when the first of them is started."""
    context = multiprocessing.get_context("forkserver")
    names = [module.name for module in pkgutil.walk_packages(tsctl.__path__, "tsctl.")]
    context.set_forkserver_preload([name for name in names if name != NOT_IMPORTED])
    return context


def _run(arguments: Sequence[str], project: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """The command, in the new process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path in ((1, out), (2, err)):
        written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(written, stream)
        os.close(written)
    os.environ.clear()
    os.environ.update(environment, **{PROJECT_VARIABLE: str(project)})
    os.chdir(project)
    sys.argv = ["tsctl", *arguments]
    run()
