"""What Envoy is started with: its listeners, the filters of every request, its log and its numbers. Pure."""

from __future__ import annotations

import json
from pathlib import Path

from tsctl.config.deployment import GatewaySpec
from tsctl.gateway.access_log import log_format
from tsctl.gateway.counters import BUCKETS_MS, stats_logger
from tsctl.gateway.envoy.messages import (
    CONNECT_TIMEOUT,
    GRPC_FILTER,
    NAMESPACE,
    USER_FILTER,
    USER_KIND,
    Json,
    address,
    document,
    equals,
    named_filter,
    type_url,
    watched,
)
from tsctl.gateway.envoy.render.inputs import Places
from tsctl.gateway.headers import OWN_PREFIX
from tsctl.gateway.problems import local_replies

STRICT_CHUNKS = "envoy.reloadable_features.strict_chunk_parsing"
#: Histograms are told so late; counters at once.
FLUSH = "1s"

#: A request has arrived whole by then, or is answered 408; a route's deadline begins only where this one ends.
REQUEST_TIMEOUT = "60s"
#: TorchServe reads 8 KiB of headers, the gateway's own among them; what has more is answered 431 before a node sees it.
HEADERS_KB = 7


def bootstrap(spec: GatewaySpec, places: Places) -> Json:
    """What Envoy is started with; everything that changes later is in the files that it names."""
    addresses = spec.listens_on_all
    return {
        "node": {"id": "tsctl-gateway", "cluster": "tsctl", "metadata": {NAMESPACE: settings(spec)}},
        "admin": {"address": {"pipe": {"path": str(places.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": watched(places.clusters)},
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": address(*addresses["address"]),
                    "per_connection_buffer_limit_bytes": 1 << 20,
                    "filter_chains": [_filter_chain(spec, places)],
                },
                {
                    "name": "metrics",
                    "address": address(*addresses["metrics"]),
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
        "stats_flush_interval": FLUSH,
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"safe_regex": {"regex": ".*"}}, "buckets": list(BUCKETS_MS)}]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url("envoy.extensions.resource_monitors.downstream_connections.v3."
                                       "DownstreamConnectionsConfig"),
                        "max_active_downstream_connections": 20_000,
                    },
                }
            ]
        },
    }  # fmt: skip


def settings(spec: GatewaySpec) -> Json:
    """What Envoy takes when it starts and not again; it carries this with it, so that it can be asked for it."""
    found: Json = spec.model_dump(mode="json", include={"address", "metrics", "tls", "request_bytes"})
    return found


def _filter_chain(spec: GatewaySpec, places: Places) -> Json:
    chain: Json = {"filters": [_connection_manager(spec, places)]}
    if spec.tls is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificate_sds_secret_configs": [
                        {"name": "certificate", "sds_config": watched(places.certificate)}
                    ],
                },
            },
        }
    return chain


def _connection_manager(spec: GatewaySpec, places: Places) -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": type_url(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": "clients",
            "rds": {"route_config_name": "clients", "config_source": watched(places.routes)},
            "http_filters": _filters(spec, places),
            "access_log": [access_log(places), stats_logger()],
            "local_reply_config": local_replies(),
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_id_extension": {
                "typed_config": {
                    "@type": type_url("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"),
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
    return named_filter(
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
                "config_source": watched(places.ready),
                "type_urls": [type_url("envoy.extensions.filters.http.health_check.v3.HealthCheck")],
            },
        },
        {**named_filter(GRPC_FILTER, "envoy.extensions.filters.http.lua.v3.Lua", {}), "disabled": True},
        named_filter("api_key_auth", "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth", {}),
        {**named_filter(USER_FILTER, USER_KIND, {}), "disabled": True},
        named_filter("local_ratelimit", "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", {
            "stat_prefix": "unlimited",
        }),
        named_filter("buffer", "envoy.extensions.filters.http.buffer.v3.Buffer", {
            "max_request_bytes": spec.request_bytes,
        }),
        named_filter("router", "envoy.extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True}),
    ]  # fmt: skip


def access_log(places: Places) -> Json:
    """A line of JSON for each request."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.file.v3.FileAccessLog"),
            "path": str(places.access_log),
            "log_format": log_format(),
        },
    }


def _metrics_filter() -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "metrics",
            "http_filters": [named_filter("router", "envoy.extensions.filters.http.router.v3.Router", {})],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "metrics",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"path": "/metrics", "headers": [equals(":method", "GET")]},
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
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.Secret"),
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
