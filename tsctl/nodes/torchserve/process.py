"""Starts and stops the process of one node."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from handlers.contract import (
    ANSWER_LIMIT_VARIABLE,
    METRICS_FOLDER_VARIABLE,
    SHARED_CACHE_KEY_VARIABLE,
    SHARED_CACHE_VARIABLE,
    WORKER_ENVIRONMENT,
    usable_cores,
)
from tsctl.archive.store import list_archives
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import make_folder, tail, write_secret
from tsctl.host.ports import port_problem
from tsctl.host.process import at_nice, inherited, kill_group, spawn
from tsctl.nodes.record import read_record, record_path, write_record
from tsctl.nodes.torchserve.java import Java
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.properties import jvm_arguments, node_properties, read_properties, render_properties

STOP_GRACE_S = 20.0
LEAST_FREE_BYTES = 512 << 20
CONFIG_COMMENT = "Written by tsctl at every start of this node; edit config.properties instead."
#: A Unix socket's path has at most 108 bytes, and TorchServe opens one per worker in its temporary folder.
_LONGEST_TMP = 80


def launch(project: Project, node: TorchServeSpec, paths: NodePaths, java: Java) -> subprocess.Popen[bytes]:
    """Start the node's process in a session of its own, with its record written.

    Raises:
        NodeError: a port is in use, or TorchServe is not installed.
    """
    for folder in (project.state, paths.folder.parent, paths.folder, paths.logs):
        make_folder(folder)
    project.store.mkdir(parents=True, exist_ok=True)
    list_archives(project)  # takes in what was copied into the store by hand
    _require_free_ports(node)
    _sweep(paths)
    tmp = temporary_folder(paths)
    empty_metrics(paths.metrics)
    defaults = _defaults(project)
    properties = node_properties(defaults, node, project.store, usable_cores())
    write_secret(paths.config, render_properties(properties, CONFIG_COMMENT))
    paths.key_file.unlink(missing_ok=True)
    command = _command(project, paths, java, defaults, tmp)
    with paths.console.open("wb") as console:
        # TorchServe writes key_file.json into its working directory
        environment = node_environment(os.environ, paths, tmp, properties)
        process = spawn(at_nice(command, node.nice), paths.folder, environment, console)
    try:
        write_record(paths.folder, process.pid, tmp)
    except BaseException:
        process.kill()  # nothing would find it again
        raise
    return process


def _command(project: Project, paths: NodePaths, java: Java, defaults: Mapping[str, str], tmp: Path) -> list[str]:
    log_config = project.root / "log4j2.xml"
    jvm = jvm_arguments(defaults, log_config if log_config.is_file() else None)
    home = _torchserve_home()
    return [
        str(java.path), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={tmp}", *jvm,
        "-cp", f".:{home / 'ts' / 'frontend' / '*'}", "org.pytorch.serve.ModelServer",
        "--python", sys.executable, "-f", str(paths.config), "-s", str(project.store),
    ]  # fmt: skip


def node_environment(
    environment: Mapping[str, str], paths: NodePaths, tmp: Path, properties: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the node's process; a worker sees no more than this."""
    folders = {
        "LOG_LOCATION": paths.logs, "METRICS_LOCATION": paths.logs, METRICS_FOLDER_VARIABLE: paths.metrics,
        "TEMP": tmp, "TMPDIR": tmp,
    }  # fmt: skip
    result = {**_promised(environment, properties), **{name: str(folder) for name, folder in folders.items()}}
    # with a password and a key, which workers need and an archive must not hold
    shared_cache = (SHARED_CACHE_VARIABLE, SHARED_CACHE_KEY_VARIABLE)
    result |= {name: environment[name] for name in shared_cache if name in environment}
    if "max_response_size" in properties:
        result[ANSWER_LIMIT_VARIABLE] = properties["max_response_size"]
    result |= {name: environment.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}
    return {**result, "PYTHONUNBUFFERED": "1"}


