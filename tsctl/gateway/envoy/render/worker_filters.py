"""The filters of a cluster: what a request gets on its way to a worker, and what a node's error becomes. Pure.

Invariant: a request that goes well, has no query, and whose client says nothing of time, passes no Lua, which would
cost Envoy half as much as to forward it. Its path comes from the route (`routes.py`), its headers from
`header_mutation`. In clusters of shadows and of versions on Triton, everything passes Lua.
"""

from __future__ import annotations

from handlers.contract import (
    CLASS_HEADER,
    LONGEST_CLASS,
    MODEL_VERSION_HEADER,
    MOST_CLASSES,
    OTHER_CLASS,
    PROBLEM_MEDIA_TYPE,
    REQUEST_ID_HEADER,
    RETRY_DIED,
    RETRY_HEADER,
    RETRY_REFUSED,
    SENT_HEADER,
    SHADOW_HEADER,
    TIMEOUT_HEADER,
)
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    add_if_absent,
    extension,
    http_filter,
    http_filter_type,
    lua,
    overwrite,
    request_header,
)
from tsctl.gateway.envoy.render import triton
from tsctl.gateway.envoy.render.grpc import INPUT_PARAMETER, form_of_input_filter
from tsctl.gateway.envoy.render.problems import node_problems
from tsctl.gateway.envoy.render.upstreams import Upstream
from tsctl.gateway.headers import CLIENT, DEADLINE_BY_HEADER, DEADLINE_HEADER, ROUTE

#: The engine whose proxies have errors of their own, in plain text.
RAY = "ray"
TOKEN_OF_NODE = f"%UPSTREAM_METADATA({NAMESPACE}:authorization)%"
#: The moment at which the filter runs, in milliseconds since 1970.
_NOW_MS = "%EMIT_TIME(%s%3f)%"
_HEADER_OF = {
    "request": "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "response": "envoy.type.matcher.v3.HttpResponseHeaderMatchInput",
}
_STATUS = "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput"
_STATUS_CLASS = "envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput"
_MUTATION = "header_mutation.v3.HeaderMutation"


def worker_filters(upstream: Upstream, path: str, deadline_s: float, is_shadow: bool) -> list[Json]:
    """The filters of one cluster, the codec last.

    Args:
        path: of the version on its nodes.
        deadline_s: of the model's route.
    """
    deadline_ms = round(deadline_s * 1000)
    to_node = http_filter("to_node", "lua.v3.Lua", default_source_code=_to_node(path, deadline_ms, is_shadow))
    from_node = http_filter("from_node", "lua.v3.Lua", default_source_code=_from_node(upstream))
    mutations: list[Json] = [
        {"append": overwrite("authorization", TOKEN_OF_NODE)},
        {"remove": "expect"},  # TorchServe answers 417, and reads the body as the next request
    ]
    if is_shadow or upstream.is_triton:
        envelope = [triton.envelope_filter(upstream.model, upstream.version)] if upstream.is_triton else []
        before = [to_node, from_node, *envelope]
    else:
        before = [_where_asked(to_node), _where_answered(from_node)]
        mutations += [
            {"append": add_if_absent(TIMEOUT_HEADER, str(deadline_ms))},
            {"append": add_if_absent(DEADLINE_BY_HEADER, ROUTE)},
            {"append": overwrite(SENT_HEADER, _NOW_MS)},  # so a second try has it before it comes to this filter
        ]
    return [
        *before,
        *([_where_input_is_named()] if upstream.is_stock else []),
        http_filter("header_mutation", _MUTATION, mutations={"request_mutations": mutations}),
        http_filter("upstream_codec", "upstream_codec.v3.UpstreamCodec"),
    ]


def _where_asked(to_node: Json) -> Json:
    """The script for a second try, which has headers of the first one, and for a client that says how long it waits.

    Also for a path with a query, which the route keeps: TorchServe would take its parts for inputs of the model.
    """
    path = extension("path", _HEADER_OF["request"], header_name=":path")
    with_query = {"single_predicate": {"input": path, "value_match": {"contains": "?"}}}
    return _composite("asked", [_has("request", TIMEOUT_HEADER), _has("request", DEADLINE_HEADER), with_query], to_node)


