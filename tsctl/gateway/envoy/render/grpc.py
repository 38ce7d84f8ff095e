"""Requests over gRPC, of the Open Inference Protocol and of TorchServe's own service. Pure.

A request over gRPC is read once, becomes the REST request that means the same, and goes to a listener inside Envoy that
has the filters and routes of all clients. So keys, budgets, weights, deadlines, retries, shadows, the access log and
what rollouts count are those of REST, and a request that is not gRPC passes nothing that is there for gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from handlers.contract import (
    BINARY,
    GRPC_CODES,
    GRPC_SERVICE,
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPE_PREFIX,
    PROTOBUF,
    TIMEOUT_HEADER,
)
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    Texts,
    equals,
    http_filter,
    http_filter_type,
    lua,
    overwrite,
    request_header,
    typed,
)
from tsctl.gateway.envoy.render.answers import direct
from tsctl.gateway.envoy.render.clients import KEY_FILTER, WITHOUT_KEY, Client, keys_that_stay
from tsctl.gateway.envoy.render.health import READY_PATH
from tsctl.gateway.envoy.render.openai import EVENT_STREAM
from tsctl.gateway.headers import GRPC_HEADER, INSIDE_HEADER, KEY_HEADER, MEDIA_HEADER, STATUS_HEADER

#: The name of the listener for requests that came over gRPC, and of the cluster that leads to it.
GRPC = "grpc"
#: Filters that only requests over gRPC pass. Of the Open Inference Protocol: frames go and come; of TorchServe's
#: service: trailers come, and answers become messages in their frames.
GRPC_FILTER, FRAMES_FILTER, ANSWER_FILTER = "grpc", "grpc_frames", "grpc_answer"
TRAILERS_FILTER, MESSAGES_FILTER = "grpc_trailers", "torchserve_answer"
_BRIDGE = "grpc_http1_reverse_bridge.v3.FilterConfig"
#: Values of GRPC_HEADER.
OIP, TORCHSERVE = "oip", "torchserve"
#: Bytes of a message in which the names of model and version must stand.
WINDOW = 2048
_OIP_METHODS = {
    "ServerLive": ("GET", "/v2/health/live", False),
    "ServerReady": ("GET", READY_PATH, False),
    "ServerMetadata": ("GET", "/v2", False),
    "RepositoryIndex": ("POST", "/v2/repository/index", False),
    "ModelReady": ("GET", "/ready", True),
    "ModelMetadata": ("GET", "", True),
    "ModelInfer": ("POST", "/infer", True),
}
_OIP_WITHOUT_KEY = ("ServerLive", "ServerReady")

TORCHSERVE_SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_PING = "Ping"
#: What an answer of TorchServe's service is made of: the readiness of all routes, one message, a message for each part.
_HEALTH, _WHOLE, _STREAM = "health", "whole", "stream"
_TORCHSERVE_METHODS = {_PING: _HEALTH, "Predictions": _WHOLE, "StreamPredictions": _STREAM}
#: As TorchServe says it.
_HEALTHY, _UNHEALTHY = (json.dumps({"status": said}, indent=2) for said in ("Healthy", "Unhealthy"))
#: The input that TorchServe makes of a body that is no form, and what says in a media type that a body is another one.
RAW_INPUT, INPUT_PARAMETER = "body", "; input="
#: Fields of a message, with inputs among them, as many as TorchServe reads of a form; and bytes of the name of one.
MOST_INPUTS, LONGEST_NAME = 128, 256
#: Bytes of an error that is no problem document, which become gRPC's message.
LONGEST_DETAIL = 512
#: Bytes of an event of a stream that are held until its end is there.
LONGEST_EVENT = 1 << 20
#: HTTP's status for the kinds of errors that end streams; 500 for any other.
_STATUS_OF_KIND = {"broken-stream": "502", "unavailable": "503", "deadline-passed": "504"}
#: Dynamic metadata of a request: what its answer becomes, and how a stream broke.
_ANSWER_KEY, _BROKEN_KEY, _DETAIL_KEY = "grpc_answer", "grpc_broken", "grpc_reason"


def grpc_filters() -> tuple[list[Json], list[Json]]:
    """The filters, which are off but on the routes of `grpc_routes`: behind those of keys, and before the router."""
    as_message = [
        {"append": overwrite("content-type", PROTOBUF)},  # else the filter of frames would drop the answer
        {"append": overwrite(STATUS_HEADER, "%RESPONSE_CODE%")},
    ]
    last = [
        http_filter(FRAMES_FILTER, _BRIDGE, content_type=PROTOBUF, withhold_grpc_frames=True),
        http_filter(TRAILERS_FILTER, _BRIDGE, content_type=PROTOBUF),
        http_filter(
            ANSWER_FILTER, "header_mutation.v3.HeaderMutation", mutations={"response_mutations": as_message}
        ),
        http_filter(MESSAGES_FILTER, "lua.v3.Lua"),
    ]  # fmt: skip
    first = [http_filter(GRPC_FILTER, "lua.v3.Lua")]
    return [_off(each) for each in first], [_off(each) for each in last]


def _off(filter_: Json) -> Json:
    return {**filter_, "disabled": True}


def grpc_routes(clients: Sequence[Client]) -> list[Json]:
    """Requests over gRPC: those of the two services go to the listener inside, and others are UNIMPLEMENTED.

    The first routes are those of a request that has become one of REST, for which the filter of frames asks anew.
    """
    oip, torchserve = f"/{GRPC_SERVICE}/", f"/{TORCHSERVE_SERVICE}/"
    keys = {KEY_FILTER: keys_that_stay(clients)}
    with_bearer = {KEY_FILTER: keys_that_stay(clients, with_bearer=True)}
    return [
        _of_oip({"prefix": "/", "headers": [equals(GRPC_HEADER, OIP)]}, WITHOUT_KEY),
        _of_torchserve({"prefix": "/", "headers": [equals(GRPC_HEADER, TORCHSERVE)]}, WITHOUT_KEY),
        *(_of_oip({"path": oip + name, "grpc": {}}, WITHOUT_KEY) for name in _OIP_WITHOUT_KEY),
        _of_oip({"prefix": oip, "grpc": {}}, keys),
        _of_torchserve({"path": torchserve + _PING, "grpc": {}}, WITHOUT_KEY),
        _of_torchserve({"prefix": torchserve, "grpc": {}}, with_bearer),
        direct({"prefix": "/", "grpc": {}}, 415, {GRPC_FILTER: _script(_oip_script())}),
    ]


def _of_oip(match: Json, keys: Json) -> Json:
    filters = {
        GRPC_FILTER: _script(_oip_script()),
        FRAMES_FILTER: _enabled("grpc_http1_reverse_bridge.v3.FilterConfigPerRoute", disabled=False),
        ANSWER_FILTER: _enabled("header_mutation.v3.HeaderMutationPerRoute"),
    }
    return _to_inside(match, {**keys, **filters}, [], [GRPC_HEADER])


def _of_torchserve(match: Json, keys: Json) -> Json:
    """The body's media type is what the script found it to be, or none at all; the filter of trailers named its own."""
    filters = {
        GRPC_FILTER: _script(_torchserve_script()),
        TRAILERS_FILTER: _enabled("grpc_http1_reverse_bridge.v3.FilterConfigPerRoute", disabled=False),
        MESSAGES_FILTER: _script(_messages_script()),
    }
    media = overwrite("content-type", request_header(MEDIA_HEADER))
    return _to_inside(match, {**keys, **filters}, [media], [GRPC_HEADER, "content-type", "accept"])


