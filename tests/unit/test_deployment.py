"""deployment.yaml: every mistake is told with its file, key, value and expectation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from tsctl.config.archive import ArchiveSpec
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.errors import SpecError

GOOD = """
nodes:
  local: {inference: "http://127.0.0.1:8080"}
models:
  digits:
    default: "1.0"
    versions: {"1.0": {workers: 2}, "2.0": }
"""


def read(tmp_path: Path, text: str) -> DeploymentSpec:
    path = tmp_path / "deployment.yaml"
    path.write_text(text)
    return read_deployment(path)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD)
    assert spec.node(None)[1].listens_on == (8080, 8081, 8082, 7070, 7071)
    assert spec.models["digits"].workers("1.0") == 2
    assert spec.models["digits"].workers("2.0") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('default: "1.0"', "default: 1.0", r'models\.digits\.default: 1\.0: .*string; quote it, as in "1\.0"'),
        ('default: "1.0"', 'default: "3.0"', r"default '3\.0' is not one of the versions 1\.0, 2\.0"),
        ("workers: 2", "workers: 0", r"versions\.1\.0\.workers: 0: should be greater than or equal to 1"),
        ("workers: 2", "worker: 2", r"versions\.1\.0\.worker: unknown key; did you mean workers\?"),
        ("127.0.0.1:8080", "127.0.0.1", r"nodes\.local\.inference: .*with its port"),
        ("127.0.0.1:8080", "127.0.0.1:8081", r"the five ports must differ"),
        ("digits:", "tokens:", r"models\.tokens: .*must not begin with 'token'"),
        (
            "nodes:",
            "nodes:\n  other: {grpc_ports: [9, 10]}",
            r"nodes other and local both have port 8080 of 127\.0\.0\.1",
        ),
        ("nodes:", "node:", r"node: unknown key; did you mean nodes"),
        ("models:", "models: [", r"line \d+, column \d+"),
    ],
)
def test_a_mistake_is_told_where_it_stands(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert "deployment.yaml" in str(caught.value)


def test_only_a_cluster_needs_no_node(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"deployment\.yaml: nodes: missing, and required") as caught:
        read(tmp_path, "models: {}\n")
    assert "traffic: httproute" in caught.value.message
    with pytest.raises(SpecError, match="nodes: missing, and required"):
        read(tmp_path, "nodes: {}\nkubernetes: {traffic: envoy}\n")
    spec = read(tmp_path, "kubernetes: {traffic: httproute}\n")
    assert spec.is_on_cluster
    with pytest.raises(SpecError, match="names no node, and this command acts on nodes"):
        spec.node(None)


@pytest.mark.parametrize(
    ("ray", "reason"),
    [
        ("{max_replicas: 2}", "ray.max_replicas 2 is less than workers 3"),
        ("{num_gpus: 1.5}", "num_gpus 1.5 is more than one and not whole"),
        ("{max_replicas: 5, target_ongoing_requests: .inf}", "finite number"),
        ("{num_cpus: .nan}", "finite number"),
    ],
)
def test_settings_of_ray_that_ray_refuses_or_contradict_each_other(tmp_path: Path, ray: str, reason: str) -> None:
    def with_ray(text: str) -> DeploymentSpec:
        return read(tmp_path, f"nodes: {{a: {{}}}}\nmodels: {{m: {{default: '1', versions: {{'1': {text}}}}}}}\n")

    with pytest.raises(SpecError, match=reason):
        with_ray(f"{{workers: 3, ray: {ray}}}")
    assert with_ray("{workers: 3, ray: {max_replicas: 3, num_gpus: 2.0, num_cpus: 0.5}}")
    assert with_ray("{ray: {num_gpus: 0.5}}")


def numbers(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[type[BaseModel], str]]:
    """The fields that take a number, of a section and all sections in it."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        kinds, found = [field.annotation], []
        while kinds:
            kind = kinds.pop()
            found.append(kind)
            kinds += get_args(kind)
        if float in found:
            yield model, name
        for kind in found:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, seen)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_number_of_a_file_is_infinite(value: float) -> None:
    seen: set[type[BaseModel]] = set()
    fields = [*numbers(DeploymentSpec, seen), *numbers(ArchiveSpec, seen)]
    assert len(fields) > 10
    for model, name in fields:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({name: value})
        assert name in {error["loc"][0] for error in caught.value.errors() if error["loc"]}, (model, name)


