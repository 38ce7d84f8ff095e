"""Documents for Envoy where models answer the OpenAI API."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tsctl.archive.inspect import facts_of
from tsctl.config.deployment import MOST_TOKENS, Budget, GatewaySpec, RouteSpec, Sticky
from tsctl.gateway.envoy.render import clusters, openai, routes
from tsctl.gateway.envoy.render.clients import Client, token_budgets
from tsctl.gateway.envoy.render.upstreams import EMBEDDINGS, TEXT, Endpoint, Offer, Upstream
from tsctl.gateway.sync import offer_of
from tsctl.gateway.traffic import Shadow, Traffic, only

PROTOCOLS = {
    "/v1/chat/completions": "openai-chat",
    "/v1/completions": "openai-completion",
    "/v1/embeddings": "openai-embeddings",
}
NODES = (Endpoint("a", "10.0.0.2", 8080, "token"),)
LLM, VECTORS = Offer(TEXT, 30.0, 300.0), Offer(EMBEDDINGS, 120.0, 120.0)
OFFERS = {("llm", "1.0"): LLM, ("llm", "2.0"): Offer(TEXT, 40.0, 200.0), ("vectors", "1.0"): VECTORS}
TRAFFIC = [
    Traffic("llm", {"2.0": 500, "1.0": 9500}, "2.0", Shadow("2.0", 2000)),
    only("vectors", "1.0"),
    only("plain", "1.0"),
]
CLIENTS = [Client("alice", ("key-of-alice",)), Client("bob", ("key-of-bob",), tokens_per_minute=1000)]


def rendered(
    specs: dict[str, RouteSpec] | None = None, offers: dict[tuple[str, str], Offer] | None = None
) -> dict[str, Any]:
    offered = OFFERS if offers is None else offers
    return routes.routes(GatewaySpec(), specs or {}, TRAFFIC, CLIENTS, offered)


def host_of(document: dict[str, Any]) -> dict[str, Any]:
    [host] = document["resources"][0]["virtual_hosts"]
    return dict(host)


def of_api(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The routes of models that are named in the body."""
    return [route for route in host_of(document)["routes"] if "dynamic_metadata" in route["match"] and "route" in route]


def asked_of(route: dict[str, Any]) -> tuple[str, str, bool]:
    """Path, model, and whether it is for streams alone."""
    values = {each["path"][0]["key"]: each["value"] for each in route["match"]["dynamic_metadata"]}
    return route["match"]["path"], values["asked_model"]["string_match"]["exact"], "asked_stream" in values


def test_without_such_a_model_the_routes_are_those_of_before() -> None:
    without = routes.routes(GatewaySpec(), {}, TRAFFIC, CLIENTS)
    assert rendered(offers={}) == without
    text = json.dumps(without)
    assert "/v1/" not in text
    assert "bearer" not in text.lower()
    assert '"key_sources": [{"header": "x-api-key"}]' in text
    assert openai.METER_FILTER not in host_of(without)["typed_per_filter_config"]


def test_a_text_model_is_asked_at_two_paths_and_streams_have_routes_of_their_own() -> None:
    found = {asked_of(route) for route in of_api(rendered())}
    names = ("llm", "llm:1.0", "llm:2.0")
    chats = {(f"/v1/{path}completions", name, s) for path in ("chat/", "") for name in names for s in (True, False)}
    assert found == chats | {("/v1/embeddings", name, False) for name in ("vectors", "vectors:1.0")}
    order = [asked_of(route) for route in of_api(rendered())]
    assert order.index(("/v1/completions", "llm", True)) < order.index(("/v1/completions", "llm", False))


