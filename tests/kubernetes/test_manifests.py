"""Every rendered manifest is taken by a real API server, which keeps each field of it.

What Kubernetes 1.20 does not know yet is written as it was then: two kinds of an earlier version of their group, and
the wait before the end of a pod as a command.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kubernetes_server import ApiServerProcess, path_of
from tests.unit.test_kubernetes_render import OPTIONS, contents, rendered

Json = dict[str, Any]
OLDER = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2"}


def as_in_1_20(manifest: Json) -> Json:
    """The manifest without what is younger than 1.20; docs/kubernetes.md names the same."""
    made = copy.deepcopy(manifest)
    made["apiVersion"] = OLDER.get(made["apiVersion"], made["apiVersion"])
    if made["kind"] == "PodDisruptionBudget":
        del made["spec"]["unhealthyPodEvictionPolicy"]  # 1.26
    if made["kind"] == "Deployment":
        [container] = made["spec"]["template"]["spec"]["containers"]
        seconds = container["lifecycle"]["preStop"].pop("sleep")["seconds"]  # 1.30
        container["lifecycle"]["preStop"]["exec"] = {"command": ["sleep", str(seconds)]}
    return made


def lost(sent: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Fields that the server has not kept as they were sent."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            yield from lost(value, kept.get(key), f"{where}.{key}")
    elif isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        for number, pair in enumerate(zip(sent, kept, strict=True)):
            yield from lost(*pair, f"{where}[{number}]")
    elif sent != kept and not (type(sent) is int and str(sent) == kept):  # a quantity, which the server has as text
        yield f"{where}: {sent!r} is {kept!r}"


@pytest.fixture(scope="module")
def server(kubernetes: ApiServerProcess) -> ApiServerProcess:
    kubernetes.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tsctl"}})
    return kubernetes


@pytest.mark.parametrize("name", OPTIONS)
def test_a_real_server_takes_every_manifest_whole(name: str, server: ApiServerProcess) -> None:
    manifests = [as_in_1_20(one) for one in contents(rendered(OPTIONS[name]))]
    assert {"Deployment", "Service", "HTTPRoute"} <= {one["kind"] for one in manifests}
    for manifest in manifests:
        if manifest["kind"] == "Namespace":
            manifest["metadata"]["name"] = "another"
        kept = server.ask("POST", f"{path_of(manifest)}?dryRun=All", manifest)
        assert list(lost(manifest, kept)) == []


@pytest.mark.parametrize(
    ("kind", "edit", "says"),
    [
        ("Deployment", lambda spec: spec["selector"]["matchLabels"].update(other="x"), "selector"),
        ("Service", lambda spec: spec["ports"][0].update(port=0), "must be between 1 and 65535"),
        ("HTTPRoute", lambda spec: spec["rules"][0]["backendRefs"][0].update(weight=-1), "weight"),
        ("HTTPRoute", lambda spec: spec.update(hostnames=["!"]), "hostnames"),
        ("HorizontalPodAutoscaler", lambda spec: spec.update(maxReplicas=0), "maxReplicas"),
    ],
)
def test_a_wrong_manifest_is_refused(kind: str, edit: Any, says: str, server: ApiServerProcess) -> None:
    manifest = next(as_in_1_20(one) for one in contents(rendered()) if one["kind"] == kind)
    edit(manifest["spec"])
    refused = server.send("POST", f"{path_of(manifest)}?dryRun=All", manifest)
    assert refused.status_code == 422
    assert says in refused.json()["message"]
