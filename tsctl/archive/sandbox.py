"""Runs code that an archive brings: its handler, its recipe, and what looks into its files.

In the sandbox the code sees this Python, the system's programs and libraries, and the folders that it is given. It has
no network, sees no other process, no environment but the variables that workers inherit, and none of the operator's
files. Its time, memory, output, files and number of processes are bounded. When it ends, or tsctl does, all of its
processes end. bubblewrap makes the sandbox, from namespaces of the kernel. Where that is not possible `why_open` says
why, and the bounds alone hold.
"""

from __future__ import annotations

import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil

from tsctl.archive.syscalls import seccomp_program
from tsctl.config.project import find_project
from tsctl.errors import SpecError
from tsctl.host.process import inherited

#: `off` runs the code with the operator's rights, as where there is no sandbox.
SWITCH = "TSCTL_SANDBOX"
POLL_S = 0.1
#: Shares of the free memory: what the processes hold, and what each of the folders in memory does.
MEMORY_SHARE, FOLDER_SHARE = 0.7, 0.1
MAX_LOG_BYTES, MAX_OUTPUT_BYTES = 16 << 20, 64 << 20
MAX_PROCESSES = 256
#: What the code may add to the disk, and what it leaves free.
MAX_WRITTEN_BYTES, KEPT_FREE_BYTES = 16 << 30, 256 << 20
MAX_WRITTEN_FILES = 100_000
#: How much of the log is kept: of the end, and of a line that is passed on.
_KEPT_BYTES, _LINE_BYTES = 1 << 16, 4096
_ENDING_S = 10.0
_RUN = "TSCTL_RUN"  # in the environment of each process of a run
_SYSTEM = (
    "/usr", "/etc/alternatives", "/etc/group", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd",
    "/sys/devices/system",
)  # fmt: skip
_LINKS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")  # into /usr, on most systems
_NAMESPACES = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--cap-drop", "ALL", "--die-with-parent",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """The end of a run."""

    status: int  # of the first process; negative: the signal that ended it
    output: bytes  # that it wrote to its standard output
    log: str  # the end of what it wrote to its standard error
    stopped: str = ""  # the bound that it broke; empty where it ended by itself


def run_confined(
    command: Sequence[str],
    folder: Path,
    *,
    reads: Sequence[Path] = (),
    writes: Sequence[Path] = (),
    order: bytes = b"",
    variables: Mapping[str, str] | None = None,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
) -> Ended:
    """Run the command in the sandbox, or without one where `why_open` says why.

    Args:
        folder: its working directory.
        reads: files and folders that it sees, besides the system's; absolute.
        writes: folders that it may change.
        order: its standard input.
        variables: of its environment, besides those that workers inherit.
        on_line: gets each line of standard output and standard error while it runs; `output` is empty then.
    """
    environment = {**inherited(os.environ), "PYTHONDONTWRITEBYTECODE": "1", **(variables or {}), _RUN: uuid4().hex}
    free_bytes = psutil.virtual_memory().available
    is_open = bool(why_open())
    if not is_open:
        environment |= {"HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - of the sandbox
    output, log = _Sink(MAX_OUTPUT_BYTES), _Sink(MAX_LOG_BYTES, _KEPT_BYTES, on_line)
    bounds = _Bounds(time.monotonic() + timeout_s, timeout_s, int(free_bytes * MEMORY_SHARE), tuple(writes))
    with tempfile.TemporaryFile() as stdin, _call_filter() as calls, _interruptible():
        if not is_open:
            command = [*_sandbox(calls, int(free_bytes * FOLDER_SHARE), folder, reads, writes), *command]
        stdin.write(order)
        stdin.seek(0)
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
            start_new_session=True,
            pass_fds=(calls,),
        ) as process:
            try:
                pipes = {process.stderr: log, process.stdout: output} if process.stderr else {process.stdout: log}
                stopped = _follow(process, {pipe: sink for pipe, sink in pipes.items() if pipe}, bounds)
            finally:
                _end(process, environment[_RUN])
    log.close()
    return Ended(process.returncode, bytes(output.kept), log.kept.decode("utf-8", "replace"), stopped)


def why_open() -> str:
    """Why code runs with the operator's rights and not in the sandbox; empty where the sandbox is there."""
    return f"{SWITCH} is off" if os.environ.get(SWITCH) == "off" else _why_missing()


@cache
def _why_missing() -> str:
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    with _call_filter() as calls:
        command = [*_sandbox(calls, 1 << 20, Path("/tmp"), (), ()), sys.executable, "-I", "-c", ""]  # noqa: S108 - of the sandbox
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, pass_fds=(calls,))
    return "" if tried.returncode == 0 else f"bubblewrap cannot make it: {' '.join(tried.stderr.split())[-200:]}"


@contextmanager
def _call_filter() -> Iterator[int]:
    """A file with the program that refuses system calls, for one run; empty where the machine has none."""
    calls = os.memfd_create("calls")
    try:
        os.write(calls, seccomp_program(platform.machine()))
        os.lseek(calls, 0, os.SEEK_SET)
        yield calls
    finally:
        os.close(calls)