def test_it_has_weights_copies_and_testers_as_at_its_own_path() -> None:
    made = host_of(rendered())["routes"]
    plain = [route for route in made if route["match"].get("path") == "/predictions/llm" and "route" in route]
    named = [route for route in of_api(rendered()) if asked_of(route) == ("/v1/chat/completions", "llm", True)]
    assert len(plain) == len(named) == 3  # the testers' header, those that are copied, and the others
    for one, other in zip(plain, named, strict=True):
        assert one["route"]["weighted_clusters"] == other["route"]["weighted_clusters"]
        assert one["route"].get("request_mirror_policies") == other["route"].get("request_mirror_policies")
        assert one["route"]["retry_policy"] == other["route"]["retry_policy"]
        assert one["match"].get("runtime_fraction") == other["match"].get("runtime_fraction")
        assert one["match"]["headers"] == other["match"]["headers"]
    assert routes.traffic_of(rendered()["resources"][0]) == TRAFFIC


def test_a_stream_has_a_time_for_its_first_byte_and_an_answer_in_one_piece_for_the_whole() -> None:
    for route in of_api(rendered()):
        _, model, is_stream = asked_of(route)
        action = route["route"]
        if model.startswith("llm"):  # the longest of its versions, and time for the worker to say so itself
            assert action["timeout"] == "305s"
            assert action.get("idle_timeout") == ("45s" if is_stream else None)
        else:
            assert action["timeout"] == "30s"
    short = {"llm": RouteSpec(deadline_s=10)}
    assert {route["route"]["timeout"] for route in of_api(rendered(short)) if asked_of(route)[1] == "llm"} == {"15s"}
    plain = [r for r in host_of(rendered())["routes"] if r["match"].get("path") == "/predictions/llm" and "route" in r]
    assert {route["route"]["timeout"] for route in plain} == {"305s"}
    [cluster, _] = clusters.clusters([Upstream("llm", "1.0", NODES, None, None, LLM)], {}, {("llm", "1.0")})[
        "resources"
    ]
    assert '"value": "300000"' in json.dumps(cluster)  # what the worker is told


def test_bodies_are_read_and_tokens_counted_on_these_routes_alone() -> None:
    for route in host_of(rendered())["routes"]:
        filters, path = route.get("typed_per_filter_config", {}), route["match"].get("path", "")
        is_of_api = "safe_regex" in route["match"]
        assert (openai.READ_FILTER in filters) == is_first(route)
        is_text = "route" in route and route.get("name") == "llm" and headers_say(route, "POST")
        assert (openai.METER_FILTER in filters) == (is_of_api or is_text), path


def is_first(route: dict[str, Any]) -> bool:
    """Whether it reads the body of a request that nothing is known of."""
    return "safe_regex" in route["match"] and route["direct_response"]["status"] == 400


def headers_say(route: dict[str, Any], method: str) -> bool:
    return {"name": ":method", "string_match": {"exact": method}} in route["match"].get("headers", ())


def test_the_first_route_stands_behind_those_that_what_it_finds_leads_to() -> None:
    made = host_of(rendered())["routes"]
    [first] = [number for number, route in enumerate(made) if is_first(route)]
    behind = [number for number, route in enumerate(made) if "dynamic_metadata" in route["match"]]
    assert max(behind) < first
    assert made[first]["direct_response"]["status"] == 400


def test_a_compressed_body_is_refused_before_it_is_read() -> None:
    made = host_of(rendered())["routes"]
    [first] = [number for number, route in enumerate(made) if is_first(route)]
    encoded = made[first - 1]
    assert encoded["match"]["safe_regex"] == made[first]["match"]["safe_regex"]
    assert {"name": "content-encoding", "present_match": True} in encoded["match"]["headers"]
    assert encoded["direct_response"]["status"] == 415


def test_media_types_have_any_case() -> None:
    pattern = openai._rules()["allow_content_types_regex"]["regex"]
    for media_type in ("application/json", "Application/JSON; charset=utf-8", "APPLICATION/JSON ;x"):
        assert re.fullmatch(pattern, media_type), media_type
    assert not re.fullmatch(pattern, "text/plain")


def test_users_of_a_sticky_model_are_read_where_the_route_is_known() -> None:
    sticky = {"llm": RouteSpec(sticky=Sticky(header="x-user-id"))}
    made = host_of(rendered(sticky))["routes"]
    [first] = [route for route in made if is_first(route)]
    assert routes.USER_FILTER in first["typed_per_filter_config"]  # else it would not be there for the second route
    by_weight = [route for route in of_api(rendered(sticky)) if asked_of(route)[1] == "llm"]
    assert any("x-user-id" in json.dumps(route.get("typed_per_filter_config", {})) for route in by_weight)
    assert routes.USER_FILTER not in json.dumps(rendered())


