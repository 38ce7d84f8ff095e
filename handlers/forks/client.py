"""Asks a fork server for a worker."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE
from handlers.forks.surroundings import ignored_signals, limits, surroundings, umask
from handlers.forks.wire import MOST_FILES, Order, is_ours, receive, send

#: A fork server has so many seconds to begin to listen, and to import torch and make the worker.
LISTENS_S, MAKES_S = 20.0, 120.0
_POLL_S = 0.01
#: Bytes that a server's command line and environment keep free for those of a worker.
_COMMAND_ROOM, _ENVIRONMENT_ROOM = 1 << 9, 1 << 13
#: For `python -I -S -c`: the launcher (launcher.py); the folder of this package and the launcher's arguments follow.
LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from handlers.forks.launcher import main; main(*sys.argv[2:])"
_SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from handlers.forks.server import main; main(*sys.argv[2:])"


class NotForked(Exception):
    """There is no fork server that could make this worker; the message says why."""


class Forked:
    """A worker that a fork server made. It is killed when this object's connection is closed, as with this process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection

    def kill(self) -> None:
        """End the worker at once."""
        try:
            self._connection.shutdown(socket.SHUT_WR)  # `wait` may be reading
        except OSError:  # it has ended, and so has the connection
            return

    def wait(self) -> int:
        """How the worker ended: its status, or the negative number of the signal that ended it."""
        try:
            answer, _ = receive(self._connection)
        except (EOFError, OSError, ValueError):
            return -signal.SIGKILL  # the fork server is gone, and its workers with it
        finally:
            self._connection.close()
        return int(answer["status"])


def new_address() -> str:
    """An address of a fork server that nobody can guess."""
    return f"tsctl-forks-{secrets.token_hex(16)}"


def start_server(address: str, python: str, environment: Mapping[str, str], owner: int) -> int:
    """Start a fork server; where the address has one already, the new one ends.

    Args:
        python: of its workers.
        environment: of who wants the first worker.
        owner: the process with whose end the server ends, once it has no worker.

    Returns:
        Its pid.

    Raises:
        OSError: no process can be started.
    """
    package = str(Path(__file__).parents[2])
    command = [python, "-c", _SERVE, package, address, str(owner), " " * _COMMAND_ROOM]
    inherited = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    inherited["TSCTL_ROOM"] = " " * _ENVIRONMENT_ROOM
    files: list[Any] = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    files += [(os.POSIX_SPAWN_CLOSE, number) for number in _inherited_files()]
    return os.posix_spawn(python, command, inherited, file_actions=files)


def _inherited_files() -> list[int]:
    """Open files beyond the standard streams that a new process would have too."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:  # the one that lists the folder, or closed meanwhile
            continue
    return found


def fork_worker(
    address: str,
    python: str,
    program: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    files: Mapping[int, int],
    owner: int,
) -> Forked:
    """What `python -c program arguments` would be.

    Args:
        address: of the fork server, which is started where there is none.
        files: the open files that the worker has, by the numbers that they have there.
        owner: see `start_server`.

    Raises:
        NotForked: no fork server could make it.
        ValueError: no process can have these arguments.
    """
    if any("\0" in word for word in [str(folder), *arguments, *environment, *environment.values()]):
        raise ValueError("embedded null byte")
    if not sys.platform.startswith("linux"):
        raise NotForked("fork servers are Linux's")
    if len(files) > MOST_FILES:
        raise NotForked(f"a worker with {len(files)} open files")
    connection = _connected(address, python, environment, owner)
    try:
        order = Order(
            program, list(arguments), str(folder), dict(environment), umask(), os.getpriority(os.PRIO_PROCESS, 0),
            limits(), ignored_signals(), list(files), surroundings(python, environment),
        )  # fmt: skip
        connection.settimeout(MAKES_S)
        send(connection, order.message(), list(files.values()))
        answer, _ = receive(connection)
        if "pid" not in answer:
            raise NotForked(str(answer.get("refused", "it said nothing")))
        connection.settimeout(None)
        return Forked(connection, int(answer["pid"]))
    except (EOFError, OSError, ValueError) as error:
        connection.close()
        raise NotForked(f"the fork server failed: {error!r}") from error
    except BaseException:
        connection.close()
        raise


def chosen_address(environment: Mapping[str, str], own: str) -> str | None:
    """The address that FORK_SERVER_VARIABLE names, else `own`; None where workers are not to be forked."""
    named = environment.get(FORK_SERVER_VARIABLE) or own
    return None if named == FORK_SERVER_OFF else named


def _connected(address: str, python: str, environment: Mapping[str, str], owner: int) -> socket.socket:
    """A connection to the fork server at the address."""
    started: int | None = None
    end_at = time.monotonic() + LISTENS_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"\0{address}")
            if is_ours(connection):
                return connection
            raise NotForked("another user listens at its address")
        except OSError as error:
            connection.close()
            if time.monotonic() > end_at:
                raise NotForked(f"no fork server: {error}") from error
        except BaseException:
            connection.close()
            raise
        if started is None:
            try:
                started = start_server(address, python, environment, owner)
            except OSError as error:
                raise NotForked(f"no fork server can be started: {error}") from error
        elif _has_failed(started):
            raise NotForked("the fork server ended at once")
        time.sleep(_POLL_S)


def _has_failed(server: int) -> bool:
    """Whether the fork server that was started has ended, and not because another one was faster."""
    try:
        pid, status = os.waitpid(server, os.WNOHANG)
    except ChildProcessError:  # seen before
        return False
    return pid != 0 and status != 0