def _to_inside(match: Json, filters: Json, added: Sequence[Json], removed: Sequence[str]) -> Json:
    return {
        "match": match,
        "route": {"cluster": GRPC, "timeout": "0s"},  # the route inside has the deadline
        "request_headers_to_add": [overwrite(INSIDE_HEADER, "1"), *added],
        "request_headers_to_remove": list(removed),
        "typed_per_filter_config": filters,
    }


def _oip_script() -> Json:
    methods = {
        name: {"verb": verb, "path": path, "of_model": str(int(of_model))}
        for name, (verb, path, of_model) in _OIP_METHODS.items()
    }
    return _grpc_script("grpc_oip.lua", service=GRPC_SERVICE, methods=methods, mark=OIP, WINDOW=WINDOW)


def _torchserve_script() -> Json:
    return _grpc_script(
        "form.lua",
        "grpc_torchserve.lua",
        service=TORCHSERVE_SERVICE,
        methods={name: {"answer": answer} for name, answer in _TORCHSERVE_METHODS.items()},
        mark=TORCHSERVE,
        HEALTH=_HEALTH,
        READY_PATH=READY_PATH,
        KEY_HEADER=KEY_HEADER,
        MEDIA_HEADER=MEDIA_HEADER,
        BINARY=BINARY,
        RAW_INPUT=RAW_INPUT,
        INPUT_PARAMETER=INPUT_PARAMETER,
        MOST_INPUTS=MOST_INPUTS,
        MOST_OF_ENTRY=8,
        LONGEST_NAME=LONGEST_NAME,
        ANSWER_KEY=_ANSWER_KEY,
        BROKEN_KEY=_BROKEN_KEY,
        DETAIL_KEY=_DETAIL_KEY,
    )


