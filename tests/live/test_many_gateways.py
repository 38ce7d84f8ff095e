"""Three nodes, two gateways, a place and an operator, each on a machine of its own: cut off, killed, replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from benchmarks.harness.client import Address, Load, under_load
from benchmarks.harness.processes import children
from tests.support.commands import Result
from tests.support.network_namespaces import Network, network
from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.releases import POLICY
from tests.support.sites import COMMAND_TIMEOUT_S, HALF, make_site, processes_of, until, write_tiny
from tsctl.gateway.headers import KEY_HEADER

NODES, SPARE = ("n0", "n1", "n2"), "n3"
GATEWAYS = ("a", "b")
PLACE, OPERATOR = 6, 7
#: Few connections, and answers that take a while, leave the machine time for what is tested.
CONNECTIONS = 2
PAUSE = {"inference_s": 0.02}


@dataclass(frozen=True)
class Machine:
    """A machine with a project of its own."""

    number: int
    connected: Network
    root: Path

    @property
    def address(self) -> str:
        return self.connected.address(self.number)

    def run(self, *arguments: str, status: int = 0) -> Result:
        """A command of tsctl on this machine."""
        command = [*self.connected.inside(self.number), sys.executable, "-m", "tsctl.cli.main", *arguments]
        environment = {**os.environ, "TSCTL_PROJECT": str(self.root)}
        ended = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        said = f"{arguments} on machine {self.number} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        assert ended.returncode == status, said
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def pid(self, record: str) -> int:
        """Of the process in a record below .tsctl."""
        return int(json.loads((self.root / ".tsctl" / record).read_text())["pid"])


@dataclass(frozen=True)
class Fleet:
    """All machines; the operator's is the only one with archives, deployment.yaml as a person wrote it, and keys."""

    connected: Network
    operator: Machine
    nodes: dict[str, Machine]
    gateways: dict[str, Machine]
    ports: dict[str, tuple[int, int]]

    def url(self, gateway: str) -> str:
        return f"http://{self.gateways[gateway].address}:{self.ports[gateway][0]}"

    def start_node(self, name: str) -> None:
        """The node runs, and the operator has its key file, as a person would copy it."""
        machine = self.nodes[name]
        machine.run("node", "start")
        keys = self.operator.root / "keys"
        keys.mkdir(exist_ok=True)
        shutil.copy(machine.root / ".tsctl" / "nodes" / name / "key_file.json", keys / f"{name}.json")

    def name_nodes(self, names: Sequence[str]) -> None:
        """The operator's deployment.yaml has these nodes."""
        path = self.operator.root / "deployment.yaml"
        content = yaml.safe_load(path.read_text())
        content["nodes"] = {
            name: {
                **yaml.safe_load((self.nodes[name].root / "deployment.yaml").read_text())["nodes"][name],
                "key_file": f"keys/{name}.json",
            }
            for name in names
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def kill_node(self, name: str) -> None:
        pid = self.nodes[name].pid(f"nodes/{name}/node.json")
        for one in (pid, *children(pid)):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def new_key(self, client: str, *options: str) -> str:
        return str(self.operator.run("keys", "add", client, "--json", *options).json()["key"])

    @contextmanager
    def load(self, key: str) -> Iterator[dict[str, Load]]:
        """Clients of both gateways; none of their requests may fail."""
        headers = {KEY_HEADER: key, "Content-Type": "application/json"}
        with ExitStack() as stack:
            loads = {
                name: stack.enter_context(
                    under_load(Address(f"{self.url(name)}/predictions/tiny", headers), HALF, CONNECTIONS)
                )
                for name in self.gateways
            }
            yield loads
        for name, load in loads.items():
            assert len(load.answers) >= 20
            failed = Counter(answer.status for answer in load.failed)
            if self.connected.is_real:
                log = self.gateways[name].root / ".tsctl" / "gateway" / "logs" / "access.log"
                assert not failed, [line for line in log.read_text().splitlines() if json.loads(line)["status"] != 200]

    def await_versions(self, loads: dict[str, Load], versions: set[str], last: int = 20) -> None:
        """The last answers of all gateways came from these versions."""

        def are_all() -> bool:
            answers = [load.answers[-last:] for load in loads.values()]
            return all(len(one) == last and {answer.version for answer in one} == versions for one in answers)

        until(are_all, 15, f"answers of {versions}")

    def status(self) -> dict[str, Any]:
        """Each gateway by name, as `tsctl gateway status` says it on the operator's machine."""
        ended = subprocess.run(
            [*self.connected.inside(OPERATOR), sys.executable, "-m", "tsctl.cli.main", "gateway", "status", "--json"],
            env={**os.environ, "TSCTL_PROJECT": str(self.operator.root)}, capture_output=True, text=True,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        return {one["name"]: one for one in json.loads(ended.stdout)["gateways"]}

    @contextmanager
    def without_place(self, gateway: str) -> Iterator[None]:
        """The gateway's machine cannot reach the place; clients and nodes it reaches."""
        machine = self.gateways[gateway]
        supervisor = machine.pid("gateway/keeper.pid.json")
        self.connected.part(machine.number, PLACE, supervisor)
        try:
            yield
        finally:
            self.connected.join(machine.number, PLACE, supervisor)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    with network(OPERATOR + 1) as connected:
        operator = Machine(OPERATOR, connected, make_site(root / "operator").root)
        site = make_site(root / "operator")
        write_tiny(site, "tiny", {"1.0": PAUSE, "2.0": PAUSE})
        site.run("archive", "build")
        names = (*NODES, SPARE)
        numbers = free_ports(len(names) + 2 * len(GATEWAYS) + 1)  # for machines that are one
        nodes = {
            name: node_machine(root / name, operator, number, name, numbers.pop()) for number, name in enumerate(names)
        }
        gateways = {name: Machine(len(names) + i, connected, root / name) for i, name in enumerate(GATEWAYS)}
        ports = {name: (numbers.pop(), numbers.pop()) for name in GATEWAYS}
        port, host = numbers.pop(), connected.address(PLACE)
        made = Fleet(connected, operator, nodes, gateways, ports)
        with redis_server(root / "redis", port, host=host, inside=connected.inside(PLACE)):
            try:
                with ThreadPoolExecutor(len(NODES)) as pool:
                    list(pool.map(made.start_node, NODES))
                write_operators(made, f"redis://{host}:{port}/0")
                first = operator.run("apply", status=5)  # all is served, and no gateway runs yet
                assert "gateway a: it has never reported" in first.err
                for name, machine in gateways.items():
                    machine.root.mkdir()
                    machine.run("gateway", "follow", name, "--control", f"redis://{host}:{port}/0")
                yield made
            finally:
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(stop, [*gateways.values(), *nodes.values()]))
    assert processes_of(root) == [], "processes are left behind"


def node_machine(root: Path, operator: Machine, number: int, name: str, port: int) -> Machine:
    """A machine's own project: its node, and the same archives."""
    made = Machine(number, operator.connected, make_site(root).root)
    (made.root / "archives" / "store").symlink_to(operator.root / "archives" / "store")
    node = {"engine": "uvicorn", "address": f"http://{made.address}:{port}"}
    (made.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {name: node}}))
    return made


