"""The rendered Role has the rights that `tsctl weights`, `plan` and rollouts need, and no other."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.kubernetes.test_contract import pod_of
from tests.support.kubernetes_server import ApiServerProcess
from tests.unit.test_kubernetes_backend import DIGITS
from tests.unit.test_kubernetes_render import contents, deployment, rendered
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.api import ApiServer, Refused
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.gateway.kubernetes.credentials import Credential, ServerAccess
from tsctl.gateway.kubernetes.names import VERSION_LABEL, labels

Json = dict[str, Any]
SPACE = "rights"


def role() -> Json:
    made = contents(rendered({"traffic": "httproute", "namespace": SPACE}, models={"digits": DIGITS}))
    return next(one for one in made if one["kind"] == "Role")


RIGHTS = [
    (group, resource, verb)
    for rule in role()["rules"]
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


@pytest.fixture(scope="module")
def server(kubernetes: ApiServerProcess) -> ApiServerProcess:
    """The objects of digits, of whose second version only the Service is there and not yet in the route."""
    kubernetes.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    for manifest in contents(rendered({"traffic": "httproute", "namespace": SPACE}, models={"digits": DIGITS})):
        if manifest["kind"] in ("Service", "HTTPRoute"):
            kubernetes.create(manifest)
    kubernetes.ask("POST", f"/api/v1/namespaces/{SPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    pod = pod_of(SPACE, "digits--2-0-a")
    pod["metadata"]["labels"] = labels("digits", "2.0")
    kubernetes.create(pod)
    return kubernetes


def account(server: ApiServerProcess, name: str, without: tuple[str, str, str] | None = None) -> ApiServer:
    """The API server as a service account asks it that has the Role, less one right."""
    made = copy.deepcopy(role())
    made["metadata"]["name"] = name
    made["rules"] = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for group, resource, verb in RIGHTS
        if (group, resource, verb) != without
    ]
    server.create(made)
    token = server.token_of(SPACE, name)
    server.bind(SPACE, name, name)
    access = ServerAccess(server.address, server.authority.read_bytes(), lambda: Credential(token))
    return ApiServer(access, SPACE, sleep=lambda seconds: None)


def use(api: ApiServer) -> None:
    """Everything that tsctl asks for: reads, a patch that changes nothing, and a question to a pod."""
    spec, kubernetes = deployment({"traffic": "httproute", "namespace": SPACE}, models={"digits": DIGITS})
    routes = HttpRoutes(api, kubernetes, spec, accepted_s=0)
    assert list(routes.traffic()) == ["digits"]
    assert routes.all_ready_pods("digits") == {}
    try:
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    except Refused:
        raise
    except GatewayError as error:
        assert "no Deployment" in error.message
    route = api.get(api.path("gateway.networking.k8s.io/v1", "httproutes", "digits"))
    api.patch(
        api.path("gateway.networking.k8s.io/v1", "httproutes", "digits"), {}, route["metadata"]["resourceVersion"]
    )
    [pod] = api.items(api.path("v1", "pods"), labels("digits", "2.0"))
    assert pod["metadata"]["labels"][VERSION_LABEL] == "digits--2-0"
    with pytest.raises(NotAnswering, match="reaches no pod"):  # the server was willing to ask it
        api.send(f"{api.path('v1', 'pods', pod['metadata']['name'])}:8080/proxy/ping", b"", {}, 10)


def test_the_role_is_enough(server: ApiServerProcess) -> None:
    use(account(server, "whole"))


@pytest.mark.parametrize("right", RIGHTS, ids=[f"{verb} {resource}" for _, resource, verb in RIGHTS])
def test_each_right_of_the_role_is_needed(right: tuple[str, str, str], server: ApiServerProcess) -> None:
    _, resource, verb = right
    api = account(server, f"less-{resource.replace('/', '-')}-{verb}", right)
    with pytest.raises(Refused, match=f'cannot {verb} resource \\\\?"{resource}'):
        use(api)


def test_it_has_none_beyond_its_namespace_and_cannot_delete(server: ApiServerProcess) -> None:
    api = account(server, "beyond")
    for path in ("/api/v1/namespaces/default/pods", f"/api/v1/namespaces/{SPACE}/secrets", "/api/v1/nodes"):
        with pytest.raises(Refused, match="forbids it"):
            api.get(path)
