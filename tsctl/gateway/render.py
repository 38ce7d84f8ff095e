"""From deployment, nodes, traffic and keys to what Envoy reads: JSON documents, one for each file. Pure.

Invariant: a request's path on a node is made from the cluster's model and version and never from the client's path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tsctl.deployment import Budget, GatewaySpec, RouteSpec
from tsctl.gateway.problems import local_replies
from tsctl.gateway.traffic import TOTAL, Shadow, Traffic

Json = dict[str, Any]

#: Headers that only the gateway may write; a client's are forgotten.
OWN_PREFIX = "x-tsctl-"
CLIENT_HEADER = "x-tsctl-client"
TRACK_HEADER = "x-track"
#: What a worker sees of how a request came to it, whatever the client sent by these names.
PLAYED_HEADER, WEIGHT_HEADER, SHADOW_HEADER = "x-tsctl-track", "x-tsctl-weight", "x-tsctl-shadow"
KEY_HEADER = "x-api-key"
#: Set by upstream.lua on what TorchServe answers itself; says whether a worker may have seen the request.
RETRY_HEADER = "x-tsctl-retry"
NAMESPACE = "tsctl"
PINNED = "pinned"
#: The Open Inference Protocol's paths; a worker is told by a header that the request came by one of them.
PROTOCOL_PREFIX, PROTOCOL_HEADER, OIP = "/v2/", "x-tsctl-protocol", "oip-v2"
STRICT_CHUNKS = "envoy.reloadable_features.strict_chunk_parsing"
GRPC_FILTER = "grpc"

#: Milliseconds; from one that a cached answer takes to the longest deadline that people set.
BUCKETS_MS = (
    1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10_000,
    30_000, 60_000,
)  # fmt: skip

#: A request has arrived whole by then, or is answered 408; a route's deadline begins only where this one ends.
REQUEST_TIMEOUT = "60s"
#: TorchServe reads 8 KiB of headers, the gateway's own among them; what has more is answered 431 before a node sees it.
HEADERS_KB = 7
CONNECT_TIMEOUT = "1s"
#: What was sent to a machine that is silent for so long is lost: without this, a request that was on its way when a
#: cable was cut would wait for its whole deadline. A machine that is up acknowledges, however long a worker takes.
SILENT_MS = 4000
TCP, USER_TIMEOUT = 6, 18  # IPPROTO_TCP and TCP_USER_TIMEOUT of Linux
#: How often another node is picked for a retry before it goes to the one that failed. LEAST_REQUEST compares two random
#: nodes, and one that has just died has no request in hand: beside one busy node it wins three times in four.
REPICKS = 50
#: How often a version is asked for a sample, on each node.
CHECK_INTERVAL = "2s"
CHECK_TIMEOUT = "10s"
#: At most so many requests of a version on their way, waiting and in all; TorchServe's own queue says 503 earlier.
CONNECTIONS, PENDING, REQUESTS = 1024, 4096, 8192
#: A shadow's copies are dropped beyond these.
SHADOW_CONNECTIONS, SHADOW_PENDING, SHADOW_REQUESTS = 64, 16, 80


@dataclass(frozen=True)
class Endpoint:
    """One node that serves a version."""

    node: str
    host: str  # an IP address
    port: int
    token: str | None = field(repr=False)  # None: the node asks for none


@dataclass(frozen=True)
class Probe:
    """What a health check sends, and a worker that works answers with 200."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Upstream:
    """One version, and the nodes that serve it."""

    model: str
    version: str
    endpoints: tuple[Endpoint, ...]
    probe: Probe | None  # None: an archive without samples, of which only the connection is checked


