"""The engine vllm: its node in deployment.yaml, what it refuses, and where the gateway finds its versions."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from tsctl.archive.container import DIGESTS
from tsctl.archive.store import StoredArchive, archive_of
from tsctl.config.deployment import read_deployment
from tsctl.config.nodes import BaseNodeSpec, NodeSpec, VllmSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.gateway import sync
from tsctl.gateway.envoy.render.clusters import clusters, upstreams_of
from tsctl.gateway.envoy.render.upstreams import Upstream
from tsctl.gateway.notices import Notices
from tsctl.nodes.engines import open_node, open_nodes
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion
from tsctl.nodes.uvicorn.client import VersionState
from tsctl.nodes.vllm.engine import VllmNode

SPECS: TypeAdapter[BaseNodeSpec] = TypeAdapter(NodeSpec)
AT = "http://127.0.0.1:8300"


def spec(**more: Any) -> BaseNodeSpec:
    return SPECS.validate_python({"engine": "vllm", "address": AT, **more})


def stored(folder: Path, name: str, generation: dict[str, Any] | None) -> StoredArchive:
    """An archive as tsctl builds it, as far as an engine looks at it."""
    serving = {"handler": "handlers.text_generation", "limits": {"request_bytes": 1}, "tolerance": {}}
    config = {"minWorkers": 1, "serving": {**serving, **({"generation": generation} if generation else {})}}
    manifest = {
        "model": {"modelName": name, "modelVersion": "1.0", "configFile": "model-config.yaml", "handler": "h.py"}
    }
    path = folder / f"{name}-1.0-{'a' * 12}.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("model-config.yaml", yaml.safe_dump(config))
        archive.writestr(DIGESTS, "{}")  # only tsctl's archives have it
    return archive_of(path)


def test_ports_of_versions_lie_beside_the_address_or_where_they_are_said_to_be() -> None:
    plain, named = spec(), spec(ports=[8400, 8401], gpu_share=0.4)
    assert isinstance(plain, VllmSpec)
    assert isinstance(named, VllmSpec)
    assert (plain.version_ports, named.version_ports) == ((8301, 8308), (8400, 8401))
    assert named.listens_on == (8300, 8400, 8401), "no other node may have one of them"
    for mistake, words in (
        ({"ports": [8299, 8301]}, "hold the port of address"),
        ({"ports": [8402, 8401]}, "must be the first and the last"),
        ({"ports": [9000, 9999]}, "at most 256"),
        ({"gpu_share": 1.5}, "less than or equal to 1"),
    ):
        with pytest.raises(ValidationError, match=words):
            spec(**mistake)


def test_only_language_models_are_served_and_each_by_one_server(tmp_path: Path) -> None:
    node = open_node(Project(tmp_path), "a", spec())
    text, image = stored(tmp_path, "smol", {"context": 64}), stored(tmp_path, "digits", None)
    assert node.cannot(text, "1.0") == node.cannot(text, "another name") == ""
    assert node.cannot(image, "1.0") == "digits is no language model, and vLLM serves no others"
    assert node.cannot_have(text, 1) == ""
    assert "so it cannot have 2 workers: set `workers: 1`, and serve it on further nodes" in node.cannot_have(text, 2)
    with pytest.raises(NodeError, match=r"smol 1\.0 cannot have 2 workers") as raised:
        VllmNode.ask_to_scale(node, "smol", "1.0", 2)  # type: ignore[arg-type]
    assert raised.value.hint == "Use one worker, and a further node for more."


def test_the_engines_that_give_whole_answers_refuse_a_language_model(tmp_path: Path) -> None:
    text = stored(tmp_path, "smol", {"context": 64})
    for engine in ("triton", "bentoml"):
        reason = open_node(Project(tmp_path), "a", SPECS.validate_python({"engine": engine, "address": AT}))
        assert "vllm" in reason.cannot(text, "1.0")


def test_a_request_goes_to_the_versions_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = open_node(Project(tmp_path), "a", spec())
    assert isinstance(node, VllmNode)
    state = VersionState("smol", "1.0", "smol.mar", "serving", "", True, 1, (), 0, 60.0, "http://127.0.0.1:8303")
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(type(node.client), "version", lambda self, model, version: state if model == "smol" else None)
    monkeypatch.setattr(type(node.client), "versions", lambda self: [state])
    monkeypatch.setattr(type(node.client), "predict", lambda self, *arguments: asked.append(arguments))
    assert node.url("smol", "1.0") == "http://127.0.0.1:8303"
    node.predict("smol", None, b"{}", "application/json")
    assert asked == [("/predictions/smol/1.0", b"{}", "application/json", "http://127.0.0.1:8303")]
    with pytest.raises(NodeError, match="is not registered"):
        node.url("other", "1.0")
    with pytest.raises(NodeError, match="serves no version of other"):
        node.predict("other", None, b"{}", "application/json")


def test_the_gateway_sends_to_the_port_of_the_version_also_while_its_node_is_silent(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.deployment.write_text(
        yaml.safe_dump(
            {
                "nodes": {
                    "u": {"engine": "uvicorn", "address": "http://127.0.0.1:8100"},
                    "v": {"engine": "vllm", "address": AT},
                },
                "gateway": {},
                "models": {},
            }
        )
    )
    nodes = open_nodes(project, read_deployment(project.deployment))
    notices = Notices(logging.getLogger("test"))

    def derive(first: int, second: int, before: list[Upstream], error: NodeError | None = None) -> list[Upstream]:
        versions = {
            name: ObservedVersion("gone.mar", 1, 1, address=f"http://127.0.0.1:{port}")
            for name, port in (("1.0", first), ("2.0", second))
        }
        own = {"1.0": ObservedVersion("gone.mar", 1, 1)}
        return sync._derive(
            project,
            nodes,
            [
                ObservedNode("u", {"smol": ObservedModel("1.0", own)}),
                ObservedNode("v", {} if error else {"smol": ObservedModel("1.0", versions)}, error),
            ],
            before,
            [],
            notices,
        )

    def ports(upstreams: list[Upstream]) -> list[list[tuple[str, int]]]:
        return [[(one.node, one.port) for one in upstream.endpoints] for upstream in upstreams]

    begun = derive(8301, 8302, [])
    assert ports(begun) == [[("u", 8100), ("v", 8301)], [("v", 8302)]], "one cluster, whatever the engine"
    assert {upstream.way for upstream in begun} == {None}
    kept = upstreams_of(clusters(begun, {}, []))
    assert ports(derive(0, 0, kept, NodeError("it is silent"))) == ports(begun)
    assert ports(derive(8305, 8302, kept)) == [[("u", 8100), ("v", 8305)], [("v", 8302)]]
