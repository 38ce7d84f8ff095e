"""One cluster for each version, and one for a shadow's copies: nodes, health, limits, and the way to a worker. Pure.

Invariants: a request's path on a node is made from the cluster's model and version and never from the client's path.
All nodes of all clusters are in one document, so Envoy watches one file: for a file of each cluster it would take an
inotify instance of each, of which the kernel gives a user 128.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from handlers.contract import (
    CHECK_HEADER,
    CHECK_HEALTH,
    TIMEOUT_HEADER,
)
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.messages import (
    CONNECT_TIMEOUT,
    Json,
    document,
    metadata,
    metadata_of,
    overwrite,
    typed,
)
from tsctl.gateway.envoy.render import openai, triton
from tsctl.gateway.envoy.render.upstreams import (
    PATH_KEY,
    Offer,
    Probe,
    Upstream,
    VersionKey,
    Way,
    cluster_name,
    endpoints,
    endpoints_of,
    stat_name,
)
from tsctl.gateway.envoy.render.worker_filters import TOKEN_OF_NODE, worker_filters

#: Requests sent to a machine that is silent for so long are lost: without this, a request that was on its way when a
#: cable was cut would wait for its whole deadline. A machine that is up acknowledges, however long a worker takes.
SILENT_MS = 4000
TCP, USER_TIMEOUT = 6, 18  # IPPROTO_TCP and TCP_USER_TIMEOUT of Linux
#: Ends the name in statistics of a cluster with a draining node. So what is counted under the name without it are the
#: requests that were sent before.
DRAINING = "~draining"
#: Of the health check of a version on one node. A check waits in the queue of clients' requests, so it has as long as
#: they have, and this long on top: the worker refuses what has waited longer, which takes it no time.
CHECK_INTERVAL = "2s"
CHECK_SLACK_S = 10.0
#: As long has the first check when Envoy starts, because Envoy takes no request before the first checks have ended.
FIRST_CHECK = "5s"
#: Versions of one gateway. For each, Envoy takes half a MiB of memory, and asks every node for its health.
MOST_VERSIONS = 1000
#: Limits of a version on all nodes together. TorchServe's own queue is shorter, and answers 503 earlier.
LIMITS: Json = {
    "max_connections": 1024,
    "max_pending_requests": 4096,
    "max_requests": 8192,
    "retry_budget": {"budget_percent": {"value": 50}, "min_retry_concurrency": 64},
}
#: A shadow's copies are dropped beyond these.
SHADOW_LIMITS: Json = {"max_connections": 64, "max_pending_requests": 16, "max_retries": 0}
MOST_COPIES = 80


def clusters(
    upstreams: Sequence[Upstream],
    routes: Mapping[str, RouteSpec],
    shadows: Collection[VersionKey],
    most_copies: int = MOST_COPIES,
) -> Json:
    """A cluster for each version, and one more for the copies of each that is a shadow.

    Args:
        most_copies: for a shadow at a time, as far as memory goes.
    """
    return document(
        [
            _cluster(upstream, routes.get(upstream.model, RouteSpec()), is_shadow, min(most_copies, MOST_COPIES))
            for upstream in upstreams
            for is_shadow in ((False, True) if upstream.key in shadows else (False,))
        ]
    )


def with_quick_checks(document: Json) -> Json:
    """The document of `clusters` with which Envoy starts; `clusters` itself follows when it takes requests."""
    return {
        **document,
        "resources": [
            {**cluster, "health_checks": [{**check, "timeout": FIRST_CHECK} for check in cluster["health_checks"]]}
            if "health_checks" in cluster
            else cluster
            for cluster in document["resources"]
        ],
    }


def upstreams_of(clusters: Mapping[str, Any]) -> list[Upstream]:
    """The versions in a document of `clusters`."""
    return [
        Upstream(
            offer=_offer(metadata_of(cluster)),
            model=metadata_of(cluster)["model"],
            version=metadata_of(cluster)["version"],
            endpoints=endpoints_of(cluster["load_assignment"]),
            probe=_probe(cluster["health_checks"][0]),
            way=_way(metadata_of(cluster)),
            is_stock=bool(metadata_of(cluster).get("stock", False)),
        )
        for cluster in clusters["resources"]
        if cluster.get("health_checks")  # else it is the cluster of a shadow's copies
    ]


def _probe(health_check: Mapping[str, Any]) -> Probe | None:
    request = health_check.get("http_health_check", {})  # none where an earlier tsctl wrote it
    if "send" not in request:
        return None
    headers = {entry["header"]["key"]: entry["header"]["value"] for entry in request["request_headers_to_add"]}
    return Probe(bytes.fromhex(request["send"]["text"]), headers["content-type"])


def _way(values: Mapping[str, Any]) -> Way | None:
    if "protocol" not in values:
        return None
    return Way(values["protocol"], values["path"], int(values["queue"]) if values["queue"] else None)


def _offer(values: Mapping[str, Any]) -> Offer | None:
    if "offer" not in values:
        return None
    return Offer(values["offer"], float(values["first_token_s"]), float(values["answer_s"]))


def _offered(offer: Offer | None) -> Json:
    if offer is None:
        return {}
    return {"offer": offer.kind, "first_token_s": offer.first_token_s, "answer_s": offer.answer_s}


def _cluster(upstream: Upstream, route: RouteSpec, is_shadow: bool, most_copies: int) -> Json:
    name = cluster_name(upstream.model, upstream.version, is_shadow)
    way = upstream.way
    path = way.path if way else f"/predictions/{quote(upstream.model, safe='')}/{quote(upstream.version, safe='')}"
    route = openai.spec_for(route, upstream.offer)
    checks = {} if is_shadow else {"health_checks": [_health_check(upstream, path, route.deadline_s)]}
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        alt_stat_name=stat_name(name) + (DRAINING if upstream.is_draining else ""),
        type="STATIC",
        load_assignment=endpoints(name, upstream),
        connect_timeout=CONNECT_TIMEOUT,
        upstream_connection_options={
            "tcp_keepalive": {"keepalive_time": 2, "keepalive_interval": 1, "keepalive_probes": 2}
        },
        upstream_bind_config={"socket_options": [_SILENCE]},
        lb_policy="LEAST_REQUEST",
        metadata=metadata(
            model=upstream.model,
            version=upstream.version,
            **{**(asdict(way) if way else {}), PATH_KEY: path, **_offered(upstream.offer)},
            **({"stock": True} if upstream.is_stock else {}),
        ),
        circuit_breakers={
            "thresholds": [{**SHADOW_LIMITS, "max_requests": most_copies} if is_shadow else _limits(upstream)]
        },
        **(triton.BUFFERS if upstream.is_triton else {}),
        typed_extension_protocol_options={_PROTOCOL: _protocol(upstream, route, path, is_shadow)},
        **checks,
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
    )


def _limits(upstream: Upstream) -> Json:
    if upstream.way is None or upstream.way.queue is None:
        return LIMITS
    on_all_nodes = upstream.way.queue * max(1, len(upstream.endpoints))
    return {**LIMITS, "max_requests": min(LIMITS["max_requests"], on_all_nodes)}


def _protocol(upstream: Upstream, route: RouteSpec, path: str, is_shadow: bool) -> Json:
    return typed(
        _PROTOCOL,
        explicit_http_config={"http_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": "60s"},
        http_filters=worker_filters(upstream, path, route.deadline_s, is_shadow),
    )


_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SILENCE: Json = {
    "description": "a silent machine is cut off",
    "level": TCP,
    "name": USER_TIMEOUT,
    "int_value": SILENT_MS,
    "state": "STATE_PREBIND",
}


def _health_check(upstream: Upstream, path: str, deadline_s: float) -> Json:
    """The version answers its sample, with the headers of clients' requests; without a sample, the node knows it.

    503 is an answer of a node whose queue is full: busy, and not ill. A 5xx of a worker that died of a client's request
    beside the check must come twice in a row, any other answer once.
    """
    probe = upstream.probe
    headers = {"authorization": TOKEN_OF_NODE}
    asked = triton.ready_check(path) if upstream.is_triton else {"path": path, "method": "OPTIONS"}
    request: Json = {**asked, "expected_statuses": [_statuses(200)]}
    if probe is not None:
        headers |= {
            "content-type": probe.media_type,
            "content-length": str(len(probe.body)),
            "cache-control": "no-store",
            TIMEOUT_HEADER: str(round(deadline_s * 1000)),
            CHECK_HEADER: CHECK_HEALTH,
            **(triton.CHECK_HEADERS if upstream.is_triton else {}),
        }
        request |= {
            "path": path,
            "method": "POST",
            "send": {"text": probe.body.hex()},
            "expected_statuses": [_statuses(200), _statuses(503)],
        }
    return {
        "timeout": f"{deadline_s + CHECK_SLACK_S:g}s",
        "interval": CHECK_INTERVAL,
        "no_traffic_interval": CHECK_INTERVAL,
        "unhealthy_interval": "1s",
        "initial_jitter": "0.2s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "reuse_connection": False,  # TorchServe closes a connection after an error, and a check must not fail of that
        "http_health_check": {
            **request,
            "retriable_statuses": [{"start": 500, "end": 600}],
            "request_headers_to_add": [overwrite(name, value) for name, value in headers.items()],
        },
    }


def _statuses(status: int) -> Json:
    return {"start": status, "end": status + 1}
