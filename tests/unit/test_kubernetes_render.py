"""Manifests for a cluster: every rendered one passes strict validation, and wrong ones are caught."""

from __future__ import annotations

import copy
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from handlers.adapters.asgi import options
from tsctl.config.deployment import DeploymentSpec, RouteSpec
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy.render.upstreams import EMBEDDINGS, TEXT, Offer
from tsctl.gateway.kubernetes.http_routes import duration, http_route, traffic_of, with_traffic
from tsctl.gateway.kubernetes.names import LONGEST, model_name, version_name
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.render.kubernetes.check import compiled, definition_of, mistakes, mistakes_of
from tsctl.render.kubernetes.differences import differences, require_renderable
from tsctl.render.kubernetes.manifests import Manifest, kustomizations, manifests, offers_of, traffic_of_spec
from tsctl.render.kubernetes.pods import DRAIN_S
from tsctl.render.kubernetes.versions import ServedVersion
from tsctl.render.kubernetes.write import documents, write

Json = dict[str, Any]
DIGEST = "0123456789abcdef" * 4
IMAGE = "registry.example.com:5000/team/tsctl-node-uvicorn:3f2a9c"
NODES = {"local": {"engine": "uvicorn", "address": "http://127.0.0.1:8080"}}
#: Models with all that can be asked of a route, and names that a cluster does not take as they are.
MODELS = {
    "digits": {
        "default": "1.0",
        "versions": {"1.0": None, "2.0": {"workers": 3}},
        "weights": {"1.0": "94.75%", "2.0": "5.25%"},
        "route": {"deadline_s": 0.25, "cors": {"origins": ["https://app.example.com"]}},
    },
    "Breast_Cancer.v2": {"default": "1_A", "versions": {"1_A": None}, "secrets": {"KEY": {"env": "KEY"}}},
    "chat": {"default": "1", "versions": {"1": None}, "route": {"pinned": False}},
}
#: Options of `kubernetes`, each with the others left as they are.
OPTIONS: dict[str, Json] = {
    "defaults": {},
    "gateway": {"gateway_class": "envoy-gateway", "hostnames": ["models.example.com", "*.models.example.com"]},
    "tls": {"gateway_class": "envoy-gateway", "tls_secret": "models-tls"},
    "elsewhere": {"gateway": "shared.public", "gateway_namespace": "infra"},
    "gpus": {"models": {"chat": {"gpus": 1, "memory": "24Gi", "cpu": "500m", "min_replicas": 1, "max_replicas": 1}}},
    "grpc": {"grpc": True, "allow_from": ["envoy-gateway-system", "monitoring"]},
    "torchserve": {"engine": "torchserve"},
    "httproute": {"traffic": "httproute", "track_header": True},
}


def deployment(kubernetes: Json | None = None, **more: Any) -> tuple[DeploymentSpec, KubernetesSpec]:
    content = {"nodes": NODES, "models": MODELS, "kubernetes": {"image": IMAGE, **(kubernetes or {})}, **more}
    spec = DeploymentSpec.model_validate(content)
    assert spec.kubernetes is not None
    return spec, spec.kubernetes


def versions(spec: DeploymentSpec) -> list[ServedVersion]:
    made = []
    for model, target in spec.models.items():
        offer = Offer(TEXT, 30, 120) if model == "chat" else None
        for version in target.versions:
            made.append(
                ServedVersion(
                    model,
                    version,
                    DIGEST,
                    f"{model}-{version}-0123.mar",
                    target.workers(version) or 1,
                    4,
                    60,
                    tuple(target.secrets),
                    offer,
                    records=True,
                )
            )
    return made


def rendered(kubernetes: Json | None = None, with_kserve: bool = False, **more: Any) -> list[Manifest]:
    spec, of_cluster = deployment(kubernetes, **more)
    return manifests(spec, of_cluster, versions(spec), with_kserve=with_kserve)


def contents(made: list[Manifest]) -> list[Json]:
    return [manifest.content for manifest in made]


def route_with(edit: Callable[[Json], None]) -> Json:
    """The HTTPRoute of digits, changed."""
    made = copy.deepcopy(next(m for m in contents(rendered()) if m["kind"] == "HTTPRoute"))
    edit(made)
    return made


