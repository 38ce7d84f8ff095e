"""Names of a cluster's objects, their labels, and the ports of a worker's pod. Pure.

Invariant: two models, and two versions, never have one name. Where a name has letters that a cluster does not take, its
digest tells it from others.
"""

from __future__ import annotations

import re
from hashlib import sha256

#: Of a pod and its Service: HTTP, and the Open Inference Protocol over gRPC.
HTTP_PORT, GRPC_PORT = 8080, 9000
HTTP, GRPC = "http", "grpc"
#: Annotations with the exact names; a label takes fewer letters.
MODEL_NOTE, VERSION_NOTE, DIGEST_NOTE = "tsctl/model", "tsctl/version", "tsctl/archive-sha256"
#: Annotation of an HTTPRoute: the version on trial.
CANARY_NOTE = "tsctl/canary"
#: Label by which Deployment, Service and the others find the pods of one version; its value is `version_name`.
VERSION_LABEL = "app.kubernetes.io/instance"
#: A Service's name may have 63 letters, and KServe adds 10 of its own.
LONGEST = 50
_DIGITS = 8

_PLAIN_MODEL = re.compile(r"[a-z]([a-z0-9]|-(?!-))*(?<!-)")
_PLAIN_VERSION = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")


def model_name(model: str) -> str:
    """The name of a model's HTTPRoute, of 50 letters at most."""
    if _PLAIN_MODEL.fullmatch(model) and len(model) <= LONGEST:
        return model
    return _marked(model, model)


def version_name(model: str, version: str) -> str:
    """The name of a version's Deployment and Service, such as `digits--1-0`, of 50 letters at most."""
    name = f"{model}--{version.replace('.', '-')}"
    if _PLAIN_MODEL.fullmatch(model) and _PLAIN_VERSION.fullmatch(version) and len(name) <= LONGEST:
        return name
    return _marked(f"{model}-{version}", f"{model}~{version}")


def _marked(readable: str, exact: str) -> str:
    """The readable letters, and a digest of the exact name behind a separator that no plain name has there."""
    letters = re.sub(r"[^a-z0-9]+", "-", readable.lower()).strip("-")
    first = letters if letters[:1].isalpha() else f"m-{letters}"
    return f"{first[: LONGEST - _DIGITS - 3].rstrip('-')}---{sha256(exact.encode()).hexdigest()[:_DIGITS]}"


def labels(model: str, version: str | None = None) -> dict[str, str]:
    """The labels of an object of a model, or of one of its versions."""
    return {
        "app.kubernetes.io/managed-by": "tsctl",
        "app.kubernetes.io/name": model_name(model),
        **({VERSION_LABEL: version_name(model, version)} if version is not None else {}),
    }
