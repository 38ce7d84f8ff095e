"""The Open Inference Protocol but for predictions: health, metadata of the server, the index, and gRPC. Pure.

A request over gRPC is read once, becomes the REST request that means the same, and goes to a listener inside Envoy that
has the filters and routes of all clients. So keys, budgets, weights, deadlines, retries, shadows, the access log and
what rollouts count are those of REST, and a request that is not gRPC passes nothing that is there for gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from handlers.contract import (
    GRPC_CODES,
    GRPC_SERVICE,
    JSON,
    OPEN_INFERENCE_EXTENSIONS,
    PROBLEM_MEDIA_TYPE,
    PROTOBUF,
    READY_STATE,
    SERVER_NAME,
    SERVER_VERSION,
    TIMEOUT_HEADER,
    UNAVAILABLE_STATE,
)
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.envoy.messages import NAMESPACE, Json, equals, http_filter, http_filter_type, lua, overwrite, typed
from tsctl.gateway.envoy.render.answers import direct, fixed, not_allowed
from tsctl.gateway.envoy.render.clients import KEY_FILTER, WITHOUT_KEY, Client, keys_that_stay
from tsctl.gateway.envoy.render.health import HEALTH, READY_PATHS, ready_path
from tsctl.gateway.headers import GRPC_HEADER, INSIDE_HEADER, STATUS_HEADER
from tsctl.gateway.traffic import Traffic

#: Begins the protocol's paths.
PREFIX = "/v2/"
#: The name of the listener for requests that came over gRPC, and of the cluster that leads to it.
GRPC = "grpc"
#: Filters that only requests over gRPC, or for the index, pass.
GRPC_FILTER, FRAMES_FILTER, ANSWER_FILTER, INDEX_FILTER = "grpc", "grpc_frames", "grpc_answer", "index"
#: Bytes of a message in which the names of model and version must stand.
WINDOW = 2048
_METHODS = {
    "ServerLive": ("GET", f"{PREFIX}health/live", False),
    "ServerReady": ("GET", f"{PREFIX}health/ready", False),
    "ServerMetadata": ("GET", "/v2", False),
    "RepositoryIndex": ("POST", f"{PREFIX}repository/index", False),
    "ModelReady": ("GET", "/ready", True),
    "ModelMetadata": ("GET", "", True),
    "ModelInfer": ("POST", "/infer", True),
}
_WITHOUT_KEY = ("ServerLive", "ServerReady")


def protocol_filters() -> list[Json]:
    """The filters, which are off but on the routes of `grpc_routes` and the index; they stand behind those of keys."""
    bridge = "grpc_http1_reverse_bridge.v3.FilterConfig"
    as_message = [
        {"append": overwrite("content-type", PROTOBUF)},  # else the filter of frames would drop the answer
        {"append": overwrite(STATUS_HEADER, "%RESPONSE_CODE%")},
    ]
    filters = [
        http_filter(GRPC_FILTER, "lua.v3.Lua"),
        http_filter(INDEX_FILTER, "lua.v3.Lua"),
        http_filter(FRAMES_FILTER, bridge, content_type=PROTOBUF, withhold_grpc_frames=True),
        http_filter(
            ANSWER_FILTER, "header_mutation.v3.HeaderMutation", mutations={"response_mutations": as_message}
        ),
    ]  # fmt: skip
    return [{**each, "disabled": True} for each in filters]


def grpc_routes(clients: Sequence[Client]) -> list[Json]:
    """Requests over gRPC: the protocol's go to the listener inside, and others are UNIMPLEMENTED.

    The first route is that of a request that has become one of REST, for which the filter of frames asks anew.
    """
    keys = {KEY_FILTER: keys_that_stay(clients)}
    service = f"/{GRPC_SERVICE}/"
    return [
        _to_inside({"prefix": "/", "headers": [{"name": GRPC_HEADER, "present_match": True}]}, WITHOUT_KEY),
        *(_to_inside({"path": service + name, "grpc": {}}, WITHOUT_KEY) for name in _WITHOUT_KEY),
        _to_inside({"prefix": service, "grpc": {}}, keys),
        direct({"prefix": "/", "grpc": {}}, 415, {GRPC_FILTER: _enabled("lua.v3.LuaPerRoute", source_code=_grpc())}),
    ]


def _to_inside(match: Json, keys: Json) -> Json:
    return {
        "match": match,
        "route": {"cluster": GRPC, "timeout": "0s"},  # the route inside has the deadline
        "request_headers_to_add": [overwrite(INSIDE_HEADER, "1")],
        "request_headers_to_remove": [GRPC_HEADER],
        "typed_per_filter_config": {
            **keys,
            GRPC_FILTER: _enabled("lua.v3.LuaPerRoute", source_code=_grpc()),
            FRAMES_FILTER: _enabled("grpc_http1_reverse_bridge.v3.FilterConfigPerRoute", disabled=False),
            ANSWER_FILTER: _enabled("header_mutation.v3.HeaderMutationPerRoute"),
        },
    }


def _grpc() -> Json:
    return lua(
        "member.lua",
        "grpc.lua",
        SERVICE=GRPC_SERVICE.replace(".", "%."),
        METHODS={
            name: {"verb": verb, "path": path, "of_model": str(int(of_model))}
            for name, (verb, path, of_model) in _METHODS.items()
        },
        CODES={status: str(code) for status, code in GRPC_CODES.items()},
        WINDOW=WINDOW,
        NAMESPACE=NAMESPACE,
        MARK_HEADER=GRPC_HEADER,
        STATUS_HEADER=STATUS_HEADER,
        TIMEOUT_HEADER=TIMEOUT_HEADER,
        PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE,
    )


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