@pytest.mark.parametrize("name", OPTIONS)
def test_every_manifest_passes_strict_validation(name: str) -> None:
    made = contents(rendered(OPTIONS[name]))
    assert {"Deployment", "Service", "PodDisruptionBudget", "HTTPRoute"} <= {one["kind"] for one in made}
    assert mistakes(made) == []


def test_kserve_gets_its_own_objects_which_pass_as_well() -> None:
    made = contents(rendered(with_kserve=True))
    kinds = {one["kind"] for one in made}
    assert "InferenceService" in kinds and not kinds & {"Deployment", "Service", "HorizontalPodAutoscaler"}
    route = next(one for one in made if one["kind"] == "HTTPRoute")
    assert {ref["port"] for rule in route["spec"]["rules"] for ref in rule["backendRefs"]} == {80}
    assert mistakes(made) == []
    services = [one for one in made if one["kind"] == "InferenceService"]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in made if one["kind"] == "PodDisruptionBudget"]
    assert budgets == [one["spec"]["predictor"]["labels"] for one in services]


def test_kserve_gets_grpc_routes_to_its_own_services_and_what_it_lacks_is_said() -> None:
    made = contents(rendered({"grpc": True}, with_kserve=True))
    assert mistakes(made) == []
    routes = [one for one in made if one["kind"] == "GRPCRoute"]
    assert {one["metadata"]["name"] for one in routes} == {
        one["metadata"]["name"] for one in made if one["kind"] == "HTTPRoute"
    }
    backends = [ref for route in routes for rule in route["spec"]["rules"] for ref in rule["backendRefs"]]
    assert {ref["port"] for ref in backends} == {9000}
    assert {ref["name"] for ref in backends} == {
        f"{one['metadata']['name']}-predictor" for one in made if one["kind"] == "InferenceService"
    }
    spec, kubernetes = deployment({"grpc": True})
    notes = differences(spec, kubernetes, [], {}, with_kserve=True)
    assert [one for one in notes if one.startswith("KServe: it adds pods by processor time")]
    assert [one for one in notes if "appProtocol" in one]
    assert not [one for one in differences(spec, kubernetes, [], {}) if "KServe" in one]


def test_a_model_with_the_name_of_a_file_keeps_its_route() -> None:
    models = {"kustomization": {"default": "1.0", "versions": {"1.0": None}}, "role": MODELS["digits"]}
    made = rendered(models=models)
    files = documents(made)
    for manifest in made:
        found = [one for one in yaml.safe_load_all(files[manifest.file]) if one == manifest.content]
        assert len(found) == 1, manifest.file
    listed = yaml.safe_load(files["routes/kustomization.yaml"])["resources"]
    assert sorted(listed) == sorted(
        {one.file.removeprefix("routes/") for one in made if one.file.startswith("routes/")}
    )


