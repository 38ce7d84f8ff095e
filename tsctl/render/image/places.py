"""Where everything is in an image. Containerfiles, compose.yaml and the deployments inside name the same places."""

from __future__ import annotations

#: The project, its state (the only folder that is written, besides /tmp), and the packages of models.
PROJECT = "/srv/tsctl"
STATE = f"{PROJECT}/.tsctl"
PACKAGES = "/opt/packages"
#: The Python environment.
ENVIRONMENT = "/opt/tsctl"
#: Who runs it: no name of the base image.
USER_ID = 10_001
#: Folder of the secrets of models, a folder for each.
SECRETS = "/run/secrets/tsctl"
#: Mounted in place of the deployment in the image.
DEPLOYMENT = f"{PROJECT}/deployment.yaml"
#: Of a build: credentials of the archives' store, in no layer.
CREDENTIALS = "/run/secrets/store.credentials"
#: Where metrics are served, in every container of ours.
METRICS_PORT = 9464
#: Listened on in a container, whose addresses nobody knows before it runs.
EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a network of its own
#: Seconds that a container is given after SIGTERM; a node has answered its requests after 45 at the latest.
GRACE_S = 60


def service(node: str) -> str:
    """The name of a node's container in its network."""
    return f"node-{node}"


def state_of(node: str) -> str:
    """Where the gateway's container sees the state of a node, and so the node's tokens."""
    return f"{PROJECT}/state-of/{node}"


def key_file(node: str) -> str:
    """The node's tokens as the gateway's deployment names them."""
    return f"state-of/{node}/nodes/{node}/key_file.json"


def secret(model: str, name: str) -> str:
    """The name of a model's secret among all of compose.yaml."""
    return f"{model}.{name}"


def secret_file(model: str, name: str) -> str:
    """Where a container has a model's secret; Kubernetes mounts a model's secrets as a folder."""
    return f"{SECRETS}/{model}/{name}"


def image_of(engine: str) -> str:
    """The name of a node's image; its tag says what is in it."""
    return f"tsctl-node-{engine}"


#: The name of the image of tsctl and the gateway.
GATEWAY_IMAGE = "tsctl-gateway"
