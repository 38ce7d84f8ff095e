"""Routes that Envoy answers itself, without a node. Pure."""

from __future__ import annotations

from typing import Any

from tsctl.gateway.envoy.messages import Json, overwrite
from tsctl.gateway.envoy.render.clients import WITHOUT_KEY


def direct(match: Json, status: int, filters: Json | None = None, body: Json | None = None, **more: Any) -> Json:
    """This status for these requests; they need no key."""
    response = {"status": status, **({"body": body} if body else {})}
    return {
        "match": match,
        "direct_response": response,
        "typed_per_filter_config": {**WITHOUT_KEY, **(filters or {})},
        **more,
    }


def fixed(match: Json, media_type: str, body: str) -> Json:
    """200 with this text, which stays the same while Envoy runs."""
    content_type = [overwrite("content-type", media_type)]
    return direct(match, 200, body={"inline_string": body}, response_headers_to_add=content_type)


def not_allowed(path: str, allowed: str) -> Json:
    """405 for other methods than the one that is allowed."""
    return direct({"path": path}, 405, response_headers_to_add=[overwrite("allow", allowed)])
