"""Runs a script of this folder under the Python of `.venv`; standard library only.

Every script calls `enter()` before it imports tsctl, so that `python3 scripts/manage.py` works with any Python.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")


def enter():
    """Make this checkout's tsctl importable and its project the default; restart under `.venv`'s Python if needed."""
    sys.path[0] = str(ROOT)  # in place of scripts/, whose files would hide packages of the same name
    os.environ.setdefault("TSCTL_PROJECT", str(ROOT))
    if sys.executable == PYTHON:
        return
    if not (VENV / "setup.stamp").exists():  # make writes it last
        sys.exit(f"error: {VENV} is missing or incomplete\n       Run 'make setup' in {ROOT}, then this again.")
    os.execv(PYTHON, [PYTHON, *sys.argv])  # noqa: S606 - the same command line, without a shell
