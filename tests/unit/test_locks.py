"""Locks: the second writer loses cleanly, and a killed holder leaves none behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tsctl.errors import ConflictError
from tsctl.host.locks import exclusive, is_held

HOLDER = """
import sys
import threading
from pathlib import Path
from tsctl.host.locks import exclusive, is_held
with exclusive(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_writer_is_told_who_holds_the_lock_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "digits.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = rf"model digits is being changed by .*process {holder.pid}"
        with pytest.raises(ConflictError, match=expected), exclusive(lock, "model digits"):
            pytest.fail("two hold the lock")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with exclusive(lock, "model digits"):
            assert lock.read_text() == str(os.getpid())


def test_a_writer_that_may_wait_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConflictError), exclusive(lock, "x", wait_s=0.1):
            pytest.fail("two hold the lock")
        threading.Timer(0.3, holder.kill).start()
        with exclusive(lock, "x", wait_s=10):
            assert lock.read_text() == str(os.getpid())


def test_those_who_ask_whether_a_lock_is_held_hold_none(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert not lock.exists()
    with exclusive(lock, "x"):
        assert is_held(lock)
    with lock.open() as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)  # somebody else is asking at the same time
        assert not is_held(lock)
    with exclusive(lock, "x"):
        assert lock.read_text() == str(os.getpid())


def test_a_lock_whose_file_was_removed_is_taken_again_unless_another_process_has_it(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with exclusive(lock, "x") as require_held:
        require_held()
        shutil.rmtree(lock.parent)
        require_held()
        with pytest.raises(ConflictError), exclusive(lock, "x"):
            pytest.fail("two hold the lock")
        lock.unlink()
        with exclusive(lock, "x"), pytest.raises(ConflictError, match="x is being changed by another tsctl"):
            require_held()
        require_held()