@dataclass(frozen=True)
class Client:
    """Somebody with a key."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    budget: Budget | None = None  # None: the gateway's own


@dataclass(frozen=True)
class Places:
    """Files that Envoy reads and writes, absolute."""

    folder: Path

    @property
    def bootstrap(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.json"

    @property
    def routes(self) -> Path:
        return self.folder / "routes.json"

    @property
    def ready(self) -> Path:
        """Which clusters /readyz asks for."""
        return self.folder / "ready.json"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.json"

    @property
    def endpoints(self) -> Path:
        """A folder with a file for each cluster."""
        return self.folder / "endpoints"

    @property
    def access_log(self) -> Path:
        return self.folder / "logs" / "access.log"

    @property
    def admin(self) -> Path:
        """A Unix socket; its path may have 108 bytes."""
        return self.folder / "admin.sock"


def cluster_name(model: str, version: str, is_shadow: bool = False) -> str:
    """The name of a version's cluster, or of the one that its copies go through."""
    return f"{model}~{version}" + ("~shadow" if is_shadow else "")


def document(resources: Sequence[Json]) -> Json:
    """A file of resources whose version is its content's digest, so that equal contents have equal versions."""
    content = json.dumps(resources, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:16], "resources": list(resources)}


# ---- bootstrap ---------------------------------------------------------------------------------------------------


def bootstrap(spec: GatewaySpec, places: Places) -> Json:
    """What Envoy is started with; everything that changes later is in the files that it names."""
    addresses = spec.listens_on_all
    return {
        "node": {"id": "tsctl-gateway", "cluster": "tsctl"},
        "admin": {"address": {"pipe": {"path": str(places.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": _watched(places.clusters)},
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": _address(*addresses["address"]),
                    "per_connection_buffer_limit_bytes": 1 << 20,
                    "filter_chains": [_filter_chain(spec, places)],
                },
                {
                    "name": "metrics",
                    "address": _address(*addresses["metrics"]),
                    "filter_chains": [{"filters": [_metrics_filter()]}],
                },
            ],
            "clusters": [
                {
                    "name": "admin",
                    "connect_timeout": CONNECT_TIMEOUT,
                    "load_assignment": {
                        "cluster_name": "admin",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(places.admin)}}}}]}
                        ],
                    },
                }
            ],
        },
        # bytes behind a chunk that its size does not count are refused, and not read over
        "layered_runtime": {"layers": [{"name": "strict", "static_layer": {STRICT_CHUNKS: True}}]},
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"safe_regex": {"regex": ".*"}}, "buckets": list(BUCKETS_MS)}]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _type("envoy.extensions.resource_monitors.downstream_connections.v3."
                                       "DownstreamConnectionsConfig"),
                        "max_active_downstream_connections": 20_000,
                    },
                }
            ]
        },
    }  # fmt: skip


def _filter_chain(spec: GatewaySpec, places: Places) -> Json:
    chain: Json = {"filters": [_connection_manager(spec, places)]}
    if spec.tls is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _type("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificate_sds_secret_configs": [
                        {"name": "certificate", "sds_config": _watched(places.certificate)}
                    ],
                },
            },
        }
    return chain


def _connection_manager(spec: GatewaySpec, places: Places) -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _type(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": "clients",
            "rds": {"route_config_name": "clients", "config_source": _watched(places.routes)},
            "http_filters": _filters(spec, places),
            "access_log": [access_log(places)],
            "local_reply_config": local_replies(),
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_id_extension": {
                "typed_config": {
                    "@type": _type("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"),
                    "pack_trace_reason": False,
                }
            },
            "early_header_mutation_extensions": [_forgotten()],
            "use_remote_address": True,
            "skip_xff_append": False,
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",  # no route has one, so it is 404
            "strip_any_host_port": True,
            "server_header_transformation": "PASS_THROUGH",
            "common_http_protocol_options": {
                "idle_timeout": "300s",
                "headers_with_underscores_action": "REJECT_REQUEST",
                "max_headers_count": 100,
            },
            "http2_protocol_options": {"max_concurrent_streams": 128},
            "request_headers_timeout": "10s",
            "max_request_headers_kb": HEADERS_KB,
            "request_timeout": REQUEST_TIMEOUT,
            "stream_idle_timeout": "0s",  # the route's deadline ends a request
            "delayed_close_timeout": "1s",
        },
    }  # fmt: skip


