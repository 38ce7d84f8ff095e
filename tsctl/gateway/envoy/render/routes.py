"""Which requests go where: paths, weights, shadows, retries, keys and budgets, and what is ready. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.contract import MODEL_VERSION_HEADER, OPEN_INFERENCE, PROTOCOL_HEADER
from tsctl.config.deployment import Budget, GatewaySpec, RouteSpec, Sticky
from tsctl.config.weights import TOTAL
from tsctl.gateway.access_log import USER_KEY
from tsctl.gateway.envoy.messages import (
    GRPC_FILTER,
    NAMESPACE,
    PROTOCOL_PREFIX,
    USER_FILTER,
    USER_KIND,
    Json,
    document,
    equals,
    overwrite,
    type_url,
)
from tsctl.gateway.envoy.render.inputs import Client, cluster_name
from tsctl.gateway.headers import (
    ASSIGNED_TRACK_HEADER,
    CLIENT_HEADER,
    KEY_HEADER,
    RETRY_HEADER,
    TRACK_HEADER,
    WEIGHT_HEADER,
)
from tsctl.gateway.traffic import BY_HEADER, BY_PATH, BY_WEIGHT, PINNED, Shadow, Traffic

#: How often another node is picked for a retry before it goes to the one that failed. LEAST_REQUEST compares two random
#: nodes, and one that has just died has no request in hand: beside one busy node it wins three times in four.
REPICKS = 50


def routes(
    spec: GatewaySpec, given: Mapping[str, RouteSpec], traffic: Sequence[Traffic], clients: Sequence[Client]
) -> Json:
    """The route file: every route with its weights, every key, and 404 for all else."""
    found = [route for one in traffic for route in _routes_of(one, given.get(one.model, RouteSpec()))]
    host = {
        "name": "clients",
        "domains": ["*"],
        "request_body_buffer_limit": spec.request_bytes,
        "include_attempt_count_in_response": False,
        "typed_per_filter_config": {
            "api_key_auth": _keys(clients),
            "local_ratelimit": _budgets(spec.budget, clients),
        },
        "routes": [_no_grpc(), *_alive(), *found, *_wrong_methods(found), _nothing_else()],
    }
    return document(
        [
            {
                "@type": type_url("envoy.config.route.v3.RouteConfiguration"),
                "name": "clients",
                "validate_clusters": True,
                "virtual_hosts": [host],
            }
        ]
    )


def traffic_of(configuration: Mapping[str, Any]) -> list[Traffic]:
    """The traffic of every route, read back from a route configuration, as `routes` writes it or Envoy dumps it."""
    found = []
    for route in configuration["virtual_hosts"][0]["routes"]:
        told = route.get("metadata", {}).get("filter_metadata", {}).get(NAMESPACE, {})
        if "order" not in told or route["match"]["path"].startswith(PROTOCOL_PREFIX):
            continue
        weights = {version: int(told["weights"][version]) for version in told["order"]}
        shadow = Shadow(told["shadow"], int(told["shadow_share"])) if "shadow" in told else None
        found.append(Traffic(told["model"], weights, told.get("canary"), shadow))
    return found


def ready(traffic: Sequence[Traffic]) -> Json:
    """The filter that answers /readyz: 200 where the stable version of every route can answer on some node.

    Where there is no route, nothing could be answered, and it is 503: a cluster that is not there is not healthy.
    """
    stable = [cluster_name(one.model, one.stable) for one in traffic] or [_NO_CLUSTER]
    return document(
        [
            {
                "@type": type_url("envoy.config.core.v3.TypedExtensionConfig"),
                "name": "ready",
                "typed_config": {
                    "@type": type_url("envoy.extensions.filters.http.health_check.v3.HealthCheck"),
                    "pass_through_mode": False,
                    "headers": [{"name": ":path", "string_match": {"safe_regex": {"regex": _READY_PATHS}}}],
                    "cluster_min_healthy_percentages": {name: {"value": 1.0} for name in stable},
                },
            }
        ]
    )


_READY_PATHS = f"/readyz|{PROTOCOL_PREFIX}health/ready"
_NO_CLUSTER = "no~route"


def _routes_of(traffic: Traffic, route: RouteSpec) -> list[Json]:
    plain, prefix = f"/predictions/{traffic.model}", f"{PROTOCOL_PREFIX}models/{traffic.model}"
    by_protocol = _routes_at(traffic, route, f"{prefix}/infer", prefix + "/versions/{}/infer")
    spoken = {"request_headers_to_add": [overwrite(PROTOCOL_HEADER, OPEN_INFERENCE)]}
    return [
        *_routes_at(traffic, route, plain, plain + "/{}"),
        *({**one, **spoken} for one in by_protocol),
    ]


def _routes_at(traffic: Traffic, route: RouteSpec, path: str, pinned: str) -> list[Json]:
    """The routes of one way to ask the model.

    Args:
        pinned: the path of one version, with `{}` where it stands.
    """
    found = []
    if route.canary_header and traffic.canary is not None:
        tried = {"path": path, "headers": [equals(TRACK_HEADER, "canary")]}
        found.append(_route(traffic, route, tried, _one_version(traffic, traffic.canary), {"by": BY_HEADER}))
    found.append(_main_route(traffic, route, path))
    if route.pinned:
        found += [
            _route(
                traffic,
                route,
                {"path": pinned.format(version)},
                _one_version(traffic, version, PINNED),
                {"by": BY_PATH},
            )
            for version in traffic.versions
        ]
    return found


def _main_route(traffic: Traffic, route: RouteSpec, path: str) -> Json:
    """By weight, and with copies for the shadow. Its metadata is what `traffic_of` reads back."""
    action = _by_weight(traffic, route)
    told: Json = {"by": BY_WEIGHT, "weights": dict(traffic.weights), "order": list(traffic.weights)}
    if traffic.canary is not None:
        told["canary"] = traffic.canary
    if traffic.shadow is not None:
        told |= {"shadow": traffic.shadow.version, "shadow_share": traffic.shadow.share}
        share = {"numerator": traffic.shadow.share, "denominator": "TEN_THOUSAND"}
        shadow = cluster_name(traffic.model, traffic.shadow.version, is_shadow=True)
        action["request_mirror_policies"] = [{"cluster": shadow, "runtime_fraction": {"default_value": share}}]
    found = _route(traffic, route, {"path": path}, action, told)
    if route.sticky is not None:
        found["typed_per_filter_config"] = {USER_FILTER: _user(route.sticky)}
    return found


def _user(sticky: Sticky) -> Json:
    """Who asks is told to the access log, by which a rollout counts users."""
    told = {"metadata_namespace": NAMESPACE, "key": USER_KEY, "type": "STRING"}
    place = {"header": sticky.header} if sticky.header else {"cookie": sticky.cookie}
    return {"@type": type_url(USER_KIND), "request_rules": [{**place, "on_header_present": told}]}


def _route(traffic: Traffic, route: RouteSpec, match: Json, action: Json, told: Json) -> Json:
    return {
        "match": {**match, "headers": [*match.get("headers", ()), equals(":method", "POST")]},
        "metadata": {"filter_metadata": {NAMESPACE: {"model": traffic.model, **told}}},
        "route": {**action, "timeout": f"{route.deadline_s:g}s", "retry_policy": _retries(route)},
    }


def _by_weight(traffic: Traffic, route: RouteSpec) -> Json:
    action: Json = {
        "weighted_clusters": {
            "clusters": [
                {
                    "name": cluster_name(traffic.model, version),
                    "weight": weight,
                    **_told(version, traffic.track(version), weight),
                }
                for version, weight in traffic.weights.items()
            ],
        }
    }
    if route.sticky is not None:
        sticky = route.sticky
        policy = {"header": {"header_name": sticky.header}} if sticky.header else {"cookie": {"name": sticky.cookie}}
        action["hash_policy"] = [policy]
        action["weighted_clusters"]["use_hash_policy"] = True
    return action


def _one_version(traffic: Traffic, version: str, track: str = "") -> Json:
    """The version alone. A list of one, because what is told beside it hangs on an entry of a weighted list."""
    entry = {
        "name": cluster_name(traffic.model, version),
        "weight": TOTAL,
        **_told(version, track or traffic.track(version), traffic.weights.get(version, 0)),
    }
    return {"weighted_clusters": {"clusters": [entry]}}


def _told(version: str, track: str, weight: int) -> Json:
    return {
        "request_headers_to_add": [
            overwrite(ASSIGNED_TRACK_HEADER, track or "none"),
            overwrite(WEIGHT_HEADER, str(weight)),
        ],
        "response_headers_to_add": [overwrite(MODEL_VERSION_HEADER, version)],
        "response_headers_to_remove": [RETRY_HEADER],
    }


def _retries(route: RouteSpec) -> Json:
    """What may be asked again: what no worker has seen; on an idempotent route also what a worker died of."""
    marked = {"present_match": True} if route.idempotent else {"string_match": {"exact": "refused"}}
    return {
        "retry_on": "connect-failure,refused-stream,retriable-headers,"
        + ("reset" if route.idempotent else "reset-before-request"),
        "retriable_headers": [{"name": RETRY_HEADER, **marked}],
        "num_retries": 1,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": type_url("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
                },
            }
        ],
        "host_selection_retry_max_attempts": REPICKS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }


def _no_grpc() -> Json:
    """415 for what calls itself gRPC: Envoy would answer all of it, unknown keys too, with status 200."""
    source = (Path(__file__).parent / "grpc.lua").read_text(encoding="utf-8")
    kind = type_url("envoy.extensions.filters.http.lua.v3.LuaPerRoute")
    return {
        "match": {"prefix": "/", "grpc": {}},
        "direct_response": {"status": 415},
        "typed_per_filter_config": {
            **_WITHOUT_KEY,
            GRPC_FILTER: {"@type": kind, "source_code": {"inline_string": source}},
        },
    }


def _alive() -> list[Json]:
    told = (
        ("/healthz", "alive\n", "text/plain"),
        (f"{PROTOCOL_PREFIX}health/live", '{"live":true}', "application/json"),
    )
    return [
        {
            "match": {"path": path},
            "direct_response": {"status": 200, "body": {"inline_string": body}},
            "response_headers_to_add": [overwrite("content-type", media_type)],
            "typed_per_filter_config": _WITHOUT_KEY,
        }
        for path, body, media_type in told
    ]


def _wrong_methods(found: Sequence[Json]) -> list[Json]:
    """405 for each path that is a route with another method."""
    paths = dict.fromkeys(route["match"]["path"] for route in found)
    return [
        {
            "match": {"path": path},
            "direct_response": {"status": 405},
            "response_headers_to_add": [overwrite("allow", "POST")],
            "typed_per_filter_config": _WITHOUT_KEY,
        }
        for path in paths
    ]


def _nothing_else() -> Json:
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404}, "typed_per_filter_config": _WITHOUT_KEY}


def _keys(clients: Sequence[Client]) -> Json:
    return {
        "@type": type_url("envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"),
        "credentials": [{"key": key, "client": client.name} for client in clients for key in client.keys],
        "key_sources": [{"header": KEY_HEADER}],
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }


def _budgets(default: Budget, clients: Sequence[Client]) -> Json:
    """A bucket for each client by its name.

    One descriptor without a value would make buckets by itself, but Envoy keeps twenty of these, and a client whose
    bucket was dropped for another's meets a full one: with more clients than that, nobody had a budget.
    """
    buckets = [
        {"entries": [{"key": "client", "value": client.name}], "token_bucket": _bucket(client.budget or default)}
        for client in clients
    ]
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "tsctl.budgets"}
    return {
        "@type": type_url("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
        "stat_prefix": "budgets",
        "token_bucket": {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "0.05s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limits": [{"actions": [{"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}]}],
        "descriptors": buckets,
    }


def _bucket(budget: Budget) -> Json:
    """Filled twenty times a second where the rate allows it, so that a client need not wait for a whole second."""
    parts = 20 if budget.requests_per_s % 20 == 0 else 1
    return {
        "max_tokens": budget.burst,
        "tokens_per_fill": budget.requests_per_s // parts,
        "fill_interval": f"{1 / parts:g}s",
    }


#: Of a route that is answered to anybody.
_WITHOUT_KEY = {"api_key_auth": {"@type": type_url("envoy.config.route.v3.FilterConfig"), "disabled": True}}
