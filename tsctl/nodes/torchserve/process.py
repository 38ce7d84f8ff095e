"""Starts and stops the process of one node, and knows whether it is the one that it started.

A node is known by its pid together with the moment the kernel started it, so that a pid that was given to another
process is never signalled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from handlers.contract import METRICS_FOLDER_VARIABLE, SHARED_CACHE_VARIABLE
from tsctl.config.deployment import NodeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.environment import inherited
from tsctl.nodes.torchserve.config import jvm_arguments, node_properties, render_node_config
from tsctl.nodes.torchserve.java import Java
from tsctl.nodes.torchserve.logs import tail
from tsctl.nodes.torchserve.priority import at_nice
from tsctl.nodes.torchserve.properties import parse_properties

STOP_GRACE_S = 20.0
LEAST_FREE_BYTES = 512 << 20
#: A Unix socket's path has at most 108 bytes, and TorchServe opens one per worker in its temporary folder.
_LONGEST_TMP = 80


@dataclass(frozen=True)
class NodePaths:
    """The folder of one node on this machine; only its owner may read it."""

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "node.json"

    @property
    def config(self) -> Path:
        return self.folder / "config.properties"

    @property
    def key_file(self) -> Path:
        return self.folder / "key_file.json"

    @property
    def inference_header(self) -> Path:
        return self.folder / "inference.header"

    @property
    def management_header(self) -> Path:
        return self.folder / "management.header"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def console(self) -> Path:
        return self.logs / "console.log"

    @property
    def worker_log(self) -> Path:
        return self.logs / "model_log.log"

    @property
    def metrics(self) -> Path:
        """What this node's workers tell of themselves, since the node was started last."""
        return self.folder / "metrics"

    @property
    def snapshots(self) -> Path:
        return self.logs / "config"

    @property
    def pending_restore(self) -> Path:
        """What the node served before it was started, until all of it is registered again."""
        return self.folder / "restore.json"


@dataclass(frozen=True)
class NodeRecord:
    """What is remembered of a started node."""

    pid: int
    started_ticks: int  # kernel clock ticks after boot, field 22 of /proc/<pid>/stat
    tmp: str


def node_paths(project: Project, name: str) -> NodePaths:
    """The paths of the node `name`."""
    return NodePaths(project.state / "nodes" / name)


