"""Starts a Ray cluster of one machine, for laptops and tests. Real clusters are started by their own tools.

Everything of it runs in the process group of `ray start --block`, or ends with that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE, NODE_FOLDER_VARIABLE, WORKER_PYTHON_VARIABLE
from tsctl.archive.store import list_archives
from tsctl.config.nodes import RaySpec
from tsctl.config.project import Project
from tsctl.host.files import make_folder
from tsctl.host.ports import free_ports
from tsctl.host.process import inherited
from tsctl.nodes import process
from tsctl.nodes.environments import require_environment

#: Bytes of Ray's shared memory, in which requests and answers of this use do not lie; the least that Ray takes.
OBJECT_STORE_BYTES = 80 << 20
#: Ray's sockets lie 64 bytes below its temporary folder, and the path of one has at most 107.
LONGEST_TMP = 40


def launch(project: Project, folder: Path, spec: RaySpec, console: Path) -> subprocess.Popen[bytes]:
    """Start the cluster; it answers later.

    Raises:
        NodeError: Ray is not installed, or an address is in use.
    """
    environment = require_environment(project, spec.engine)
    for one in (project.state, folder.parent, folder, folder / "logs"):
        make_folder(one)
    project.store.mkdir(parents=True, exist_ok=True)
    list_archives(project)  # takes in what was copied into the store by hand
    dashboard = urlsplit(spec.address).port or 0
    process.require_free_ports(spec.host, {"dashboard": dashboard, "proxies": spec.port_of_proxies})
    process.sweep(folder)
    tmp, (gcs, agent, client) = process.temporary_folder(folder, LONGEST_TMP), free_ports(3)
    process.empty_metrics(folder / "metrics")
    command = [
        str(environment.python), "-I", "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--disable-usage-stats",  # it would send its use to its makers
        "--node-ip-address", spec.host, "--port", str(gcs),
        "--dashboard-host", spec.host, "--dashboard-port", str(dashboard), "--include-dashboard", "true",
        "--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client),
        "--min-worker-port", "0", "--max-worker-port", "0",  # any, and none that the ones above may be among
        "--object-store-memory", str(OBJECT_STORE_BYTES), "--temp-dir", str(tmp),
        *(["--num-cpus", str(spec.cpus)] if spec.cpus is not None else []),
    ]  # fmt: skip
    variables = {
        **inherited(os.environ), **process.worker_variables(folder, spec), NODE_FOLDER_VARIABLE: str(folder),
        WORKER_PYTHON_VARIABLE: spec.python or sys.executable, FORK_SERVER_VARIABLE: FORK_SERVER_OFF,
        "TMPDIR": str(tmp), "TEMP": str(tmp), "PYTHONUNBUFFERED": "1", "RAY_DISABLE_IMPORT_WARNING": "1",
    }  # fmt: skip
    return process.spawn_recorded(command, folder, spec, variables, tmp, console)
