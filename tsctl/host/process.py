"""Starts processes on this machine with an environment and a priority, finds them again, and ends them.

Invariant: a process is known by its pid and its start time together, so a pid that the kernel has since given to
another process is never signalled. A zombie counts as ended.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from handlers.contract import FORK_SERVER_VARIABLE
from tsctl.errors import NodeError
from tsctl.host.wait import wait_until

POLL_S = 0.05
#: How often, and how many seconds apart, the kernel is asked for a niceness.
NICE_TRIES, NICE_PAUSE_S = 20, 0.1
#: Without PYTHONPATH, whose packages would come before an archive's own.
INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", FORK_SERVER_VARIABLE,
)  # fmt: skip


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies a started process; records on disk hold these two numbers."""

    pid: int
    started_ticks: int  # kernel clock ticks from boot to its start, as in field 22 of /proc/<pid>/stat

    @property
    def is_running(self) -> bool:
        return started_ticks(self.pid) == self.started_ticks

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process; one that has ended is no error.

        Raises:
            PermissionError: it belongs to another user.
        """
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait_ended(self, timeout_s: float) -> bool:
        """Whether the process ended within `timeout_s` seconds; a child of this process is reaped."""
        if not wait_until(lambda: not self.is_running, timeout_s, POLL_S):
            return False
        _reap(self.pid)
        return True

    def terminate(self, grace_s: float) -> bool:
        """End the process: ask it, and kill it after `grace_s` seconds. False where it is still there after as many."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.send_signal(number)
            if self.wait_ended(grace_s):
                return True
        return False


def identify(pid: int) -> ProcessIdentity:
    """The identity of a process that was just started."""
    return ProcessIdentity(pid, started_ticks(pid) or 0)


def started_ticks(pid: int) -> int | None:
    """The start time of a process, in kernel clock ticks after boot; None where it has ended.

    psutil gives seconds of the wall clock, which a clock change moves together with the boot time.
    """
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        boot, created, boot_after = psutil.boot_time(), float(process.create_time()), psutil.boot_time()
    except psutil.Error:
        return None
    if boot != boot_after:
        return started_ticks(pid)
    return round((created - float(boot)) * os.sysconf("SC_CLK_TCK"))


def command_of(pid: int) -> list[str] | None:
    """The command that a process of this machine was started with; None where it does not run."""
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return None


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process of this machine; None where it does not run."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def spawn(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    umask: int = -1,
    limits: Mapping[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, so that Ctrl-C reaches tsctl alone and its group ends as a whole.

    Args:
        folder: its working directory.
        output: takes its standard output and standard error.
        umask: of the files that it makes; -1: as here.
        limits: of the kernel by its RLIMIT_ numbers, set as soon as the process runs. A write beyond RLIMIT_FSIZE
            fails, and does not end the process.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=umask,
        restore_signals=not limits,  # Python ignores SIGXFSZ, and so does the process then
    )
    for number, most in (limits or {}).items():
        resource.prlimit(process.pid, number, (most, most))
    return process


def end_child(process: subprocess.Popen[Any], grace_s: float) -> None:
    """End a process that this one started: ask it, and kill it after `grace_s` seconds."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that are passed on."""
    return {name: environment[name] for name in INHERITED if name in environment}


def at_nice(command: list[str], nice: int) -> list[str]:
    """The command with this niceness for all its processes and threads; 0 leaves it as it is."""
    return ["nice", "-n", str(nice), *command] if nice else command


def lower_session(pid: int, nice: int) -> None:
    """Set the niceness of the session that the process leads.

    A kernel with autogroup first divides the processor among sessions, by a niceness of each session. The niceness of a
    process counts only within its session.

    Raises:
        NodeError: the kernel refuses it.
    """
    group = Path(f"/proc/{pid}/autogroup")
    if not nice or not group.exists():  # a kernel without it has no such file
        return
    for _ in range(NICE_TRIES):
        try:
            group.write_text(f"{nice}\n")
        except BlockingIOError:  # unprivileged users may do this ten times a second, on the whole machine
            time.sleep(NICE_PAUSE_S)
        except OSError as error:
            raise NodeError(f"{group} cannot be set to {nice}: {error.strerror}") from None
        else:
            return
    raise NodeError(f"{group} cannot be set to {nice}: the kernel was asked too often", "Start the node again.")


def kill_group(group: int, variable: str, value: str, timeout_s: float) -> list[int]:
    """Kill what is left of a process group; the pids that are still there after `timeout_s` seconds.

    A group's number outlives its leader while a member lives, and may be reused afterwards. Members are known by
    the `variable` of their environment, which has this `value`.
    """
    end = time.monotonic() + timeout_s
    while members := _group_members(group, variable, value):
        if time.monotonic() > end:
            return [member.pid for member in members]
        for member in members:
            member.send_signal(signal.SIGKILL)
        time.sleep(POLL_S)
        _reap(group)
    return []


def _group_members(group: int, variable: str, value: str) -> list[ProcessIdentity]:
    members = []
    for pid in psutil.pids():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(pid) == group and psutil.Process(pid).environ().get(variable) == value:
                members.append(identify(pid))
    return [member for member in members if member.is_running]


def _reap(pid: int) -> None:
    """Collect the process if it is a child of this one, so that it does not stay behind as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
