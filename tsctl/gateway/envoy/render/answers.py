"""Requests that Envoy answers itself: liveness, readiness, and those that match no model's route. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handlers.contract import JSON, PROBLEM_MEDIA_TYPE
from tsctl.gateway.envoy.messages import Json, document, extension, http_filter_type, overwrite, typed
from tsctl.gateway.envoy.render.clients import WITHOUT_KEY
from tsctl.gateway.envoy.render.inputs import cluster_name
from tsctl.gateway.envoy.render.lua import lua_source
from tsctl.gateway.traffic import Traffic

#: Begins the Open Inference Protocol's paths.
PROTOCOL_PREFIX = "/v2/"
GRPC_FILTER = "grpc"
_READY_PATHS = f"/readyz|{PROTOCOL_PREFIX}health/ready"
_NO_CLUSTER = "no~route"


def ready(traffic: Sequence[Traffic]) -> Json:
    """The filter that answers /readyz: 200 where the stable version of every route can answer on some node.

    Without a route nothing could be answered, and it is 503: a cluster that does not exist is not healthy.
    """
    stable = [cluster_name(route.model, route.stable) for route in traffic] or [_NO_CLUSTER]
    health_check = extension(
        "ready",
        http_filter_type("health_check.v3.HealthCheck"),
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"safe_regex": {"regex": _READY_PATHS}}}],
        cluster_min_healthy_percentages={name: {"value": 1.0} for name in stable},
    )
    return document([typed("envoy.config.core.v3.TypedExtensionConfig", **health_check)])


def liveness() -> list[Json]:
    """The routes of /healthz and of the Open Inference Protocol's, 200 while Envoy runs."""
    return [
        _direct({"path": "/healthz"}, 200, {"content-type": "text/plain"}, "alive\n"),
        _direct({"path": f"{PROTOCOL_PREFIX}health/live"}, 200, {"content-type": JSON}, '{"live":true}'),
    ]


def no_grpc() -> Json:
    """415 for requests that call themselves gRPC: Envoy would answer all of them, unknown keys too, with status 200."""
    source = lua_source("grpc.lua", PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE)
    route = _direct({"prefix": "/", "grpc": {}}, 415)
    lua = typed(http_filter_type("lua.v3.LuaPerRoute"), source_code={"inline_string": source})
    return {**route, "typed_per_filter_config": {**WITHOUT_KEY, GRPC_FILTER: lua}}


def wrong_method(paths: Iterable[str]) -> list[Json]:
    """405 for each path, whose route takes POST only."""
    return [_direct({"path": path}, 405, {"allow": "POST"}) for path in dict.fromkeys(paths)]


def not_found() -> Json:
    """404 for every request."""
    return _direct({"prefix": "/"}, 404)


def _direct(match: Json, status: int, headers: dict[str, str] | None = None, body: str = "") -> Json:
    response: Json = {"status": status}
    if body:
        response["body"] = {"inline_string": body}
    added = [overwrite(name, value) for name, value in (headers or {}).items()]
    return {
        "match": match,
        "direct_response": response,
        **({"response_headers_to_add": added} if added else {}),
        "typed_per_filter_config": WITHOUT_KEY,
    }
