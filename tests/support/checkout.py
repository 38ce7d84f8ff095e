"""Files of this checkout, for tests that work in a copy of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    """Tracked files, and those that `git add` would track, relative to the checkout."""
    # safe.directory: where another user owns the checkout, git would refuse to list it
    command = ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]
