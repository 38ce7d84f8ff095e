"""A node of vLLM with a real vLLM and a real model, alone and behind the gateway, and the backend in vLLM's Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import requests
import yaml
from rich.console import Console

from handlers.contract import ANSWER_TOKENS, CLIENT_HEADER, FINISHED_ANSWERS, FIRST_TOKEN_SECONDS
from tests.support.engines import give_engine
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, Site, make_site, until
from tests.support.text_archives import SAMPLE, build_smol, weights, write_smol
from tsctl.archive.store import StoredArchive
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.start import local_key
from tsctl.gateway.state import open_gateway
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node

QUIET = Progress(Console(quiet=True))
#: For a server to be ready on a busy machine; it imports and compiles.
READY_S = 500.0
PORTS = 2
LONG = {"messages": [{"role": "user", "content": "Tell a very long story."}], "stream": True, "max_tokens": 400}


@dataclass
class Stage:
    """A node with one version, and requests to that version."""

    site: Site
    node: Node
    archive: StoredArchive

    @property
    def address(self) -> str:
        return self.node.url("smol", "1.0")

    @property
    def pid(self) -> int:
        [pid] = self.node.require_version("smol", "1.0").pids
        return pid

    def ask(self, path: str, body: Any, is_stream: bool = False, **headers: str) -> requests.Response:
        sent = {**self.node.access(), **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.post(self.address + path, json=body, headers=sent, stream=is_stream, timeout=120)

    def metric(self, name: str) -> float:
        """The sum of the samples with this name, of vLLM's own page."""
        page = requests.get(f"{self.address}/metrics", headers=self.node.access(), timeout=30).text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    site = make_site(tmp_path_factory.mktemp("vllm") / "site")
    port, gateway, first = sorted(free_ports(3))  # the versions' ports are those from `first` on
    spec = {"engine": "vllm", "address": f"http://127.0.0.1:{port}", "ports": [first, first + PORTS - 1]}
    models = {"smol": {"default": "1.0", "versions": {"1.0": {}}}}
    content = {"nodes": {"local": spec}, "models": models, "gateway": {"address": f"http://127.0.0.1:{gateway}"}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content))
    generation = {"context": 1024, "max_answers": 16, "max_tokens": 64, "most_tokens": 512, "cache_mb": 128}
    write_smol(site, {"1.0": generation}, {"1.0": ["1", "2", "3"]})
    archive = build_smol(site, ["1.0"])["1.0"]
    give_engine(site, "vllm")
    project = Project(site.root)
    [node] = open_nodes(project, read_deployment(project.deployment))
    assert node.cannot(archive, "1.0") == ""
    process = node.start(project, QUIET)
    try:
        node.register(archive, "1.0", None, lambda text: None, READY_S)
        yield Stage(site, node, archive)
    finally:
        site.run("gateway", "stop", status=None)
        node.stop(QUIET)
        process.wait(60)


def test_a_version_answers_as_on_every_engine(stage: Stage) -> None:
    plain = stage.node.predict("smol", None, json.dumps(SAMPLE).encode(), "application/json")
    assert plain.status == 200
    assert plain.headers["x-model-version"] == "1.0"
    assert plain.headers["x-tokens"].endswith("answer=6;finish=length")
    answer = stage.ask("/v1/chat/completions", {**SAMPLE, "model": "smol:1.0"})
    assert answer.json()["choices"] == json.loads(plain.body)["choices"], "greedy, in float32"
    completion = stage.ask("/predictions/smol", {"prompt": "One, two,", "max_tokens": 3, "n": 2, "logprobs": 1})
    assert [len(choice["logprobs"]["tokens"]) for choice in completion.json()["choices"]] == [3, 3]
    assert stage.ask("/v1/chat/completions", {**SAMPLE, "model": "smol"}, authorization="Bearer x").status_code == 401
    long = {"messages": [{"role": "user", "content": "word " * 1500}], "model": "smol"}
    refused = stage.ask("/v1/chat/completions", long)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    nearly = stage.ask("/predictions/smol", {"messages": [{"role": "user", "content": "x " * 900}], "max_tokens": 500})
    assert nearly.status_code == 200, "an answer may use the room that is left, as with other backends"


def test_a_stream_comes_token_by_token_and_ends_with_its_cost(stage: Stage) -> None:
    answer = stage.ask("/predictions/smol/1.0", {**SAMPLE, "stream": True}, is_stream=True)
    events = answer.raw.read().decode() if answer.raw.isclosed() else b"".join(answer.iter_content(None)).decode()
    assert answer.headers["content-type"] == "text/event-stream"
    assert events.count('"content":') >= 6
    assert events.endswith(";answer=6;finish=length\n\ndata: [DONE]\n\n")


def test_json_schemas_are_followed_and_tools_that_the_template_leaves_out_refused(stage: Stage) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {**SAMPLE, "max_tokens": 40, "response_format": wanted}
    content = stage.ask("/predictions/smol", body).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content)["a"], int)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    refused = stage.ask("/predictions/smol", {**SAMPLE, "tools": tools})
    assert (refused.status_code, "chat template" in refused.json()["detail"]) == (422, True)