@pytest.mark.parametrize(
    ("kubernetes", "reason"),
    [
        ({"engine": "torchserve", "grpc": True}, "TorchServe has a gRPC API of its own"),
        ({"cpu": "0.5m"}, "whole thousandths of a core"),
        ({"cpu": "1.5m"}, "whole thousandths of a core"),
    ],
)
def test_what_no_cluster_could_run_is_refused(kubernetes: Json, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        deployment(kubernetes)
    deployment({"cpu": "0.5"})


def _rules(route: Json) -> list[Json]:
    rules: list[Json] = route["spec"]["rules"]
    return rules


def _weights(route: Json) -> Json:
    return next(rule for rule in _rules(route) if rule["name"] == "weights")


WRONG: dict[str, tuple[Callable[[Json], Any], str]] = {
    "negative weight": (lambda r: _weights(r)["backendRefs"][0].update(weight=-1), "-1 is less than the minimum of 0"),
    "weight too large": (lambda r: _weights(r)["backendRefs"][0].update(weight=1_000_001), "greater than the maximum"),
    "weight as text": (lambda r: _weights(r)["backendRefs"][0].update(weight="5%"), "is not of type 'integer'"),
    "all weights 0": (
        lambda r: [one.update(weight=0) for one in _weights(r)["backendRefs"]],
        "gives no Service a weight",
    ),
    "unknown field": (lambda r: _weights(r).update(retries=3), "'retries' was unexpected"),
    "unknown field of the spec": (lambda r: r["spec"].update(sticky=True), "'sticky' was unexpected"),
    "path without slash": (
        lambda r: _weights(r)["matches"][0]["path"].update(value="predictions/digits"),
        "must be an absolute path",
    ),
    "path with two slashes": (
        lambda r: _weights(r)["matches"][0]["path"].update(value="/predictions//digits"),
        "must not contain '//'",
    ),
    "unknown kind of path": (lambda r: _weights(r)["matches"][0]["path"].update(type="Glob"), "is not one of"),
    "unknown method": (lambda r: _weights(r)["matches"][0].update(method="FETCH"), "'FETCH' is not one of"),
    "header of two words": (
        lambda r: _weights(r)["matches"][0].update(headers=[{"name": "x track", "value": "a"}]),
        "does not match",
    ),
    "one header twice": (
        lambda r: _weights(r)["matches"][0].update(headers=[{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]),
        "holds ['a'] 2 times",
    ),
    "duplicate matches": (
        lambda r: _rules(r)[-1].update(matches=copy.deepcopy(_weights(r)["matches"])),
        "matches what rule weights matches",
    ),
    "too many backends": (
        lambda r: _weights(r).update(backendRefs=[{"name": f"s{n}", "port": 80} for n in range(17)]),
        "is too long",
    ),
    "too many rules": (lambda r: r["spec"].update(rules=_rules(r)[:1] * 17), "is too long"),
    "one Service twice": (
        lambda r: _weights(r)["backendRefs"].append(copy.deepcopy(_weights(r)["backendRefs"][0])),
        "is in it 2 times",
    ),
    "Service without port": (lambda r: _weights(r)["backendRefs"][0].pop("port"), "Must have port for Service"),
    "copies of more than all": (
        lambda r: _weights(r)["filters"].extend(mirror("digits--1-0", percent=60) for _ in range(2)),
        "copies 120% of its requests",
    ),
    "mirror of 101 percent": (
        lambda r: _weights(r)["filters"].append(mirror("digits--1-0", percent=101)),
        "greater than the maximum of 100",
    ),
    "mirror by percent and by fraction": (
        lambda r: _weights(r)["filters"].append(mirror("digits--1-0", percent=1, fraction={"numerator": 1})),
        "Only one of percent or fraction",
    ),
    "fraction above one": (
        lambda r: _weights(r)["filters"].append(mirror("a", fraction={"numerator": 2, "denominator": 1})),
        "numerator must be less than or equal to denominator",
    ),
    "filter of another type": (lambda r: _weights(r)["filters"][0].update(type="RequestMirror"), "must be"),
    "headers modified twice": (
        lambda r: _weights(r)["filters"].append(copy.deepcopy(_weights(r)["filters"][0])),
        "RequestHeaderModifier filter cannot be repeated",
    ),
    "timeout with a word": (lambda r: _weights(r)["timeouts"].update(request="fast"), "does not match"),
    "timeout in part seconds": (lambda r: _weights(r)["timeouts"].update(request="0.25s"), "does not match"),
    "backend slower than the whole": (
        lambda r: _weights(r)["timeouts"].update(backendRequest="31s"),
        "backendRequest timeout cannot be longer",
    ),
    "name with an underscore": (lambda r: r["metadata"].update(name="my_route"), "is no name of DNS"),
    "name in capitals": (lambda r: r["metadata"].update(name="Digits"), "is no name of DNS"),
    "namespace with a dot": (lambda r: r["metadata"].update(namespace="a.b"), "is no name of DNS"),
    "label with a space": (lambda r: r["metadata"].update(labels={"a": "b c"}), "is no label"),
    "hostname with a scheme": (lambda r: r["spec"].update(hostnames=["https://a.example.com"]), "does not match"),
    "Gateway without a name": (lambda r: r["spec"].update(parentRefs=[{"namespace": "a"}]), "'name' is a required"),
    "one Gateway twice": (
        lambda r: r["spec"].update(parentRefs=[{"name": "a"}, {"name": "a"}]),
        "sectionName must be",
    ),
    "older version of the API": (lambda r: r.update(apiVersion="gateway.networking.k8s.io/v1beta1"), "expected"),
}


def mirror(service: str, **part: Any) -> Json:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": service, "port": 8080}, **part}}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_route_is_caught(name: str) -> None:
    edit, expected = WRONG[name]
    found = mistakes_of(route_with(edit))
    assert any(expected in one for one in found), found


WRONG_OBJECTS: dict[str, tuple[str, Callable[[Json], Any], str]] = {
    "unknown field of a container": (
        "Deployment",
        lambda m: m["spec"]["template"]["spec"]["containers"][0].update(gpu=1),
        "'gpu' was unexpected",
    ),
    "replicas as text": ("Deployment", lambda m: m["spec"].update(replicas="2"), "is not of type"),
    "unknown field of a Service": ("Service", lambda m: m["spec"].update(weight=5), "'weight' was unexpected"),
    "Service that begins with a digit": ("Service", lambda m: m["metadata"].update(name="1-0"), "is no name of DNS"),
    "budget of an old kind": ("PodDisruptionBudget", lambda m: m.update(apiVersion="policy/v1alpha7"), "is no kind"),
    "autoscaler without an end": ("HorizontalPodAutoscaler", lambda m: m["spec"].pop("maxReplicas"), "is a required"),
    "autoscaler of an unknown metric": (
        "HorizontalPodAutoscaler",
        lambda m: m["spec"]["metrics"][0].update(kind="Pods"),
        "'kind' was unexpected",
    ),
    "a kind that there is not": ("Service", lambda m: m.update(kind="Servise"), "is no kind of Kubernetes"),
}


@pytest.mark.parametrize("name", WRONG_OBJECTS)
def test_a_wrong_object_of_kubernetes_is_caught(name: str) -> None:
    kind, edit, expected = WRONG_OBJECTS[name]
    made = copy.deepcopy(next(one for one in contents(rendered()) if one["kind"] == kind))
    edit(made)
    assert any(expected in one for one in mistakes_of(made)), mistakes_of(made)


def test_references_to_objects_that_are_not_there_are_caught() -> None:
    made = contents(rendered())
    without = [one for one in made if (one["kind"], one["metadata"]["name"]) != ("Service", "digits--2-0")]
    assert "HTTPRoute digits: names Service digits--2-0, which is not rendered" in mistakes(without)
    no_pods = [one for one in made if one["kind"] != "Deployment"]
    assert "Service digits--1-0: selects no pod that is rendered" in mistakes(no_pods)
    assert "Service digits--1-0: is there 2 times" in mistakes([*made, next(o for o in made if o["kind"] == "Service")])


def test_every_rule_in_cel_can_be_evaluated() -> None:
    """A rule that cannot be compiled raises; one that cannot be evaluated makes every object wrong that it meets."""
    rules: list[str] = []

    def walk(schema: Json) -> None:
        rules.extend(one["rule"] for one in schema.get("x-kubernetes-validations", ()))
        for part in (*schema.get("properties", {}).values(), schema.get("items")):
            if isinstance(part, dict):
                walk(part)

    walk(definition_of("HTTPRoute").schema)
    assert len(rules) == 89
    assert all(compiled(rule) for rule in set(rules))


def test_pods_end_without_losing_a_request() -> None:
    """No new request reaches a server that was told to end, and it has the time to answer those it has."""
    assert DRAIN_S == options.DRAIN_S
    for name in ("defaults", "torchserve"):
        pods = next(one for one in contents(rendered(OPTIONS[name])) if one["kind"] == "Deployment")
        pod = pods["spec"]["template"]["spec"]
        leave_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert leave_s >= 10
        assert pod["terminationGracePeriodSeconds"] >= leave_s + (DRAIN_S if name == "defaults" else 0) + 5


def test_pods_have_no_right_that_they_do_not_need() -> None:
    pod = next(one for one in contents(rendered()) if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_says_gpus_secrets_workers_and_the_archives_digest() -> None:
    made = {one["metadata"]["name"]: one for one in contents(rendered(OPTIONS["gpus"])) if one["kind"] == "Deployment"}
    chat = made[version_name("chat", "1")]["spec"]
    container = chat["template"]["spec"]["containers"][0]
    assert chat["replicas"] == 1
    assert container["resources"]["limits"] == {"memory": "24Gi", "nvidia.com/gpu": 1}
    assert container["image"] == IMAGE
    digits = made["digits--2-0"]["spec"]["template"]
    command = digits["spec"]["containers"][0]["command"]
    assert command[:3] == ["/opt/tsctl/bin/tsctl", "serve", "/srv/tsctl/archives/store/digits-2.0-0123.mar"]
    assert command[-2:] == ["--workers", "3"]
    assert digits["metadata"]["annotations"]["tsctl/archive-sha256"] == DIGEST
    cancer = made[version_name("Breast_Cancer.v2", "1_A")]["spec"]["template"]["spec"]
    secret = next(one["secret"] for one in cancer["volumes"] if one["name"] == "secrets")
    assert secret["items"] == [{"key": "KEY", "path": "KEY"}]
    assert {"name": "TS_SECRETS_FOLDER", "value": "/run/secrets/tsctl"} in cancer["containers"][0]["env"]
    mounts = {one["name"]: one["mountPath"] for one in cancer["containers"][0]["volumeMounts"]}
    assert mounts["secrets"] == "/run/secrets/tsctl/Breast_Cancer.v2"


def test_autoscalers_follow_the_metrics_of_the_workers() -> None:
    made = {m["metadata"]["name"]: m for m in contents(rendered()) if m["kind"] == "HorizontalPodAutoscaler"}
    metrics = {name: one["spec"]["metrics"][0]["pods"] for name, one in made.items()}
    assert metrics["digits--2-0"] == {
        "metric": {"name": "tsctl_worker_busy"},
        "target": {"type": "AverageValue", "averageValue": "2100m"},  # 70 % of 3 workers
    }
    assert metrics["chat--1"]["metric"] == {"name": "tsctl_worker_open_answers"}
    assert metrics["chat--1"]["target"]["averageValue"] == "2800m"  # 70 % of 4 answers


def test_a_route_has_weights_copies_headers_pins_and_the_deadline() -> None:
    spec, kubernetes = deployment()
    traffic = Traffic("digits", {"2.0": 525, "1.0": 9475}, "2.0", Shadow("1.5", 1000))
    route = http_route(kubernetes, traffic, spec.models["digits"].route)
    rules = {rule["name"]: rule for rule in route["spec"]["rules"]}
    assert list(rules) == [
        "canary", "weights", "pin.digits--2-0", "pin.digits--1-0", "pin.digits--1-5", "metadata",
    ]  # fmt: skip
    assert [(one["name"], one["weight"]) for one in rules["weights"]["backendRefs"]] == [
        ("digits--2-0", 525), ("digits--1-0", 9475),
    ]  # fmt: skip
    copies = next(one["requestMirror"] for one in rules["weights"]["filters"] if one["type"] == "RequestMirror")
    assert copies["percent"] == 10 and copies["backendRef"]["name"] == "digits--1-5"
    assert not any(one["type"] == "RequestMirror" for one in rules["canary"]["filters"])
    tester = rules["canary"]["matches"][0]
    assert tester["headers"] == [{"type": "Exact", "name": "x-track", "value": "canary"}]
    assert [one["path"]["value"] for one in rules["pin.digits--1-0"]["matches"]] == [
        "/predictions/digits/1.0", "/v2/models/digits/versions/1.0/infer",
    ]  # fmt: skip
    assert {rule["timeouts"]["request"] for rule in rules.values()} == {"250ms"}
    removed = rules["weights"]["filters"][0]["requestHeaderModifier"]["remove"]
    assert {"x-tsctl-check", "x-tsctl-shadow", "x-tsctl-client", "x-tsctl-track"} <= set(removed)
    assert next(one for one in rules["weights"]["filters"] if one["type"] == "CORS")["cors"]["allowOrigins"] == [
        "https://app.example.com"
    ]
    assert {"POST", "OPTIONS"} == {match["method"] for match in rules["weights"]["matches"]}


def test_the_one_language_model_has_the_paths_of_the_openai_api_and_its_own_deadline() -> None:
    made = {one["metadata"]["name"]: one for one in contents(rendered()) if one["kind"] == "HTTPRoute"}
    rule = _weights(made["chat"])
    assert "/v1/chat/completions" in [match["path"]["value"] for match in rule["matches"]]
    assert rule["timeouts"] == {"request": "125s"}  # the archive's 120 s, and time to say what was too slow
    spec, kubernetes = deployment()
    two = [*versions(spec), ServedVersion("digits", "1.0", DIGEST, offer=Offer(EMBEDDINGS, 9, 9))]
    both = contents(manifests(spec, kubernetes, two))
    assert not any("/v1/" in match["path"]["value"] for one in both if one["kind"] == "HTTPRoute"
                   for rule in _rules(one) for match in rule["matches"])  # fmt: skip
    told = differences(spec, kubernetes, two, offers_of(spec, two, {}))
    assert any("chat, digits offer it" in one for one in told)


# ---- traffic that is read back, and changed --------------------------------------------------------------------------

KUBERNETES = KubernetesSpec()
names_of_versions = st.lists(st.sampled_from(["1.0", "2.0", "1_0", "B", "3"]), min_size=1, max_size=5, unique=True)


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    named = draw(names_of_versions)
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), min_size=len(named) - 1, max_size=len(named) - 1)))
    weights = {v: b - a for v, a, b in zip(named, [0, *cuts], [*cuts, 10_000], strict=True)}
    canary = draw(st.sampled_from([None, *named[:-1]]))
    shadow = draw(st.none() | st.builds(Shadow, st.sampled_from(["9", *named[:-1]]), st.integers(1, 10_000)))
    return Traffic("digits", weights, canary, shadow)


