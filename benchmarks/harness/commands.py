"""Runs `tsctl` in a benchmark's project as a person would: the nodes that it starts are not this process's children."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import CHECKOUT
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.errors import NodeError

#: No command of a benchmark takes longer, a whole rollout included.
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Ended:
    """Exit code of a command, negative for a signal, and the end of its standard error."""

    status: int
    stderr: str


def run_tsctl(
    project: Project,
    *arguments: str,
    module: str = "tsctl.cli.main",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command and wait for it, whatever its exit code.

    Raises:
        NodeError: it did not end within TIMEOUT_S.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=CHECKOUT,
            env={**os.environ, PROJECT_VARIABLE: str(project.root), **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"tsctl {' '.join(arguments)} did not end within {TIMEOUT_S:g} s") from None
    return Ended(process.returncode, process.stderr.strip()[-500:])


def require_tsctl(project: Project, *arguments: str) -> None:
    """Run a command that must succeed.

    Raises:
        NodeError: it failed, or did not end.
    """
    ended = run_tsctl(project, *arguments)
    if ended.status != 0:
        raise NodeError(f"tsctl {' '.join(arguments)} failed: {ended.stderr}")
