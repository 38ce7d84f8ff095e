"""The settings that Envoy starts with: its listeners and the filters of every request. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tsctl.config.deployment import GatewaySpec
from tsctl.config.tracing import TracingSpec
from tsctl.gateway.access_log import file_loggers, lines_filter, unless_inside
from tsctl.gateway.counters import histogram_settings, stats_loggers
from tsctl.gateway.envoy.messages import (
    CONNECT_TIMEOUT,
    NAMESPACE,
    Json,
    address,
    document,
    equals,
    extension,
    http_filter,
    lua,
    typed,
    watched,
)
from tsctl.gateway.envoy.render.bodies import PART_OF_GRPC, places_filters
from tsctl.gateway.envoy.render.clients import BUDGET_FILTER, KEY_FILTER
from tsctl.gateway.envoy.render.grpc import GRPC, TORCHSERVE_SERVICE, grpc_filters
from tsctl.gateway.envoy.render.health import HEALTH, health_listener
from tsctl.gateway.envoy.render.inside import bootstrap_extensions, connection_manager, inside_cluster, inside_listener
from tsctl.gateway.envoy.render.openai import TOKENS, openai_filters, tokens_listener
from tsctl.gateway.envoy.render.overload import Bounds, overload_manager
from tsctl.gateway.envoy.render.problems import REFUSED_HEADER_KEY, local_replies
from tsctl.gateway.envoy.render.protocol import index_filter
from tsctl.gateway.envoy.render.routes import CORS_FILTER, USER_FILTER, USER_FILTER_TYPE
from tsctl.gateway.envoy.render.tracing import collector_cluster, removed_headers, tracing_settings
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.headers import OWN_PREFIX

#: Bytes behind a chunk that its size does not count are refused, and not read over.
STRICT_CHUNKS = "envoy.reloadable_features.strict_chunk_parsing"
#: Delay of histograms; counters have none.
FLUSH = "1s"
#: Until then a request must have arrived whole, or is answered 408; a route's deadline begins only where this one ends.
REQUEST_TIMEOUT = "60s"
#: TorchServe reads 8 KiB of headers, the gateway's own among them; larger ones are answered 431 and reach no node.
HEADERS_KB = 7
#: An answer that is complete is given up where the client takes nothing of it for so long.
FLUSH_TIMEOUT = "15s"
#: Of one connection of HTTP/2. The windows bound what its client may send before the gateway has read it.
STREAMS: Json = {
    "max_concurrent_streams": 128,
    "initial_stream_window_size": 256 << 10,
    "initial_connection_window_size": 1 << 20,
}


def bootstrap(spec: GatewaySpec, files: GatewayFiles, bounds: Bounds, tracing: TracingSpec | None = None) -> Json:
    """Envoy's start file; everything that changes later is in the files that it names."""
    return {
        "node": {"id": "tsctl-gateway", "cluster": "tsctl", "metadata": {NAMESPACE: settings(spec, tracing)}},
        "admin": {"address": {"pipe": {"path": str(files.admin), "mode": 0o600}}},
        "dynamic_resources": {"cds_config": watched(files.clusters)},
        "bootstrap_extensions": bootstrap_extensions(),
        "static_resources": {
            "listeners": _listeners(spec, files, bounds, tracing),
            "clusters": _clusters(files, tracing),
        },
        "layered_runtime": {"layers": [{"name": "strict", "static_layer": {STRICT_CHUNKS: True}}]},
        "stats_flush_interval": FLUSH,
        "stats_config": histogram_settings(),
        "overload_manager": overload_manager(bounds),
    }