def write_operators(fleet: Fleet, control: str) -> None:
    content = {
        "nodes": {},
        "control": control,
        "gateways": {
            name: {
                "address": f"http://{machine.address}:{fleet.ports[name][0]}",
                "metrics": f"http://{machine.address}:{fleet.ports[name][1]}",
            }
            for name, machine in fleet.gateways.items()
        },
        "rollout": POLICY,
        "models": {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}, "2.0": {"workers": 1}}}},
    }
    (fleet.operator.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    fleet.name_nodes(NODES)


def stop(machine: Machine) -> None:
    if (machine.root / "deployment.yaml").is_file():
        machine.run("down")


def test_gateways_take_weights_and_keys_from_afar(fleet: Fleet) -> None:
    assert fleet.operator.run("apply").out.endswith("nothing to change\n")
    key = fleet.new_key("team")
    with fleet.load(key) as loads:
        fleet.operator.run("weights", "set", "tiny", "2.0=100%")
        fleet.await_versions(loads, {"2.0"})
    assert all(one["is_ready"] for one in fleet.status().values())
    fleet.operator.run("keys", "revoke", "team")
    headers = {KEY_HEADER: key, "Content-Type": "application/json"}
    for name in fleet.gateways:
        answer = requests.post(f"{fleet.url(name)}/predictions/tiny", data=HALF, headers=headers, timeout=10)
        assert answer.status_code == 401


def test_a_gateway_that_is_cut_off_answers_as_before_and_takes_the_newest_when_healed(fleet: Fleet) -> None:
    key = fleet.new_key("cut")
    fleet.operator.run("weights", "set", "tiny", "1.0=100%")
    with fleet.load(key) as loads:
        with fleet.without_place("b"):
            changed = fleet.operator.run("weights", "set", "tiny", "2.0=100%", "--json")
            assert "no report for" in changed.json()["absent"]["b"]
            fleet.await_versions({"a": loads["a"]}, {"2.0"})
            fleet.await_versions({"b": loads["b"]}, {"1.0"})
            there = fleet.status()["b"]
            assert not there["reports"]
            assert there["generation"] == there["newest"] - 1
            retired = fleet.operator.run("models", "retire", "tiny", "1.0", status=5)
            assert "may still send it requests" in retired.err
        fleet.await_versions(loads, {"2.0"})
    until(lambda: fleet.status()["b"]["is_ready"], 15, "b is ready")


def test_an_envoy_that_is_killed_comes_back_with_the_newest_generation(fleet: Fleet) -> None:
    key = fleet.new_key("kill")
    fleet.operator.run("weights", "set", "tiny", "2.0=100%")
    os.kill(fleet.gateways["b"].pid("gateway/envoy.pid.json"), signal.SIGKILL)
    fleet.operator.run("weights", "set", "tiny", "1.0=100%")
    until(lambda: fleet.status()["b"]["is_ready"], 20, "Envoy of b is back")
    with fleet.load(key) as loads:
        fleet.await_versions(loads, {"1.0"})


def test_a_rollout_from_afar_goes_on_without_a_gateway_that_is_cut_off(fleet: Fleet) -> None:
    key = fleet.new_key("rollout")
    fleet.operator.run("weights", "set", "tiny", "1.0=100%")
    with fleet.load(key) as loads, ThreadPoolExecutor(1) as pool:
        running = pool.submit(fleet.operator.run, "rollout", "start", "tiny", "2.0", "--json")
        for load in loads.values():
            until(lambda load=load: any(a.version == "2.0" for a in load.answers), 60, "a step on both")  # type: ignore[misc]
        with fleet.without_place("b"):
            assert running.result(timeout=COMMAND_TIMEOUT_S).status == 0
            fleet.await_versions({"a": loads["a"]}, {"2.0"})
        fleet.await_versions(loads, {"2.0"})
    report = fleet.operator.run("rollout", "explain", "tiny").out
    assert "promoted" in report
    assert "though not at gateway b (no report for" in report


def test_budgets_are_divided_while_both_report(fleet: Fleet) -> None:
    until(lambda: all(one["sharing"] == 2 for one in fleet.status().values()), 20, "both share")
    key = fleet.new_key("small", "--requests-per-s", "1", "--burst", "10")
    headers = {KEY_HEADER: key, "Content-Type": "application/json"}
    for name in fleet.gateways:
        url = f"{fleet.url(name)}/predictions/tiny"
        asked = [requests.post(url, data=HALF, headers=headers, timeout=10).status_code for _ in range(12)]
        assert 5 <= asked.count(200) <= 8, "half of the burst, and what was added meanwhile"
        assert asked.count(200) + asked.count(429) == 12


def test_a_machine_is_replaced_under_load(fleet: Fleet) -> None:
    key = fleet.new_key("replace")
    fleet.operator.run("weights", "set", "tiny", "1.0=100%")
    with fleet.load(key) as loads:
        fleet.kill_node("n2")
        fleet.start_node(SPARE)
        fleet.name_nodes(["n0", "n1", SPARE])
        fleet.operator.run("apply")
        spare = fleet.nodes[SPARE].address

        def has_spare() -> bool:
            rows = fleet.operator.run("gateway", "status", "--json").json()["rows"]
            return all(row["healthy"] == row["nodes"] == 3 for row in rows)

        until(has_spare, 20, f"requests reach {spare}")
        assert fleet.operator.run("plan").out.endswith("nothing to change\n")
        for load in loads.values():
            count = len(load.answers)
            until(lambda load=load, count=count: len(load.answers) > count + 20, 15, "answers")  # type: ignore[misc]
