"""Starts the process of a node of any engine, finds it again, and ends it with all that it started.

Invariant: one process of a node at a time. What an earlier one left, its workers and its temporary folder, is gone
before the next one starts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from handlers.contract import (
    PACKAGES_VARIABLE,
    RECORDS_FOLDER_VARIABLE,
    RECORDS_MB_VARIABLE,
    SECRETS_VARIABLE,
    TRACES_VARIABLE,
)
from tsctl.archive.secrets import FOLDER as SECRETS_FOLDER
from tsctl.config.nodes import BaseNodeSpec
from tsctl.config.project import Project
from tsctl.config.tracing import TRACES_PATH
from tsctl.errors import NodeError
from tsctl.host.files import make_folder, tail
from tsctl.host.locks import exclusive
from tsctl.host.ports import port_problem
from tsctl.host.process import at_nice, kill_group, lower_session, spawn
from tsctl.host.progress import Progress
from tsctl.nodes.node import RECORDS_FOLDER, Node
from tsctl.nodes.record import read_record, record_path, running_record, write_record

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 20.0
LEAST_FREE_BYTES = 512 << 20
#: A Unix socket's path has at most 108 bytes, and TorchServe opens one per worker in its temporary folder.
_LONGEST_TMP = 80


def start(
    node: Node,
    progress: Progress,
    launch: Callable[[], subprocess.Popen[bytes]],
    not_answering: Callable[[], str],
    done: Callable[[int], str],
    end: Callable[[], object],
) -> subprocess.Popen[bytes]:
    """Start the node with `launch`, and wait until it answers; `end` it if this fails or is interrupted.

    Args:
        not_answering: the reason why it does not answer; empty where it does.
        done: called with its pid once it answers; the result for people.

    Raises:
        NodeError: it runs already, cannot be started, or ended by itself.
        ConflictError: another tsctl starts it at this moment.
    """
    _require_local(node)
    with exclusive(_lock(node), f"node {node.name}"):
        node.require_same_addresses()
        if node.pid:
            raise NodeError(
                f"node {node.name} runs already (pid {node.pid})",
                f"Stop it first: tsctl node stop --node {node.name}",
            )
        _require_own_place(node)
        require_free_space(node.folder)
        with progress.step(f"starting node {node.name}") as step:
            started = launch()
            try:
                lower_session(started.pid, node.spec.nice)
                _wait_answering(node, started, not_answering)
            except BaseException:
                end()
                raise
            step.done(done(started.pid))
        return started


def stop(node: Node, progress: Progress, end: Callable[[], bool]) -> bool:
    """End the node with `end`; False if it did not run.

    Raises:
        NodeError: processes are left that cannot be ended.
        ConflictError: another tsctl starts or stops it at this moment.
    """
    _require_local(node)
    with exclusive(_lock(node), f"node {node.name}"):
        if read_record(node.folder) is None:
            return False
        with progress.step(f"stopping node {node.name}") as step:
            was_running = end()
            step.done("stopped" if was_running else "was not running; its leftovers are removed")
    return was_running


def worker_variables(folder: Path, spec: BaseNodeSpec) -> dict[str, str]:
    """Where the workers of a node write prediction records, how many, and where they send spans, as variables of its
    environment."""
    return {
        RECORDS_FOLDER_VARIABLE: str(folder / RECORDS_FOLDER),
        SECRETS_VARIABLE: str(folder.parents[1] / SECRETS_FOLDER),
        PACKAGES_VARIABLE: str(Project(folder.parents[2]).packages),
        RECORDS_MB_VARIABLE: str(spec.records_mb),
        **({TRACES_VARIABLE: spec.traces + TRACES_PATH} if spec.traces else {}),
    }


def spawn_recorded(
    command: list[str], folder: Path, spec: BaseNodeSpec, environment: Mapping[str, str], tmp: Path, console: Path
) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own, with its record written.

    Args:
        folder: of the node, where it runs.
        spec: what deployment.yaml says of it.
        environment: with `tmp` in TMPDIR, by which the processes of its group are known.
        console: the file that takes what it prints.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with console.open("wb") as output:
            process = spawn(at_nice(command, spec.nice), folder, environment, output)
        write_record(folder, process.pid, tmp, spec)
    except BaseException:  # nothing would find the process or its folder again
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    return process


def end(folder: Path, grace_s: float = STOP_GRACE_S) -> bool:
    """End the node of this folder and its workers; True if it ran.

    It has `grace_s` seconds to end; the rest of its process group is killed then.

    Raises:
        NodeError: a process belongs to another user, or does not end.
    """
    record = read_record(folder)
    if record is None:
        return False
    was_running = record.is_running
    try:
        record.send_signal(signal.SIGTERM)
    except PermissionError:
        raise NodeError(f"process {record.pid} of this node belongs to another user and cannot be ended") from None
    record.wait_ended(grace_s)
    sweep(folder)
    return was_running


def sweep(folder: Path) -> None:
    """Kill the rest of the last process group, and remove its record and its temporary folder."""
    record = read_record(folder)
    if record is None:
        return
    if left := kill_group(record.pid, "TMPDIR", record.tmp, STOP_GRACE_S):
        raise NodeError(f"processes of this node do not end: {', '.join(map(str, left))}")
    shutil.rmtree(record.tmp, ignore_errors=True)
    record_path(folder).unlink(missing_ok=True)


def temporary_folder(folder: Path, longest: int = _LONGEST_TMP) -> Path:
    """An empty folder for a node's sockets and temporary files, elsewhere where its path would be too long.

    Args:
        longest: bytes of its path at most.
    """
    inside = folder / "tmp"
    if len(os.fsencode(inside)) > longest:
        return Path(tempfile.mkdtemp(prefix="tsctl-"))
    shutil.rmtree(inside, ignore_errors=True)  # files that a killed node left
    inside.mkdir(mode=0o700)
    return inside


def empty_metrics(folder: Path) -> None:
    """Make the folder of the workers' metrics, readable by its owner only, and remove what earlier workers wrote there.

    The folder itself stays, because it may be a mount or a link. Never while the node runs: a worker would go on
    writing into a file that nobody can read any more.
    """
    make_folder(folder)
    for left in folder.glob("*.db"):
        left.unlink()


def require_free_space(folder: Path) -> None:
    """Check that the disk has room for a node's logs and unpacked archives.

    Raises:
        NodeError: the disk of the folder, which is made, is nearly full.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise NodeError(
            f"the disk of {folder} has {free >> 20} MiB free, and a node needs {LEAST_FREE_BYTES >> 20} MiB",
            "Free some space and start again.",
        )