def _forgotten() -> Json:
    """What a client sends by the gateway's own names is gone before a filter, a bucket or the access log reads it."""
    return _filter(
        "early_header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        {"mutations": [{"remove_on_match": {"key_matcher": {"prefix": OWN_PREFIX}}}]},
    )


def _filters(spec: GatewaySpec, places: Places) -> list[Json]:
    return [
        # which clusters it asks for changes with the routes, and a filter of its own file needs no new listener
        {
            "name": "ready",
            "config_discovery": {
                "config_source": _watched(places.ready),
                "type_urls": [_type("envoy.extensions.filters.http.health_check.v3.HealthCheck")],
            },
        },
        {**_filter(GRPC_FILTER, "envoy.extensions.filters.http.lua.v3.Lua", {}), "disabled": True},
        _filter("api_key_auth", "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth", {}),
        _filter("local_ratelimit", "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", {
            "stat_prefix": "unlimited",
        }),
        _filter("buffer", "envoy.extensions.filters.http.buffer.v3.Buffer", {"max_request_bytes": spec.request_bytes}),
        _filter("router", "envoy.extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True}),
    ]  # fmt: skip


def access_log(places: Places) -> Json:
    """A line of JSON for each request."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _type("envoy.extensions.access_loggers.file.v3.FileAccessLog"),
            "path": str(places.access_log),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "client": f"%REQ({CLIENT_HEADER})%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(:PATH)%",
                    "model": "%METADATA(ROUTE:tsctl:model)%",
                    "version": "%METADATA(CLUSTER:tsctl:version)%",
                    "track": f"%REQ({PLAYED_HEADER})%",
                    "weight": f"%REQ({WEIGHT_HEADER})%",
                    "protocol": f"%REQ({PROTOCOL_HEADER})%",
                    "status": "%RESPONSE_CODE%",
                    "duration_ms": "%DURATION%",
                    "bytes_in": "%BYTES_RECEIVED%",
                    "bytes_out": "%BYTES_SENT%",
                    "flags": "%RESPONSE_FLAGS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "node": "%UPSTREAM_HOST%",
                    "shadow": "%METADATA(ROUTE:tsctl:shadow)%",
                }
            },
        },
    }


def _metrics_filter() -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _type("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "metrics",
            "http_filters": [_filter("router", "envoy.extensions.filters.http.router.v3.Router", {})],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "metrics",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"path": "/metrics", "headers": [_equals(":method", "GET")]},
                                "route": {"cluster": "admin", "prefix_rewrite": "/stats/prometheus"},
                            }
                        ],
                    }
                ]
            },
        },
    }


def certificate(chain: Path, key: Path) -> Json:
    """The listener's certificate, read again when something is renamed into the folder of one of its files."""
    return document(
        [
            {
                "@type": _type("envoy.extensions.transport_sockets.tls.v3.Secret"),
                "name": "certificate",
                "tls_certificate": {
                    "certificate_chain": {"filename": str(chain)},
                    "private_key": {"filename": str(key)},
                    "watched_directory": {"path": str(chain.parent)},
                },
            }
        ]
    )


def whole(bootstrap: Json, clusters: Json, routes: Json, ready: Json) -> Json:
    """All files in one, as `envoy --mode validate` reads it, which does not follow the files that a bootstrap names."""
    found: Json = json.loads(json.dumps({key: value for key, value in bootstrap.items() if key != "dynamic_resources"}))
    plain = [{key: value for key, value in cluster.items() if key != "@type"} for cluster in clusters["resources"]]
    found["static_resources"]["clusters"] += plain
    [chain] = found["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    [configuration] = routes["resources"]
    del manager["rds"]
    manager["route_config"] = {key: value for key, value in configuration.items() if key != "@type"}
    [filter_] = ready["resources"]
    manager["http_filters"][0] = {"name": filter_["name"], "typed_config": filter_["typed_config"]}
    return found


# ---- clusters ----------------------------------------------------------------------------------------------------


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
            "endpoint": {"address": _address(endpoint.host, endpoint.port), "hostname": endpoint.node},
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
                "@type": _type("envoy.config.endpoint.v3.ClusterLoadAssignment"),
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": found}],
            }
        ]
    )