@settings(deadline=None, max_examples=60)
@given(traffics(), traffics())
def test_traffic_is_read_back_as_it_was_written(first: Traffic, second: Traffic) -> None:
    route = http_route(KUBERNETES, first, RouteSpec())
    assert traffic_of(route) == first
    changed = with_traffic(route, KUBERNETES, second, RouteSpec())
    assert traffic_of(changed) == second
    assert changed["spec"]["rules"] == http_route(KUBERNETES, second, RouteSpec())["spec"]["rules"]


def test_a_change_keeps_what_others_wrote() -> None:
    before = http_route(KUBERNETES, Traffic("digits", {"2.0": 0, "1.0": 10_000}), RouteSpec())
    before["metadata"]["annotations"]["team"] = "vision"
    before["spec"]["hostnames"] = ["a.example.com"]
    main = _weights(before)
    main["timeouts"] = {"request": "7s", "backendRequest": "3s"}
    main["filters"].append({"type": "ExtensionRef", "extensionRef": {"group": "x.io", "kind": "Waf", "name": "w"}})
    main["filters"].append(mirror("of-others", percent=5))
    main["backendRefs"][1]["filters"] = [
        {"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "K", "name": "n"}}
    ]
    before["spec"]["rules"].append({"name": "docs", "backendRefs": [{"name": "docs", "port": 80}]})
    kept = copy.deepcopy(before)
    after = with_traffic(before, KUBERNETES, traffic_of(before).weighted({"2.0": 500, "1.0": 9500}), RouteSpec())
    assert before == kept
    rules = {rule["name"]: rule for rule in after["spec"]["rules"]}
    assert [one["weight"] for one in rules["weights"]["backendRefs"]] == [500, 9500]
    assert rules["weights"]["backendRefs"][1]["filters"] == main["backendRefs"][1]["filters"]
    assert rules["weights"]["filters"] == main["filters"]
    assert rules["weights"]["timeouts"] == main["timeouts"]
    assert rules["canary"]["timeouts"] == main["timeouts"]  # a new rule has the deadline of the others
    assert rules["docs"] == before["spec"]["rules"][-1]
    assert after["metadata"]["annotations"]["team"] == "vision" and after["spec"]["hostnames"] == ["a.example.com"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [({"2.0": 5, "1.0": 95}, {"2.0": 500, "1.0": 9500}), ({"2.0": 1, "1.0": 2}, {"2.0": 3333, "1.0": 6667})],
)
def test_weights_that_others_wrote_are_shares(weights: dict[str, int], expected: dict[str, int]) -> None:
    route = http_route(KUBERNETES, Traffic("digits", {"2.0": 0, "1.0": 10_000}), RouteSpec())
    for one, weight in zip(_weights(route)["backendRefs"], weights.values(), strict=True):
        one["weight"] = weight
    assert traffic_of(route).weights == expected


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda r: [one.update(weight=0) for one in _weights(r)["backendRefs"]], "gives no version a weight"),
        (lambda r: _weights(r)["backendRefs"][0].update(name="other"), "names Service other, which is no version"),
        (lambda r: r["spec"].update(rules=[]), "has no rule named weights"),
        (lambda r: r["metadata"].pop("annotations"), "has no annotation tsctl/model"),
    ],
)
def test_a_route_that_cannot_be_read_says_why(edit: Callable[[Json], Any], says: str) -> None:
    with pytest.raises(GatewayError, match=says):
        traffic_of(route_with(edit))


