"""The manifests of a deployment: a list of objects in files, without a cluster and without templates of text. Pure.

Invariant: the same deployment, archives and traffic give the same bytes, and no manifest holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.contract import BATCH_SECONDS, GRPC_SERVICE, OPEN_ANSWERS
from tsctl.config.deployment import DeploymentSpec, RouteSpec
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.config.weights import TOTAL
from tsctl.gateway.envoy.render.openai import MODELS_PATH, PATHS, PROTOCOLS_OF, SLACK_S, spec_for
from tsctl.gateway.envoy.render.upstreams import TEXT, Offer
from tsctl.gateway.kubernetes.http_routes import http_route, parent
from tsctl.gateway.kubernetes.names import GRPC, GRPC_PORT, HTTP, HTTP_PORT, labels, model_name
from tsctl.gateway.traffic import Traffic, only
from tsctl.render.kubernetes.pods import (
    CONFIG_FILE,
    notes,
    object_name,
    pod_spec,
    pod_template,
    torchserve_properties,
)
from tsctl.render.kubernetes.versions import ServedVersion

Json = dict[str, Any]

#: The metric of custom.metrics.k8s.io by which pods are added: the workers that are busy, on average over a minute.
BUSY_METRIC = "tsctl_worker_busy"
#: Folder of the routes, which are applied once: afterwards tsctl keeps their weights.
ROUTES = "routes"
KUSTOMIZATION = "kustomization.yaml"
#: A header of a gRPC request that names the model, where several models are behind one Gateway.
MODEL_HEADER = "x-model"
#: Seconds for which a lower need must last before pods are removed: a worker takes long to load.
CALM_S = 300


@dataclass(frozen=True)
class Manifest:
    """One object, and the file that it is in."""

    file: str
    content: Json


def manifests(
    deployment: DeploymentSpec,
    kubernetes: KubernetesSpec,
    versions: Sequence[ServedVersion],
    traffic: Mapping[str, Traffic] | None = None,
    with_kserve: bool = False,
) -> list[Manifest]:
    """Every object, in the order in which they are applied.

    Args:
        versions: of every model of the deployment.
        traffic: in force, by model; of models without, the weights of the deployment, or all to the default version.
        with_kserve: an InferenceService for each version, in place of Deployment, Service and autoscaler.
    """
    made = [Manifest("namespace.yaml", _namespace(kubernetes)), *_access(kubernetes)]
    if kubernetes.gateway_class is not None:
        made.append(Manifest("gateway.yaml", _gateway(kubernetes)))
    for version in versions:
        file = f"{object_name(version)}.yaml"
        of_version = _with_kserve if with_kserve else _of_version
        made += [Manifest(file, content) for content in of_version(deployment, kubernetes, version)]
    return [*made, *_routes(deployment, kubernetes, versions, traffic or {}, with_kserve)]


def route_file(model: str) -> str:
    """The file of a model's routes: never that of the kustomization, as no plain name of a model has two hyphens."""
    file = f"{model_name(model)}.yaml"
    return f"{ROUTES}/{file if file != KUSTOMIZATION else file.replace('.', '--route.')}"


def kustomizations(made: Sequence[Manifest]) -> dict[str, Json]:
    """A kustomization for the workloads, and one for the routes, by their files."""
    files: dict[str, list[str]] = {"": [], f"{ROUTES}/": []}
    for manifest in made:
        folder = f"{ROUTES}/" if manifest.file.startswith(f"{ROUTES}/") else ""
        name = manifest.file.removeprefix(folder)
        if name not in files[folder]:
            files[folder].append(name)
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return {f"{folder}{KUSTOMIZATION}": {**head, "resources": names} for folder, names in files.items() if names}


def traffic_of_spec(deployment: DeploymentSpec, model: str) -> Traffic:
    """The traffic that the file asks for: its weights, the default version last, or all to the default version."""
    target = deployment.models[model]
    shares = target.shares
    if shares is None:
        return only(model, target.default)
    others = {version: weight for version, weight in shares.items() if version != target.default}
    canaries = [version for version, weight in others.items() if 0 < weight < TOTAL]
    return Traffic(model, {**others, target.default: shares[target.default]}, canaries[-1] if canaries else None)


def adapter_rules() -> Json:
    """Rules for prometheus-adapter, which give BUSY_METRIC of every pod of our workers."""
    series = f"{BATCH_SECONDS}_sum"
    return {
        "rules": [
            {
                "seriesQuery": f'{series}{{namespace!="",pod!=""}}',
                "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
                "name": {"as": BUSY_METRIC},
                "metricsQuery": "sum by (<<.GroupBy>>) (rate(<<.Series>>{<<.LabelMatchers>>}[1m]))",
            },
            {
                "seriesQuery": f'{OPEN_ANSWERS}{{namespace!="",pod!=""}}',
                "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
                "metricsQuery": "sum by (<<.GroupBy>>) (<<.Series>>{<<.LabelMatchers>>})",
            },
        ]
    }


