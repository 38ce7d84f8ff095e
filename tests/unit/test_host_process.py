"""Processes are known by pid and start time, and no other process is ever signalled."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsctl.host.files import keep_short, open_log
from tsctl.host.ports import is_address_here, port_problem
from tsctl.host.process import ProcessIdentity, identify, kill_group, memory_bytes, spawn, started_ticks

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
]  # fmt: skip


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def kernel_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_the_start_time_is_the_kernels_number_that_older_records_hold(child: subprocess.Popen[bytes]) -> None:
    assert started_ticks(child.pid) == kernel_ticks(child.pid)
    assert identify(child.pid) == ProcessIdentity(child.pid, kernel_ticks(child.pid))


def test_a_process_that_ended_is_not_running_even_as_a_zombie(child: subprocess.Popen[bytes]) -> None:
    process = identify(child.pid)
    assert process.is_running
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert not process.is_running
    assert started_ticks(child.pid) is None
    assert process.wait_ended(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)  # it was reaped
    assert not process.is_running
    assert memory_bytes(child.pid) is None


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_pid_that_no_process_has_does_not_run(pid: int) -> None:
    assert started_ticks(pid) is None
    assert not identify(pid).is_running


def test_a_pid_that_another_process_was_given_is_never_signalled(child: subprocess.Popen[bytes]) -> None:
    other = ProcessIdentity(child.pid, kernel_ticks(child.pid) - 1)
    other.send_signal(signal.SIGKILL)
    assert other.terminate(0)
    assert child.poll() is None


def test_a_process_is_asked_to_end_and_then_killed() -> None:
    for command, ended_by in ((SLEEP, signal.SIGTERM), (STUBBORN, signal.SIGKILL)):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            ending = subprocess.Popen(
                [sys.executable, "-c",
                 f"from tsctl.host.process import identify; assert identify({process.pid}).terminate(0.5)"],
            )  # fmt: skip
            assert process.wait(10) == -ended_by
            assert ending.wait(10) == 0


def test_a_group_is_killed_and_only_members_with_its_mark(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        leader = spawn(SLEEP, tmp_path, {"TMPDIR": "/mine"}, log)
    while not (tmp_path / "log").read_bytes():  # the kernel shows its environment a moment after it was started
        time.sleep(0.01)
    assert os.getsid(leader.pid) == leader.pid
    assert kill_group(leader.pid, "TMPDIR", "/other", 5) == []
    assert leader.poll() is None
    assert kill_group(leader.pid, "TMPDIR", "/mine", 5) == []
    assert started_ticks(leader.pid) is None
    leader.wait(5)


def test_memory_is_the_resident_size() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert memory_bytes(os.getpid()) == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)


def test_a_port_in_use_is_told_from_an_address_of_another_machine() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert port_problem("127.0.0.1", port) == "is in use"
    assert port_problem("127.0.0.1", port) == ""
    assert port_problem("192.0.2.1", port).startswith("cannot be opened: ")
    assert is_address_here("127.0.0.1")
    assert not is_address_here("192.0.2.1")


def test_a_write_beyond_the_largest_file_fails_and_does_not_end_the_process(tmp_path: Path) -> None:
    # without site, so that nothing else of this run writes in it, such as a measurement of coverage
    script = """if True:
        import os, resource, sys, time
        while resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 250:  # it is set when the process runs
            time.sleep(0.01)
        for _ in range(9):
            try:
                os.write(1, b"x" * 100)
            except OSError:
                sys.exit(7)
    """
    with open_log(tmp_path / "log") as log:
        command, limits = [sys.executable, "-S", "-c", script], {resource.RLIMIT_FSIZE: 250}
        process = spawn(command, tmp_path, os.environ, log, limits=limits)
    assert process.wait(20) == 7
    assert (tmp_path / "log").read_bytes() == b"x" * 250


def test_a_log_that_has_grown_too_large_goes_on_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open_log(path) as log:
        for number in range(9):
            log.write(b"%d" % number * 100)
            log.flush()
            keep_short(path, 250)
    assert path.read_bytes() == b""
    assert (tmp_path / "log.1").read_bytes() == b"6" * 100 + b"7" * 100 + b"8" * 100
    keep_short(tmp_path / "missing", 0)


def test_a_log_that_has_grown_too_large_is_emptied_where_the_disk_has_no_room_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tsctl.host.files.shutil.copyfile", fill)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 300)
    keep_short(path, 250)
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("log", b"")]
