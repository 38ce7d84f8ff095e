"""Who is ready: a listener inside Envoy, which knows the health of all clusters. Pure.

Envoy's filter of health checks answers one path for a fixed set of clusters. Here the path chooses the filter's
settings, and only requests of health pass it. The settings lie in a file of their own and follow the routes.
"""

from __future__ import annotations

import base64
from collections.abc import Collection

from handlers.contract import JSON, PROTOBUF
from tsctl.gateway.envoy.messages import (
    Json,
    document,
    equals,
    extension,
    http_filter,
    http_filter_type,
    type_url,
    typed,
    watched,
)
from tsctl.gateway.envoy.render.inside import inside_listener, status_is
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.traffic import Traffic

#: The name of the listener and of the cluster that leads to it.
HEALTH = "health"
READY_PATH = "/v2/health/ready"
READY_PATHS = ("/readyz", READY_PATH)
_NO_CLUSTER = "no~route"
_MATCHER = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"


def ready_path(model: str, version: str | None = None) -> str:
    """Where a client asks whether a model, or one of its versions, can answer."""
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/ready"


def health_listener(files: GatewayFiles) -> Json:
    """The listener, whose filter is in the file that `ready` renders."""
    by_path = {
        "name": "by_path",
        "config_discovery": {"config_source": watched(files.ready), "type_urls": [type_url(_MATCHER)]},
    }
    missing = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    return inside_listener(
        HEALTH,
        http_filters=[by_path, http_filter("router", "router.v3.Router")],
        local_reply_config={"mappers": _answers()},
        route_config={"virtual_hosts": [{"name": HEALTH, "domains": ["*"], "routes": [missing]}]},
    )


def ready(traffic: Collection[Traffic]) -> Json:
    """200 where a node can answer for the clusters behind a path, else 503.

    /readyz asks for the stable version of every route. Without a route nothing could be answered, and it is 503: a
    cluster that does not exist is not healthy.
    """
    stable = [cluster_name(route.model, route.stable) for route in traffic] or [_NO_CLUSTER]
    paths = dict.fromkeys(READY_PATHS, stable)
    for route in traffic:
        paths[ready_path(route.model)] = [cluster_name(route.model, route.stable)]
        paths |= {ready_path(route.model, version): [cluster_name(route.model, version)] for version in route.versions}
    by_path = typed(
        _MATCHER,
        extension_config=http_filter("composite", "composite.v3.Composite"),
        xds_matcher={
            "matcher_tree": {
                "input": extension(
                    "path", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"
                ),
                "exact_match_map": {"map": {path: {"action": _check(clusters)} for path, clusters in paths.items()}},
            }
        },
    )  # fmt: skip
    return document([typed("envoy.config.core.v3.TypedExtensionConfig", name="by_path", typed_config=by_path)])


def _check(clusters: Collection[str]) -> Json:
    check = http_filter(
        "check",
        "health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[],
        cluster_min_healthy_percentages={name: {"value": 1.0} for name in clusters},
    )
    return extension("check", http_filter_type("composite.v3.ExecuteFilterAction"), typed_config=check)


def _answers() -> list[Json]:
    """The filter's bare statuses, as JSON or as a message of the Open Inference Protocol, for which 503 is no error."""
    is_message = {"header_filter": {"header": equals("accept", PROTOBUF)}}
    answers: list[Json] = []
    for status, is_ready in ((200, True), (503, False)):
        after = [] if is_ready else [{"header": {"key": "retry-after", "value": "1"}}]
        message = {"inline_bytes": base64.b64encode(bytes((8, is_ready))).decode()}  # field 1, which says it
        answers += [
            {
                "filter": {"and_filter": {"filters": [is_message, status_is("EQ", status)]}},
                "status_code": 200,
                "body": message,
                "body_format_override": {
                    "content_type": PROTOBUF,
                    "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
                },
            },
            {
                "filter": status_is("EQ", status),
                "headers_to_add": after,
                "body_format_override": {"content_type": JSON, "json_format": {"ready": is_ready}},
            },
        ]
    return answers