def test_a_client_that_leaves_frees_its_place(stage: Stage) -> None:
    leaving = stage.ask("/predictions/smol", LONG, is_stream=True)
    next(leaving.iter_content(1))
    until(lambda: stage.metric("vllm:num_requests_running") == 1, 20, "vLLM has the request")
    leaving.close()
    until(lambda: stage.metric("vllm:num_requests_running") == 0, 10, "its place is free")
    folder = stage.node.metrics_folder
    assert any(folder.glob("*.db"))
    until(lambda: _counted(stage, FINISHED_ANSWERS, 'finish="cancelled"') == 1, 20, "it is counted as cancelled")
    assert _counted(stage, ANSWER_TOKENS) > 0
    assert _counted(stage, f"{FIRST_TOKEN_SECONDS}_count") > 0


def _counted(stage: Stage, name: str, label: str = "") -> float:
    """Of the node's page of metrics."""
    page = requests.get(f"{stage.node.spec.url}/metrics", headers=stage.node.access(), timeout=30).text
    lines = [line for line in page.splitlines() if line.startswith(name + "{") and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_one_client_does_not_find_anothers_prompt_in_the_cache(stage: Stage) -> None:
    body = {"messages": [{"role": "user", "content": "A secret of many words. " * 20}], "max_tokens": 2}

    def hits(client: str) -> float:
        before = stage.metric("vllm:prefix_cache_hits_total")
        assert stage.ask("/predictions/smol", body, False, **{CLIENT_HEADER: client}).status_code == 200
        return stage.metric("vllm:prefix_cache_hits_total") - before

    assert hits("anna") == 0
    assert hits("anna") > 0
    assert hits("ben") == 0


def test_the_gateway_reaches_the_versions_own_port(stage: Stage) -> None:
    stage.site.run("gateway", "start")
    project = Project(stage.site.root)
    gateway = open_gateway(project, read_deployment(project.deployment))
    address = gateway.spec.address
    name, _, value = local_key(gateway).read_text().strip().partition(": ")
    key = {name: value}
    url = f"{address}/predictions/smol"
    until(lambda: requests.post(url, json=SAMPLE, headers=key, timeout=60).status_code == 200, 60, "it answers")
    answer = requests.post(url, json={**SAMPLE, "stream": True}, headers=key, timeout=60)
    assert answer.headers["x-model-version"] == "1.0"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_server_that_is_killed_starts_anew(stage: Stage) -> None:
    broken = stage.ask("/predictions/smol", LONG, is_stream=True)
    pieces = broken.iter_content(64)  # one for the whole answer: a second one would find the connection closed
    head = next(pieces)
    assert broken.status_code == 200, head
    before = stage.pid
    family = [before, *(child.pid for child in psutil.Process(before).children(recursive=True))]
    begun = time.monotonic()
    os.kill(before, signal.SIGKILL)
    with pytest.raises(requests.RequestException):
        b"".join(pieces)
    until(lambda: not any(psutil.pid_exists(pid) for pid in family), 30, "its children have ended as well")
    until(lambda: stage.node.require_version("smol", "1.0").is_ready, READY_S, "another server is ready")
    print(f"ready again after {time.monotonic() - begun:.0f} s")  # noqa: T201 - a figure for people
    assert stage.ask("/predictions/smol", SAMPLE).status_code == 200


def test_unregistering_ends_the_server_and_its_children(stage: Stage) -> None:
    family = [stage.pid, *(child.pid for child in psutil.Process(stage.pid).children(recursive=True))]
    assert stage.node.unregister("smol", "1.0")
    until(lambda: not any(psutil.pid_exists(pid) for pid in family), 30, "its processes have ended")


def test_the_backend_in_vllms_environment(stage: Stage) -> None:
    environment = give_engine(stage.site, "vllm")
    variables = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HOME": str(stage.site.root)}
    gguf = stage.site.root / "backend" / "model.gguf"
    gguf.parent.mkdir()
    gguf.symlink_to(weights())
    ended = subprocess.run(
        [str(environment.python), "-m", "tests.vllm.backend_cases", str(gguf)],
        cwd=stage.site.root, env=variables, capture_output=True, text=True, timeout=READY_S, check=False,
    )  # fmt: skip
    lines = [line for line in ended.stdout.splitlines() if line.startswith("TOLD ")]
    assert lines, ended.stdout[-3000:] + ended.stderr[-3000:]
    told = json.loads(lines[0].removeprefix("TOLD "))
    assert told["alone"] == told["beside"], "an answer does not depend on its neighbours"
    assert told["length"] == [12, "length"]
    assert told["france"] == ["The capital of France is Paris.", "stop"]
    assert told["ignoring the end"] == [40, "length"]
    first, again, other = told["seeds"]
    assert first == again != other
    assert told["cancelled"] == [2, "cancelled", "length", True]
    assert told["cache after"] < 0.5
    for number, logprob, top in told["logprobs"]:
        assert len(top) == 4
        assert top[0] == [number, logprob], "greedy takes the likeliest"
        assert logprob < 0
        assert [one[1] for one in top] == sorted((one[1] for one in top), reverse=True)
    assert set(told["no logprobs"]) == {None}
    assert isinstance(json.loads(told["json"])["a"], int)
    assert told["special"][0] == told["special"][1], "a user's text has no special token"
    assert "256" in told["too long"]
