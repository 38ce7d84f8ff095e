"""Starts and stops the process of a Triton node: our supervisor, and under it tritonserver with its workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from handlers.contract import (
    ANSWER_LIMIT_VARIABLE,
    LIBRARIES_VARIABLE,
    METRICS_FOLDER_VARIABLE,
    REQUEST_ID_HEADER,
    SHARED_CACHE_KEY_VARIABLE,
    SHARED_CACHE_VARIABLE,
    TIMEOUT_HEADER,
    TRACEPARENT_HEADER,
    TRITON_LONGEST_ANSWER,
)
from tsctl.config.nodes import TritonSpec
from tsctl.config.project import Project
from tsctl.host.files import make_folder
from tsctl.host.process import inherited
from tsctl.nodes import process
from tsctl.nodes.environments import Environment, require_environment

#: Seconds that Triton, and then the supervisor, have to answer what came before they are killed.
DRAIN_S = 30
STOP_GRACE_S = DRAIN_S + 10.0
#: Headers of clients and of the gateway that reach the worker, as a regular expression; no other header does.
_NAMED = "|".join(("content-type", "cache-control", "accept", REQUEST_ID_HEADER, TIMEOUT_HEADER, TRACEPARENT_HEADER))
FORWARDED = f"^({_NAMED}|x-tsctl-[a-z-]+)$"
#: Where Triton and its workers exchange tensors.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has it
_STUB = "triton_python_backend_stub"


class Paths:
    """The folder of one node, which only its owner may read, and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.backends = folder / "backends"
        self.logs = folder / "logs"
        self.console = folder / "logs" / "console.log"  # of the supervisor
        self.log = folder / "logs" / "triton.log"  # of Triton and of all its workers
        self.metrics = folder / "metrics"
        self.pending_restore = folder / "triton-restore.json"  # the versions that are still to be registered again
        self.defaults = folder / "defaults.json"


def launch(project: Project, node: TritonSpec, paths: Paths) -> subprocess.Popen[bytes]:
    """Start the node's process in a session of its own, with its record written.

    Raises:
        NodeError: the port is in use, or Triton is not installed.
    """
    environment = require_environment(project, "triton")
    for folder in (project.state, paths.folder.parent, paths.folder, paths.logs, paths.repository):
        make_folder(folder)
    process.require_free_ports(node.host, {"inference": urlsplit(node.url).port or 0})
    process.sweep(paths.folder)
    _remove_shared_memory(paths)
    tmp = process.temporary_folder(paths.folder)
    process.empty_metrics(paths.metrics)
    copy_backend(environment, paths.backends)
    paths.log.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "tsctl.nodes.triton.supervisor", str(paths.folder), node.url,
        *_command(environment, node, paths),
    ]  # fmt: skip
    present = variables(os.environ, environment, paths, tmp) | process.worker_variables(paths.folder, node)
    return process.spawn_recorded(command, paths.folder, node, present, tmp, paths.console)


def _command(environment: Environment, node: TritonSpec, paths: Paths) -> list[str]:
    host, port = node.host, urlsplit(node.url).port or 0
    return [
        str(program(environment)),
        f"--model-repository={paths.repository}", f"--backend-directory={paths.backends}",
        "--model-control-mode=explicit", "--disable-auto-complete-config", "--exit-on-error=false",
        f"--exit-timeout-secs={DRAIN_S}", f"--http-address={host}", f"--http-port={port}",
        f"--http-header-forward-pattern={FORWARDED}", "--allow-grpc=false", "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(paths)}",
    ]  # fmt: skip


def program(environment: Environment) -> Path:
    """tritonserver."""
    return _packages(environment) / "pytriton" / "tritonserver" / "bin" / "tritonserver"


def shared_memory_prefix(paths: Paths) -> str:
    """Begins the names of the node's shared memory; no other node of this machine has it."""
    stat = paths.folder.stat()
    return f"tsctl-triton-{stat.st_dev:x}-{stat.st_ino:x}-"


def variables(present: Mapping[str, str], environment: Environment, paths: Paths, tmp: Path) -> dict[str, str]:
    """The environment of the node's processes.

    Triton's workers run the Python of the engine's environment, whose NumPy fits Triton's backend. Everything else that
    a model needs they find in the environment that runs tsctl.
    """
    libraries = [str(_packages(environment) / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    result = inherited(present)
    shared_cache = (SHARED_CACHE_VARIABLE, SHARED_CACHE_KEY_VARIABLE)
    return {
        **result,
        **{name: present[name] for name in shared_cache if name in present},
        "PATH": os.pathsep.join([str(environment.folder / "bin"), result.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [*libraries, result.get("LD_LIBRARY_PATH", "")])),
        LIBRARIES_VARIABLE: sysconfig.get_paths()["purelib"],
        METRICS_FOLDER_VARIABLE: str(paths.metrics),
        ANSWER_LIMIT_VARIABLE: str(TRITON_LONGEST_ANSWER),
        "TMPDIR": str(tmp),
        "PYTHONUNBUFFERED": "1",
    }


def _packages(environment: Environment) -> Path:
    """Where the environment, which has the Python that runs tsctl, has its packages."""
    return environment.folder / Path(sysconfig.get_paths()["purelib"]).relative_to(sys.prefix)


def copy_backend(environment: Environment, backends: Path) -> None:
    """Put the python backend and its stub into one folder, where Triton looks for both."""
    source = _packages(environment) / "pytriton" / "tritonserver"
    stub = source / "python_backend_stubs" / ".".join(map(str, sys.version_info[:2])) / _STUB
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(source / "backends" / "python", backends / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, backends / "python" / _STUB)


def end(paths: Paths) -> bool:
    """End the node and its workers; True if it ran. What came before is answered, for DRAIN_S at most.

    Raises:
        NodeError: a process belongs to another user, or does not end.
    """
    was_running = process.end(paths.folder, STOP_GRACE_S)
    _remove_shared_memory(paths)
    return was_running


def _remove_shared_memory(paths: Paths) -> None:
    """Remove what killed workers left: nothing else would, until the machine starts anew."""
    for left in SHARED_MEMORY.glob(f"{shared_memory_prefix(paths)}*"):
        left.unlink(missing_ok=True)
