"""A fork server: a process that has imported torch, and becomes workers.

It has one thread and never computes, so that what it forks is whole, and CUDA is not touched before the fork. It ends
when its owner has ended and it has no worker; a worker is killed when who asked for it is gone, and when the server is.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import io
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.forks.surroundings import surroundings
from handlers.forks.wire import Order, is_ours, receive, send

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # sent to all processes of a service; the owner's end counts
_ORDER_S = 10.0  # within which an order must have come
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: Where /proc/self/stat has the begin of the command line and of the environment, after the name; the end follows.
_COMMAND_PLACE, _ENVIRONMENT_PLACE = 45, 47
#: Files of a worker are first moved beyond these numbers, then to their own.
_BEYOND = 256


class _Refused(Exception):
    """The worker cannot be forked."""


@dataclass(frozen=True, eq=False)
class _Worker:
    pid: int
    connection: socket.socket  # to who asked for it
    ended: int  # a file that says when it has ended


def main(address: str, owner: str, *_: str) -> None:
    """Serve; returns in each worker once its program has ended.

    Args:
        address: name of an abstract socket.
        owner: pid.
    """
    os.chdir("/")  # the folder of who wants the first worker may go
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"\0{address}")
    except OSError:  # another one was faster
        return
    listener.listen(64)
    try:
        watched = os.pidfd_open(int(owner))
    except ProcessLookupError:
        return
    del sys.path[0 : 1 + (sys.path[1] == "")]  # the folder of this package, and the entry of `python -c`
    gc.disable()
    _import_libraries()
    gc.freeze()
    gc.enable()
    order = _Server(listener, watched).run()
    if order is not None:
        _run(order)


def _import_libraries() -> None:
    """What all workers need, whichever archive they serve; their own `handlers` they import themselves."""
    import numpy  # noqa: F401
    import pydantic  # noqa: F401
    import torch  # noqa: F401


class _Server:
    """Invariant: a worker's connection and its `ended` are registered as long as the worker is."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._listener, self._owner = listener, owner
        self._surroundings = surroundings(sys.executable, os.environ)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(owner, selectors.EVENT_READ)
        self._workers: set[_Worker] = set()
        self._has_owner = True

    def run(self) -> Order | None:
        """Make workers. Returns in a worker, with its order; None in the server, which is not needed any more."""
        while self._has_owner or self._workers:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    if (order := self._answer()) is not None:
                        return order
                elif key.fileobj == self._owner:
                    self._has_owner = False
                    self._selector.unregister(self._owner)
                elif key.data in self._workers:
                    self._heard(key.data, key.fileobj == key.data.ended)
        return None

    def _answer(self) -> Order | None:
        """Make the worker that somebody asks for; returns its order there, and None here."""
        connection, _ = self._listener.accept()
        connection.settimeout(_ORDER_S)
        files: list[int] = []
        try:
            order = self._order(connection, files)
            pid = os.fork()
        except (EOFError, OSError, ValueError, TypeError, _Refused) as error:
            _close(files)
            with suppress(OSError), connection:
                send(connection, {"refused": str(error) if isinstance(error, _Refused) else repr(error)})
            return None
        if pid == 0:
            try:
                self._leave(connection)
                _take_files(files, order.files)
            except BaseException:  # noqa: BLE001 - or this process would go on as a second server
                os._exit(1)
            return order
        _close(files)
        self._keep(pid, connection)
        return None

    def _order(self, connection: socket.socket, files: list[int]) -> Order:
        """What the other side wants; the files that came with it are added to `files`."""
        if not is_ours(connection):
            raise _Refused("another user")
        message, came = receive(connection)
        files += came
        order = Order(**message)
        if len(files) != len(order.files):
            raise _Refused(f"{len(files)} files came for {len(order.files)}")
        theirs: dict[str, Any] = order.surroundings
        names = self._surroundings.keys() | theirs.keys()
        if different := sorted(name for name in names if self._surroundings.get(name) != theirs.get(name)):
            raise _Refused(f"other {', '.join(different)}")
        if order.nice < os.getpriority(os.PRIO_PROCESS, 0):
            raise _Refused("a higher priority")
        return order

    def _keep(self, pid: int, connection: socket.socket) -> None:
        """Follow a new worker."""
        try:
            worker = _Worker(pid, connection, os.pidfd_open(pid))
        except OSError as error:  # for want of files
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            with suppress(OSError), connection:
                send(connection, {"refused": str(error)})
            return
        self._workers.add(worker)
        self._selector.register(worker.ended, selectors.EVENT_READ, worker)
        self._selector.register(connection, selectors.EVENT_READ, worker)
        with suppress(OSError):  # who asked is gone: the next turn says so
            send(connection, {"pid": pid})

    def _heard(self, worker: _Worker, has_ended: bool) -> None:
        """A worker has ended, or who asked for it is gone."""
        if not has_ended:
            self._selector.unregister(worker.connection)
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own
            return
        _, status = os.waitpid(worker.pid, 0)
        self._workers.discard(worker)
        self._selector.unregister(worker.ended)
        os.close(worker.ended)
        with suppress(KeyError):
            self._selector.unregister(worker.connection)
        with suppress(OSError), worker.connection:
            send(worker.connection, {"status": os.waitstatus_to_exitcode(status)})

    def _leave(self, connection: socket.socket) -> None:
        """In a worker: nothing of the server stays open."""
        self._selector.close()
        self._listener.close()
        connection.close()
        os.close(self._owner)
        for worker in self._workers:
            worker.connection.close()
            os.close(worker.ended)


