"""Starts and stops the process of one node."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from handlers.contract import (
    ANSWER_LIMIT_VARIABLE,
    METRICS_FOLDER_VARIABLE,
    RUN_SCRIPT,
    SHARED_CACHE_KEY_VARIABLE,
    SHARED_CACHE_VARIABLE,
    WORKER_ENVIRONMENT,
    usable_cores,
)
from handlers.forks.client import LAUNCH, chosen_address, new_address
from tsctl import CORE
from tsctl.archive.store import list_archives
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import make_folder, write_secret
from tsctl.host.process import inherited
from tsctl.nodes.process import (
    empty_metrics,
    end,
    last_lines,
    require_free_ports,
    spawn_recorded,
    sweep,
    temporary_folder,
    worker_variables,
)
from tsctl.nodes.torchserve.java import Java
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.properties import jvm_arguments, node_properties, render_properties
from tsctl.nodes.torchserve.settings import log_config, node_defaults

CONFIG_COMMENT = (
    "Written by tsctl at every start of this node; put what is to change into the project's config.properties."
)


def launch(project: Project, node: TorchServeSpec, paths: NodePaths, java: Java) -> subprocess.Popen[bytes]:
    """Start the node's process in a session of its own, with its record written.

    Raises:
        NodeError: a port is in use, or TorchServe is not installed.
    """
    for folder in (project.state, paths.folder.parent, paths.folder, paths.logs):
        make_folder(folder)
    project.store.mkdir(parents=True, exist_ok=True)
    list_archives(project)  # takes in what was copied into the store by hand
    names = ("inference", "management", "metrics", "gRPC inference", "gRPC management")
    require_free_ports(node.host, dict(zip(names, node.listens_on, strict=True)))
    sweep(paths.folder)
    tmp = temporary_folder(paths.folder)
    empty_metrics(paths.metrics)
    defaults = node_defaults(project)
    properties = node_properties(defaults, node, project.store, usable_cores())
    write_secret(paths.config, render_properties(properties, CONFIG_COMMENT))
    paths.key_file.unlink(missing_ok=True)
    command = _command(project, paths, java, defaults, tmp)
    environment = node_environment(os.environ, paths, tmp, properties) | worker_variables(paths.folder, node)
    # TorchServe writes key_file.json into its working directory
    return spawn_recorded(command, paths.folder, node, environment, tmp, paths.console)


def _command(project: Project, paths: NodePaths, java: Java, defaults: Mapping[str, str], tmp: Path) -> list[str]:
    jvm = jvm_arguments(defaults, log_config(project))
    return [
        str(java.path), f"-Dmodel_server_home={_torchserve_home()}", f"-Djava.io.tmpdir={tmp}", *jvm,
        "-cp", str(class_path()), "org.pytorch.serve.ModelServer",
        "--python", write_worker_python(paths), "-f", str(paths.config), "-s", str(project.store),
    ]  # fmt: skip


def write_worker_python(paths: NodePaths) -> str:
    """A program that starts a worker by RUN_SCRIPT, forked where that is possible; this Python where no program can be
    run in the node's folder."""
    python, start = shlex.quote(sys.executable), f"-c {shlex.quote(RUN_SCRIPT)}"
    if address := chosen_address(os.environ, new_address()):
        start = shlex.join(["-I", "-S", "-c", LAUNCH, str(CORE.parent), address, RUN_SCRIPT])
    program = (
        "#!/bin/sh\n# Written by tsctl at every start of this node, whose workers it starts.\n"
        f'case "$1" in\n*/model_service_worker.py) exec {python} {start} "$@" ;;\n'
        f'*) exec {python} "$@" ;;\nesac\n'
    )
    paths.worker_python.write_text(program)
    paths.worker_python.chmod(0o700)
    return str(paths.worker_python) if os.access(paths.worker_python, os.X_OK) else sys.executable


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


def stop(paths: NodePaths) -> bool:
    """End the node and its workers, and forget its tokens; True if it ran. Raises as `end`."""
    was_running = end(paths.folder)
    for path in (paths.inference_header, paths.management_header, paths.key_file):
        path.unlink(missing_ok=True)
    return was_running


def crash_report(paths: NodePaths) -> str:
    """The last lines that the JVM and TorchServe wrote before a node ended by itself."""
    started = paths.config.stat().st_mtime  # it is written at every start
    return last_lines((paths.console, paths.logs / "ts_log.log"), started)


def class_path() -> Path:
    """Java's pattern for TorchServe's jars; the node's folder, which its own launcher adds, holds no classes.

    Raises:
        NodeError: TorchServe is not installed.
    """
    return _torchserve_home() / "ts" / "frontend" / "*"


def _torchserve_home() -> Path:
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise NodeError("TorchServe is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'.")
    return Path(package.origin).parent.parent