def test_too_many_versions_for_a_route_are_refused() -> None:
    many = {f"{n}": 0 for n in range(2, 16)} | {"1": 10_000}
    with pytest.raises(GatewayError, match="15 versions on its route, which makes 17 rules"):
        http_route(KUBERNETES, Traffic("digits", many), RouteSpec())
    http_route(KUBERNETES, Traffic("digits", many), RouteSpec(pinned=False))
    with pytest.raises(GatewayError, match="17 versions"):
        http_route(KUBERNETES, Traffic("digits", many | {"x": 0, "y": 0}), RouteSpec(pinned=False))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_names_are_plain_where_they_can_be() -> None:
    assert (model_name("digits"), version_name("digits", "1.0")) == ("digits", "digits--1-0")


@settings(max_examples=300)
@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_\-.]{0,63}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.]{0,31}", fullmatch=True),
)
def test_every_name_is_one_that_a_cluster_takes(model: str, version: str) -> None:
    for name in (model_name(model), version_name(model, version)):
        assert len(name) <= LONGEST and name.isascii() and name[0].isalpha() and name[-1].isalnum()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_names_that_look_alike_differ() -> None:
    keys = [
        ("a-b", "1"),
        ("a_b", "1"),
        ("a.b", "1"),
        ("A-b", "1"),
        ("a", "b.1"),
        ("a--b", "1"),
        ("a", "b_1"),
        ("a-", "1"),
    ]
    assert len({version_name(*key) for key in keys}) == len(keys)
    assert len({model_name(model) for model, _ in keys}) == len({model for model, _ in keys})