def _namespace(kubernetes: KubernetesSpec) -> Json:
    level = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
    made = labels("tsctl") | level
    made.pop("app.kubernetes.io/name")
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kubernetes.namespace, "labels": made}}


def _access(kubernetes: KubernetesSpec) -> list[Manifest]:
    """The rights that `tsctl weights` and rollouts need; whom they are bound to is up to people."""
    rules = [
        {
            "apiGroups": ["gateway.networking.k8s.io"],
            "resources": ["httproutes"],
            "verbs": ["get", "list", "patch"],
        },
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["create"]},
    ]
    metadata = {"name": "tsctl-rollouts", "namespace": kubernetes.namespace}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    return [Manifest("role.yaml", role)] if kubernetes.traffic == "httproute" else []


def _gateway(kubernetes: KubernetesSpec) -> Json:
    secret = kubernetes.tls_secret
    listener: Json = {"name": HTTP, "protocol": "HTTP", "port": 80}
    if secret is not None:
        certificate = {"kind": "Secret", "group": "", "name": secret}
        listener = {
            "name": "https",
            "protocol": "HTTPS",
            "port": 443,
            "tls": {"mode": "Terminate", "certificateRefs": [certificate]},
        }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": kubernetes.gateway, "namespace": kubernetes.namespace},
        "spec": {
            "gatewayClassName": kubernetes.gateway_class,
            "listeners": [{**listener, "allowedRoutes": {"namespaces": {"from": "Same"}}}],
        },
    }


def _of_version(deployment: DeploymentSpec, kubernetes: KubernetesSpec, version: ServedVersion) -> Iterator[Json]:
    pods = kubernetes.pods(version.model)
    is_scaled = pods.max_replicas > pods.min_replicas
    yield {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(kubernetes, version),
        "spec": {
            **({} if is_scaled else {"replicas": pods.min_replicas}),  # else applying it would undo the autoscaler
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": labels(version.model, version.version)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": pod_template(deployment, kubernetes, version),
        },
    }
    if kubernetes.engine != "uvicorn":
        data = {CONFIG_FILE: torchserve_properties(version)}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(kubernetes, version), "data": data}
    yield _service(kubernetes, version)
    yield _disruptions(kubernetes, version)
    if is_scaled:
        yield _autoscaler(kubernetes, version)
    yield from _network(kubernetes, version)


def _metadata(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    return {
        "name": object_name(version),
        "namespace": kubernetes.namespace,
        "labels": labels(version.model, version.version),
        "annotations": notes(version),
    }


def _service(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    ports: list[Json] = [{"name": HTTP, "port": HTTP_PORT, "targetPort": HTTP, "protocol": "TCP"}]
    if kubernetes.grpc:
        more = {"protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}
        ports.append({"name": GRPC, "port": GRPC_PORT, "targetPort": GRPC, **more})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(kubernetes, version),
        "spec": {"type": "ClusterIP", "selector": labels(version.model, version.version), "ports": ports},
    }


def _disruptions(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(kubernetes, version),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": labels(version.model, version.version)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _autoscaler(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    pods = kubernetes.pods(version.model)
    target = {"type": "Utilization", "averageUtilization": 80}
    metrics: list[Json] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    if kubernetes.engine == "uvicorn":
        metrics.insert(0, _own_metric(kubernetes, version))
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(kubernetes, version),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": object_name(version)},
            "minReplicas": pods.min_replicas,
            "maxReplicas": pods.max_replicas,
            "metrics": metrics,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_S}},
        },
    }


def _own_metric(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    """The workers that are busy in a pod; of a language model, whose workers have many answers at once, those."""
    is_text = version.offer is not None and version.offer.kind == TEXT
    name, full = (OPEN_ANSWERS, version.answers) if is_text else (BUSY_METRIC, version.workers)
    value = f"{max(1, round(kubernetes.busy * full * 1000))}m"
    return {
        "type": "Pods",
        "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": value}},
    }


def _network(kubernetes: KubernetesSpec, version: ServedVersion) -> Iterator[Json]:
    if not kubernetes.allow_from:
        return
    name = "kubernetes.io/metadata.name"
    allowed = [{"namespaceSelector": {"matchLabels": {name: namespace}}} for namespace in kubernetes.allow_from]
    ports = [HTTP, *([GRPC] if kubernetes.grpc else [])]
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(kubernetes, version),
        "spec": {
            "podSelector": {"matchLabels": labels(version.model, version.version)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": allowed, "ports": [{"protocol": "TCP", "port": port} for port in ports]}],
        },
    }


