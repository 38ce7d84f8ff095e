"""Errors of the gateway itself and of nodes, as the problem documents that handlers answer with (RFC 9457). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from handlers.contract import (
    JSON,
    OPENAI_CHAT,
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TITLES,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
    openai_error,
    problem_document,
)
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    add_if_absent,
    cluster_metadata,
    request_header,
    route_metadata,
)
from tsctl.gateway.envoy.render.inside import status_is
from tsctl.gateway.envoy.render.openai import MODEL_KEY, MODELS_PATH, PATHS, PREFIX, UNREAD_KEY
from tsctl.gateway.headers import KEY_HEADER


@dataclass(frozen=True)
class Problem:
    """One kind of error."""

    kind: str
    title: str
    detail: str  # what the client should know or do
    retry_after_s: int | None = None


def _shared(kind: str, detail: str, retry_after_s: int | None = None) -> Problem:
    """A kind that workers and nodes answer with too."""
    return Problem(kind, PROBLEM_TITLES[kind], detail, retry_after_s)


#: Errors of Envoy itself by status.
GATEWAY_PROBLEMS = {
    400: _shared("bad-request", "It breaks a rule of HTTP, or of this gateway."),
    401: Problem("unauthorized", "The key is missing or not known", f"Send your key in the header {KEY_HEADER}."),
    403: Problem("forbidden", "The request is not allowed", "Nothing answers here."),
    405: _shared("method-not-allowed", "The header allow names the one that is."),
    404: _shared("not-found", "No model of this name is served, or it is no path: POST /predictions/<model>."),
    408: _shared("too-slow", "Its headers or its body did not arrive in time."),
    413: _shared("payload-too-large", "Its body has more bytes than the gateway takes."),
    415: _shared("unsupported-media-type", "Nothing of this type is read here."),
    426: Problem("upgrade-required", "The protocol is not supported", "Use HTTP/1.1 or HTTP/2."),
    429: Problem("over-budget", "The client's budget is used up", "Send fewer requests, or retry later.", 1),
    431: _shared("headers-too-large", "Send fewer or shorter headers."),
    501: _shared("not-implemented", "The protocol has it, and this gateway does not."),
    500: Problem("gateway-failed", "The gateway failed on this request", "A worker may have seen the request."),
    502: Problem("bad-answer", "The node's answer cannot be read", "The node's answer is not valid HTTP."),
    503: _shared("unavailable", "No node has a worker or room for it now.", 1),
    504: Problem("deadline-passed", "The answer took too long", "The deadline of the route passed."),
}
_OTHER_PROBLEM = Problem("error", "The request failed", "")
#: Dynamic metadata of a request that names.lua refuses: the name of a header.
REFUSED_HEADER_KEY = "refused_header"
_REFUSED_HEADER = Problem(
    "bad-request",
    "A header is refused",
    f"The name %DYNAMIC_METADATA({NAMESPACE}:{REFUSED_HEADER_KEY})% has an underscore; write it with hyphens.",
)

#: Errors of a node itself, by the status that from_node.lua gives them; any other status is _OTHER_NODE_PROBLEM.
_NODE_PROBLEMS = {status: GATEWAY_PROBLEMS[status] for status in (405, 413, 503, 504)} | {
    400: _shared(
        "undecodable-body",
        "It cannot be read as its Content-Type says; JSON needs application/json.",
    ),
    500: _shared("worker-failed", "The worker ended, or its handler raised."),
}
_OTHER_NODE_PROBLEM = Problem("bad-request", "The request was refused", "The version refused it, and did not say why.")


#: The same for requests of the OpenAI API, where they differ.
_OPENAI_PROBLEMS = GATEWAY_PROBLEMS | {
    401: replace(GATEWAY_PROBLEMS[401], detail="Send your key as 'authorization: Bearer KEY'."),
    404: replace(GATEWAY_PROBLEMS[404], detail=f"There are {', '.join((*PATHS.values(), MODELS_PATH))}."),
    415: replace(
        GATEWAY_PROBLEMS[415], detail="The gateway reads the model from the body: send it without Content-Encoding."
    ),
    429: replace(
        GATEWAY_PROBLEMS[429], detail="The client's budget is used up. Retry after as many seconds as retry-after says."
    ),
}
#: Begins the values of PROTOCOL_HEADER for that API.
_OPENAI = OPENAI_CHAT.partition("-")[0]
#: What a route says itself of a body that names no model here.
_ROUTE_SAYS = "%LOCAL_REPLY_BODY%"


def local_replies() -> Json:
    """Envoy's `local_reply_config`: a problem document for each status above, and for any other error.

    Requests of the OpenAI API get errors in its form.
    """
    refused = _when(_has(REFUSED_HEADER_KEY), _problem(_REFUSED_HEADER))
    mappers = [_when(status_is("EQ", status), _problem(problem)) for status, problem in GATEWAY_PROBLEMS.items()]
    other = _when(status_is("GE", 400), _problem(_OTHER_PROBLEM))
    return {"mappers": [*_openai_replies(), refused, *mappers, other]}


def _openai_replies() -> list[Json]:
    """By path until a route has changed it, and then by the header that the route has set."""
    path = {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": PREFIX}}}}
    marked = {"header_filter": {"header": {"name": PROTOCOL_HEADER, "string_match": {"prefix": _OPENAI}}}}
    is_openai = {"or_filter": {"filters": [path, marked]}}

    def reply(status: Json, code: int, problem: Problem) -> Json:
        return _when({"and_filter": {"filters": [is_openai, status]}}, _openai(code, problem))

    def of_route(status: int, key: str, kind: str) -> Json:
        found = {"and_filter": {"filters": [_has(key), status_is("EQ", status)]}}
        return reply(found, status, Problem(kind, "", _ROUTE_SAYS))

    return [
        reply(_has(REFUSED_HEADER_KEY), 400, _REFUSED_HEADER),
        of_route(400, UNREAD_KEY, "undecodable-body"),
        of_route(404, MODEL_KEY, "model_not_found"),  # as OpenAI's own
        *(reply(status_is("EQ", status), status, problem) for status, problem in _OPENAI_PROBLEMS.items()),
        reply(status_is("GE", 400), 500, _OTHER_PROBLEM),
    ]


def _has(key: str) -> Json:
    """That the request's dynamic metadata has a value of this name."""
    matcher = {"filter": NAMESPACE, "path": [{"key": key}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _when(condition: Json, answer: Json) -> Json:
    return {"filter": condition, **answer}


def _openai(status: int, problem: Problem) -> Json:
    document = openai_error(status, problem.detail or problem.title, problem.kind)
    return _answer(problem, JSON, document)


def _problem(problem: Problem) -> Json:
    return _answer(
        problem,
        PROBLEM_MEDIA_TYPE,
        problem_document(
            problem.kind,
            problem.title,
            "%RESPONSE_CODE%",
            problem.detail,
            request_header(REQUEST_ID_HEADER),
            route_metadata("model"),
            cluster_metadata("version"),
        ),
    )


def _answer(problem: Problem, media_type: str, document: Json) -> Json:
    after_s = problem.retry_after_s
    return {
        "body_format_override": {"content_type": media_type, "json_format": document},
        "headers_to_add": [] if after_s is None else [add_if_absent("retry-after", str(after_s))],
    }


def node_problems(model: str, version: str) -> dict[str, Any]:
    """Constants of from_node.lua: the document of a node's error with {placeholders}, and what to fill in by status."""
    document = problem_document("{kind}", "{title}", "{status}", "{detail}", "{request_id}", model, version)
    return {
        "PROBLEM": json.dumps(document, separators=(",", ":")).replace('"{status}"', "{status}"),
        "PROBLEMS": {status: _texts(problem) for status, problem in _NODE_PROBLEMS.items()},
        "OTHER_PROBLEM": _texts(_OTHER_NODE_PROBLEM),
    }


def _texts(problem: Problem) -> dict[str, str]:
    return {"kind": problem.kind, "title": problem.title, "detail": problem.detail}
