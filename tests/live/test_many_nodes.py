"""Three nodes on machines of their own behind the gateway: one is cut off, one is killed, one is slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.harness.client import Address, Load, under_load
from benchmarks.harness.processes import children
from tests.support.network_namespaces import Network, network
from tests.support.ports import free_ports
from tests.support.sites import COMMAND_TIMEOUT_S, HALF, Site, make_site, processes_of, until, write_tiny
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.start import local_key
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node, Unreachable

NAMES = ("a", "b", "c")
CONNECTIONS = 4
PORTS = {"inference": 8080, "management": 8081, "metrics": 8082}
#: The answers take a while, so that the load leaves the machine time for what is tested.
PAUSE = {"inference_s": 0.03}
VERSIONS: dict[str, dict[str, Any]] = {"1.0": PAUSE, "2.0": PAUSE, "3.0": PAUSE}


@dataclass(frozen=True)
class Machine:
    """A machine with one node, which is started there."""

    number: int
    name: str
    network: Network
    site: Site

    @property
    def pid(self) -> int:
        record = self.site.root / ".tsctl" / "nodes" / self.name / "node.json"
        return int(json.loads(record.read_text())["pid"])

    def run(self, *arguments: str) -> None:
        """A command of tsctl on that machine."""
        command = [*self.network.inside(self.number), sys.executable, "-m", "tsctl.cli.main", *arguments]
        environment = {**os.environ, "TSCTL_PROJECT": str(self.site.root)}
        ended = subprocess.run(
            command, cwd=self.site.root, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        assert ended.returncode == 0, f"{arguments} on {self.name}: {ended.stdout}{ended.stderr}"

    def kill(self) -> None:
        """SIGKILL to the node's process and its workers, all at once."""
        for pid in (self.pid, *children(self.pid)):
            with suppress(ProcessLookupError):  # it ended with one before it
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        self.network.cut(self.number, self.pid)
        try:
            yield
        finally:
            self.network.mend(self.number, self.pid)

    @contextmanager
    def slowed(self) -> Iterator[None]:
        end = self.network.slow(self.number, self.pid)
        try:
            yield
        finally:
            end()


@dataclass(frozen=True)
class Country:
    """The project of whoever operates all of them, with its gateway."""

    site: Site
    machines: dict[str, Machine]
    are_real: bool

    @property
    def gateway(self) -> Gateway:
        project = Project(self.site.root)
        return open_gateway(project, read_deployment(project.deployment))

    def node(self, name: str) -> Node:
        project = Project(self.site.root)
        return {node.name: node for node in open_nodes(project, read_deployment(project.deployment))}[name]

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Clients of the gateway; no request of theirs may fail that reached no worker."""
        name, _, key = local_key(self.gateway).read_text().strip().partition(": ")
        headers = {name: key, "Content-Type": "application/json"}
        with under_load(Address(f"{self.gateway.spec.address}/predictions/tiny", headers), HALF, CONNECTIONS) as load:
            yield load
        assert len(load.answers) > 20
        failed = Counter(answer.status for answer in load.failed)
        if self.are_real:
            assert not failed, self.log_of_failures()
        else:  # what a stopped process had in hand had reached it
            assert set(failed) <= {504}
            assert failed[504] <= 4 * CONNECTIONS

    def log_of_failures(self) -> list[str]:
        """What the gateway wrote of requests that failed."""
        lines = self.gateway.files.access_log.read_text().splitlines()
        return [line for line in lines if json.loads(line)["status"] != 200]

    def hosts(self, name: str, version: str) -> list[Host]:
        """The node in the version's cluster; none where it is not there yet."""
        place = self.site.deployment["nodes"][name]["inference"].removeprefix("http://")
        hosts = self.gateway.admin.hosts().get(cluster_name("tiny", version), [])
        return [host for host in hosts if host.address == place]

    def in_rotation(self, name: str, version: str) -> bool:
        return any(host.is_healthy for host in self.hosts(name, version))

    def is_given_up(self, name: str, version: str) -> bool:
        """Whether no request is on its way to the node, and none will be, as where only requests failed there."""
        return any("active health check" in host.why_not and not host.active for host in self.hosts(name, version))


def outcomes(out: str) -> dict[str, str]:
    """What the table says of each node."""
    header, *rows = out.splitlines()
    begin, end = header.index("OUTCOME"), header.find("DETAIL")
    return {row.split()[0]: row[begin:end].strip() for row in rows}


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Country]:
    """Nodes a, b and c with version 1.0, and a gateway on this machine; the archives of all versions are everywhere."""
    root = tmp_path_factory.mktemp("country")
    site = make_site(root / "operator")
    write_tiny(site, "tiny", VERSIONS)
    site.run("archive", "build")
    with network(len(NAMES)) as connected:
        machines = {name: machine(root / name, site, connected, number, name) for number, name in enumerate(NAMES)}
        write_operators_deployment(site, list(machines.values()))
        try:
            with ThreadPoolExecutor(len(NAMES)) as pool:
                list(pool.map(lambda one: one.run("node", "start"), machines.values()))
            registered = site.run("models", "register", "tiny:1.0", "--all-nodes")
            assert set(outcomes(registered.out).values()) == {"registered"}
            site.run("gateway", "start")
            yield Country(site, machines, connected.is_real)
        finally:
            site.run("gateway", "stop", status=None)
            with ThreadPoolExecutor(len(NAMES)) as pool:
                list(pool.map(lambda one: one.run("down"), machines.values()))
    assert processes_of(root) == [], "processes are left behind"


