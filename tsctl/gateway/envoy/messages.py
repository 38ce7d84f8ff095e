"""The small messages and command operators that Envoy's configuration is made of. Pure but for reading Lua files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Texts = Mapping[str, str]
Constant = str | int | Texts | Mapping[int, str] | Mapping[int, Texts] | Mapping[str, Texts]

#: Of tsctl's own metadata on routes, clusters, endpoints and requests.
NAMESPACE = "tsctl"
CONNECT_TIMEOUT = "1s"


def document(resources: Sequence[Json]) -> Json:
    """A file of resources whose version is its content's digest, so that equal contents have equal versions."""
    content = json.dumps(resources, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:16], "resources": list(resources)}


def type_url(kind: str) -> str:
    return f"type.googleapis.com/{kind}"


def typed(kind: str, **content: Any) -> Json:
    """A message that says its type."""
    return {"@type": type_url(kind), **content}


def extension(name: str, kind: str, **content: Any) -> Json:
    """An extension of Envoy with its settings."""
    return {"name": name, "typed_config": typed(kind, **content)}


def http_filter_type(kind: str) -> str:
    """The full name of a type of the HTTP filters, such as `lua.v3.Lua`."""
    return f"envoy.extensions.filters.http.{kind}"


def http_filter(name: str, kind: str, **content: Any) -> Json:
    """An HTTP filter; its type as in `http_filter_type`."""
    return extension(name, http_filter_type(kind), **content)


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


def add_if_absent(header: str, value: str) -> Json:
    return {"header": {"key": header, "value": value}, "append_action": "ADD_IF_ABSENT"}


def metadata(**values: Any) -> Json:
    """tsctl's own metadata of a message."""
    return {"filter_metadata": {NAMESPACE: values}}


def metadata_of(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that `metadata` put into the message; empty where it has none."""
    values: Mapping[str, Any] = message.get("metadata", {}).get("filter_metadata", {}).get(NAMESPACE, {})
    return values


# Envoy's command operators, which stand for a value of the request that is answered or logged.


def route_metadata(key: str) -> str:
    return f"%METADATA(ROUTE:{NAMESPACE}:{key})%"


def cluster_metadata(key: str) -> str:
    return f"%METADATA(CLUSTER:{NAMESPACE}:{key})%"


def request_header(name: str, longest: int | None = None) -> str:
    """A header of the request, cut off after so many bytes; None: whole."""
    return f"%REQ({name})%" if longest is None else f"%REQ({name}):{longest}%"


def lua(*files: str, **constants: Constant) -> Json:
    """The source of a filter: the files in `render/`, behind `local NAME = value` for each constant.

    Its comments stay behind, because each version has a copy.
    """
    folder = Path(__file__).parent / "render"
    source = [line for file in files for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    code = [line for line in source if line.strip() and not line.lstrip().startswith("--")]
    lines = [f"local {name} = {_literal(value)}" for name, value in constants.items()]
    return {"inline_string": "\n".join([*lines, *code]) + "\n"}


def _literal(value: Constant) -> str:
    """The value in Lua, whose strings and numbers are written as in JSON where they are ASCII."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{json.dumps(key)}] = {_literal(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)
