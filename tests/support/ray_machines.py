"""Ray nodes on machines of their own, which a test cuts off, kills and adds, and whose share of the cores is limited.

A machine is a network namespace. Its share is a quota of the control group `cpu` (version 1 or 2), in which everything
of that Ray node runs: raylet, agents, proxy, replicas and their workers; on the first machine Ray's head processes too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE, WORKER_PYTHON_VARIABLE
from tests.support.engines import installed
from tests.support.network_namespaces import Namespaces, Network, network
from tests.support.sites import until

DASHBOARD, PROXIES, GCS = 8265, 8266, 6379
#: CPUs of each Ray node, as Ray counts them to place replicas.
CPUS = 2
OBJECT_STORE_BYTES = 80 << 20
PERIOD_US = 50_000
START_S, END_S = 60.0, 20.0
#: Settings of Ray's head: a silent machine counts as lost after some 9 s (docs/ray.md). By its defaults it takes 50 s.
HEAD = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
CONTROL = Path("/sys/fs/cgroup")


@dataclass
class RayMachines:
    """Machines 0 to n - 1; the first one, once it is started, is Ray's head."""

    network: Network
    folder: Path
    are_limited: bool = False  # each can have a share of the cores
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, number: int) -> str:
        return self.network.address(number)

    @property
    def dashboard(self) -> str:
        return f"http://{self.address(0)}:{DASHBOARD}"

    def start(self, number: int) -> None:
        """Start the Ray node of a machine, and wait until the cluster counts it."""
        own = self.address(number)
        role = (
            ["--head", "--port", str(GCS), "--dashboard-host", own, "--dashboard-port", str(DASHBOARD),
             "--temp-dir", str(self.folder)]
            if number == 0
            else ["--address", f"{self.address(0)}:{GCS}"]
        )  # fmt: skip
        python = installed("ray").python
        command = [
            *self._limited(number), *self.network.inside(number), str(python), "-I", "-m", "ray.scripts.scripts",
            "start", "--block", "--disable-usage-stats", "--node-ip-address", own, *role, "--num-cpus", str(CPUS),
            "--object-store-memory", str(OBJECT_STORE_BYTES), "--min-worker-port", "0", "--max-worker-port", "0",
        ]  # fmt: skip
        environment = {
            **os.environ, WORKER_PYTHON_VARIABLE: sys.executable, FORK_SERVER_VARIABLE: FORK_SERVER_OFF,
            "PYTHONUNBUFFERED": "1", **HEAD,
        }  # fmt: skip
        alive = self.alive() if number else 0
        with (self.folder / f"machine-{number}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: self.alive() > alive, START_S, f"Ray node {number}, whose log is in {self.folder}")

    def alive(self) -> int:
        """Ray nodes that the cluster counts; 0 where it does not answer."""
        try:
            answer = requests.get(f"{self.dashboard}/api/v0/nodes?detail=false", timeout=5).json()
            nodes = answer["data"]["result"]["result"]
            return sum(node["state"] == "ALIVE" for node in nodes)
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return 0

    def raylet(self, number: int) -> psutil.Process:
        """The machine's raylet, without which nothing of its Ray node goes on."""
        below = psutil.Process(self.processes[number].pid).children(recursive=True)
        [found] = [process for process in below if process.name() == "raylet"]
        return found

    def kill(self, number: int) -> None:
        """SIGKILL to the raylet; Ray ends the rest of the node."""
        self.raylet(number).send_signal(signal.SIGKILL)

    def cut(self, number: int) -> None:
        self.network.cut(number, self.processes[number].pid)

    def mend(self, number: int) -> None:
        self.network.mend(number, self.processes[number].pid)

    def revive(self, number: int) -> None:
        """Start a Ray node that has ended, as systemd or Kubernetes do; one that Ray counts as lost ends by itself."""
        process = self.processes[number]
        until(lambda: process.poll() is not None, START_S, f"the end of Ray node {number}")
        self.stop(number)
        self.start(number)

    def stop(self, number: int) -> None:
        """End the Ray node and everything that it started."""
        process = self.processes.pop(number, None)
        if process is None:
            return
        left = []
        with suppress(psutil.NoSuchProcess):
            left = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        for one in [*left, *([] if process.poll() is not None else [process])]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()
        psutil.wait_procs(left, END_S)

    def limit(self, share: float | None) -> None:
        """Give each machine whose Ray node runs this share of one core; None: as much as there is, as at its start."""
        for number in self.processes:
            group, quota = self._group(number), round(PERIOD_US * (share or 0))
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota or -1))
            else:
                (group / "cpu.max").write_text(f"{quota or 'max'} {PERIOD_US}")

    def _limited(self, number: int) -> list[str]:
        """The words before a command that runs with the machine's share; `ip netns exec` hides the control groups."""
        if not self.are_limited:
            return []
        group = self._group(number)
        group.mkdir(exist_ok=True)
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "limited"]

    def _group(self, number: int) -> Path:
        first = CONTROL / "cpu" if (CONTROL / "cpu").is_dir() else CONTROL
        return first / f"tsctl-{os.getpid()}-{number}"

    def seconds_of_cores(self, number: int) -> float:
        """Seconds of cores that the machine has used, where it has a share."""
        group = self._group(number)
        own = CONTROL / "cpuacct" / group.name
        if (own / "cpuacct.usage").exists():
            return int((own / "cpuacct.usage").read_text()) / 1e9
        values = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return int(values.get("usage_usec", 0)) / 1e6

    def close(self) -> None:
        for number in sorted(self.processes, reverse=True):
            self.stop(number)
        for number in range(16):
            with suppress(OSError):
                self._group(number).rmdir()


@contextmanager
def ray_machines(count: int, are_limited: bool = False) -> Iterator[RayMachines]:
    """So many machines, none of which is started, while the block runs.

    Args:
        are_limited: each can have a share of the cores (`limit`).

    Raises:
        RuntimeError: this machine has no network namespaces.
    """
    with network(count) as connected, tempfile.TemporaryDirectory(prefix="tsr", ignore_cleanup_errors=True) as folder:
        if not isinstance(connected, Namespaces):
            raise RuntimeError(
                "Ray nodes of one address each need network namespaces: run this as root, with ip and tc"
            )
        machines = RayMachines(connected, Path(folder), are_limited)
        try:
            yield machines
        finally:
            machines.close()
