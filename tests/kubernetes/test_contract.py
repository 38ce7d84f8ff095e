"""The recorded API server (`tests/support/api_server.py`) answers as a real one: the same cases run against both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.api_server import TOKEN, Cluster, merged, serving
from tests.support.kubernetes_server import ADMIN, ApiServerProcess, path_of
from tests.unit.test_kubernetes_backend import DIGITS
from tests.unit.test_kubernetes_render import contents, deployment, rendered
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.api import ApiServer, NotThere, Outdated, Refused
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.gateway.kubernetes.credentials import Credential, ServerAccess
from tsctl.host.http import direct_session

Json = dict[str, Any]
MERGE = "application/merge-patch+json"


@dataclass
class Server:
    """A server with the objects of digits in a namespace of its own; `edit` writes as somebody else."""

    address: str
    namespace: str
    token: str
    authority: Path | None
    edit: Callable[[str, str, Json], None]  # kind, name, merge patch
    set_status: Callable[[str, str, Json], None]
    forbidden: Callable[[], str]  # the token of an account without rights; on the recorded one, the rights are taken

    def send(self, method: str, path: str, content: Any = None, media: str = MERGE) -> requests.Response:
        headers = {"authorization": f"Bearer {self.token}", "content-type": media}
        verify = str(self.authority) if self.authority else True
        data = None if content is None else json.dumps(content)
        url = f"{self.address}{path}"
        return direct_session().request(method, url, data=data, headers=headers, verify=verify, timeout=30)

    def api(self, token: str | None = None) -> ApiServer:
        authority = self.authority.read_bytes() if self.authority else None
        access = ServerAccess(self.address, authority, lambda: Credential(token or self.token))
        return ApiServer(access, self.namespace, sleep=lambda seconds: None)

    @property
    def kubernetes(self) -> KubernetesSpec:
        return deployment({"traffic": "httproute", "namespace": self.namespace})[1]

    def routes(self, api: ApiServer | None = None) -> HttpRoutes:
        spec, kubernetes = deployment({"traffic": "httproute", "namespace": self.namespace}, models={"digits": DIGITS})
        return HttpRoutes(api or self.api(), kubernetes, spec, accepted_s=5)

    @property
    def route(self) -> str:
        return f"/apis/gateway.networking.k8s.io/v1/namespaces/{self.namespace}/httproutes/digits"

    def read(self) -> Json:
        value: Json = self.send("GET", self.route).json()
        return value


class Raced(ApiServer):
    """Somebody else writes right before each patch."""

    others: Callable[[], None]

    def patch(self, path: str, changes: Json, resource_version: str) -> Json:
        self.others()
        return super().patch(path, changes, resource_version)


def manifests(namespace: str) -> list[Json]:
    return contents(rendered({"traffic": "httproute", "namespace": namespace}, models={"digits": DIGITS}))


@pytest.fixture
def recorded() -> Iterator[Server]:
    cluster = Cluster(namespace="contract")
    cluster.put(*manifests("contract"))
    pod = {"kind": "Pod", "metadata": {"name": "digits--2-0-a"}, "status": {}}
    cluster.put(pod)

    def edit(kind: str, name: str, patch: Json) -> None:
        cluster.edit(kind, name, lambda one: one.update(merged(one, patch)))

    def forbid() -> str:
        cluster.forbidden |= {("PATCH", "httproutes"), ("GET", "httproutes"), ("POST", "pods")}
        return TOKEN

    with serving(cluster) as address:
        yield Server(address, "contract", TOKEN, None, edit, edit, forbid)


_count = iter(range(1000))


@pytest.fixture
def real(kubernetes: ApiServerProcess) -> Server:
    namespace = f"contract-{next(_count)}"
    kubernetes.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    of_kinds = [one for one in manifests(namespace) if one["kind"] in ("Service", "HTTPRoute", "Role")]
    for manifest in of_kinds:
        kubernetes.create(manifest)
    for version in ("1", "2"):
        kubernetes.create(_deployment(namespace, f"digits--{version}-0", f"{version}.0"))
    kubernetes.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
    kubernetes.create(pod_of(namespace, "digits--2-0-a"))
    kinds = {"HTTPRoute": "gateway.networking.k8s.io/v1", "Deployment": "apps/v1"}

    def where(kind: str, name: str) -> Json:
        return {"apiVersion": kinds[kind], "kind": kind, "metadata": {"name": name, "namespace": namespace}}

    def edit(kind: str, name: str, patch: Json) -> None:
        kubernetes.ask("PATCH", f"{path_of(where(kind, name))}/{name}", patch, media=MERGE)

    def set_status(kind: str, name: str, patch: Json) -> None:
        kubernetes.set_status(where(kind, name), patch["status"])

    def forbid() -> str:
        return kubernetes.token_of(namespace, "nobody")

    accepted = [
        {
            "controllerName": "example.com/gateway", "parentRef": {"name": "tsctl"},
            "conditions": [
                {"type": kind, "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1000,
                 "lastTransitionTime": "2026-01-01T00:00:00Z"} for kind in ("Accepted", "ResolvedRefs")
            ],
        }
    ]  # fmt: skip
    set_status("HTTPRoute", "digits", {"status": {"parents": accepted}})
    return Server(kubernetes.address, namespace, ADMIN, kubernetes.authority, edit, set_status, forbid)


def _deployment(namespace: str, name: str, version: str) -> Json:
    labels = {"app.kubernetes.io/managed-by": "tsctl", "app.kubernetes.io/name": "digits"}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels, "annotations": {"tsctl/version": version}
        },
        "spec": {
            "selector": {"matchLabels": {"of": name}},
            "template": {"metadata": {"labels": {"of": name}}, "spec": {"containers": [{"name": "w", "image": "x:1"}]}},
        },
    }  # fmt: skip


def pod_of(namespace: str, name: str) -> Json:
    containers = [{"name": "worker", "image": "example.com/node:1"}]
    spec = {"automountServiceAccountToken": False, "containers": containers}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture(params=["recorded", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_what_is_missing_is_404(server: Server) -> None:
    missing = server.send("GET", server.route.replace("digits", "none"))
    said = missing.json()
    assert (missing.status_code, said["kind"], said["reason"]) == (404, "Status", "NotFound")
    assert said["message"] == 'httproutes.gateway.networking.k8s.io "none" not found'
    unknown = server.send("GET", server.route.replace("httproutes", "nones"))
    assert (unknown.status_code, unknown.text) == (404, "404 page not found\n")
    with pytest.raises(NotThere, match="not found"):
        server.api().get(server.route.replace("digits", "none"))
    with pytest.raises(NotThere, match="404 page not found"):
        server.api().get(server.route.replace("httproutes", "nones"))


def test_a_patch_of_another_media_type_is_415(server: Server) -> None:
    refused = server.send("PATCH", server.route, {}, media="application/json")
    assert (refused.status_code, refused.json()["reason"]) == (415, "UnsupportedMediaType")


def test_what_counts_versions_and_generations(server: Server) -> None:
    def counts() -> tuple[str, int]:
        metadata = server.read()["metadata"]
        return metadata["resourceVersion"], metadata["generation"]

    params = "?fieldManager=tsctl&fieldValidation=Strict"
    version, generation = counts()
    assert server.send("PATCH", server.route + params, {"metadata": {"annotations": {}}}).ok
    assert counts() == (version, generation), "a write that changes nothing is none"
    assert server.send("PATCH", server.route + params, {"metadata": {"annotations": {"team": "a"}}}).ok
    after, same = counts()
    assert (after != version, same) == (True, generation)
    assert server.send("PATCH", server.route + params, {"metadata": {"annotations": {"team": None}}}).ok
    assert "team" not in server.read()["metadata"]["annotations"]
    assert server.send("PATCH", server.route + params, {"spec": {"hostnames": ["a.example.com"]}}).ok
    assert counts()[1] == generation + 1
    before = server.read().get("status")
    assert server.send("PATCH", server.route + params, {"status": {"parents": []}}).ok
    assert server.read().get("status", before) == before, "the status has a path of its own"


def test_of_two_writers_the_second_one_is_told(server: Server) -> None:
    api, read = server.api(), server.read()
    server.edit("HTTPRoute", "digits", {"metadata": {"annotations": {"team": "a"}}})
    with pytest.raises(
        Outdated, match=r'on httproutes\.gateway\.networking\.k8s\.io "digits": the object has been modif'
    ):
        api.patch(server.route, {"metadata": {"annotations": {"team": "b"}}}, read["metadata"]["resourceVersion"])
    now = server.read()
    assert now["metadata"]["annotations"]["team"] == "a"
    api.patch(server.route, {"metadata": {"annotations": {"team": "b"}}}, now["metadata"]["resourceVersion"])
    assert server.read()["metadata"]["annotations"]["team"] == "b"


def test_what_breaks_the_schema_is_422(server: Server) -> None:
    api, version = server.api(), server.read()["metadata"]["resourceVersion"]
    with pytest.raises(Refused, match=r'HTTPRoute\.gateway\.networking\.k8s\.io "digits" is invalid: .*hostnames'):
        api.patch(server.route, {"spec": {"hostnames": ["!"]}}, version)


def test_an_unknown_token_is_401(server: Server) -> None:
    with pytest.raises(Refused, match="does not accept our credentials"):
        server.api("another").get(server.route)


def test_an_account_without_rights_is_403(server: Server) -> None:
    api = server.api(server.forbidden())
    says = 'httproutes" in API group' if server.authority else "httproutes.gateway.networking.k8s.io is forbidden"
    with pytest.raises(Refused, match=f"forbids it: .*{says}"):
        api.get(server.route)
    with pytest.raises(Refused, match=r"forbids it: .*pods"):
        api.send(f"{api.path('v1', 'pods', 'digits--2-0-a')}:8080/proxy/ping", b"", {}, 10)


def test_a_list_keeps_to_what_it_began_with(server: Server) -> None:
    routes = server.route.rpartition("/")[0]
    path = f"/api/v1/namespaces/{server.namespace}/services?limit=1"
    first = server.send("GET", path).json()
    more = first["metadata"]["continue"]
    assert len(first["items"]) == 1
    server.edit("HTTPRoute", "digits", {"metadata": {"annotations": {"team": "a"}}})
    second = server.send("GET", f"{path}&continue={more}")
    assert (second.status_code, len(second.json()["items"])) == (200, 1)
    assert not second.json()["metadata"].get("continue")
    assert server.send("GET", f"{routes}?labelSelector=app.kubernetes.io/name%3Dnone").json()["items"] == []


def test_a_pod_that_nothing_listens_in_does_not_answer(server: Server) -> None:
    api = server.api()
    path = api.path("v1", "pods", "{}") + ":8080/proxy/predictions/digits"
    with pytest.raises(NotAnswering, match="reaches no pod"):
        api.send(path.replace("%7B%7D", "digits--2-0-a"), b"{}", {"content-type": "application/json"}, 10)


def test_weights_are_written_and_conflicts_decided(server: Server) -> None:
    routes = server.routes()
    with pytest.raises(GatewayError, match=r"no pod of digits 2\.0 is ready"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    server.set_status("Deployment", "digits--2-0", {"status": {"replicas": 1, "readyReplicas": 1}})
    assert routes.all_ready_pods("digits") == {"1.0": 0, "2.0": 1}
    assert routes.set_weights("digits", {"2.0": 500, "1.0": 9500}).weights == {"2.0": 500, "1.0": 9500}
    assert routes.traffic()["digits"].weights == {"2.0": 500, "1.0": 9500}
    assert routes.set_shadow("digits", "2.0", 1000).shadow is not None
    assert routes.set_shadow("digits", None, 0).shadow is None
    rules = json.loads(json.dumps(server.read()["spec"]["rules"]))
    main = next(rule for rule in rules if rule["name"] == "weights")
    main["backendRefs"] = [{**one, "weight": 5000} for one in main["backendRefs"]]
    raced = Raced(server.api().access, server.namespace)
    raced.others = lambda: server.edit("HTTPRoute", "digits", {"spec": {"rules": rules}})
    with pytest.raises(ConflictError, match=r"else changed the traffic of digits meanwhile: .*50%"):
        server.routes(raced).set_weights("digits", {"2.0": 1000, "1.0": 9000})
    assert server.routes().traffic()["digits"].weights == {"2.0": 5000, "1.0": 5000}