@pytest.mark.parametrize("key", ["address", "metrics"])
def test_two_gateways_have_two_addresses(tmp_path: Path, key: str) -> None:
    def two(first: str, second: str) -> DeploymentSpec:
        ports = {"address": 8000, "metrics": 8003}
        places = [{**{k: f"http://{h}:{p + 100 * n}" for k, p in ports.items()}} for n, h in enumerate((first, second))]
        places[1][key] = places[0][key].replace(first, second)
        gateways = dict(zip("ab", places, strict=True))
        return read(tmp_path, json.dumps({"nodes": {"a": {}}, "control": "/c", "gateways": gateways}))

    with pytest.raises(SpecError, match=rf"gateways\.b\.{key} and gateways\.a\.{key} are both http://10\.0\.0\.1"):
        two("10.0.0.1", "10.0.0.1")
    assert two("10.0.0.1", "10.0.0.2")
    assert two("127.0.0.1", "127.0.0.1"), "each machine has it for itself"


@pytest.mark.parametrize("address", ["http://me:hunter2@10.0.0.1:80", "http://hunter2@h:80", "http://:hunter2@h:80/x"])
def test_an_address_holds_no_password_and_a_message_repeats_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(SpecError, match=r"rollout\.prometheus: .*\*\*\*@") as caught:
        read(tmp_path, GOOD + f'rollout: {{prometheus: "{address}"}}\n')
    assert "hunter2" not in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, GOOD.replace("workers: 2", "workers: x").replace('default: "1.0"', "defaults: 1"))
    assert len(str(caught.value).splitlines()) == 3


def test_one_of_several_nodes_must_be_named(tmp_path: Path) -> None:
    second = '  other: {inference: "http://10.0.0.2:8080", management: "http://10.0.0.2:8081"}\nmodels:'
    spec = read(tmp_path, GOOD.replace("models:", second))
    with pytest.raises(SpecError, match="several nodes: local, other"):
        spec.node(None)
    with pytest.raises(SpecError, match="no node 'x'"):
        spec.node("x")
    assert not spec.node("other")[1].is_loopback


@pytest.mark.parametrize("key", ["address", "metrics"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://localhost:8000", "must be an IP address of this machine, such as 127.0.0.1 or 0.0.0.0, and no name"),
        ("http://gateway.example:8000", "and no name"),
        ("http://127.1:8000", "and no name"),
        ("http://10.0.0.256:8000", "and no name"),
        ("http://[fe80::1%eth0]:8000", "must be an IP address without a zone"),
    ],
)
def test_the_gateway_listens_on_ip_addresses_only(tmp_path: Path, key: str, address: str, reason: str) -> None:
    with pytest.raises(SpecError, match=re.escape(reason)) as refused:
        read(tmp_path, GOOD + f'gateway: {{{key}: "{address}"}}\n')
    assert f"gateway.{key}" in refused.value.message
    for works in ("http://[::1]:8000", "http://0.0.0.0:8000"):
        assert read(tmp_path, GOOD + f'gateway: {{{key}: "{works}"}}\n').gateway


@pytest.mark.parametrize("key", ["inference", "management", "metrics"])
def test_a_node_has_no_ipv6_address(tmp_path: Path, key: str) -> None:
    with pytest.raises(SpecError, match="must not be an IPv6 address, which TorchServe cannot listen on"):
        read(tmp_path, f'nodes: {{a: {{{key}: "http://[::1]:9000"}}}}\n')
    assert read(tmp_path, f'nodes: {{a: {{{key}: "http://node-a.example:9000"}}}}\n').nodes


ENGINES = """
nodes:
  local: {}
  api: {engine: uvicorn, address: "http://127.0.0.1:8100"}
models:
  digits:
    default: "1.0"
    versions: {"1.0": {nodes: [local]}, "1.0u": {archive: "1.0", nodes: [api]}, "2.0": }
"""


