"""Spans of requests: which requests have some, what they say, and the way to the collector. Pure.

Invariants: without `tracing` in deployment.yaml nothing here is rendered. Unless the deployment continues clients'
traces, no client decides whether its request is traced.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CACHE_HEADER,
    CLIENT_HEADER,
    REQUEST_ID_HEADER,
    TRACEPARENT_HEADER,
    TRACESTATE_HEADER,
)
from tsctl.config.tracing import TRACES_PATH, TracingSpec
from tsctl.gateway.envoy.messages import CONNECT_TIMEOUT, Json, address, extension, request_header
from tsctl.gateway.headers import VERSION_HEADER

#: The name of the collector's cluster.
COLLECTOR = "collector"
#: Of the gateway's spans; workers have a name of their own.
SERVICE = "tsctl-gateway"
#: Spans are dropped where the collector does not take them for so long.
SEND_TIMEOUT = "2s"
#: Spans that wait on each of Envoy's threads; later ones are dropped.
MOST_WAITING = 4096
_SAMPLERS = "envoy.extensions.tracers.opentelemetry.samplers.v3"
#: Headers by which a client could have its request traced, or traced as part of a trace of its own.
OF_CLIENTS = (TRACEPARENT_HEADER, TRACESTATE_HEADER, "x-client-trace-id", "x-envoy-force-trace")


def tracing_settings(spec: TracingSpec) -> Json:
    """The field `tracing` of a connection manager."""
    return {
        "client_sampling": {"value": 0},
        "spawn_upstream_span": True,  # each try of a request has a span, which is the parent of its worker's
        "operation": "request",
        "upstream_operation": "try",
        "custom_tags": [
            {"tag": name, "value": value}
            for name, value in {
                "http.url": "%PATH(NQ:PATH)%",  # without its query, in which a client may have put a key
                "tsctl.request_id": request_header(REQUEST_ID_HEADER, 128),
                "tsctl.model": "%ROUTE_NAME%",
                "tsctl.version": request_header(VERSION_HEADER),
                "tsctl.track": request_header(ASSIGNED_TRACK_HEADER),
                "tsctl.client": request_header(CLIENT_HEADER),
                "tsctl.cache": f"%RESP({CACHE_HEADER}):128%",
            }.items()
        ],
        "provider": extension(
            "envoy.tracers.opentelemetry",
            "envoy.config.trace.v3.OpenTelemetryConfig",
            service_name=SERVICE,
            max_cache_size=MOST_WAITING,
            sampler=extension(
                "envoy.tracers.opentelemetry.samplers.parent_based",
                f"{_SAMPLERS}.ParentBasedSamplerConfig",
                wrapped_sampler=extension(
                    "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
                    f"{_SAMPLERS}.TraceIdRatioBasedSamplerConfig",
                    sampling_percentage={"numerator": round(spec.share * 1e6), "denominator": "MILLION"},
                ),
            ),
            http_service={
                "http_uri": {"uri": spec.endpoint + TRACES_PATH, "cluster": COLLECTOR, "timeout": SEND_TIMEOUT}
            },
        ),
    }


def removed_headers(spec: TracingSpec) -> tuple[str, ...]:
    """Headers of a client that are gone before anything reads them."""
    return () if spec.continue_clients else OF_CLIENTS


def collector_cluster(spec: TracingSpec) -> Json:
    """The way to the collector, by its IP address or by a name that Envoy looks up."""
    parts = urlsplit(spec.endpoint)
    host = parts.hostname or ""
    endpoint = {"endpoint": {"address": address(host, parts.port or 0)}}
    return {
        "name": COLLECTOR,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {"cluster_name": COLLECTOR, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