def _cluster(upstream: Upstream, route: RouteSpec, is_shadow: bool, places: Places) -> Json:
    name = cluster_name(upstream.model, upstream.version, is_shadow)
    path = f"/predictions/{quote(upstream.model, safe='')}/{quote(upstream.version, safe='')}"
    return {
        "@type": _type("envoy.config.cluster.v3.Cluster"),
        "name": name,
        "alt_stat_name": stat_name(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(places.endpoints / f"{name}.json")},
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
                "@type": _type("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": "60s"},
                "outlier_detection": _FAULTS,
                "http_filters": [
                    _filter("lua", "envoy.extensions.filters.http.lua.v3.Lua", {
                        "default_source_code": {"inline_string": upstream_lua(upstream, route, path, is_shadow)},
                    }),
                    _filter("header_mutation", "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", {
                        "mutations": {"request_mutations": [
                            {"append": _overwrite("authorization", _OF_THE_NODE)},
                            {"remove": "expect"},  # TorchServe answers 417, and reads the body as the next request
                        ]},
                    }),
                    _filter("upstream_codec", "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec", {}),
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
                _overwrite("content-type", upstream.probe.media_type),
                _overwrite("content-length", str(len(upstream.probe.body))),
                _overwrite("cache-control", "no-store"),
                _overwrite("authorization", _OF_THE_NODE),
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


def stat_name(cluster: str) -> str:
    """A cluster's name as it stands in Envoy's statistics, where a dot would separate."""
    return cluster.replace(".", "-")


# ---- routes ------------------------------------------------------------------------------------------------------


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
                "@type": _type("envoy.config.route.v3.RouteConfiguration"),
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
    """The filter that answers /readyz: 200 where the stable version of every route can answer on some node."""
    return document(
        [
            {
                "@type": _type("envoy.config.core.v3.TypedExtensionConfig"),
                "name": "ready",
                "typed_config": {
                    "@type": _type("envoy.extensions.filters.http.health_check.v3.HealthCheck"),
                    "pass_through_mode": False,
                    "headers": [{"name": ":path", "string_match": {"safe_regex": {"regex": _READY_PATHS}}}],
                    "cluster_min_healthy_percentages": {
                        cluster_name(one.model, one.stable): {"value": 1.0} for one in traffic
                    },
                },
            }
        ]
    )


_READY_PATHS = f"/readyz|{PROTOCOL_PREFIX}health/ready"


def _routes_of(traffic: Traffic, route: RouteSpec) -> list[Json]:
    plain, prefix = f"/predictions/{traffic.model}", f"{PROTOCOL_PREFIX}models/{traffic.model}"
    by_protocol = _routes_at(traffic, route, f"{prefix}/infer", prefix + "/versions/{}/infer")
    spoken = {"request_headers_to_add": [_overwrite(PROTOCOL_HEADER, OIP)]}
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
        tried = {"path": path, "headers": [_equals(TRACK_HEADER, "canary")]}
        found.append(_route(traffic, route, tried, _one_version(traffic, traffic.canary)))
    found.append(_main_route(traffic, route, path))
    if route.pinned:
        found += [
            _route(traffic, route, {"path": pinned.format(version)}, _one_version(traffic, version, PINNED))
            for version in traffic.versions
        ]
    return found


def _main_route(traffic: Traffic, route: RouteSpec, path: str) -> Json:
    """By weight, and with copies for the shadow. Its metadata is what `traffic_of` reads back."""
    action = _by_weight(traffic, route)
    told: Json = {"weights": dict(traffic.weights), "order": list(traffic.weights)}
    if traffic.canary is not None:
        told["canary"] = traffic.canary
    if traffic.shadow is not None:
        told |= {"shadow": traffic.shadow.version, "shadow_share": traffic.shadow.share}
        share = {"numerator": traffic.shadow.share, "denominator": "TEN_THOUSAND"}
        shadow = cluster_name(traffic.model, traffic.shadow.version, is_shadow=True)
        action["request_mirror_policies"] = [{"cluster": shadow, "runtime_fraction": {"default_value": share}}]
    return _route(traffic, route, {"path": path}, action, told)


def _route(traffic: Traffic, route: RouteSpec, match: Json, action: Json, told: Json | None = None) -> Json:
    return {
        "match": {**match, "headers": [*match.get("headers", ()), _equals(":method", "POST")]},
        "metadata": {"filter_metadata": {NAMESPACE: {"model": traffic.model, **(told or {})}}},
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
        "request_headers_to_add": [_overwrite(PLAYED_HEADER, track or "none"), _overwrite(WEIGHT_HEADER, str(weight))],
        "response_headers_to_add": [_overwrite("x-model-version", version)],
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
                    "@type": _type("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
                },
            }
        ],
        "host_selection_retry_max_attempts": REPICKS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }


def _no_grpc() -> Json:
    """415 for what calls itself gRPC: Envoy would answer all of it, unknown keys too, with status 200."""
    source = (Path(__file__).parent / "grpc.lua").read_text(encoding="utf-8")
    kind = _type("envoy.extensions.filters.http.lua.v3.LuaPerRoute")
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
            "response_headers_to_add": [_overwrite("content-type", media_type)],
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
            "response_headers_to_add": [_overwrite("allow", "POST")],
            "typed_per_filter_config": _WITHOUT_KEY,
        }
        for path in paths
    ]


def _nothing_else() -> Json:
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404}, "typed_per_filter_config": _WITHOUT_KEY}


def _keys(clients: Sequence[Client]) -> Json:
    return {
        "@type": _type("envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"),
        "credentials": [{"key": key, "client": client.name} for client in clients for key in client.keys],
        "key_sources": [{"header": KEY_HEADER}],
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }


def _budgets(default: Budget, clients: Sequence[Client]) -> Json:
    own = [
        {"entries": [{"key": "client", "value": client.name}], "token_bucket": _bucket(client.budget)}
        for client in clients
        if client.budget is not None
    ]
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "tsctl.budgets"}
    return {
        "@type": _type("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
        "stat_prefix": "budgets",
        "token_bucket": {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "0.05s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limits": [{"actions": [{"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}]}],
        "descriptors": [*own, {"entries": [{"key": "client"}], "token_bucket": _bucket(default)}],
    }


def _bucket(budget: Budget) -> Json:
    """Filled twenty times a second where the rate allows it, so that a client need not wait for a whole second."""
    parts = 20 if budget.requests_per_s % 20 == 0 else 1
    return {
        "max_tokens": budget.burst,
        "tokens_per_fill": budget.requests_per_s // parts,
        "fill_interval": f"{1 / parts:g}s",
    }


# ---- words of Envoy ----------------------------------------------------------------------------------------------


def _type(name: str) -> str:
    return f"type.googleapis.com/{name}"


def _filter(name: str, kind: str, content: Json) -> Json:
    return {"name": name, "typed_config": {"@type": _type(kind), **content}}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _watched(path: Path) -> Json:
    """A file that Envoy reads again when something is renamed to its name."""
    return {
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
        "resource_api_version": "V3",
    }


def _equals(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def _overwrite(header: str, value: str) -> Json:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


#: Of a route that is answered to anybody.
_WITHOUT_KEY = {"api_key_auth": {"@type": _type("envoy.config.route.v3.FilterConfig"), "disabled": True}}
