"""How nice a node's processes are to others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tsctl.host.process import at_nice, lower_session


def test_a_command_its_threads_and_its_session_are_nicer() -> None:
    command = ["python3", "-c", "import os, sys; print(os.nice(0), flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        at_nice(command, 7), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        assert int(started.stdout.readline()) == os.nice(0) + 7
        lower_session(started.pid, 7)
        group = Path(f"/proc/{started.pid}/autogroup")
        if group.exists():
            assert group.read_text().endswith(" nice 7\n")
        started.stdin.close()
    assert started.returncode == 0


def test_zero_changes_nothing() -> None:
    assert at_nice(["java"], 0) == ["java"]
    lower_session(os.getpid(), 0)
