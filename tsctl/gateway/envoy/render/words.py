"""Names that the gateway's files share, and the shapes that Envoy's configuration is made of. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

#: Headers that only the gateway may write; a client's are forgotten.
OWN_PREFIX = "x-tsctl-"
CLIENT_HEADER = "x-tsctl-client"
TRACK_HEADER = "x-track"
#: What a worker sees of how a request came to it, whatever the client sent by these names.
PLAYED_HEADER, WEIGHT_HEADER, SHADOW_HEADER = "x-tsctl-track", "x-tsctl-weight", "x-tsctl-shadow"
KEY_HEADER = "x-api-key"
#: Set by upstream.lua on what TorchServe answers itself; says whether a worker may have seen the request.
RETRY_HEADER = "x-tsctl-retry"
NAMESPACE = "tsctl"
#: How a request came to its version: by the route's weights, by a tester's header, or because its path names it.
BY_WEIGHT, BY_HEADER, BY_PATH = "weight", "header", "path"
#: What the gateway counts of every request, and how long its answer took, as Prometheus reads their names.
REQUESTS, REQUEST_MS = "envoy_tsctl_requests", "envoy_tsctl_request_ms"
PINNED = "pinned"
#: The Open Inference Protocol's paths; a worker is told by a header that the request came by one of them.
PROTOCOL_PREFIX = "/v2/"
GRPC_FILTER = "grpc"
#: Tells the access log who asks, on a route that divides users.
USER_FILTER, USER_KEY = "user", "user"
#: The type of that filter's settings, of the listener and of a route alike.
USER_KIND = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
CONNECT_TIMEOUT = "1s"


def document(resources: Sequence[Json]) -> Json:
    """A file of resources whose version is its content's digest, so that equal contents have equal versions."""
    content = json.dumps(resources, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:16], "resources": list(resources)}


def type_url(name: str) -> str:
    return f"type.googleapis.com/{name}"


def named_filter(name: str, kind: str, content: Json) -> Json:
    return {"name": name, "typed_config": {"@type": type_url(kind), **content}}


def address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def watched(path: Path) -> Json:
    """A file that Envoy reads again when something is renamed to its name."""
    return {
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
        "resource_api_version": "V3",
    }


def equals(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def overwrite(header: str, value: str) -> Json:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
