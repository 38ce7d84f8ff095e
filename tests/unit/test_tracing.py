"""`tracing` in deployment.yaml: its mistakes, and what Envoy and the nodes' workers make of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from handlers.contract import TRACES_VARIABLE
from tests.unit.test_gateway_render import FILES, SPEC
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import BaseNodeSpec
from tsctl.config.tracing import TracingSpec
from tsctl.gateway.envoy.messages import Json
from tsctl.gateway.envoy.render.listeners import bootstrap, settings
from tsctl.gateway.envoy.render.overload import Bounds
from tsctl.gateway.envoy.render.tracing import OF_CLIENTS, collector_cluster
from tsctl.nodes.process import worker_variables
from tsctl.nodes.record import changed_settings, write_record

TRACING = TracingSpec(endpoint="http://127.0.0.1:4318", share=0.025)
BOUNDS = Bounds(20_000, 1 << 30, 1 << 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "endpoint"),
        ({"endpoint": "https://collector:4318"}, "run one beside the gateway"),
        ({"endpoint": "http://collector:4318/v1/traces"}, "without a path"),
        ({"endpoint": "http://collector"}, "with its port"),
        ({"endpoint": "http://a:b@collector:4318"}, "no user or password"),
        ({"endpoint": "http://collector:4318", "share": 2}, "less than or equal to 1"),
        ({"endpoint": "http://collector:4318", "share": 1e-9}, r"at least 0.000001"),
        ({"endpoint": "http://collector:4318", "sample": 1}, "sample"),
    ],
)
def test_a_mistake_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TracingSpec.model_validate(content)


def managers(document: Json) -> dict[str, Json]:
    """The connection manager of each listener, by the listener's name."""
    listeners = document["static_resources"]["listeners"]
    return {each["name"]: each["filter_chains"][0]["filters"][0]["typed_config"] for each in listeners}


def test_only_requests_of_clients_are_traced() -> None:
    traced = managers(bootstrap(SPEC, FILES, BOUNDS, TRACING))
    assert {name for name, manager in traced.items() if "tracing" in manager} == {"clients", "grpc"}
    sampler = traced["clients"]["tracing"]["provider"]["typed_config"]["sampler"]["typed_config"]
    share = sampler["wrapped_sampler"]["typed_config"]["sampling_percentage"]
    assert share == {"numerator": 25_000, "denominator": "MILLION"}


def test_all_that_tracing_adds_is_away_without_it() -> None:
    plain, traced = bootstrap(SPEC, FILES, BOUNDS), bootstrap(SPEC, FILES, BOUNDS, TRACING)
    assert "tracing" not in str(plain)
    for name, manager in managers(traced).items():
        for key in ("tracing", "early_header_mutation_extensions", "request_id_extension"):
            of_plain = managers(plain)[name]
            manager.pop(key, None)
            if key in of_plain:
                manager[key] = of_plain[key]
    clusters = traced["static_resources"]["clusters"]
    assert clusters.pop() == collector_cluster(TRACING)
    del traced["node"]["metadata"]["tsctl"]["tracing"]
    assert traced == plain


@pytest.mark.parametrize("may_decide", [False, True])
def test_a_clients_trace_is_continued_only_where_the_deployment_says_so(may_decide: bool) -> None:
    spec = TRACING.model_copy(update={"continue_clients": may_decide})
    found = managers(bootstrap(SPEC, FILES, BOUNDS, spec))
    removed = {name: removals(manager) for name, manager in found.items() if "tracing" in manager}
    assert removed["clients"] == (() if may_decide else OF_CLIENTS)
    assert removed["grpc"] == (), "an RPC's request goes on in the trace that the gateway began"


def removals(manager: Json) -> tuple[str, ...]:
    [early] = manager["early_header_mutation_extensions"]
    return tuple(entry["remove"] for entry in early["typed_config"]["mutations"] if "remove" in entry)


@pytest.mark.parametrize(("host", "kind"), [("10.0.0.7", "STATIC"), ("[::1]", "STATIC"), ("collector", "STRICT_DNS")])
def test_a_collector_with_a_name_is_looked_up(host: str, kind: str) -> None:
    cluster = collector_cluster(TracingSpec(endpoint=f"http://{host}:4318"))
    assert cluster["type"] == kind
    [endpoints] = cluster["load_assignment"]["endpoints"]
    [entry] = endpoints["lb_endpoints"]
    assert entry["endpoint"]["address"]["socket_address"] == {"address": host.strip("[]"), "port_value": 4318}


def test_a_running_envoy_says_whether_it_traces() -> None:
    assert settings(SPEC, TRACING) == settings(SPEC, None) | {"tracing": TRACING.model_dump()}


def test_workers_of_a_node_get_the_collectors_address(tmp_path: Path) -> None:
    nodes: dict[str, Any] = {"local": {}, "far": {"engine": "uvicorn", "address": "http://192.0.2.7:8080"}}

    def addresses(**content: Any) -> list[str | None]:
        spec = DeploymentSpec.model_validate({"nodes": nodes, **content})
        return [worker_variables(tmp_path, node).get(TRACES_VARIABLE) for node in spec.nodes.values()]

    assert addresses() == [None, None]
    here = "http://127.0.0.1:4318/v1/traces"
    assert addresses(tracing={"endpoint": "http://127.0.0.1:4318"}) == [here, here]
    nodes["far"]["traces"] = "http://192.0.2.9:4318"
    assert addresses(tracing={"endpoint": "http://127.0.0.1:4318"}) == [here, "http://192.0.2.9:4318/v1/traces"]
    assert addresses() == [None, "http://192.0.2.9:4318/v1/traces"]


def test_status_says_that_a_node_was_started_with_another_collector(tmp_path: Path) -> None:
    def local(**content: Any) -> BaseNodeSpec:
        return DeploymentSpec.model_validate({"nodes": {"local": {}}, **content}).nodes["local"]

    write_record(tmp_path, os.getpid(), tmp_path, local())
    assert changed_settings(tmp_path, local()) == ""
    traced = local(tracing={"endpoint": "http://127.0.0.1:4318"})
    assert changed_settings(tmp_path, traced) == "traces http://127.0.0.1:4318 (it runs with None)"
