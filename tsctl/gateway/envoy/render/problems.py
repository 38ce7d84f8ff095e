"""Errors of the gateway itself and of nodes, as the problem documents that handlers answer with (RFC 9457). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from handlers.contract import PROBLEM_MEDIA_TYPE, PROBLEM_TITLES, REQUEST_ID_HEADER, problem_document
from tsctl.gateway.envoy.messages import NAMESPACE, Json, cluster_metadata, request_header, route_metadata
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
    404: _shared("not-found", "Use POST /predictions/<model>."),
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


def local_replies() -> Json:
    """Envoy's `local_reply_config`: a problem document for each status above, and for any other error."""
    is_refused = {"filter": NAMESPACE, "path": [{"key": REFUSED_HEADER_KEY}], "value": {"present_match": True}}
    refused = {
        **_mapper("EQ", 400, _REFUSED_HEADER),
        "filter": {"metadata_filter": {"matcher": is_refused, "match_if_key_not_found": False}},
    }
    mappers = [_mapper("EQ", status, problem) for status, problem in GATEWAY_PROBLEMS.items()]
    return {"mappers": [refused, *mappers, _mapper("GE", 400, _OTHER_PROBLEM)]}


def _mapper(operator: str, status: int, problem: Problem) -> Json:
    after_s = problem.retry_after_s
    compared = {"default_value": status, "runtime_key": f"tsctl.problems.{status}"}
    return {
        "filter": {"status_code_filter": {"comparison": {"op": operator, "value": compared}}},
        "body_format_override": {
            "content_type": PROBLEM_MEDIA_TYPE,
            "json_format": problem_document(
                problem.kind,
                problem.title,
                "%RESPONSE_CODE%",
                problem.detail,
                request_header(REQUEST_ID_HEADER),
                route_metadata("model"),
                cluster_metadata("version"),
            ),
        },
        "headers_to_add": [] if after_s is None else [{"header": {"key": "retry-after", "value": str(after_s)}}],
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
