"""What the gateway itself answers, as the problem documents that handlers answer with (RFC 9457). Pure."""

from __future__ import annotations

from typing import Any

from handlers.contract import PROBLEM_MEDIA_TYPE, problem_document

#: By status: the kind, the title, what the client should know, and seconds after which to ask again.
ANSWERS: dict[int, tuple[str, str, str, int | None]] = {
    400: ("bad-request", "The request cannot be read", "It breaks a rule of HTTP, or of this gateway.", None),
    401: ("unauthorized", "The key is missing or not known", "Send a key of yours in the header x-api-key.", None),
    403: ("forbidden", "The request is not allowed", "Nothing answers here.", None),
    405: ("method-not-allowed", "The method is not allowed", "Ask with POST.", None),
    404: ("not-found", "There is no such route", "Ask POST /predictions/<model>.", None),
    408: ("too-slow", "The request came too slowly", "Its headers or its body did not arrive in time.", None),
    413: ("payload-too-large", "The request is too large", "Its body has more bytes than the gateway takes.", None),
    415: ("unsupported-media-type", "The media type is not supported", "gRPC is not spoken here.", None),
    426: ("upgrade-required", "The protocol is not spoken here", "Use HTTP/1.1 or HTTP/2.", None),
    429: ("over-budget", "The client's budget is used up", "Ask again later, and not so often.", 1),
    431: ("headers-too-large", "The headers are too large", "Send fewer or shorter headers.", None),
    500: ("gateway-failed", "The gateway failed on this request", "It is not known whether a worker saw it.", None),
    502: ("bad-answer", "The node's answer cannot be read", "The node answered something that is no HTTP.", None),
    503: ("unavailable", "No worker could take the request", "No node has a worker for it now.", 1),
    504: ("deadline-passed", "The answer took too long", "The deadline of the route passed.", None),
}


def local_replies() -> dict[str, Any]:
    """Envoy's `local_reply_config`: each status above as its problem document, and any other error likewise."""
    other = {"filter": _status("GE", 400), "body_format_override": _body("error", "The request failed", "")}
    return {"mappers": [*map(_mapper, ANSWERS), other]}


def _mapper(status: int) -> dict[str, Any]:
    kind, title, detail, after_s = ANSWERS[status]
    headers = [] if after_s is None else [{"header": {"key": "retry-after", "value": str(after_s)}}]
    return {
        "filter": _status("EQ", status),
        "body_format_override": _body(kind, title, detail),
        "headers_to_add": headers,
    }


def _status(operator: str, status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"tsctl.problems.{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _body(kind: str, title: str, detail: str) -> dict[str, Any]:
    return {
        "content_type": PROBLEM_MEDIA_TYPE,
        "json_format": problem_document(
            kind,
            title,
            "%RESPONSE_CODE%",
            detail,
            "%REQ(X-REQUEST-ID)%",
            "%METADATA(ROUTE:tsctl:model)%",
            "%METADATA(CLUSTER:tsctl:version)%",
        ),
    }