def test_a_node_has_an_engine_and_a_version_its_nodes(tmp_path: Path) -> None:
    spec = read(tmp_path, ENGINES)
    assert {name: (node.engine, node.url) for name, node in spec.nodes.items()} == {
        "local": ("torchserve", "http://127.0.0.1:8080"),
        "api": ("uvicorn", "http://127.0.0.1:8100"),
    }
    digits = spec.models["digits"]
    assert [digits.archive(version) for version in digits.versions] == ["1.0", "1.0", "2.0"]
    on = {version: [node for node in spec.nodes if digits.is_on(version, node)] for version in digits.versions}
    assert on == {"1.0": ["local"], "1.0u": ["api"], "2.0": ["local", "api"]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("engine: uvicorn", "engine: nginx", "nodes.api.engine: 'nginx': unknown; known here: bentoml, ray, torch"),
        ("engine: uvicorn", "engine: trito", "nodes.api.engine: 'trito': unknown; did you mean triton\\?"),
        ("engine: uvicorn", "engine: 1", "nodes.api.engine: '1': unknown; known here: "),
        ("engine: uvicorn, ", "", "nodes.api.address: unknown key; known here: engine, grpc_ports, inference"),
        ("address:", "addres:", "nodes.api.addres: unknown key; did you mean address?"),
        (
            "address:",
            "inference:",
            "nodes.api.inference: unknown key; known here: address, engine, environment, key_file, nice",
        ),
        ('address: "http://127.0.0.1:8100"', "", "nodes.api.address: missing, and required"),
        ("8100", "8081", "nodes local and api both have port 8081 of 127.0.0.1"),
        ("127.0.0.1:8100", "localhost:8081", "both have port 8081 of 127.0.0.1 and localhost, which are one place"),
        ("127.0.0.1:8100", "0.0.0.0:8081", "both have port 8081 of 127.0.0.1 and 0.0.0.0, which are one place"),
        ("http://127.0.0.1:8100", "https://127.0.0.1:8100", "nodes.api.address: .*must begin with http://"),
        ("nodes: [api]", "nodes: [api, api]", "digits 1.0u names node api twice"),
        ("nodes: [api]", "nodes: [gone]", "digits 1.0u names node gone; the nodes are local, api"),
        ("nodes: [api]", "nodes: []", "1.0u.nodes: "),
        ('archive: "1.0"', "archive: 1.0", "1.0u.archive: 1.0: "),
    ],
)
def test_a_mistake_in_a_node_of_an_engine_is_told_where_it_stands(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        read(tmp_path, ENGINES.replace(old, new, 1))


@pytest.mark.parametrize("nodes", ["{nodes: [local, tri]}", "{nodes: [tri, api]}", ""])
def test_a_version_is_on_nodes_that_are_asked_alike(tmp_path: Path, nodes: str) -> None:
    """Refused by the file alone, whether any node answers or not."""
    text = ENGINES.replace("models:", '  tri: {engine: triton, address: "http://127.0.0.1:8200"}\nmodels:')
    mixed = text.replace('"2.0": }', f'"2.0": {nodes}}}')
    with pytest.raises(SpecError, match=r"digits 2\.0 cannot be on node .* and on node .*which need requests of other"):
        read(tmp_path, mixed)
    alike = text.replace('"2.0": }', '"2.0": {nodes: [local, api]}, "2.0t": {archive: "2.0", nodes: [tri]}}')
    assert read(tmp_path, alike).models["digits"].is_on("2.0t", "tri")


def test_values_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_HOST", "10.0.0.7")
    monkeypatch.setenv("DIGITS_WORKERS", "3")
    text = """
nodes:
  local:
    inference: http://${NODE_HOST}:8080
models:
  digits:
    default: "${DEFAULT:-1.0}"
    versions:
      "1.0":
        workers: ${DIGITS_WORKERS}
"""
    spec = read(tmp_path, text)
    assert spec.nodes["local"].url == "http://10.0.0.7:8080"
    assert (spec.models["digits"].default, spec.models["digits"].workers("1.0")) == ("1.0", 3)
    monkeypatch.delenv("NODE_HOST")
    monkeypatch.setenv("DIGITS_WORKERS", "many")
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    said = f"{tmp_path / 'deployment.yaml'}: nodes.local.inference: the environment has no variable NODE_HOST; set it,"
    assert caught.value.message.startswith(said)
    monkeypatch.setenv("NODE_HOST", "h")
    with pytest.raises(SpecError, match=r"versions\.1\.0\.workers: 'many': should be a valid integer"):
        read(tmp_path, text)