def _close(files: list[int]) -> None:
    for number in files:
        os.close(number)
    files.clear()


def _take_files(came: list[int], wanted: Sequence[int]) -> None:
    """Give the open files the numbers that they are to have."""
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _BEYOND) for number in came]
    _close(came)
    for source, target in zip(moved, wanted, strict=True):
        os.dup2(source, target)
        os.close(source)


def _run(order: Order) -> None:
    """Be the process that `python -c program arguments` would be."""
    server = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before
        os._exit(1)
    for number in _IGNORED:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in order.ignored else usual)
    os.environ.clear()
    os.environ.update(order.environment)
    os.umask(order.umask)
    os.setpriority(os.PRIO_PROCESS, 0, order.nice)
    for name, limit in order.limits.items():
        resource.setrlimit(getattr(resource, name), (limit[0], limit[1]))
    os.chdir(order.folder)
    time.tzset()
    _open_streams("PYTHONUNBUFFERED" in order.environment)
    sys.path[:0] = [
        *([] if sys.flags.safe_path else [""]),
        *filter(None, order.environment.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    sys.argv = ["-c", *order.arguments]
    _show([sys.executable, "-c", *order.arguments], order.environment)
    for name in [name for name in sys.modules if name.partition(".")[0] == "handlers"]:
        del sys.modules[name]  # the archive has its own
    import numpy

    numpy.random.seed()  # as in a new process; `random` does so by itself
    main = sys.modules["__main__"].__dict__
    exec(compile(order.program, "<string>", "exec"), main)  # noqa: S102 - as `python -c` does


def _open_streams(is_unbuffered: bool) -> None:
    """The standard streams over the files that the worker was given."""
    sys.stdin = open(0, encoding=sys.stdin.encoding, closefd=False)  # noqa: SIM115 - of the process
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
        number = 1 if name == "stdout" else 2
        raw = open(number, "wb", 0 if is_unbuffered else -1, closefd=False)  # noqa: SIM115
        stream = _text(raw, errors, is_unbuffered, name == "stderr" or os.isatty(number))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _text(raw: Any, errors: str, is_unbuffered: bool, by_line: bool) -> Any:
    return io.TextIOWrapper(
        raw, encoding=sys.stderr.encoding, errors=errors, write_through=is_unbuffered, line_buffering=by_line
    )


def _show(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Show the worker's own command line and environment to who lists processes, as far as the server's have room.

    They lie where the kernel put the server's; nothing points there any more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"worker")
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    variables = [f"{name}={value}" for name, value in environment.items()]
    for place, words in ((_COMMAND_PLACE, command), (_ENVIRONMENT_PLACE, variables)):
        begin, end = int(fields[place]), int(fields[place + 1])  # 0: it may not be known
        if 0 < begin < end:
            text = b"\0".join(map(os.fsencode, words))[: end - begin - 1]
            ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
