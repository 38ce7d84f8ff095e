"""Versions as applications of Ray Serve, and what is read of Ray's answers."""

from __future__ import annotations

import json
import zipfile
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from rich.console import Console

from tsctl.config.deployment import RayReplicas, VersionTarget, read_deployment
from tsctl.config.nodes import RaySpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_node, served_at_start
from tsctl.nodes.ray.applications import Application
from tsctl.nodes.ray.client import Instance, ServeClient
from tsctl.nodes.ray.engine import RayNode, read_applications
from tsctl.nodes.ray.package import package, package_name

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a cluster says of its proxies
PROXIES = {
    "a": {"node_ip": "10.0.0.2", "status": "HEALTHY"},
    "b": {"node_ip": "10.0.0.3", "status": "HEALTHY"},
    "c": {"node_ip": "10.0.0.4", "status": "UNHEALTHY"},
    "d": {"node_ip": "10.0.0.5", "status": "DRAINING"},
}
FAILED = (
    "The deployment failed to start 3 times in a row. Error:\nray::ServeReplica:tiny-1.0:worker.initialize() (pid=1)\n"
    "  File x\nhandlers.errors.LoadError: half.json: y is 1.0 and not 5.0"
)


def application(**changes: Any) -> Application:
    values: dict[str, Any] = {
        "model": "tiny", "version": "1.0", "archive": "tiny-1.0-0123456789ab.mar", "digest": "0" * 64,
        "package": "_ray_pkg_0.zip", "workers": 2, "startup_s": 90, "most_ongoing": 108, "drain_s": 60.0,
        "replicas": RayReplicas(),
    }  # fmt: skip
    return Application(**{**values, **changes})


def deployed(status: str = "RUNNING", states: tuple[str, ...] = ("RUNNING", "RUNNING"), **changes: Any) -> Any:
    replicas = [{"replica_id": f"r{at}", "state": state, "pid": 100 + at} for at, state in enumerate(states)]
    one = {"status": "HEALTHY", "message": changes.pop("message", ""), "target_num_replicas": 2, "replicas": replicas}
    return {
        "name": "tiny-1.0", "status": status, "message": "", "source": "declarative",
        "deployed_app_config": application(**changes).config(), "deployments": {"worker": one},
    }  # fmt: skip


class Cluster:
    """Answers as Serve's REST API, with what a test says; keeps what is declared."""

    def __init__(self) -> None:
        self.applications: dict[str, Any] = {}
        self.http_options: Any = None
        self.raw: bytes | None = None  # what it answers in place of all
        self.declared: list[Any] = []
        self.packages: dict[str, bytes] = {}
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/api/packages/gcs/"):
                    self._answer(200 if self.path.rpartition("/")[2] in cluster.packages else 404, {})
                else:
                    content = {"applications": cluster.applications, "proxies": PROXIES}
                    self._answer(200, {**content, "http_options": cluster.http_options, "controller_info": {}})

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path.startswith("/api/packages/gcs/"):
                    cluster.packages[self.path.rpartition("/")[2]] = body
                else:
                    cluster.declared.append(json.loads(body))
                self._answer(200, {})

            def _answer(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode() if cluster.raw is None else cluster.raw
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cluster() -> Any:
    one = Cluster()
    yield one
    one.close()


def node(tmp_path: Path, cluster: Cluster) -> RayNode:
    """A node of that cluster, which is somebody's: its key file holds the token."""
    (tmp_path / "token").write_text("secret\n")
    spec = RaySpec(engine="ray", address=cluster.url, proxy_port=8200, key_file="token")
    opened = open_node(Project(tmp_path), "ray", spec)
    assert isinstance(opened, RayNode)
    return opened


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_default": True, "python": "/opt/python", "workers": 1},
        {"replicas": RayReplicas(num_cpus=0.5, num_gpus=0.25, max_replicas=6, target_ongoing_requests=3.0)},
        {"replicas": RayReplicas(max_replicas_per_node=1)},
    ],
)
def test_a_version_is_read_back_from_the_config_that_declares_it(changes: dict[str, Any]) -> None:
    wanted = application(**changes)
    config = json.loads(json.dumps(wanted.config()))
    assert Application.of_config(config) == wanted
    assert config["route_prefix"] == "/predictions/tiny/1.0"
    assert config["runtime_env"]["working_dir"] == "gcs://_ray_pkg_0.zip"