def _grpc_script(*files: str, service: str, methods: Mapping[str, Texts], mark: str, **constants: str | int) -> Json:
    return lua(
        "member.lua",
        "grpc.lua",
        *files,
        SERVICE=service.replace(".", "%."),
        METHODS=methods,
        MARK=mark,
        CODES={status: str(code) for status, code in GRPC_CODES.items()},
        NAMESPACE=NAMESPACE,
        MARK_HEADER=GRPC_HEADER,
        STATUS_HEADER=STATUS_HEADER,
        TIMEOUT_HEADER=TIMEOUT_HEADER,
        PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE,
        NOT_FOUND_TYPE=f"{PROBLEM_TYPE_PREFIX}not-found",
        LONGEST_DETAIL=LONGEST_DETAIL,
        **constants,
    )


def _messages_script() -> Json:
    return lua(
        "member.lua",
        "torchserve_answer.lua",
        NAMESPACE=NAMESPACE,
        PROTOBUF=PROTOBUF,
        EVENT_STREAM=EVENT_STREAM,
        STATUS_HEADER=STATUS_HEADER,
        HEALTH=_HEALTH,
        STREAM=_STREAM,
        HEALTHY=_HEALTHY,
        UNHEALTHY=_UNHEALTHY,
        STATUS_OF_KIND=_STATUS_OF_KIND,
        LONGEST_EVENT=LONGEST_EVENT,
        ANSWER_KEY=_ANSWER_KEY,
        BROKEN_KEY=_BROKEN_KEY,
        DETAIL_KEY=_DETAIL_KEY,
    )


def form_of_input_filter() -> Json:
    """The filter of a cluster that makes a form of a body whose media type names an input."""
    source = lua(
        "form.lua",
        "form_of_input.lua",
        NAMESPACE=NAMESPACE,
        BINARY=BINARY,
        BINARY_PATTERN=BINARY.replace("-", "%-"),
        FORM_PATTERN="multipart/form%-data; boundary=",
        INPUT_PARAMETER=INPUT_PARAMETER,
        LENGTH_KEY="input_length",
    )
    return http_filter("form_of_input", "lua.v3.Lua", default_source_code=source)


def _script(source: Json) -> Json:
    return _enabled("lua.v3.LuaPerRoute", source_code=source)


def _enabled(kind: str, **content: object) -> Json:
    """A filter that is off elsewhere, with its settings for a route."""
    return typed("envoy.config.route.v3.FilterConfig", config=typed(http_filter_type(kind), **content))
