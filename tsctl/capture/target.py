"""Where captured requests are sent: the project's gateway, one of its nodes, or an address that the caller names.

Invariant: without such an address, nothing is sent to a place that deployment.yaml does not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from tsctl.addresses import without_secrets
from tsctl.archive.store import name_mistake
from tsctl.compare.contender import Endpoint, endpoint_of
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import TRITON
from tsctl.config.project import Project
from tsctl.config.spec import Address
from tsctl.errors import GatewayError, NodeError, SpecError
from tsctl.gateway.headers import KEY_HEADER
from tsctl.gateway.state import open_gateway, require_live, require_route, traffic_in_force
from tsctl.mistakes import expectation
from tsctl.nodes.engines import open_node


@dataclass(frozen=True)
class Target:
    """A model, or one version of it, at one place."""

    model: str
    version: str | None  # None: the place chooses
    place: str  # in words
    endpoint: Endpoint
    trusted: str | None = None  # of the certificate, as in an Order; None: without TLS


def parse_to(text: str) -> tuple[str, str | None]:
    """Model and version of MODEL[/VERSION].

    Raises:
        SpecError: it is none.
    """
    model, slash, version = text.partition("/")
    if name_mistake(model, version if slash else "1.0"):
        raise SpecError(f"--to {text}: expected MODEL or MODEL/VERSION, such as digits/2.0")
    return model, version if slash else None


def gateway_target(project: Project, deployment: DeploymentSpec, model: str, version: str | None) -> Target:
    """The gateway of this machine, asked with the key of its user.

    Raises:
        SpecError: deployment.yaml has no gateway, or the route does not let clients choose a version.
        GatewayError: it does not run, or has no such route.
    """
    gateway = open_gateway(project, deployment)
    require_live(gateway)
    route = require_route(traffic_in_force(gateway), model)
    if version is not None and version not in route.versions:
        raise GatewayError(
            f"the gateway has no route to {model} {version}; it has {', '.join(route.versions)}",
            f"Add it without a share: tsctl weights set {model} {route.stable}=100% {version}=0%. Or send straight to a"
            " node with --node.",
        )
    spec = gateway.route_specs.get(model)
    if version is not None and spec is not None and not spec.pinned:
        raise SpecError(
            f"the route of {model} does not let clients choose a version (pinned: false)",
            f"Leave out /{version}, or send straight to a node with --node.",
        )
    name, _, key = _content(gateway.files.local_key).partition(": ")
    headers = {KEY_HEADER: key} if name == KEY_HEADER else {}
    first = next(iter(deployment.gateways.values()), None)  # of several, which all have the same routes
    base, tls = _reached(gateway.address), gateway.spec.tls if first is None else first.tls
    trusted = str(project.root / tls.certificate) if tls is not None else None
    return Target(model, version, f"the gateway at {base}", endpoint_of(base + _path(model, version), headers), trusted)


def node_target(project: Project, deployment: DeploymentSpec, name: str, model: str, version: str | None) -> Target:
    """One node, past the gateway; without a version the node's default.

    Raises:
        SpecError: deployment.yaml has no such node.
        NodeError: it does not serve the version, or cannot be reached.
    """
    node = open_node(project, *deployment.node(name))
    if version is None:
        observed = node.models().get(model)
        version = observed.default if observed else None
        if version is None:
            raise NodeError(f"node {name} has no default version of {model}", f"Name one: --to {model}/VERSION")
    node.require_version(model, version)
    endpoint = endpoint_of(node.url(model, version) + node.path(model, version), node.access())
    endpoint = replace(endpoint, unwrap=node.unwrap, is_enveloped=node.protocol == TRITON)
    return Target(model, version, f"node {name} at {node.spec.url}", endpoint)


def url_target(url: str, key_file: Path | None, model: str, version: str | None) -> Target:
    """An address that the caller names: of another gateway, or of a server with the same paths.

    Raises:
        SpecError: it is no address without a path, or the file of the key cannot be read.
    """
    try:
        address = TypeAdapter(Address).validate_python(url)
    except ValidationError as error:
        raise SpecError(f"--url {without_secrets(url)}: {expectation(error.errors()[0])}") from None
    trusted = "" if address.startswith("https://") else None
    headers: Mapping[str, str] = {} if key_file is None else {KEY_HEADER: _key(key_file)}
    return Target(model, version, address, endpoint_of(address + _path(model, version), headers), trusted)


def _path(model: str, version: str | None) -> str:
    return f"/predictions/{quote(model, safe='')}" + (f"/{quote(version, safe='')}" if version else "")


def _reached(address: str) -> str:
    """The address at which this machine reaches a listener, which may listen on all of its addresses."""
    parts = urlsplit(address)
    listener = ip_address(parts.hostname or "")
    if not listener.is_unspecified:
        return address
    return f"{parts.scheme}://{'127.0.0.1' if listener.version == 4 else '[::1]'}:{parts.port}"


def _key(path: Path) -> str:
    """A key, alone in its file or as the header that it is sent in."""
    key = _content(path).removeprefix(f"{KEY_HEADER}: ").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise SpecError(f"--key-file {path}: expected one key on one line")
    return key


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from None
