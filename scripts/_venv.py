"""Puts a script of this folder under a Python that has the dependencies; standard library only.

Every script calls `enter()` before it imports tsctl, so that `python3 scripts/manage.py` works with any Python.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What tsctl and the processes that it starts import; torch and ts are only looked for here, not imported.
NEEDED = ("psutil", "pydantic", "requests", "rich", "torch", "ts", "typer", "yaml")
#: Set across the restart, so that a broken .venv ends in a message and not in a loop.
ENTERED = "TSCTL_ENTERED_VENV"


def enter():
    """The checkout's own tsctl is importable, with its dependencies, and works on this checkout from any folder.

    Restarts the script under `.venv` where this Python lacks some of them; ends the process with status 1 where
    `.venv` is missing or incomplete.
    """
    sys.path[0] = str(ROOT)  # in place of scripts/, whose files would hide packages of the same name
    os.environ.setdefault("TSCTL_PROJECT", str(ROOT))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _restart(missing)
    os.environ.pop(ENTERED, None)


def _restart(missing):
    python = ROOT / ".venv" / "bin" / "python"
    if os.environ.get(ENTERED):
        sys.exit(f"error: {python} lacks {', '.join(missing)}\n       Run 'make setup' in {ROOT}, then this again.")
    if not os.access(python, os.X_OK):
        sys.exit(
            f"error: {sys.executable} lacks {', '.join(missing)}, and there is no {python}\n"
            f"       Run 'make setup' in {ROOT}, then this again."
        )
    os.environ[ENTERED] = "1"
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the same command line, without a shell