def require_free_ports(host: str, ports: Mapping[str, int]) -> None:
    """Check that nothing listens on the ports, which are given by their purpose.

    Raises:
        NodeError: a port is in use, or cannot be opened.
    """
    for name, port in ports.items():
        if problem := port_problem(host, port):
            raise NodeError(
                f"port {port} ({name}) on {host} {problem}",
                "Stop what listens there, or give the node another port in deployment.yaml.",
            )


def last_lines(logs: Sequence[Path], since: float) -> str:
    """The last lines of the logs that were written after a moment, in seconds since 1970, indented for a message."""
    written = [log for log in logs if log.is_file() and log.stat().st_mtime >= since]
    lines = [line for log in written for line in tail(log).splitlines()] or ["(it wrote nothing)"]
    return "\n".join(f"    {line}" for line in lines)


def crash_report(node: Node) -> str:
    """The last lines of the node's logs since its last start."""
    record = record_path(node.folder)
    return last_lines(node.logs, record.stat().st_mtime if record.exists() else 0.0)


def _wait_answering(node: Node, started: subprocess.Popen[bytes], not_answering: Callable[[], str]) -> None:
    end_at = time.monotonic() + START_TIMEOUT_S
    while True:
        if started.poll() is not None:
            raise NodeError(f"node {node.name} ended with status {started.returncode}:\n{node.crash_report()}")
        last = not_answering()
        if not last:
            return
        if time.monotonic() > end_at:
            raise NodeError(
                f"node {node.name} does not answer after {START_TIMEOUT_S:g} s ({last}):\n{node.crash_report()}"
            )
        time.sleep(0.05)


def _require_own_place(node: Node) -> None:
    """Check that no other node that was started in this project has a port of this one, such as it under an older name.

    Raises:
        NodeError: one has.
    """
    for path in sorted(node.folder.parent.glob("*/")):
        record = running_record(path) if path != node.folder else None
        other = record.node if record is not None else None
        if record is None or other is None or other.host != node.spec.host:
            continue
        if shared := sorted({*other.listens_on} & {*node.spec.listens_on}):
            raise NodeError(
                f"node {path.name} (pid {record.pid}) has port {shared[0]} of {other.host}, which deployment.yaml gives"
                f" to node {node.name}",
                f"Stop it first: tsctl node stop --node {path.name}",
            )


def _lock(node: Node) -> Path:
    return node.folder / "locks" / ".node.lock"  # the lock of no model, whose names begin with a letter or a digit


def _require_local(node: Node) -> None:
    if not node.is_here:
        raise NodeError(
            f"node {node.name} is on {node.spec.host}, not on this machine",
            "Start and stop it there, with its own tsctl.",
        )
    if node.spec.key_file is not None:
        raise NodeError(
            f"deployment.yaml gives node {node.name} a key_file, so tsctl does not start it",
            "Remove key_file to start the node here; tsctl then finds its tokens itself.",
        )
