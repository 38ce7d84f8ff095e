"""Runs Prometheus, Alertmanager and the exporter of this machine in the background, and ends them.

Invariant: a record exists from the start of a server to its end, so only a process that was started here is signalled.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tsctl.config.deployment import DeploymentSpec, variables_of
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.errors import NodeError, SpecError
from tsctl.gateway.files import record_process, recorded, running_pid
from tsctl.host.files import keep_short, make_folder, open_log, tail
from tsctl.host.http import direct_session
from tsctl.host.locks import exclusive
from tsctl.host.ports import port_problem
from tsctl.host.process import command_of, end_child, inherited, spawn
from tsctl.host.progress import Progress
from tsctl.host.wait import wait_until
from tsctl.monitoring.files import MonitoringFiles, monitoring_files, rendered, write_rendered

START_S, STOP_S, LOCK_S = 30.0, 10.0, 10.0
#: Of what a server prints; one older file is kept.
LOG_BYTES = 4 << 20
#: Data of Prometheus beside its age; the older part is removed.
STORE_SIZE = "2GB"
EXPORTER, PROMETHEUS, ALERTMANAGER = "exporter", "prometheus", "alertmanager"


@dataclass(frozen=True)
class Server:
    """One process of the monitoring.

    Args:
        health: the path that answers 200 once it works.
        reads: files that it reads again on SIGHUP.
    """

    name: str
    address: str
    command: Sequence[str]
    health: str
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ServerStatus:
    """One server as it is now; `problem` is empty where it answers."""

    name: str
    address: str
    pid: int | None
    problem: str


def servers(deployment: DeploymentSpec, files: MonitoringFiles) -> list[Server]:
    """The servers in the order in which they are started."""
    monitoring = deployment.monitoring
    addresses = (monitoring.exporter, monitoring.alertmanager, monitoring.prometheus)
    exporter, alertmanager, prometheus = (urlsplit(address).netloc for address in addresses)
    return [
        Server(
            EXPORTER,
            monitoring.exporter,
            [sys.executable, "-m", "tsctl.cli.main", "metrics", "serve", "--listen", exporter],
            "/healthz",
        ),
        Server(
            ALERTMANAGER,
            monitoring.alertmanager,
            [
                "prometheus-alertmanager", f"--config.file={files.alertmanager}",
                f"--storage.path={files.store(ALERTMANAGER)}", f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=", "--log.level=warn",
            ],
            "/-/ready",
            (files.alertmanager,),
        ),
        Server(
            PROMETHEUS,
            monitoring.prometheus,
            [
                "prometheus", f"--config.file={files.prometheus}", f"--storage.tsdb.path={files.store(PROMETHEUS)}",
                f"--storage.tsdb.retention.time={monitoring.keep_days}d",
                f"--storage.tsdb.retention.size={STORE_SIZE}",
                f"--web.listen-address={prometheus}", "--log.level=warn",
            ],
            "/-/ready",
            (files.prometheus, files.rules),
        ),
    ]  # fmt: skip


def require_installed() -> None:
    """Raise SpecError, with the command that installs them, where Prometheus or Alertmanager is missing."""
    binaries = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}  # and their packages
    if missing := [package for binary, package in binaries.items() if shutil.which(binary) is None]:
        raise SpecError(
            f"not installed on this machine: {', '.join(missing)}",
            f"Install them: apt-get install --no-install-recommends {' '.join(missing)}",
        )


def start_monitoring(project: Project, deployment: DeploymentSpec, progress: Progress) -> list[str]:
    """Write the files, start the servers that do not run, and have the others read changed files; the changes.

    A server that runs with another command, such as another address, is started again.

    Raises:
        SpecError: a server is not installed, or an objective cannot be measured.
        NodeError: a port is in use, or a server does not start; those that were started before keep running.
        ConflictError: another tsctl starts or stops them.
    """
    require_installed()
    files = monitoring_files(project)
    contents = rendered(deployment, files)
    with _changing(files):
        written = write_rendered(contents)
        changes = []
        for server in servers(deployment, files):
            process = recorded(files.record(server.name))
            is_running = process is not None and process.is_running
            if process is None or not is_running or command_of(process.pid) != list(server.command):
                with progress.step(f"starting {server.name}") as step:
                    if is_running:
                        _end(files, server.name)
                    _start(project, files, server)
                    step.done(f"answers at {server.address}")
                changes.append(f"started {server.name}{' again' * is_running}")
            elif set(server.reads) & set(written):
                process.send_signal(signal.SIGHUP)
                changes.append(f"{server.name} reads its files again")
    return changes


def stop_monitoring(project: Project, progress: Progress) -> bool:
    """End the servers that were started here, the last one first; True if one ran.

    Raises:
        NodeError: a server does not end.
    """
    files = monitoring_files(project)
    if not is_monitored(project):
        return False
    with _changing(files), progress.step("stopping the monitoring") as step:
        for name in (PROMETHEUS, ALERTMANAGER, EXPORTER):
            _end(files, name)
        step.done("stopped")
    return True


def is_monitored(project: Project) -> bool:
    """Whether the servers were started here and not stopped since."""
    files = monitoring_files(project)
    return any(files.record(name).is_file() for name in (PROMETHEUS, ALERTMANAGER, EXPORTER))


def monitoring_status(project: Project, deployment: DeploymentSpec) -> list[ServerStatus]:
    """Every server as it is now."""
    files = monitoring_files(project)
    statuses = []
    for server in servers(deployment, files):
        pid = running_pid(files.record(server.name))
        problem = "" if _answers(server) else "does not answer" if pid else "not running"
        statuses.append(ServerStatus(server.name, server.address, pid, problem))
    return statuses


def _changing(files: MonitoringFiles) -> AbstractContextManager[Callable[[], None]]:
    for folder in (files.folder.parent, files.folder, files.logs):
        make_folder(folder)
    return exclusive(files.lock, "the monitoring", LOCK_S)


def _end(files: MonitoringFiles, name: str) -> None:
    """End a server, if it runs; raises NodeError where it does not end."""
    process = recorded(files.record(name))
    if process is not None and not process.terminate(STOP_S):
        raise NodeError(f"{name}, process {process.pid}, does not end", "End it by hand, then run this again.")
    files.record(name).unlink(missing_ok=True)


def _start(project: Project, files: MonitoringFiles, server: Server) -> None:
    """Start the server and wait until it works; raises NodeError with the end of its log where it does not."""
    parts = urlsplit(server.address)
    if problem := port_problem(parts.hostname or "", parts.port or 0):
        raise NodeError(
            f"port {parts.port} ({server.name}) on {parts.hostname} {problem}",
            f"Stop the process that listens there, or set monitoring.{server.name} in deployment.yaml.",
        )
    log = files.log(server.name)
    keep_short(log, LOG_BYTES)
    named = variables_of(project.deployment) if server.name == EXPORTER else {}
    environment = {**named, **inherited(os.environ), PROJECT_VARIABLE: str(project.root)}
    with open_log(log) as output:
        process = spawn(server.command, files.folder, environment, output, umask=0o077)
    record_process(files.record(server.name), process.pid)
    if wait_until(lambda: process.poll() is not None or _answers(server), START_S) and process.poll() is None:
        return
    _give_up(process, files, server)


def _give_up(process: subprocess.Popen[bytes], files: MonitoringFiles, server: Server) -> None:
    ended = process.poll()
    end_child(process, STOP_S)
    files.record(server.name).unlink(missing_ok=True)
    how = f"ended with status {ended}" if ended is not None else f"did not answer within {START_S:g} s"
    lines = "\n".join(f"    {line[:300]}" for line in tail(files.log(server.name), 5).splitlines())
    raise NodeError(f"{server.name} {how}:\n{lines or '    (it wrote nothing)'}", f"Its log: {files.log(server.name)}")


def _answers(server: Server) -> bool:
    try:
        return direct_session().get(server.address + server.health, timeout=2).status_code == 200
    except requests.RequestException:
        return False
