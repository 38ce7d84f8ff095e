"""The small messages and command operators that Envoy's configuration is made of. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

#: Of tsctl's own metadata on routes, clusters, endpoints and requests.
NAMESPACE = "tsctl"
#: The Open Inference Protocol's paths; a worker is told by a header that the request came by one of them.
PROTOCOL_PREFIX = "/v2/"
GRPC_FILTER = "grpc"
#: Tells the access log who asks, on a route that divides users.
USER_FILTER = "user"
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


def route_metadata(key: str) -> str:
    """The command operator for tsctl's metadata of the route."""
    return f"%METADATA(ROUTE:{NAMESPACE}:{key})%"


def cluster_metadata(key: str) -> str:
    """The command operator for tsctl's metadata of the cluster."""
    return f"%METADATA(CLUSTER:{NAMESPACE}:{key})%"


def request_header(name: str) -> str:
    """The command operator for a header of the request."""
    return f"%REQ({name})%"