def read_record(paths: NodePaths) -> NodeRecord | None:
    """The record of the node that was started last, None where there is none."""
    try:
        return NodeRecord(**json.loads(paths.record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise NodeError(f"{paths.record} is damaged: {error}", f"Remove it if no node runs: {paths.record}") from error


def running_pid(paths: NodePaths) -> int | None:
    """The pid of the node's process if it runs and is the one that was started."""
    record = read_record(paths)
    return record.pid if record and started_ticks(record.pid) == record.started_ticks else None


def started_ticks(pid: int) -> int | None:
    """When the kernel started the process, None where there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process of this machine; None where it does not run."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def launch(project: Project, node: NodeSpec, paths: NodePaths, java: Java) -> subprocess.Popen[bytes]:
    """Start the node's process in a session of its own, with its record written.

    Raises:
        NodeError: a port is in use, or TorchServe is not installed.
    """
    for folder in (project.state, paths.folder.parent, paths.folder, paths.logs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    project.store.mkdir(parents=True, exist_ok=True)
    _require_free_ports(node)
    _sweep(paths)
    tmp = _temporary_folder(paths)
    empty_metrics(paths.metrics)
    defaults = _defaults(project)
    paths.config.write_text(
        render_node_config(node_properties(defaults, node, project.store, len(os.sched_getaffinity(0))))
    )
    paths.key_file.unlink(missing_ok=True)
    log_config = project.root / "log4j2.xml"
    jvm = jvm_arguments(defaults, log_config if log_config.is_file() else None)
    home = _torchserve_home()
    command = [
        str(java.path), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={tmp}", *jvm,
        "-cp", f".:{home / 'ts' / 'frontend' / '*'}", "org.pytorch.serve.ModelServer",
        "--python", sys.executable, "-f", str(paths.config), "-s", str(project.store),
    ]  # fmt: skip
    with paths.console.open("wb") as console:
        process = subprocess.Popen(
            at_nice(command, node.nice),
            cwd=paths.folder,  # TorchServe writes key_file.json there
            env=node_environment(os.environ, paths, tmp),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches tsctl alone, and the whole group can be ended by one signal
        )
    record = NodeRecord(process.pid, started_ticks(process.pid) or 0, str(tmp))
    paths.record.write_text(json.dumps(asdict(record)) + "\n")
    return process


def node_environment(environment: Mapping[str, str], paths: NodePaths, tmp: Path) -> dict[str, str]:
    """The environment of the node's process, and so the most that a worker can see."""
    own: dict[str, object] = {
        "LOG_LOCATION": paths.logs, "METRICS_LOCATION": paths.logs, METRICS_FOLDER_VARIABLE: paths.metrics,
        "TEMP": tmp, "TMPDIR": tmp,
    }  # fmt: skip
    if SHARED_CACHE_VARIABLE in environment:  # with its password, which workers need and an archive must not hold
        own[SHARED_CACHE_VARIABLE] = environment[SHARED_CACHE_VARIABLE]
    return {**inherited(environment), **{name: str(value) for name, value in own.items()}, "PYTHONUNBUFFERED": "1"}


def empty_metrics(folder: Path) -> None:
    """Make the folder of the workers' metrics, readable by its owner only, and remove what earlier workers wrote there.

    The folder itself stays, because it may be a mount or a link. Never while the node runs: a worker would go on
    writing into a file that nobody can read any more.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    for left in folder.glob("*.db"):
        left.unlink()


def stop(paths: NodePaths, clock: Callable[[], float] = time.monotonic) -> bool:
    """End the node and its workers; True if it ran.

    TorchServe is asked first and given STOP_GRACE_S seconds; what is left of its process group then is killed.

    Raises:
        NodeError: processes are left that this user may not signal.
    """
    record = read_record(paths)
    if record is None:
        return False
    was_running = started_ticks(record.pid) == record.started_ticks
    if was_running:
        _signal(record.pid, signal.SIGTERM)
        end = clock() + STOP_GRACE_S
        while started_ticks(record.pid) == record.started_ticks and clock() < end:
            _reap(record.pid)
            time.sleep(0.05)
    _sweep(paths)
    paths.inference_header.unlink(missing_ok=True)
    paths.management_header.unlink(missing_ok=True)
    paths.key_file.unlink(missing_ok=True)
    return was_running


def crash_report(paths: NodePaths) -> str:
    """Why a node ended by itself: the last lines that it wrote."""
    lines = tail(paths.console) or tail(paths.logs / "ts_log.log") or "(it wrote nothing)"
    return "\n".join(f"    {line}" for line in lines.splitlines())


def _sweep(paths: NodePaths) -> None:
    """Kill what is left of the last process group, and remove its record and its temporary folder."""
    record = read_record(paths)
    if record is None:
        return
    end = time.monotonic() + STOP_GRACE_S
    while members := _group_members(record):
        for pid in members:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise NodeError(f"processes of this node do not end: {', '.join(map(str, members))}")
        _reap(record.pid)
        time.sleep(0.05)
    shutil.rmtree(record.tmp, ignore_errors=True)
    paths.record.unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal the process; one that ended a moment ago is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise NodeError(f"process {pid} of this node belongs to another user and cannot be ended") from None


def _group_members(record: NodeRecord) -> list[int]:
    """Live processes of the group that the node led, known by the temporary folder in their environment.

    A group's number outlives its leader while a member lives, but may be given anew afterwards; the environment tells
    the two apart.
    """
    members = []
    marker = f"TMPDIR={record.tmp}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or started_ticks(int(entry.name)) is None:
            continue
        try:
            if os.getpgid(int(entry.name)) == record.pid and marker in (entry / "environ").read_bytes().split(b"\0"):
                members.append(int(entry.name))
        except (ProcessLookupError, PermissionError, FileNotFoundError):
            continue
    return members


def _reap(pid: int) -> None:
    """Collect the process if it is a child of this one, so that it does not stay behind as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _temporary_folder(paths: NodePaths) -> Path:
    inside = paths.folder / "tmp"
    if len(str(inside)) > _LONGEST_TMP:
        return Path(tempfile.mkdtemp(prefix="tsctl-"))
    shutil.rmtree(inside, ignore_errors=True)  # archives that a killed node left unpacked
    inside.mkdir(mode=0o700)
    return inside


def _defaults(project: Project) -> dict[str, str]:
    if not project.config_properties.is_file():
        raise NodeError(f"no {project.config_properties}", "Copy config.properties from tsctl's repository.")
    return parse_properties(project.config_properties.read_text(encoding="utf-8"))


def _torchserve_home() -> Path:
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise NodeError("TorchServe is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'.")
    return Path(package.origin).parent.parent


def require_free_space(folder: Path) -> None:
    """Refuse where a node's logs and unpacked archives would soon fill the disk.

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


def is_address_here(host: str) -> bool:
    """Whether this machine has the address, which is so where a socket can be bound to it."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _require_free_ports(node: NodeSpec) -> None:
    named = zip(("inference", "management", "metrics"), node.ports, strict=True)
    for name, port in [*named, *zip(("gRPC inference", "gRPC management"), node.grpc_ports, strict=True)]:
        with socket.socket(socket.AF_INET6 if ":" in node.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((node.host, port))
            except OSError as error:
                reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened: {error.strerror}"
                raise NodeError(
                    f"port {port} ({name}) on {node.host} {reason}",
                    "Stop what listens there, or give the node another port in deployment.yaml.",
                ) from None