def _promised(environment: Mapping[str, str], properties: Mapping[str, str]) -> dict[str, str]:
    """The variables that config.properties lets through to workers, and those that every process needs.

    Never PYTHONPATH, which TorchServe would put before an archive's own modules. Java's file names follow the locale,
    so where it is not UTF-8, one that is replaces it.
    """
    result = inherited(environment)
    if pattern := properties.get("blacklist_env_vars"):
        try:
            result |= {name: value for name, value in environment.items() if not re.fullmatch(pattern, name)}
        except re.error as error:
            raise NodeError(f"config.properties: blacklist_env_vars is no regular expression: {error}") from None
        result.pop("PYTHONPATH", None)
    locale = next((result[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if result.get(name)), "C")
    return result if "utf" in locale.lower() else {**result, "LC_ALL": "C.UTF-8"}


def empty_metrics(folder: Path) -> None:
    """Make the folder of the workers' metrics, readable by its owner only, and remove what earlier workers wrote there.

    The folder itself stays, because it may be a mount or a link. Never while the node runs: a worker would go on
    writing into a file that nobody can read any more.
    """
    make_folder(folder)
    for left in folder.glob("*.db"):
        left.unlink()


def stop(paths: NodePaths) -> bool:
    """End the node and its workers; True if it ran.

    TorchServe has STOP_GRACE_S seconds to end; the rest of its process group is killed then.

    Raises:
        NodeError: a process belongs to another user, or does not end.
    """
    record = read_record(paths.folder)
    if record is None:
        return False
    was_running = record.is_running
    try:
        record.send_signal(signal.SIGTERM)
    except PermissionError:
        raise NodeError(f"process {record.pid} of this node belongs to another user and cannot be ended") from None
    record.wait_ended(STOP_GRACE_S)
    _sweep(paths)
    paths.inference_header.unlink(missing_ok=True)
    paths.management_header.unlink(missing_ok=True)
    paths.key_file.unlink(missing_ok=True)
    return was_running


def crash_report(paths: NodePaths) -> str:
    """The last lines that the JVM and TorchServe wrote before a node ended by itself."""
    started = paths.config.stat().st_mtime  # it is written at every start
    logs = [
        log for log in (paths.console, paths.logs / "ts_log.log") if log.is_file() and log.stat().st_mtime >= started
    ]
    lines = [line for log in logs for line in tail(log).splitlines()] or ["(it wrote nothing)"]
    return "\n".join(f"    {line}" for line in lines)


def _sweep(paths: NodePaths) -> None:
    """Kill the rest of the last process group, and remove its record and its temporary folder."""
    record = read_record(paths.folder)
    if record is None:
        return
    if left := kill_group(record.pid, "TMPDIR", record.tmp, STOP_GRACE_S):
        raise NodeError(f"processes of this node do not end: {', '.join(map(str, left))}")
    shutil.rmtree(record.tmp, ignore_errors=True)
    record_path(paths.folder).unlink(missing_ok=True)


def temporary_folder(paths: NodePaths) -> Path:
    """An empty folder for a node's sockets and unpacked archives, elsewhere where its path would be too long."""
    inside = paths.folder / "tmp"
    if len(os.fsencode(inside)) > _LONGEST_TMP:
        return Path(tempfile.mkdtemp(prefix="tsctl-"))
    shutil.rmtree(inside, ignore_errors=True)  # archives that a killed node left unpacked
    inside.mkdir(mode=0o700)
    return inside


def _defaults(project: Project) -> dict[str, str]:
    if not project.config_properties.is_file():
        raise NodeError(f"no {project.config_properties}", "Copy config.properties from tsctl's repository.")
    return read_properties(project.config_properties)


def _torchserve_home() -> Path:
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise NodeError("TorchServe is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'.")
    return Path(package.origin).parent.parent


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


def _require_free_ports(node: TorchServeSpec) -> None:
    names = ("inference", "management", "metrics", "gRPC inference", "gRPC management")
    for name, port in zip(names, [*node.ports, *node.grpc_ports], strict=True):
        if problem := port_problem(node.host, port):
            raise NodeError(
                f"port {port} ({name}) on {node.host} {problem}",
                "Stop what listens there, or give the node another port in deployment.yaml.",
            )
