"""Documents for Envoy: compared with a golden file, and properties that hold for every deployment.

After a change that is meant, `python -m tests.unit.test_gateway_render` writes the golden file anew; read its diff.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from handlers import contract
from handlers.contract import COPIED_HEADER, HEADER_LENGTH_HEADER, PROBLEM_MEDIA_TYPE, TRITON_LONGEST_ANSWER
from tsctl.config.deployment import Budget, Cors, GatewaySpec, RouteSpec, Sticky, TlsFiles
from tsctl.config.nodes import TRITON
from tsctl.config.weights import TOTAL
from tsctl.errors import GatewayError
from tsctl.gateway import headers
from tsctl.gateway.access_log import LINES_FILTER
from tsctl.gateway.envoy.render import clusters, health, listeners, openai, routes
from tsctl.gateway.envoy.render.clients import KEY_FILTER, Client
from tsctl.gateway.envoy.render.overload import CLOSE, HURRY, REFUSE, Bounds, bounds
from tsctl.gateway.envoy.render.problems import GATEWAY_PROBLEMS
from tsctl.gateway.envoy.render.upstreams import Endpoint, Probe, Upstream, Way, cluster_name, stat_name
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.keys import plain_keys
from tsctl.gateway.traffic import Shadow, Traffic, only

GOLDEN = Path(__file__).parent / "golden" / "gateway.json"
FILES = GatewayFiles(Path("/srv/project/.tsctl/gateway"))
KEY_OF_CERTIFICATE = "PEM of the key"
TOKENS = ("token-of-a", "token-of-b")
KEYS = ("key-of-alice", "key-of-bob", "second-of-bob")
SPEC = GatewaySpec(
    address="https://10.0.0.1:8443",
    metrics="http://127.0.0.1:8003",
    tls=TlsFiles(certificate="server.pem", key="server.key"),
    budget=Budget(requests_per_s=100, burst=50),
)
NODES = (Endpoint("a", "10.0.0.2", 8080, TOKENS[0]), Endpoint("b", "10.0.0.3", 8080, TOKENS[1]))
PROBE = Probe(b'{"x": 1}', "application/json")
UPSTREAMS = [
    Upstream("digits", "1.0", NODES, PROBE),
    Upstream("digits", "2.0", NODES[:1], PROBE),
    Upstream("text", "1.0", NODES[1:], None, is_stock=True),
    Upstream("text", "1.0t", NODES[:1], PROBE, Way(TRITON, "/v2/models/text~1.0t/infer", 500)),
    Upstream("text", "2.0", NODES[:1], None, Way(TRITON, "/v2/models/text~2.0/infer", 500)),
]
ROUTES = {
    "digits": RouteSpec(sticky=Sticky(header="x-user-id"), deadline_s=2.5),
    "text": RouteSpec(idempotent=False, pinned=False, canary_header=False, sticky=Sticky(cookie="user")),
}
TRAFFIC = [
    Traffic("digits", {"2.0": 500, "1.0": 9500}, "2.0", Shadow("2.0", 2000)),
    only("text", "1.0"),
]
SHADOWS = {("digits", "2.0")}
CLIENTS = [Client("alice", KEYS[:1]), Client("bob", KEYS[1:], Budget(requests_per_s=7, burst=9))]


def documents() -> dict[str, Any]:
    """Every file, by its name."""
    return {
        "envoy": listeners.bootstrap(SPEC, FILES, Bounds(20_000, 1 << 30, 1 << 30)),
        "certificate": listeners.certificate("PEM of the certificate", KEY_OF_CERTIFICATE),
        "clusters": clusters.clusters(UPSTREAMS, ROUTES, SHADOWS),
        "routes": routes.routes(SPEC, ROUTES, TRAFFIC, CLIENTS),
        "ready": health.ready(TRAFFIC),
        "tokens": openai.tokens({"bob": 1000}),
    }


def test_the_documents_are_those_of_the_golden_file() -> None:
    assert documents() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def routes_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = document["resources"][0]["virtual_hosts"][0]["routes"]
    return routes


def forwarding() -> list[dict[str, Any]]:
    """The routes to nodes by which models are asked for predictions."""
    inside = ("grpc", "health")
    to_nodes = [r for r in routes_of(documents()["routes"]) if "route" in r and r["route"].get("cluster") not in inside]
    return [route for route in to_nodes if {"name": ":method", "string_match": {"exact": "POST"}} in headers_of(route)]


def test_what_was_written_can_be_read_back() -> None:
    written = documents()
    assert routes.traffic_of(written["routes"]["resources"][0]) == TRAFFIC
    assert clusters.upstreams_of(written["clusters"]) == UPSTREAMS
    assert set(plain_keys(written["routes"]).values()) == set(KEYS)


def test_secrets_stand_where_envoy_needs_them_and_nowhere_else() -> None:
    for name, content in documents().items():
        text = json.dumps(content)
        assert any(key in text for key in KEYS) == (name == "routes"), name
        assert any(token in text for token in TOKENS) == (name == "clusters"), name
        assert (KEY_OF_CERTIFICATE in text) == (name == "certificate"), name
    assert not any(secret in repr((UPSTREAMS, CLIENTS)) for secret in (*KEYS, *TOKENS))


def test_every_forwarding_route_is_exact_has_a_deadline_and_two_retries() -> None:
    for route in forwarding():
        assert route["match"]["path"] in {
            "/predictions/digits", "/predictions/digits/1.0", "/predictions/digits/2.0", "/predictions/text",
            "/v2/models/digits/infer", "/v2/models/digits/versions/1.0/infer", "/v2/models/digits/versions/2.0/infer",
            "/v2/models/text/infer",
        }  # fmt: skip
        assert {"name": ":method", "string_match": {"exact": "POST"}} in route["match"]["headers"]
        model = route["metadata"]["filter_metadata"]["tsctl"]["model"]
        assert route["route"]["timeout"] == {"digits": "2.5s", "text": "30s"}[model]
        retries = route["route"]["retry_policy"]
        assert retries["num_retries"] == 2
        [header] = retries["retriable_headers"]
        if model == "text":
            assert "reset" not in retries["retry_on"].split(",")
            assert header["string_match"] == {"exact": "refused"}
        else:
            assert "reset" in retries["retry_on"].split(",")
            assert header["present_match"] is True


def test_headers_of_the_gateways_own_are_forgotten_before_anything_reads_them() -> None:
    own = (contract.CLIENT_HEADER, contract.ASSIGNED_TRACK_HEADER, headers.WEIGHT_HEADER, contract.SHADOW_HEADER)
    assert all(name.startswith(headers.OWN_PREFIX) for name in own)
    manager = documents()["envoy"]["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    [early] = manager["early_header_mutation_extensions"]
    removed = {"remove_on_match": {"key_matcher": {"prefix": headers.OWN_PREFIX}}}
    assert early["typed_config"]["mutations"] == [removed]


def test_requests_beyond_the_logs_rate_are_marked_before_any_filter_ends_them() -> None:
    manager = documents()["envoy"]["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    names = [entry["name"] for entry in manager["http_filters"]]
    assert names.index(LINES_FILTER) < names.index(KEY_FILTER) < names.index("grpc")
    [marks] = [entry["typed_config"] for entry in manager["http_filters"] if entry["name"] == LINES_FILTER]
    assert "filter_enforced" not in marks  # it refuses nothing
    assert marks["request_headers_to_add_when_not_enforced"][0]["header"]["key"].startswith(headers.OWN_PREFIX)


def test_memory_ends_in_refusals_and_connections_follow_the_files_that_may_be_open() -> None:
    gib = 1 << 30
    assert bounds(None, 64 * gib, 1 << 20, 5) == Bounds(20_000, 2 * gib, 5)
    assert bounds(None, gib, 40_512, 5) == Bounds(20_000, gib * 3 // 4, 5)
    assert bounds(3 * gib, gib, 1024, 5) == Bounds(256, 3 * gib, 5)
    with pytest.raises(GatewayError, match="may open 300 files here, and needs 1,024"):
        bounds(None, gib, 300, 5)
    manager = documents()["envoy"]["overload_manager"]
    triggers = {action["name"].rpartition(".")[2]: action["triggers"][0] for action in manager["actions"]}
    assert triggers["stop_accepting_requests"]["threshold"] == {"value": REFUSE}
    assert triggers["reduce_timeouts"]["scaled"] == {"scaling_threshold": HURRY, "saturation_threshold": REFUSE}
    assert triggers["stop_accepting_connections"]["threshold"] == {"value": CLOSE}
    assert HURRY < REFUSE < CLOSE < 1
    assert {trigger["name"] for trigger in triggers.values()} == {manager["resource_monitors"][1]["name"]}
    [timeouts] = [action for action in manager["actions"] if action["name"].endswith("reduce_timeouts")]
    assert [trigger["name"] for trigger in timeouts["triggers"]] == [
        "envoy.resource_monitors.fixed_heap", "envoy.resource_monitors.global_downstream_max_connections",
    ]  # fmt: skip


def test_only_what_a_route_allows_is_there() -> None:
    names = [
        (route["match"]["path"], len(route["match"]["headers"]))
        for route in forwarding()
        if "runtime_fraction" not in route["match"]  # those whose requests are copied
    ]
    assert names == [
        ("/predictions/digits", 2),  # by x-track
        ("/predictions/digits", 1),
        ("/predictions/digits/2.0", 1),
        ("/predictions/digits/1.0", 1),
        ("/v2/models/digits/infer", 2),
        ("/v2/models/digits/infer", 1),
        ("/v2/models/digits/versions/2.0/infer", 1),
        ("/v2/models/digits/versions/1.0/infer", 1),
        ("/predictions/text", 1),
        ("/v2/models/text/infer", 1),
    ]
    read_only = {
        (route["match"]["path"], headers_of(route)[0]["string_match"]["exact"])
        for route in routes_of(documents()["routes"])
        if "path" in route["match"] and ":method" in [h["name"] for h in route["match"].get("headers", ())][:1]
        and route not in forwarding()
    }  # fmt: skip
    of_digits = [f"/v2/models/digits{version}" for version in ("", "/versions/1.0", "/versions/2.0")]
    assert read_only == {
        *((path + end, "GET") for path in (*of_digits, "/v2/models/text") for end in ("", "/ready")),
        ("/v2", "GET"),
        ("/v2/repository/index", "POST"),
    }
    assert routes_of(documents()["routes"])[-1]["match"] == {"prefix": "/"}
    assert routes_of(documents()["routes"])[-1]["direct_response"] == {"status": 404}


def test_a_worker_is_told_of_the_protocol_by_the_gateway_alone() -> None:
    for route in forwarding():
        if route["match"]["path"].startswith("/v2/"):
            [added] = route["request_headers_to_add"]
            assert added["header"] == {"key": "x-tsctl-protocol", "value": "oip-v2"}
            assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
        else:
            assert "request_headers_to_add" not in route  # a client's own is forgotten before


@pytest.mark.parametrize(
    ("model", "path"), [("digits", "/predictions/digits/1.0"), ("a.b-c", "/predictions/a.b-c/1.0")]
)
def test_the_path_on_a_node_comes_from_model_and_version(model: str, path: str) -> None:
    [cluster, shadow] = clusters.clusters([Upstream(model, "1.0", NODES, PROBE)], {}, {(model, "1.0")})["resources"]
    for content, marks in ((cluster, "false"), (shadow, "true")):
        assert content["metadata"]["filter_metadata"]["tsctl"]["path"] == path
        [asked, _, mutation, _] = filters_of(content)
        [source] = scripts_in(asked)
        assert f'local PATH = "{path}"\n' in source
        assert f"local IS_SHADOW = {marks}\n" in source
        assert {"remove": "expect"} in mutation["typed_config"]["mutations"]["request_mutations"]
    for route in forwarding():
        if "weighted_clusters" in route["route"]:
            assert route["route"]["path_rewrite"] == "%METADATA(CLUSTER:tsctl:path)%"
    assert cluster["health_checks"][0]["http_health_check"]["path"] == path
    assert "health_checks" not in shadow
    assert shadow["circuit_breakers"]["thresholds"][0]["max_requests"] < 100


def filters_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    protocol = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    filters: list[dict[str, Any]] = protocol["http_filters"]
    return filters


def scripts_in(content: Any) -> set[str]:
    """The different Lua scripts in a part of a document."""
    if isinstance(content, list):
        return {script for one in content for script in scripts_in(one)}
    if not isinstance(content, dict):
        return set()
    own = {content["default_source_code"]["inline_string"]} if "default_source_code" in content else set()
    return own | {script for one in content.values() for script in scripts_in(one)}


def test_lua_stands_only_behind_a_condition_on_the_way_to_a_worker() -> None:
    """A request that goes well, whose client says nothing of time, passes none."""
    for cluster in documents()["clusters"]["resources"]:
        kinds = [entry["typed_config"]["@type"].rpartition(".")[2] for entry in filters_of(cluster)]
        if "protocol" in cluster["metadata"]["filter_metadata"]["tsctl"]:  # on Triton, whose answers Lua reads anyway
            assert kinds == ["Lua", "Lua", "Lua", "HeaderMutation", "UpstreamCodec"]
        elif cluster["name"].endswith("~shadow"):
            assert kinds == ["Lua", "Lua", "HeaderMutation", "UpstreamCodec"]
        else:
            is_stock = "stock" in cluster["metadata"]["filter_metadata"]["tsctl"]
            assert kinds == ["Composite"] * (3 if is_stock else 2) + ["HeaderMutation", "UpstreamCodec"]
            asked, answered = ([text["input"] for text in conditions_of(one)] for one in filters_of(cluster)[:2])
            assert all("HttpRequestHeader" in one["typed_config"]["@type"] for one in asked)
            # a condition on the request would hold for every answer: by then a request has the header of its time
            assert not any("Request" in one["typed_config"]["@type"] for one in answered)


def conditions_of(composite: dict[str, Any]) -> list[dict[str, Any]]:
    [matcher] = composite["typed_config"]["matcher"]["matcher_list"]["matchers"]
    return [one["single_predicate"] for one in matcher["predicate"]["or_matcher"]["predicate"]]


def files_watched_in(content: Any) -> list[str]:
    """The files in a document for each of which Envoy takes an inotify instance."""
    if isinstance(content, list):
        return [file for one in content for file in files_watched_in(one)]
    if not isinstance(content, dict):
        return []
    found = [source["path"]] if isinstance(source := content.get("path_config_source"), dict) else []
    return [*found, *(file for one in content.values() for file in files_watched_in(one))]


def test_envoy_watches_as_many_files_for_three_hundred_versions_as_for_one() -> None:
    many = [Upstream(f"m{number}", "1.0", NODES, PROBE) for number in range(300)]
    traffic = [only(upstream.model, "1.0") for upstream in many]
    shadows = {upstream.key for upstream in many}
    for changing in (
        clusters.clusters(many, {}, shadows),
        routes.routes(SPEC, {}, traffic, CLIENTS),
        health.ready(traffic),
    ):
        assert files_watched_in(changing) == []
    assert (
        len(set(files_watched_in(documents()["envoy"]))) == 5
    )  # clusters, routes (one watch for both), ready, certificate, tokens


def test_a_version_on_triton_has_its_envelope_taken_off_before_anything_reads_its_answer() -> None:
    named = {cluster["name"]: cluster for cluster in documents()["clusters"]["resources"]}
    for name in ("text~1.0t", "text~2.0"):
        cluster = named[name]
        [protocol] = cluster["typed_extension_protocol_options"].values()
        filters = [entry["name"] for entry in protocol["http_filters"]]
        assert filters == [
            "to_node",
            "from_node",
            "triton",
            "header_mutation",
            "upstream_codec",
        ]  # answers pass them from the end
        assert cluster["per_connection_buffer_limit_bytes"] > TRITON_LONGEST_ANSWER
        assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] == 500  # Triton bounds nothing
    sent, asked = (named[name]["health_checks"][0]["http_health_check"] for name in ("text~1.0t", "text~2.0"))
    assert (sent["method"], sent["path"]) == ("POST", "/v2/models/text~1.0t/infer")
    headers = {entry["header"]["key"]: entry["header"]["value"] for entry in sent["request_headers_to_add"]}
    assert headers[HEADER_LENGTH_HEADER] == "0"
    assert (asked["method"], asked["path"]) == ("GET", "/v2/models/text~2.0/ready")


@pytest.mark.parametrize(("share", "routes_by_weight"), [(2500, 2), (TOTAL, 1)])
def test_a_request_says_whether_it_is_copied_to_a_shadow(share: int, routes_by_weight: int) -> None:
    traffic = Traffic("m", {"2.0": 0, "1.0": TOTAL}, None, Shadow("2.0", share))
    document = routes.routes(GatewaySpec(), {}, [traffic], [])
    by_weight = [route for route in routes_of(document) if route.get("match", {}).get("path") == "/predictions/m"]
    by_weight = [route for route in by_weight if "route" in route]
    assert len(by_weight) == routes_by_weight
    for number, route in enumerate(by_weight):
        is_copied = "request_mirror_policies" in route["route"]
        assert is_copied == (number == 0)
        for entry in route["route"]["weighted_clusters"]["clusters"]:
            added = {each["header"]["key"]: each["header"]["value"] for each in entry["request_headers_to_add"]}
            assert added.get(COPIED_HEADER) == ("1" if is_copied else None)
            assert entry.get("request_headers_to_remove", []) == ([] if is_copied else [COPIED_HEADER])
    if routes_by_weight == 2:
        share_of = by_weight[0]["match"]["runtime_fraction"]["default_value"]
        assert share_of == {"numerator": share, "denominator": "TEN_THOUSAND"}
    assert routes.traffic_of(document["resources"][0]) == [traffic]


def test_a_shadow_alone_has_a_cluster_for_copies() -> None:
    names = [cluster["name"] for cluster in documents()["clusters"]["resources"]]
    assert names == ["digits~1.0", "digits~2.0", "digits~2.0~shadow", "text~1.0", "text~1.0t", "text~2.0"]


def test_no_two_versions_share_a_name_in_statistics() -> None:
    models, versions = ("a", "a.b", "a-b", "a_b", "a.b.1", "a-2Eb", "a2Eb"), ("1", "1.0", "1_0", "1.0.0", "b.1")
    names = [stat_name(cluster_name(model, version)) for model, version in product(models, versions)]
    assert len(set(names)) == len(names)
    assert not any("." in name or ":" in name for name in names)  # Envoy ends a tag at a dot, and changes a colon


def test_a_draining_node_stays_in_its_cluster_and_gets_no_requests() -> None:
    whole, draining = Upstream("digits", "1.0", NODES, PROBE), (NODES[0], replace(NODES[1], is_draining=True))
    document = clusters.clusters([replace(whole, endpoints=draining)], {}, ())
    [cluster] = document["resources"]
    [first, second] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert "health_status" not in first
    assert second["health_status"] == "DRAINING"
    assert clusters.upstreams_of(document) == [replace(whole, endpoints=draining)]
    # what was sent to the version before is counted under the name that it had
    assert cluster["alt_stat_name"] != clusters.clusters([whole], {}, ())["resources"][0]["alt_stat_name"]


@pytest.mark.parametrize("deadline_s", [0.5, 30.0, 3600.0])
def test_a_check_has_the_time_of_a_request_and_says_the_same_to_the_worker(deadline_s: float) -> None:
    spec = {"digits": RouteSpec(deadline_s=deadline_s)}
    [cluster] = clusters.clusters([Upstream("digits", "1.0", NODES, PROBE)], spec, [])["resources"]
    [check] = cluster["health_checks"]
    assert float(check["timeout"].removesuffix("s")) > deadline_s
    sent = {
        one["header"]["key"]: one["header"]["value"] for one in check["http_health_check"]["request_headers_to_add"]
    }
    assert sent["x-request-timeout-ms"] == f"{deadline_s * 1000:.0f}"
    assert sent["x-tsctl-check"] == "health"


def test_nothing_but_its_own_checks_takes_a_node_out_of_rotation() -> None:
    for cluster in documents()["clusters"]["resources"]:
        assert "outlier_detection" not in json.dumps(cluster)
        for check in cluster.get("health_checks", []):
            assert check["unhealthy_threshold"] > 1
            assert {"start": 500, "end": 600} in check["http_health_check"]["retriable_statuses"]


def test_envoy_starts_with_checks_that_end_soon_and_forgets_no_version_by_them() -> None:
    written = documents()["clusters"]
    quick = clusters.with_quick_checks(written)
    assert {check["timeout"] for one in quick["resources"] for check in one.get("health_checks", [])} == {"5s"}
    assert clusters.upstreams_of(quick) == clusters.upstreams_of(written) == UPSTREAMS


def test_equal_inputs_give_equal_versions_and_other_ones_do_not() -> None:
    first = routes.routes(SPEC, ROUTES, TRAFFIC, CLIENTS)["version_info"]
    assert routes.routes(SPEC, ROUTES, TRAFFIC, CLIENTS)["version_info"] == first
    assert routes.routes(SPEC, ROUTES, TRAFFIC, CLIENTS[:1])["version_info"] != first
    assert routes.routes(SPEC, ROUTES, [only("digits", "1.0"), TRAFFIC[1]], CLIENTS)["version_info"] != first


def test_every_client_has_a_bucket_of_his_own_whether_his_key_names_a_budget_or_not() -> None:
    host = documents()["routes"]["resources"][0]["virtual_hosts"][0]
    descriptors = host["typed_per_filter_config"]["local_ratelimit"]["descriptors"]
    buckets = {descriptor["entries"][0]["value"]: descriptor["token_bucket"] for descriptor in descriptors}
    assert [len(descriptor["entries"]) for descriptor in descriptors] == [1, 1]
    assert {name: bucket["max_tokens"] for name, bucket in buckets.items()} == {"alice": 50, "bob": 9}
    assert {name: (bucket["tokens_per_fill"], bucket["fill_interval"]) for name, bucket in buckets.items()} == {
        "alice": (5, "0.05s"),
        "bob": (7, "1s"),
    }


def test_pages_of_other_origins_are_refused_unless_a_route_allows_them() -> None:
    assert '"cors"' not in json.dumps(documents()["routes"])
    spec = {"digits": RouteSpec(cors=Cors(origins=("https://app.example.com",)), sticky=Sticky(header="x-user-id"))}
    made = routes_of(routes.routes(SPEC, spec, [only("digits", "1.0"), only("text", "1.0")], CLIENTS))
    allowing = [route for route in made if "cors" in route.get("typed_per_filter_config", {})]
    assert {route["metadata"]["filter_metadata"]["tsctl"]["model"] for route in allowing} == {"digits"}
    for route in allowing:
        policy = route["typed_per_filter_config"]["cors"]
        assert policy["allow_origin_string_match"] == [{"exact": "https://app.example.com"}]
        assert {"x-api-key", "content-type", "x-user-id"} <= set(policy["allow_headers"].split(", "))
    asked = [
        route for route in allowing if {"name": ":method", "string_match": {"exact": "OPTIONS"}} in headers_of(route)
    ]
    assert {route["match"]["path"] for route in asked} == {route["match"]["path"] for route in allowing}
    assert all(route["typed_per_filter_config"]["api_key_auth"]["disabled"] for route in asked)


def headers_of(route: dict[str, Any]) -> list[dict[str, Any]]:
    matched: list[dict[str, Any]] = route["match"]["headers"]
    return matched


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://a.b/path", "https://", "ftp://a", "https://a,https://b", ""]
)
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    with pytest.raises(ValidationError):
        Cors(origins=(origin,))


def test_without_a_route_nothing_is_ready() -> None:
    assert checked_clusters([]) == {"/readyz": {"no~route"}, "/v2/health/ready": {"no~route"}}


def checked_clusters(traffic: list[Traffic]) -> dict[str, set[str]]:
    """The clusters that must be healthy for a path to be ready."""
    [ready] = health.ready(traffic)["resources"]
    by_path = ready["typed_config"]["xds_matcher"]["matcher_tree"]["exact_match_map"]["map"]
    checks = {path: match["action"]["typed_config"]["typed_config"]["typed_config"] for path, match in by_path.items()}
    return {path: set(check["cluster_min_healthy_percentages"]) for path, check in checks.items()}


def test_a_model_is_ready_where_its_stable_version_is_and_a_version_where_it_is_itself() -> None:
    every = {"digits~1.0", "text~1.0"}
    assert checked_clusters(TRAFFIC) == {
        "/readyz": every,
        "/v2/health/ready": every,
        "/v2/models/digits/ready": {"digits~1.0"},
        "/v2/models/digits/versions/1.0/ready": {"digits~1.0"},
        "/v2/models/digits/versions/2.0/ready": {"digits~2.0"},
        "/v2/models/text/ready": {"text~1.0"},
        "/v2/models/text/versions/1.0/ready": {"text~1.0"},
    }


def manager_of(listener: str) -> dict[str, Any]:
    [found] = [one for one in documents()["envoy"]["static_resources"]["listeners"] if one["name"] == listener]
    manager: dict[str, Any] = found["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def problems() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    manager = manager_of("clients")
    for mapper in manager["local_reply_config"]["mappers"]:
        yield mapper["body_format_override"], mapper.get("headers_to_add", [])


def test_every_answer_of_envoy_itself_is_a_problem_document() -> None:
    bodies = [problem for problem in problems() if problem[0]["content_type"] == PROBLEM_MEDIA_TYPE]
    assert len(bodies) == len(GATEWAY_PROBLEMS) + 2  # a refused header, and any other error
    for body, _ in bodies:
        document = body["json_format"]
        assert document.keys() == {"type", "title", "status", "detail", "request_id", "model", "version", "error"}
        assert document["error"] == document["detail"]
    later = {body["json_format"]["type"] for body, headers in bodies if headers}
    assert later == {"urn:tsctl:problem:over-budget", "urn:tsctl:problem:unavailable"}


def test_or_an_error_in_the_form_of_the_openai_api_at_its_paths_before_any_other() -> None:
    mappers = manager_of("clients")["local_reply_config"]["mappers"]
    kinds = [mapper["body_format_override"]["content_type"] for mapper in mappers]
    first = kinds.index(PROBLEM_MEDIA_TYPE)
    assert kinds == ["application/json"] * first + [PROBLEM_MEDIA_TYPE] * (len(kinds) - first)
    assert first == len(GATEWAY_PROBLEMS) + 4  # a refused header, no model, an unknown model, and any other error
    for mapper in mappers[:first]:
        by_path = json.dumps(mapper["filter"]["and_filter"]["filters"][0])
        assert '"prefix": "/v1/"' in by_path
        error = mapper["body_format_override"]["json_format"]["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(documents(), indent=1) + "\n", encoding="utf-8")