@pytest.mark.parametrize(
    ("seconds", "text"), [(30, "30s"), (0.25, "250ms"), (1.5, "1s500ms"), (3605, "3605s"), (1e-9, "1ms")]
)
def test_durations_have_the_form_of_the_gateway_api(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- what the file may ask for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"models": {"digits": {**MODELS["digits"], "route": {"sticky": {"header": "x-user"}}}}}, "sticky"),
        ({"gateway": {"budget": {"requests_per_s": 5}}}, "budget"),
        ({"gateway": {"engine_header": True}}, "engine_header"),
    ],
)
def test_what_manifests_cannot_give_is_refused_unless_the_file_does_without(more: Json, name: str) -> None:
    spec, kubernetes = deployment(**more)
    with pytest.raises(SpecError, match=name) as caught:
        require_renderable(spec, kubernetes, with_kserve=False)
    assert f"kubernetes.without: [{name}]" in caught.value.hint
    spec, kubernetes = deployment({"without": [name]}, **more)
    require_renderable(spec, kubernetes, with_kserve=False)
    assert any(one.startswith(f"{name}: left out") for one in differences(spec, kubernetes, [], {}))
    twice, kubernetes = deployment({"without": [name, name]}, **more)
    assert sum(one.startswith(f"{name}: left out") for one in differences(twice, kubernetes, [], {})) == 1