def test_replicas_are_a_number_or_scaled_by_ray_between_two() -> None:
    [fixed] = application().config()["deployments"]
    assert (fixed["num_replicas"], "autoscaling_config" in fixed) == (2, False)
    [equal] = application(replicas=RayReplicas(max_replicas=2)).config()["deployments"]
    assert (equal["num_replicas"], "autoscaling_config" in equal) == (2, False)
    [spread] = application(replicas=RayReplicas(max_replicas_per_node=1)).config()["deployments"]
    assert (spread["max_replicas_per_node"], "max_replicas_per_node" in fixed) == (1, False)
    [scaled] = application(replicas=RayReplicas(max_replicas=5, num_gpus=1)).config()["deployments"]
    assert (scaled["num_replicas"], scaled["ray_actor_options"]) == ("auto", {"num_cpus": 1.0, "num_gpus": 1.0})
    assert scaled["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 8.0}


@pytest.mark.parametrize("config", [None, {}, {"args": None}, {"args": {"model": "x"}, "name": "theirs"}])
def test_applications_of_others_are_no_versions(config: Any) -> None:
    assert Application.of_config(config) is None


def test_requests_go_to_the_proxies_that_are_healthy() -> None:
    options = {"host": EVERYWHERE, "port": 8200}
    instance = Instance.model_validate({"proxies": PROXIES, "applications": {}, "http_options": options, "new": 1})
    assert instance.addresses == ("http://10.0.0.2:8200", "http://10.0.0.3:8200")
    own = instance.model_copy(update={"http_options": {"host": "127.0.0.1", "port": 8200}})
    assert own.addresses == ("http://127.0.0.1:8200",), "the one machine has another address in Ray's eyes"
    assert Instance.model_validate({"proxies": {}, "applications": {}}).addresses == ()


def test_what_ray_says_of_a_version_is_what_tsctl_says(tmp_path: Path, cluster: Cluster) -> None:
    ray, cluster.http_options = node(tmp_path, cluster), {"host": EVERYWHERE, "port": 8300}
    cluster.applications = {
        "tiny-1.0": deployed(states=("RUNNING", "STARTING")),
        "theirs": {**deployed(), "deployed_app_config": None},
    }
    [report] = ray.reports()
    assert (report.key, report.observed.workers, report.observed.ready) == (("tiny", "1.0"), 2, 1)
    assert (report.observed.pids, report.observed.ids) == ((100,), ("r0",))
    assert report.observed.addresses == ("http://10.0.0.2:8300", "http://10.0.0.3:8300"), "the port of the cluster"
    assert ray.url("tiny", "1.0") == "http://10.0.0.2:8300"
    cluster.applications = {"tiny-1.0": deployed("DEPLOY_FAILED", (), message=FAILED)}
    assert ray.load_failures() == {("tiny", "1.0"): "half.json: y is 1.0 and not 5.0"}
    assert ray.models() == {}
    cluster.applications = {"tiny-1.0": deployed("DEPLOY_FAILED", ("RUNNING",), message=FAILED)}
    assert ray.require_version("tiny", "1.0").failure == "half.json: y is 1.0 and not 5.0", "some of it serves"
    cluster.applications = {"tiny-1.0": deployed("DELETING")}
    assert ray.reports()[0].is_ending


def test_a_change_leaves_the_applications_of_others_and_the_running_proxies(tmp_path: Path, cluster: Cluster) -> None:
    ray, cluster.http_options = node(tmp_path, cluster), {"host": EVERYWHERE, "port": 9999, "root_path": ""}
    theirs = {"name": "theirs", "import_path": "theirs:app", "route_prefix": "/theirs"}
    cluster.applications = {
        "tiny-1.0": deployed(is_default=True),
        "tiny-2.0": {**deployed(version="2.0"), "name": "tiny-2.0"},
        "theirs": {**deployed(), "name": "theirs", "deployed_app_config": theirs},
        "by-hand": {**deployed(), "name": "by-hand", "source": "imperative", "deployed_app_config": theirs},
        "gone": {**deployed("DELETING", version="3.0"), "name": "gone"},
    }
    ray.ask_for_default("tiny", "2.0")
    [content] = cluster.declared
    assert content["http_options"] == {"host": EVERYWHERE, "port": 9999}
    assert content["applications"][0] == theirs
    ours = {one.version: one for config in content["applications"][1:] if (one := Application.of_config(config))}
    assert {version: one.is_default for version, one in ours.items()} == {"1.0": False, "2.0": True}
    assert {one.version for one in read_applications(ray.folder)} == {"1.0", "2.0"}
    assert sorted(served_at_start(Project(tmp_path))) == [("ray", "tiny-1.0-0123456789ab.mar")] * 2
    with pytest.raises(NodeError, match=r"tiny 1\.0 is the default of node ray while there are others"):
        ray.ask_to_unregister("tiny", "1.0")
    with pytest.raises(NodeError, match="cannot have 0 workers"):
        ray.ask_to_scale("tiny", "1.0", 0)
    assert len(cluster.declared) == 1
    ray.ask_to_unregister("tiny", "2.0")
    assert [one["name"] for one in cluster.declared[1]["applications"]] == ["theirs", "tiny-1.0"]


def test_a_cluster_that_serve_has_not_started_on_gets_the_spec_s_port(tmp_path: Path, cluster: Cluster) -> None:
    client = ServeClient(cluster.url, {"host": EVERYWHERE, "port": 8200}, tmp_path / "lock", None, 5.0)
    client.change(lambda apps: {**apps, "tiny-1.0": application().config()})
    [content] = cluster.declared
    assert (content["http_options"]["port"], content["proxy_location"]) == (8200, "EveryNode")


def test_a_file_that_is_damaged_is_named_with_what_to_do(tmp_path: Path, cluster: Cluster) -> None:
    ray = node(tmp_path, cluster)
    ray.folder.mkdir(parents=True)
    for content in ("[{", '{"a": 1}', '{"applications": [{"args": {"tsctl": 1}}]}'):
        (ray.folder / "applications.json").write_text(content)
        with pytest.raises(NodeError, match="is damaged"):
            read_applications(ray.folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"applications": 5}',
        b'{"applications": {"a": 5}}',
        b'{"http_options": {"port": "x"}}',
    ],
)
def test_an_address_where_something_else_answers_is_said(tmp_path: Path, cluster: Cluster, raw: bytes) -> None:
    client = ServeClient(cluster.url, {}, tmp_path / "lock", None, 5.0)
    assert client.instance().port is None
    cluster.raw = raw
    with pytest.raises(NodeError, match=r"answers in another form than Ray Serve") as caught:
        client.instance()
    assert "Is it the address of Ray's dashboard" in caught.value.hint


