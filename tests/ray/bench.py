"""`make bench-ray`: failed requests while Ray nodes are cut off, killed and added, and the goodput of one to three.

Each Ray node is a network namespace with its share of the cores; clients and the gateway are outside. All ratios are of
one run.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import requests
import yaml

from benchmarks.growth.curves import Curve, Point
from benchmarks.growth.draw import draw
from tests.support.ports import free_ports
from tests.support.ray_machines import PROXIES, RayMachines, ray_machines
from tests.support.sites import CHECKOUT, HALF, Site, make_site, until, write_tiny
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.start import local_key
from tsctl.gateway.state import Gateway, open_gateway

PLOT = CHECKOUT / "docs" / "plots" / "ray" / "goodput.svg"
#: The longest time of a request at the gateway.
DEADLINE_S = 10.0
#: What is said of a failed request, of the gateway's access log.
LOGGED = ("time", "status", "node", "attempts", "flags", "details")


@dataclass
class Asked:
    """What clients got, by phase."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by phase and status
    failures: list[dict[str, Any]] = field(default_factory=list)
    phase: str = ""
    took_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.answers.values())


@dataclass(frozen=True)
class Operator:
    """The project of who operates the cluster, with its gateway."""

    site: Site

    @property
    def gateway(self) -> Gateway:
        project = Project(self.site.root)
        return open_gateway(project, read_deployment(project.deployment))

    def places(self) -> set[str]:
        """Hosts of the version's cluster that may get requests."""
        hosts = self.gateway.admin.hosts().get(cluster_name("tiny", "1.0"), [])
        return {host.address.partition(":")[0] for host in hosts if host.is_healthy}

    def until_spread(self, hosts: Sequence[str], within_s: float = 90.0) -> None:
        """Wait until the gateway sends to these hosts and to no others."""
        until(lambda: self.places() == set(hosts), within_s, f"{hosts} in rotation, not {self.places()}")

    @contextmanager
    def load(self, clients: int, pause_s: float = 0.0) -> Iterator[Asked]:
        """Clients that ask without an end, while the block runs."""
        name, _, key = local_key(self.gateway).read_text().strip().partition(": ")
        url, headers = f"{self.gateway.spec.address}/predictions/tiny", {name: key, "content-type": "application/json"}
        asked, stop, lock = Asked(), threading.Event(), threading.Lock()

        def ask() -> None:
            session = requests.Session()
            session.trust_env = False
            while not stop.is_set():
                phase, began = asked.phase, time.perf_counter()
                try:
                    answer = session.post(url, data=HALF, headers=headers, timeout=DEADLINE_S + 10)
                    status, said = answer.status_code, answer.text
                    media = answer.headers.get("content-type", "")
                except requests.RequestException as error:
                    status, said, media = 0, repr(error), ""
                took = (time.perf_counter() - began) * 1000
                with lock:
                    asked.answers[phase, status] += 1
                    asked.took_ms.setdefault(phase, []).append(took)
                    if status != 200:
                        asked.failures.append(
                            {
                                "phase": phase,
                                "status": status,
                                "took_ms": round(took),
                                "type": media,
                                "said": said[:300],
                            }
                        )
                if pause_s:
                    time.sleep(pause_s)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def operated(machines: RayMachines, workers: int, settings: dict[str, Any]) -> Iterator[Operator]:
    """The model on the cluster with so many replicas, behind a gateway on this machine."""
    with tempfile.TemporaryDirectory(prefix="tsctl-ray-") as folder:
        site = make_site(Path(folder) / "operator")
        write_tiny(site, "tiny", {"1.0": settings})
        client, metrics = free_ports(2)
        content = {
            "nodes": {"ray": {"engine": "ray", "address": machines.dashboard, "proxy_port": PROXIES}},
            "gateway": {
                "address": f"http://127.0.0.1:{client}",
                "metrics": f"http://127.0.0.1:{metrics}",
                "budget": {"requests_per_s": 100_000, "burst": 100_000},
            },
            "models": {
                "tiny": {
                    "default": "1.0",
                    "versions": {"1.0": {"workers": workers, "ray": {"max_replicas_per_node": 1}}},
                    "route": {"deadline_s": DEADLINE_S},
                }
            },
        }
        (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        site.run("archive", "build")
        site.run("apply")
        site.run("gateway", "start")
        try:
            yield Operator(site)
        finally:
            site.run("gateway", "stop", status=None)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - a program


def cut_off(machines: RayMachines, operator: Operator, others: Sequence[str], seconds: float) -> None:
    """Cut the second machine off for so long, in which the gateway must come to send to the others only."""
    end = time.monotonic() + seconds
    machines.cut(1)
    operator.until_spread(others)
    time.sleep(max(0.0, end - time.monotonic()))


def heal(machines: RayMachines, operator: Operator, hosts: Sequence[str]) -> None:
    """Connect the second machine again, and start its Ray node, which ends because Ray counts it as lost."""
    machines.mend(1)
    machines.revive(1)
    operator.until_spread(hosts)


def kill(machines: RayMachines, operator: Operator, others: Sequence[str]) -> None:
    """Kill the third machine's raylet."""
    machines.kill(2)
    operator.until_spread(others)
    time.sleep(10)


def revive(machines: RayMachines, operator: Operator, hosts: Sequence[str]) -> None:
    """Start the third machine's Ray node again."""
    machines.revive(2)
    operator.until_spread(hosts)


def add(machines: RayMachines, operator: Operator, hosts: Sequence[str]) -> None:
    """Add the fourth machine, with a replica of its own."""
    machines.start(3)
    operator.site.run("models", "scale", "tiny", "1.0", "4")
    operator.until_spread(hosts)


def outages(cut_s: float = 60.0, clients: int = 4) -> dict[str, Any]:
    """Failed requests while one of three Ray nodes is cut off, another one killed, and a fourth one added."""
    with ray_machines(4) as machines:
        for number in range(3):
            machines.start(number)
        hosts = [machines.address(number) for number in range(4)]
        with operated(machines, workers=3, settings={"inference_s": 0.03}) as operator:
            operator.until_spread(hosts[:3])
            with operator.load(clients) as asked:
                steps: list[tuple[str, Callable[[], object]]] = [
                    ("all three", lambda: time.sleep(15)),
                    ("one cut off", lambda: cut_off(machines, operator, [hosts[0], hosts[2]], cut_s)),
                    ("healed", lambda: heal(machines, operator, hosts[:3])),
                    ("one killed", lambda: kill(machines, operator, hosts[:2])),
                    ("started again", lambda: revive(machines, operator, hosts[:3])),
                    ("one added", lambda: add(machines, operator, hosts)),
                    ("all four", lambda: time.sleep(10)),
                ]
                for phase, act in steps:
                    asked.phase = phase
                    before = asked.total
                    act()
                    say(f"{phase}: {asked.total - before} requests, in rotation {sorted(operator.places())}")
            failed = len(asked.failures)
            lines = [json.loads(line) for line in operator.gateway.files.access_log.read_text().splitlines()]
            logged = [line for line in lines if line.get("status") != 200]
    return {
        "requests": asked.total,
        "failed": failed,
        "share": failed / max(1, asked.total),
        "by_phase": {f"{phase}: {status}": count for (phase, status), count in sorted(asked.answers.items())},
        "failures": asked.failures,
        "access_log": [{key: line.get(key) for key in LOGGED} for line in logged],
    }


def goodput(share: float = 0.3, rounds: int = 3, seconds: float = 8.0, clients_each: int = 4) -> dict[str, Any]:
    """Answered requests a second of one, two and three Ray nodes, each with its share of the cores.

    The first node is Ray's head, whose own processes run in its share too.
    """
    rates: dict[int, list[float]] = {}
    used: dict[int, list[float]] = {}
    idle: dict[int, list[float]] = {}
    with ray_machines(3, are_limited=True) as machines:
        machines.start(0)
        with operated(machines, workers=1, settings={}) as operator:
            for count in (1, 2, 3):
                if count > 1:
                    machines.limit(None)  # a start costs more than its share
                    machines.start(count - 1)
                    operator.site.run("models", "scale", "tiny", "1.0", str(count))
                operator.until_spread([machines.address(number) for number in range(count)])
                machines.limit(share)
                with cores_used(machines, count) as idle[count]:
                    time.sleep(seconds)
                with operator.load(count * clients_each) as asked:
                    asked.phase = "warm"
                    time.sleep(6)
                    with cores_used(machines, count) as used[count]:
                        for number in range(rounds):
                            asked.phase, began = f"round {number}", time.monotonic()
                            time.sleep(seconds)
                            asked.phase, took = "between", time.monotonic() - began
                            rates.setdefault(count, []).append(asked.answers[f"round {number}", 200] / took)
                say(f"{count} nodes: {[round(rate) for rate in rates[count]]} requests/s, {used[count]} cores used")
    medians = {count: median(values) for count, values in rates.items()}
    return {
        "share": share,
        "requests_s": rates,
        "over_one_and_number": {count: rate / medians[1] / count for count, rate in medians.items()},
        "cores_used": used,
        "cores_idle": idle,
    }


@contextmanager
def cores_used(machines: RayMachines, count: int) -> Iterator[list[float]]:
    """Cores that each of the first `count` machines uses while the block runs."""
    before, began = [machines.seconds_of_cores(number) for number in range(count)], time.monotonic()
    used: list[float] = []
    yield used
    took = time.monotonic() - began
    used += [round((machines.seconds_of_cores(n) - earlier) / took, 3) for n, earlier in enumerate(before)]


def write_plot(rates: Mapping[int, Sequence[float]], path: Path) -> None:
    """Draw the requests a second over the number of Ray nodes, beside what a straight line from one would be."""
    one = median(rates[1])
    measured = tuple(Point(float(count), tuple(values)) for count, values in sorted(rates.items()))
    line = tuple(Point(float(count), (one * count,)) for count in sorted(rates))
    curves = [Curve("goodput", "measured", "requests/s", measured), Curve("goodput", "linear", "requests/s", line)]
    path.write_text(draw("Goodput of Ray nodes", "Ray nodes, each with the same share of a core", curves), "utf-8")


def main() -> None:
    """Print the figures as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that machines and processes are removed
    chosen = sys.argv[1:] or ["outages", "goodput"]
    measures: dict[str, Callable[[], dict[str, Any]]] = {"outages": outages, "goodput": goodput}
    results = {name: measures[name]() for name in chosen}
    if "goodput" in results:
        PLOT.parent.mkdir(exist_ok=True)
        write_plot(results["goodput"]["requests_s"], PLOT)
    print(json.dumps(results, indent=1))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
