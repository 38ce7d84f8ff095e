"""One cluster for each version, and one for its copies: nodes, health, limits, and the way to a worker. Pure.

Invariant: a request's path on a node is made from the cluster's model and version and never from the client's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.messages import (
    CONNECT_TIMEOUT,
    NAMESPACE,
    Json,
    address,
    document,
    named_filter,
    overwrite,
    type_url,
    watched,
)
from tsctl.gateway.envoy.render.inputs import Places, Upstream, cluster_name, stat_name
from tsctl.gateway.headers import RETRY_HEADER

#: What was sent to a machine that is silent for so long is lost: without this, a request that was on its way when a
#: cable was cut would wait for its whole deadline. A machine that is up acknowledges, however long a worker takes.
SILENT_MS = 4000
TCP, USER_TIMEOUT = 6, 18  # IPPROTO_TCP and TCP_USER_TIMEOUT of Linux
#: How often a version is asked for a sample, on each node.
CHECK_INTERVAL = "2s"
CHECK_TIMEOUT = "10s"
#: At most so many requests of a version on their way, waiting and in all; TorchServe's own queue says 503 earlier.
CONNECTIONS, PENDING, REQUESTS = 1024, 4096, 8192
#: A shadow's copies are dropped beyond these.
SHADOW_CONNECTIONS, SHADOW_PENDING, SHADOW_REQUESTS = 64, 16, 80


def clusters(upstreams: Sequence[Upstream], routes: Mapping[str, RouteSpec], places: Places) -> Json:
    """A cluster for each version, and one more for copies that it may get as a shadow."""
    found = []
    for upstream in upstreams:
        route = routes.get(upstream.model, RouteSpec())
        found += [_cluster(upstream, route, is_shadow, places) for is_shadow in (False, True)]
    return document(found)


def endpoints(upstream: Upstream, is_shadow: bool) -> Json:
    """The nodes of one cluster, each with its token, which the cluster's filters and health checks send."""
    name = cluster_name(upstream.model, upstream.version, is_shadow)
    found = [
        {
            "endpoint": {"address": address(endpoint.host, endpoint.port), "hostname": endpoint.node},
            "metadata": {
                "filter_metadata": {
                    NAMESPACE: {"node": endpoint.node, "authorization": f"Bearer {endpoint.token or 'none'}"}
                }
            },
        }
        for endpoint in upstream.endpoints
    ]
    return document(
        [
            {
                "@type": type_url("envoy.config.endpoint.v3.ClusterLoadAssignment"),
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": found}],
            }
        ]
    )


def _cluster(upstream: Upstream, route: RouteSpec, is_shadow: bool, places: Places) -> Json:
    name = cluster_name(upstream.model, upstream.version, is_shadow)
    path = f"/predictions/{quote(upstream.model, safe='')}/{quote(upstream.version, safe='')}"
    return {
        "@type": type_url("envoy.config.cluster.v3.Cluster"),
        "name": name,
        "alt_stat_name": stat_name(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(places.endpoints / f"{name}.json")},
        "connect_timeout": CONNECT_TIMEOUT,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 2, "keepalive_interval": 1, "keepalive_probes": 2}
        },
        "upstream_bind_config": {
            "socket_options": [
                {
                    "description": "a silent machine is cut off",
                    "level": TCP,
                    "name": USER_TIMEOUT,
                    "int_value": SILENT_MS,
                    "state": "STATE_PREBIND",
                }
            ]
        },
        "lb_policy": "LEAST_REQUEST",
        "metadata": {"filter_metadata": {NAMESPACE: {"model": upstream.model, "version": upstream.version}}},
        "circuit_breakers": {"thresholds": [_limits(is_shadow)]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_url("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": "60s"},
                "outlier_detection": _FAULTS,
                "http_filters": [
                    named_filter("lua", "envoy.extensions.filters.http.lua.v3.Lua", {
                        "default_source_code": {"inline_string": upstream_lua(upstream, route, path, is_shadow)},
                    }),
                    named_filter("header_mutation", "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", {
                        "mutations": {"request_mutations": [
                            {"append": overwrite("authorization", _OF_THE_NODE)},
                            {"remove": "expect"},  # TorchServe answers 417, and reads the body as the next request
                        ]},
                    }),
                    named_filter("upstream_codec", "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec", {}),
                ],
            }
        },
        **({} if is_shadow else {"health_checks": [_health_check(upstream, path)], "outlier_detection": _OUTLIERS}),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }  # fmt: skip


_OF_THE_NODE = f"%UPSTREAM_METADATA({NAMESPACE}:authorization)%"
#: Only what TorchServe answers itself is a fault of the node; a handler's own 500 and 504 are a client's to cause.
_FAULTS = {
    "error_matcher": {"http_response_headers_match": {"headers": [{"name": RETRY_HEADER, "present_match": True}]}}
}
_OUTLIERS = {
    "consecutive_5xx": 10,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_time": "30s",
    "max_ejection_percent": 67,
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 2,
}


def _limits(is_shadow: bool) -> Json:
    if is_shadow:
        return {
            "max_connections": SHADOW_CONNECTIONS,
            "max_pending_requests": SHADOW_PENDING,
            "max_requests": SHADOW_REQUESTS,
            "max_retries": 0,
        }
    return {
        "max_connections": CONNECTIONS,
        "max_pending_requests": PENDING,
        "max_requests": REQUESTS,
        "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 16},
    }


def _health_check(upstream: Upstream, path: str) -> Json:
    check: Json = {
        "timeout": CHECK_TIMEOUT,
        "interval": CHECK_INTERVAL,
        "no_traffic_interval": CHECK_INTERVAL,
        "unhealthy_interval": "1s",
        "initial_jitter": "0.2s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "reuse_connection": False,  # TorchServe closes a connection after an error, and a check must not fail of that
    }
    if upstream.probe is None:
        return {**check, "tcp_health_check": {}}
    return {
        **check,
        "http_health_check": {
            "path": path,
            "method": "POST",
            "send": {"text": upstream.probe.body.hex()},
            "request_headers_to_add": [
                overwrite("content-type", upstream.probe.media_type),
                overwrite("content-length", str(len(upstream.probe.body))),
                overwrite("cache-control", "no-store"),
                overwrite("authorization", _OF_THE_NODE),
            ],
        },
    }


def upstream_lua(upstream: Upstream, route: RouteSpec, path: str, is_shadow: bool) -> str:
    """The filter that gives a request its path on the node; see upstream.lua."""
    constants = {
        "PATH": json.dumps(path),
        "DEADLINE_MS": str(round(route.deadline_s * 1000)),
        "IS_SHADOW": "true" if is_shadow else "false",
        "MODEL": json.dumps(upstream.model),
        "VERSION": json.dumps(upstream.version),
    }
    source = (Path(__file__).parent / "upstream.lua").read_text(encoding="utf-8")
    return "".join(f"local {name} = {value}\n" for name, value in constants.items()) + source