def test_a_token_that_is_no_text_is_an_error(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(NodeError, match="token cannot be read"):
        ServeClient(cluster.url, {}, tmp_path / "lock", tmp_path / "token", 5.0).instance()


def test_a_cluster_of_other_machines_is_not_started(tmp_path: Path) -> None:
    spec = RaySpec(engine="ray", address="http://10.0.0.2:8265")
    assert (spec.url, spec.listens_on) == ("http://10.0.0.2:8266", (8265, 8266))
    with pytest.raises(NodeError, match=r"a Ray cluster at http://10\.0\.0\.2:8265, which tsctl does not start"):
        open_node(Project(tmp_path), "ray", spec).start(Project(tmp_path), Progress(Console(quiet=True)))


def test_a_package_has_the_archive_and_the_code_that_serves_it(tmp_path: Path) -> None:
    archive = tmp_path / "tiny-1.0-0123456789ab.mar"
    archive.write_bytes(b"content")
    made = package(archive)
    assert made == package(archive), "the same at all times"
    with zipfile.ZipFile(BytesIO(made)) as content:
        names = set(content.namelist())
        assert content.read(f"archive/{archive.name}") == b"content"
    assert {"handlers/__init__.py", "handlers/adapters/ray/app.py", "handlers/adapters/asgi/child.py"} <= names
    one, other = (package_name(sha256(text).hexdigest()) for text in (b"a", b"b"))
    assert one != other
    assert one.startswith("_ray_pkg_") and one.endswith(".zip")


def test_a_version_says_in_deployment_yaml_what_its_replicas_get(tmp_path: Path) -> None:
    content = {
        "nodes": {"ray": {"engine": "ray", "address": "http://10.0.0.2:8265"}},
        "models": {
            "tiny": {"default": "1.0", "versions": {"1.0": {"workers": 2, "ray": {"num_cpus": 0.5, "max_replicas": 4}}}}
        },
    }
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(content))
    target = read_deployment(tmp_path / "deployment.yaml").models["tiny"].versions["1.0"]
    assert isinstance(target, VersionTarget)
    assert (target.workers, target.ray) == (2, RayReplicas(num_cpus=0.5, max_replicas=4))