def machine(root: Path, operators: Site, connected: Network, number: int, name: str) -> Machine:
    """A machine's own project: its node, and the same archives."""
    site = make_site(root)
    (site.root / "archives" / "store").symlink_to(operators.root / "archives" / "store")
    (site.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {name: addresses(connected.address(number))}}))
    return Machine(number, name, connected, site)


def addresses(host: str) -> dict[str, Any]:
    ports = [*PORTS.values(), 7070, 7071]
    if host.startswith("127."):  # where other tests run as well
        ports = free_ports(5)
    named = zip(PORTS, ports, strict=False)
    return {**{name: f"http://{host}:{port}" for name, port in named}, "grpc_ports": ports[3:]}


def write_operators_deployment(site: Site, machines: Sequence[Machine]) -> None:
    client, metrics = free_ports(2)
    nodes = {
        one.name: {
            **one.site.deployment["nodes"][one.name],
            "key_file": str(one.site.root / ".tsctl" / "nodes" / one.name / "key_file.json"),
        }
        for one in machines
    }
    content = {
        "nodes": nodes,
        "gateway": {"address": f"http://127.0.0.1:{client}", "metrics": f"http://127.0.0.1:{metrics}"},
        "models": {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}, "route": {"deadline_s": 12}}},
    }
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_node_is_cut_off_one_killed_and_one_slow(country: Country) -> None:
    site, (slow, lost, killed) = country.site, country.machines.values()
    cut = country.node("b")
    assert cut.models()["tiny"].default == "1.0"  # the connection stays open
    with ThreadPoolExecutor(1) as aside, country.load() as load, slow.slowed():
        with lost.cut_off():
            # an answer that never comes would be waited for much longer than it takes to know that nobody is there
            silent = aside.submit(cut.unregister, "tiny", "9.9") if country.are_real else None
            status = site.run("status", status=4)
            lines = [line for line in status.out.splitlines() if line.startswith("node ")]
            assert [line.split(",")[0].split(" (")[0] for line in lines] == [
                "node a: ready",
                "node b: does not answer",
                "node c: ready",
            ]
            assert "error: node b does not answer: " in status.err
            # a machine that is gone shows at once; behind a stopped process the kernel still acknowledges, so two
            # health checks must run out, each after the route's deadline and ten seconds
            longest = 30 if country.are_real else 60
            until(lambda: country.is_given_up("b", "1.0"), longest, "the node out of rotation, with nothing on its way")
            seen = len(load.answers)  # what failed on one node and is asked again is not to meet the end of another
            until(lambda: len(load.answers) > seen + 5 * CONNECTIONS, 30, "answers from the two others")
            killed.kill()
            partly = site.run("models", "register", "tiny:2.0", "--all-nodes", status=4)
            assert outcomes(partly.out) == {"a": "registered", "b": "failed", "c": "failed"}
            assert "registering tiny 2.0 failed on 2 of 3 nodes: b, c" in partly.err
            assert "Run this again when all nodes answer" in partly.err
            site.run("weights", "set", "tiny", "1.0=50%", "2.0=50%")
            if silent is not None:
                with pytest.raises(Unreachable, match="no connection"):
                    silent.result()
        killed.run("node", "start")
        assert [*country.node("c").models()["tiny"].versions] == ["1.0"]
        caught_up = site.run("models", "register", "tiny:2.0", "--all-nodes")
        assert outcomes(caught_up.out) == {"a": "was registered", "b": "registered", "c": "registered"}
        places = [(name, version) for name in ("b", "c") for version in ("1.0", "2.0")]
        until(lambda: all(country.in_rotation(*place) for place in places), 30, "all nodes in rotation")
    assert site.run("status", "--json").json()["is_ready"]


def test_every_operation_reaches_all_nodes(country: Country) -> None:
    site = country.site
    site.run("models", "register", "tiny:3.0", "--all-nodes", "--workers", "1")
    refused = site.run("models", "register", "tiny:3.0", "--all-nodes", "--workers", "2", status=4)
    assert "already registered on node a, with 1 workers" in refused.out
    assert "tsctl models scale tiny 3.0 2" in refused.err
    site.run("models", "set-default", "tiny", "3.0", "--all-nodes")
    listed = site.run("models", "list", "--all-nodes", "--json").json()
    defaults = [(row["node"], row["version"]) for row in listed if row["default"]]
    assert defaults == [(node, "3.0") for node in dict.fromkeys(row["node"] for row in listed)]
    assert len(defaults) == 3
    site.run("models", "set-default", "tiny", "1.0", "--all-nodes")
    site.run("models", "scale", "tiny", "3.0", "0", "--all-nodes")
    shown = [line.split() for line in site.run("models", "list", "--all-nodes").out.splitlines()]
    assert [row[:5] for row in shown if row[2] == "3.0"] == [[name, "tiny", "3.0", "0", "0"] for name in NAMES]
    write_tiny(site, "tiny", {**VERSIONS, "3.0": {**PAUSE, "factor": 3.0}})
    site.run("archive", "build", "tiny:3.0")
    other = site.run("models", "register", "tiny:3.0", "--all-nodes", status=4)
    assert "already registered on node c with other bytes" in other.out
    gone = site.run("models", "unregister", "tiny", "3.0", "--all-nodes")
    assert outcomes(gone.out) == dict.fromkeys(NAMES, "unregistered")
    again = site.run("models", "unregister", "tiny", "3.0", "--all-nodes")
    assert outcomes(again.out) == dict.fromkeys(NAMES, "was not registered")