def _sandbox(calls: int, size: int, folder: Path, reads: Sequence[Path], writes: Sequence[Path]) -> list[str]:
    """The command that runs another one in the sandbox.

    Args:
        calls: of `_call_filter`.
        size: bytes that fit into each folder in memory.
    """
    command = ["bwrap", *_NAMESPACES, *(["--seccomp", str(calls)] if os.fstat(calls).st_size else [])]
    for link in map(Path, _LINKS):
        if link.is_symlink():
            command += ["--symlink", str(link.readlink()), str(link)]
        elif link.is_dir():
            command += ["--ro-bind", str(link), str(link)]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for device in sorted(Path("/dev").glob("nvidia*")):
        command += ["--dev-bind", str(device), str(device)]
    for place in ("/tmp", "/dev/shm"):  # noqa: S108 - of the sandbox
        command += ["--size", str(size), "--tmpfs", place]
    for path in (*_SYSTEM, *dict.fromkeys((sys.base_prefix, sys.prefix)), *map(str, reads)):
        command += ["--ro-bind-try", path, path]
    for path in map(str, writes):
        command += ["--bind", path, path]
    for secret in _hidden([*_SYSTEM, sys.base_prefix, sys.prefix, *map(str, (*reads, *writes))]):
        command += ["--tmpfs", str(secret)] if secret.is_dir() else ["--ro-bind", "/dev/null", str(secret)]
    for place in ("/proc", "/dev", "/"):  # root's own /proc/sys is the machine's, whatever rights root gave up
        command += ["--remount-ro", place]
    return [*command, "--chdir", str(folder), "--"]


def _hidden(seen: Sequence[str]) -> list[Path]:
    """What must not be seen within what is: the project's state, and pip's settings, which may hold a password."""
    secrets = [Path(prefix) / "pip.conf" for prefix in (sys.prefix, sys.base_prefix)]
    with suppress(SpecError):
        secrets.append(find_project().state)
    return [secret for secret in secrets if secret.exists() and any(map(secret.is_relative_to, seen))]


@dataclass
class _Sink:
    """Takes bytes of a pipe; keeps the last `most_kept` of them."""

    most: int
    most_kept: int | None = None
    on_line: Callable[[str], None] | None = None
    kept: bytearray = field(default_factory=bytearray)
    taken: int = 0
    _line: bytes = b""

    def add(self, chunk: bytes) -> None:
        self.taken += len(chunk)
        if self.taken <= self.most:
            self.kept += chunk
            del self.kept[: max(0, len(self.kept) - (self.most_kept or self.most))]
        if self.on_line is not None:
            *lines, rest = (self._line + chunk).split(b"\n")
            self._line = rest[:_LINE_BYTES]
            for line in lines:
                self.on_line(line[:_LINE_BYTES].decode("utf-8", "replace").rstrip())

    def close(self) -> None:
        """Pass on a last line that has no end."""
        if self.on_line is not None and self._line:
            self.on_line(self._line.decode("utf-8", "replace").rstrip())


@dataclass
class _Bounds:
    """The bounds of one run."""

    deadline: float
    timeout_s: float
    memory_bytes: int
    writes: tuple[Path, ...]
    before: dict[Path, os.statvfs_result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = {path: os.statvfs(path) for path in self.writes}

    def broken(self, process: subprocess.Popen[bytes], sinks: Sequence[_Sink]) -> str:
        """The bound that the run breaks; empty where it keeps all."""
        if time.monotonic() > self.deadline:
            return f"stopped after {self.timeout_s:g} s"
        if full := next((sink for sink in sinks if sink.taken > sink.most), None):
            return f"stopped because it wrote more than {full.most >> 20} MiB of output"
        for path, before in self.before.items():
            now = os.statvfs(path)
            free, free_before = (usage.f_bavail * usage.f_frsize for usage in (now, before))
            if free < max(KEPT_FREE_BYTES, free_before - MAX_WRITTEN_BYTES):
                return f"stopped because it fills the disk, which has {free >> 20} MiB left"
            if before.f_favail - now.f_favail > MAX_WRITTEN_FILES:
                return f"stopped because it made more than {MAX_WRITTEN_FILES} files"
        processes = _family(process.pid)
        if len(processes) > MAX_PROCESSES:
            return f"stopped because it started more than {MAX_PROCESSES} processes"
        if (used := sum(map(_memory_bytes, processes))) > self.memory_bytes:
            return f"stopped because it used {used >> 20} MiB of memory, of {self.memory_bytes >> 20} MiB"
        return ""


def _follow(process: subprocess.Popen[bytes], pipes: Mapping[object, _Sink], bounds: _Bounds) -> str:
    """Read the pipes until the process ends or breaks a bound; returns which."""
    with selectors.DefaultSelector() as selector:
        for pipe, sink in pipes.items():
            selector.register(pipe, selectors.EVENT_READ, sink)  # type: ignore[arg-type]  # both are files
        check_at = 0.0
        while True:
            has_ended = process.poll() is not None
            ready = selector.select(0 if has_ended else POLL_S) if selector.get_map() else []
            for key, _ in ready:
                if chunk := os.read(key.fd, 1 << 16):
                    key.data.add(chunk)
                else:
                    selector.unregister(key.fileobj)
            if has_ended and not ready:
                return ""
            if not selector.get_map() and not has_ended:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            if time.monotonic() >= check_at:
                if broken := bounds.broken(process, list(pipes.values())):
                    return broken
                check_at = time.monotonic() + POLL_S


def _end(process: subprocess.Popen[bytes], run: str) -> None:
    """Kill what is left of a run.

    The kernel ends a sandbox with its first process, which ends after all others, and bubblewrap's own after that one.
    Without a sandbox, a process that changed its environment and its parent is not found.
    """
    for left in reversed(_family(process.pid)[1:]):
        with suppress(psutil.NoSuchProcess):
            left.kill()
    if not why_open():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)
    else:
        for left in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if left.environ().get(_RUN) == run:
                    left.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """End what runs inside on SIGTERM and SIGHUP as on Ctrl-C, unless the caller handles them."""
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