def _where_input_is_named() -> Json:
    """The script that makes a form, for a request over TorchServe's gRPC."""
    media = extension("media", _HEADER_OF["request"], header_name="content-type")
    named = {"single_predicate": {"input": media, "value_match": {"contains": INPUT_PARAMETER}}}
    return _composite("inputs", [named], form_of_input_filter())


def _where_answered(from_node: Json) -> Json:
    """The script for errors, for what is no status, and for the class of a prediction.

    On the way back the last filter is the first: the answer has the request's id before the script reads it. What is
    asked and what is answered cannot be one filter: for an answer, its conditions on the request would be looked at
    again, and by then every request has the header of its time.
    """
    mutations = {"response_mutations": [{"append": overwrite(REQUEST_ID_HEADER, request_header(REQUEST_ID_HEADER))}]}
    identified = http_filter("request_id", _MUTATION, mutations=mutations)
    conditions = [_is_status("4xx"), _is_status("5xx"), _is_odd_status(), _has("response", CLASS_HEADER)]
    return _composite("answered", conditions, from_node, identified)


def _composite(name: str, any_of: list[Json], *filters: Json) -> Json:
    """The filters where one of the conditions holds, and nothing elsewhere."""
    kind = http_filter_type("composite.v3.ExecuteFilterAction")
    action = extension(name, kind, filter_chain={"typed_config": list(filters)})
    predicate = any_of[0] if len(any_of) == 1 else {"or_matcher": {"predicate": any_of}}
    matcher = {"predicate": predicate, "on_match": {"action": action}}
    return http_filter(name, "composite.v3.Composite", matcher={"matcher_list": {"matchers": [matcher]}})


def _has(of: str, header: str) -> Json:
    """That a request or a response has the header."""
    source = extension("header", _HEADER_OF[of], header_name=header)
    return {"single_predicate": {"input": source, "value_match": {"safe_regex": {"google_re2": {}, "regex": ".*"}}}}


def _is_status(kind: str) -> Json:
    """That the status of a response is one of these, such as 4xx."""
    return {"single_predicate": {"input": extension("status", _STATUS_CLASS), "value_match": {"exact": kind}}}


def _is_odd_status() -> Json:
    """That the status of a response is none of HTTP: TorchServe sends any number that a handler raises."""
    odd = {"safe_regex": {"google_re2": {}, "regex": "[06-9].*|.{4,}"}}
    return {"single_predicate": {"input": extension("status", _STATUS), "value_match": odd}}


def _to_node(path: str, deadline_ms: int, is_shadow: bool) -> Json:
    return lua(
        "to_node.lua",
        PATH=path,
        DEADLINE_MS=deadline_ms,
        IS_SHADOW=is_shadow,
        NAMESPACE=NAMESPACE,
        REQUEST_ID_HEADER=REQUEST_ID_HEADER,
        TIMEOUT_HEADER=TIMEOUT_HEADER,
        DEADLINE_HEADER=DEADLINE_HEADER,
        DEADLINE_BY_HEADER=DEADLINE_BY_HEADER,
        CLIENT=CLIENT,
        ROUTE=ROUTE,
        SENT_HEADER=SENT_HEADER,
        SHADOW_HEADER=SHADOW_HEADER,
    )


def _from_node(upstream: Upstream) -> Json:
    return lua(
        "problem.lua",
        "from_node.lua",
        NAMESPACE=NAMESPACE,
        REQUEST_ID_HEADER=REQUEST_ID_HEADER,
        CLASS_HEADER=CLASS_HEADER,
        MOST_CLASSES=MOST_CLASSES,
        LONGEST_CLASS=LONGEST_CLASS,
        OTHER_CLASS=OTHER_CLASS,
        RETRY_HEADER=RETRY_HEADER,
        REFUSED=RETRY_REFUSED,
        DIED=RETRY_DIED,
        PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE,
        MODEL_VERSION_HEADER=MODEL_VERSION_HEADER,
        IS_RAY=any(endpoint.engine == RAY for endpoint in upstream.endpoints),
        **node_problems(upstream.model, upstream.version),
    )
