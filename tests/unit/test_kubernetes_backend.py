"""Weights in an HTTPRoute through an API server: what is written, what is judged, and what every refusal means."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import TOKEN, Answer, Cluster, kubeconfig, serving
from tests.support.commands import Result, run_command
from tests.unit.test_kubernetes_render import contents, deployment, mirror, rendered, versions
from tsctl.config.deployment import RouteSpec
from tsctl.config.project import Project
from tsctl.errors import ConflictError, GatewayError, SpecError, TsctlError
from tsctl.gateway.backend import EnvoyFiles, open_backend
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.api import ApiServer, NotThere, Refused
from tsctl.gateway.kubernetes.backend import HttpRoutes, _trouble
from tsctl.gateway.kubernetes.credentials import Credential, ServerAccess, open_access
from tsctl.gateway.kubernetes.http_routes import http_route
from tsctl.gateway.traffic import Shadow, Traffic, only
from tsctl.rollout.run.interfaces import may_succeed_later

Json = dict[str, Any]
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/tsctl/httproutes/digits"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Cluster, str]]:
    """One server for the module; each test begins with an empty cluster."""
    cluster = Cluster()
    with serving(cluster) as address:
        yield cluster, address


@pytest.fixture
def cluster(server: tuple[Cluster, str]) -> Cluster:
    made, _ = server
    made.__dict__.update(Cluster().__dict__)
    made.put(*contents(rendered({"traffic": "httproute"}, models={"digits": {**DIGITS}})))
    for name in ("digits--1-0", "digits--2-0"):
        made.edit("Deployment", name, lambda one: one.update(status={"readyReplicas": 2}))
    made.asked.clear()
    return made


DIGITS: Json = {"default": "1.0", "versions": {"1.0": None, "2.0": None}}


def access(address: str, *tokens: str) -> ServerAccess:
    given = iter(tokens or (TOKEN,) * 9)
    return ServerAccess(address, None, lambda: Credential(next(given)))


@pytest.fixture
def routes(cluster: Cluster, server: tuple[Cluster, str]) -> HttpRoutes:
    spec, kubernetes = deployment({"traffic": "httproute"}, models={"digits": DIGITS})
    api = ApiServer(access(server[1]), "tsctl", sleep=lambda seconds: None)
    return HttpRoutes(api, kubernetes, spec, accepted_s=5)


def written(cluster: Cluster) -> list[Json]:
    return [body for method, _, body in cluster.asked if method == "PATCH"]


def weights(cluster: Cluster, name: str = "digits") -> dict[str, int]:
    rule = next(one for one in cluster.get("HTTPRoute", name)["spec"]["rules"] if one["name"] == "weights")
    return {one["name"]: one["weight"] for one in rule["backendRefs"]}


def test_weights_are_written_once_with_our_name_and_the_version_that_they_were_decided_on(
    cluster: Cluster, routes: HttpRoutes
) -> None:
    before = cluster.get("HTTPRoute", "digits")["metadata"]["resourceVersion"]
    traffic = routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert traffic == Traffic("digits", {"2.0": 500, "1.0": 9500}, "2.0") == routes.traffic()["digits"]
    assert weights(cluster) == {"digits--2-0": 500, "digits--1-0": 9500}
    (patch,) = written(cluster)
    assert patch["metadata"]["resourceVersion"] == before
    assert set(patch["spec"]) == {"rules"} and set(patch["metadata"]) == {"annotations", "resourceVersion"}
    target = next(path for method, path, _ in cluster.asked if method == "PATCH")
    assert target == f"{ROUTE}?fieldManager=tsctl&fieldValidation=Strict"


def test_weights_that_are_there_already_are_not_written_again(cluster: Cluster, routes: HttpRoutes) -> None:
    assert routes.set_weights("digits", {"1.0": 10_000}) == only("digits", "1.0")
    assert written(cluster) == []


def test_a_promotion_makes_the_canary_stable_and_its_rule_goes(cluster: Cluster, routes: HttpRoutes) -> None:
    routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert "canary" in [one["name"] for one in cluster.get("HTTPRoute", "digits")["spec"]["rules"]]
    routes.set_weights("digits", {"2.0": 10_000, "1.0": 0})
    route = cluster.get("HTTPRoute", "digits")
    assert "canary" not in [one["name"] for one in route["spec"]["rules"]]
    assert "tsctl/canary" not in route["metadata"]["annotations"]
    assert routes.traffic()["digits"].stable == "2.0"


def test_copies_go_to_a_shadow_and_end(cluster: Cluster, routes: HttpRoutes) -> None:
    assert routes.set_shadow("digits", "2.0", 1250).shadow == Shadow("2.0", 1250)
    rule = next(one for one in cluster.get("HTTPRoute", "digits")["spec"]["rules"] if one["name"] == "weights")
    (copies,) = [one["requestMirror"] for one in rule["filters"] if one["type"] == "RequestMirror"]
    assert copies["fraction"] == {"numerator": 1250, "denominator": 10_000}
    assert routes.set_shadow("digits", None, 0).shadow is None
    assert routes.traffic()["digits"] == only("digits", "1.0")


def test_a_status_that_somebody_wrote_meanwhile_is_no_conflict(cluster: Cluster, routes: HttpRoutes) -> None:
    """Controllers write all the time: the route is read again, its traffic is the same, and the change goes on."""
    left = [3]

    def others_write(of: Cluster) -> None:
        if left[0]:
            left[0] -= 1
            of.edit("HTTPRoute", "digits", lambda one: one["metadata"]["labels"].update(seen=str(left[0])))

    cluster.before_write = others_write
    routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert weights(cluster)["digits--2-0"] == 500
    assert len(written(cluster)) == 4
    assert cluster.get("HTTPRoute", "digits")["metadata"]["labels"]["seen"] == "0"


def test_weights_that_somebody_set_meanwhile_are_not_overwritten(cluster: Cluster, routes: HttpRoutes) -> None:
    def others_set(of: Cluster) -> None:
        of.before_write = None
        of.edit("HTTPRoute", "digits", lambda one: set_backends(one, {"digits--2-0": 3000, "digits--1-0": 7000}))

    cluster.before_write = others_set
    with pytest.raises(ConflictError, match=r"else changed the traffic of digits meanwhile: 1\.0 70%, 2\.0 30%"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert weights(cluster) == {"digits--2-0": 3000, "digits--1-0": 7000}


def set_backends(route: Json, services: dict[str, int]) -> None:
    rule = next(one for one in route["spec"]["rules"] if one["name"] == "weights")
    rule["backendRefs"] = [
        {"group": "", "kind": "Service", "name": name, "port": 8080, "weight": weight}
        for name, weight in services.items()
    ]


def test_a_route_that_others_always_write_is_given_up(cluster: Cluster, routes: HttpRoutes) -> None:
    count = [0]

    def others_write(of: Cluster) -> None:
        count[0] += 1
        of.edit("HTTPRoute", "digits", lambda one: one["metadata"]["labels"].update(seen=str(count[0])))

    cluster.before_write = others_write
    with pytest.raises(ConflictError, match="was changed by others 8 times in a row"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})


def test_a_write_whose_answer_is_lost_is_found_done(cluster: Cluster, routes: HttpRoutes) -> None:
    cluster.script("PATCH", Answer(503, is_after=True))
    assert routes.set_weights("digits", {"2.0": 500, "1.0": 9500}).weights == {"2.0": 500, "1.0": 9500}
    assert weights(cluster)["digits--2-0"] == 500
    assert len(written(cluster)) == 2  # the second one met a newer route, which had the wanted weights


def test_what_a_gateway_does_not_accept_is_put_back(cluster: Cluster, routes: HttpRoutes) -> None:
    def against(route: Json) -> str | None:
        of_weights = next(one for one in route["spec"]["rules"] if one["name"] == "weights")
        return None if len(of_weights["backendRefs"]) == 1 else "one backend is enough"

    cluster.controller = against
    with pytest.raises(GatewayError, match="what was in force is back: Gateway tsctl: Accepted is False") as caught:
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert "one backend is enough" in caught.value.message and not may_succeed_later(caught.value)
    assert weights(cluster) == {"digits--1-0": 10_000}


def test_a_controller_that_says_nothing_is_waited_for_and_no_longer(
    cluster: Cluster, server: tuple[Cluster, str]
) -> None:
    spec, kubernetes = deployment({"traffic": "httproute"}, models={"digits": DIGITS})
    seconds = [0.0]
    api = ApiServer(access(server[1]), "tsctl", sleep=lambda s: None)
    routes = HttpRoutes(
        api,
        kubernetes,
        spec,
        clock=lambda: seconds[0],
        sleep=lambda s: seconds.__setitem__(0, seconds[0] + s),
        accepted_s=2,
    )
    cluster.is_silent = True
    with pytest.raises(GatewayError, match="Gateway tsctl has not said Accepted of generation 2"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert weights(cluster) == {"digits--1-0": 10_000}
    assert 2 <= seconds[0] < 3


@pytest.fixture
def alone(tmp_path: Path, server: tuple[Cluster, str]) -> Callable[..., Result]:
    """Commands in a project whose versions run on the cluster alone."""
    (tmp_path / "archives").mkdir()
    (tmp_path / "config").write_text(kubeconfig(server[1]))
    content = {"models": {"digits": DIGITS}, "kubernetes": {"traffic": "httproute", "image": "r.example.com/n:1"}}
    (tmp_path / "deployment.yaml").write_text(json.dumps(content))
    environment = {"KUBECONFIG": str(tmp_path / "config")}
    return lambda *arguments: run_command(arguments, tmp_path, environment, 60)


def test_the_status_of_a_cluster_alone_has_its_versions_and_pods(
    cluster: Cluster, alone: Callable[..., Result]
) -> None:
    ended = alone("status", "--json")
    assert ended.status == 0, ended.err
    status = ended.json()
    assert (status["is_ready"], status["nodes"]) == (True, [])
    assert status["cluster"] == [
        {"model": "digits", "version": "1.0", "weight": 10_000, "is_shadow": False, "pods": 2},
        {"model": "digits", "version": "2.0", "weight": 0, "is_shadow": False, "pods": 2},
    ]
    cluster.edit("Deployment", "digits--1-0", lambda one: one.update(status={}))
    ended = alone("status")
    assert (ended.status, "no pod is ready of digits 1.0" in ended.err) == (4, True), ended.err
    assert "100%" in ended.out
    cluster.edit("Deployment", "digits--2-0", lambda one: one.update(status={}))
    assert "digits 2.0" not in alone("status").err, "a version without requests needs no pod"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["up"], "names no node, and this command acts on nodes"),
        (["up", "--foreground"], "names no node, and this command acts on nodes"),
        (["models", "list"], "names no node, and this command acts on nodes"),
        (["logs"], "names no node, and this command acts on nodes"),
        (["keys", "list"], "HTTPRoutes of a cluster carry the traffic"),
        (["gateway", "start"], "HTTPRoutes of a cluster carry the traffic"),
        (["rollout", "plan", "digits", "2.0"], "HTTPRoutes of a cluster carry the traffic"),
    ],
)
def test_what_does_nothing_for_a_cluster_says_so(
    cluster: Cluster, alone: Callable[..., Result], command: list[str], says: str
) -> None:
    ended = alone(*command)
    assert ended.status == 2, ended.err
    assert says in ended.err and "gateway: {}" not in ended.err


@pytest.mark.parametrize(
    ("asked", "said", "why", "is_refused"),
    [
        ([{"name": "a"}], {"a": (5, "True")}, "", False),
        ([{"name": "a"}, {"name": "b"}], {"a": (5, "True")}, "no controller of Gateway b has looked", False),
        ([{"name": "a"}, {"name": "b"}], {"a": (5, "True"), "b": (5, "False")}, "Gateway b: Accepted is False", True),
        ([{"name": "a"}], {"a": (5, "True"), "gone": (2, "True")}, "", False),
        ([{"name": "a"}], {"a": (4, "True")}, "Gateway a has not said Accepted of generation 5", False),
        ([{"name": "a", "sectionName": "x"}], {"a": (5, "True")}, "no controller of Gateway a has looked", False),
        ([{"name": "a", "namespace": "tsctl", "kind": "Gateway"}], {"a": (5, "True")}, "", False),
        ([], {}, "the route names no Gateway", True),
    ],
)
def test_every_gateway_that_the_route_names_must_have_accepted_it(
    asked: list[Json], said: dict[str, tuple[int, str]], why: str, is_refused: bool
) -> None:
    def conditions(generation: int, status: str) -> list[Json]:
        return [
            {"type": kind, "status": status, "observedGeneration": generation} for kind in ("Accepted", "ResolvedRefs")
        ]

    parents = [{"parentRef": {"name": name}, "conditions": conditions(*state)} for name, state in said.items()]
    route = {"metadata": {"namespace": "tsctl"}, "spec": {"parentRefs": asked}, "status": {"parents": parents}}
    found, refused = _trouble(route, 5)
    assert found.startswith(why) and bool(found) == bool(why)
    assert refused == is_refused


def test_a_route_that_no_gateway_looks_at_is_not_in_force(cluster: Cluster, server: tuple[Cluster, str]) -> None:
    spec, kubernetes = deployment({"traffic": "httproute"}, models={"digits": DIGITS})
    cluster.is_silent = True
    cluster.edit("HTTPRoute", "digits", lambda one: one.pop("status"))
    api = ApiServer(access(server[1]), "tsctl", sleep=lambda s: None)
    with pytest.raises(GatewayError, match="no controller of Gateway tsctl has looked at the route"):
        HttpRoutes(api, kubernetes, spec, accepted_s=0).set_weights("digits", {"2.0": 500, "1.0": 9500})


def test_what_others_wrote_into_the_route_stays(cluster: Cluster, routes: HttpRoutes) -> None:
    def edit(route: Json) -> None:
        route["metadata"]["annotations"]["team"] = "vision"
        route["spec"]["hostnames"] = ["a.example.com"]
        route["spec"]["rules"].append({"name": "docs", "backendRefs": [{"name": "docs", "port": 80}]})
        route["spec"]["rules"][0]["filters"].append(mirror("of-others", percent=5))

    cluster.edit("HTTPRoute", "digits", edit)
    routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    route = cluster.get("HTTPRoute", "digits")
    assert route["metadata"]["annotations"]["team"] == "vision" and route["spec"]["hostnames"] == ["a.example.com"]
    names = [one["name"] for one in route["spec"]["rules"]]
    assert names[-1] == "docs"
    main = next(one for one in route["spec"]["rules"] if one["name"] == "weights")
    assert "of-others" in json.dumps(main["filters"])


# ---- versions that may be named --------------------------------------------------------------------------------------


def test_the_versions_are_those_with_a_deployment(routes: HttpRoutes) -> None:
    assert routes.versions("digits") == {"1.0", "2.0"} and routes.is_live()


def test_a_version_without_a_ready_pod_gets_no_traffic(cluster: Cluster, routes: HttpRoutes) -> None:
    cluster.edit("Deployment", "digits--2-0", lambda one: one.update(status={}))
    with pytest.raises(GatewayError, match=r"no pod of digits 2\.0 is ready"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert written(cluster) == []


def test_the_way_back_asks_for_no_ready_pod(cluster: Cluster, routes: HttpRoutes) -> None:
    routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    for name in ("digits--1-0", "digits--2-0"):
        cluster.edit("Deployment", name, lambda one: one.update(status={}))
    assert routes.set_weights("digits", {"1.0": 10_000}).weights == {"2.0": 0, "1.0": 10_000}


@pytest.mark.parametrize("version", ["3.0", "2.0-none"])
def test_a_version_that_the_cluster_does_not_have_is_an_error(routes: HttpRoutes, version: str) -> None:
    with pytest.raises(GatewayError, match=f"the cluster has no Service of digits {version}"):
        routes.set_weights("digits", {version: 500, "1.0": 9500})


def test_a_model_without_a_route_is_an_error(routes: HttpRoutes) -> None:
    with pytest.raises(GatewayError, match="no route for model 'other'") as caught:
        routes.set_weights("other", {"1.0": 10_000})
    assert "tsctl render kubernetes" in caught.value.hint


def test_a_route_beyond_what_an_api_server_takes_is_refused_before_it_is_sent(
    cluster: Cluster, routes: HttpRoutes
) -> None:
    cluster.edit("HTTPRoute", "digits", lambda one: one["spec"]["rules"].extend(
        {"name": f"o{n}", "backendRefs": [{"name": "docs", "port": 80}]} for n in range(13)))  # fmt: skip
    with pytest.raises(GatewayError, match="13 of them not of tsctl"):
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert written(cluster) == []


# ---- what the server answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (Answer(403, 'httproutes is forbidden: User "ci"'), Refused, "forbids it: httproutes is forbidden"),
        (Answer(422, "spec.rules: Too many"), Refused, "refuses the object: spec.rules: Too many"),
        (Answer(418, "short"), GatewayError, "answers 418: short"),
    ],
)
def test_a_refusal_ends_the_change_and_says_why(
    cluster: Cluster, routes: HttpRoutes, answer: Answer, kind: type[TsctlError], says: str
) -> None:
    cluster.script("PATCH", answer)
    with pytest.raises(kind, match=says) as caught:
        routes.set_weights("digits", {"2.0": 500, "1.0": 9500})
    assert not may_succeed_later(caught.value)
    assert weights(cluster) == {"digits--1-0": 10_000}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(cluster: Cluster, server: tuple[Cluster, str], status: int) -> None:
    slept: list[float] = []
    api = ApiServer(access(server[1]), "tsctl", sleep=slept.append)
    cluster.script("GET", Answer(status, headers={"retry-after": "2"}), Answer(status))
    assert api.get(ROUTE)["metadata"]["name"] == "digits"
    assert slept == [2.0, 0.4]


def test_a_server_that_stays_busy_may_answer_later(cluster: Cluster, routes: HttpRoutes) -> None:
    cluster.script("GET", *[Answer(429, "too many requests")] * 4)
    with pytest.raises(NotAnswering, match="answers 429: too many requests") as caught:
        routes.traffic()
    assert may_succeed_later(caught.value)


def test_a_server_that_is_away_may_answer_later() -> None:
    api = ApiServer(access("http://127.0.0.1:1"), "tsctl", sleep=lambda seconds: None)
    spec, kubernetes = deployment({"traffic": "httproute"})
    assert not HttpRoutes(api, kubernetes, spec).is_live()
    with pytest.raises(NotAnswering, match="does not answer: ConnectionError"):
        api.get(ROUTE)


def test_a_token_that_has_ended_is_replaced_once(cluster: Cluster, server: tuple[Cluster, str]) -> None:
    api = ApiServer(access(server[1], "old", TOKEN), "tsctl")
    assert api.get(ROUTE)["kind"] == "HTTPRoute"
    assert [path for _, path, _ in cluster.asked] == [ROUTE, ROUTE]
    refused = ApiServer(access(server[1], "old", "older"), "tsctl")
    with pytest.raises(Refused, match="does not accept our credentials"):
        refused.get(ROUTE)


def test_an_object_that_is_gone_is_told_apart(routes: HttpRoutes) -> None:
    with pytest.raises(NotThere, match="has no tsctl/httproutes/none"):
        routes.api.get(ROUTE.replace("digits", "none"))


def test_a_list_comes_in_pages_and_begins_anew_where_it_grew_too_old(cluster: Cluster, routes: HttpRoutes) -> None:
    _, kubernetes = deployment()
    cluster.put(*(http_route(kubernetes, only(f"m{n}", "1"), RouteSpec()) for n in range(4)))
    cluster.page = 2
    assert len(routes.traffic()) == 5
    cluster.asked.clear()
    cluster.script("GET", *[Answer(410, "too old")] * 4)
    with pytest.raises(ConflictError, match="too old"):
        routes.traffic()
    cluster.between_pages = lambda of: of.compact()
    cluster.asked.clear()
    assert len(routes.traffic()) == 5
    assert [("continue=" in path) for _, path, _ in cluster.asked] == [False, True, False, True, True]


# ---- where the server is, and who asks -------------------------------------------------------------------------------


def configured(tmp_path: Path, edit: Any = None, name: str = "config") -> dict[str, str]:
    content = json.loads(kubeconfig("https://10.0.0.1:6443"))
    if edit is not None:
        edit(content)
    (tmp_path / name).write_text(json.dumps(content), "utf-8")
    return {"KUBECONFIG": str(tmp_path / name)}


def test_the_current_context_of_a_kubeconfig_is_taken(tmp_path: Path) -> None:
    found = open_access(None, configured(tmp_path))
    assert (found.address, found.credential().token) == ("https://10.0.0.1:6443", TOKEN)
    assert TOKEN not in repr(found.credential())


def test_several_kubeconfigs_are_one(tmp_path: Path) -> None:
    first = configured(tmp_path, lambda c: (c.pop("users"), c.pop("clusters")), "first")
    second = configured(tmp_path, lambda c: c.update({"current-context": "other"}), "second")
    found = open_access(None, {"KUBECONFIG": f"{first['KUBECONFIG']}:{tmp_path / 'none'}:{second['KUBECONFIG']}"})
    assert found.address == "https://10.0.0.1:6443"


def test_a_token_in_a_file_and_certificates_are_read_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n", "utf-8")
    (tmp_path / "ca.pem").write_text("CA", "utf-8")
    data = base64.b64encode(b"PEM").decode()

    def edit(content: Json) -> None:
        content["users"][0]["user"] = {
            "tokenFile": "token", "client-certificate-data": data, "client-key-data": data,
        }  # fmt: skip
        content["clusters"][0]["cluster"]["certificate-authority"] = "ca.pem"

    found = open_access("test", configured(tmp_path, edit))
    credential = found.credential()
    assert (credential.token, credential.certificate, found.authority) == ("from-a-file", (b"PEM", b"PEM"), b"CA")
    assert credential.until is not None


def test_a_program_gives_credentials_and_is_asked_again_when_they_end(tmp_path: Path) -> None:
    program = tmp_path / "login.py"
    program.write_text(
        "import json, os, sys\n"
        "asked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "count = os.path.getsize(sys.argv[1]) if os.path.exists(sys.argv[1]) else 0\n"
        "open(sys.argv[1], 'a').write('x')\n"
        "print(json.dumps({'apiVersion': asked['apiVersion'], 'kind': 'ExecCredential', 'status': {"
        "'token': f'{os.environ[\"WHO\"]}-{count}', 'expirationTimestamp': '2001-01-01T00:00:00Z'}}))\n",
        "utf-8",
    )
    spec = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(program), str(tmp_path / "count")],
        "env": [{"name": "WHO", "value": "me"}],
    }
    found = open_access(None, configured(tmp_path, lambda c: c["users"][0].update(user={"exec": spec})))
    assert [found.credential().token, found.credential().token] == ["me-0", "me-1"]


def test_inside_a_cluster_the_pods_own_account_is_taken(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token", "utf-8")
    (tmp_path / "ca.crt").write_text("CA", "utf-8")
    pod = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    found = open_access(None, pod, in_pod=tmp_path)
    assert (found.address, found.credential().token, found.authority) == ("https://[fd00::1]:443", "pod-token", b"CA")


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: c.pop("current-context"), "has no current-context"),
        (lambda c: c.update({"current-context": "gone"}), "no context 'gone'; it has test"),
        (lambda c: c.pop("clusters"), "no cluster 'c'; it has none"),
        (lambda c: c["clusters"][0]["cluster"].update(server="10.0.0.1"), "must be an address"),
        (lambda c: c["clusters"][0]["cluster"].update(server="https://["), "must be an address"),
        (lambda c: c["clusters"][0]["cluster"].update(server="http://10.0.0.1"), "has no TLS"),
        (lambda c: c["clusters"][0]["cluster"].update({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify"),
        (
            lambda c: c["clusters"][0]["cluster"].update({"certificate-authority-data": "!"}),
            "certificate-authority-data is not base64",
        ),
        (lambda c: c["clusters"][0]["cluster"].update({"certificate-authority": "no.pem"}), "cannot be read"),
        (lambda c: c["users"][0].update(user={"client-key-data": "QQ=="}), "needs both or none"),
        (lambda c: c["users"][0].update(user={"username": "a", "password": "b"}), "are gone from Kubernetes"),
        (lambda c: c["users"][0].update(user={"exec": EXEC}), "gave no credentials"),
        (lambda c: c["users"][0].update(user={"exec": {**EXEC, "command": "echo"}}), "printed no ExecCredential"),
        (lambda c: c["users"][0].update(user={"exec": {**EXEC, "apiVersion": "v0"}}), "tsctl knows"),
        (lambda c: c["users"][0].update(user={"exec": 5}), "exec of a user: "),
        (lambda c: c["users"][0].update(user={"exec": {**EXEC, "args": 5}}), "exec of a user: args: "),
        (lambda c: c["users"][0].update(user={"exec": {**EXEC, "env": [{}]}}), r"exec of a user: env\.0\.name: "),
        (lambda c: c.update(contexts=5), "no context 'test'; it has none"),
        (lambda c: c["users"][0].update(user={"tokenFile": "no"}), "the token cannot be read"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, edit: Any, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        open_access(None, configured(tmp_path, edit)).credential()


def test_without_any_way_to_a_cluster_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no kubeconfig") as caught:
        open_access(None, {"HOME": str(tmp_path)}, in_pod=tmp_path)
    assert "KUBECONFIG" in caught.value.hint


# ---- the seam --------------------------------------------------------------------------------------------------------


def test_the_file_says_who_carries_the_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in configured(tmp_path).items():
        monkeypatch.setenv(name, value)
    project = Project(tmp_path)
    assert isinstance(open_backend(project, deployment({"traffic": "httproute"})[0]), HttpRoutes)
    assert isinstance(open_backend(project, deployment({}, gateway={})[0]), EnvoyFiles)
    with pytest.raises(SpecError, match="has no gateway"):
        open_backend(project, deployment({})[0])


def test_every_version_of_the_rendered_models_is_known(routes: HttpRoutes) -> None:
    spec, _ = deployment({"traffic": "httproute"}, models={"digits": DIGITS})
    assert routes.versions("digits") == {one.version for one in versions(spec)}
