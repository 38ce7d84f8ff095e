"""The deployment.yaml of each container: the team's own, with the addresses that hold inside. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tsctl.addresses import has_secret
from tsctl.config.deployment import DeploymentSpec, GatewaySpec, ModelTarget, TlsFiles
from tsctl.config.nodes import NodeSpec, TorchServeSpec
from tsctl.config.store import StoreSpec
from tsctl.host.remote import is_open
from tsctl.render.image.places import EVERYWHERE, METRICS_PORT, SECRETS, key_file, service
from tsctl.render.image.selection import Selection

#: Ports in the network of the containers.
PROMETHEUS_PORT, ALERTMANAGER_PORT = 9090, 9093
GATEWAY = "gateway"
#: Secrets of the gateway: no model has a name that begins so.
CERTIFICATE, CERTIFICATE_KEY = "_tls.certificate", "_tls.key"

Document = dict[str, Any]


def node_document(selection: Selection, node: str, pulls: bool = False) -> Document:
    """The deployment of a node's own container, which has this node and its versions.

    Args:
        pulls: the archives come from the store.
    """
    spec = at_host(selection.nodes[node], EVERYWHERE).model_copy(update={"key_file": None})
    document = {"nodes": {node: _dumped(spec)}, "models": _models(selection.of_node(node), with_nodes=False)}
    store = open_store_spec(selection.deployment)
    return {**document, "store": _dumped(store)} if pulls and store is not None else document


def open_store_spec(team: DeploymentSpec) -> StoreSpec | None:
    """The store without options that may be secrets, or hold one in an address: they must be in no image."""
    if team.store is None:
        return None
    options = {name: value for name, value in team.store.options.items() if is_open(name) and not has_secret(value)}
    return team.store.model_copy(update={"options": options})


def open_control(team: DeploymentSpec) -> str | None:
    """The shared place of control; None where it is a folder of this machine, or its address has a secret."""
    if team.control is None or "://" not in team.control or has_secret(team.control):
        return None
    return team.control


def gateway_document(selection: Selection) -> Document:
    """The deployment of the gateway's container, from which all is managed."""
    return _dumped(gateway_deployment(selection)) | {"models": _models(selection.models, with_nodes=True)}


def gateway_deployment(selection: Selection) -> DeploymentSpec:
    """As `gateway_document`, for what is rendered from it."""
    team = selection.deployment
    nodes = {
        name: at_host(spec, service(name)).model_copy(update={"key_file": key_file(name)})
        for name, spec in selection.nodes.items()
    }
    monitoring = team.monitoring.model_copy(
        update={
            "prometheus": f"http://prometheus:{PROMETHEUS_PORT}",
            "alertmanager": f"http://alertmanager:{ALERTMANAGER_PORT}",
            "exporter": f"http://{GATEWAY}:{METRICS_PORT}",
            "webhook": None,  # Alertmanager's file has it, which is in no image
        }
    )
    update = {
        "nodes": nodes,
        "models": dict(selection.models),
        "gateway": _gateway(team),
        "monitoring": monitoring,
        "store": open_store_spec(team),
        "control": open_control(team),
    }
    return team.model_copy(update=update)


def at_host(spec: NodeSpec, host: str) -> NodeSpec:
    """The node at the same ports of another host."""
    keys = ("inference", "management", "metrics") if isinstance(spec, TorchServeSpec) else ("address",)
    return spec.model_copy(update={key: _moved(getattr(spec, key), host) for key in keys})


def _gateway(team: DeploymentSpec) -> GatewaySpec:
    spec = team.gateway or GatewaySpec()
    tls = TlsFiles(certificate=f"{SECRETS}/{CERTIFICATE}", key=f"{SECRETS}/{CERTIFICATE_KEY}") if spec.tls else None
    places = {"address": _moved(spec.address, EVERYWHERE), "metrics": _moved(spec.metrics, EVERYWHERE)}
    return spec.model_copy(update={**places, "tls": tls})


def _moved(address: str, host: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{host}:{parts.port}"


def _models(models: Mapping[str, ModelTarget], with_nodes: bool) -> Document:
    documents = {model: _dumped(target) for model, target in models.items()}
    for document in documents.values():
        for version in document["versions"].values() if not with_nodes else ():
            version.pop("nodes", None)
    return documents


def _dumped(spec: Any) -> Document:
    """The keys that say something, as a person would write them."""
    document: Document = spec.model_dump(mode="json", exclude_defaults=True)
    return document
