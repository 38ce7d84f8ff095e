"""What the gateway of this machine does, and a cluster's does not: refused where it is asked for, else told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tsctl.config.deployment import Budget, DeploymentSpec
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.errors import SpecError
from tsctl.gateway.envoy.render.upstreams import Offer
from tsctl.render.kubernetes.pods import secret_name
from tsctl.render.kubernetes.versions import ServedVersion


def require_renderable(deployment: DeploymentSpec, kubernetes: KubernetesSpec, with_kserve: bool) -> None:
    """Raises SpecError where the file asks for what manifests cannot give, and does not say that it can do without."""
    asked = {
        "sticky": [f"models.{model}.route.sticky" for model, one in deployment.models.items() if one.route.sticky],
        "budget": ["gateway.budget"] if deployment.gateway and deployment.gateway.budget != Budget() else [],
        "engine_header": ["gateway.engine_header"] if deployment.gateway and deployment.gateway.engine_header else [],
    }
    for name, places in asked.items():
        if places and name not in kubernetes.without:
            raise SpecError(
                f"deployment.yaml asks for {places[0]}, and the standard Gateway API has nothing for it",
                f"Remove it, or do without it on the cluster: kubernetes.without: [{name}]",
            )
    for model, target in deployment.models.items():
        for version in target.versions:
            if kubernetes.image_of(model, version) is None:
                raise SpecError(
                    f"no image for {model} {version}",
                    "Build the node's image that 'tsctl render image' describes, and name it: kubernetes.image.",
                )
    if with_kserve and kubernetes.traffic == "httproute":
        raise SpecError(
            "tsctl keeps weights of Services that it rendered, and KServe makes its own",
            "Leave --kserve out, or kubernetes.traffic.",
        )
    if with_kserve and kubernetes.engine != "uvicorn":
        raise SpecError("--kserve renders containers of the engine uvicorn alone", "Leave kubernetes.engine out.")


def differences(
    deployment: DeploymentSpec,
    kubernetes: KubernetesSpec,
    versions: Collection[ServedVersion],
    offers: dict[str, Offer],
    with_kserve: bool = False,
) -> list[str]:
    """What clients and people get otherwise than from this machine's gateway, a sentence each."""
    return list(_told(deployment, kubernetes, versions, offers, with_kserve))


def _told(
    deployment: DeploymentSpec,
    kubernetes: KubernetesSpec,
    versions: Collection[ServedVersion],
    offers: dict[str, Offer],
    with_kserve: bool,
) -> Iterator[str]:
    yield "keys and budgets: a Gateway asks no client for a key; use a policy of your gateway, or a proxy before it"
    yield (
        "retries: a request whose pod has died is sent again only where your gateway does so by itself;"
        " 'idempotent' has no place in an HTTPRoute"
    )
    yield "deadlines: the route's deadline is kept by the gateway, a client's own by the worker alone"
    for name in dict.fromkeys(kubernetes.without):
        yield f"{name}: left out, as kubernetes.without says"
    if len(offers) > 1:
        yield (
            f"the OpenAI API: {', '.join(sorted(offers))} offer it, and an HTTPRoute cannot choose by the model in a"
            " body; no route has /v1"
        )
    if kubernetes.engine == "torchserve":
        yield (
            "TorchServe: its pods have no path of the Open Inference Protocol and no metrics of our workers; so pods"
            " are added by processor time, and 'tsctl rollout' cannot judge them"
        )
    if with_kserve:
        yield "KServe: it adds pods by processor time, not by busy workers, so kubernetes.busy has no effect"
    if with_kserve and kubernetes.grpc:
        yield (
            "KServe: its Services do not say that port 9000 speaks HTTP/2 (appProtocol), which some gateways need for a"
            " GRPCRoute"
        )
    if any(version.records for version in versions):
        yield "records: they are in each pod's own folder and end with it; 'tsctl shadow', drift and labels need more"
    for model in dict.fromkeys(version.model for version in versions if version.secrets):
        names = next(version.secrets for version in versions if version.model == model)
        files = " ".join(f"--from-file={name}=FILE" for name in names)
        yield (
            f"secrets: make them yourself: kubectl -n {kubernetes.namespace} create secret generic"
            f" {secret_name(model)} {files}"
        )
    if not kubernetes.allow_from:
        yield "network: every pod of the cluster may reach the workers past the gateway; see kubernetes.allow_from"
    if deployment.gateway is not None and deployment.gateway.tls is not None and kubernetes.tls_secret is None:
        yield "TLS: gateway.tls names files of this machine; kubernetes.tls_secret names a Secret"
    if kubernetes.traffic == "httproute" and any(one.weights is not None for one in deployment.models.values()):
        yield "weights: a model whose weights the file sets gets them again each time when its route is applied"
