"""compose.yaml: the gateway, the nodes, Prometheus and Alertmanager, and Redis where an archive shares its cache. Pure.

Only the gateway has a port outside. Nothing runs as root, writes into its image, or keeps a capability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from handlers.contract import SHARED_CACHE_KEY_VARIABLE, SHARED_CACHE_VARIABLE
from tsctl.config.deployment import GatewaySpec
from tsctl.render.image.containerfile import CHECK_EVERY_S, CHECK_TIMEOUT_S, CHECK_TRIES, START_S
from tsctl.render.image.deployments import (
    ALERTMANAGER_PORT,
    CERTIFICATE,
    CERTIFICATE_KEY,
    GATEWAY,
    PROMETHEUS_PORT,
    gateway_deployment,
)
from tsctl.render.image.places import (
    DEPLOYMENT,
    GATEWAY_IMAGE,
    GRACE_S,
    SECRETS,
    STATE,
    USER_ID,
    image_of,
    secret,
    secret_file,
    service,
    state_of,
)
from tsctl.render.image.selection import Selection

#: Networks: of all containers, without a way out, and of those that clients or others must reach.
INSIDE, OUTSIDE = "inside", "outside"
#: What others make, by the variable that replaces it: one with a digest, for example.
IMAGES = {
    "PROMETHEUS_IMAGE": "docker.io/prom/prometheus:v3.5.0",
    "ALERTMANAGER_IMAGE": "docker.io/prom/alertmanager:v0.28.1",
    "REDIS_IMAGE": "docker.io/library/redis:7.4-bookworm",
}
REDIS_PORT = 6379
NODE_CHECK = ("tsctl", "node", "wait", "--timeout", "0")
GATEWAY_CHECK = ("tsctl", "gateway", "status")
_NOBODY = 65534

Document = dict[str, Any]


def compose_document(selection: Selection, tags: Mapping[str, str], gpu: bool) -> Document:
    """The content of compose.yaml.

    Args:
        tags: of our images, by name.
        gpu: nodes get the GPUs of the machine.
    """
    has_redis = shares_a_cache(selection)
    nodes = {service(name): _node(selection, name, tags, gpu, has_redis) for name in selection.nodes}
    services: Document = {GATEWAY: _gateway(selection, tags), **nodes}
    services |= {"prometheus": _prometheus(selection), "alertmanager": _alertmanager(selection)}
    if has_redis:
        services["redis"] = _redis()
    configs = {service(name): {"file": f"./nodes/{name}.yaml"} for name in selection.nodes}
    configs |= {GATEWAY: {"file": "./gateway/deployment.yaml"}}
    configs |= {name: {"file": f"./monitoring/{name}.yml"} for name in ("prometheus", "rules", "alertmanager")}
    secrets = {secret(*of) for name in selection.nodes for of in selection.secrets_of(name)}
    secrets |= set(_gateway_secrets(selection))
    volumes = ["state-gateway", *(_state(name) for name in selection.nodes), "prometheus", "alertmanager"]
    document: Document = {
        "services": services,
        "networks": {INSIDE: {"internal": True}, OUTSIDE: {}},
        "volumes": {name: {} for name in volumes},
        "configs": configs,
    }
    if secrets:
        document["secrets"] = {name: {"file": f"./secrets/{name}"} for name in sorted(secrets)}
    return document


def shares_a_cache(selection: Selection) -> bool:
    """Whether a worker of an archive keeps answers in Redis."""
    caches = ((packed.facts.config.get("serving") or {}).get("cache") or {} for packed in selection.archives)
    return any(cache.get("shared") for cache in caches)


def _node(selection: Selection, name: str, tags: Mapping[str, str], gpu: bool, has_redis: bool) -> Document:
    engine = selection.nodes[name].engine
    image = image_of(engine)
    content: Document = {
        **_ours(engine, image, tags[image]),
        "networks": [INSIDE],
        "configs": [{"source": service(name), "target": DEPLOYMENT}],
        "volumes": [f"{_state(name)}:{STATE}"],
        "healthcheck": _check(NODE_CHECK),
        "deploy": {"resources": _resources("NODE", "2", "4g", gpu)},
    }
    if wanted := selection.secrets_of(name):
        content["secrets"] = [{"source": secret(*of), "target": secret_file(*of)} for of in wanted]
    if has_redis:
        needed = f"${{{SHARED_CACHE_KEY_VARIABLE}:?a secret of 16 bytes or more, the same for all nodes}}"
        content["environment"] = {
            SHARED_CACHE_VARIABLE: f"redis://redis:{REDIS_PORT}/0",
            SHARED_CACHE_KEY_VARIABLE: needed,
        }
        content["depends_on"] = {"redis": {"condition": "service_healthy"}}
    return content


def _gateway(selection: Selection, tags: Mapping[str, str]) -> Document:
    spec = gateway_deployment(selection).gateway
    port = urlsplit(spec.address).port if spec is not None else None
    host = urlsplit((selection.deployment.gateway or GatewaySpec()).address).hostname or ""
    host = f"[{host}]" if ":" in host else host
    states = [
        {
            "type": "volume",
            "source": _state(name),
            "target": state_of(name),
            "read_only": True,
            "volume": {"nocopy": True},
        }
        for name in selection.nodes
    ]
    content: Document = {
        **_ours("gateway", GATEWAY_IMAGE, tags[GATEWAY_IMAGE]),
        "networks": [INSIDE, OUTSIDE],
        "ports": [f"${{GATEWAY_HOST:-{host}}}:${{GATEWAY_PORT:-{port}}}:{port}"],
        "configs": [{"source": GATEWAY, "target": DEPLOYMENT}],
        "volumes": [f"state-gateway:{STATE}", *states],
        "healthcheck": _check(GATEWAY_CHECK),
        "depends_on": {service(name): {"condition": "service_healthy"} for name in selection.nodes},
        "deploy": {"resources": _resources("GATEWAY", "2", "3g", gpu=False)},
    }
    secrets = [{"source": name, "target": f"{SECRETS}/{name}"} for name in _gateway_secrets(selection)]
    of_models = dict.fromkeys(of for name in selection.nodes for of in selection.secrets_of(name))
    secrets += [{"source": secret(*of), "target": secret_file(*of)} for of in of_models]  # a rollout verifies archives
    if secrets:
        content["secrets"] = secrets
    return content


def _gateway_secrets(selection: Selection) -> list[str]:
    spec = selection.deployment.gateway
    return [CERTIFICATE, CERTIFICATE_KEY] if spec is not None and spec.tls is not None else []


def _prometheus(selection: Selection) -> Document:
    days = selection.deployment.monitoring.keep_days
    return {
        **_theirs("PROMETHEUS_IMAGE", _NOBODY),
        "command": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            f"--storage.tsdb.retention.time={days}d",
            f"--web.listen-address=:{PROMETHEUS_PORT}",
        ],
        "networks": [INSIDE],
        "configs": [
            {"source": "prometheus", "target": "/etc/prometheus/prometheus.yml"},
            {"source": "rules", "target": "/etc/prometheus/rules.yml"},
        ],
        "volumes": ["prometheus:/prometheus"],
        "healthcheck": _check(("promtool", "check", "healthy")),
        "depends_on": {GATEWAY: {"condition": "service_healthy"}, "alertmanager": {"condition": "service_healthy"}},
        "deploy": {"resources": _resources("PROMETHEUS", "1", "1g", gpu=False)},
    }


def _alertmanager(selection: Selection) -> Document:
    sends = selection.deployment.monitoring.webhook is not None
    return {
        **_theirs("ALERTMANAGER_IMAGE", _NOBODY),
        "command": [
            "--config.file=/etc/alertmanager/alertmanager.yml",
            "--storage.path=/alertmanager",
            "--cluster.listen-address=",
            f"--web.listen-address=:{ALERTMANAGER_PORT}",
        ],
        "networks": [INSIDE, *([OUTSIDE] if sends else [])],
        "configs": [{"source": "alertmanager", "target": "/etc/alertmanager/alertmanager.yml"}],
        "volumes": ["alertmanager:/alertmanager"],
        "healthcheck": _check(("wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{ALERTMANAGER_PORT}/-/healthy")),
        "deploy": {"resources": _resources("ALERTMANAGER", "0.5", "256m", gpu=False)},
    }


def _redis() -> Document:
    return {
        **_theirs("REDIS_IMAGE", USER_ID),
        "command": [
            "redis-server", "--save", "", "--appendonly", "no", "--port", str(REDIS_PORT),
            "--maxmemory", "${REDIS_MEMORY:-256mb}", "--maxmemory-policy", "allkeys-lru",
        ],
        "networks": [INSIDE],
        "healthcheck": _check(("redis-cli", "-p", str(REDIS_PORT), "ping")),
        "deploy": {"resources": _resources("REDIS", "1", "512m", gpu=False)},
    }  # fmt: skip


def _ours(folder: str, image: str, tag: str) -> Document:
    return {
        "build": {"context": ".", "dockerfile": f"{folder}/Containerfile"},
        "image": f"{image}:{tag}",
        **_hardened(USER_ID),
        "stop_signal": "SIGTERM",
        "stop_grace_period": f"{GRACE_S}s",
    }


def _theirs(variable: str, user: int) -> Document:
    return {"image": f"${{{variable}:-{IMAGES[variable]}}}", **_hardened(user)}


def _hardened(user: int) -> Document:
    return {
        "user": f"{user}:{user}",
        "init": True,  # reaps what a killed process left, and passes signals on
        "read_only": True,
        "tmpfs": ["/tmp:mode=1777,size=${TMP_SIZE:-1g}"],  # noqa: S108 - of the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }


def _check(command: Sequence[str]) -> Document:
    return {
        "test": ["CMD", *command],
        "interval": f"{CHECK_EVERY_S}s",
        "timeout": f"{CHECK_TIMEOUT_S}s",
        "start_period": f"{START_S}s",
        "retries": CHECK_TRIES,
    }


def _resources(name: str, cpus: str, memory: str, gpu: bool) -> Document:
    limits = {"cpus": f"${{{name}_CPUS:-{cpus}}}", "memory": f"${{{name}_MEMORY:-{memory}}}", "pids": 1024}
    devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    return {"limits": limits, **({"reservations": {"devices": devices}} if gpu else {})}


def _state(node: str) -> str:
    return f"state-{service(node)}"