def _listeners(spec: GatewaySpec, files: GatewayFiles, bounds: Bounds, tracing: TracingSpec | None) -> list[Json]:
    addresses = spec.listens_on_all
    return [
        {
            "name": "clients",
            "address": address(*addresses["address"]),
            "per_connection_buffer_limit_bytes": 1 << 20,
            "filter_chains": [_filter_chain(spec, files, bounds, tracing)],
        },
        {
            "name": "metrics",
            "address": address(*addresses["metrics"]),
            "filter_chains": [{"filters": [_metrics_page()]}],
        },
        inside_listener(
            GRPC,
            **_of_clients(spec, files, bounds.waiting_bytes // PART_OF_GRPC)
            | {"delayed_close_timeout": "0s"}  # a stream that broke inside breaks at its client at once
            | (_traced(tracing, ()) if tracing else {}),  # the trace is that of the listener of clients
        ),
        health_listener(files),
        tokens_listener(files),
    ]


def _clusters(files: GatewayFiles, tracing: TracingSpec | None) -> list[Json]:
    """Ways to parts of Envoy itself, and to the collector of spans."""
    inside = [_admin_cluster(files), inside_cluster(GRPC), inside_cluster(HEALTH), inside_cluster(TOKENS)]
    return [*inside, collector_cluster(tracing)] if tracing else inside


def _admin_cluster(files: GatewayFiles) -> Json:
    """The administration interface, to which the listener of metrics sends requests for one page."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(files.admin)}}}}
    return {
        "name": "admin",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {"cluster_name": "admin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


#: Keys of the gateway in deployment.yaml that Envoy reads only when it starts.
_STARTED_WITH = ("address", "metrics", "tls", "request_bytes", "memory_bytes", "waiting_bytes")


def settings(spec: GatewaySpec, tracing: TracingSpec | None) -> Json:
    """The part of the deployment that Envoy reads only when it starts. A running Envoy answers with it when asked."""
    content: Json = spec.model_dump(mode="json", include=set(_STARTED_WITH))
    return content | ({"tracing": tracing.model_dump(mode="json")} if tracing else {})


def _filter_chain(spec: GatewaySpec, files: GatewayFiles, bounds: Bounds, tracing: TracingSpec | None) -> Json:
    waiting = bounds.waiting_bytes - bounds.waiting_bytes // PART_OF_GRPC
    content = _of_clients(spec, files, waiting) | (_traced(tracing, removed_headers(tracing)) if tracing else {})
    chain: Json = {"filters": [connection_manager("clients", **content)]}
    if spec.tls is not None:
        chain["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [
                    {"name": "certificate", "sds_config": watched(files.certificate)}
                ],
            },
        )
    return chain


def _of_clients(spec: GatewaySpec, files: GatewayFiles, waiting_bytes: int) -> Json:
    return {
        "rds": {"route_config_name": "clients", "config_source": watched(files.routes)},
        "http_filters": _filters(spec, files, waiting_bytes),
        "access_log": [*map(unless_inside, file_loggers(files.access_log)), *stats_loggers()],
        "local_reply_config": local_replies(),
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": _request_id(),
        "early_header_mutation_extensions": [_removal_of_headers()],
        "use_remote_address": True,
        "skip_xff_append": False,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",  # no route has one, so it is 404
        "strip_any_host_port": True,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "headers_with_underscores_action": "ALLOW",  # names.lua refuses them, and says which
            "max_headers_count": 100,
        },
        "http2_protocol_options": STREAMS,
        "request_headers_timeout": "10s",
        "max_request_headers_kb": HEADERS_KB,
        "request_timeout": REQUEST_TIMEOUT,
        "stream_idle_timeout": "0s",  # the route's deadline ends a request
        "stream_flush_timeout": FLUSH_TIMEOUT,
        "delayed_close_timeout": "1s",
    }  # fmt: skip


def _traced(tracing: TracingSpec, removed: Sequence[str]) -> Json:
    """What a connection manager has besides where requests are traced.

    Args:
        removed: headers that are gone before they are read.
    """
    return {
        "tracing": tracing_settings(tracing),
        "early_header_mutation_extensions": [_removal_of_headers(removed)],
        "request_id_extension": _request_id(use_request_id_for_trace_sampling=False),  # a client may choose its id
    }


def _request_id(**content: bool) -> Json:
    kind = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return {"typed_config": typed(kind, pack_trace_reason=False, **content)}


def _removal_of_headers(names: Sequence[str] = ()) -> Json:
    """A client's headers of these names, and those with the gateway's own prefix, are gone before a filter, a bucket
    or the log reads them."""
    return extension(
        "early_header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            {"remove_on_match": {"key_matcher": {"prefix": OWN_PREFIX}}},
            *({"remove": name} for name in names),
        ],
    )


def _filters(spec: GatewaySpec, files: GatewayFiles, waiting_bytes: int) -> list[Json]:
    names = lua(
        "names.lua", NAMESPACE=NAMESPACE, REFUSED_HEADER_KEY=REFUSED_HEADER_KEY, IGNORING=f"/{TORCHSERVE_SERVICE}/"
    )
    first_of_grpc, last_of_grpc = grpc_filters()
    return [
        lines_filter(),
        http_filter("names", "lua.v3.Lua", default_source_code=names),
        {
            **http_filter(CORS_FILTER, "cors.v3.Cors"),
            "disabled": True,
        },  # before the key, which no browser sends with a preflight request
        http_filter(KEY_FILTER, "api_key_auth.v3.ApiKeyAuth"),
        http_filter(BUDGET_FILTER, "local_ratelimit.v3.LocalRateLimit", stat_prefix="unlimited"),
        *first_of_grpc,
        index_filter(),
        *openai_filters(),
        {**http_filter(USER_FILTER, USER_FILTER_TYPE), "disabled": True},  # where the route is known
        http_filter("buffer", "buffer.v3.Buffer", max_request_bytes=spec.request_bytes),
        *places_filters(waiting_bytes, spec.request_bytes),
        *last_of_grpc,
        http_filter("router", "router.v3.Router", suppress_envoy_headers=True),
    ]


def _metrics_page() -> Json:
    """Of the administration interface, this page and nothing else."""
    page = {
        "match": {"path": "/metrics", "headers": [equals(":method", "GET")]},
        "route": {"cluster": "admin", "prefix_rewrite": "/stats/prometheus"},
    }
    return connection_manager(
        "metrics",
        http_filters=[http_filter("router", "router.v3.Router")],
        route_config={"virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": [page]}]},
    )


def certificate(chain: str, key: str) -> Json:
    """The listener's certificate and its key, in PEM."""
    secret = typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        name="certificate",
        tls_certificate={"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
    )
    return document([secret])


def whole(bootstrap: Json, clusters: Json, routes: Json, ready: Json, tokens: Json) -> Json:
    """All files in one, as `envoy --mode validate` reads it, which does not follow the files that a bootstrap names."""
    merged: Json = json.loads(json.dumps(bootstrap))
    del merged["dynamic_resources"]
    merged["static_resources"]["clusters"] += [_untyped(cluster) for cluster in clusters["resources"]]
    by_name = {document["resources"][0]["name"]: document["resources"][0] for document in (routes, tokens)}
    [filter_] = ready["resources"]
    for listener in merged["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if "rds" in manager:
            manager["route_config"] = _untyped(by_name[manager.pop("rds")["route_config_name"]])
        if listener["name"] == HEALTH:
            manager["http_filters"][0] = _untyped(filter_)
    return merged


def _untyped(resource: Json) -> Json:
    return {key: value for key, value in resource.items() if key != "@type"}