def test_a_model_is_what_its_stable_version_is() -> None:
    mixed = Traffic("m", {"2.0": 0, "1.0": 10_000})
    assert openai.offer_of(mixed, {("m", "2.0"): LLM}) is None
    assert openai.offer_of(mixed, {("m", "1.0"): VECTORS, ("m", "2.0"): LLM}) == VECTORS


def test_a_worker_is_told_how_it_is_asked_and_the_path_is_the_versions_own() -> None:
    for route in of_api(rendered()):
        path, _, _ = asked_of(route)
        [added] = route["request_headers_to_add"]
        assert added["header"] == {"key": "x-tsctl-protocol", "value": PROTOCOLS[path]}
        assert route["route"]["path_rewrite"] == "%METADATA(CLUSTER:tsctl:path)%"


def test_what_a_version_offers_is_read_back_from_its_cluster() -> None:
    upstreams = [Upstream("llm", "1.0", NODES, None, None, LLM), Upstream("plain", "1.0", NODES, None)]
    assert clusters.upstreams_of(clusters.clusters(upstreams, {}, ())) == upstreams


def test_a_budget_of_tokens_is_the_keys_own_or_the_gateways() -> None:
    assert token_budgets(Budget(), CLIENTS) == {"bob": 1000}
    assert token_budgets(Budget(tokens_per_minute=5), CLIENTS) == {"alice": 5, "bob": 1000}
    assert host_of(rendered())["metadata"] == {"filter_metadata": {"openai": {"budgets": {"bob": 1000}}}}
    assert "metadata" not in host_of(routes.routes(GatewaySpec(), {}, TRAFFIC, CLIENTS))


def test_a_bucket_has_room_for_what_a_client_may_owe_and_looking_into_it_takes_nothing_out() -> None:
    document = openai.tokens({"bob": 1000})
    [host] = document["resources"][0]["virtual_hosts"]
    settings = host["typed_per_filter_config"]["tokens"]
    [bucket] = [each["token_bucket"] for each in settings["descriptors"]]
    assert (bucket["max_tokens"], bucket["tokens_per_fill"]) == (MOST_TOKENS + 1000, 1000)
    look, put_back, charge = (limit["hits_addend"] for limit in settings["rate_limits"])
    assert look == {"number": MOST_TOKENS + 1}
    assert put_back == {**look, "is_negative_hits": True}
    assert charge == {"format": "%REQ(x-tsctl-charge)%"}
    assert openai.tokens({})["version_info"] != document["version_info"]


@pytest.mark.parametrize(
    ("handler", "serving", "offer"),
    [
        ("handlers.text_generation", {"generation": {"backend": "auto", "first_token_s": 20}}, Offer(TEXT, 20.0, 90.0)),
        ("handlers.text_generation", {"generation": {"first_token_s": 200.0}}, Offer(TEXT, 90.0, 90.0)),
        ("own", {"generation": {}}, Offer(TEXT, 90.0, 90.0)),
        ("handlers.embedding", {}, Offer(EMBEDDINGS, 90.0, 90.0)),
        ("own", {"embeddings": True}, Offer(EMBEDDINGS, 90.0, 90.0)),
        ("handlers.image", {}, None),
    ],
)
def test_an_archive_says_what_its_version_offers(
    tmp_path: Path, handler: str, serving: dict[str, Any], offer: Offer | None
) -> None:
    path = tmp_path / "m.mar"
    model = {"modelName": "m", "modelVersion": "1.0", "handler": "entry.py", "configFile": "model-config.yaml"}
    config = {"responseTimeout": 90, "serving": {"handler": handler, **serving}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        archive.writestr("model-config.yaml", json.dumps(config))
    assert offer_of(facts_of(path)) == offer