def test_a_changed_block_of_ray_is_declared_and_waited_for(tmp_path: Path, cluster: Cluster) -> None:
    ray = node(tmp_path, cluster)
    target = VersionTarget(ray=RayReplicas(num_cpus=0.5, max_replicas=4))
    (tmp_path / "deployment.yaml").write_text(
        yaml.safe_dump(
            {
                "nodes": {"ray": {"engine": "ray", "address": cluster.url, "key_file": "token"}},
                "models": {
                    "tiny": {"default": "1.0", "versions": {"1.0": {"ray": {"num_cpus": 0.5, "max_replicas": 4}}}}
                },
            }
        )
    )
    other = {**deployed(version="2.0"), "name": "tiny-2.0"}
    cluster.applications = {"tiny-1.0": deployed(python="/old"), "tiny-2.0": other}
    wanted = ray.settings(target)
    assert ray.require_version("tiny", "1.0").settings != wanted
    states = iter(["DEPLOYING", "DEPLOYING", "RUNNING"])
    waited: list[str] = []

    def note(text: str) -> None:
        waited.append(text)
        declared = cluster.declared[-1]["applications"][0]
        cluster.applications["tiny-1.0"] = {**deployed(next(states)), "deployed_app_config": declared}

    ray.configure("tiny", "1.0", note)
    assert len(waited) == 3, "old replicas run all the time, and Ray says when none of them is left"
    [content] = cluster.declared
    changed, same = content["applications"]
    assert changed["deployments"][0]["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert "env_vars" not in changed["runtime_env"], "the node names no python"
    assert same == other["deployed_app_config"]
    assert ray.require_version("tiny", "1.0").settings == wanted


def test_settings_that_ray_cannot_have_are_put_back(tmp_path: Path, cluster: Cluster) -> None:
    ray, before = node(tmp_path, cluster), deployed(python="/old")
    cluster.applications = {"tiny-1.0": before}

    def note(text: str) -> None:
        cluster.applications = {"tiny-1.0": deployed("DEPLOY_FAILED", ("RUNNING",), message=FAILED)}

    with pytest.raises(NodeError, match=r"y is 1\.0 and not 5\.0; its former settings were declared again"):
        ray.configure("tiny", "1.0", note)
    assert [content["applications"] for content in cluster.declared][1] == [before["deployed_app_config"]]
    with pytest.raises(NodeError, match=r"tiny 3\.0 is not registered on node ray"):
        ray.configure("tiny", "3.0", note)
