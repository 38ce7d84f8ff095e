"""The Open Inference Protocol but for predictions: health, metadata of the server, and the index. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from handlers.contract import (
    JSON,
    OPEN_INFERENCE_EXTENSIONS,
    PROTOBUF,
    READY_STATE,
    SERVER_NAME,
    SERVER_VERSION,
    UNAVAILABLE_STATE,
)
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.messages import Json, equals, http_filter, http_filter_type, lua, typed
from tsctl.gateway.envoy.render.answers import direct, fixed, not_allowed
from tsctl.gateway.envoy.render.clients import WITHOUT_KEY
from tsctl.gateway.envoy.render.health import HEALTH, READY_PATHS, ready_path
from tsctl.gateway.traffic import Traffic

#: Begins the protocol's paths.
PREFIX = "/v2/"
#: A filter that only requests for the index pass.
INDEX_FILTER = "index"


def index_filter() -> Json:
    """The filter, which is off but on the route of the index; it stands behind those of keys."""
    return {**http_filter(INDEX_FILTER, "lua.v3.Lua"), "disabled": True}


def _enabled(kind: str, **content: object) -> Json:
    """A filter that is off elsewhere, with its settings for a route."""
    return typed("envoy.config.route.v3.FilterConfig", config=typed(http_filter_type(kind), **content))


def server_routes() -> list[Json]:
    """What needs no key: whether Envoy runs, and whether every route can be answered."""
    live = f"{PREFIX}health/live"
    return [
        fixed({"path": live, "headers": [_WANTS_MESSAGE]}, PROTOBUF, "\x08\x01"),  # field 1, which says it
        fixed({"path": live}, JSON, '{"live":true}'),
        *(_to_health(path, WITHOUT_KEY) for path in READY_PATHS),
    ]


def model_routes(traffic: Collection[Traffic], specs: Mapping[str, RouteSpec]) -> list[Json]:
    """What needs a key: the server's metadata, the index, and whether a model can be answered."""
    paths = [
        path
        for route in traffic
        for path in (
            ready_path(route.model),
            *(
                ready_path(route.model, version)
                for version in route.versions
                if specs.get(route.model, RouteSpec()).pinned
            ),
        )
    ]
    index = f"{PREFIX}repository/index"
    metadata = {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(OPEN_INFERENCE_EXTENSIONS)}
    with_key: Json = {"typed_per_filter_config": {}}
    return [
        {**fixed({"path": "/v2", "headers": [_GET, _WANTS_MESSAGE]}, PROTOBUF, _server_message()), **with_key},
        {**fixed({"path": "/v2", "headers": [_GET]}, JSON, json.dumps(metadata)), **with_key},
        not_allowed("/v2", "GET"),
        {
            **direct({"path": index, "headers": [equals(":method", "POST")]}, 503),
            "typed_per_filter_config": {INDEX_FILTER: _enabled("lua.v3.LuaPerRoute", source_code=_index(traffic))},
        },
        not_allowed(index, "POST"),
        *(_to_health(path, {}) for path in paths),
        *(not_allowed(path, "GET") for path in paths),
    ]


_GET = equals(":method", "GET")
_WANTS_MESSAGE = equals("accept", PROTOBUF)


def _to_health(path: str, filters: Json) -> Json:
    return {
        "match": {"path": path, **({} if filters else {"headers": [_GET]})},
        "route": {"cluster": HEALTH, "timeout": "5s"},
        "response_headers_to_remove": ["server", "x-envoy-upstream-healthchecked-cluster"],
        "typed_per_filter_config": filters,
    }


def _index(traffic: Collection[Traffic]) -> Json:
    versions = [(route.model, version) for route in traffic for version in route.versions]
    return lua(
        "index.lua",
        MODELS={
            place: {"name": model, "version": version, "path": ready_path(model, version)}
            for place, (model, version) in enumerate(versions, 1)
        },
        READY=READY_STATE,
        UNAVAILABLE=UNAVAILABLE_STATE,
        JSON=JSON,
        PROTOBUF=PROTOBUF,
    )


def _server_message() -> str:
    """The metadata as a message: fields 1 to 3, each of fewer than 128 bytes."""
    texts = [(1, SERVER_NAME), (2, SERVER_VERSION), *((3, name) for name in OPEN_INFERENCE_EXTENSIONS)]
    return "".join(f"{chr(field * 8 + 2)}{chr(len(text))}{text}" for field, text in texts)
