"""Runs what is measured without a server, a script of `baselines/`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks import BASELINES
from tsctl.errors import NodeError


def script_says(name: str, options: dict[str, object], end_s: float) -> Any:
    """The JSON that a script prints.

    Args:
        name: of the file in `baselines/`.
        options: of its command line, by their names without dashes.
        end_s: seconds until when it must have ended.

    Raises:
        NodeError: it failed or did not end; with the end of what it wrote to standard error.
    """
    command = [sys.executable, str(BASELINES / name), *(f"--{key}={value}" for key, value in options.items())]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=end_s)
    except subprocess.TimeoutExpired:
        raise NodeError(f"{name} did not end within {end_s:g} s", "Is the machine busy?") from None
    if ended.returncode != 0:
        raise NodeError(f"{name} failed: {ended.stderr.strip()[-500:]}")
    return json.loads(ended.stdout)
