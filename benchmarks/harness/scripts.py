"""Runs a script of `baselines/` that measures without a server, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks import BASELINES
from tsctl.errors import NodeError


def run_script(name: str, options: dict[str, object], timeout_s: float) -> Any:
    """The JSON that a script prints.

    Args:
        name: of the file in `baselines/`.
        options: of its command line, by their names without dashes.

    Raises:
        NodeError: it failed, with the end of its standard error, or did not end.
    """
    command = [sys.executable, str(BASELINES / name), *(f"--{key}={value}" for key, value in options.items())]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise NodeError(f"{name} did not end within {timeout_s:g} s", "Is the machine busy?") from None
    if ended.returncode != 0:
        raise NodeError(f"{name} failed: {ended.stderr.strip()[-500:]}")
    return json.loads(ended.stdout)
