"""A node of vLLM as a process, with a fake vLLM: versions come, are refused, die, go, and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from handlers.adapters.vllm.settings import SETTINGS_VARIABLE
from tests.support.fake_vllm import CHILD, python_in
from tests.support.ports import free_ports
from tests.support.sites import is_alive, until

GENERATION = {"context": 64, "max_answers": 8, "max_tokens": 16, "most_tokens": 32, "cache_mb": 3}
WAIT_S = 30.0
#: Versions that the node has ports for.
PORTS = 2


@dataclass
class Node:
    """The process, and requests to its admin API."""

    folder: Path
    port: int
    versions: tuple[int, int]  # ports
    python: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [
            sys.executable, "-m", "handlers.adapters.vllm.node", "--port", str(self.port), "--folder", str(self.folder),
            "--store", str(self.store), "--python", str(self.python), "--ports", *map(str, self.versions),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, env=environment, cwd=self.folder)
        until(self._answers, WAIT_S, "the node answers")

    def _answers(self) -> bool:
        try:
            return self.call("GET", "").status_code == 200
        except requests.ConnectionError:
            return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def call(self, method: str, path: str, content: Any = None) -> requests.Response:
        url, headers = f"http://127.0.0.1:{self.port}/admin/versions{path}", {"Authorization": "Bearer adm"}
        return requests.request(method, url, json=content, headers=headers, timeout=WAIT_S)

    def write(self, model: str, answer: str, golden: str, **more: Any) -> str:
        """An archive whose model gives this answer; its file."""
        name = f"{model}-1.0-{sha256(answer.encode()).hexdigest()[:12]}.mar"
        pieces = {"answers": [{"tokens": [golden, "never reached"], "finish": "length"}]}
        manifest = {"model": {"modelName": model, "modelVersion": "1.0", "serializedFile": "model.gguf"}}
        serving = {"limits": {"request_bytes": 1000}, "tolerance": {"tokens": 1}, "generation": GENERATION, **more}
        config = {"minWorkers": 1, "startupTimeout": 60, "responseTimeout": 20, "serving": serving}
        with zipfile.ZipFile(self.store / name, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("model-config.yaml", yaml.safe_dump(config))
            archive.writestr("samples/one.json", '{"messages": []}')
            archive.writestr("golden.json", json.dumps({"one.json": pieces}))
            archive.writestr("model.gguf", answer)
        return name

    def register(self, model: str, answer: str = "1 2", golden: str = "1", **more: Any) -> dict[str, Any]:
        """Register an archive; the version once it serves or is refused."""
        name = self.write(model, answer, golden, **more)
        digest = sha256((self.store / name).read_bytes()).hexdigest()
        assert self.call("POST", f"/{model}/1.0", {"archive": name, "digest": digest}).status_code == 202
        until(lambda: self.version(model)["state"] != "starting", WAIT_S, f"{model} has started or not")
        return self.version(model)

    def version(self, model: str) -> dict[str, Any]:
        content: dict[str, Any] = self.call("GET", f"/{model}/1.0").json()
        return content

    def unregister(self, model: str) -> None:
        self.call("DELETE", f"/{model}/1.0")
        until(lambda: self.call("GET", f"/{model}/1.0").status_code == 404, WAIT_S, f"{model} is gone")

    def pid(self, model: str) -> int:
        """Of the server that is ready; 0: none is."""
        return next((int(ready["pid"]) for ready in self.version(model)["ready"]), 0)

    def children(self) -> set[int]:
        """Of fake servers."""
        found = set()
        for process in psutil.process_iter(["cmdline", "environ"]):
            line, environment = process.info["cmdline"] or [""], process.info["environ"] or {}
            if line[-1] == CHILD and environment.get(SETTINGS_VARIABLE, "").startswith(str(self.folder)):
                found.add(process.pid)
        return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    for name in ("store", "logs", "metrics"):
        (folder / name).mkdir()
    (folder / "key_file.json").write_text('{"admin": "adm", "inference": "inf"}')
    port, first = sorted(free_ports(2))
    node = Node(folder, port, (first, first + PORTS - 1), python_in(folder / "bin"))
    node.start()
    try:
        yield node
    finally:
        if node.process is not None and node.process.poll() is None:
            node.end()


def ask(version: dict[str, Any], **body: Any) -> dict[str, Any]:
    url = f"{version['address']}/predictions/{version['model']}/1.0"
    answer: dict[str, Any] = requests.post(url, json={"messages": [], **body}, timeout=WAIT_S).json()
    return answer


def test_a_version_is_a_server_with_a_port_of_its_own(node: Node) -> None:
    version = node.register("one")
    try:
        assert (version["state"], version["workers"], len(version["ready"])) == ("serving", 1, 1), version["failure"]
        assert node.versions[0] <= int(version["address"].rpartition(":")[2]) <= node.versions[1]
        told = ask(version)
        arguments = " ".join(told["arguments"])
        for option in ("--max-model-len 64", "--max-num-seqs 8", f"--kv-cache-memory-bytes {3 << 20}",
                       "--served-model-name one one:1.0", "--dtype float32", "--enable-prefix-caching"):  # fmt: skip
            assert option in arguments
        environment = told["environment"]
        assert (environment["HF_HUB_OFFLINE"], environment["SPT_NOENV"]) == ("1", "1")
        assert "PYTHONPATH" not in environment, "its packages would come before vLLM's"
        settings = Path(environment[SETTINGS_VARIABLE])
        assert settings.stat().st_mode & 0o077 == 0, "it holds the token"
        wanted = {"model": "one", "token": "inf", "max_answers": 8, "special": ["<|im_end|>"]}
        assert wanted.items() <= json.loads(settings.read_text()).items()
    finally:
        node.unregister("one")


def test_the_golden_answers_are_asked_before_a_version_is_ready(node: Node) -> None:
    version = node.register("wrong", answer="5 6", golden="1")
    assert version["state"] == "refused"
    assert "sample one.json: choices[0]: after 0 tokens, expected '1', got '5 6'" in version["failure"]
    assert node.children() == set(), "nothing of it is left"
    node.unregister("wrong")


def test_a_server_that_cannot_load_is_refused_with_its_status(node: Node) -> None:
    version = node.register("crash", answer="crash")
    assert (version["state"], "ended with status 7" in version["failure"]) == ("refused", True), version
    node.unregister("crash")


def test_an_archive_without_a_language_model_is_refused(node: Node) -> None:
    version = node.register("image", generation=None)
    assert (version["state"], "no language model" in version["failure"]) == ("refused", True)
    node.unregister("image")


def test_a_server_that_is_killed_starts_anew_without_its_old_children(node: Node) -> None:
    version = node.register("killed")
    try:
        before, [child] = node.pid("killed"), node.children()
        os.kill(before, signal.SIGKILL)
        until(lambda: node.pid("killed") not in (0, before), WAIT_S, "another server is ready")
        assert not is_alive(child)
        assert len(node.children()) == 1
        assert ask(node.version("killed"))["choices"]
        assert node.version("killed")["address"] == version["address"], "the gateway knows this one"
    finally:
        node.unregister("killed")
    assert node.children() == set()


def test_a_version_may_have_no_server_and_get_one_again(node: Node) -> None:
    node.register("scaled")
    try:
        assert node.call("PUT", "/scaled/1.0/workers", {"workers": 0}).status_code == 202
        until(lambda: not node.version("scaled")["ready"], WAIT_S, "the server has ended")
        until(lambda: node.children() == set(), WAIT_S, "its children have ended")
        node.call("PUT", "/scaled/1.0/workers", {"workers": 1})
        until(lambda: node.version("scaled")["ready"], WAIT_S, "a server is ready")
    finally:
        node.unregister("scaled")


def test_weights_are_converted_once_and_go_when_no_version_names_them(node: Node) -> None:
    folder = node.folder / "weights"
    node.register("first", answer="1 7")
    [made] = folder.iterdir()
    stamp = made.stat().st_mtime_ns
    node.register("second", answer="1 7", acceleration={"dtype": "float32"})
    assert [one.stat().st_mtime_ns for one in folder.iterdir()] == [stamp], "both have the same weights"
    node.unregister("first")
    node.unregister("second")
    version = node.register("third", answer="1 8", acceleration={"dtype": "bf16"})
    try:
        [left] = folder.iterdir()
        assert left != made
        assert left.name.startswith("bfloat16-")
        assert "--dtype bfloat16" in " ".join(ask(version)["arguments"])
    finally:
        node.unregister("third")


def test_a_port_is_given_back_and_one_version_too_many_is_refused(node: Node) -> None:
    names = [f"port{number}" for number in range(PORTS + 1)]
    *first, last = [node.register(name) for name in names]
    assert len({version["address"] for version in first}) == PORTS
    assert (last["state"], "give the node more of them" in last["failure"]) == ("refused", True), last
    node.unregister(names[1])
    assert node.register("again")["state"] == "serving"
    for name in ("again", names[0], names[2]):
        node.unregister(name)


def test_a_node_that_is_killed_serves_the_same_after_its_next_start(node: Node) -> None:
    node.register("kept")
    before = node.pid("kept")
    node.end(signal.SIGKILL)
    until(lambda: not is_alive(before), WAIT_S, "the kernel has ended the server with its node")
    node.start()
    until(lambda: node.version("kept")["ready"], WAIT_S, "it serves again")
    assert len(node.children()) == 1, "the old one's child is gone"
    node.unregister("kept")


def test_the_end_of_a_node_ends_its_servers(node: Node) -> None:
    node.register("ended")
    server, [child] = node.pid("ended"), node.children()
    assert node.end() == 0
    assert not is_alive(server)
    assert not is_alive(child)
    node.start()
    until(lambda: node.version("ended")["ready"], WAIT_S, "it serves again")
    node.unregister("ended")
