"""A forked worker is the process that `python -c` would be, lives as long as who asked for it, and is made only for
somebody with the server's own surroundings."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE
from handlers.forks import client
from handlers.forks.client import LAUNCH, Forked, NotForked, chosen_address, fork_worker, new_address
from handlers.forks.wire import receive, send

PACKAGE = str(Path(client.__file__).parents[2])
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "OMP_WAIT_POLICY": "passive", "WORDS": "ä\n b"}
#: What a process finds when it begins.
FINDINGS = """
import gc, json, os, resource, signal, sys, torch
findings = {
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "environment": dict(os.environ),
    "collects": gc.isenabled(), "name": __name__, "is_main": sys.modules["__main__"].__dict__ is globals(),
    "flags": list(sys.flags), "text": [sys.stdin.encoding, sys.stdout.encoding, sys.stderr.errors],
    "files": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
    "signals": [str(signal.getsignal(number)) for number in (2, 1, 15, 13)], "handlers": "handlers" in sys.modules,
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "open": resource.getrlimit(resource.RLIMIT_NOFILE),
    "umask": os.umask(0), "cores": sorted(os.sched_getaffinity(0)),
    "command": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)),
    "shown": sorted(open("/proc/self/environ").read().strip(chr(0)).split(chr(0))),
}
print(json.dumps(findings))
print(input(), file=sys.stderr)
sys.exit(7)
"""
SLEEPS = "import sys, time; print('asleep', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def address() -> str:
    """Of a fork server, which ends with this process."""
    return new_address()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def forked(address: str, program: str, *arguments: str, files: Mapping[int, int] | None = None, **more: Any) -> Forked:
    settings = {"folder": Path("/"), "environment": ENVIRONMENT, "owner": os.getpid(), **more}
    return fork_worker(address, sys.executable, program, arguments, files=files or {0: 0, 1: 1, 2: 2}, **settings)


def asleep(address: str, pipe: tuple[int, int], **more: Any) -> Forked:
    """A worker that has begun, and does not end by itself."""
    worker = forked(address, SLEEPS, files={0: 0, 1: pipe[1], 2: 2}, **more)
    assert os.read(pipe[0], 100) == b"asleep\n"
    return worker


def until(holds: Callable[[], bool], what: str) -> None:
    end_at = time.monotonic() + 30
    while not holds():
        if time.monotonic() > end_at:
            pytest.fail(f"{what} did not come true")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


def test_a_worker_finds_what_it_would_find_if_python_had_started_it(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "prö jekt"
    folder.mkdir()
    environment = {**ENVIRONMENT, "PYTHONPATH": f"/first:{folder}", "PYTHONUNBUFFERED": "1"}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    written: dict[str, list[bytes]] = {}
    old_umask = os.umask(0o027)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (333, before[1]))
        for way in ("started", "forked"):
            names = [tmp_path / f"{way}.{stream}" for stream in ("in", "out", "err")]
            names[0].write_text("read\n")
            with names[0].open("rb") as given, names[1].open("wb") as out, names[2].open("wb") as err:
                if way == "forked":
                    files = {0: given.fileno(), 1: out.fileno(), 2: err.fileno()}
                    worker = forked(
                        address, FINDINGS, "a b", "last", files=files, folder=folder, environment=environment
                    )
                    assert worker.wait() == 7
                else:
                    command = [sys.executable, "-c", FINDINGS, "a b", "last"]
                    ended = subprocess.run(
                        command, cwd=folder, env=environment, stdin=given, stdout=out, stderr=err, check=False
                    )
                    assert ended.returncode == 7, names[2].read_text()
            written[way] = [name.read_bytes() for name in names[1:]]
    finally:
        os.umask(old_umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    started, found = json.loads(written["started"][0]), json.loads(written["forked"][0])
    started["command"].remove(FINDINGS)  # a list of processes shows what tells workers apart
    assert found == started
    assert found["open"] == [333, before[1]]
    assert found["umask"] == 0o027
    assert written["forked"][1] == written["started"][1] == b"read\n"


def test_workers_have_random_numbers_of_their_own(address: str, pipe: tuple[int, int]) -> None:
    draw = "import random, numpy; print(random.random(), numpy.random.random(), flush=True)"
    drawn = set()
    for _ in range(2):
        worker = forked(address, draw, files={0: 0, 1: pipe[1], 2: 2})
        drawn |= {*os.read(pipe[0], 200).split()}
        assert worker.wait() == 0
    assert len(drawn) == 4


def test_a_file_keeps_its_number_though_it_is_one_of_those_that_come(address: str, pipe: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wanted = 4  # likely the number of one of the files that come, or of one that the server has
        program = f"import socket; socket.socket(fileno={wanted}).sendall(b'here')"
        worker = forked(address, program, files={wanted: theirs.fileno(), 0: 0, 1: 1, 2: pipe[1]})
        assert worker.wait() == 0
        assert ours.recv(10) == b"here"


def test_a_worker_ends_when_it_is_killed_and_its_end_is_told(address: str, pipe: tuple[int, int]) -> None:
    worker = asleep(address, pipe)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    worker.kill()  # of one that has ended, nothing happens
    assert not is_alive(worker.pid)
    worker = asleep(address, pipe)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == -signal.SIGTERM


def test_a_worker_ends_with_the_one_who_asked_for_it(address: str, pipe: tuple[int, int]) -> None:
    worker = asleep(address, pipe)
    worker._connection.close()
    until(lambda: not is_alive(worker.pid), "the worker's end")


def test_workers_end_with_their_server_and_the_next_one_has_a_new_server(pipe: tuple[int, int]) -> None:
    address = new_address()
    worker = asleep(address, pipe)
    server = psutil.Process(worker.pid).ppid()
    os.kill(server, signal.SIGTERM)  # as to all processes of a service: it stays
    os.kill(server, signal.SIGINT)
    second = asleep(address, pipe)
    second.kill()
    assert second.wait() == -signal.SIGKILL
    os.kill(server, signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    until(lambda: not is_alive(worker.pid), "the worker's end")
    worker = asleep(address, pipe)
    assert psutil.Process(worker.pid).ppid() != server
    worker.kill()
    assert worker.wait() == -signal.SIGKILL


def test_a_server_ends_with_its_owner_once_it_has_no_worker(pipe: tuple[int, int]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as owner:
        try:
            worker = asleep(new_address(), pipe, owner=owner.pid)
            server = psutil.Process(worker.pid).ppid()
        finally:
            owner.kill()
    assert is_alive(worker.pid)
    assert is_alive(server)
    worker.kill()
    worker.wait()
    until(partial(is_gone, server), "the server's end")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OMP_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "2"), ("LD_PRELOAD", ""), ("PYTHONHASHSEED", "7"),
     ("TORCH_LOGS", "x"), ("COVERAGE_PROCESS_CONFIG", "x")],
)  # fmt: skip
def test_variables_that_are_read_at_the_start_are_no_workers_own(address: str, variable: str, value: str) -> None:
    with pytest.raises(NotForked, match="other variables"):
        forked(address, SLEEPS, environment={**ENVIRONMENT, variable: value})


def test_processes_in_other_surroundings_get_no_worker(address: str) -> None:
    with pytest.raises(NotForked, match="other python"):
        fork_worker(
            address, "/usr/bin/python3", SLEEPS, (), folder=Path("/"), environment=ENVIRONMENT, files={}, owner=1
        )
    forked(address, "").wait()
    one = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    if before != one:
        os.sched_setaffinity(0, one)
        try:
            with pytest.raises(NotForked, match="other cores"):
                forked(address, SLEEPS)
        finally:
            os.sched_setaffinity(0, before)


def test_a_lower_priority_is_the_workers_own(address: str, pipe: tuple[int, int]) -> None:
    """A child asks, because only root may raise a priority again."""
    ask = (
        f"import sys, os; sys.path.insert(0, {PACKAGE!r}); os.nice(3)\n"
        "from pathlib import Path; from handlers.forks.client import fork_worker\n"
        "program = 'import os; os._exit(os.getpriority(os.PRIO_PROCESS, 0))'\n"
        f"worker = fork_worker({address!r}, {sys.executable!r}, program, (), folder=Path('/'),"
        f" environment={ENVIRONMENT!r}, files={{0: 0, 1: 1, 2: 2}}, owner=1)\n"
        "sys.exit(worker.wait())"
    )
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    forked(address, "").wait()  # the server is there, with this process's priority
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == min(mine + 3, 19)


def test_what_is_no_order_is_refused_and_the_next_one_gets_its_worker(address: str) -> None:
    forked(address, "").wait()
    messages: list[Any] = [[], {}, {"program": 1}, "order"]
    for message in messages:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{address}")
            send(connection, message)
            answer, _ = receive(connection)
            assert "refused" in answer
    with socket.socket(socket.AF_UNIX) as connection:  # another protocol
        connection.connect(f"\0{address}")
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert forked(address, "import sys; sys.exit(5)").wait() == 5


def test_another_user_gets_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens is asked for his user, too: an order has the environment, with its secrets."""
    name = new_address()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        monkeypatch.setattr("os.geteuid", lambda: 65534)
        with pytest.raises(NotForked, match="another user"):
            forked(name, SLEEPS)


