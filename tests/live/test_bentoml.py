"""`tsctl export bentoml`: `bentoml serve` takes the folder, and it answers as every engine does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.contract import (
    JSON,
    MODEL_VERSION_HEADER,
    PROBLEM_MEDIA_TYPE,
    TIMEOUT_HEADER,
    WORKER_PYTHON_VARIABLE,
)
from tests.handlers.test_second_adapter import bad_items
from tests.support.engines import bentoml_command, installed
from tests.support.ports import free_ports
from tests.support.sites import Site, make_site, processes_of, write_tiny
from tsctl.host.wait import wait_until
from tsctl.nodes.environments import Environment

START_S = 90.0
SLOW_S = 1.5
HALF = b'{"x": 0.5}'
SLOW = b'{"x": 11}'


@dataclass
class Served:
    """A running `bentoml serve`."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes]

    def ask(self, body: bytes, **headers: str) -> requests.Response:
        sent = {"content-type": JSON, **headers}
        return requests.post(f"{self.url}/predictions/tiny", data=body, headers=sent, timeout=30)

    @property
    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/ping", timeout=2).status_code == 200
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def bentoml() -> Environment:
    return installed("bentoml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = make_site(tmp_path_factory.mktemp("bentoml") / "site")
    settings = {"slow_above": 10.0, "slow_s": SLOW_S, "most": 100.0}
    write_tiny(site, "tiny", {"1.0": settings}, limits={"request_bytes": 10_000})
    return site


def variables(site: Site) -> dict[str, str]:
    home = site.root / "bentoml"
    home.mkdir(exist_ok=True)
    own = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", WORKER_PYTHON_VARIABLE: sys.executable}
    return {**os.environ, **own}


@pytest.fixture(scope="module")
def served(project: Site, bentoml: Environment) -> Iterator[Served]:
    """The exported archive while `bentoml serve` has it ready."""
    folder = project.root / "exported"
    said = project.run("export", "bentoml", "tiny", "--to", str(folder)).out
    assert "bentoml serve" in said
    [port] = free_ports(1)
    command = bentoml_command(bentoml, "serve", "--host", "127.0.0.1", "--port", str(port))
    log = project.root / "serve.log"
    with log.open("wb") as output, subprocess.Popen(
        command, cwd=folder, env=variables(project), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        one = Served(folder, f"http://127.0.0.1:{port}", process)
        try:
            assert wait_until(lambda: one.is_ready or process.poll() is not None, START_S, 0.1), log.read_text()
            assert process.poll() is None, log.read_text()
            yield one
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    assert processes_of(project.root) == []


def problem_of(response: requests.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == PROBLEM_MEDIA_TYPE
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    return document


def test_predictions_problems_and_protocol_are_those_of_every_engine(served: Served) -> None:
    answer = served.ask(HALF, **{"x-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    assert (answer.headers[MODEL_VERSION_HEADER], answer.headers["x-request-id"]) == ("1.0", "mine")
    assert answer.headers["content-type"] == JSON
    for name, item in bad_items(HALF, 10_000).items():
        if "infer" not in name:  # by another path
            refused = served.ask(item.body, **{"content-type": item.media_type, **item.headers})
            assert 400 <= refused.status_code < 500 or TIMEOUT_HEADER in item.headers, name
            assert problem_of(refused)["model"] == "tiny", name
    failed = served.ask(b'{"x": 101}')
    assert (failed.status_code, problem_of(failed)["type"]) == (500, "urn:tsctl:problem:model-failed")
    rows = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1, 2]}]}
    infer = requests.post(f"{served.url}/v2/models/tiny/infer", json=rows, timeout=30)
    assert [output["data"] for output in infer.json()["outputs"]] == [[2.0, 4.0]]
    assert problem_of(requests.get(f"{served.url}/nothing", timeout=30))["type"] == "urn:tsctl:problem:not-found"
    assert requests.get(f"{served.url}/readyz", timeout=30).status_code == 200
    assert "half" in requests.get(f"{served.url}/openapi.json", timeout=30).text


def test_sigterm_answers_what_came(served: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(served.ask, SLOW)
        time.sleep(SLOW_S / 3)
        served.process.terminate()
        assert asked.result().json() == {"y": 22.0}
        assert served.process.wait(30) == 0
