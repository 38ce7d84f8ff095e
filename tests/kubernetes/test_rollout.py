"""`tsctl` on a cluster as commands: rollouts, weights, plan and apply, through a real API server and a real Prometheus.

Pods are `tsctl serve` in network namespaces. The test stands in for what a cluster has besides its API server: it makes
pods of the rendered Deployments, sends requests by the weights of the HTTPRoute, and accepts each route.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.kubernetes.test_manifests import as_in_1_20
from tests.support.kubernetes_server import ApiServerProcess
from tests.support.network_namespaces import Namespaces, network
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.sites import HALF, Site, make_site, until, write_tiny
from tsctl.gateway.kubernetes.names import version_name
from tsctl.host.http import direct_session

Json = dict[str, Any]
SPACE = "e2e"
PORT = 8080
VERSIONS = ("1.0", "2.0", "3.0")
#: Settings of each version; the third one answers its golden sample, and fails at each LARGE one.
SETTINGS: dict[str, Json] = {"1.0": {}, "2.0": {}, "3.0": {"most": 1.0}}
LARGE = b'{"x": 2.0}'
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "tiny", "namespace": SPACE},
}  # fmt: skip
ENDED, TIME_S = 10, 240


@dataclass
class Traffic:
    """Clients, and the gateway between them and the pods: it has the weights of the route, and says that it has."""

    server: ApiServerProcess
    addresses: dict[str, str]  # by Service
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    weights: dict[str, int] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def control(self) -> None:
        """Accept each generation of the route, as a gateway's controller does."""
        while not self.stop.wait(0.2):
            route = self.server.get(ROUTE)
            main = next(rule for rule in route["spec"]["rules"] if rule["name"] == "weights")
            self.weights = {one["name"]: one["weight"] for one in main["backendRefs"] if one["weight"]}
            generation = route["metadata"]["generation"]
            common = {"status": "True", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            conditions = [
                {"type": kind, "reason": kind, "observedGeneration": generation, **common}
                for kind in ("Accepted", "ResolvedRefs")
            ]
            parent = {"controllerName": "example.com/gateway", "parentRef": {"name": "tsctl"}, "conditions": conditions}
            if (route.get("status") or {}).get("parents") != [parent]:
                self.server.set_status(ROUTE, {"parents": [parent]})

    def ask(self) -> None:
        """Some 50 requests a second, divided by the weights."""
        session, owed, bodies = direct_session(), Counter[str](), itertools.cycle((HALF, HALF, LARGE))
        while not self.stop.wait(0.02):
            weights = self.weights
            for service, weight in weights.items():
                owed[service] += weight
            if not weights:
                continue
            chosen = max(weights, key=lambda service: owed[service])
            owed[chosen] -= sum(weights.values())
            headers = {"content-type": "application/json"}
            answer = session.post(
                f"{self.addresses[chosen]}/predictions/tiny", next(bodies), headers=headers, timeout=10
            )
            self.answers[chosen, answer.status_code] += 1


@dataclass
class Stage:
    site: Site
    server: ApiServerProcess
    traffic: Traffic

    @property
    def weights(self) -> dict[str, int]:
        route = self.server.get(ROUTE)
        main = next(rule for rule in route["spec"]["rules"] if rule["name"] == "weights")
        return {one["name"]: one["weight"] for one in main["backendRefs"] if one["weight"]}

    def write(self, **of_model: Any) -> None:
        content = self.site.deployment
        content["models"]["tiny"] |= of_model
        (self.site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def stage(kubernetes: ApiServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("rollout")
    site = make_site(folder / "site")
    write_tiny(site, "tiny", SETTINGS)
    site.run("archive", "build")
    with ExitStack() as running:
        connected = running.enter_context(network(len(VERSIONS)))
        if not isinstance(connected, Namespaces):
            pytest.fail("pods need network namespaces: run this as root, with ip and tc")
        prometheus = f"http://127.0.0.1:{free_ports(1)[0]}"
        (site.root / "deployment.yaml").write_text(yaml.safe_dump(_deployment(prometheus), sort_keys=False))
        site.run("render", "kubernetes", "--to", str(folder / "manifests"), "--check")
        _apply(kubernetes, folder / "manifests")
        addresses = {}
        for number, version in enumerate(VERSIONS):
            name = version_name("tiny", version)
            [archive] = (site.root / "archives" / "store").glob(f"tiny-{version}-*.mar")
            command = [
                *connected.inside(number), sys.executable, "-m", "tsctl.cli.main", "serve", str(archive),
                "--host", connected.address(number), "--port", str(PORT), "--workers", "1",
            ]  # fmt: skip
            addresses[name] = f"http://{connected.address(number)}:{PORT}"
            running.enter_context(_process(command, folder / f"pod-{version}.log", site))
        for number, version in enumerate(VERSIONS):
            name = version_name("tiny", version)
            until(partial(_answers, addresses[name]), 90, f"pod of {version} is ready")
            _make_pod(kubernetes, name, connected.address(number))
        running.enter_context(_prometheus(kubernetes, prometheus, folder / "prometheus"))
        token = kubernetes.token_of(SPACE, "operator")
        kubernetes.bind(SPACE, "operator", "tsctl-rollouts")
        (folder / "kubeconfig").write_text(kubernetes.kubeconfig(token, SPACE))
        site.environment["KUBECONFIG"] = str(folder / "kubeconfig")
        traffic = Traffic(kubernetes, addresses)
        threads = [threading.Thread(target=act) for act in (traffic.control, traffic.ask)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: traffic.answers.total() > 50, 30, "clients are answered")
            yield Stage(site, kubernetes, traffic)
        finally:
            traffic.stop.set()
            for thread in threads:
                thread.join()


def _deployment(prometheus: str) -> Json:
    return {
        "nodes": {"local": {"engine": "uvicorn", "address": "http://127.0.0.1:1"}},
        "kubernetes": {
            "traffic": "httproute", "namespace": SPACE, "image": "registry.example.com/node:1", "min_replicas": 1,
            "max_replicas": 1,
        },
        "models": {"tiny": {"default": "1.0", "versions": dict.fromkeys(VERSIONS)}},
        "rollout": {
            "prometheus": prometheus, "signals": ["errors", "refused", "slow"], "steps": [50, 100], "hold_s": 5,
            "min_requests": 50, "tick_s": 1, "settle_s": 1,
        },
    }  # fmt: skip


def _apply(server: ApiServerProcess, folder: Path) -> None:
    """Create what was rendered, in the order of kubectl: the namespace first."""
    for path in sorted(folder.rglob("*.yaml"), key=lambda path: path.name != "namespace.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest.get("kind", "Kustomization") != "Kustomization":
                server.create(as_in_1_20(manifest))
    server.ask("POST", f"/api/v1/namespaces/{SPACE}/serviceaccounts", {"metadata": {"name": "default"}})


def _make_pod(server: ApiServerProcess, name: str, address: str) -> None:
    """A ready pod of a Deployment, as its controller, the scheduler and a kubelet make one."""
    of = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": SPACE}}
    deployment = server.get(of)
    template = deployment["spec"]["template"]
    metadata = {**template["metadata"], "name": f"{name}-a", "namespace": SPACE}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    conditions = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
    server.create({**pod, "status": status})
    generation = deployment["metadata"]["generation"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    server.set_status(of, {"observedGeneration": generation, **counts})


@contextmanager
def _process(command: list[str], log: Path, site: Site) -> Iterator[None]:
    with log.open("wb") as output:
        environment = {**os.environ, "TSCTL_PROJECT": str(site.root)}
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=site.root, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return direct_session().get(f"{url}/ping", timeout=2).status_code == 200
    except requests.RequestException:
        return False


@contextmanager
def _prometheus(server: ApiServerProcess, address: str, folder: Path) -> Iterator[None]:
    """A Prometheus that scrapes the pods of the API server that ask for it by the rendered annotations.

    Debian's is built without the discovery of pods, so the test looks them up.
    """
    folder.mkdir()
    targets = []
    for pod in server.ask("GET", f"/api/v1/namespaces/{SPACE}/pods")["items"]:
        notes, metadata = pod["metadata"]["annotations"], pod["metadata"]
        assert (notes["prometheus.io/scrape"], notes["prometheus.io/path"]) == ("true", "/metrics")
        labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
        targets.append({"targets": [f"{pod['status']['podIP']}:{notes['prometheus.io/port']}"], "labels": labels})
    job = {"job_name": "pods", "static_configs": targets}
    content = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
    command = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address.removeprefix('http://')}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)

    def has_series() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            query = {"query": f'count(tsctl_worker_starts_total{{namespace="{SPACE}"}})'}
            answer = direct_session().get(f"{address}/api/v1/query", params=query, timeout=2).json()
            result = answer["data"]["result"]
            return bool(result) and result[0]["value"][1] == str(len(VERSIONS))
        except requests.RequestException:
            return False

    try:
        until(has_series, 60, "Prometheus has scraped the pods")
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_a_rollout_is_followed_and_aborted(stage: Stage) -> None:
    with stage.site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: "tiny--2-0" in stage.weights, 60, "the canary has weight")
        state = stage.site.run("rollout", "status", "tiny", "--json").json()
        assert "2.0" in str(state)
        refused = stage.site.run("weights", "set", "tiny", "1.0=100%", status=7)
        assert "rollout" in refused.err
        plan = stage.site.run("plan", status=0)
        assert "nothing to change" in plan.out, "deployment.yaml gives no weights, so they are the rollout's"
        stage.write(weights={"1.0": "100%"})
        barred = stage.site.run("plan", status=7)
        assert "has not ended, so nothing of tiny is changed" in barred.out
        stage.write(weights=None)
        stage.site.run("rollout", "abort", "tiny")
        out, err = process.communicate(timeout=60)
        assert process.returncode == ENDED, f"{out}\n{err}"
    assert stage.weights == {"tiny--1-0": 10_000}


def test_plan_and_apply_set_the_weights_of_the_file(stage: Stage) -> None:
    assert stage.site.run("plan").out.strip() == "nothing to change"
    stage.write(weights={"1.0": "75%", "2.0": "25%"})
    planned = stage.site.run("plan", status=12)
    assert "weights" in planned.out and "1.0 100% -> " in planned.out
    applied = stage.site.run("apply")
    assert "1 change made; now nothing to change" in applied.out
    assert stage.weights == {"tiny--1-0": 7500, "tiny--2-0": 2500}
    assert "nothing to change" in stage.site.run("apply").out
    stage.write(weights={"1.0": "100%"})
    stage.site.run("apply")
    assert stage.weights == {"tiny--1-0": 10_000}
    stage.write(weights=None, versions=dict.fromkeys((*VERSIONS, "4.0")))
    missing = stage.site.run("plan", status=5)
    assert "the cluster has no Deployment of tiny 4.0" in missing.out and "kubectl apply -k" in missing.err
    stage.write(versions=dict.fromkeys(VERSIONS))
    pruned = stage.site.run("apply", "--prune", status=2)
    assert "delete their objects with kubectl" in pruned.err


@pytest.mark.parametrize(("version", "status"), [("3.0", ENDED), ("2.0", 0)])
def test_a_rollout_ends_by_its_evidence(version: str, status: int, stage: Stage) -> None:
    with stage.site.start("rollout", "start", "tiny", version) as process:
        out, err = process.communicate(timeout=TIME_S)
    assert process.returncode == status, f"{out}\n{err}"
    name = version_name("tiny", version)
    assert stage.weights == {(name if status == 0 else "tiny--1-0"): 10_000}
    failed = {key: count for key, count in stage.traffic.answers.items() if key[1] != 200}
    assert set(failed) <= {("tiny--3-0", 500)}, failed
    assert "tiny" in stage.site.run("rollout", "explain", "tiny").out