def test_a_name_that_no_process_can_have_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="null byte"):
        forked(address, SLEEPS, "a\0b")


def test_a_python_that_cannot_serve_makes_no_worker(tmp_path: Path) -> None:
    for program in ("#!/bin/sh\nexit 3\n", ""):
        python = tmp_path / "python"
        python.write_text(program)
        python.chmod(0o700 if program else 0o600)
        with pytest.raises(NotForked, match=r"ended at once|can be started"):
            fork_worker(
                new_address(), str(python), SLEEPS, (), folder=tmp_path, environment=ENVIRONMENT, files={}, owner=1
            )


def launched(address: str, program: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """What a server that starts its workers by a command has."""
    command = [sys.executable, "-I", "-S", "-c", LAUNCH, PACKAGE, address, program, *arguments]
    return subprocess.Popen(command, cwd="/", env={**ENVIRONMENT, **variables}, stdout=subprocess.PIPE)


def test_a_launcher_ends_as_its_worker_and_the_worker_with_it(address: str) -> None:
    for program, status in (("raise SystemExit(9)", 9), ("import os; os.kill(os.getpid(), 11)", -11), ("", 0)):
        with launched(address, program) as launcher:
            assert launcher.wait(60) == status
    said = "import os, sys, time; print(os.getpid(), sys.argv[1], flush=True); time.sleep(600)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        with launched(address, said, "word") as launcher:
            assert launcher.stdout is not None
            pid, word = launcher.stdout.readline().split()
            assert (word, int(pid) != launcher.pid) == (b"word", True)
            launcher.send_signal(number)
            assert launcher.stdout.read() == b""  # whoever reads it sees the end
        until(partial(is_gone, int(pid)), "the worker's end")


def test_a_launcher_becomes_the_worker_where_none_is_forked(address: str) -> None:
    said = "import os, sys; print(os.getpid(), sys.argv, flush=True)"
    with launched(address, said, "word", OMP_NUM_THREADS="1") as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.read().decode() == f"{launcher.pid} ['-c', 'word']\n"


def test_the_variable_names_the_server_or_none() -> None:
    assert chosen_address({}, "own") == "own"
    assert chosen_address({FORK_SERVER_VARIABLE: "shared"}, "own") == "shared"
    assert chosen_address({FORK_SERVER_VARIABLE: FORK_SERVER_OFF}, "own") is None