def test_a_version_without_an_image_is_refused_and_may_have_its_own() -> None:
    with pytest.raises(SpecError, match=r"no image for digits 1\.0"):
        require_renderable(*deployment({"image": None}), with_kserve=False)
    _, kubernetes = deployment({"models": {"digits": {"images": {"2.0": "b:2"}}}})
    assert (kubernetes.image_of("digits", "2.0"), kubernetes.image_of("digits", "1.0")) == ("b:2", IMAGE)


def test_kserve_is_refused_where_tsctl_keeps_the_weights() -> None:
    with pytest.raises(SpecError, match="KServe makes its own"):
        require_renderable(*deployment({"traffic": "httproute"}), with_kserve=True)
    with pytest.raises(SpecError, match="uvicorn alone"):
        require_renderable(*deployment({"engine": "torchserve"}), with_kserve=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"namespace": "My_Space"}, "pattern"),
        ({"image": "Registry.example.com/x:1"}, "must be an image with its tag or digest"),
        ({"image": "registry.example.com/x"}, "must be an image with its tag or digest"),
        ({"image": "registry.example.com/x:latest"}, "must not be latest"),
        ({"models": {"digits": {"images": {"9": IMAGE}}}}, "names '9', which is no version of it"),
        ({"memory": "2"}, "with its unit"),
        ({"cpu": "two"}, "number of cores"),
        ({"gpus": -1}, "greater than or equal to 0"),
        ({"min_replicas": 4, "max_replicas": 3}, "min_replicas 4 is more than max_replicas 3"),
        ({"models": {"digits": {"min_replicas": 11}}}, "models.digits: min_replicas 11"),
        ({"models": {"nothing": {}}}, "names nothing; the models are"),
        ({"hostnames": ["10.0.0.1"]}, "no IP address"),
        ({"tls_secret": "s"}, "tls_secret is of the Gateway"),
        ({"gateway_class": "c", "gateway_namespace": "other"}, "leave gateway_namespace out"),
        ({"grpc": True, "traffic": "httproute"}, "whose weights tsctl does not change"),
        ({"without": ["weights"]}, "Input should be"),
    ],
)
def test_a_mistake_in_the_section_is_an_error(content: Json, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        deployment(content)


def test_differences_name_the_secret_that_people_make() -> None:
    spec, kubernetes = deployment()
    told = differences(spec, kubernetes, versions(spec), {})
    assert any("create secret generic breast-cancer-v2" in one and "--from-file=KEY=FILE" in one for one in told)


def test_weights_of_the_file_are_those_of_the_route() -> None:
    spec, _ = deployment()
    assert traffic_of_spec(spec, "digits") == Traffic("digits", {"2.0": 525, "1.0": 9475}, "2.0")


# ---- files -----------------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes() -> None:
    assert documents(rendered()) == documents(rendered())
    assert "&id" not in "".join(documents(rendered()).values())


def test_kubectl_builds_both_kustomizations_from_the_files(tmp_path: Path) -> None:
    made = rendered(OPTIONS["grpc"])
    write(documents(made), tmp_path)
    built = []
    kubectl = Path(sys.executable).with_name("kubectl")
    for folder in (tmp_path, tmp_path / "routes"):
        ended = subprocess.run([kubectl, "kustomize", folder], capture_output=True, check=True, text=True)
        built += list(yaml.safe_load_all(ended.stdout))
    assert mistakes(built) == []
    assert sorted((one["kind"], one["metadata"]["name"]) for one in built) == sorted(
        (one["kind"], one["metadata"]["name"]) for one in contents(made)
    )
    assert set(kustomizations(made)) == {"kustomization.yaml", "routes/kustomization.yaml"}


def test_a_second_rendering_replaces_the_first_and_nothing_of_others(tmp_path: Path) -> None:
    write(documents(rendered()), tmp_path)
    one = {key: value for key, value in MODELS.items() if key == "digits"}
    write(documents(rendered(models=one)), tmp_path)
    assert not (tmp_path / "chat--1.yaml").exists() and (tmp_path / "digits--1-0.yaml").is_file()
    (tmp_path / "own.yaml").write_text("kind: Mine\n", "utf-8")
    with pytest.raises(SpecError, match=r"own\.yaml was not written by tsctl"):
        write(documents(rendered()), tmp_path)
    assert (tmp_path / "own.yaml").read_text("utf-8") == "kind: Mine\n"


def test_where_one_file_cannot_be_written_none_has_changed(tmp_path: Path) -> None:
    write(documents(rendered()), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}
    files = documents(rendered(OPTIONS["grpc"]))
    last = sorted(files)[-1]
    with pytest.raises(SpecError, match="cannot be written: "):
        write({**files, f"{last}/below": ""}, tmp_path)  # a folder where a file is
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")} == before
    assert list(tmp_path.rglob(".*")) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpecError, match=f"{tmp_path}/file.* cannot be written: "):
            write(documents(rendered()), folder)
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_is_said_with_the_file_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(documents(rendered()), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(documents(rendered(OPTIONS["grpc"])), tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