def _with_kserve(deployment: DeploymentSpec, kubernetes: KubernetesSpec, version: ServedVersion) -> Iterator[Json]:
    """KServe makes Deployment, Service and autoscaler of it, in its mode without Knative."""
    pods, metadata = kubernetes.pods(version.model), _metadata(kubernetes, version)
    specification = pod_spec(deployment, kubernetes, version)
    container = {**specification["containers"][0], "name": "kserve-container"}
    yield {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            **metadata,
            "annotations": {
                **metadata["annotations"],
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": "hpa",
            },
        },
        "spec": {
            "predictor": {
                "labels": labels(version.model, version.version),
                "minReplicas": pods.min_replicas,
                "maxReplicas": pods.max_replicas,
                "scaleMetric": "cpu",
                "scaleTarget": 80,
                **specification,
                "containers": [container],
            }
        },
    }
    yield _disruptions(kubernetes, version)
    yield from _network(kubernetes, version)


def _routes(
    deployment: DeploymentSpec,
    kubernetes: KubernetesSpec,
    versions: Sequence[ServedVersion],
    traffic: Mapping[str, Traffic],
    with_kserve: bool,
) -> Iterator[Manifest]:
    offers = offers_of(deployment, versions, traffic)
    for model, target in deployment.models.items():
        route, offer = traffic.get(model) or traffic_of_spec(deployment, model), offers.get(model)
        spec = route_spec(target.route, offer)
        is_own = kubernetes.engine == "uvicorn"
        extra = _openai_paths(offer) if len(offers) == 1 and offer is not None and is_own else ()
        made = http_route(kubernetes, route, spec, extra)
        if extra:
            made["spec"]["rules"] = _with_models(made["spec"]["rules"])
        file = route_file(model)
        routes = [made]
        if kubernetes.grpc:
            routes.append(_grpc_route(kubernetes, route, len(deployment.models) > 1))
        for one in routes:
            yield Manifest(file, _behind_kserve(one) if with_kserve else one)


def offers_of(
    deployment: DeploymentSpec, versions: Sequence[ServedVersion], traffic: Mapping[str, Traffic]
) -> dict[str, Offer]:
    """What each model's stable version offers of the OpenAI API, by model."""
    by_key = {(one.model, one.version): one.offer for one in versions}
    stable = {model: (traffic.get(model) or traffic_of_spec(deployment, model)).stable for model in deployment.models}
    return {model: offer for model, version in stable.items() if (offer := by_key.get((model, version))) is not None}


def route_spec(spec: RouteSpec, offer: Offer | None) -> RouteSpec:
    """The rules of a route, with the deadline of a whole answer: a language model's worker has time to say its own."""
    made = spec_for(spec, offer)
    if offer is None or offer.kind != TEXT:
        return made
    return made.model_copy(update={"deadline_s": made.deadline_s + SLACK_S})


def _openai_paths(offer: Offer) -> tuple[str, ...]:
    return tuple(PATHS[protocol] for protocol in PROTOCOLS_OF[offer.kind])


def _with_models(rules: list[Json]) -> list[Json]:
    """The rule of metadata answers the list of models as well."""
    listed = {"path": {"type": "Exact", "value": MODELS_PATH}, "method": "GET"}
    return [{**rule, "matches": [*rule["matches"], listed]} if rule["name"] == "metadata" else rule for rule in rules]


def _behind_kserve(route: Json) -> Json:
    """The route to the Services that KServe makes: of another name, with the container's first port at port 80."""

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(one) for one in value]
        if not isinstance(value, dict):
            return value
        if value.get("kind") == "Service" and "port" in value:
            port = 80 if value["port"] == HTTP_PORT else value["port"]
            value = {**value, "name": f"{value['name']}-predictor", "port": port}
        return {key: renamed(inner) for key, inner in value.items()}

    made: Json = renamed(route)
    return made


def _grpc_route(kubernetes: KubernetesSpec, traffic: Traffic, with_header: bool) -> Json:
    """The model over gRPC: a request names its model in its message, which a route cannot read."""
    header = {"headers": [{"type": "Exact", "name": MODEL_HEADER, "value": traffic.model}]} if with_header else {}
    backends = [
        {
            "group": "",
            "kind": "Service",
            "name": object_name(ServedVersion(traffic.model, version, "")),
            "port": GRPC_PORT,
            "weight": weight,
        }
        for version, weight in traffic.weights.items()
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GRPCRoute",
        "metadata": {
            "name": model_name(traffic.model),
            "namespace": kubernetes.namespace,
            "labels": labels(traffic.model),
        },
        "spec": {
            "parentRefs": [parent(kubernetes)],
            **({"hostnames": list(kubernetes.hostnames)} if kubernetes.hostnames else {}),
            "rules": [
                {
                    "name": "weights",
                    "matches": [{"method": {"type": "Exact", "service": GRPC_SERVICE}, **header}],
                    "backendRefs": backends,
                }
            ],
        },
    }
